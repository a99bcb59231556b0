"""The versioned chunk frame: header, section table, sections, CRC-32C (docs/format.md has the bytes).

A frame is self-describing: dtype, shape, axis roles and the quality target stand in its header, so that a codec that
is told nothing (Zarr v2) can decode it. Every bit is covered by a checksum: the header by its own, each section by
one in the section table, so that a reader of some sections need not read the others. All integers are little-endian.

Opened frames are untrusted: `parse` checks every length and limit before anything is allocated.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

import google_crc32c
import numpy as np

from xwalloc.errors import ChecksumError, FormatError, LimitError, TruncatedError, UnsupportedFormatError
from xwalloc.types import Buffer

__all__ = ["DTYPES", "FORMAT_VERSION", "AxisRole", "DecodeLimits", "Frame", "Header", "Mode", "Quality", "Section"]

MAGIC = b"XWLC"
FORMAT_VERSION = 1

DTYPES = tuple(np.dtype(name) for name in ("i1", "u1", "i2", "u2", "i4", "u4", "f2", "f4", "f8"))
"""Accepted sample types in native byte order; the position is the code in the header."""

MAX_NDIM = 32
FIXED = struct.Struct("<4sBBBBBBBBdQII")
"""Magic, version, mode, dtype, order, axes, sections, quality, flags, value, nodata, tables, length."""

AXIS = struct.Struct("<BI")
ENTRY = struct.Struct("<BII")
CRC = struct.Struct("<I")
FLAG_NODATA = 1


class Mode(IntEnum):
    """How the samples of a frame are coded."""

    STORED = 0
    LATTICE = 1
    TRANSFORM = 2
    LEARNED = 3


class Quality(IntEnum):
    """Which of the four quality targets the encoder was given."""

    LOSSLESS = 0
    MAX_ERROR = 1
    SNR = 2
    STEP = 3


class AxisRole(IntEnum):
    """What an axis of the stored chunk is to the codec."""

    BATCH = 0
    CHANNEL = 1
    SIGNAL = 2


class Section(IntEnum):
    """What the bytes of a section are."""

    STORED = 1
    MASK = 2
    EXCEPTIONS = 3
    LATTICE = 4
    LATTICE_SYMBOLS = 5
    MODEL = 6
    LATENTS = 7
    RESIDUAL = 8


MODES, SECTIONS = frozenset(Mode), frozenset(Section)


@dataclass(frozen=True, kw_only=True)
class DecodeLimits:
    """What a frame may make the decoder allocate.

    Parameters
    ----------
    max_bytes
        Size in bytes of the largest decoded array that is accepted.
    """

    max_bytes: int


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a frame says about its chunk.

    Parameters
    ----------
    mode
        How the samples are coded.
    dtype
        Sample type as stored, byte order included.
    shape
        Shape of the chunk as stored.
    roles
        One role per axis; signal axes count in the order of the chunk.
    quality
        Quality target and its `value` (bound, dB or step; 0 for lossless).
    nodata
        Bits of the nodata value as an unsigned integer of the width of `dtype`; None where there is none.
    tables
        Id of the entropy coder's tables and weights (`tables.shipped_id`); 0 for a stored chunk.
    """

    mode: Mode
    dtype: np.dtype
    shape: tuple[int, ...]
    roles: tuple[AxisRole, ...]
    quality: Quality
    value: float
    nodata: int | None = None
    tables: int = 0

    @property
    def size(self) -> int:
        """Number of samples."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the decoded chunk."""
        return self.size * self.dtype.itemsize


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One encoded chunk: its header and its sections.

    Examples
    --------
    >>> header = Header(mode=Mode.STORED, dtype=np.dtype("u1"), shape=(2,), roles=(AxisRole.SIGNAL,),
    ...                 quality=Quality.LOSSLESS, value=0.0)
    >>> frame = Frame(header=header, sections={Section.STORED: b"ab"})
    >>> Frame.parse(frame.to_bytes(), DecodeLimits(max_bytes=2)) == frame
    True
    """

    header: Header
    sections: Mapping[Section, Buffer] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Serialise; sections are written in the order of their codes."""
        h = self.header
        names = sorted(self.sections)
        table = b"".join(ENTRY.pack(name, len(self.sections[name]), _crc_of(self.sections[name])) for name in names)
        axes = b"".join(AXIS.pack(role, n) for role, n in zip(h.roles, h.shape, strict=True))
        head_size = FIXED.size + len(axes) + len(table) + CRC.size
        head = (
            FIXED.pack(
                MAGIC,
                FORMAT_VERSION,
                h.mode,
                DTYPES.index(h.dtype.newbyteorder("=")),
                1 if is_big_endian(h.dtype) else 0,
                len(h.shape),
                len(names),
                h.quality,
                0 if h.nodata is None else FLAG_NODATA,
                h.value,
                h.nodata or 0,
                h.tables,
                head_size + sum(len(self.sections[name]) for name in names),
            )
            + axes
            + table
        )
        return b"".join([head, CRC.pack(_crc_of(head)), *(self.sections[name] for name in names)])

    @classmethod
    def parse(cls, data: Buffer, limits: DecodeLimits) -> Frame:
        """Read a frame, checking every length, checksum and limit first. Of a view, sections are views.

        Raises
        ------
        TruncatedError, ChecksumError, UnsupportedFormatError, LimitError, FormatError
            The bytes are not a whole, undamaged frame of a version we know and a size that `limits` allows.
        """
        header, entries, start = parse_header(data)
        if header.nbytes > limits.max_bytes:
            raise LimitError(
                f"The frame claims a chunk of {header.nbytes} bytes; at most {limits.max_bytes} are allowed here. "
                "If the frame is trusted, raise the setting 'decode.max_bytes' (XWALLOC_DECODE__MAX_BYTES)."
            )
        sections = {}
        for name, length, crc in entries:
            payload = data[start : start + length]
            if _crc_of(payload) != crc:
                raise ChecksumError(f"Section {name.name} is damaged (its CRC-32C differs). Restore it from a copy.")
            sections[name] = payload
            start += length
        return cls(header=header, sections=sections)


