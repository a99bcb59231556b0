"""Bytes that nobody's encoder wrote: noticed where they were damaged, harmless where they were made on purpose.

Frames here are tiny, so that every bit and every cut can be tried; `FRAMES` has every mode and every section.
"""

import functools
import struct
import time
import tracemalloc

import google_crc32c
import numcodecs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xwalloc import inspect
from xwalloc import settings as runtime
from xwalloc.bitstream.frame import (
    AXIS,
    CRC,
    ENTRY,
    FIXED,
    AxisRole,
    DecodeLimits,
    Frame,
    Header,
    Mode,
    Quality,
    Section,
    parse_header,
)
from xwalloc.bitstream.tables import shipped_id
from xwalloc.codec.chunk import ChunkCodec, decode_frame
from xwalloc.codec.config import CodecConfig
from xwalloc.codec.lattice_mode import LatticeKind
from xwalloc.errors import FormatError, LimitError, TruncatedError, UnsupportedFormatError
from xwalloc.numcodecs import Walloc

SLOW = {"deadline": None, "suppress_health_check": list(HealthCheck)}
CUBE = {"channel_axis": 0, "signal_axes": (1, 2)}
LIMIT = DecodeLimits(max_bytes=1 << 16)
SECONDS = 3.0
MEMORY = 16 << 20
"""What decoding a forged frame may take; the frames here hold chunks of at most 24 kB, and limits are 64 kB."""

MODE_AT, DTYPE_AT, ORDER_AT, NDIM_AT, COUNT_AT = 5, 6, 7, 8, 9


def samples(dtype="f4", shape=(2, 12, 13), scale=1.0):
    data = np.random.default_rng(9).normal(size=shape)
    for axis in range(1, len(shape)):
        data = data.cumsum(axis)
    return (data * scale).astype(dtype)


def mixture(*, holes=False):
    """Eighteen channels of two sources: what a spectral basis is for."""
    rng = np.random.default_rng(3)
    data = np.tensordot(rng.normal(size=(18, 2)), samples("f8", (2, 20, 22), 3.0), 1)
    array = (data + rng.normal(size=data.shape) / 2).astype("f4")
    if holes:
        array[:, 3:9, 2:12] = np.nan
        array[5, 15, 3:6] = 1e30, np.inf, -np.inf
    return array


def with_holes(dtype="f4"):
    array = samples(dtype, (2, 16, 16), 4.0)
    array[:, 3:7, 2:9] = np.nan
    array[1, 12, 3:6] = 1e30, np.inf, -np.inf
    return array


FRAMES = {
    "stored": (np.frombuffer(np.random.default_rng(0).bytes(120), "u1"), {"signal_axes": (0,), "lossless": True}),
    "empty": (np.zeros((2, 0, 3), "f8"), {**CUBE, "max_error": 1.0}),
    "integers": (samples("i2", scale=9.0), {**CUBE, "max_error": 1.0}),
    "reals": (samples(), {**CUBE, "max_error": 0.05}),
    "bits": (samples(">f4"), {**CUBE, "lossless": True}),
    "bits64": (1000 + samples("f8", (1, 14, 15), 1e-3), {**CUBE, "lossless": True}),
    "lattice-holes": (with_holes(), {**CUBE, "max_error": 0.05, "nodata": -9999}),
    "residual": (mixture(), {**CUBE, "max_error": 1.5}),
    "residual-holes": (mixture(holes=True), {**CUBE, "max_error": 1.5, "nodata": -9999}),
    "step": (samples(scale=4.0), {**CUBE, "step": 2.0}),
    "packet": (
        samples(scale=4.0),
        {**CUBE, "step": 2.0, "tree": "packet", "boundary": "periodization", "wavelet": "db3"},
    ),
    "step-holes": (with_holes(), {**CUBE, "step": 2.0, "nodata": -9999}),
    "series": (samples("i4", (3, 90), 9.0), {"channel_axis": 0, "signal_axes": (1,), "step": 5.0}),
}
EXPECTED = {
    "stored": (Mode.STORED, {Section.STORED}),
    "empty": (Mode.STORED, {Section.STORED}),
    "integers": (Mode.LATTICE, {Section.LATTICE, Section.LATTICE_SYMBOLS}),
    "reals": (Mode.LATTICE, {Section.LATTICE, Section.LATTICE_SYMBOLS}),
    "bits": (Mode.LATTICE, {Section.LATTICE, Section.LATTICE_SYMBOLS}),
    "bits64": (Mode.LATTICE, {Section.LATTICE, Section.LATTICE_SYMBOLS}),
    "lattice-holes": (Mode.LATTICE, {Section.MASK, Section.EXCEPTIONS, Section.LATTICE, Section.LATTICE_SYMBOLS}),
    "residual": (Mode.TRANSFORM, {Section.MODEL, Section.LATENTS, Section.RESIDUAL}),
    "residual-holes": (
        Mode.TRANSFORM,
        {Section.MASK, Section.EXCEPTIONS, Section.MODEL, Section.LATENTS, Section.RESIDUAL},
    ),
    "step": (Mode.TRANSFORM, {Section.MODEL, Section.LATENTS}),
    "packet": (Mode.TRANSFORM, {Section.MODEL, Section.LATENTS}),
    "step-holes": (Mode.TRANSFORM, {Section.MASK, Section.EXCEPTIONS, Section.MODEL, Section.LATENTS}),
    "series": (Mode.TRANSFORM, {Section.MODEL, Section.LATENTS}),
}
KINDS = {
    "integers": LatticeKind.INTEGERS,
    "reals": LatticeKind.REALS,
    "bits": LatticeKind.BITS,
    "bits64": LatticeKind.BITS,
}
NAMES = list(FRAMES)


