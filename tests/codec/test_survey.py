"""What the encoder sees in a chunk before it chooses."""

import numpy as np
import pytest

from xwalloc.codec.survey import survey


def look(array, nodata=None, *, outliers=True):
    array = np.asarray(array)
    value = np.array([] if nodata is None else [nodata], array.dtype)
    return survey(array, value, outliers=outliers)


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"])
def test_plain_samples(dtype):
    array = np.arange(60).reshape(3, 4, 5).astype(dtype)
    found = look(array)
    assert found.special is None
    assert (found.valid, found.low, found.high, found.integral) == (60, 0.0, 59.0, True)


@pytest.mark.parametrize("nodata", [None, 3.0])
def test_specials_are_not_valid(nodata):
    array = np.array([1, 2, 3, np.nan, np.inf, -np.inf, 3, 5], "f4")
    found = look(array, nodata)
    expected = ~np.isfinite(array) | (array == nodata if nodata else False)
    assert found.special.tolist() == expected.tolist()
    assert found.valid == np.count_nonzero(~expected)
    assert (found.low, found.high) == (1.0, 5.0)


def test_nothing_valid():
    for array, nodata in ((np.full(30, np.nan, "f4"), None), (np.full(30, 7, "i2"), 7), (np.zeros(0, "f4"), None)):
        found = look(array, nodata)
        assert found.valid == 0
        assert found.special is None if not array.size else found.special.all()


def test_negative_zero_is_nodata_zero():
    assert look(np.array([0.0, -0.0, 1.0], "f4"), 0.0).special.tolist() == [True, True, False]


@pytest.mark.parametrize(
    ("values", "integral"),
    [
        ([0, 1, -5], True),
        ([0.5, 1, 2], False),
        ([-0.0, 1, 2], False),
        ([np.nan, 1, 2], True),
        ([2.0**31, 1, 2], False),
        ([2.0**31 - 1, 1, 2], True),
        ([np.nan, 0.25, 2], False),
    ],
)
def test_integral(values, integral):
    assert look(np.array(values, "f8")).integral == integral


@pytest.mark.parametrize("dtype", ["f4", "f8", "i4"])
@pytest.mark.parametrize("where", ["first", "last", "both"])
def test_outliers_and_fills_are_special(dtype, where):
    rng = np.random.default_rng(0)
    array = (rng.normal(size=5000) * 100).astype(dtype)
    bad = array.copy()
    if where != "last":
        bad[17] = -(10**9)
    if where != "first":
        bad[33] = 10**9
    found = look(bad)
    assert np.flatnonzero(found.special).tolist() == [i for i, w in ((17, "last"), (33, "first")) if w != where]
    assert max(abs(found.low), abs(found.high)) < 1000
    assert look(bad, outliers=False).special is None
    bad = array.copy()
    bad[100:1500] = -(10**8)
    found = look(bad)
    assert np.flatnonzero(found.special).tolist() == list(range(100, 1500))


@pytest.mark.parametrize("kind", ["normal", "uniform", "heavy", "two levels", "ramp", "constant", "few"])
def test_ordinary_samples_are_not_special(kind):
    rng = np.random.default_rng(1)
    array = {
        "normal": rng.normal(size=4000),
        "uniform": rng.random(4000),
        "heavy": rng.laplace(size=4000) ** 3,
        "two levels": rng.integers(0, 2, 4000) * 1.0,
        "ramp": np.arange(4000.0),
        "constant": np.full(4000, 3.0),
        "few": np.array([1.0, 1e9, -5]),
    }[kind].astype("f4")
    found = look(array)
    assert found.special is None or np.count_nonzero(found.special) <= 0.005 * array.size
    kept = array if found.special is None else array[~found.special]
    assert (found.low, found.high) == (float(kept.min()), float(kept.max()))


def test_the_shape_is_kept_and_the_input_left_alone():
    array = np.ones((2, 3, 4), "f4")
    array[1, 2, 3] = np.nan
    before = array.copy()
    found = look(array)
    assert found.special.shape == (2, 3, 4)
    assert np.argwhere(found.special).tolist() == [[1, 2, 3]]
    np.testing.assert_array_equal(array, before)


def test_ends_of_float64():
    """No warning and no overflow where the range exceeds the largest float64."""
    array = np.array([1.7e308, -1.7e308, 1.0] * 40)
    found = look(array)
    assert found.valid + (0 if found.special is None else found.special.sum()) == array.size
