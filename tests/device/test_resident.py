"""Chunks decoded on a device: the same bits as on a CPU, for every kind of frame and sample."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("triton", reason="triton is not installed")

from xwalloc.bitstream import planes, rans, segments  # noqa: E402
from xwalloc.bitstream.frame import Frame, Mode, Section  # noqa: E402
from xwalloc.codec import devices, transform_sections  # noqa: E402
from xwalloc.codec.chunk import ChunkCodec, decode_frame  # noqa: E402
from xwalloc.codec.config import CodecConfig  # noqa: E402
from xwalloc.codec.resident import decode as resident  # noqa: E402
from xwalloc.codec.resident import encode as encoder  # noqa: E402
from xwalloc.codec.resident import job, sections  # noqa: E402
from xwalloc.device import coder, memory  # noqa: E402
from xwalloc.errors import BudgetError, FormatError  # noqa: E402
from xwalloc.transform.filters import FilterPair  # noqa: E402

FIXTURES = Path(__file__).parent.parent / "fixtures" / "v1"


@pytest.fixture
def check(places):
    """Checks that a frame, or a region, has the bits of a CPU, and that the device has decoded it."""

    def check(frame, **more):
        places.decoded.clear()
        expected = places.on_cpu(decode_frame, frame, **more)
        found = decode_frame(frame, **more)
        assert places.decoded == [1]
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        assert found.tobytes() == expected.tobytes()

    return check


@pytest.fixture
def encode(places, chunks):
    """Encodes a chunk on the CPU."""

    def encode(data, **more):
        return places.on_cpu(ChunkCodec(CodecConfig(**{**chunks.CUBE, **more})).encode, data)

    return encode


@pytest.mark.parametrize("dtype", ["i1", ">u2", "i4", "u4", "f2", "f4", ">f8"])
def test_every_kind_of_sample(check, encode, chunks, dtype):
    channels = 12 if dtype == "i1" else 4  # fewer bytes are not worth it
    check(encode(chunks.mixture((channels, 11, 13), dtype), max_error=2, levels=2))


@pytest.mark.parametrize("more", [{"tree": "packet"}, {"boundary": "periodization"}, {"profile": "default"}])
def test_every_transform(check, encode, chunks, more):
    check(encode(chunks.mixture((3, 16, 12), "f4"), **{"max_error": 2, "levels": 2, **more}))


def test_special_samples_and_regions(check, encode, chunks):
    frame = encode(chunks.with_holes((8, 20, 22)), max_error=1.5, nodata=-9999, levels=1)
    check(frame)
    check(frame, region=(slice(2, 7), slice(1, 16), slice(3, 4)))


def test_axes_in_any_order(check, encode, chunks):
    data = np.stack([chunks.mixture((6, 9, 10), "f4", seed) for seed in range(2)]).transpose(2, 1, 0, 3)
    frame = encode(data, channel_axis=1, signal_axes=(0, 3), max_error=1.5, levels=1)
    check(frame)
    check(frame, region=(slice(0, 5), slice(3, 4), slice(1, 2), slice(0, 9)))


@pytest.fixture
def slabs(monkeypatch):
    """Residual layers are cut into slabs of 500 samples; what was read of which slabs is noted."""

    def cuts(shape):
        return segments.cuts(shape, planes.GROUP, 500)

    noted = []
    take_apart = rans.take_apart
    monkeypatch.setattr(transform_sections, "residual_cuts", cuts)
    monkeypatch.setattr(job, "residual_cuts", cuts)
    monkeypatch.setattr(rans, "take_apart", lambda data, *more: noted.append(len(more[0])) or take_apart(data, *more))
    sections._kept_residual_geometry.cache_clear()
    yield noted
    sections._kept_residual_geometry.cache_clear()


@pytest.mark.parametrize("holes", [False, True])
def test_only_slabs_that_a_region_touches_are_decoded(check, encode, chunks, slabs, holes):
    data = chunks.with_holes((4, 40, 24)) if holes else chunks.mixture((4, 40, 24), "f4")
    frame = encode(data, max_error=1.5, nodata=-9999, levels=1)
    check(frame)
    for rows, count in ((slice(9, 12), 1), (slice(30, 40), 2)):
        del slabs[:]
        check(frame, region=(slice(1, 3), rows, slice(2, 20)))
        assert slabs == [1, count]


def test_damage_outside_of_a_region_is_not_seen(places, encode, chunks, slabs):
    whole = encode(chunks.mixture((4, 40, 24), "f4"), max_error=1.5, levels=1)
    frame = chunks.parsed(whole)
    data = bytearray(frame.sections[Section.RESIDUAL])
    data[-1] ^= 0x55
    damaged = Frame(header=frame.header, sections={**frame.sections, Section.RESIDUAL: bytes(data)}).to_bytes()
    region = slice(0, 4), slice(0, 30), slice(0, 24)
    expected = places.on_cpu(decode_frame, whole, region=region)
    assert decode_frame(damaged, region=region).tobytes() == expected.tobytes()
    assert places.on_cpu(decode_frame, damaged, region=region).tobytes() == expected.tobytes()
    with pytest.raises(FormatError):
        decode_frame(damaged, region=(slice(0, 4), slice(0, 40), slice(0, 1)))
    assert places.decoded == [1, 1]


def test_streams_that_travel_by_themselves(monkeypatch, check, encode, chunks):
    monkeypatch.setattr(memory, "LARGE", 300)
    check(encode(chunks.mixture((6, 24, 24), "f4"), max_error=0.5, levels=1))


@pytest.mark.parametrize(
    ("names", "count"),
    [
        ("bounded float32 holes flags-among", 4),
        pytest.param("*", 16, marks=pytest.mark.gpu, id="all"),
        pytest.param("*", 16, marks=pytest.mark.nightly, id="all-interpreted"),
    ],
)
def test_frames_of_every_version(check, chunks, names, count):
    found = 0
    for path in (path for name in names.split() for path in sorted(FIXTURES.glob(f"transform-{name}.xwalloc"))):
        frame = path.read_bytes()
        if chunks.parsed(frame).header.mode == Mode.TRANSFORM:
            check(frame)
            found += 1
    assert found == count


def test_chunks_of_all_kinds_together(places, encode, chunks):
    """Shapes, ranks, masks, dtypes and profiles differ."""
    frames = [
        encode(chunks.mixture((4, 11, 13), "f4"), max_error=2, levels=1),
        encode(chunks.mixture((4, 11, 13), "f4", 1), max_error=0.7, levels=1),
        encode(chunks.with_holes((4, 20, 22)), max_error=1.5, nodata=-9999, levels=1),
        encode(chunks.mixture((3, 8, 9), "u2"), max_error=3, levels=1),
        encode(chunks.mixture((4, 11, 13), "f8"), levels=1, profile="default", step=2.0),
    ]
    expected = [places.on_cpu(decode_frame, frame) for frame in frames]
    found = places.together(decode_frame, frames)
    for one, other in zip(found, expected, strict=True):
        assert one.tobytes() == other.tobytes()
    assert places.decoded == [len(frames)]


def test_regions_of_chunks_that_are_alike_together(places, encode, chunks):
    frames = [encode(chunks.mixture((6, 11, 13), "f4", seed), max_error=2, levels=1) for seed in range(3)]
    region = (slice(2, 5), slice(0, 11), slice(1, 13))

    def decode(frame):
        return decode_frame(frame, region=region)

    expected = [places.on_cpu(decode, frame) for frame in frames]
    for one, other in zip(places.together(decode, frames), expected, strict=True):
        assert one.tobytes() == other.tobytes()
    assert places.decoded == [len(frames)]


def test_chunks_whose_arithmetic_is_not_certain(monkeypatch, places, encode, chunks):
    """They are decoded again together, and their symbols are looked at before."""
    frames = [encode(chunks.mixture((4, 11, 13), "f4", seed), max_error=2, levels=1) for seed in range(2)]
    monkeypatch.setattr(resident, "certain", lambda grid, shift: 0.0)
    found = places.together(decode_frame, frames)
    for one, frame in zip(found, frames, strict=True):
        assert one.tobytes() == places.on_cpu(decode_frame, frame).tobytes()
    assert sum(places.decoded) == 4


def test_streams_that_take_too_many_steps_are_for_the_host(monkeypatch, check, encode, chunks):
    frame = encode(chunks.mixture((5, 11, 13), "f4"), max_error=2)
    monkeypatch.setattr(job, "MOST_STEPS", 0)
    monkeypatch.setattr(coder, "decode", None)
    check(frame)


def test_filters_that_reach_far_are_for_the_host():
    """A frame may state taps wherever it likes; each span is compiled anew."""

    class Far:
        def filters(self, side, shift):
            return FilterPair(lo=(1.0, 1.0), lo_origin=-128, hi=(1.0, -1.0), hi_origin=127)

    assert job._span(Far(), 8) > job.MOST_TAPS


def test_without_triton_chunks_stay_on_the_host(monkeypatch, places, encode, chunks):
    frame = encode(chunks.mixture((4, 11, 13), "f4"), max_error=2, levels=1)
    expected = places.on_cpu(decode_frame, frame)
    for module in (job, encoder):
        monkeypatch.setattr(module, "has_kernels", lambda: False)
    assert decode_frame(frame).tobytes() == expected.tobytes()
    assert ChunkCodec(CodecConfig(**chunks.CUBE, max_error=2, levels=1)).encode(expected)
    assert places.decoded == places.encoded == []


def test_a_budget_that_a_batch_exceeds_is_looked_at_chunk_by_chunk(monkeypatch, places, encode, chunks):
    def too_large(device, jobs, measured=False):
        if not measured or hopeless:
            raise BudgetError("too large")
        return decode(device, jobs, measured)

    decode, hopeless = resident.decode, False
    frame = encode(chunks.mixture((4, 11, 13), "f4"), max_error=2, levels=1)
    expected = places.on_cpu(decode_frame, frame)
    monkeypatch.setattr(resident, "decode", too_large)
    assert decode_frame(frame).tobytes() == expected.tobytes()
    hopeless = True
    with pytest.raises(FormatError, match="impossible: too large"):
        decode_frame(frame)


def test_a_device_that_is_too_small_leaves_chunks_to_the_cpu(monkeypatch, places, encode, chunks):
    def no_memory(device, jobs, measured):
        raise torch.OutOfMemoryError("too little")

    frame = encode(chunks.mixture((4, 11, 13), "f4"), max_error=2, levels=1)
    expected = places.on_cpu(decode_frame, frame)
    monkeypatch.setattr(resident, "decode", no_memory)
    monkeypatch.setattr(devices, "_warned", False)
    with pytest.warns(RuntimeWarning, match="on the CPU"):
        assert decode_frame(frame).tobytes() == expected.tobytes()
    assert decode_frame(frame).tobytes() == expected.tobytes()  # in silence


def test_damaged_streams_are_refused(places, encode, chunks):
    frame = chunks.parsed(encode(chunks.mixture((4, 11, 13), "f4"), max_error=2, levels=1))
    rng = np.random.default_rng(0)
    for section in (Section.LATENTS, Section.RESIDUAL):
        for _ in range(2):
            data = bytearray(frame.sections[section])
            data[int(rng.integers(len(data) * 3 // 4, len(data)))] ^= int(rng.integers(1, 256))
            forged = Frame(header=frame.header, sections={**frame.sections, section: bytes(data)}).to_bytes()
            with pytest.raises(FormatError):
                decode_frame(forged)
    assert places.decoded
