"""Encode, decode, compare: the section "Values" of the contract, line by line."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xwalloc import inspect
from xwalloc import settings as runtime
from xwalloc.codec.chunk import ChunkCodec, decode_frame
from xwalloc.codec.config import CodecConfig
from xwalloc.errors import ConfigError
from xwalloc.numcodecs import Walloc
from xwalloc.testing import (
    assert_kept,
    assert_size,
    assert_specials_kept,
    assert_within_bound,
    chunks,
    configurations,
    layouts,
    special_values,
)
from xwalloc.testing.check import signal_to_noise

SLOW = {"deadline": None, "suppress_health_check": list(HealthCheck)}
CUBE = {"channel_axis": 0, "signal_axes": (1, 2)}
QUALITIES = [{"max_error": 0.75}, {"snr": 35.0}, {"step": 0.5}, {"lossless": True}]
DTYPES = ["i1", "u1", "<i2", ">u2", "<i4", ">i4", "<u4", "<f2", ">f2", "<f4", ">f4", "<f8", ">f8"]


@st.composite
def pairs(draw, quality=None, **narrow):
    chunk = draw(chunks(**narrow))
    return chunk, draw(configurations(chunk, quality=quality))


def memory(array):
    """Bytes of the samples in C order, whatever the memory order."""
    return np.ascontiguousarray(array).tobytes()


def roundtrip(array, config):
    """Encode and decode, holding what must hold in every mode; returns frame and decoded chunk."""
    before, strides, writeable = memory(array), array.strides, array.flags.writeable
    frame = ChunkCodec(config).encode(array)
    assert memory(array) == before, "the input changed"
    assert (array.strides, array.flags.writeable) == (strides, writeable)
    assert_size(array, frame)
    decoded = decode_frame(frame)
    assert_kept(array, decoded, config)
    return frame, decoded


def smooth(shape=(3, 24, 26), dtype="f4", seed=0, scale=1.0):
    data = np.random.default_rng(seed).normal(size=shape)
    for axis in range(1, len(shape)):
        data = data.cumsum(axis)
    return (data * scale).astype(dtype)


# max_error


@settings(max_examples=1000, **SLOW)
@given(pairs("max_error"))
def test_the_bound_holds(pair):
    chunk, config = pair
    roundtrip(chunk.array, config)


@pytest.mark.nightly
@pytest.mark.timeout(3600)
@settings(max_examples=10_000, **SLOW)
@given(pairs("max_error"))
def test_the_bound_holds_nightly(pair):
    chunk, config = pair
    roundtrip(chunk.array, config)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("share", [1e-6, 1e-3, 0.02, 0.3, 2.0])
def test_the_bound_holds_for_every_dtype_and_tightness(dtype, share):
    info = np.iinfo(dtype) if np.dtype(dtype).kind in "iu" else None
    data = smooth(dtype="f8")
    data *= 100 / np.abs(data).max()
    array = data.astype(dtype) if info is None or info.min < 0 else (data + 100).astype(dtype)
    config = CodecConfig(**CUBE, max_error=float(np.ptp(array.astype("f8"))) * share)
    roundtrip(array, config)


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i2", ">u2", "<i4", ">u4"])
@pytest.mark.parametrize("bound", [1e-300, 0.25, 0.5, np.nextafter(1, 0)])
def test_a_bound_below_one_is_exact_on_integers(dtype, bound):
    array = (smooth(dtype="f8") + 60).clip(0, 120).astype(dtype)
    _, decoded = roundtrip(array, CodecConfig(**CUBE, max_error=bound))
    assert memory(decoded) == memory(array)


@pytest.mark.parametrize("dtype", ["<i2", ">u2", "<i4", "<u4", "u1"])
@pytest.mark.parametrize("bound", [1.0, 1.5, 2.0, 7.99, 40.0, 1e9, 1e300])
def test_integers_at_the_ends_of_their_range_stay_within_the_bound(dtype, bound):
    info = np.iinfo(dtype)
    rng = np.random.default_rng(1)
    ends = rng.choice([info.min, info.min + 1, info.min + 2, info.max - 1, info.max], (2, 20, 20)).astype(dtype)
    roundtrip(ends, CodecConfig(**CUBE, max_error=bound))
    array = ends.copy()
    array[:, :10] = info.max - np.abs(smooth((2, 10, 20), "i4")).astype(dtype) % 20
    roundtrip(array, CodecConfig(**CUBE, max_error=bound))


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
@pytest.mark.parametrize("kind", ["smallest", "largest", "ulp", "around-zero"])
def test_bounds_near_the_precision_of_floats(dtype, kind):
    info = np.finfo(dtype)
    data = smooth((2, 16, 17), "f8")
    data /= np.abs(data).max()
    array = {
        "smallest": data * float(info.smallest_subnormal) * 200,
        "largest": data * float(info.max),
        "ulp": 1 + data * float(info.eps) * 40,
        "around-zero": data * 1e-3,
    }[kind].astype(dtype)
    unit = {
        "smallest": float(info.smallest_subnormal),
        "largest": float(info.max) - float(np.nextafter(info.max, info.dtype.type(0))),
        "ulp": float(info.eps),
        "around-zero": float(np.spacing(np.array(1e-3, info.dtype))),
    }[kind]
    for multiple in (0.4, 0.5, 0.75, 1, 1.5, 2, 7, 30, 1000):
        bound = unit * multiple
        if 0 < bound < np.inf:
            roundtrip(array, CodecConfig(**CUBE, max_error=bound))


def test_the_bound_is_compared_exactly_not_in_floating_point():
    """Bounds that are no value of the dtype, and values at exactly the bound from a lattice point."""
    rng = np.random.default_rng(4)
    for bound in (0.1, np.nextafter(0.1, 0), 1 / 3, 0.3, 1e-7):
        for dtype in ("f2", "f4", "f8"):
            array = (rng.integers(-300, 300, (2, 16, 16)) * bound).astype(dtype)
            roundtrip(array, CodecConfig(**CUBE, max_error=float(bound)))
            roundtrip((array + bound).astype(dtype), CodecConfig(**CUBE, max_error=float(bound)))


# lossless, step


@settings(max_examples=200, **SLOW)
@given(pairs("lossless"))
def test_lossless_is_bit_exact(pair):
    chunk, config = pair
    _, decoded = roundtrip(chunk.array, config)
    assert memory(decoded) == memory(chunk.array)


@settings(max_examples=30, **SLOW)
@given(chunks())
def test_max_error_zero_is_lossless(chunk):
    config = CodecConfig(**chunk.layout.axes, max_error=0)
    assert config == CodecConfig(**chunk.layout.axes, lossless=True)
    _, decoded = roundtrip(chunk.array, config)
    assert memory(decoded) == memory(chunk.array)


@settings(max_examples=200, **SLOW)
@given(pairs("step"))
def test_step_keeps_specials_and_finite_values_finite(pair):
    chunk, config = pair
    roundtrip(chunk.array, config)


@pytest.mark.parametrize("dtype", ["u1", ">i2", "<i4", "<f2", "<f4", ">f8"])
def test_step_scales_the_error(dtype):
    array = (smooth(dtype="f8") * 2 + 100).clip(0, 127).astype(dtype)
    sizes = []
    for step in (0.5, 4.0, 16.0):
        frame, decoded = roundtrip(array, CodecConfig(**CUBE, step=step))
        sizes.append(len(frame))
        rms = float(np.sqrt(np.mean((array.astype("f8") - decoded) ** 2)))
        assert rms <= step, "the error of a uniform quantiser is a fraction of its step"
    assert sizes == sorted(sizes, reverse=True)


# snr


@settings(max_examples=120, **SLOW)
@given(pairs("snr", layout=layouts(most_samples=4096)))
def test_snr_is_met(pair):
    chunk, config = pair
    roundtrip(chunk.array, config)


@pytest.mark.parametrize("dtype", ["u1", ">i2", "<i4", "<f2", "<f4", ">f8"])
@pytest.mark.parametrize("snr", [3.0, 12.0, 30.0, 55.0, 90.0])
@pytest.mark.parametrize("kind", ["smooth", "noise"])
def test_snr_is_not_wasted(dtype, snr, kind):
    """Above the target only where rounding forces it, or the frame gets no larger by it."""
    data = smooth((2, 32, 33), "f8") if kind == "smooth" else np.random.default_rng(2).normal(size=(2, 32, 33))
    array = (data / np.abs(data).max() * 50 + 60).astype(dtype)
    frame, decoded = roundtrip(array, CodecConfig(**CUBE, snr=snr))
    got = signal_to_noise(array, decoded)
    if got <= snr + 0.5:
        return
    allowed = float(array.astype("f8").var()) / 10 ** (snr / 10)
    for factor in (0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0):
        other = ChunkCodec(CodecConfig(**CUBE, step=float(np.sqrt(12 * allowed)) * factor)).encode(array)
        reached = signal_to_noise(array, decode_frame(other))
        if reached >= snr - 0.5:
            assert len(frame) <= len(other), (
                f"{got:.1f} dB instead of {snr} dB, with {len(other)} bytes at {reached:.1f}"
            )


@pytest.mark.parametrize("quality", [{"snr": 20.0}, {"step": 3.0}])
@pytest.mark.parametrize("dtype", ["u1", ">i4", "<f2", ">f8"])
def test_constants_stay_constant(quality, dtype):
    array = np.full((2, 32, 20), 77, dtype)
    _, decoded = roundtrip(array, CodecConfig(**CUBE, **quality))
    if "snr" in quality:
        assert memory(decoded) == memory(array)
    assert np.ptp(decoded.astype("f8")) == 0
    assert np.abs(decoded.astype("f8") - 77).max() <= 3


# any quality


@settings(max_examples=200, **SLOW)
@given(pairs())
def test_numcodecs_and_out(pair):
    chunk, config = pair
    codec = Walloc(**config.to_json())
    frame = codec.encode(chunk.array)
    assert frame == ChunkCodec(config).encode(chunk.array)
    expected = decode_frame(frame)
    decoded = codec.decode(frame)
    assert (decoded.shape, decoded.dtype) == (chunk.array.shape, chunk.array.dtype)
    assert memory(decoded) == memory(expected)
    for out in (
        np.full(chunk.array.shape, 1, chunk.array.dtype),
        np.full(chunk.array.shape, 1, chunk.array.dtype, order="F"),
        np.full([2 * n for n in chunk.array.shape], 1, chunk.array.dtype)[
            tuple(slice(None, None, 2) for _ in expected.shape)
        ],
    ):
        assert codec.decode(frame, out=out) is out
        assert memory(out) == memory(expected)


@settings(max_examples=100, **SLOW)
@given(pairs(layout=layouts(most_samples=8192)))
def test_same_bytes_whatever_the_threads_and_the_memory_order(pair):
    chunk, config = pair
    encode = ChunkCodec(config).encode
    frame = encode(chunk.array)
    with runtime.set({"threads": 1}):
        assert encode(np.asfortranarray(chunk.array)) == frame
        alone = decode_frame(frame)
    with runtime.set({"threads": 2}):
        assert encode(np.ascontiguousarray(chunk.array)) == frame
        assert memory(decode_frame(frame)) == memory(alone)
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(encode, [chunk.array] * 4)) == {frame}
            assert {memory(d) for d in pool.map(decode_frame, [frame] * 4)} == {memory(alone)}


FRESH = """
import sys, numpy as np, hashlib
from xwalloc.codec.chunk import ChunkCodec, decode_frame
from xwalloc.codec.config import CodecConfig
from xwalloc import settings
settings.set({"threads": int(sys.argv[1])})
data = np.random.default_rng(5).normal(size=(4, 72, 80)).cumsum(1).cumsum(2)
for dtype in ("<f4", ">f8", "<i2"):
    for quality in ({"max_error": 3.0}, {"max_error": 0.01}, {"snr": 30.0}, {"step": 2.0}, {"lossless": True}):
        frame = ChunkCodec(CodecConfig(channel_axis=0, signal_axes=(1, 2), **quality)).encode(data.astype(dtype))
        print(hashlib.sha256(frame + decode_frame(frame).tobytes()).hexdigest())