@functools.cache
def frame_of(name):
    array, config = FRAMES[name]
    return ChunkCodec(CodecConfig(**config)).encode(array)


def split(frame):
    """Header bytes (without CRC) and the sections of a frame."""
    header, table, at = parse_header(frame)
    parts = {}
    for name, size, _ in table:
        parts[name] = frame[at : at + size]
        at += size
    return bytearray(frame[: FIXED.size + AXIS.size * len(header.shape)]), parts


def seal(head, parts, *, order=None, count=None, length=None):
    """A frame of header and section bytes with every count, length and checksum as an attacker would set it."""
    names = sorted(parts) if order is None else order
    head = bytearray(head)
    head[COUNT_AT] = len(names) if count is None else count
    entries = b"".join(ENTRY.pack(n, len(parts[n]), google_crc32c.value(bytes(parts[n]))) for n in names)
    body = b"".join(bytes(parts[n]) for n in names)
    total = len(head) + len(entries) + CRC.size + len(body)
    head[FIXED.size - 4 : FIXED.size] = struct.pack("<I", total if length is None else length)
    whole = bytes(head) + entries
    return whole + CRC.pack(google_crc32c.value(whole)) + body


def outcome(frame, limits=LIMIT):
    """Decode a forged frame: an array of the stated shape or an exception of ours, soon and in little memory."""
    tracemalloc.start()
    begin = time.perf_counter()
    array = None
    try:
        array = decode_frame(frame, limits=limits)
    except FormatError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.perf_counter() - begin < SECONDS
    assert peak < MEMORY
    if array is not None:
        header, _, _ = parse_header(frame)
        assert (array.shape, array.dtype) == (header.shape, header.dtype)
    return array


