"""Deterministic eigenproblems and positive definite systems."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xwalloc.errors import BudgetError, ConfigError
from xwalloc.transform import linalg
from xwalloc.transform.linalg import eigh, solve_spd


def covariance(n: int, decay: float = 8.0, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    samples = rng.normal(size=(n, 3 * n)) * np.exp(-np.arange(n) / decay)[:, None]
    samples = np.linalg.qr(rng.normal(size=(n, n)))[0] @ samples
    return samples @ samples.T


def check(a: np.ndarray) -> None:
    n, norm = len(a), np.abs(a).sum(axis=1).max(initial=0.0)
    w, v = eigh(a)
    tolerance = 1e-14 * norm * max(n, 4) ** 0.5
    assert np.allclose(w, np.linalg.eigvalsh(a)[::-1], rtol=0, atol=tolerance)
    assert (np.diff(w) <= 0).all()
    assert np.allclose(v @ v.T, np.eye(n), rtol=0, atol=1e-13)
    assert np.allclose(v.T * w @ v, a, rtol=0, atol=tolerance)
    largest = np.take_along_axis(v, np.abs(v).argmax(axis=1)[:, None], axis=1) if n else np.ones(1)
    assert (largest > 0).all()


@pytest.mark.parametrize("n", [0, 1, 2, 3, 4, 5, 13, 64, 65, 200])
@pytest.mark.parametrize("decay", [1.0, 10.0, 1e6])
def test_eigh_is_that_of_lapack(n: int, decay: float) -> None:
    check(covariance(n, decay) if n else np.zeros((0, 0)))


@pytest.mark.parametrize(
    "a",
    [
        np.zeros((5, 5)),
        np.ones((6, 6)),
        np.eye(7) * -3.0,
        np.diag([3.0, -1.0, 2.0, 3.0]),
        np.outer(np.arange(9.0), np.arange(9.0)),
        np.diag(np.ones(11), 1) + np.diag(np.ones(11), -1),
        np.kron(np.eye(3), np.ones((4, 4))),
        np.diag([1e300, 1e-300, 1.0]),
        np.full((4, 4), 1e-310),
        np.array([[0.0, 1.0], [1.0, 0.0]]),
        np.vander(np.arange(1.0, 9.0), 8).T @ np.vander(np.arange(1.0, 9.0), 8),
        np.array([[1.0, 1e-200, 0.0], [1e-200, 1.0, 1e-200], [0.0, 1e-200, 1.0]]),
    ],
    ids=lambda a: f"{a.shape[0]}",
)
def test_degenerate_matrices(a: np.ndarray) -> None:
    check(a)


@settings(deadline=None, max_examples=80)
@given(n=st.integers(1, 12), seed=st.integers(0, 2**32), top=st.sampled_from([1, 3, 1000]))
def test_integer_matrices(n: int, seed: int, top: int) -> None:
    a = np.random.default_rng(seed).integers(-top, top, (n, n), endpoint=True).astype(np.float64)
    check(np.tril(a) + np.tril(a, -1).T)


def test_only_the_lower_triangle_is_read_and_nothing_is_written() -> None:
    a = covariance(20)
    before = np.tril(a) + np.triu(np.full((20, 20), 7.0), 1)
    given_ = before.copy()
    w, v = eigh(given_)
    assert np.array_equal(given_, before)
    expected = eigh(a)
    assert np.array_equal(w, expected[0])
    assert np.array_equal(v, expected[1])
    assert np.array_equal(eigh(np.asfortranarray(a))[1], v)


def test_signs_on_ties() -> None:
    _, v = eigh(np.array([[0.0, 1.0], [1.0, 0.0]]))
    assert (v[:, 0] > 0).all()


@pytest.mark.parametrize("a", [np.ones((2, 3)), np.ones(4), np.array([[np.nan]]), np.array([[np.inf]])])
def test_eigh_refuses(a: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="finite square matrix"):
        eigh(a)


def test_no_convergence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linalg, "_implicit_ql", lambda *arguments: -1)
    with pytest.raises(BudgetError, match="converge"):
        eigh(np.eye(3))


CODE = """
import hashlib, sys
import numpy as np
from xwalloc.transform.linalg import eigh, solve_spd
a = np.random.default_rng(1).integers(-9, 9, (90, 300)).astype(float)
a = a @ a.T  # exact
digest = hashlib.sha256()
for result in (*eigh(a), solve_spd(a, np.eye(90)[:, :7])):
    digest.update(result.tobytes())
print(digest.hexdigest())
"""


def test_threads_of_a_blas_change_nothing() -> None:
    found = set()
    for threads in ("1", "2"):
        names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
        environment = os.environ | dict.fromkeys(names, threads)
        result = subprocess.run(
            [sys.executable, "-c", CODE], env=environment, check=True, capture_output=True, text=True, timeout=120
        )
        found.add(result.stdout.strip())
    assert len(found) == 1
    a = np.random.default_rng(1).integers(-9, 9, (90, 300)).astype(float)
    a = a @ a.T
    digest = hashlib.sha256()
    for part in (*eigh(a), solve_spd(a, np.eye(90)[:, :7])):
        digest.update(part.tobytes())
    assert found == {digest.hexdigest()}


@pytest.mark.parametrize("n", [1, 2, 7, 8, 33, 120])
def test_solve_spd(n: int) -> None:
    a, rng = covariance(n, 1e6), np.random.default_rng(2)
    b = rng.normal(size=(n, 5))
    x = solve_spd(a, b)
    assert np.allclose(x, np.linalg.solve(a, b), rtol=1e-7, atol=1e-9)
    # columns may be solved together or alone
    assert all(np.array_equal(solve_spd(a, b[:, k]), x[:, k]) for k in range(5))


def test_solve_spd_with_unknowns_of_very_different_scale() -> None:
    a, scale = covariance(12, 1e6), 10.0 ** np.arange(-30, 30, 5)
    x = np.random.default_rng(3).normal(size=12) / scale
    assert np.allclose(solve_spd(a * scale * scale[:, None], a @ (x * scale) * scale), x, rtol=1e-6, atol=0)


def test_singular_systems_get_a_ridge() -> None:
    samples = np.random.default_rng(4).normal(size=(5, 100))
    samples = np.concatenate([samples, samples[:2], np.zeros((1, 100))])
    a, target = samples @ samples.T, samples.sum(axis=0)
    x = solve_spd(a, samples @ target)
    assert np.isfinite(x).all()
    assert np.abs(x @ samples - target).max() < 1e-5
    assert x[-1] == 0.0
    assert np.array_equal(solve_spd(np.zeros((3, 3)), np.ones(3)), np.zeros(3))


def test_solve_spd_refuses() -> None:
    with pytest.raises(ConfigError, match="indefinite"):
        solve_spd(np.array([[1.0, 9.0], [9.0, 1.0]]), np.ones(2))
    with pytest.raises(ConfigError, match="finite"):
        solve_spd(np.array([[np.nan]]), np.ones(1))
    for a, b in ((np.ones((2, 3)), np.ones(2)), (np.eye(2), np.ones(3)), (np.eye(2), np.ones((2, 1, 1)))):
        with pytest.raises(ConfigError, match="shape"):
            solve_spd(a, b)
