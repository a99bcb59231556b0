"""Lattice mode: exact for every shape, width and mask; nothing but our own errors for damaged bytes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream.contexts import Kind
from xwalloc.errors import BudgetError, FormatError, XwallocError
from xwalloc.models import lattice
from xwalloc.models.lattice_parameters import Predictor
from xwalloc.models.lattice_predict import OWN, REFERENCE, Plain

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


def round_trip(q: np.ndarray, width: int = 32, mask: np.ndarray | None = None) -> int:
    parameters, symbols = lattice.encode(q, mask, width)
    decoded = lattice.decode(parameters, symbols, q.shape, mask, width)
    assert decoded.dtype == (np.int64 if width == 64 else np.int32)
    assert decoded.shape == q.shape
    valid = slice(None) if mask is None else mask == 0
    np.testing.assert_array_equal(decoded[valid], q[valid])
    return len(parameters) + len(symbols)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("width", [32, 64])
def test_exact(shape: tuple[int, ...], width: int) -> None:
    q = smooth(shape, 200)
    size = round_trip(q.astype(np.int64) << 31 if width == 64 else q, width)
    if width == 32:
        assert size < 2 * q.size + 60


@pytest.mark.parametrize("shape", SHAPES[1:-1], ids=str)
def test_exact_with_mask(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(1)
    q = smooth(shape, 200)
    mask = (generator.random(shape) < 0.3).astype(np.uint8)
    mask.reshape(shape[0], shape[1], -1)[:, 0] = 1
    junk = np.where(mask, generator.integers(-(2**31), 2**31, shape), q).astype(np.int32)
    size = round_trip(junk, 32, mask)
    assert size < 2.5 * q.size + 60


def test_what_lies_under_the_mask_does_not_matter() -> None:
    q = smooth((1, 4, 1, 50, 50), 100)
    mask = np.zeros(q.shape, np.uint8)
    mask[..., 10:20, 5:40] = 1
    other = np.where(mask, 12345, q).astype(np.int32)
    assert lattice.encode(q, mask, 32) == lattice.encode(other, mask, 32)


@pytest.mark.parametrize("shape", [(0, 2, 1, 1, 5), (1, 0, 1, 4, 4), (1, 1, 1, 0, 3)])
def test_empty(shape: tuple[int, ...]) -> None:
    assert round_trip(np.zeros(shape, np.int32)) == 0


@pytest.mark.parametrize("value", [0, -7, 2**31 - 1, -(2**31)])
def test_constant_channels_are_nearly_free(value: int) -> None:
    assert round_trip(np.full((1, 1, 1, 200, 200), value, np.int32)) < 50
    assert round_trip(np.full((1, 100, 1, 64, 64), value, np.int32)) < 220


def test_masked_channels_are_nearly_free() -> None:
    generator = np.random.default_rng(0)
    q = generator.integers(-(2**31), 2**31, (1, 100, 1, 64, 64)).astype(np.int32)
    assert round_trip(q, 32, np.ones(q.shape, np.uint8)) < 220


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
        lattice.encode(q, None, 32)


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

    sections = lattice.encode(q, None, 32)
    assert lattice.encode(q, None, 32, parallel) == sections
    np.testing.assert_array_equal(lattice.decode(*sections, q.shape, None, 32, parallel), q)


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
    known = lattice.serial.read(lattice.encode(sparse, None, width)[0], 1, 1, 3, 2, width, 105)
    np.testing.assert_array_equal(known.levels[1], np.unique(sparse[:, 1]))


def test_rule_at_the_border() -> None:
    """An independent and slow decoder, written from the description of the format, agrees."""
    q = smooth((1, 3, 1, 14, 40), 500)
    parameters, symbols = lattice.encode(q, None, 32)
    ((residuals, planes, _, dimensions),) = lattice.residual_planes(q, None, 32)
    assert coder.encode(residuals, planes, Kind.LATTICE, dimensions) == symbols[6:]
    known = lattice.serial.read(parameters, 1, 1, 3, 2, 32, 105)
    decoded = np.zeros(q.shape, np.int64)
    for channel in known.order:
        decoded[0, channel, 0] = slow_plane(
            known.predictors[channel], decoded[0, :, 0], channel, residuals.reshape(q.shape)[0, channel, 0],
            int(known.starts[0, 0, channel]),
        )  # fmt: skip
    np.testing.assert_array_equal(decoded, q)


def slow_plane(p: Predictor, values: np.ndarray, channel: int, residuals: np.ndarray, start: int) -> np.ndarray:
    ny, nx = residuals.shape
    own, others = lattice._expand(p, 2)
    taps = [(channel, offset, c) for offset, c in own.items()]
    for reference, tap in zip(p.references, others, strict=False):
        taps += [(reference, offset, c) for offset, c in tap.items()]
    values = values.copy()
    for y in range(ny):
        for x in range(nx):
            if y == x == 0:
                values[channel, y, x] = start + residuals[y, x]
                continue
            total = p.bias
            for source, (_, dy, dx), c in taps:
                at = (min(max(y + dy, 0), ny - 1), min(max(x + dx, 0), nx - 1))
                if (dy, dx) < (0, 0) and at >= (y, x):
                    at = (y, x - 1) if x else (y - 1, 0)
                total += c * int(values[source, at[0], at[1]])
            prediction = (total + (1 << p.shift >> 1)) >> p.shift
            sign = -1 if prediction << p.shift > total else 1
            values[channel, y, x] = prediction + sign * int(residuals[y, x])
    return values[channel]


def test_estimate_is_near() -> None:
    for shape in [(1, 40, 1, 70, 70), (1, 3, 1, 500, 500), (1, 2, 1, 1, 300_000), (1, 1, 20, 100, 120)]:
        q = smooth(shape, 2000)
        bits = 8 * sum(map(len, lattice.encode(q, None, 32)))
        assert lattice.estimate(q, None, 32) == pytest.approx(bits, rel=0.1)
        mask = np.zeros(shape, np.uint8)
        mask[..., ::3] = 1
        bits = 8 * sum(map(len, lattice.encode(q, mask, 32)))
        assert lattice.estimate(q, mask, 32) == pytest.approx(bits, rel=0.15)


def test_fitted_predictors_are_used() -> None:
    q = smooth((1, 3, 1, 100, 100), 3000)
    known = lattice.serial.read(lattice.encode(q, None, 32)[0], 1, 1, 3, 2, 32, 105)
    assert Plain.FITTED in [p.kind for p in known.predictors]
    for p in known.predictors:
        assert sum(p.counts) == len(p.coefficients)
        assert sum(p.counts) <= len(OWN[2]) + len(p.references) * len(REFERENCE[2])


@pytest.mark.parametrize("shape", [(1, 5, 1, 40, 33), (2, 3, 1, 1, 900)])
def test_damage_is_a_format_error(shape: tuple[int, ...]) -> None:
    q = smooth(shape, 500)
    parameters, symbols = lattice.encode(q, None, 32)
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
            lattice.decode(parameters, lattice.segments.pack([symbols]), (1, 3, 1, 8, 8), None, width)
        except FormatError:
            continue
