"""Chunks encoded on a device: the same bytes as on a CPU."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")


from xwalloc.bitstream import planes  # noqa: E402
from xwalloc.codec import engine  # noqa: E402
from xwalloc.codec.chunk import ChunkCodec  # noqa: E402
from xwalloc.codec.config import CodecConfig  # noqa: E402
from xwalloc.codec.resident import encode  # noqa: E402

CUBE = {"channel_axis": 0, "signal_axes": (1, 2), "profile": "parallel"}


@pytest.fixture
def there(monkeypatch, device):
    """Chunks of this process are encoded where kernels run; counts those that are."""
    monkeypatch.setattr(planes, "LANE_COST", 0.5)
    tried = []
    attempt = encode.attempt
    monkeypatch.setattr(engine, "device", lambda: "cuda:0" if device.type == "cuda" else "cpu:0")
    monkeypatch.setattr(encode, "attempt", lambda where, items: tried.append(len(items)) or attempt(where, items))
    return tried


def mixture(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    sources = rng.normal(size=(2, *shape[1:])).cumsum(1).cumsum(2) * 3
    data = np.tensordot(rng.normal(size=(shape[0], 2)), sources, 1) + rng.normal(size=shape) / 2
    if np.dtype(dtype).kind in "iu":
        data = (data - data.min()).clip(0, 125)
    return data.astype(dtype)


def on_cpu(monkeypatch, codec, chunk):
    with monkeypatch.context() as context:
        context.setattr(engine, "device", lambda: "cpu")
        return codec.encode_and_measure(chunk)


def check(monkeypatch, there, config, chunk):
    there.clear()
    codec = ChunkCodec(CodecConfig(**config))
    assert codec.encode_and_measure(chunk) == on_cpu(monkeypatch, codec, chunk)
    assert there


@pytest.mark.parametrize("dtype", ["i1", "u2", "f2", "f4", ">f8"])
def test_same_bytes(monkeypatch, there, dtype):
    check(monkeypatch, there, {**CUBE, "max_error": 2}, mixture((18, 11, 13), dtype))


@pytest.mark.parametrize("more", [{"step": 1.0}, {"max_error": 2, "tree": "packet", "levels": 2}])
def test_every_target(monkeypatch, there, more):
    check(monkeypatch, there, {**CUBE, **more}, mixture((17, 12, 20), "f4"))


def test_special_samples(monkeypatch, there):
    data = mixture((18, 20, 22), "f4")
    data[:, 3:9, 2:12] = np.nan
    data[5, 15, 3:6] = 1e30, np.inf, -np.inf
    check(monkeypatch, there, {**CUBE, "max_error": 1.5, "nodata": -9999}, data)


def test_chunks_together(monkeypatch, there):
    chunks = [mixture((18, 11, 13), "f4", seed) for seed in range(3)] + [mixture((17, 8, 9), "i2")]
    codec = ChunkCodec(CodecConfig(**CUBE, max_error=2))
    expected = [on_cpu(monkeypatch, codec, chunk) for chunk in chunks]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(codec.encode_and_measure, chunks)) == expected


def test_other_chunks_stay_on_the_host(monkeypatch, there):
    codec = ChunkCodec(CodecConfig(**{**CUBE, "profile": "default"}, max_error=2))
    chunk = mixture((18, 11, 13), "f4")
    assert codec.encode(chunk) == on_cpu(monkeypatch, codec, chunk)[0]
    assert not there
