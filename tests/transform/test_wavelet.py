"""Float transforms: reconstruction, parity with PyWavelets and with published WaLLoC."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pywt

from xwalloc.errors import ConfigError
from xwalloc.transform.wavelet import REFLECTING, forward, get_wavelet, inverse, plan

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "wpt" / "wpt_vectors.npz"
PRECISE = ("bior4.4", "bior2.2", "bior2.6", "rbio2.4", "haar", "db2", "db4", "bior3.1", "bior1.3", "coif1")
"""Wavelets whose taps PyWavelets knows to full precision (and ours)."""
DISCRETE = pywt.wavelist(kind="discrete")


def values(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_bior44_is_that_of_pywavelets() -> None:
    w, ours = pywt.Wavelet("bior4.4"), get_wavelet("bior4.4")
    assert np.allclose(ours.analysis.lo, w.dec_lo[1:], atol=2e-12)
    assert np.allclose(ours.analysis.hi, w.dec_hi[1:8], atol=2e-12)
    assert np.allclose(ours.synthesis.lo, w.rec_lo[1:8], atol=2e-12)
    assert np.allclose(ours.synthesis.hi, w.rec_hi[1:], atol=2e-12)
    assert (ours.analysis.lo_origin, ours.analysis.hi_origin) == (4, 3)
    assert (ours.synthesis.lo_origin, ours.synthesis.hi_origin) == (3, 4)


def test_reflecting_wavelets_are_those_with_symmetric_filters() -> None:
    symmetric = {n for n in DISCRETE if get_wavelet(n).analysis.symmetric and get_wavelet(n).synthesis.symmetric}
    assert symmetric - {"dmey"} == set(REFLECTING)


@pytest.mark.parametrize("name", ["bior44", "", "gaus1", None])
def test_unknown_wavelets(name: str) -> None:
    with pytest.raises(ConfigError, match=r"bior4\.4"):
        get_wavelet(name)


@pytest.mark.parametrize("n", [*range(1, 21), 33, 100, 257])
@pytest.mark.parametrize("tree", ["dyadic", "packet"])
def test_reflect_reconstructs_any_length(n: int, tree: str) -> None:
    for name, levels in itertools.product(("bior4.4", "bior2.2", "rbio2.6"), (0, 1, 2, 8)):
        x, p, w = values((3, n)), plan((n,), levels, tree), get_wavelet(name)
        c = forward(x, p, w, "reflect")
        assert c.shape == x.shape
        assert np.allclose(inverse(c, p, w, "reflect"), x, rtol=0, atol=1e-12 * np.abs(x).max()), (name, levels)


@pytest.mark.parametrize("name", REFLECTING)
@pytest.mark.parametrize("tree", ["dyadic", "packet"])
def test_reflect_reconstructs_with_every_wavelet(name: str, tree: str) -> None:
    p, w, x = plan((37, 22), 3, tree), get_wavelet(name), values((2, 37, 22))
    assert np.allclose(inverse(forward(x, p, w, "reflect"), p, w, "reflect"), x, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "shape", [(1,), (4,), (5,), (6, 5), (1, 300), (300, 1), (33, 7), (9, 8, 7), (1, 20, 3), (600, 5)]
)
@pytest.mark.parametrize("tree", ["dyadic", "packet"])
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_reflect_reconstructs_any_shape(shape: tuple[int, ...], tree: str, levels: int) -> None:
    x, p, w = values((2, *shape)), plan(shape, levels, tree), get_wavelet("bior4.4")
    c = forward(x, p, w, "reflect")
    assert np.allclose(inverse(c, p, w, "reflect"), x, rtol=0, atol=1e-12 * np.abs(x).max())


@pytest.mark.parametrize("shape", [(2,), (4,), (8,), (6,), (100,), (256,), (24, 40), (4, 12), (8, 16, 24)])
@pytest.mark.parametrize("tree", ["dyadic", "packet"])
def test_periodization_reconstructs(shape: tuple[int, ...], tree: str) -> None:
    for name in (*PRECISE, "db38", "sym8"):
        x, p, w = values((2, *shape)), plan(shape, 2 if max(shape) < 256 else 6, tree), get_wavelet(name)
        back = inverse(forward(x, p, w, "periodization"), p, w, "periodization")
        tolerance = 1e-12 if name in PRECISE else 1e-10
        assert np.allclose(back, x, rtol=0, atol=tolerance * np.abs(x).max()), name


@pytest.mark.parametrize("name", DISCRETE)
@pytest.mark.parametrize("n", [4, 10, 64, 130])
def test_periodization_is_that_of_pywavelets(name: str, n: int) -> None:
    x, p, w = values((2, n)), plan((n,), 1), get_wavelet(name)
    c = forward(x, p, w, "periodization")
    expected = np.concatenate(pywt.dwt(x, name, mode="periodization"), axis=-1)
    # bior4.4: our taps are exact, those of PyWavelets right to 6e-13
    assert np.allclose(c, expected, rtol=0, atol=1e-11)
    back = pywt.idwt(x[:, : n // 2], x[:, n // 2 :], name, mode="periodization")
    assert np.allclose(inverse(x, p, w, "periodization"), back, rtol=0, atol=1e-11)


@pytest.mark.parametrize("name", REFLECTING)
@pytest.mark.parametrize("n", [4, 7, 20, 51])
def test_reflect_is_pywavelets_on_the_extended_signal(name: str, n: int) -> None:
    x, margin = values((n,)), 40
    low, high = pywt.dwt(np.pad(x, (margin, margin + n % 2), mode="reflect"), name, mode="periodization")
    c = forward(x, plan((n,), 1), get_wavelet(name), "reflect")
    lows = (n + 1) // 2
    assert np.allclose(c[:lows], low[margin // 2 :][:lows], rtol=0, atol=1e-11)
    assert np.allclose(c[lows:], high[margin // 2 :][: n - lows], rtol=0, atol=1e-11)


@pytest.mark.parametrize("boundary", ["reflect", "periodization"])
@pytest.mark.parametrize("tree", ["dyadic", "packet"])
@pytest.mark.parametrize("shape", [(32,), (16, 24), (8, 4, 16)])
def test_definition(
    reference_transform: Callable[..., np.ndarray], shape: tuple[int, ...], tree: str, boundary: str
) -> None:
    x, p, w = values((3, *shape)), plan(shape, 2, tree), get_wavelet("bior4.4")
    c = forward(x, p, w, boundary)
    assert np.allclose(c, reference_transform(x, p, w.analysis, boundary, False), rtol=0, atol=1e-12)
    assert np.allclose(inverse(c, p, w, boundary), reference_transform(c, p, w.synthesis, boundary, True), atol=1e-12)


def upstream_order(rank: int, levels: int) -> list[tuple[int, ...]]:
    """Paths of published WaLLoC's subbands: a, h, v, d (or a, d) at every level, the first level most significant."""
    steps = [(0,), (1,)] if rank == 1 else [(0, 0), (1, 0), (0, 1), (1, 1)]
    return [
        tuple(sum(step[axis] << (levels - 1 - level) for level, step in enumerate(steps_)) for axis in range(rank))
        for steps_ in itertools.product(steps, repeat=levels)
    ]


