"""Axes there and back; masks, exceptions and holes."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xwalloc.bitstream.frame import AxisRole
from xwalloc.codec.layout import (
    PALETTE,
    Layout,
    bits_of,
    fill_holes,
    pack_exceptions,
    pack_mask,
    separate,
    unpack_exceptions,
    unpack_mask,
)
from xwalloc.errors import FormatError
from xwalloc.testing import layouts

B, C, S = AxisRole


def roles_of(layout):
    roles = [B] * len(layout.shape)
    for axis in layout.signal_axes:
        roles[axis] = S
    if layout.channel_axis is not None:
        roles[layout.channel_axis] = C
    return tuple(roles)


@given(layouts(most_samples=500), st.sampled_from("<>"), st.sampled_from("CF"))
def test_arrange_and_restore(drawn, byteorder, order):
    layout = Layout(drawn.shape, roles_of(drawn))
    array = np.arange(np.prod(drawn.shape)).reshape(drawn.shape).astype(f"{byteorder}i4", order=order)
    canonical = layout.arrange(array)
    assert canonical.shape == layout.canonical
    assert canonical.flags.c_contiguous
    assert canonical.dtype.isnative
    assert layout.dimensions == len(drawn.signal_axes)
    np.testing.assert_array_equal(layout.restore(canonical), array)


@pytest.mark.parametrize(
    ("roles", "shape", "canonical"),
    [
        ((S,), (7,), (1, 1, 1, 1, 7)),
        ((C, S), (3, 7), (1, 3, 1, 1, 7)),
        ((C, S, S), (3, 5, 7), (1, 3, 1, 5, 7)),
        ((S, S, C), (5, 7, 3), (1, 3, 1, 5, 7)),
        ((S, S, S), (2, 5, 7), (1, 1, 2, 5, 7)),
        ((B, S, B, C, S), (2, 5, 4, 3, 7), (8, 3, 1, 5, 7)),
        ((B, S), (0, 7), (0, 1, 1, 1, 7)),
    ],
)
def test_canonical_shapes(roles, shape, canonical):
    assert Layout(shape, roles).canonical == canonical


def test_axes_keep_their_order_within_a_role():
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    canonical = Layout(array.shape, (S, B, S, B)).arrange(array)
    for y, b, x, c in itertools.product(range(2), range(3), range(4), range(5)):
        assert canonical[b * 5 + c, 0, 0, y, x] == array[y, b, x, c]


# masks

SHAPES = [(1, 1, 1, 1, 1), (1, 1, 1, 1, 40), (2, 3, 1, 9, 11), (1, 4, 3, 5, 6), (3, 1, 1, 1, 7)]


def regions(shape, colours, seed):
    """Labels in blocks and specks, most of them 0."""
    rng = np.random.default_rng(seed)
    labels = np.zeros(shape, np.uint8)
    for _ in range(6):
        where = [int(rng.integers(n)) for n in shape]
        box = tuple(slice(w, w + int(rng.integers(1, n + 1))) for w, n in zip(where, shape, strict=True))
        labels[box] = rng.integers(0, colours + 1)
    specks = rng.random(shape) < 0.05
    labels[specks] = rng.integers(0, colours + 1, specks.sum())
    return labels


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colours", [1, 2, PALETTE])
def test_masks_come_back(shape, colours):
    palette = tuple(int(x) for x in np.random.default_rng(colours).integers(0, 2**63, colours))
    for seed in range(8):
        labels = regions(shape, colours, seed)
        back, names = unpack_mask(pack_mask(labels, palette), shape, 8)
        np.testing.assert_array_equal(back, labels)
        assert names == palette
        assert back.dtype == np.uint8


def test_a_mask_common_to_all_channels_costs_once():
    one = regions((1, 1, 1, 64, 64), 1, 3)
    single = len(pack_mask(one, (1,)))
    many = len(pack_mask(np.repeat(one, 60, axis=1), (1,)))
    assert many < single + 120


def test_damaged_masks_are_refused_or_lie_within_the_palette():
    shape = (1, 3, 1, 9, 11)
    data = pack_mask(regions(shape, 3, 1), (1, 2, 3))
    for n in range(len(data)):
        with pytest.raises(FormatError):
            unpack_mask(data[:n], shape, 1)
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] = int(rng.integers(256))
        try:
            labels, palette = unpack_mask(bytes(damaged), shape, 1)
        except FormatError:
            continue
        assert labels.shape == shape
        assert labels.max() <= len(palette) <= PALETTE


# exceptions


@settings(max_examples=100)
@given(st.sets(st.integers(0, 70_000), max_size=40), st.sampled_from([1, 2, 4, 8]))
def test_exceptions_come_back(places, itemsize):
    positions = np.array(sorted(places), np.int64)
    bits = np.random.default_rng(len(places)).integers(0, 1 << (8 * itemsize - 1), positions.size).astype(np.uint64)
    data = pack_exceptions(positions, bits, itemsize)
    for got, expected in zip(unpack_exceptions(data, 70_001, itemsize), (positions, bits), strict=True):
        np.testing.assert_array_equal(got, expected)
    if places:
        with pytest.raises(FormatError):
            unpack_exceptions(data, int(positions[-1]), itemsize)
        for n in range(len(data)):
            with pytest.raises(FormatError):
                unpack_exceptions(data[:n], 70_001, itemsize)


def test_separate_names_what_is_frequent_and_lists_what_is_rare():
    array = np.zeros((1, 1, 1, 10, 100), "f4")
    array[..., :3, :] = np.nan
    array[..., 5, :20] = -9999
    array[..., 7, 3], array[..., 8, 4] = np.inf, 1e30
    special = ~np.isfinite(array) | (array == -9999) | (array == np.float32(1e30))
    found = separate(array, special)
    assert len(found.palette) == 2
    assert found.palette[0] == bits_of(np.array([np.nan], "f4"))[0]
    assert np.count_nonzero(found.labels) == 320
    assert found.positions.tolist() == [703, 804]
    assert found.bits.tolist() == bits_of(np.array([np.inf, 1e30], "f4")).tolist()
    rebuilt = array.copy()
    rebuilt[special] = 5
    bits = bits_of(rebuilt)
    for label, pattern in enumerate(found.palette, 1):
        bits[found.labels == label] = pattern
    bits.reshape(-1)[found.positions] = found.bits
    assert rebuilt.tobytes() == array.tobytes()


def test_separate_many_patterns():
    """More NaN payloads than the palette has names."""
    array = np.zeros((1, 1, 1, 40, 40), "f4")
    patterns = 0x7FC00000 + np.arange(40, dtype=np.uint32)
    array[0, 0, 0] = np.repeat(patterns, 40).reshape(40, 40).view("f4")
    found = separate(array, np.ones(array.shape, bool))
    assert len(found.palette) == PALETTE
    assert np.count_nonzero(found.labels) == PALETTE * 40
    assert found.positions.size == (40 - PALETTE) * 40
    assert np.count_nonzero(found.labels.reshape(-1)[found.positions]) == 0


# holes


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u1", "u4"])
def test_holes_are_filled_between_their_neighbours(dtype):
    y, x = np.mgrid[:40, :50]
    array = (20 + y + 2 * x).astype(dtype)[None, None, None]
    holes = np.zeros(array.shape, bool)
    holes[..., 10:25, 12:30] = True
    holes[..., 39, 49] = True
    poisoned = array.copy()
    poisoned[holes] = np.nan if dtype[0] == "f" else np.iinfo(dtype).max
    filled = fill_holes(poisoned, holes)
    assert filled.dtype == array.dtype
    np.testing.assert_array_equal(filled[~holes], array[~holes])
    error = np.abs(filled[holes].astype("f8") - array[holes])
    assert error.max() <= 30
    assert error.mean() <= 12


@pytest.mark.parametrize("kind", ["all", "one channel", "one left", "checkerboard"])
@pytest.mark.parametrize("shape", [(2, 3, 1, 8, 9), (1, 2, 5, 3, 7), (1, 3, 1, 1, 33), (1, 2, 1, 1, 1)])
def test_filled_holes_are_finite_and_in_range(kind, shape):
    array = np.random.default_rng(0).uniform(5, 6, shape).astype("f4")
    holes = np.ones(shape, bool)
    if kind == "one channel":
        holes[:, 1:] = False
    elif kind == "one left":
        holes[..., -1] = False
    elif kind == "checkerboard":
        holes = np.indices(shape).sum(axis=0) % 2 == 0
    poisoned = array.copy()
    poisoned[holes] = np.nan
    filled = fill_holes(poisoned, holes)
    assert np.isfinite(filled).all()
    kept = array[~holes]
    low, high = (kept.min(), kept.max()) if kept.size else (0, 0)
    assert ((filled >= low) & (filled <= high)).all()
    np.testing.assert_array_equal(filled[~holes], array[~holes])


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_holes_beside_the_largest_values(dtype):
    array = np.full((1, 1, 1, 9, 9), np.finfo(dtype).max, dtype)
    holes = np.zeros(array.shape, bool)
    holes[..., 2:6, 3:7] = True
    array[holes] = np.nan
    assert np.isfinite(fill_holes(array, holes)).all()
