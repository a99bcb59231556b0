"""Opened frames are untrusted: damage is noticed, forged checksums crash, hang and bloat nothing."""

import functools
import time
import tracemalloc

import google_crc32c
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xwalloc.bitstream.frame import AXIS, CRC, ENTRY, FIXED, DecodeLimits, Section, parse_header
from xwalloc.codec.chunk import ChunkCodec, decode_frame
from xwalloc.codec.config import CodecConfig
from xwalloc.errors import FormatError, LimitError, XwallocError

LIMIT = DecodeLimits(max_bytes=2**20)
SLOW = {"deadline": None, "suppress_health_check": list(HealthCheck)}


NAMES = ["loose", "holes", "tight", "lossless", "noise", "snr", "packet", "series"]


@functools.cache
def frame_of(name):
    """A small frame of every mode and of most sections."""
    rng = np.random.default_rng(6)
    smooth = rng.normal(size=(3, 24, 20)).cumsum(1).cumsum(2)
    holes = smooth.astype("f4")
    holes[0, :9, :9] = np.nan
    holes[1, 5, 5] = 1e30
    roles = {"channel_axis": 0, "signal_axes": (1, 2)}
    array, config = {
        "loose": (smooth.astype("f4"), {**roles, "max_error": 2.0}),
        "holes": (holes, {**roles, "max_error": 1.0, "nodata": -9999}),
        "tight": ((smooth * 100).astype("i2"), {**roles, "max_error": 1}),
        "lossless": (smooth.astype(">f4"), {**roles, "lossless": True}),
        "noise": (rng.integers(0, 256, 300, "u1"), {"signal_axes": (0,), "lossless": True}),
        "snr": (smooth, {**roles, "snr": 20.0}),
        "packet": (smooth.astype("f4"), {**roles, "step": 1.0, "tree": "packet", "boundary": "periodization"}),
        "series": (np.sin(np.arange(900) / 9).astype("f4"), {"signal_axes": (0,), "max_error": 0.01}),
    }[name]
    return ChunkCodec(CodecConfig(**config)).encode(array)


@pytest.mark.parametrize("name", NAMES)
def test_every_flipped_bit_is_noticed(name):
    frame = frame_of(name)
    for i in range(len(frame)):
        for bit in range(8):
            with pytest.raises(FormatError):
                decode_frame(frame[:i] + bytes([frame[i] ^ 1 << bit]) + frame[i + 1 :])


@pytest.mark.parametrize("name", NAMES)
def test_every_cut_is_noticed(name):
    frame = frame_of(name)
    for n in range(len(frame)):
        with pytest.raises(FormatError):
            decode_frame(frame[:n])
    for tail in (b"\0", frame[:1], frame):
        with pytest.raises(FormatError):
            decode_frame(frame + tail)


def forge(frame, head_patch=(), sections=None):
    """The frame with other section bytes and header bytes, and every length and checksum made right again."""
    header, table, start = parse_header(frame)
    parts, at = {}, start
    for name, size, _ in table:
        parts[name] = frame[at : at + size]
        at += size
    parts |= sections or {}
    head = bytearray(frame[: FIXED.size + AXIS.size * len(header.shape)])
    for i, byte in head_patch:
        head[i % len(head)] = byte
    if not head_patch or all(i % len(head) < FIXED.size - 4 or i % len(head) >= FIXED.size for i, _ in head_patch):
        total = len(head) + ENTRY.size * len(parts) + CRC.size + sum(map(len, parts.values()))
        head[FIXED.size - 4 : FIXED.size] = total.to_bytes(4, "little")
    entries = b"".join(ENTRY.pack(n, len(parts[n]), google_crc32c.value(parts[n])) for n in sorted(parts))
    whole = bytes(head) + entries
    return whole + CRC.pack(google_crc32c.value(whole)) + b"".join(parts[n] for n in sorted(parts))


def survives(frame):
    """A typed error, or an array of the stated shape, soon and in little memory."""
    tracemalloc.start()
    begin = time.perf_counter()
    try:
        array = decode_frame(frame, limits=LIMIT)
        header, _, _ = parse_header(frame)
        assert array.shape == header.shape
        assert array.dtype == header.dtype
    except XwallocError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.perf_counter() - begin < 5
    assert peak < 64 * LIMIT.max_bytes


@pytest.fixture(scope="module", autouse=True)
def compiled():
    for name in NAMES:
        decode_frame(frame_of(name))


def test_forging_changes_nothing_by_itself():
    for name in NAMES:
        assert forge(frame_of(name)) == frame_of(name)


@settings(max_examples=1500, **SLOW)
@given(st.data())
def test_forged_sections(data):
    frame = frame_of(data.draw(st.sampled_from(NAMES)))
    _, table, start = parse_header(frame)
    name, size, _ = data.draw(st.sampled_from(table))
    at = start + sum(n for other, n, _ in table if other < name)
    payload = bytearray(frame[at : at + size])
    for _ in range(data.draw(st.integers(1, 6))):
        if payload:
            # the first bytes steer what follows
            index = data.draw(st.one_of(st.integers(0, min(40, len(payload) - 1)), st.integers(0, len(payload) - 1)))
            payload[index] = data.draw(st.sampled_from([0, 1, 127, 128, 255, payload[index] ^ 1, payload[index] ^ 128]))
    if data.draw(st.booleans()):
        payload = payload[: data.draw(st.integers(0, len(payload)))]
    survives(forge(frame, sections={name: bytes(payload)}))


@settings(max_examples=600, **SLOW)
@given(st.data())
def test_forged_headers(data):
    frame = frame_of(data.draw(st.sampled_from(NAMES)))
    patch = data.draw(st.lists(st.tuples(st.integers(4, 70), st.integers(0, 255)), min_size=1, max_size=3))
    survives(forge(frame, patch))


@settings(max_examples=200, **SLOW)
@given(
    st.sampled_from(NAMES),
    st.sampled_from(NAMES),
    st.sampled_from(list(Section)),
    st.binary(max_size=64),
)
def test_sections_of_another_frame(one, other, name, garbage):
    _, table, start = parse_header(frame_of(other))
    for section, size, _ in table:
        survives(forge(frame_of(one), sections={section: frame_of(other)[start : start + size]}))
        start += size
    survives(forge(frame_of(one), sections={name: garbage}))


@settings(max_examples=300, **SLOW)
@given(st.binary(max_size=400))
def test_foreign_bytes(data):
    with pytest.raises(FormatError):
        decode_frame(data)


def test_bombs_are_refused_before_anything_is_allocated():
    config = CodecConfig(channel_axis=0, signal_axes=(1, 2), max_error=1.0)
    frame = ChunkCodec(config).encode(np.zeros((2, 1024, 1024), "f4"))
    tracemalloc.start()
    with pytest.raises(LimitError, match=r"decode\.max_bytes"):
        decode_frame(frame, limits=LIMIT)
    with pytest.raises(FormatError):
        decode_frame(frame, shape=(2, 16, 16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    huge = bytearray(forge(frame))
    for axis in range(3):  # (2^32 - 1)^3 samples
        huge[FIXED.size + axis * AXIS.size + 1 : FIXED.size + (axis + 1) * AXIS.size] = b"\xff" * 4
    head = len(huge) - sum(size for _, size, _ in parse_header(frame)[1]) - CRC.size
    huge[head : head + CRC.size] = CRC.pack(google_crc32c.value(bytes(huge[:head])))
    with pytest.raises(LimitError):
        decode_frame(bytes(huge))