"""


def test_same_bytes_in_fresh_processes():
    runs = {
        subprocess.run(
            [sys.executable, "-c", FRESH, str(n)], check=True, capture_output=True, text=True, timeout=300
        ).stdout
        for n in (1, 2)
    }
    assert len(runs) == 1
    assert len(runs.pop().split()) == 15


@pytest.mark.parametrize("shape", [(1, 3, 2), (2, 1, 40), (3, 9, 1), (1, 1, 1), (2, 33, 5)])
@pytest.mark.parametrize("tree", ["dyadic", "packet"])
@pytest.mark.parametrize("boundary", ["reflect", "periodization"])
def test_more_levels_than_fit(shape, tree, boundary):
    array = smooth(shape, "f4")
    for quality in ({"max_error": 0.5}, {"step": 0.5}, {"snr": 20.0}):
        roundtrip(array, CodecConfig(**CUBE, levels=8, tree=tree, boundary=boundary, **quality))


def test_more_levels_than_packets_of_three_axes_have():
    ramp = np.add.outer(np.add.outer(np.arange(128), np.arange(128)), np.arange(64))
    frame, _ = roundtrip(ramp.astype("u1"), CodecConfig(signal_axes=(0, 1, 2), step=100.0, tree="packet", levels=8))
    assert inspect(frame).mode == "transform"


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_small_and_degenerate_chunks(quality, dtype):
    config = CodecConfig(**CUBE, nodata=7, **quality)
    for shape in ((0, 4, 4), (3, 0, 2), (1, 1, 1), (2, 1, 5)):
        for array in (np.zeros(shape, dtype), np.full(shape, 7, dtype), np.full(shape, 100, dtype)):
            roundtrip(array, config)
    if np.dtype(dtype).kind == "f":
        for value in (np.nan, -np.nan, np.inf, -np.inf, -0.0):
            array = np.full((2, 9, 9), value, dtype)
            _, decoded = roundtrip(array, config)
            if not np.isfinite(value):
                assert memory(decoded) == memory(array)


@pytest.mark.parametrize("quality", QUALITIES)
@pytest.mark.parametrize("value", [np.nan, 7.0])
def test_chunks_without_a_valid_sample_are_tiny(quality, value):
    array = np.full((4, 64, 64), value, "f4")
    frame, _ = roundtrip(array, CodecConfig(**CUBE, nodata=7, **quality))
    assert len(frame) < 400


@pytest.mark.parametrize("quality", [{"max_error": 1e-30}, {"snr": 400.0}, {"step": 1e-30}, {"lossless": True}])
@pytest.mark.parametrize("dtype", ["u1", ">u2", "<i4", "<f2", ">f4", "<f8"])
def test_incompressible_chunks_do_not_grow(quality, dtype):
    dtype = np.dtype(dtype)
    for size in (1, 50, 3 * 40 * 40):
        array = np.frombuffer(np.random.default_rng(size).bytes(size * dtype.itemsize), dtype)
        frame, decoded = roundtrip(array, CodecConfig(signal_axes=(0,), **quality))
        if "max_error" in quality and dtype.kind in "iu":
            assert memory(decoded) == memory(array)
        assert len(frame) <= array.nbytes + 200


# special values


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
@pytest.mark.parametrize("quality", QUALITIES)
def test_every_nan_comes_back_with_payload_and_sign(dtype, quality):
    dtype = np.dtype(dtype)
    array = smooth((2, 40, 40), dtype)
    unsigned = np.dtype(f"u{dtype.itemsize}").newbyteorder(dtype.byteorder)
    rng = np.random.default_rng(3)
    infinite = int(np.array(np.inf, dtype).view(unsigned))
    sign = 1 << (8 * dtype.itemsize - 1)
    nans = [infinite | int(p) | (sign if p % 2 else 0) for p in rng.integers(1, 2 ** np.finfo(dtype).nmant, 200)]
    array.view(unsigned).flat[rng.choice(array.size, 200, replace=False)] = nans
    array[0, :4] = [[np.inf], [-np.inf], [np.nan], [-np.nan]]
    _, decoded = roundtrip(array, CodecConfig(**CUBE, **quality))
    assert_specials_kept(array, decoded)


def neighbours(value, dtype):
    """A value and the ones next to it in a dtype, two on either side where there are any."""
    native = np.dtype(dtype).newbyteorder("=")
    if native.kind in "iu":
        info = np.iinfo(native)
        return np.array([v for v in range(value - 2, value + 3) if info.min <= v <= info.max], dtype)
    found = [native.type(value)]
    for side in (np.inf, -np.inf):
        near = found[0]
        for _ in range(2):
            if abs(near) < np.finfo(native).max or (near > 0) != (side > 0):
                near = np.nextafter(near, native.type(side))
                found.append(near)
    return np.array(found, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("quality", QUALITIES)
def test_no_valid_value_becomes_nodata(dtype, quality):
    """Valid values right beside nodata, and nodata at the ends of the range."""
    whole = np.dtype(dtype).kind in "iu"
    info = np.iinfo(dtype) if whole else np.finfo(dtype)
    rng = np.random.default_rng(8)
    for nodata in (0, 5, int(info.max) if whole else float(info.max), int(info.min) if whole else float(info.min)):
        array = rng.choice(neighbours(nodata, dtype), (2, 20, 20))
        roundtrip(array, CodecConfig(**CUBE, nodata=nodata, **quality))


def test_negative_zero_counts_as_nodata_zero_and_keeps_its_sign():
    array = smooth((2, 20, 20), "f4")
    array[:, 3:9] = 0.0
    array[:, 5] = -0.0
    for quality in QUALITIES:
        _, decoded = roundtrip(array, CodecConfig(**CUBE, nodata=0, **quality))
        assert np.signbit(decoded[:, 5]).all()
        assert not np.signbit(decoded[:, 3]).any()
        assert not (decoded[:, 9:] == 0).any()


def test_nodata_is_compared_in_the_stored_dtype():
    array = smooth((2, 20, 20), "f4")
    array[:, 4:8] = np.float32(0.1)
    _, decoded = roundtrip(array, CodecConfig(**CUBE, nodata=0.1, max_error=2.0))
    assert (decoded[:, 4:8] == np.float32(0.1)).all()
    for dtype, nodata in (("u1", 256), ("i2", 0.5), ("u2", -1), ("f2", 1e6), ("f4", 1e300)):
        with pytest.raises(ConfigError):
            ChunkCodec(CodecConfig(**CUBE, nodata=nodata, max_error=2.0)).encode(np.zeros((2, 4, 4), dtype))


def test_large_nodata_of_float32_means_what_it_does_as_float64():
    """-3.4028234663852886e+38 is the float32 minimum written out, the nodata of many rasters."""
    array = smooth((2, 20, 20), "f4")
    array[:, :5] = np.finfo("f4").min
    frame, _ = roundtrip(array, CodecConfig(**CUBE, nodata=-3.4028234663852886e38, max_error=0.5))
    assert inspect(frame).mode != "stored"


# what must not cost the mode


def mode_and_size(array, **options):
    frame, _ = roundtrip(array, CodecConfig(**CUBE, **options))
    return inspect(frame).mode, len(frame)


TROUBLE = [(d, t) for d in ("<f4", ">f8") for t in ("outlier", "fill", "nan", "padding", "extreme")]
TROUBLE += [("<i4", "outlier"), ("<i4", "fill"), ("<i4", "extreme")]


@pytest.mark.parametrize(("dtype", "trouble"), TROUBLE)
@pytest.mark.parametrize("bound", [2.0, 40.0])
def test_trouble_does_not_cost_the_mode(dtype, bound, trouble):
    array = smooth((6, 96, 96), "f8", scale=2.0).astype(dtype)
    mode, size = mode_and_size(array, max_error=bound)
    largest = np.iinfo(dtype).max if np.dtype(dtype).kind in "iu" else float(np.finfo(dtype).max)
    bad = array.copy()
    if trouble == "outlier":
        bad[2, 30, 40] = 1e9
    elif trouble == "extreme":
        bad[2, 30, 40], bad[3, 5, 6] = largest, -largest
    elif trouble == "fill":
        bad[:, 20:30, 10:50] = -(2**30)  # declared nowhere
    elif trouble == "nan":
        bad[:, 20:30, 10:50] = np.nan
    else:
        bad[:, 70:] = np.nan
    bad_mode, bad_size = mode_and_size(bad, max_error=bound)
    assert bad_mode == mode
    assert bad_size <= size * 1.15 + 400


def test_padding_with_nan_does_not_reach_the_samples():
    """An edge chunk costs what its samples cost, and the error stays what it is without padding."""
    array = smooth((4, 64, 64), "f4")
    padded = np.full((4, 100, 90), np.nan, "f4")
    padded[:, :64, :64] = array
    for quality in ({"snr": 30.0}, {"step": 1.0}, {"max_error": 1.0}):
        plain, _ = roundtrip(array, CodecConfig(**CUBE, **quality))
        frame, decoded = roundtrip(padded, CodecConfig(**CUBE, **quality))
        assert len(frame) <= len(plain) * 1.3 + 300
        assert np.isfinite(decoded[:, :64, :64]).all()


# the strategies and checks themselves


@settings(max_examples=200, **SLOW)
@given(chunks())
def test_strategies_make_what_they_say(chunk):
    assert chunk.array.shape == chunk.layout.shape
    axes = [*chunk.layout.signal_axes] + ([] if chunk.layout.channel_axis is None else [chunk.layout.channel_axis])
    assert len(set(axes)) == len(axes)
    assert max(axes) < chunk.array.ndim
    assert chunk.array.size <= 5 * 4096
    if chunk.nodata is not None:
        CodecConfig(**chunk.layout.axes, nodata=chunk.nodata, lossless=True).check(chunk.array.shape, chunk.array.dtype)


def test_the_check_catches_what_it_must():
    a = np.array([1.0, np.nan, -0.0, 5.0, np.inf], "f4")
    assert_within_bound(a, a, 0)
    assert special_values(a, nodata=0).tolist() == [False, True, True, False, True]
    for index, value, bound, nodata in (
        (0, np.nextafter(np.float32(1.5), np.float32(2)), 0.5, None),
        (1, 0.0, 0.5, None),
        (1, -np.nan, 0.5, None),
        (2, 0.0, 0.0, None),
        (2, 0.0, 0.5, 0),
        (3, np.inf, 1e300, None),
        (3, 7.0, 9.0, 7),
        (4, -np.inf, 9.0, None),
    ):
        b = a.copy()
        b[index] = value
        with pytest.raises(AssertionError):
            assert_within_bound(a, b, bound, nodata)
    b = a.copy()
    b[0] = 1.5
    assert_within_bound(a, b, 0.5)
    wide = np.array([2.0**60, -1.7e308])
    moved = np.array([2.0**60 + 2.0**8, -1.7e308])
    assert_within_bound(wide, moved, 256.0)
    with pytest.raises(AssertionError):
        assert_within_bound(wide, moved, np.nextafter(256.0, 0))
    with pytest.raises(AssertionError):
        assert_within_bound(wide, -wide, 1.7e308)


@pytest.mark.parametrize("dtype", ["u2", "f2", "f4", "f8"])
@pytest.mark.parametrize(("channels", "bound"), [(3, 0.25), (3, 40.0), (24, 3.0), (24, 200.0)])
def test_the_encoder_knows_its_largest_error(dtype, channels, bound):
    rng = np.random.default_rng(channels)
    field = rng.normal(size=(1, 40, 40)).cumsum(1).cumsum(2) * np.arange(1, channels + 1)[:, None, None]
    values = (1000 + 900 * field / np.abs(field).max() + rng.normal(size=field.shape)).astype(dtype)
    if dtype != "u2":
        values[:, 3, 5] = np.nan
        values[1, 7, 7] = 3e4
    codec = ChunkCodec(CodecConfig(channel_axis=0, signal_axes=(1, 2), max_error=bound))
    frame, largest = codec.encode_and_measure(values)
    errors = np.abs(codec.decode(frame).astype("f8") - values.astype("f8"))
    assert largest == np.nanmax(errors) <= bound
    assert frame == codec.encode(values)
    exact = ChunkCodec(CodecConfig(channel_axis=0, signal_axes=(1, 2), lossless=True))
    assert exact.encode_and_measure(values)[1] == 0
    assert ChunkCodec(CodecConfig(channel_axis=0, signal_axes=(1, 2), snr=30)).encode_and_measure(values)[1] is None
