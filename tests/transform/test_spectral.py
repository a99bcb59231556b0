"""Exact moments and the Karhunen-Loeve basis."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from xwalloc.errors import BudgetError, ConfigError
from xwalloc.transform.spectral import klt, moments


def integers(shape: tuple[int, int], top: int = 2**15, offset: int = 0) -> np.ndarray:
    return offset + np.random.default_rng(0).integers(-top, top, shape, endpoint=True).astype(np.float64)


def test_moments_in_fractions() -> None:
    x = integers((4, 37), top=20, offset=1_000_000)
    n, exact = 37, [[Fraction(int(v)) for v in row] for row in x]
    found = moments(x)
    means = [sum(row) / n for row in exact]
    assert found.mean.tolist() == [float(mean) for mean in means]
    for i in range(4):
        for j in range(4):
            expected = sum((a - means[i]) * (b - means[j]) for a, b in zip(exact[i], exact[j], strict=True)) / n
            assert abs(found.covariance[i, j] - float(expected)) < 1e-12


def test_moments_are_those_of_numpy() -> None:
    x = integers((30, 1000))
    found = moments(x, bound=2**15)
    assert np.allclose(found.mean, x.mean(axis=1))
    assert np.allclose(found.covariance, np.cov(x, bias=True), rtol=1e-12)
    assert np.array_equal(found.covariance, found.covariance.T)


@pytest.mark.parametrize("threads", [1, 2])
def test_libraries_and_threads_give_the_same_bits(threads: int) -> None:
    torch = pytest.importorskip("torch")
    x, before = integers((40, 3001), offset=12345), torch.get_num_threads()
    torch.set_num_threads(threads)
    theirs = moments(torch.asarray(x))
    torch.set_num_threads(before)
    ours = moments(x)
    strided = moments(np.asfortranarray(x))
    for other in (theirs, strided):
        assert np.array_equal(ours.mean, other.mean)
        assert np.array_equal(ours.covariance, other.covariance)


def test_budget() -> None:
    x = np.zeros((2, 8))
    x[1, 3] = 33554431  # isqrt((2^53 - 1) // 8)
    assert moments(x).mean[1] == 33554431 / 8
    x[1, 3] += 1
    for library in (np, pytest.importorskip("torch")):
        with pytest.raises(BudgetError, match="at most 33554431 for 8 samples"):
            moments(library.asarray(x))
    for bad in (np.nan, np.inf):
        x[1, 3] = bad
        with pytest.raises(BudgetError):
            moments(x)


@pytest.mark.parametrize("x", [np.zeros((2, 0)), np.zeros(3), np.zeros((2, 3), np.float32)])
def test_moments_refuse(x: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="float64 of shape"):
        moments(x)


def test_klt_decorrelates() -> None:
    x = np.rint(np.random.default_rng(1).normal(size=(6, 6)) @ integers((6, 4000), top=1000))
    x = np.concatenate([x, x[:1]])  # singular
    found = moments(x)
    variances, basis = klt(found.covariance)
    assert (variances >= 0).all()
    assert variances[-1] < 1e-9 * variances[0]
    components = basis @ (x - found.mean[:, None])
    assert np.allclose(components @ components.T / 4000, np.diag(variances), atol=1e-9 * variances[0])
    assert np.allclose(basis @ basis.T, np.eye(7), atol=1e-13)
