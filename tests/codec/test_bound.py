"""The last step of the decoder, the residual layer, and the comparison that proves the bound."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xwalloc.codec.bound import Finish, misses, substitute

FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def marked(a, b, bound, dtype="f8"):
    a, b = np.array([a], dtype), np.array([b], dtype)
    flags = np.zeros(a.shape, bool)
    largest = misses(a, b, np.array([bound]), flags)
    with np.errstate(over="ignore"):
        assert largest == np.abs(a.astype("f8") - b.astype("f8"))[~flags].max(initial=0.0)
    return flags[0].tolist()


@settings(max_examples=400, deadline=None)  # the first example compiles
@given(FLOATS, FLOATS, st.floats(0, 1e308, exclude_min=True))
def test_misses_is_exact(a, b, bound):
    assert marked([a], [b], bound) == [abs(Fraction(a) - Fraction(b)) > Fraction(bound)]


@settings(max_examples=400, deadline=None)  # the first example compiles
@given(st.floats(-1e300, 1e300), st.floats(1e-300, 1e280), st.integers(-2, 2), st.integers(-2, 2))
def test_misses_is_exact_where_it_is_close(a, bound, ulps, more):
    b = a + bound
    for _ in range(abs(ulps)):
        b = float(np.nextafter(b, np.inf if ulps > 0 else -np.inf))
    for _ in range(abs(more)):
        bound = float(np.nextafter(bound, np.inf if more > 0 else 0))
    expected = abs(Fraction(a) - Fraction(b)) > Fraction(bound)
    assert marked([a], [b], bound) == [expected]
    assert marked([b], [a], bound) == [expected]


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "f4"])
def test_misses_of_other_types(dtype):
    assert marked([0, 1, 3, 7], [0, 3, 3, 100], 2.0, dtype) == [False, False, False, True]
    assert marked([0, 3, 3, 100], [0, 1, 3, 7], 1.5, dtype) == [False, True, False, True]


def test_misses_sees_infinities_and_nan():
    assert marked([1.0, 1.0, 1.0], [np.inf, -np.inf, np.nan], 1e308) == [True, True, True]


def test_misses_leaves_other_marks_alone():
    flags = np.ones((1, 2), bool)
    assert misses(np.zeros((1, 2)), np.zeros((1, 2)), np.ones(1), flags) == 0
    assert flags.all()


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "f2", "f4", "f8"])
def test_the_substitute_of_nodata_is_its_neighbour(dtype):
    info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.finfo(dtype)
    for nodata in (0, 5, info.min, info.max):
        value = np.array(nodata, dtype)
        other = substitute(value[()])
        assert other.dtype == value.dtype
        assert np.isfinite(other)
        assert other != value
        if np.dtype(dtype).kind in "iu":
            assert abs(int(other) - int(value)) == 1
        else:
            assert np.nextafter(other, value) == value


def run(samples, product, mean, settled, nodata=()):
    """Residuals for a product of the synthesis, and what is decoded from them: all at once, and in two tiles."""
    nodata, no_mask = np.array(nodata, samples.dtype), np.zeros((1, 0), np.uint8)
    rest, promised = np.zeros(samples.shape, np.int32), np.empty_like(samples)
    sums = settled.residuals(samples, product.copy(), mean, no_mask, nodata, rest, promised)
    assert sums.tolist() == np.abs(rest.astype(np.int64)).sum(axis=1).tolist()
    out = np.empty_like(samples)
    settled.samples(product, mean, rest, nodata, out)
    assert out.tobytes() == promised.tobytes()
    middle = samples.shape[1] // 3
    for part in (slice(0, middle), slice(middle, samples.shape[1])):
        tile, decoded, again = product[:, part].copy(), promised[:, part].copy(), np.zeros_like(rest)
        settled.residuals(samples, tile.copy(), mean, no_mask, nodata, again, decoded, part.start)
        assert np.array_equal(again[:, part], rest[:, part])
        assert decoded.tobytes() == promised[:, part].tobytes()
        other = np.zeros_like(samples)
        settled.samples(tile, mean, rest, nodata, other, part.start)
        assert other[:, part].tobytes() == decoded.tobytes()
        assert not np.delete(other, np.r_[part], axis=1).any()
    return rest, out


@pytest.mark.parametrize("dtype", ["i2", "u2", "i4", "f4"])
@pytest.mark.parametrize("bound", [1, 2, 7])
@pytest.mark.parametrize("shift", [0, 5])
def test_residuals_bring_integers_within_the_bound(dtype, bound, shift):
    rng = np.random.default_rng(bound)
    samples = rng.integers(0, 3000, (3, 500)).astype(dtype)
    fraction = 4
    base = samples.astype("f8") + rng.normal(size=samples.shape) * 20
    mean = np.array([100.0, -50.0, 0.0])
    product = np.rint((np.rint(base * 2.0**fraction) - mean[:, None]) * 2.0**shift)
    rest, out = run(samples, product, mean, Finish(shift, fraction, 1.0, 2 * bound + 1))
    assert np.abs(out.astype("f8") - samples).max() <= bound
    assert np.abs(rest).max() <= 100 / (2 * bound + 1) + 1


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_residuals_bring_reals_within_the_bound(dtype):
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(2, 400)).astype(dtype) * 50
    bound, units = 0.125, 256
    unit = 2 * bound * (1 - 2.0**-20) / units
    product = np.rint((samples + rng.normal(size=samples.shape)) / unit)
    _, out = run(samples, product, np.zeros(2), Finish(0, None, unit, units))
    flags = np.zeros(samples.shape, bool)
    assert misses(samples, out, np.array([bound]), flags) <= bound
    assert np.count_nonzero(flags) <= samples.size // 100


def test_masked_samples_have_no_residuals():
    samples = np.array([[10.0, 500.0, 10.0]], "f4")
    rest = np.full((1, 3), 9, np.int32)
    mask = np.array([[0, 1, 0]], np.uint8)
    decoded, nodata = np.empty_like(samples), np.empty(0, "f4")
    sums = Finish(0, 0, 1.0, 3).residuals(samples, np.zeros((1, 3)), np.zeros(1), mask, nodata, rest, decoded)
    assert rest.tolist() == [[3, 0, 3]]
    assert sums.tolist() == [6]


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "u4", "f4", "f8"])
def test_what_is_decoded_stays_in_the_range_of_the_type(dtype):
    info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else np.finfo(dtype)
    product = np.array([[-(2.0**52), 2.0**52, 0.0]])
    for settled in (Finish(0, None, 1e300, 0), Finish(0, -20, 1.0, 0), Finish(0, None, 2.0**20, 0)):
        out = np.empty((1, 3), dtype)
        settled.samples(product, np.zeros(1), np.zeros((1, 0), np.int32), np.empty(0, dtype), out)
        assert np.isfinite(out.astype("f8")).all()
        assert info.min <= out[0, 0] <= out[0, 2] <= out[0, 1] <= info.max


def test_nothing_decodes_to_nodata():
    samples = np.arange(5, dtype="i2")[None]
    _, out = run(samples, np.zeros((1, 5)), np.zeros(1), Finish(0, 0, 1.0, 1), nodata=(3, 4))
    assert out.tolist() == [[0, 1, 2, 4, 4]]


def test_the_table_of_a_finish_has_its_numbers():
    mean = np.array([5.0, -3.0])
    scales = np.array([1.0, 0.4])
    assert Finish(3, 4, 2.5, 1, scales).table(mean).tolist() == [
        [0.125, 5.0, 0.0625, 2.5, 5.0],
        [0.125, -3.0, 0.0625 * 0.4, 2.5 * 0.4, 3.0],
    ]
    assert Finish(0, None, 0.5, 256).table(mean).tolist() == [[1.0, 5.0, 1.0, 0.5, 256.0], [1.0, -3.0, 1.0, 0.5, 256.0]]