@pytest.fixture(scope="module", autouse=True)
def compiled():
    """Kernels are compiled (or read from the cache) before anything is timed."""
    for name in NAMES:
        decode_frame(frame_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_the_frames_are_what_they_are_meant_to_be(name):
    frame = frame_of(name)
    header, table, at = parse_header(frame)
    assert (header.mode, {section for section, _, _ in table}) == EXPECTED[name]
    if name in KINDS:
        assert split(frame)[1][Section.LATTICE][0] == KINDS[name]
    assert len(frame) < 2000
    assert at < len(frame) or name == "empty"
    assert seal(*split(frame)) == frame


# damage


@pytest.mark.parametrize("name", NAMES)
def test_every_flipped_bit_is_noticed(name):
    frame = frame_of(name)
    for i in range(len(frame)):
        for bit in range(8):
            damaged = bytearray(frame)
            damaged[i] ^= 1 << bit
            with pytest.raises(FormatError):
                decode_frame(bytes(damaged))


@pytest.mark.parametrize("name", NAMES)
def test_every_cut_and_everything_appended_is_noticed(name):
    frame = frame_of(name)
    for n in range(len(frame)):
        with pytest.raises(FormatError):
            decode_frame(frame[:n])
    for tail in (b"\0", b"\xff" * 7, frame[:1], frame):
        with pytest.raises(FormatError):
            decode_frame(frame + tail)
        with pytest.raises(FormatError):
            decode_frame(tail + frame)


def test_swapped_and_doubled_bytes_are_noticed():
    frame = frame_of("residual")
    for i in range(len(frame) - 1):
        if frame[i] != frame[i + 1]:
            with pytest.raises(FormatError):
                decode_frame(frame[:i] + frame[i + 1 : i + 2] + frame[i : i + 1] + frame[i + 2 :])
        with pytest.raises(FormatError):
            decode_frame(frame[:i] + frame[i : i + 1] + frame[i:])


FOREIGN = {
    "nothing": b"",
    "zeros": bytes(500),
    "text": b"The quick brown fox jumps over the lazy dog. " * 9,
    "zstd": numcodecs.Zstd().encode(np.arange(400)),
    "zlib": numcodecs.Zlib().encode(np.arange(400)),
    "blosc": numcodecs.Blosc().encode(np.arange(400)),
    "raw samples": np.arange(400, dtype="f4").tobytes(),
    "magic alone": b"XWLC",
    "magic and zeros": b"XWLC" + bytes(200),
    "magic and ones": b"XWLC\x01" + b"\xff" * 200,
}


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_bytes_are_refused(name):
    with pytest.raises(FormatError):
        decode_frame(FOREIGN[name])
    with pytest.raises(FormatError):
        Walloc(**CodecConfig(**CUBE, max_error=1.0).to_json()).decode(FOREIGN[name])


def test_random_bytes_are_refused():
    rng = np.random.default_rng(1)
    for _ in range(500):
        data = rng.bytes(int(rng.integers(0, 300)))
        for frame in (data, b"XWLC\x01" + data):
            with pytest.raises(FormatError):
                decode_frame(frame)


def test_errors_say_which_and_why():
    frame = bytearray(frame_of("step"))
    with pytest.raises(TruncatedError):
        decode_frame(bytes(frame[:-1]))
    frame[4] = 200
    with pytest.raises(UnsupportedFormatError, match="200"):
        decode_frame(bytes(frame))


# forgery: every checksum is right


@pytest.mark.parametrize("name", NAMES)
def test_every_header_byte_forged(name):
    head, parts = split(frame_of(name))
    for i in range(4, len(head)):
        for value in {0, 1, 2, 3, 8, 32, 127, 128, 255, head[i] ^ 1, head[i] ^ 16}:
            forged = bytearray(head)
            forged[i] = value
            outcome(seal(forged, parts))


@pytest.mark.parametrize("name", NAMES)
def test_every_section_cut_and_resealed(name):
    head, parts = split(frame_of(name))
    for section, payload in parts.items():
        for n in range(0, len(payload), 1 + len(payload) // 60):
            assert outcome(seal(head, {**parts, section: payload[:n]})) is None or section == Section.EXCEPTIONS
        for tail in (b"\0", b"\0\0", b"\xff" * 64, payload):
            outcome(seal(head, {**parts, section: payload + tail}))


@pytest.mark.parametrize("name", NAMES)
def test_every_first_byte_of_a_section_forged(name):
    """Parameters stand first."""
    head, parts = split(frame_of(name))
    for section, payload in parts.items():
        for i in range(min(len(payload), 24)):
            for value in {0, 1, 2, 3, 4, 31, 127, 128, 255, payload[i] ^ 1, payload[i] ^ 8} - {payload[i]}:
                forged = bytearray(payload)
                forged[i] = value
                outcome(seal(head, {**parts, section: forged}))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("stored", "empty")])
