"""A region of a chunk is what the whole chunk has there, in every mode, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xwalloc import inspect
from xwalloc.bitstream import planes
from xwalloc.codec.chunk import ChunkCodec, decode_frame
from xwalloc.codec.config import CodecConfig
from xwalloc.errors import FormatError
from xwalloc.testing import chunks, configurations

CUBE = {"channel_axis": 0, "signal_axes": (1, 2)}


def regions(shape):
    edges = [st.tuples(st.integers(0, n), st.integers(0, n)).map(sorted) for n in shape]
    return st.tuples(*edges).map(lambda pairs: tuple(slice(*pair) for pair in pairs))


def assert_equals_the_whole(frame, region):
    expected = decode_frame(frame)[region]
    part = decode_frame(frame, region=region)
    assert part.shape == expected.shape
    assert part.dtype == expected.dtype
    assert np.ascontiguousarray(part).tobytes() == np.ascontiguousarray(expected).tobytes()


@settings(deadline=None)
@given(st.data())
def test_regions_of_small_chunks(data):
    chunk = data.draw(chunks())
    frame = ChunkCodec(data.draw(configurations(chunk))).encode(chunk.array)
    assert_equals_the_whole(frame, data.draw(regions(chunk.array.shape)))


def large(signal, channels, noise, seed=0):
    rng = np.random.default_rng(seed)
    scene = rng.normal(size=signal).cumsum(-1)
    if len(signal) > 1:
        scene = scene.cumsum(-2) / 8
    gains = rng.uniform(0.5, 2, size=(channels, *[1] * len(signal)))
    cube = gains * scene + rng.normal(size=(channels, *signal)) * noise
    cube[0].flat[1000:1100] = np.nan
    cube[1].flat[5000] = np.inf
    cube[:, ..., -3:] = -9999
    return cube.astype("f4")


@pytest.mark.parametrize("mode", ["TRANSFORM", "LATTICE"])
@pytest.mark.parametrize("signal", [(420, 410), (170_001,)])
@pytest.mark.parametrize("order", [None, (1, 0)])
def test_regions_of_large_chunks(mode, signal, order):
    channels, bound = (18, 2.0) if mode == "TRANSFORM" else (6, 0.02)
    array = large(signal, channels, 0.3)
    axes = list(range(array.ndim))
    if order:
        array = np.moveaxis(array, 0, -1)
        axes = axes[-1:] + axes[:-1]
    config = {"channel_axis": axes[0], "signal_axes": tuple(sorted(axes[1:])), "nodata": -9999.0, "max_error": bound}
    frame = ChunkCodec(CodecConfig(**config)).encode(array)
    assert inspect(frame).mode == mode.lower()
    rng = np.random.default_rng(1)
    for _ in range(6):
        edges = [sorted(rng.integers(0, n + 1, 2)) for n in array.shape]
        assert_equals_the_whole(frame, tuple(slice(int(a), int(b)) for a, b in edges))
    assert_equals_the_whole(frame, tuple(slice(n - 1, n) for n in array.shape))
    assert_equals_the_whole(frame, tuple(slice(0, n) for n in array.shape))


def test_only_what_is_touched_is_decoded(monkeypatch):
    frame = ChunkCodec(CodecConfig(**CUBE, max_error=1.0)).encode(large((600, 500), 20, 1.0))
    decoded = []
    decode = planes.decode
    monkeypatch.setattr(planes, "decode", lambda *args: decoded.append(args[4]) or decode(*args))
    decode_frame(frame)
    whole = len(decoded)
    decode_frame(frame, region=(slice(None), slice(300, 301), slice(None)))
    assert len(decoded) - whole <= whole - 3


def test_wrong_regions_are_refused():
    frame = ChunkCodec(CodecConfig(**CUBE, max_error=0.1)).encode(np.zeros((3, 8, 8), "f4"))
    with pytest.raises(ValueError, match="3 slices"):
        decode_frame(frame, region=(slice(0, 2),))
    with pytest.raises(ValueError, match="step 1"):
        decode_frame(frame, region=(slice(0, 2), slice(None, None, 2), slice(None)))
    with pytest.raises(ValueError, match="3 slices"):
        decode_frame(frame, region=(1, slice(None), slice(None)))
    with pytest.raises(FormatError, match=r"\(1, 8, 8\)"):
        decode_frame(frame, region=(slice(0, 1), slice(None), slice(None)), out=np.zeros((3, 8, 8), "f4"))
