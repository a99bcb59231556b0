"""Chunks decoded on a device: the same bits as on a CPU, for every kind of frame and sample."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from xwalloc.bitstream import planes  # noqa: E402
from xwalloc.bitstream.frame import DecodeLimits, Frame, Mode, Section  # noqa: E402
from xwalloc.codec import devices, engine  # noqa: E402
from xwalloc.codec.chunk import ChunkCodec, decode_frame  # noqa: E402
from xwalloc.codec.config import CodecConfig  # noqa: E402
from xwalloc.codec.resident import decode as resident  # noqa: E402
from xwalloc.errors import FormatError  # noqa: E402

CUBE = {"channel_axis": 0, "signal_axes": (1, 2), "profile": "parallel"}
FIXTURES = Path(__file__).parent.parent / "fixtures" / "v1"


@pytest.fixture
def there(monkeypatch, device):
    """Chunks of this process are decoded where kernels run; counts those that are.

    Streams have many lanes, so that the interpreter has few steps to take.
    """
    monkeypatch.setattr(planes, "LANE_COST", 0.5)
    decoded = []
    decode = resident.decode
    monkeypatch.setattr(engine, "device", lambda: "cuda:0" if device.type == "cuda" else "cpu:0")
    monkeypatch.setattr(resident, "decode", lambda where, jobs: decoded.append(len(jobs)) or decode(where, jobs))
    return decoded


def mixture(shape, dtype, seed=0):
    """A chunk of few sources and some noise, that transform mode codes best."""
    rng = np.random.default_rng(seed)
    sources = rng.normal(size=(2, *shape[1:])).cumsum(1).cumsum(2) * 3
    data = np.tensordot(rng.normal(size=(shape[0], 2)), sources, 1) + rng.normal(size=shape) / 2
    if np.dtype(dtype).kind in "iu":
        data = (data - data.min()).clip(0, 125)
    return data.astype(dtype)


def on_cpu(monkeypatch, frame, **more):
    with monkeypatch.context() as context:
        context.setattr(engine, "device", lambda: "cpu")
        return decode_frame(frame, **more)


def check(monkeypatch, there, frame, **more):
    """Same bits as on a CPU, and the device has done it."""
    there.clear()
    expected = on_cpu(monkeypatch, frame, **more)
    found = decode_frame(frame, **more)
    assert there == [1]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert found.tobytes() == expected.tobytes()


@pytest.mark.parametrize("dtype", ["i1", ">u2", "i4", "u4", "f2", "f4", ">f8"])
def test_every_kind_of_sample(monkeypatch, there, dtype):
    frame = ChunkCodec(CodecConfig(**CUBE, max_error=2)).encode(mixture((18, 11, 13), dtype))
    check(monkeypatch, there, frame)


@pytest.mark.parametrize(
    "more", [{"tree": "packet", "levels": 2}, {"boundary": "periodization"}, {"profile": "default"}]
)
def test_every_transform(monkeypatch, there, more):
    frame = ChunkCodec(CodecConfig(**{**CUBE, "max_error": 2, **more})).encode(mixture((17, 20, 12), "f4"))
    check(monkeypatch, there, frame)


def with_holes():
    data = mixture((18, 20, 22), "f4")
    data[:, 3:9, 2:12] = np.nan
    data[5, 15, 3:6] = 1e30, np.inf, -np.inf
    data[2, :, :4] = -9999
    return data


def test_special_samples_and_regions(monkeypatch, there):
    codec = ChunkCodec(CodecConfig(**CUBE, max_error=1.5, nodata=-9999))
    frame = codec.encode(with_holes())
    check(monkeypatch, there, frame)
    check(monkeypatch, there, frame, region=(slice(2, 7), slice(1, 16), slice(3, 4)))


def test_axes_in_any_order(monkeypatch, there):
    data = np.stack([mixture((18, 9, 10), "f4", seed) for seed in range(2)]).transpose(2, 1, 0, 3)
    config = CodecConfig(channel_axis=1, signal_axes=(0, 3), max_error=1.5, profile="parallel")
    frame = ChunkCodec(config).encode(data)
    check(monkeypatch, there, frame)
    check(monkeypatch, there, frame, region=(slice(0, 5), slice(3, 4), slice(1, 2), slice(0, 9)))


def test_frames_of_every_version(monkeypatch, there, device):
    """Those of other modes stay on the CPU."""
    found = 0
    names = "transform-*" if device.type == "cuda" else "transform-[bfh]*"  # the interpreter takes its time
    for path in sorted(FIXTURES.glob(f"{names}.xwalloc")):
        frame = path.read_bytes()
        if Frame.parse(frame, DecodeLimits(max_bytes=10**7)).header.mode == Mode.TRANSFORM:
            check(monkeypatch, there, frame)
            found += 1
    assert found >= 8
    there.clear()
    exact = ChunkCodec(CodecConfig(**CUBE, lossless=True)).encode(mixture((3, 9, 9), "i2"))
    decode_frame(exact)
    assert not there


def test_chunks_of_all_kinds_together(monkeypatch, there):
    """Shapes, ranks, masks, dtypes and profiles differ; a damaged one fails alone."""
    configs = [
        (mixture((18, 11, 13), "f4"), CodecConfig(**CUBE, max_error=2)),
        (mixture((18, 11, 13), "f4", 1), CodecConfig(**CUBE, max_error=0.7)),
        (with_holes(), CodecConfig(**CUBE, max_error=1.5, nodata=-9999)),
        (mixture((17, 8, 9), "u2"), CodecConfig(**CUBE, max_error=3)),
        (mixture((18, 11, 13), "f8"), CodecConfig(**{**CUBE, "profile": "default"}, step=2.0)),
    ]
    frames = [ChunkCodec(config).encode(data) for data, config in configs]
    expected = [on_cpu(monkeypatch, frame) for frame in frames]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(decode_frame, frames))
    for one, other in zip(found, expected, strict=True):
        assert one.tobytes() == other.tobytes()
    assert max(there) > 1


def test_regions_of_chunks_that_are_alike_together(monkeypatch, there):
    codec = ChunkCodec(CodecConfig(**CUBE, max_error=2))
    frames = [codec.encode(mixture((18, 11, 13), "f4", seed)) for seed in range(4)]
    region = (slice(2, 5), slice(0, 11), slice(1, 13))
    expected = [on_cpu(monkeypatch, frame, region=region) for frame in frames]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda frame: decode_frame(frame, region=region), frames))
    for one, other in zip(found, expected, strict=True):
        assert one.tobytes() == other.tobytes()
    assert max(there) > 1


def test_chunks_whose_arithmetic_is_not_certain(monkeypatch, there):
    """They are decoded again, step by step."""
    frame = ChunkCodec(CodecConfig(**CUBE, max_error=2)).encode(mixture((18, 11, 13), "f4"))
    alone = []
    decode = resident.decode_alone
    monkeypatch.setattr(resident, "certain", lambda grid, shift: 0.0)
    monkeypatch.setattr(resident, "decode_alone", lambda *args: alone.append(1) or decode(*args))
    check(monkeypatch, there, frame)
    assert alone == [1]


def test_a_device_that_is_too_small_leaves_chunks_to_the_cpu(monkeypatch, there):
    def no_memory(device, jobs):
        raise torch.OutOfMemoryError("too little")

    frame = ChunkCodec(CodecConfig(**CUBE, max_error=2)).encode(mixture((18, 11, 13), "f4"))
    expected = on_cpu(monkeypatch, frame)
    monkeypatch.setattr(resident, "decode", no_memory)
    monkeypatch.setattr(devices, "_warned", False)
    with pytest.warns(RuntimeWarning, match="on the CPU"):
        assert decode_frame(frame).tobytes() == expected.tobytes()
    assert decode_frame(frame).tobytes() == expected.tobytes()  # in silence


def test_damaged_streams_are_refused(monkeypatch, there):
    frame = ChunkCodec(CodecConfig(**CUBE, max_error=2)).encode(mixture((18, 11, 13), "f4"))
    parsed = Frame.parse(frame, DecodeLimits(max_bytes=10**7))
    rng = np.random.default_rng(0)
    for section in (Section.LATENTS, Section.RESIDUAL):
        for _ in range(2):
            data = bytearray(parsed.sections[section])
            data[int(rng.integers(len(data) * 3 // 4, len(data)))] ^= int(rng.integers(1, 256))
            forged = Frame(header=parsed.header, sections={**parsed.sections, section: bytes(data)}).to_bytes()
            with pytest.raises(FormatError):
                decode_frame(forged)
    assert there