def test_bits_all_over_every_section_forged(name):
    head, parts = split(frame_of(name))
    for section, payload in parts.items():
        stride = 1 + len(payload) // 80
        for i in range(0, len(payload), stride):
            forged = bytearray(payload)
            forged[i] ^= 1 << (i * 5 + i // 8) % 8
            outcome(seal(head, {**parts, section: forged}))


@pytest.mark.parametrize("name", NAMES)
def test_sections_left_out_swapped_doubled_and_borrowed(name):
    head, parts = split(frame_of(name))
    for section in parts:
        assert outcome(seal(head, {k: v for k, v in parts.items() if k != section})) is None or section in (
            Section.MASK,
            Section.EXCEPTIONS,
            Section.RESIDUAL,
        )
    assert outcome(seal(head, parts, order=[*sorted(parts), max(parts)])) is None
    if len(parts) > 1:
        assert outcome(seal(head, parts, order=sorted(parts, reverse=True))) is None
    for code in (0, 9, 255):
        assert outcome(seal(head, {**parts, code: b"?"})) is None
    for other in NAMES:
        for section, payload in split(frame_of(other))[1].items():
            outcome(seal(head, {**parts, section: payload}))
        outcome(seal(head, split(frame_of(other))[1]))
    for mode in range(5):
        forged = bytearray(head)
        forged[MODE_AT] = mode
        outcome(seal(forged, parts))


@pytest.mark.parametrize("name", NAMES)
def test_other_shapes_for_the_same_streams(name):
    """Counts that do not belong to the streams behind them: one more, one less, none, all of the limit."""
    head, parts = split(frame_of(name))
    ndim = head[NDIM_AT]
    for axis in range(ndim):
        at = FIXED.size + AXIS.size * axis
        role, n = AXIS.unpack_from(head, at)
        for size in {0, 1, n - 1, n + 1, 2 * n, 17, 4096, 1 << 14}:
            forged = bytearray(head)
            AXIS.pack_into(forged, at, role, max(size, 0))
            outcome(seal(forged, parts))
        for other in (0, 1, 2, 3, 255):
            forged = bytearray(head)
            AXIS.pack_into(forged, at, other, n)
            outcome(seal(forged, parts))
    for dtype in range(9):
        for order in (0, 1):
            forged = bytearray(head)
            forged[DTYPE_AT], forged[ORDER_AT] = dtype, order
            outcome(seal(forged, parts))


@settings(max_examples=400, **SLOW)
@given(st.data())
def test_forged_at_random(data):
    head, parts = split(frame_of(data.draw(st.sampled_from(NAMES))))
    for _ in range(data.draw(st.integers(1, 4))):
        section = data.draw(st.sampled_from([None, *sorted(parts)]))
        target = head if section is None else bytearray(parts[section])
        if not target:
            continue
        at = data.draw(st.integers(4 if section is None else 0, len(target) - 1))
        patch = data.draw(st.binary(min_size=1, max_size=8))
        target[at : at + len(patch)] = patch[: len(target) - at]
        if section is not None:
            parts[section] = bytes(target)
    outcome(seal(head, parts))


@pytest.mark.parametrize("seed", range(4))
def test_forged_at_random_by_the_thousand(seed):
    rng = np.random.default_rng(seed)
    interesting = np.array([0, 1, 2, 7, 8, 15, 16, 31, 63, 64, 126, 127, 128, 129, 254, 255])
    for _ in range(500):
        head, parts = split(frame_of(NAMES[rng.integers(len(NAMES))]))
        section = sorted(parts)[rng.integers(len(parts))]
        payload = bytearray(parts[section])
        for _ in range(int(rng.integers(1, 12))):
            if payload:
                at = int(min(rng.integers(len(payload)), rng.integers(len(payload))))
                payload[at] = int(interesting[rng.integers(16)] if rng.random() < 0.5 else rng.integers(256))
        if rng.random() < 0.2:
            payload = payload[: int(rng.integers(len(payload) + 1))]
        if rng.random() < 0.1:
            payload += rng.bytes(int(rng.integers(40)))
        outcome(seal(head, {**parts, section: payload}))


# bombs


def forged_shape(name, shape):
    head, parts = split(frame_of(name))
    for axis, n in enumerate(shape):
        at = FIXED.size + AXIS.size * axis
        AXIS.pack_into(head, at, head[at], n)
    return seal(head, parts)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("stored", "empty", "series")])