def _crc_of(data: Buffer) -> int:
    """CRC-32C. (The library takes arrays without copying them, but no views of bytes.)"""
    return int(google_crc32c.value(np.frombuffer(data, np.uint8)))


def is_big_endian(dtype: np.dtype) -> bool:
    """Whether the bytes of `dtype` stand in big-endian order (one-byte types never do)."""
    return dtype.newbyteorder("<") != dtype


def parse_header(data: Buffer) -> tuple[Header, list[tuple[Section, int, int]], int]:
    """Header, section table (section, length, CRC) and offset of the first section.

    Raises
    ------
    FormatError
        If the bytes are not a whole, undamaged header followed by as many bytes as it states.
    """
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise FormatError(f"Expected a frame of xwalloc, which begins with {MAGIC!r}. Got {bytes(data[:4])!r}.")
    if len(data) < FIXED.size:
        raise TruncatedError(f"Expected a frame of at least {FIXED.size} bytes. Got {len(data)}.")
    _, version, mode, dtype, order, ndim, count, quality, flags, value, nodata, tables, length = FIXED.unpack_from(data)
    if version != FORMAT_VERSION:
        raise UnsupportedFormatError(
            f"The frame has format version {version}; this xwalloc reads {FORMAT_VERSION}. Install a newer xwalloc."
        )
    if length != len(data):
        raise TruncatedError(f"The frame states a length of {length} bytes. Got {len(data)}.")
    end = FIXED.size + ndim * AXIS.size + count * ENTRY.size
    if end + CRC.size > len(data):
        raise TruncatedError(f"The frame ends inside its header ({end + CRC.size} bytes). Got {len(data)}.")
    if CRC.unpack_from(data, end)[0] != _crc_of(data[:end]):
        raise ChecksumError("The header of the frame is damaged (its CRC-32C differs). Restore the chunk from a copy.")
    if dtype >= len(DTYPES) or order > 1 or ndim > MAX_NDIM or flags > FLAG_NODATA or (order and dtype < 2):
        raise FormatError(f"The header has an unknown dtype, order, rank or flag: {(dtype, order, ndim, flags)}.")
    axes = list(AXIS.iter_unpack(data[FIXED.size : FIXED.size + ndim * AXIS.size]))
    entries = list(ENTRY.iter_unpack(data[end - count * ENTRY.size : end]))
    for what, codes, known in (("mode", [mode], MODES), ("section", [name for name, _, _ in entries], SECTIONS)):
        for code in codes:
            if code not in known:
                raise UnsupportedFormatError(
                    f"The frame has a {what} of kind {code}, which this xwalloc does not know. Install a newer xwalloc."
                )
    try:
        header = Header(
            mode=Mode(mode),
            dtype=DTYPES[dtype].newbyteorder(">" if order else "="),
            shape=tuple(n for _, n in axes),
            roles=tuple(AxisRole(role) for role, _ in axes),
            quality=Quality(quality),
            value=value,
            nodata=nodata if flags & FLAG_NODATA else None,
            tables=tables,
        )
        table = [(Section(name), size, crc) for name, size, crc in entries]
    except ValueError as error:
        raise FormatError(f"The header of the frame is not valid: {error}.") from None
    if [name for name, _, _ in table] != sorted({name for name, _, _ in table}):
        raise FormatError("The sections of the frame are not in order, or one stands twice.")
    if end + CRC.size + sum(size for _, size, _ in table) != len(data):
        raise FormatError("The sections of the frame do not fill it.")
    if header.roles.count(AxisRole.CHANNEL) > 1 or not 1 <= header.roles.count(AxisRole.SIGNAL) <= 3:
        raise FormatError(f"The frame has impossible axis roles: {[role.name for role in header.roles]}.")
    if not header.size and math.prod(n or 1 for n in header.shape) >= 1 << 48:
        raise FormatError(f"The frame claims axes that no array can have: {header.shape}.")
    if header.nodata is not None and header.nodata >> (8 * header.dtype.itemsize):
        raise FormatError("The nodata value of the frame is wider than its samples.")
    return header, table, end + CRC.size
