"""Exact transforms: the same bits from every library, thread count, batch and from plain Python integers."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xwalloc.errors import BudgetError, ConfigError
from xwalloc.transform import blocked, wavelet
from xwalloc.transform.filters import analysis_rows, synthesis_rows
from xwalloc.transform.kernels import largest_magnitude
from xwalloc.transform.wavelet import (
    EXACT_LIMIT,
    exact_filters,
    forward,
    forward_exact,
    get_wavelet,
    inverse,
    inverse_exact,
    plan,
)

Reference = Callable[..., np.ndarray]

SHIFT = 14
GEOMETRIES = [
    ((64, 48), 4, "dyadic"), ((33, 70), 3, "packet"), ((1000,), 5, "dyadic"), ((203,), 3, "packet"),
    ((12, 9, 31), 2, "dyadic"), ((8, 6, 7), 2, "packet"), ((2, 130), 2, "dyadic"), ((3, 3), 1, "dyadic"),
]  # fmt: skip


def integers(shape: tuple[int, ...], top: int = 2**20, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-top, top, shape, endpoint=True).astype(np.float64)


def same_bits(a: Any, b: Any) -> bool:
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


def both(x: Any, p: wavelet.Plan, boundary: str = "reflect", name: str = "bior4.4", **options: Any) -> tuple[Any, Any]:
    """Coefficients of x, and what x itself is the coefficients of."""
    w = get_wavelet(name)
    return (
        forward_exact(x, p, exact_filters(w, "analysis", SHIFT), boundary, **options),
        inverse_exact(x, p, exact_filters(w, "synthesis", SHIFT), boundary, **options),
    )


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def torch(request: pytest.FixtureRequest) -> Iterator[Any]:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield torch
    torch.set_num_threads(before)


@pytest.mark.parametrize(("shape", "levels", "tree"), GEOMETRIES)
def test_definition_in_python_integers(
    reference_transform: Reference, shape: tuple[int, ...], levels: int, tree: str
) -> None:
    if np.prod(shape) > 3000:
        shape = tuple(min(n, 40) for n in shape)
    x, p = integers((2, *shape)), plan(shape, levels, tree)
    for side, result in zip(("analysis", "synthesis"), both(x, p), strict=True):
        filters = exact_filters(get_wavelet("bior4.4"), side, SHIFT)
        assert same_bits(result, reference_transform(x, p, filters, "reflect", side == "synthesis") + 0.0)


@pytest.mark.parametrize(("shape", "levels", "tree"), GEOMETRIES)
def test_torch_gives_the_same_bits(torch: Any, shape: tuple[int, ...], levels: int, tree: str) -> None:
    x, p = integers((3, 2, *shape)), plan(shape, levels, tree)
    for ours, theirs in zip(both(x, p), both(torch.asarray(x), p), strict=True):
        assert same_bits(ours, theirs)


@pytest.mark.parametrize("name", ["haar", "db4", "db20", "bior2.2", "bior3.5", "rbio6.8"])
def test_torch_gives_the_same_bits_with_every_wavelet(torch: Any, name: str) -> None:
    x = integers((2, 32, 16))
    for tree in ("dyadic", "packet"):
        p = plan((32, 16), 2, tree)
        for ours, theirs in zip(
            both(x, p, "periodization", name), both(torch.asarray(x), p, "periodization", name), strict=True
        ):
            assert same_bits(ours, theirs)


def test_small_values_and_zeros_have_one_representation() -> None:
    torch = pytest.importorskip("torch")
    x, p = integers((50, 16, 16), top=1), plan((16, 16), 3)
    x[:10] = -0.0
    for ours, theirs in zip(both(x, p), both(torch.asarray(x), p), strict=True):
        assert same_bits(ours, theirs)
        assert not np.signbit(ours[ours == 0]).any()


def test_batch_bound_layout_and_out_do_not_matter() -> None:
    x, p = integers((4, 3, 50, 40)), plan((50, 40), 3)
    for k, expected in enumerate(both(x, p)):
        assert same_bits(np.stack([both(item, p)[k] for item in x]), expected)
        assert same_bits(both(x, p, bound=2.0**20)[k], expected)
        assert same_bits(both(x, p, bound=2.0**60)[k], expected)  # useless: measured instead
        out = x.copy()
        assert same_bits((forward_exact, inverse_exact)[k](
            out, p, exact_filters(get_wavelet("bior4.4"), ("analysis", "synthesis")[k], SHIFT), "reflect", out=out
        ), expected)  # fmt: skip
        strided = np.zeros((4, 3, 50, 80))
        strided[..., ::2] = x
        assert same_bits(both(strided[..., ::2], p)[k], expected)


def test_torch_out(torch: Any) -> None:
    x, p = torch.asarray(integers((2, 20, 20))), plan((20, 20), 2)
    filters = exact_filters(get_wavelet("bior4.4"), "analysis", SHIFT)
    expected, before = forward_exact(x, p, filters, "reflect"), x.clone()
    assert torch.equal(x, before)
    out = torch.empty_like(x)
    assert forward_exact(x, p, filters, "reflect", out=out) is out
    assert torch.equal(out, expected)
    assert forward_exact(x, p, filters, "reflect", out=x) is x
    assert torch.equal(x, expected)


@pytest.mark.parametrize("tile", [2, 6, 64])
@pytest.mark.parametrize("segments", [(4,), (5,), (300,), (40, 39, 39, 39)])
@pytest.mark.parametrize("synthesis", [False, True])
def test_blocked_products_are_the_dense_matrix(
    monkeypatch: pytest.MonkeyPatch, dense_matrix: Reference, tile: int, segments: tuple[int, ...], synthesis: bool
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(blocked, "TILE", tile)
    filters = exact_filters(get_wavelet("bior4.4"), "synthesis" if synthesis else "analysis", SHIFT)
    rows = (synthesis_rows if synthesis else analysis_rows)(filters)
    total = sum(segments)
    dense, start = np.zeros((total, total)), 0
    for n in segments:
        dense[start : start + n, start : start + n] = dense_matrix(n, filters, "reflect", synthesis)
        start += n
    assert np.abs(dense).sum(axis=1).max() <= rows.gain
    runner = blocked.BlockedRunner(torch.eye(total, dtype=torch.float64), None, 1, rows, None, synthesis, True)
    runner.run((wavelet.Step(axis=0, segments=segments, extents=(total,)),))
    assert np.array_equal(runner.data.numpy().T, dense)


def test_long_axes() -> None:
    torch = pytest.importorskip("torch")
    x, p = integers((1, 30011)), plan((30011,), 8)
    for ours, theirs in zip(both(x, p), both(torch.asarray(x), p), strict=True):
        assert same_bits(ours, theirs)


@pytest.mark.parametrize("boundary", ["reflect", "periodization"])
@pytest.mark.parametrize("tree", ["dyadic", "packet"])
def test_agrees_with_the_float_transform(tree: str, boundary: str) -> None:
    w, p, top = get_wavelet("bior4.4"), plan((64, 32), 3, tree), 2**16
    x = integers((4, 64, 32), top=top)
    for shift in (12, 16, 20):
        # a product adds half a unit, and the taps are off by 2^-(shift + 1) each; six products can grow both
        tolerance = 4 * (1 + 9 * top * 2.0**-shift) * 2**3
        c = forward_exact(x, p, exact_filters(w, "analysis", shift), boundary)
        assert np.abs(c - forward(x, p, w, boundary)).max() < tolerance
        synthesis = exact_filters(w, "synthesis", shift)
        assert np.abs(inverse_exact(x, p, synthesis, boundary) - inverse(x, p, w, boundary)).max() < tolerance
        assert np.abs(inverse_exact(c, p, synthesis, boundary) - x).max() < tolerance


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("side", ["analysis", "synthesis"])
def test_budget(reference_transform: Reference, library: str, side: str) -> None:
    xp = np if library == "numpy" else pytest.importorskip("torch")
    filters = exact_filters(get_wavelet("bior4.4"), side, 30)
    transform = forward_exact if side == "analysis" else inverse_exact
    gain = (analysis_rows if side == "analysis" else synthesis_rows)(filters).gain
    p, x = plan((16,), 1), np.zeros((2, 16))
    limit = (EXACT_LIMIT - 1) // gain
    x[1, 3] = -limit
    expected = reference_transform(x, p, filters, "reflect", side == "synthesis") + 0.0
    for bound in (None, limit, 2.0**53, np.inf):
        assert same_bits(transform(xp.asarray(x), p, filters, "reflect", bound=bound), expected)
    x[1, 3] -= 1
    for bound in (None, limit + 1, np.inf):
        with pytest.raises(BudgetError, match=f"at most {limit} "):
            transform(xp.asarray(x), p, filters, "reflect", bound=bound)
    for bad in (np.nan, np.inf):
        x[1, 3] = bad
        with pytest.raises(BudgetError):
            transform(xp.asarray(x), p, filters, "reflect")


def test_budget_is_that_of_the_values_not_of_their_propagated_bound() -> None:
    # Eight levels in two dimensions have a worst-case gain of 2^16; noise has hardly any.
    w, p, x = get_wavelet("bior4.4"), plan((600, 520), 8), integers((1, 600, 520), top=2**28)
    c = forward_exact(x, p, exact_filters(w, "analysis", 20), "reflect", bound=2.0**28)
    assert np.abs(inverse_exact(c, p, exact_filters(w, "synthesis", 20), "reflect") - x).max() < 2**14
    x[:] = 2**28
    with pytest.raises(BudgetError):
        forward_exact(x * 2**3, p, exact_filters(w, "analysis", 20), "reflect")


def test_late_coefficients_count_in_the_budget_of_an_inverse() -> None:
    filters, p = exact_filters(get_wavelet("bior4.4"), "synthesis", 20), plan((64,), 3)
    c = np.zeros(64)
    c[-1] = 2.0**40
    with pytest.raises(BudgetError, match="step 3 of 3"):
        inverse_exact(c, p, filters, "reflect")


@pytest.mark.parametrize("shift", [-1, 41])
def test_shift_out_of_range(shift: int) -> None:
    with pytest.raises(ConfigError, match="shift"):
        exact_filters(get_wavelet("bior4.4"), "analysis", shift)


def test_side_and_symmetry_are_checked() -> None:
    with pytest.raises(ConfigError, match="side"):
        exact_filters(get_wavelet("bior4.4"), "both", 3)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="symmetric"):
        forward_exact(integers((8,)), plan((8,), 1), exact_filters(get_wavelet("db2"), "analysis", 9), "reflect")


def test_integer_taps() -> None:
    filters = exact_filters(get_wavelet("bior4.4"), "analysis", 8)
    assert (filters.lo, filters.lo_origin) == ((10, -6, -28, 97, 218, 97, -28, -6, 10), 4)
    assert (filters.hi, filters.hi_origin) == ((-17, 10, 107, -202, 107, 10, -17), 3)
    assert analysis_rows(filters).gain == 500


@settings(deadline=None, max_examples=60)
@given(
    shape=st.lists(st.integers(1, 24), min_size=1, max_size=3).map(tuple),
    levels=st.integers(0, 4),
    tree=st.sampled_from(["dyadic", "packet"]),
    seed=st.integers(0, 2**32),
)
def test_every_geometry(shape: tuple[int, ...], levels: int, tree: str, seed: int) -> None:
    torch = pytest.importorskip("torch")
    x, p = integers((2, *shape), seed=seed), plan(shape, levels, tree)
    for ours, theirs in zip(both(x, p), both(torch.asarray(x), p), strict=True):
        assert same_bits(ours, theirs)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 1000])
def test_largest_magnitude(n: int) -> None:
    x = integers((n,))
    assert largest_magnitude(x) == (np.abs(x).max() if n else 0)
    for k in range(0, n, 111):
        y = x.copy()
        y[k] = np.nan
        assert np.isnan(largest_magnitude(y))
        y[k] = -np.inf
        assert largest_magnitude(y) == np.inf


def test_numpy_does_not_import_torch_or_pywavelets() -> None:
    code = (
        "import sys, numpy as np\n"
        "from xwalloc.transform.wavelet import *\n"
        "filters = exact_filters(get_wavelet('bior4.4'), 'analysis', 9)\n"
        "forward_exact(np.ones((8, 8)), plan((8, 8), 1), filters, 'reflect')\n"
        "assert not {'torch', 'pywt', 'dask'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=120)


def test_the_trees_agree_on_their_first_level() -> None:
    x = integers((2, 20, 30))
    for a, b in itertools.pairwise(both(x, plan((20, 30), 1, tree))[0] for tree in ("dyadic", "packet")):
        assert same_bits(a, b)


@pytest.mark.parametrize(("shape", "levels", "tree"), GEOMETRIES)
@pytest.mark.parametrize("top", [1, 1000, 2**20])
def test_the_bound_of_the_inverse(shape: tuple[int, ...], levels: int, tree: str, top: int) -> None:
    p, filters = plan(shape, levels, tree), exact_filters(get_wavelet("bior4.4"), "synthesis", SHIFT)
    bound = wavelet.inverse_bound(p, filters, top)
    for coefficients in (integers(shape, top), np.full(shape, float(top)), top * np.sign(integers(shape))):
        result = inverse_exact(coefficients, p, filters, "reflect")
        assert np.abs(result).max() <= bound
    assert top <= bound < np.inf


def test_the_bound_of_the_inverse_is_infinite_where_only_data_can_tell() -> None:
    p, filters = plan((64, 64), 4, "dyadic"), exact_filters(get_wavelet("bior4.4"), "synthesis", 24)
    assert wavelet.inverse_bound(p, filters, 2.0**28) == np.inf
    with pytest.raises(BudgetError):
        inverse_exact(np.full((64, 64), 2.0**28), p, filters, "reflect")
