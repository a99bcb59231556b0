"""Chunks encoded on a device: the same bytes as on a CPU."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from xwalloc.codec import devices  # noqa: E402
from xwalloc.codec.chunk import ChunkCodec  # noqa: E402
from xwalloc.codec.config import CodecConfig  # noqa: E402
from xwalloc.codec.resident import DeviceArray, encode  # noqa: E402
from xwalloc.device import memory  # noqa: E402


@pytest.fixture
def check(places, chunks):
    """Checks that the device makes the bytes of the CPU."""

    def check(chunk, **more):
        places.encoded.clear()
        codec = ChunkCodec(CodecConfig(**{**chunks.CUBE, "levels": 1, **more}))
        assert codec.encode_and_measure(chunk) == places.on_cpu(codec.encode_and_measure, chunk)
        assert places.encoded

    return check


@pytest.mark.parametrize("dtype", ["i1", "u2", "f2", "f4", ">f8"])
def test_same_bytes(check, chunks, dtype):
    check(chunks.mixture((4, 9, 10), dtype), max_error=2)


@pytest.mark.parametrize(
    "more", [{"step": 1.0, "levels": 2}, {"snr": 20.0}, {"max_error": 2, "tree": "packet", "levels": 2}]
)
def test_every_target(check, chunks, more):
    check(chunks.mixture((3, 10, 12), "f4"), **more)


def test_special_samples(check, chunks):
    check(chunks.with_holes((4, 20, 22)), max_error=1.5, nodata=-9999)


@pytest.mark.parametrize("more", [{}, {"nodata": -9999}])
def test_samples_that_lie_there(places, chunks, more):
    chunk = chunks.mixture((16, 9, 10), "f4")
    codec = ChunkCodec(CodecConfig(**{**chunks.CUBE, "levels": 1, "max_error": 4, **more}))
    there = DeviceArray(torch.from_numpy(chunk).to(places.name), chunk.dtype)
    assert codec.encode_and_measure(there) == places.on_cpu(codec.encode_and_measure, chunk)
    assert places.encoded == [1]
    assert memory.send(torch.device("cuda")).here() == []  # nothing besides the samples


def test_a_channel_without_samples(places, chunks):
    """Whatever fills it is within the range of the others, on which the arithmetic relies."""
    data = 1000 + np.random.default_rng(0).normal(size=(3, 2, 9, 10)).cumsum(-1)
    data[1] = np.nan
    codec = ChunkCodec(CodecConfig(channel_axis=1, signal_axes=(2, 3), profile="parallel", levels=1, max_error=0.05))
    assert codec.encode(data) == places.on_cpu(codec.encode, data)
    assert places.encoded


def test_chunks_together(places, chunks):
    some = [chunks.mixture((4, 11, 13), "f4", seed) for seed in range(2)] + [chunks.mixture((4, 9, 11), "i2")]
    codec = ChunkCodec(CodecConfig(**chunks.CUBE, max_error=2, levels=1))
    expected = [places.on_cpu(codec.encode_and_measure, chunk) for chunk in some]
    assert places.together(codec.encode_and_measure, some) == expected


def test_other_chunks_stay_on_the_host(places, chunks):
    codec = ChunkCodec(CodecConfig(**{**chunks.CUBE, "profile": "default"}, max_error=2))
    chunk = chunks.mixture((5, 11, 13), "f4")
    assert codec.encode(chunk) == places.on_cpu(codec.encode, chunk)
    assert not places.encoded


@pytest.mark.parametrize("step", ["moments", "trials", "quantise", "attempt"])
def test_a_device_that_is_too_small_leaves_chunks_to_the_cpu(monkeypatch, places, chunks, step):
    def no_memory(device, items):
        raise torch.OutOfMemoryError("too little")

    codec = ChunkCodec(CodecConfig(**chunks.CUBE, max_error=2, levels=1))
    chunk = chunks.mixture((4, 9, 10), "f4")
    expected = places.on_cpu(codec.encode, chunk)
    monkeypatch.setattr(encode, step, no_memory)
    monkeypatch.setattr(devices, "_warned", False)
    with pytest.warns(RuntimeWarning, match="on the CPU"):
        assert codec.encode(chunk) == expected
    assert codec.encode(chunk) == expected  # in silence