@pytest.mark.skipif(not GOLDEN.exists(), reason=f"golden vectors are not at {GOLDEN}")
def test_packet_tree_is_that_of_published_walloc() -> None:
    with np.load(GOLDEN) as vectors:
        keys = sorted({name.rsplit("_", 1)[0] for name in vectors.files})
        assert len(keys) == 18
        for key in keys:
            x, expected = vectors[f"{key}_x"].astype(np.float64), vectors[f"{key}_Xexact"]
            rank, levels = int(key[1]), int(key[4])
            p, w = plan(x.shape[2:], levels, "packet"), get_wavelet("bior4.4")
            assert p.splits == (levels,) * rank
            c = forward(x, p, w, "periodization")
            bands = {band.orientation: c[(..., *band.slices)] for band in p.subbands}
            ours = np.stack([bands[path] for path in upstream_order(rank, levels)], axis=2)
            assert np.abs(ours.reshape(expected.shape) - expected).max() < 2e-6, key
            if min(x.shape[2:]) >= 10 * 2 ** (levels - 1):
                assert np.abs(ours.reshape(expected.shape) - vectors[f"{key}_X"]).max() < 1e-5, key


def test_values_do_not_depend_on_batch_layout_or_out() -> None:
    x, p, w = values((5, 40, 70)), plan((40, 70), 3), get_wavelet("bior4.4")
    c = forward(x, p, w, "reflect")
    assert all(np.array_equal(forward(item, p, w, "reflect"), expected) for item, expected in zip(x, c, strict=True))
    readonly = x.copy()
    readonly.setflags(write=False)
    assert np.array_equal(forward(readonly, p, w, "reflect"), c)
    assert np.array_equal(forward(np.asfortranarray(x), p, w, "reflect"), c)
    assert np.array_equal(forward(x[::-1], p, w, "reflect"), c[::-1])
    store = np.empty((6, 40, 70))
    store[:5] = x
    shifted = forward(store[:5], p, w, "reflect", out=store[1:])
    assert np.array_equal(shifted, c)
    out = x.copy()
    assert forward(out, p, w, "reflect", out=out) is out
    assert np.array_equal(out, c)
    assert inverse(out, p, w, "reflect", out=out) is out
    assert np.allclose(out, x, rtol=0, atol=1e-12)


def test_empty_batch() -> None:
    assert forward(np.empty((0, 8, 8)), plan((8, 8), 1), get_wavelet("bior4.4"), "reflect").shape == (0, 8, 8)


@pytest.mark.parametrize("name", ["db4", "haar", "bior3.3"])
def test_reflect_needs_symmetric_filters(name: str) -> None:
    with pytest.raises(ConfigError, match=r"bior2\.2.*bior4\.4.*rbio6\.8"):
        forward(values((8,)), plan((8,), 1), get_wavelet(name), "reflect")


def test_periodization_needs_even_segments() -> None:
    w = get_wavelet("db2")
    with pytest.raises(ConfigError, match="axis 0 to be divisible by 4"):
        forward(values((18, 16)), plan((18, 16), 2), w, "periodization")
    assert forward(values((18, 16)), plan((18, 16), 1), w, "periodization").shape == (18, 16)


def test_wrong_arguments() -> None:
    p, w = plan((8,), 1), get_wavelet("bior4.4")
    with pytest.raises(ConfigError, match="float64"):
        forward(values((8,)).astype(np.float32), p, w, "reflect")
    with pytest.raises(ConfigError, match="shape"):
        forward(values((9,)), p, w, "reflect")
    with pytest.raises(ConfigError, match="shape"):
        forward(values((2, 8)), p, w, "reflect", out=values((8,)))
    with pytest.raises(ConfigError, match="contiguous"):
        forward(values((2, 8)), p, w, "reflect", out=values((8, 2)).T)
    with pytest.raises(ConfigError, match="boundary"):
        forward(values((8,)), p, w, "symmetric")  # type: ignore[arg-type]
