"""The promises of docs/guarantees.md over chunks that hypothesis makes; `-m nightly` looks at ten times as many."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from xwalloc import settings as runtime
from xwalloc.codec.chunk import ChunkCodec, decode_frame
from xwalloc.codec.config import CodecConfig
from xwalloc.testing import assert_kept, cases

SLOW = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def check(case):
    before = case.array.copy()
    frame = ChunkCodec(case.config).encode(case.array)
    np.testing.assert_array_equal(case.array.view("u1") if case.array.ndim else case.array, before.view("u1"))
    assert len(frame) <= case.array.nbytes * 1.01 + 1024
    assert_kept(case.array, decode_frame(frame), case.config)
    return frame


@settings(max_examples=1000, **SLOW)
@given(cases())
def test_promises_hold(case):
    check(case)


@pytest.mark.nightly
@settings(max_examples=10_000, **SLOW)
@given(cases())
def test_promises_hold_nightly(case):
    check(case)


@settings(max_examples=60, **SLOW)
@given(cases(most_samples=20_000))
def test_same_bytes_at_any_thread_count_and_layout(case):
    frame = check(case)
    with runtime.set({"threads": 1}):
        assert ChunkCodec(case.config).encode(np.asfortranarray(case.array)) == frame
        alone = decode_frame(frame)
    with runtime.set({"threads": 3}):
        assert ChunkCodec(case.config).encode(case.array[::-1][::-1]) == frame
        together = decode_frame(frame)
    assert alone.tobytes() == together.tobytes()


@pytest.mark.parametrize("dtype", ["i1", "u2", ">i4", "f2", ">f4", "f8"])
@pytest.mark.parametrize("quality", [{"max_error": 1.0}, {"snr": 40}, {"step": 1.0}, {"lossless": True}])
@pytest.mark.parametrize("shape", [(0,), (1,), (0, 4, 4), (1, 1, 1), (3, 1, 9), (2, 5, 1)])
def test_edge_shapes(dtype, quality, shape):
    config = CodecConfig(
        channel_axis=0 if len(shape) == 3 else None,
        signal_axes=(1, 2) if len(shape) == 3 else (0,),
        nodata=7,
        **quality,
    )
    for array in (
        np.zeros(shape, dtype),
        np.full(shape, 7, dtype),
        np.arange(np.prod(shape)).reshape(shape).astype(dtype),
    ):
        frame = ChunkCodec(config).encode(array)
        assert_kept(array, decode_frame(frame), config)


def test_integers_use_the_whole_bound():
    """A bound e on integers means the lattice step 2 floor(e) + 1: errors reach e, and 0.9 is exact."""
    rng = np.random.default_rng(0)
    array = rng.integers(0, 4000, (16, 64, 64)).astype("i2")
    for bound in (0.9, 1.9, 8.0):
        config = CodecConfig(channel_axis=0, signal_axes=(1, 2), max_error=bound)
        error = np.abs(decode_frame(ChunkCodec(config).encode(array)).astype(int) - array)
        assert error.max() <= bound
        assert bound < 1 or error.max() == np.floor(bound)


def test_missing_values_cost_little():
    """NaN and nodata in regions cost bits, not bytes, per pixel, and never leak into their neighbours."""
    y, x = np.mgrid[:256, :256]
    array = (np.sin(y / 30) * np.cos(x / 40)).astype("f4")
    config = CodecConfig(signal_axes=(0, 1), max_error=1e-3, nodata=-9999)
    plain = len(ChunkCodec(config).encode(array))
    holed = array.copy()
    holed[(y - 100) ** 2 + (x - 90) ** 2 < 60**2] = np.nan
    holed[200:, 150:] = -9999
    frame = ChunkCodec(config).encode(holed)
    assert_kept(holed, decode_frame(frame), config)
    assert len(frame) < plain + array.size // 8
    outlier = array.copy()
    outlier[17, 31] = 3e38
    frame = ChunkCodec(config).encode(outlier)
    assert_kept(outlier, decode_frame(frame), config)
    assert len(frame) < plain + 400