@pytest.mark.parametrize("shape", [(2, 1 << 20, 1 << 20), ((1 << 32) - 1,) * 3, (1 << 32 - 1, 1, 1), (1, 1 << 31, 0)])
def test_huge_shapes_are_refused_before_anything_is_allocated(name, shape):
    assert outcome(forged_shape(name, shape), DecodeLimits(max_bytes=1 << 30)) is None


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("stored", "empty", "series")])
def test_a_chunk_as_large_as_the_limit_takes_memory_in_proportion(name):
    """A few hundred bytes that claim what the limit allows: decoding may take a multiple of the chunk, not more."""
    limits = DecodeLimits(max_bytes=1 << 20)
    itemsize = FRAMES[name][0].dtype.itemsize
    for shape in (
        (1, 1 << 10, (1 << 10) // itemsize),
        ((1 << 20) // itemsize, 1, 1),
        (1, 1, (1 << 20) // itemsize),
        (1 << 10, 1, (1 << 10) // itemsize),
    ):
        tracemalloc.start()
        begin = time.perf_counter()
        try:
            decode_frame(forged_shape(name, shape), limits=limits)
        except FormatError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert time.perf_counter() - begin < SECONDS
        assert peak < 64 * limits.max_bytes, f"{peak >> 20} MiB for a chunk of 1 MiB of shape {shape}"


def test_exceptions_cannot_be_more_than_samples():
    head, parts = split(frame_of("step-holes"))
    size = FRAMES["step-holes"][0].size
    for count in (size, size + 1, 1 << 31, (1 << 64) - 1):
        for width in (0, 1, 2, 3, 4, 8, 255):
            payload = struct.pack("<QB", count, width) + b"\xff" * 64
            assert outcome(seal(head, {**parts, Section.EXCEPTIONS: payload})) is None
    for gaps in ([size], [size - 1, 0], [(1 << 64) - 1], [1 << 63, 1 << 63]):
        payload = struct.pack("<QB", len(gaps), 8) + struct.pack(f"<{len(gaps)}Q", *gaps) + bytes(4 * len(gaps))
        assert outcome(seal(head, {**parts, Section.EXCEPTIONS: payload})) is None


def test_the_setting_bounds_what_numcodecs_decodes():
    array = np.zeros((2, 64, 64), "f4")
    codec = Walloc(**CodecConfig(**CUBE, max_error=1.0).to_json())
    frame = codec.encode(array)
    with runtime.set({"decode.max_bytes": array.nbytes - 1}):
        with pytest.raises(LimitError, match=r"decode\.max_bytes"):
            codec.decode(frame)
        out = np.ones_like(array)
        assert codec.decode(frame, out=out) is out  # who brings the memory says how much there is
        assert not out.any()
    with runtime.set({"decode.max_bytes": array.nbytes}):
        assert codec.decode(frame).shape == array.shape


def test_a_frame_of_another_chunk_is_refused_where_the_caller_knows_better():
    frame = frame_of("step")
    header, _, _ = parse_header(frame)
    for wrong in ({"shape": (1, *header.shape)}, {"shape": header.shape[::-1]}, {"dtype": np.dtype("f8")}):
        with pytest.raises(FormatError):
            decode_frame(frame, **wrong)
    with pytest.raises(FormatError):
        decode_frame(frame, out=np.empty(header.shape, "f8"))


def decoding(frame):
    """Seconds and peak bytes of a decoding that is refused."""
    array, configuration = FRAMES["lattice-holes"]
    decode_frame(ChunkCodec(CodecConfig(**configuration)).encode(array))  # loads kernels
    tracemalloc.start()
    start = time.perf_counter()
    with pytest.raises(FormatError):
        decode_frame(frame)
    seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return seconds, peak


def header_of(shape, roles, mode=Mode.LATTICE, dtype="u1"):
    tables = shipped_id() if mode != Mode.STORED else 0
    return Header(
        mode=mode, dtype=np.dtype(dtype), shape=shape, roles=roles, quality=Quality.LOSSLESS, value=0.0, tables=tables
    )


BCS = (AxisRole.BATCH, AxisRole.CHANNEL, AxisRole.SIGNAL)


@pytest.mark.parametrize("shape", [(1, 1_000_000, 1), (1_000_000, 1, 1), (1000, 1000, 1)])
def test_an_empty_mask_of_a_million_planes(shape):
    """A mask of no corrections takes next to no time or memory, however many planes it is of."""
    mask = bytes([0, 0, 1, 0]) + b"\x02" + struct.pack("<4I", *[65536] * 4)
    sections = {Section.MASK: mask, Section.LATTICE: b"", Section.LATTICE_SYMBOLS: b""}
    seconds, peak = decoding(Frame(header=header_of(shape, BCS), sections=sections).to_bytes())
    assert seconds < SECONDS
    assert peak < 60 * np.prod(shape)


@pytest.mark.parametrize("shape", [(1, 4_000_000, 1), (3_000_000, 1, 3)])
def test_too_many_thin_planes(shape):
    sections = {Section.LATTICE: bytes(40), Section.LATTICE_SYMBOLS: bytes(40)}
    seconds, peak = decoding(Frame(header=header_of(shape, BCS), sections=sections).to_bytes())
    assert seconds < SECONDS
    assert peak < MEMORY


def test_thin_planes_are_stored():
    array = np.arange(3_000_000, dtype="u4").astype("u1").reshape(1, 3_000_000, 1)
    frame = ChunkCodec(CodecConfig(channel_axis=1, signal_axes=(2,), lossless=True)).encode(array)
    assert inspect(frame).mode == "stored"
    np.testing.assert_array_equal(decode_frame(frame), array)


@pytest.mark.parametrize("shape", [(0, *[2**32 - 1] * 3), (2**32 - 1, 0, 2**32 - 1), (2**31, 2**31, 2, 0)])
def test_empty_chunks_of_impossible_axes(shape):
    roles = (AxisRole.SIGNAL,) + (AxisRole.BATCH,) * (len(shape) - 1)
    header = header_of(shape, roles, Mode.STORED, "f8")
    frame = Frame(header=header, sections={Section.STORED: b""}).to_bytes()
    with pytest.raises(FormatError, match="axes"):
        decode_frame(frame)
