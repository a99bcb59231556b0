"""Figures gathered block by block are those of NumPy's formulas over the whole array."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from xwalloc.quality.differences import magnitudes, valid
from xwalloc.quality.histogram import Histogram
from xwalloc.quality.metrics import Comparison

PINES = Path(__file__).parents[2].parent / "shared" / "data" / "hyperspectral" / "Indian_pines_corrected.npy"


def gather(a, b, blocks, **arguments):
    parts = []
    for block in blocks:
        part = Comparison(a.ndim, **arguments)
        part.update(a[block], b[block], [s.start for s in block])
        parts.append(part)
    for part in parts[1:]:
        parts[0].merge(part)
    return parts[0]


def test_figures_of_a_real_cube():
    if not PINES.exists():
        pytest.skip("../shared/data is not here")
    a = np.load(PINES)
    b = (a.astype("i8") + np.random.default_rng(0).integers(-4, 5, a.shape)).astype(a.dtype)
    blocks = [np.s_[y : y + 50, x : x + 60, 0:200] for y in range(0, 145, 50) for x in range(0, 145, 60)]
    found = gather(a, b, blocks, channel_axis=2, channels=200, bound=4.0)
    x, y = a.astype("f8"), b.astype("f8")
    d = y - x
    whole = found.overall
    assert whole.count == a.size
    assert whole.max_error == 4
    assert found.within
    assert found.errors.counts.sum() == a.size
    np.testing.assert_allclose(whole.rmse, np.sqrt((d**2).mean()))
    np.testing.assert_allclose(whole.bias, d.mean(), atol=1e-9)
    np.testing.assert_allclose(whole.snr, 10 * np.log10(x.var() / (d**2).mean()))
    np.testing.assert_allclose(whole.psnr, 20 * np.log10(np.ptp(x) / np.sqrt((d**2).mean())))
    for band in (0, 77, 199):
        one = found.per_channel[band]
        np.testing.assert_allclose(one.variance, x[..., band].var())
        np.testing.assert_allclose(one.snr, 10 * np.log10(x[..., band].var() / (d[..., band] ** 2).mean()))
    cosines = (x * y).sum(2) / np.linalg.norm(x, axis=2) / np.linalg.norm(y, axis=2)
    direct = np.degrees(np.arccos(cosines))
    np.testing.assert_allclose(found.angle, (direct.mean(), direct.max()), rtol=1e-6)
    assert len(found.worst) == 10
    for place in found.worst:
        assert abs(d[place.index]) == 4 == place.error
        assert (place.original, place.decoded) == (a[place.index], b[place.index])


def test_what_is_not_valid_is_left_out_and_must_not_change():
    a = np.arange(24, dtype="f4").reshape(2, 12)
    a[0, 3], a[1, 5], a[1, 6] = np.nan, np.inf, -9999
    b = a + np.float32(0.5)
    b[0, 3], b[1, 5], b[1, 6] = np.nan, np.inf, -9999
    found = gather(a, b, [np.s_[0:2, 0:5], np.s_[0:2, 5:12]], channel_axis=0, channels=2, nodata=-9999, bound=0.5)
    assert (found.overall.count, found.overall.max_error, found.changed) == (21, 0.5, 0)
    assert found.within
    b[1, 6], b[0, 0] = -9998, -9999
    found = gather(a, b, [np.s_[0:2, 0:12]], channel_axis=0, channels=2, nodata=-9999, bound=0.25)
    assert [place.index for place in found.changed_places] == [(0, 0), (1, 6)]
    assert (found.changed, found.missed, found.within) == (2, 20, False)
    b = a.copy()
    b[0, 3] = -b[0, 3]  # the sign of a NaN is kept, too
    assert gather(a, b, [np.s_[0:2, 0:12]], channel_axis=0, channels=2).changed == 1


@pytest.mark.parametrize("dtype", ["f8", "f4", ">f8", "i8", "u8", "i2", ">u4"])
def test_differences_are_exact_and_rounded_up(dtype):
    rng, kind = np.random.default_rng(1), np.dtype(dtype)
    if kind.kind == "f":
        a, b = (rng.normal(size=300) * 10.0 ** rng.integers(-12, 12, 300) for _ in range(2))
    else:
        info = np.iinfo(kind)
        a, b = (rng.integers(info.min, info.max, 300, endpoint=True, dtype=kind.newbyteorder("=")) for _ in range(2))
    a, b = a.astype(kind), b.astype(kind)
    for x, y, found in zip(a.tolist(), b.tolist(), magnitudes(a, b).tolist(), strict=True):
        true = abs(Fraction(x) - Fraction(y))
        assert Fraction(found) >= true
        assert Fraction(np.nextafter(found, 0)) < true or found == true


def test_a_bound_missed_by_less_than_rounding():
    a, b = np.array([1.0]), np.array([-1e-20])
    found = gather(a, b, [(slice(0, 1),)], bound=1.0)
    assert found.missed == 1
    assert found.overall.max_error > 1.0


def test_bounds_of_channels_and_equal_arrays():
    a = np.zeros((2, 4), "f4")
    b = np.array([[1.0] * 4, [3.0] * 4], "f4")
    assert gather(a, b, [np.s_[0:2, 0:4]], channel_axis=0, channels=2, bound=[1.0, 3.0]).missed == 0
    assert gather(a, b, [np.s_[0:2, 0:4]], channel_axis=0, channels=2, bound=[1.0, 2.0]).missed == 4
    same = gather(a, a, [np.s_[0:2, 0:4]], channel_axis=0, channels=2)
    assert same.overall.snr == np.inf
    assert np.isnan(same.angle[0])  # spectra of zeros have none
    empty = Comparison(1).overall
    assert empty.count == 0
    assert np.isnan(empty.rmse)


def test_histograms_of_parts():
    rng = np.random.default_rng(2)
    values = rng.normal(size=3000) * np.repeat([0.01, 1.0, 30.0], 1000)
    parts = [Histogram() for _ in range(3)]
    for part, some in zip(parts, np.split(values, 3), strict=True):
        part.add(some)
    parts[2].merge(parts[0])
    parts[2].merge(parts[1])
    np.testing.assert_array_equal(parts[2].counts, np.histogram(values, parts[2].edges)[0])


def test_blocks_must_fit():
    with pytest.raises(ValueError, match="same shape and dtype"):
        Comparison(1).update(np.zeros(3, "f4"), np.zeros(3, "f8"))
    with pytest.raises(ValueError, match="bool"):
        Comparison(1).update(np.zeros(3, "c8"), np.zeros(3, "c8"))
    assert valid(np.array([3, 4], "u1"), -1).all()


def test_angles_leave_out_channels_without_a_sample():
    rng = np.random.default_rng(2)
    original = rng.uniform(1, 9, (4, 5, 6))
    decoded = original + rng.normal(size=original.shape) / 10
    expected = Comparison(3, channel_axis=0, channels=3)
    expected.update(original[:3], decoded[:3])
    original[3] = decoded[3] = np.nan
    found = Comparison(3, channel_axis=0, channels=4)
    found.update(original, decoded)
    assert found.angle == expected.angle
    assert np.isfinite(found.angle[0])
