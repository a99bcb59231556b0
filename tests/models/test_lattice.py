"""Lattice mode: exact for every shape, width and mask; nothing but our own errors for damaged bytes."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xwalloc.bitstream import segments
from xwalloc.errors import BudgetError, FormatError, XwallocError
from xwalloc.models import lattice
from xwalloc.models.lattice_parameters import Channel, Parameters, Plain, Predictor, no_weights

SHAPES = [
    (1, 1, 1, 1, 1),
    (1, 1, 1, 1, 2),
    (2, 3, 1, 1, 7),
    (1, 2, 1, 1, 3000),
    (1, 20, 1, 1, 400),
    (3, 2, 1, 64, 1),
    (1, 1, 1, 1, 5000),
    (1, 5, 1, 40, 33),
    (2, 19, 1, 24, 31),
    (1, 1, 1, 3, 200),
    (1, 3, 12, 20, 24),
    (2, 2, 5, 1, 9),
    (1, 1, 6, 1, 1),
    (1, 300, 1, 1, 1),
    (1, 1, 1, 1024, 1100),
]


def smooth(shape: tuple[int, ...], scale: float, seed: int = 0) -> np.ndarray:
    """Correlated in every direction, with noise."""
    generator = np.random.default_rng(seed)
    values = generator.normal(size=shape)
    for axis in range(1, 5):
        values = np.cumsum(values, axis) / np.sqrt(shape[axis])
    return np.rint(scale * values + generator.normal(size=shape) * 2 + 300).astype(np.int32)


def encode(q: np.ndarray, *arguments: Any, **more: Any) -> lattice.Coded:
    return lattice.draft(q, *arguments, **more).encode() if q.size else lattice.Coded(b"", b"", q)


def round_trip(q: np.ndarray, width: int = 32, mask: np.ndarray | None = None, radius: int = 0, **more: bool) -> int:
    coded = encode(q, mask, width, radius, **more)
    decoded = lattice.decode(coded.parameters, coded.symbols, q.shape, mask, width, radius)
    assert decoded.dtype == (np.int64 if width == 64 else np.int32)
    assert decoded.shape == q.shape
    valid = slice(None) if mask is None else mask == 0
    np.testing.assert_array_equal(decoded[valid], coded.decoded[valid])
    if q.size and np.any(valid):
        assert np.abs(decoded[valid].astype(object) - q[valid].astype(object)).max(initial=0) <= radius
    return len(coded.parameters) + len(coded.symbols)


def parameters_of(q: np.ndarray, width: int = 32, radius: int = 0) -> Parameters:
    data = encode(q, None, width, radius).parameters
    return read_parameters(data, q.shape, width)


def read_parameters(data: bytes, shape: tuple[int, ...], width: int = 32) -> Parameters:
    geometry = lattice.Geometry.of(shape)
    boxes = lattice.slabs_of(geometry)
    count, d = lattice.groups_of(geometry, boxes), geometry.dimensions
    batch, channels = geometry.shape[:2]
    codes, samples = len(lattice.MAGNITUDES), batch * geometry.plane
    return lattice.serial.read(data, len(boxes), batch, channels, count, d, width, codes, samples)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("width", [32, 64])
def test_exact(shape: tuple[int, ...], width: int) -> None:
    q = smooth(shape, 200)
    size = round_trip(q.astype(np.int64) << 31 if width == 64 else q, width)
    if width == 32:
        assert size < 2 * q.size + 60


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("radius", [1, 40])
@pytest.mark.parametrize("many_lanes", [False, True])
def test_within_a_radius(shape: tuple[int, ...], radius: int, many_lanes: bool) -> None:
    q = smooth(shape, 200)
    assert round_trip(q, radius=radius, many_lanes=many_lanes) <= round_trip(q, many_lanes=many_lanes) + 20


@pytest.mark.parametrize("shape", SHAPES[1:-1], ids=str)
def test_exact_with_mask(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(1)
    q = smooth(shape, 200)
    mask = (generator.random(shape) < 0.3).astype(np.uint8)
    mask.reshape(shape[0], shape[1], -1)[:, 0] = 1
    junk = np.where(mask, generator.integers(-(2**31), 2**31, shape), q).astype(np.int32)
    size = round_trip(junk, 32, mask)
    assert size < 2.5 * q.size + 60
    round_trip(junk, 32, mask, radius=3)


def test_what_lies_under_the_mask_does_not_matter() -> None:
    q = smooth((1, 4, 1, 50, 50), 100)
    mask = np.zeros(q.shape, np.uint8)
    mask[..., 10:20, 5:40] = 1
    other = np.where(mask, 12345, q).astype(np.int32)
    one, two = encode(q, mask, 32), encode(other, mask, 32)
    assert (one.parameters, one.symbols) == (two.parameters, two.symbols)


@pytest.mark.parametrize("shape", [(0, 2, 1, 1, 5), (1, 0, 1, 4, 4), (1, 1, 1, 0, 3)])
def test_empty(shape: tuple[int, ...]) -> None:
    assert round_trip(np.zeros(shape, np.int32)) == 0


@pytest.mark.parametrize("value", [0, -7, 2**31 - 1, -(2**31)])
def test_constant_channels_are_nearly_free(value: int) -> None:
    assert round_trip(np.full((1, 1, 1, 200, 200), value, np.int32)) < 80
    assert round_trip(np.full((1, 100, 1, 64, 64), value, np.int32)) < 320


def test_masked_channels_are_nearly_free() -> None:
    generator = np.random.default_rng(0)
    q = generator.integers(-(2**31), 2**31, (1, 100, 1, 64, 64)).astype(np.int32)
    assert round_trip(q, 32, np.ones(q.shape, np.uint8)) < 320


def test_a_copy_of_a_channel_costs_little() -> None:
    one = smooth((1, 1, 1, 80, 80), 300)
    assert round_trip(np.concatenate([one, one], axis=1)) < round_trip(one) + 40


@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1, 1000), (1, 3, 1, 30, 30), (2, 2, 6, 6, 6)])
def test_extremes(width: int, shape: tuple[int, ...]) -> None:
    info = np.iinfo(np.int64 if width == 64 else np.int32)
    alternating = np.resize(np.array([info.min, info.max], info.dtype), shape)
    round_trip(alternating, width)
    generator = np.random.default_rng(3)
    q = generator.integers(info.min, info.max, shape, info.dtype, endpoint=True)
    size = round_trip(q, width)
    assert size < (1.35 if width == 64 else 1.2) * q.nbytes + 100


def test_the_one_residual_that_has_no_token() -> None:
    q = np.zeros((1, 1, 1, 1, 8), np.int32)
    q[..., 4:] = -(2**31)
    with pytest.raises(BudgetError):
        encode(q, None, 32)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(*[st.integers(1, n) for n in (2, 4, 3, 12, 40)]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 30, 4000, 2**28]),
    st.booleans(),
)
def test_any_shape(shape: tuple[int, ...], seed: int, amplitude: int, masked: bool) -> None:
    generator = np.random.default_rng(seed)
    q = smooth(shape, 50, seed) + generator.integers(-amplitude, amplitude + 1, shape).astype(np.int32)
    mask = generator.integers(0, 2, shape).astype(np.uint8) if masked else None
    round_trip(q, 32, mask)
    round_trip(q.astype(np.int64) * (2**31 - 1), 64, mask)


def test_threads_do_not_change_bytes() -> None:
    q = smooth((1, 3, 1, 900, 900), 300)

    def parallel(fn, items):
        with ThreadPoolExecutor(4) as pool:
            return list(pool.map(fn, items))

    one, two = encode(q, None, 32, 2), encode(q, None, 32, 2, parallel)
    assert (one.parameters, one.symbols) == (two.parameters, two.symbols)
    decoded = lattice.decode(one.parameters, one.symbols, q.shape, None, 32, 2, parallel)
    np.testing.assert_array_equal(decoded, one.decoded)


def test_prediction_pays() -> None:
    shape = (1, 4, 1, 120, 120)
    q = smooth(shape, 3000)
    planes = q.astype(np.int64)
    plain = np.log2(2 * np.e * np.mean(np.abs(np.diff(planes, axis=-1)))) * q.size / 8
    assert round_trip(q) < plain


@pytest.mark.parametrize("width", [32, 64])
def test_few_levels_are_coded_by_rank(width: int) -> None:
    shape = (1, 3, 1, 120, 120)
    q = smooth(shape, 500).astype(np.int64 if width == 64 else np.int32)
    sparse = q.copy()
    generator = np.random.default_rng(0)
    steps = generator.integers(1, 40 if width == 32 else 2**40, 20000)
    levels = np.cumsum(steps) - steps[:10000].sum()
    sparse[:, 1] = levels[q[:, 1] // 8 + 10000]
    assert round_trip(sparse, width) < 1.05 * round_trip(q, width)
    mask = (generator.random(shape) < 0.1).astype(np.uint8)
    round_trip(np.where(mask, 77, sparse).astype(sparse.dtype), width, mask)
    np.testing.assert_array_equal(parameters_of(sparse, width).levels[1], np.unique(sparse[:, 1]))


def test_levels_at_the_ends_of_their_range_stay_there() -> None:
    """The outermost bin reaches beyond 32 bits: its middle must not wrap around."""
    q = np.random.default_rng(0).choice(np.array([-(2**31), 2**31 - 1], np.int32), (1, 1, 1, 256, 256))
    sizes = [round_trip(q, radius=radius) for radius in (0, 1, 2, 10, 10**6, 2**30)]
    assert max(sizes) < 8400


def test_levels_of_neighbouring_floats() -> None:
    """Bits of floats near 2^62 that differ by one."""
    values = np.array([1.0, np.nextafter(1.0, 2.0), 5.5, 7.25]).view(np.int64)
    q = np.random.default_rng(0).choice(values, (1, 1, 1, 256, 256))
    with np.errstate(all="raise"):
        assert round_trip(q, 64) < 23_000


def test_few_samples_far_apart_take_no_table() -> None:
    q = np.random.default_rng(0).choice(np.array([0, 7, 10**5, 4 * 10**6], np.int32), (1, 500, 1, 8, 8))
    round_trip(q[:, :1])
    start = time.perf_counter()
    round_trip(q)
    assert time.perf_counter() - start < 5


def test_more_levels_than_samples_are_refused() -> None:
    shape = (1, 1, 1, 1, 4)
    geometry = lattice.Geometry.of(shape)
    count = lattice.groups_of(geometry, lattice.slabs_of(geometry))
    known = Parameters(
        order=np.arange(1), channels=[Channel((), True, (Predictor(Plain.PREVIOUS),))],
        starts=np.zeros((1, 1, 1), np.int64), codes=np.zeros((1, 1, 1, count), np.int64), weights=no_weights(count),
        levels={0: np.arange(5)},
    )  # fmt: skip
    with pytest.raises(FormatError):
        read_parameters(lattice.serial.write(known), shape)
    known.levels[0] = np.arange(4)
    assert len(read_parameters(lattice.serial.write(known), shape).levels[0]) == 4


def test_levels_within_a_radius() -> None:
    q = (smooth((1, 2, 1, 90, 90), 30) * np.array([1, 400], np.int32).reshape(1, 2, 1, 1, 1)).astype(np.int32)
    assert list(parameters_of(q, radius=3).levels) == [1]
    assert round_trip(q, radius=3) < 1.3 * round_trip(q[:, :1], radius=3) + round_trip(q[:, :1])


def test_noisy_channels_are_visited_in_turn_and_smooth_ones_from_coarse_to_fine() -> None:
    generator = np.random.default_rng(5)
    walk = np.cumsum(np.cumsum(generator.integers(-50, 51, (1, 1, 1, 1, 40_000)), -1) // 50, -1).astype(np.int32)
    assert parameters_of(walk).channels[0].sequential
    t = np.arange(40_000)
    wave = np.rint(3000 * np.sin(t / 60) + 2000 * np.sin(t / 23)).astype(np.int32).reshape(walk.shape)
    assert not parameters_of(wave, radius=20).channels[0].sequential
    assert round_trip(wave, radius=20) < round_trip(wave) / 2
    coded = encode(walk, None, 32, many_lanes=True)
    assert not read_parameters(coded.parameters, walk.shape).channels[0].sequential


@pytest.mark.parametrize("shape", [(1, 40, 1, 70, 70), (1, 3, 1, 500, 500), (1, 1, 20, 100, 120)])
def test_estimate_is_near(shape: tuple[int, ...]) -> None:
    q = smooth(shape, 2000)
    coded = encode(q, None, 32, 1)
    bits = 8 * (len(coded.parameters) + len(coded.symbols))
    assert lattice.draft(q, None, 32, 1).bits == pytest.approx(bits, rel=0.1)
    mask = np.zeros(shape, np.uint8)
    mask[..., ::3] = 1
    coded = encode(q, mask, 32, 1)
    bits = 8 * (len(coded.parameters) + len(coded.symbols))
    assert lattice.draft(q, mask, 32, 1).bits == pytest.approx(bits, rel=0.2)


def test_fitted_predictors_are_used() -> None:
    q = smooth((1, 3, 1, 100, 100), 3000)
    q[0, 1] = 0.6 * q[0, 0] + 0.3 * q[0, 1]
    known = parameters_of(q, radius=2)
    fitted = [p for channel in known.channels for p in channel.predictors if p.kind == Plain.FITTED]
    assert fitted
    assert all(sum(p.counts) == len(p.coefficients) for p in fitted)


@pytest.mark.parametrize("shape", [(1, 5, 1, 40, 33), (2, 3, 1, 1, 900)])
def test_damage_is_a_format_error(shape: tuple[int, ...]) -> None:
    q = smooth(shape, 500)
    coded = encode(q, None, 32)
    parameters, symbols = coded.parameters, coded.symbols
    generator = np.random.default_rng(0)
    for trial in range(400):
        damaged = [bytearray(parameters), bytearray(symbols)]
        part = damaged[trial % 2]
        for _ in range(generator.integers(1, 4)):
            part[generator.integers(len(part))] = generator.integers(256)
        if trial % 5 == 0:
            del part[generator.integers(len(part)) :]
        if trial % 7 == 0:
            part += generator.bytes(9)
        try:
            decoded = lattice.decode(bytes(damaged[0]), bytes(damaged[1]), shape, None, [32, 64][trial % 3 == 0])
        except XwallocError:
            continue
        assert decoded.shape == shape


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.binary(max_size=60))
def test_foreign_bytes_are_a_format_error(parameters: bytes, symbols: bytes) -> None:
    for width in (32, 64):
        try:
            lattice.decode(parameters, segments.pack([b"\x80", symbols]), (1, 3, 1, 8, 8), None, width)
        except FormatError:
            continue


def test_very_many_tiny_planes_are_refused() -> None:
    """Margins of pyramids would take a hundred times the memory of the samples."""
    with pytest.raises(BudgetError):
        encode(np.zeros((1, 200_000, 1, 1, 2), np.int32), None, 32)
    with pytest.raises(FormatError, match="too many channels"):
        lattice.decode(b"\x80", b"\x80", (1, 200_000, 1, 1, 2), None, 32)
    assert round_trip(np.zeros((1, 4_000, 1, 1, 2), np.int32)) < 8_000
