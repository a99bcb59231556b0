"""The frame: what is written is read, what is not a frame is refused, limits come before everything else."""

import struct

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xwalloc.bitstream.frame import (
    AXIS,
    CRC,
    DTYPES,
    ENTRY,
    FIXED,
    FORMAT_VERSION,
    MAGIC,
    AxisRole,
    DecodeLimits,
    Frame,
    Header,
    Mode,
    Quality,
    Section,
    parse_header,
)
from xwalloc.errors import ChecksumError, FormatError, LimitError, TruncatedError, UnsupportedFormatError

LIMITS = DecodeLimits(max_bytes=1 << 40)
AXES, TABLE, END = 36, 51, 69
"""Where axes, section table and checksum of `sample` begin."""


def sample():
    header = Header(
        mode=Mode.LATTICE,
        dtype=np.dtype(">f4"),
        shape=(3, 4, 5),
        roles=(AxisRole.CHANNEL, AxisRole.SIGNAL, AxisRole.SIGNAL),
        quality=Quality.MAX_ERROR,
        value=0.5,
        nodata=0xC61C3C00,
        tables=0xABCDEF01,
    )
    return Frame(header=header, sections={Section.LATTICE_SYMBOLS: b"symbols", Section.LATTICE: b"abc"})


@st.composite
def frames(draw):
    dtype = draw(st.sampled_from(DTYPES))
    dtype = dtype.newbyteorder(draw(st.sampled_from("<>")))
    roles = [AxisRole.SIGNAL] * draw(st.integers(1, 3)) + [AxisRole.BATCH] * draw(st.integers(0, 3))
    roles = draw(st.permutations(roles + [AxisRole.CHANNEL] * draw(st.integers(0, 1))))
    return Frame(
        header=Header(
            mode=draw(st.sampled_from(Mode)),
            dtype=dtype if dtype.itemsize > 1 and dtype.byteorder == ">" else dtype.newbyteorder("="),
            shape=tuple(draw(st.integers(0, 40)) for _ in roles),
            roles=tuple(roles),
            quality=draw(st.sampled_from(Quality)),
            value=draw(st.floats(allow_nan=False)),
            nodata=draw(st.none() | st.integers(0, 2 ** (8 * dtype.itemsize) - 1)),
            tables=draw(st.integers(0, 2**32 - 1)),
        ),
        sections=draw(st.dictionaries(st.sampled_from(Section), st.binary(max_size=30))),
    )


@settings(max_examples=200, deadline=None)
@given(frames())
def test_frames_come_back(frame):
    data = frame.to_bytes()
    back = Frame.parse(data, LIMITS)
    assert back == frame
    assert back.header.dtype.str == frame.header.dtype.str
    assert back.to_bytes() == data
    assert back.header.nbytes == back.header.size * frame.header.dtype.itemsize


def test_layout_of_the_bytes():
    data = sample().to_bytes()
    assert data[:4] == MAGIC
    assert data[4] == FORMAT_VERSION
    assert struct.unpack_from("<dQII", data, 12) == (0.5, 0xC61C3C00, 0xABCDEF01, len(data))
    assert struct.unpack_from("<BIBIBI", data, AXES) == (1, 3, 2, 4, 2, 5)
    assert struct.unpack_from("<BII", data, TABLE) == (4, 3, google_crc32c.value(b"abc"))
    assert struct.unpack_from("<BII", data, TABLE + 9) == (5, 7, google_crc32c.value(b"symbols"))
    assert struct.unpack_from("<I", data, END)[0] == google_crc32c.value(data[:END])
    assert data[END + 4 :] == b"abcsymbols"


def test_sizes_in_a_header_are_exact():
    """Products of axes do not wrap around."""
    header = Header(
        mode=Mode.STORED,
        dtype=np.dtype("f8"),
        shape=((1 << 32) - 1,) * 8,
        roles=(AxisRole.SIGNAL,) + (AxisRole.BATCH,) * 7,
        quality=Quality.LOSSLESS,
        value=0.0,
    )
    assert header.nbytes == 8 * ((1 << 32) - 1) ** 8
    with pytest.raises(LimitError):
        Frame.parse(Frame(header=header).to_bytes(), LIMITS)


@pytest.mark.parametrize("limit", [0, 1, 239])
def test_the_limit_is_exact(limit):
    data = sample().to_bytes()
    with pytest.raises(LimitError, match="240 bytes"):
        Frame.parse(data, DecodeLimits(max_bytes=limit))
    Frame.parse(data, DecodeLimits(max_bytes=240))


def test_the_limit_comes_before_the_sections_are_looked_at():
    data = bytearray(sample().to_bytes())
    data[-1] ^= 1
    with pytest.raises(LimitError):
        Frame.parse(bytes(data), DecodeLimits(max_bytes=1))
    with pytest.raises(ChecksumError, match="LATTICE_SYMBOLS"):
        Frame.parse(bytes(data), LIMITS)


def patched(at, value):
    """The sample with another header byte and a right checksum."""
    data = bytearray(sample().to_bytes())
    data[at] = value
    data[END : END + CRC.size] = CRC.pack(google_crc32c.value(bytes(data[:END])))
    return bytes(data)


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [
        (0, 0, FormatError),
        (4, FORMAT_VERSION + 1, UnsupportedFormatError),
        (4, 0, UnsupportedFormatError),
        (5, 4, FormatError),
        (6, len(DTYPES), FormatError),
        (7, 2, FormatError),
        (8, 0, FormatError),
        (8, 255, FormatError),
        (9, 1, FormatError),
        (9, 255, FormatError),
        (10, 4, FormatError),
        (11, 2, FormatError),
        (24, 1, FormatError),  # nodata wider than the samples
        (32, 0, TruncatedError),
        (AXES, 3, FormatError),
        (AXES, 2, None),
        (AXES + 5, 1, FormatError),  # a second channel axis
        (TABLE, 5, FormatError),  # a section twice
        (TABLE, 9, FormatError),
        (TABLE + 1, 4, FormatError),  # sections that do not fill the frame
    ],
)
def test_impossible_headers(at, value, error):
    assert patched(5, Mode.LATTICE) == sample().to_bytes()
    if error is None:
        parse_header(patched(at, value))
    else:
        with pytest.raises(error):
            parse_header(patched(at, value))


def test_one_byte_samples_have_no_byte_order():
    data = bytearray(patched(6, 1))
    with pytest.raises(FormatError):
        parse_header(bytes(data))


def test_sizes_of_the_structures_are_part_of_the_format():
    assert (FIXED.size, AXIS.size, ENTRY.size, CRC.size) == (36, 5, 9, 4)
