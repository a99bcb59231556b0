"""A second decoder of frames, written from docs/format.md and nothing else.

It favours being easy to compare with that page over speed: plain Python integers, NumPy for matrices and for the last
float steps. Section numbers in comments are those of the page. It shares two data files with xwalloc, the frequency
tables and the context weights, and no code.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

__all__ = ["Header", "Refused", "decode", "parse"]

DATA = Path(__file__).parents[2] / "xwalloc" / "bitstream"
TABLES_ID = google_crc32c.value((DATA / "tables-1.bin").read_bytes() + (DATA / "weights-1.json").read_bytes())
DTYPES = ("i1", "u1", "i2", "u2", "i4", "u4", "f2", "f4", "f8")
BATCH, CHANNEL, SIGNAL = 0, 1, 2
STORED, MASK, EXCEPTIONS, LATTICE, LATTICE_SYMBOLS, MODEL, LATENTS, RESIDUAL = range(1, 9)
MODE_STORED, MODE_LATTICE, MODE_TRANSFORM, MODE_LEARNED = range(4)
SECTIONS: dict[int, tuple[set[int], set[int]]] = {
    MODE_STORED: ({STORED}, set()),
    MODE_LATTICE: ({LATTICE, LATTICE_SYMBOLS}, {MASK, EXCEPTIONS}),
    MODE_TRANSFORM: ({MODEL, LATENTS}, {MASK, EXCEPTIONS, RESIDUAL}),
    MODE_LEARNED: ({MODEL, LATTICE, LATTICE_SYMBOLS}, {MASK, EXCEPTIONS, RESIDUAL}),
}
"""Sections that each mode has to have, and those that it may have."""

ROWS, FLAGS_AMONG, FLAGS_FIRST = range(3)
"""Profiles."""

KIND_NAMES = ("latent", "latent_parallel", "lattice", "residual", "side", "residual_parallel")
KIND_LATENT, KIND_LATENT_PARALLEL, KIND_LATTICE, KIND_RESIDUAL, KIND_SIDE, KIND_RESIDUAL_PARALLEL = range(6)
DENSE, SPARSE, FLAG = range(3)

Array = NDArray[Any]
Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Canonical = tuple[int, int, int, int, int]
Offset = tuple[int, int, int]
Offsets = tuple[Offset, ...]
Nested = list[list[list[int]]]


class Refused(ValueError):
    """The bytes are not a frame of version 1."""


def expect(condition: bool, what: str) -> None:
    """Refuse unless something holds."""
    if not condition:
        raise Refused(what)


def ceil2(n: int) -> int:
    """Half of n, rounded up."""
    return (n + 1) // 2


# ---- 2 Frame ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Header:
    """What stands before the sections."""

    mode: int
    dtype: np.dtype[Any]
    big_endian: bool
    shape: tuple[int, ...]
    roles: tuple[int, ...]
    nodata: int | None

    @property
    def order(self) -> list[int]:
        """Stored axes in canonical order (4)."""
        return sorted(range(len(self.roles)), key=lambda axis: self.roles[axis])

    @property
    def dimensions(self) -> int:
        """Number of signal axes."""
        return self.roles.count(SIGNAL)

    @property
    def canonical(self) -> Canonical:
        """(batch, channel, z, y, x)."""
        by_role = [[n for n, role in zip(self.shape, self.roles, strict=True) if role == r] for r in range(3)]
        z, y, x = [1] * (3 - len(by_role[SIGNAL])) + by_role[SIGNAL]
        return math.prod(by_role[BATCH]), math.prod(by_role[CHANNEL]), z, y, x


def parse(frame: bytes) -> tuple[Header, dict[int, bytes]]:
    """Header and sections of a frame."""
    expect(len(frame) >= 36, "shorter than a header")
    magic, version, mode, dtype, order, axes, count, quality, flags, _, nodata, tables, length = struct.unpack_from(
        "<4s8BdQII", frame
    )
    expect(magic == b"XWLC" and version == 1, "not a frame of version 1")
    expect(length == len(frame), "not as long as it says")
    end = 36 + 5 * axes + 9 * count
    expect(end + 4 <= len(frame), "cut inside its tables")
    expect(struct.unpack_from("<I", frame, end)[0] == google_crc32c.value(frame[:end]), "damaged header")
    expect(mode <= 3 and dtype <= 8 and order <= 1 and quality <= 3 and flags <= 1 and axes <= 32, "unknown header")
    expect(not (order and dtype < 2), "bytes have no order")
    table = [struct.unpack_from("<BI", frame, 36 + 5 * i) for i in range(axes)]
    roles = tuple(role for role, _ in table)
    expect(all(role <= 2 for role in roles), "unknown role")
    expect(roles.count(CHANNEL) <= 1 and 1 <= roles.count(SIGNAL) <= 3, "impossible roles")
    native = np.dtype(DTYPES[dtype])
    empty = any(n == 0 for _, n in table)
    expect(not empty or math.prod(n or 1 for _, n in table) < 1 << 48, "impossible axes")
    expect(not flags or nodata < 1 << (8 * native.itemsize), "nodata wider than the dtype")
    header = Header(mode, native, bool(order), tuple(n for _, n in table), roles, nodata if flags else None)
    sections: dict[int, bytes] = {}
    names = []
    at = end + 4
    for i in range(count):
        name, size, crc = struct.unpack_from("<BII", frame, 36 + 5 * axes + 9 * i)
        expect(at + size <= len(frame), "cut inside a section")
        sections[name] = frame[at : at + size]
        expect(google_crc32c.value(sections[name]) == crc, "damaged section")
        names.append(name)
        at += size
    expect(at == len(frame) and names == sorted(set(names)), "sections out of order, or bytes left over")
    expect(mode == MODE_STORED or tables == TABLES_ID, "coded with other tables")
    needed, optional = SECTIONS[mode]
    expect(needed <= set(names) <= needed | optional, "impossible sections")
    expect(mode == MODE_STORED or math.prod(header.shape) > 0, "no samples, but a mode")
    return header, sections


# ---- 3 Order of work -------------------------------------------------------------------------------------------------


def decode(frame: bytes, named: bytes | None = None, networks: Any = None) -> Array:
    """The array that a frame holds.

    `named` is the file of the model that it names, if it does; `networks` the module second_networks, for learned mode.
    """
    header, sections = parse(frame)
    stored = header.dtype.newbyteorder(">" if header.big_endian else "<")
    little = header.dtype.newbyteorder("<")
    if header.mode == MODE_STORED:
        expect(len(sections[STORED]) == math.prod(header.shape) * little.itemsize, "not as many samples as stated")
        return np.frombuffer(sections[STORED], little).reshape(header.shape).astype(stored)
    shape = header.canonical
    expect(shape[0] * shape[1] <= (1 << 20) + math.prod(shape) // 16, "very many tiny planes")
    labels: Integers | None = None
    palette: list[int] = []
    if MASK in sections:
        labels, palette = decode_mask(sections[MASK], shape, header.dtype.itemsize)
    masked = None if labels is None else labels != 0
    if header.mode == MODE_LATTICE:
        samples = decode_lattice(sections, header, shape, masked)
    elif header.mode == MODE_LEARNED:
        expect(named is not None, "a model that is not there")
        samples = decode_learned(sections, header, shape, masked, named or b"", networks)
    else:
        samples = decode_transform(sections, header, shape, masked, named)
    bits = np.ascontiguousarray(samples).view(f"u{header.dtype.itemsize}")
    if labels is not None:
        for label, pattern in enumerate(palette, start=1):
            bits[labels == label] = pattern
    if EXCEPTIONS in sections:
        flat = bits.reshape(-1)
        for position, pattern in decode_exceptions(sections[EXCEPTIONS], bits.size, header.dtype.itemsize):
            flat[position] = pattern
    order = header.order
    moved = bits.view(header.dtype).reshape([header.shape[axis] for axis in order])
    return np.ascontiguousarray(moved.transpose([order.index(axis) for axis in range(len(order))])).astype(stored)


# ---- 5 Sections ------------------------------------------------------------------------------------------------------


def decode_mask(data: bytes, shape: Canonical, itemsize: int) -> tuple[Integers, list[int]]:
    """Labels in canonical shape, and the palette (5.2)."""
    batch, channels, nz, ny, nx = shape
    expect(len(data) >= 3, "cut mask")
    from_channel, size = data[0], data[1]
    expect(from_channel <= 1 and size <= 14 and len(data) > 2 + 8 * size, "impossible mask")
    palette = list(struct.unpack_from(f"<{size}Q", data, 2))
    expect(all(bits < 1 << (8 * itemsize) for bits in palette), "palette wider than the dtype")
    uniform = data[2 + 8 * size]
    expect(uniform <= 1, "impossible mask")
    count = batch * channels
    at = 3 + 8 * size
    codes = magnitude_codes(data[at : at + (1 if uniform else count)], 1 if uniform else count)
    stream = data[at + len(codes) :]
    if uniform:
        codes = codes * count
    planes: list[Plane] = []
    for i in range(count):
        planes.append(Plane((nz, ny, nx), codes[i], previous=planes[i - 1] if i % channels else None))
    decode_planes(Stream.of(stream, usual_tables(KIND_SIDE)), planes, KIND_SIDE, 2)
    labels = np.zeros(shape, np.int64)
    for i, plane in enumerate(planes):
        b, c = divmod(i, channels)
        expect(all(0 <= v <= size + 1 for v in plane.values), "a correction outside of the palette")
        behind = iter(plane.values)
        own = labels[b, c]
        for z, y, x in itertools.product(range(nz), range(ny), range(nx)):
            correction = next(behind)
            if correction:
                own[z, y, x] = correction - 1
            elif from_channel and c:
                own[z, y, x] = labels[b, c - 1, z, y, x]
            elif x:
                own[z, y, x] = own[z, y, x - 1]
            elif y:
                own[z, y, x] = own[z, y - 1, 0]
    return labels, palette


def decode_exceptions(data: bytes, samples: int, itemsize: int) -> Iterator[tuple[int, int]]:
    """Positions and bits (5.3)."""
    expect(len(data) >= 9, "cut exceptions")
    count, width = struct.unpack_from("<QB", data)
    expect(count <= samples and width in (1, 2, 4, 8), "impossible exceptions")
    expect(len(data) == 9 + count * (width + itemsize), "exceptions of another length")
    position = -1
    for i in range(count):
        at = 9 + i * width
        position += 1 + int.from_bytes(data[at : at + width], "little")
        expect(position < samples, "an exception outside of the chunk")
        at = 9 + count * width + i * itemsize
        yield position, int.from_bytes(data[at : at + itemsize], "little")


Book = tuple[tuple[int, ...], list["Table"]]
"""The number of each class's usual table, and the tables."""


def decode_streams(data: bytes, count: int, kind: int, book: Book | None = None) -> list[Stream]:
    """Streams of a section, ready to be read with the tables that it chooses (5.5)."""
    expect(len(data) >= 2 + 4 * (count + 1), "cut list of streams")
    expect(struct.unpack_from("<H", data)[0] == count + 1, "as many streams as slabs are expected")
    lengths = struct.unpack_from(f"<{count + 1}I", data, 2)
    edges = list(itertools.accumulate(lengths, initial=2 + 4 * (count + 1)))
    expect(edges[-1] == len(data), "streams do not fill their section")
    choice, *streams = (data[a:b] for a, b in itertools.pairwise(edges))
    book = book or all_tables()
    chosen = usual_tables(kind, book)
    for place, number in read_choice(choice, kind, book).items():
        chosen[place] = book[1][number]
    return [Stream.of(stream, chosen) for stream in streams]


def read_choice(data: bytes, kind: int, book: Book) -> dict[int, int]:
    """Classes with another table than the usual one, and the number of that table (5.5)."""
    index, found = book
    bits = Bits(data)
    count = bits.unsigned(1, CLASSES)[0]
    classes = list(itertools.accumulate((gap + 1 for gap in bits.unsigned(count)), initial=-1))[1:]
    expect(not classes or classes[-1] < CLASSES, "a class that does not exist")
    numbers = [index[kind * CLASSES + place] + other for place, other in zip(classes, bits.signed(count), strict=True)]
    expect(all(0 <= number < len(found) for number in numbers), "a table that does not exist")
    bits.end()
    return dict(zip(classes, numbers, strict=True))


def magnitude_codes(data: bytes, count: int) -> list[int]:
    """A list of codes (7.1)."""
    expect(len(data) == count and all(code <= 104 for code in data), "impossible magnitude codes")
    return list(data)


class Bits:
    """A string of bits that holds lists (5.8)."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> int:
        """The next bits, highest first."""
        expect(self.at + count <= 8 * len(self.data), "cut lists")
        value = 0
        for _ in range(count):
            value = 2 * value + (self.data[self.at // 8] >> (7 - self.at % 8)) % 2
            self.at += 1
        return value

    def unsigned(self, count: int, largest: int = (1 << 64) - 1) -> list[int]:
        """A list of unsigned integers."""
        expect(count <= 8 * len(self.data) - self.at, "cut lists")
        found = []
        a, n = 4, 1
        for _ in range(count):
            k = next(k for k in itertools.count() if n << k >= a)
            ones = 0
            while ones < 20 and self.take(1):
                ones += 1
            value = (ones << k) + self.take(k) if ones < 20 else self.take(self.take(6) + 1)
            expect(value <= largest, "a number is too large")
            found.append(value)
            a += min(value, 16 << k, 1 << 32)
            n += 1
            if n == 16:
                a, n = a // 2, 8
        return found

    def signed(self, count: int) -> list[int]:
        """A list of signed integers."""
        return [-(v + 1) // 2 if v % 2 else v // 2 for v in self.unsigned(count)]

    def sums(self, count: int, largest: int) -> list[int]:
        """A list that is given as differences."""
        found = list(itertools.accumulate(self.signed(count)))
        expect(all(0 <= v <= largest for v in found), "a number is out of range")
        return found

    def end(self) -> None:
        """Check that all has been read."""
        left = 8 * len(self.data) - self.at
        expect(left < 8 and self.take(left) == 0, "something is left over behind the lists")


# ---- 6 Entropy coder -------------------------------------------------------------------------------------------------

ESCAPE, LAST_TOKEN = 127, 125
FIRST_STATE = 1 << 16
CLASSES = 3 * 112
"""Classes of each kind: 112 for each role."""


@dataclass(frozen=True)
class Table:
    """Frequencies and starts of tokens, and the token of each slot (6.2)."""

    frequency: list[int]
    start: list[int]
    token: list[int]


@lru_cache(maxsize=1)
def all_tables() -> Book:
    """The number of each class's usual table, and the tables (6.2)."""
    data = (DATA / "tables-1.bin").read_bytes()
    classes, count = struct.unpack_from("<HH", data)
    assert classes == CLASSES * len(KIND_NAMES)
    index = struct.unpack_from(f"<{classes}H", data, 4)
    at = 4 + 2 * classes
    found = []
    for _ in range(count):
        used = data[at]
        frequency = [0] * 128
        for i in range(used):
            frequency[data[at + 1 + i]] = struct.unpack_from("<H", data, at + 1 + used + 2 * i)[0]
        at += 1 + 3 * used
        found.append(table_of(frequency))
    assert at == len(data)
    return index, found


def table_of(frequency: list[int]) -> Table:
    """A table of these frequencies."""
    expect(sum(frequency) == 4096 and frequency[ESCAPE] > 0, "frequencies that make no table")
    start = list(itertools.accumulate(frequency, initial=0))[:128]
    return Table(frequency, start, [t for t in range(128) for _ in range(frequency[t])])


def usual_tables(kind: int, book: Book | None = None) -> list[Table]:
    """The table of each class of a kind of planes (7.3)."""
    index, found = book or all_tables()
    return [found[i] for i in index[kind * CLASSES : (kind + 1) * CLASSES]]


@lru_cache(maxsize=1)
def all_weights() -> dict[str, dict[str, list[int]]]:
    """The file of weights (7.3, 9.4, 9.5)."""
    found: dict[str, dict[str, list[int]]] = json.loads((DATA / "weights-1.json").read_text())
    return found


@dataclass
class Stream:
    """One rANS stream that is being read (6.3)."""

    tables: list[Table]
    states: list[int]
    words: list[int]
    position: int = 0
    count: int = 0

    @classmethod
    def of(cls, data: bytes, tables: list[Table]) -> Stream:
        """A stream and the table of each class, `role * 112 + class`."""
        expect(bool(data) and 2 <= data[0] <= 12, "a stream of an impossible number of lanes")
        words = 1 + 4 * (1 << data[0])
        expect(len(data) >= words and (len(data) - words) % 2 == 0, "a stream of impossible length")
        states = list(struct.unpack_from(f"<{1 << data[0]}I", data, 1))
        expect(all(state >= FIRST_STATE for state in states), "an impossible state")
        return cls(tables, states, list(struct.unpack_from(f"<{(len(data) - words) // 2}H", data, words)))

    def symbol(self, role: int, expected: int) -> int:
        """The next symbol, of a role and an expected magnitude."""
        table = self.tables[role * 112 + class_of(expected)]
        lane = self.count % len(self.states)
        self.count += 1
        state = self.states[lane]
        slot = state % 4096
        token = table.token[slot]
        self.states[lane] = table.frequency[token] * (state >> 12) + slot - table.start[token]
        self._refill(lane)
        if token == ESCAPE:
            token = self._raw(lane, 7)
            expect(token <= LAST_TOKEN, "an impossible token")
        if token < 31:
            return (token + 1) // 2 if token % 2 else -(token // 2)
        if token < 79:
            exponent, below = divmod(token - 31, 4)
            exponent += 4
            raw = self._raw(lane, exponent - 2 + 1)
            magnitude = ((4 + below) << (exponent - 2)) + (raw >> 1)
        else:
            exponent = 16 + token - 79
            raw = self._raw(lane, exponent + 1)
            magnitude = (1 << exponent) + (raw >> 1)
        return -magnitude if raw & 1 else magnitude

    def _refill(self, lane: int) -> None:
        if self.states[lane] < FIRST_STATE:
            expect(self.position < len(self.words), "a stream ends too early")
            self.states[lane] = (self.states[lane] << 16) + self.words[self.position]
            self.position += 1

    def _raw(self, lane: int, bits: int) -> int:
        result = done = 0
        while done < bits:
            width = min(16, bits - done)
            result += (self.states[lane] % (1 << width)) << done
            self.states[lane] >>= width
            self._refill(lane)
            done += width
        return result

    def end(self) -> None:
        """Check that all has been read."""
        expect(self.position == len(self.words), "words are left over")
        expect(set(self.states) == {FIRST_STATE}, "a stream does not end where it began")


# ---- 7 Planes and contexts -------------------------------------------------------------------------------------------

CAP = 1 << 36
GROUP = 8


def mean_of(code: int) -> int:
    """M(code) (7.1)."""
    return (math.isqrt(1 << (code + 1)) + 1) // 2 if code else 0


def mag(value: int) -> int:
    """Magnitude of a symbol in 1/256."""
    return min(abs(value), CAP) << 8


def class_of(expected: int) -> int:
    """Class of an expected magnitude (7.3)."""
    if expected < 4:
        return expected
    log2 = expected.bit_length() - 1
    if log2 < 18:
        return 4 + 4 * (log2 - 2) + (expected >> (log2 - 2)) % 4
    return min(68 + log2 - 18, 111)


@dataclass
class Plane:
    """One plane: its extent, code, the others that it looks at, and then its values."""

    extent: tuple[int, int, int]
    code: int
    previous: Plane | None = None
    parent: Plane | None = None
    parent_shifts: tuple[int, int, int] = (0, 0, 0)
    sibling: Plane | None = None
    masked: list[bool] | None = None
    values: list[int] = field(default_factory=list)
    mags: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values = [0] * math.prod(self.extent)
        self.mags = [0] * len(self.values)


def decode_planes(
    stream: Stream, planes: Sequence[Plane], kind: int, dimensions: int, flags_first: bool = False
) -> None:
    """Fill in the values of planes from one stream."""
    for plane in planes:
        if plane.code and plane.values:
            decode_plane(stream, plane, kind, dimensions, flags_first)
    stream.end()


def decode_plane(stream: Stream, plane: Plane, kind: int, dimensions: int, flags_first: bool) -> None:
    """Decode the values of one plane."""
    nz, ny, nx = plane.extent
    own = mean_of(plane.code)
    mags, previous, parent, sibling = plane.mags, plane.previous, plane.parent, plane.sibling
    name = f"{KIND_NAMES[kind]}-{dimensions}d-{'first' if previous is None else 'next'}"
    w, f = list(all_weights()["symbols"][name]), list(all_weights()["flags"][name])

    def ratio(other: Plane) -> int:
        return min(own * 256 // max(mean_of(other.code), 1), 16384)

    if previous is not None:
        w[8], w[9], f[5] = w[8] * ratio(previous) >> 8, w[9] * ratio(previous) >> 8, f[5] * ratio(previous) >> 8
    if parent is not None:
        w[10] = w[10] * ratio(parent) >> 8
    if sibling is not None:
        w[11] = w[11] * ratio(sibling) >> 8

    mean = own

    def at(z: int, y: int, x: int) -> int:
        return mags[(z * ny + y) * nx + x] if z >= 0 and y >= 0 and 0 <= x < nx else own

    def ring(z: int, y: int, x: int) -> int:
        assert previous is not None
        around = ((y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x))
        return sum(previous.mags[(z * ny + v) * nx + u] for v, u in around if 0 <= v < ny and 0 <= u < nx)

    def expected_of_sample(z: int, y: int, x: int) -> int:
        here = (z * ny + y) * nx + x
        total = w[0] * own + w[1] * mean + w[2] * at(z, y, x - 1) + w[3] * at(z, y, x - 2) + w[4] * at(z, y - 1, x)
        total += w[5] * (at(z, y - 1, x - 1) + at(z, y - 1, x + 1)) + w[6] * at(z, y - 2, x) + w[7] * at(z - 1, y, x)
        if previous is not None:
            total += w[8] * previous.mags[here] + w[9] * ring(z, y, x)
        if parent is None:
            total += w[10] * own
        else:
            place = [min(v >> s, n - 1) for v, s, n in zip((z, y, x), plane.parent_shifts, parent.extent, strict=True)]
            total += w[10] * parent.mags[(place[0] * parent.extent[1] + place[1]) * parent.extent[2] + place[2]]
        total += w[11] * (own if sibling is None else sibling.mags[here])
        return total >> 8

    def group_of(source: list[int], z: int, y: int, first: int) -> int:
        line = (z * ny + y) * nx
        return sum(source[line + first : line + min(first + GROUP, nx)]) // GROUP

    def expected_of_flag(z: int, y: int, first: int) -> int:
        north = group_of(mags, z, y - 1, first) if y else own
        east = group_of(mags, z, y - 1, first + GROUP) if y and first + GROUP < nx else north
        west = group_of(mags, z, y, first - GROUP) if first else own
        total = f[0] * own + f[1] * mean + f[2] * west + f[3] * north + f[4] * east
        if previous is not None:
            total += f[5] * group_of(previous.mags, z, y, first)
        return total >> 8

    def groups(sparse: bool) -> Iterator[tuple[int, int, int, list[int]]]:
        """Place of each group, or of each row, and the places in the row of what is coded of it."""
        for z, y in itertools.product(range(nz), range(ny)):
            line = (z * ny + y) * nx
            for first in range(0, nx, GROUP if sparse else nx):
                coded = range(first, min(first + GROUP, nx) if sparse else nx)
                places = [x for x in coded if plane.masked is None or not plane.masked[line + x]]
                if places:
                    yield z, y, first, places

    def samples(role: int, z: int, y: int, places: list[int]) -> None:
        nonlocal mean
        line = (z * ny + y) * nx
        for x in places:
            value = stream.symbol(role, expected_of_sample(z, y, x))
            expect(abs(value) < 1 << 31, "a symbol is too large")
            plane.values[line + x] = value
            mags[line + x] = mag(value)
            mean += (mags[line + x] - mean) >> 4

    if own >= 32:
        for z, y, _, places in groups(False):
            samples(DENSE, z, y, places)
    elif flags_first:
        flagged = [group for group in groups(True) if stream.symbol(FLAG, expected_of_flag(*group[:3]))]
        for z, y, _, places in flagged:
            samples(SPARSE, z, y, places)
    else:
        for z, y, first, places in groups(True):
            if stream.symbol(FLAG, expected_of_flag(z, y, first)) == 0:
                mean -= (3 * mean) >> 3
            else:
                samples(SPARSE, z, y, places)


# ---- 8 Slabs ---------------------------------------------------------------------------------------------------------


def slabs_of(shape: Canonical, align: int, size: int) -> tuple[int, list[tuple[int, int]]]:
    """Axis (0 z, 1 y, 2 x) and ranges of the slabs."""
    signal = shape[2:]
    axis = next((a for a in range(3) if signal[a] > align), 2)
    n = signal[axis]
    count = min(64, max(1, math.prod(shape) // size), max(1, n // align))
    edges = [((i * n) // count) // align * align for i in range(count)] + [n]
    return axis, list(itertools.pairwise(edges))


def part_of(axis: int, start: int, stop: int) -> tuple[slice, slice, slice]:
    """A slab as an index of (z, y, x)."""
    z, y, x = (slice(start, stop) if a == axis else slice(None) for a in range(3))
    return z, y, x


# ---- 9 Lattice mode --------------------------------------------------------------------------------------------------

MEAN, PREVIOUS, REFERENCE, REFERENCE_MEAN, INHERITED = range(5)
SECOND, FLAT, REFERENCE_PREVIOUS, REFERENCE_FLAT, FITTED = range(5, 10)
INTERPOLATED_KINDS = {MEAN, PREVIOUS, REFERENCE, REFERENCE_MEAN, INHERITED, FITTED}
SEQUENTIAL_KINDS = {PREVIOUS, REFERENCE, SECOND, FLAT, REFERENCE_PREVIOUS, REFERENCE_FLAT, FITTED}
NEED_REFERENCE = {REFERENCE, REFERENCE_MEAN, REFERENCE_PREVIOUS, REFERENCE_FLAT}

W, WW, WWW, N, NW, NE, NN = (0, 0, -1), (0, 0, -2), (0, 0, -3), (0, -1, 0), (0, -1, -1), (0, -1, 1), (0, -2, 0)
NNE, NNW, NEE, NWW, E, S, SW, SE = (0, -2, 1), (0, -2, -1), (0, -1, 2), (0, -1, -2), (0, 0, 1), (0, 1, 0), (0, 1, -1), (
    0, 1, 1,
)  # fmt: skip
U, UW, UE, UN, US, UNW, UU = (-1, 0, 0), (-1, 0, -1), (-1, 0, 1), (-1, -1, 0), (-1, 1, 0), (-1, -1, -1), (-2, 0, 0)
HERE, EE, DOWN = (0, 0, 0), (0, 0, 2), (1, 0, 0)
PLANE: dict[int, dict[Offset, int]] = {
    1: {W: 3, WW: -3, WWW: 1},
    2: {W: 1, N: 1, NW: -1},
    3: {U: 1, W: 1, N: 1, UW: -1, UN: -1, NW: -1, UNW: 1},
}
SEQUENTIAL_OWN: dict[int, list[Offset]] = {
    1: [(0, 0, -lag) for lag in range(1, 33)],
    2: [W, N, NW, NE, WW, NN, NNE, NNW, NEE, NWW],
    3: [U, W, N, NW, NE, UW, UN, UE, US, UNW, WW, NN, UU],
}
SEQUENTIAL_REFERENCE: dict[int, list[Offset]] = {
    1: [HERE, W, E, WW, EE],
    2: [HERE, W, N, NW, NE, E, S, SW, SE],
    3: [HERE, U, W, N, DOWN, S, E, NW, NE],
}
INTERPOLATED_REFERENCE: dict[int, list[Offsets]] = {
    1: [(HERE,), (W,), (E,), (WW,), (EE,)],
    2: [(HERE,), (W, E), (N, S), (NW, SE), (NE, SW)],
    3: [(HERE,), (W, E), (N, S), (U, DOWN)],
}


def signed(value: int, width: int) -> int:
    """An integer modulo 2^width, as a signed number."""
    value %= 1 << width
    return value - (1 << width) if value >> (width - 1) else value


def opposite(offset: Offset) -> Offset:
    """The other way."""
    return -offset[0], -offset[1], -offset[2]


def mirror(place: int, n: int) -> int:
    """A coordinate that is inside of [0, n) (9.3)."""
    while not 0 <= place < n:
        place = 0 if n == 1 else -place if place < 0 else 2 * (n - 1) - place
    return place


def both_ways(axis: int) -> tuple[Offset, Offset]:
    """-1 and 1 along an axis."""
    return [(U, DOWN), (N, S), (W, E)][axis]


@lru_cache
def classes_of(dimensions: int) -> list[Offset]:
    """The classes of a level in the order of their passes (9.4)."""
    bits = itertools.product((0, 1), (0, 1), (0, 1))
    return sorted((c for c in bits if any(c) and not any(c[: 3 - dimensions])), key=lambda c: (-sum(c), c))


@lru_cache
def known_offsets(dimensions: int, place: int) -> list[Offset]:
    """Offsets from samples of a class to those that are known before its pass, the shortest first (9.3)."""
    classes = classes_of(dimensions)
    before = [HERE, *classes[:place]]
    reach = range(-31, 32) if dimensions == 1 else range(-3, 4)
    z, y, x = (reach if axis >= 3 - dimensions else range(1) for axis in range(3))

    def target(offset: Offset) -> tuple[int, ...]:
        return tuple((c + o) % 2 for c, o in zip(classes[place], offset, strict=True))

    known = [offset for offset in itertools.product(z, y, x) if target(offset) in before]
    return sorted(known, key=lambda o: (sum(v * v for v in o), o))


@lru_cache
def near_offsets(odd: Offset, long: tuple[bool, ...]) -> dict[Offset, int]:
    """The near offsets of a class at a level and their weights (9.4)."""
    z, y, x = ((-1, 1) if bit else (0,) for bit in odd)
    corners = list(itertools.product(z, y, x))
    direct = [offset for axis in range(3) if long[axis] and not odd[axis] for offset in both_ways(axis)]
    most = max(len(corners), len(direct))
    return {o: most // len(corners) for o in corners} | {o: most // len(direct) for o in direct}


@lru_cache
def far_offsets(dimensions: int, place: int) -> list[Offset]:
    """The far offsets of a class (9.4)."""
    if dimensions == 3:
        return []
    near = near_offsets(classes_of(dimensions)[place], tuple(axis >= 3 - dimensions for axis in range(3)))
    others = [o for o in known_offsets(dimensions, place) if o not in near]
    return [o for o in others if sum(v * v for v in o) == sum(v * v for v in others[0])]


@dataclass(frozen=True)
class Tap:
    """A coefficient on a value, or on the sum of two, in the channel itself (source None) or in another."""

    source: int | None
    offsets: Offsets
    coefficient: int


@dataclass
class Predictor:
    """The predictor of one group of a channel; taps in references stand before those in the channel."""

    kind: int
    taps: list[Tap]
    shift: int = 0
    bias: int = 0


@dataclass
class Channel:
    """What section LATTICE says about one channel."""

    references: list[int]
    sequential: bool
    predictors: list[Predictor]
    levels: list[int] | None = None


@dataclass
class Lattice:
    """What section LATTICE says; starts by (slab, batch item, channel), codes by these and group."""

    kind: int
    unit: float
    radius: int
    width: int
    shape: Canonical
    dimensions: int
    axis: int
    slabs: list[tuple[int, int]]
    order: list[int]
    channels: dict[int, Channel]
    starts: dict[tuple[int, int, int], int]
    codes: dict[tuple[int, int, int, int], int]
    weights: dict[tuple[int, bool], list[int]]
    """By group and whether there is a reference, where the chunk has its own."""

    def radius_of(self, channel: int) -> int:
        """The radius of a channel (9.1)."""
        return self.radius if self.channels[channel].levels is None else 0


def lengths_of(extent: Sequence[int]) -> list[tuple[int, ...]]:
    """The lengths of each level of a plane, level 0 first (9.4)."""
    lengths = [tuple(extent)]
    while max(lengths[-1]) > 1:
        lengths.append(tuple(map(ceil2, lengths[-1])))
    return lengths


def own_levels(dimensions: int) -> int:
    """O of 9.2: from this level on all levels share their groups."""
    return 4 if dimensions == 1 else 1


def usual_predictor(kind: int, reference: int | None, odd: Offset, near: dict[Offset, int]) -> Predictor:
    """A predictor that is not fitted, of an interpolated plane at a level with these near offsets (9.3)."""
    in_channel = [Tap(None, (offset,), weight) for offset, weight in near.items()]
    total = sum(near.values())
    if kind == MEAN:
        return Predictor(kind, in_channel, total.bit_length() - 1)
    if kind == REFERENCE_MEAN:
        in_reference = [Tap(reference, (offset,), -weight) for offset, weight in near.items()]
        return Predictor(kind, [Tap(reference, (HERE,), total), *in_reference, *in_channel], total.bit_length() - 1)
    return Predictor(kind, [Tap(None, (opposite(odd),), 1) if kind == PREVIOUS else Tap(reference, (HERE,), 1)])


def usual_sequential_predictor(kind: int, reference: int | None, dimensions: int) -> Predictor:
    """A predictor that is not fitted, of a sequential plane (9.3)."""
    plane = PLANE[dimensions]
    in_channel, in_reference = {
        PREVIOUS: ({W: 1}, {}),
        REFERENCE: ({}, {HERE: 1}),
        SECOND: ({W: 2, WW: -1}, {}),
        FLAT: (plane, {}),
        REFERENCE_PREVIOUS: ({W: 1}, {HERE: 1, W: -1}),
        REFERENCE_FLAT: (plane, {HERE: 1} | {offset: -c for offset, c in plane.items()}),
    }[kind]
    taps = [Tap(reference, (offset,), c) for offset, c in in_reference.items()]
    return Predictor(kind, taps + [Tap(None, (offset,), c) for offset, c in in_channel.items()])


def fitted_taps(group: int, dimensions: int, sequential: bool) -> tuple[list[Offsets], list[Offsets]]:
    """Offsets of fitted predictors in the channel and in a reference (9.3)."""
    if sequential:
        in_channel, in_reference = SEQUENTIAL_OWN[dimensions], SEQUENTIAL_REFERENCE[dimensions]
        return [(offset,) for offset in in_channel], [(offset,) for offset in in_reference]
    known = known_offsets(dimensions, group % ((1 << dimensions) - 1))
    if dimensions == 1:
        return [(offset,) for offset in known[:16]], INTERPOLATED_REFERENCE[1]
    half = [offset for offset in known if offset < HERE]
    return [(offset, opposite(offset)) for offset in half[:8]], INTERPOLATED_REFERENCE[dimensions]


def read_lattice(data: bytes, header: Header) -> Lattice:
    """Section LATTICE (5.4, 9.2)."""
    expect(len(data) >= 13, "cut lattice")
    kind, unit, radius = struct.unpack_from("<BdI", data)
    is_float = header.dtype.kind == "f"
    expect(kind <= 2 and 0 < unit < math.inf and (kind != 2 or (is_float and not radius)), "impossible lattice")
    expect(kind != 0 or (unit == math.floor(unit) and unit <= 2.0**33), "impossible lattice")
    expect(radius <= 1 << 30, "impossible lattice")
    width = 64 if kind == 2 and header.dtype.itemsize == 8 else 32
    batch, channels, *signal = header.canonical
    nz, ny, nx = sorted(signal, key=lambda n: n != 1)
    dimensions = 3 if nz > 1 else 2 if ny > 1 else 1
    axis, slabs = slabs_of((batch, channels, nz, ny, nx), 1, 1 << 20)
    longest = [max(b - a for a, b in slabs) if i == axis else n for i, n in enumerate((nz, ny, nx))]
    lengths = lengths_of(longest)
    groups = min(own_levels(dimensions) + 1, max(len(lengths) - 1, 1)) * ((1 << dimensions) - 1)
    room = sum(z * y * (x + (64 if dimensions == 1 else 8)) for z, y, x in lengths)
    expect(channels <= 4096 + math.prod(header.canonical) // 64, "very many tiny planes")
    expect(channels * room <= (1 << 23) + 16 * channels * math.prod(longest), "very many tiny planes")
    bits = Bits(data[13:])

    moved = bits.unsigned(1, 1)[0]
    order = bits.unsigned(channels, channels - 1) if moved else list(range(channels))
    expect(sorted(order) == list(range(channels)), "every channel is coded once")
    reference_counts = bits.sums(channels, 8)
    distances = iter(bits.signed(sum(reference_counts)))
    found: dict[int, Channel] = {}
    for at, (channel, count) in enumerate(zip(order, reference_counts, strict=True)):
        references, place = [], at
        for _ in range(count):
            place = place - 1 - next(distances)
            expect(0 <= place < at, "a reference that is not decoded yet")
            references.append(order[place])
        found[channel] = Channel(references, False, [])
    for channel, flag in zip(order, bits.unsigned(channels, 1), strict=True):
        found[channel].sequential = bool(flag)
    interpolated = [channel for channel in order if not found[channel].sequential]

    fitted: list[tuple[int, Channel, Predictor]] = []
    for group in range(groups):
        listed = interpolated if group else order
        for channel, choice in zip(listed, bits.sums(len(listed), FITTED), strict=True):
            one = found[channel]
            expect(choice in (SEQUENTIAL_KINDS if one.sequential else INTERPOLATED_KINDS), "a wrong predictor")
            expect(choice != INHERITED or group >= (1 << dimensions) - 1, "nothing to inherit from")
            expect(choice not in NEED_REFERENCE or bool(one.references), "a predictor lacks its reference")
            expect(choice != FITTED or width == 32, "no fitted predictors for 64 bits")
            reference = one.references[0] if one.references else None
            if choice in (INHERITED, FITTED):
                one.predictors.append(Predictor(choice, []))
                if choice == FITTED:
                    fitted.append((group, one, one.predictors[-1]))
            elif one.sequential:
                one.predictors.append(usual_sequential_predictor(choice, reference, dimensions))
            else:
                odd = classes_of(dimensions)[group % ((1 << dimensions) - 1)]
                near = near_offsets(odd, tuple(axis >= 3 - dimensions for axis in range(3)))
                one.predictors.append(usual_predictor(choice, reference, odd, near))
    own_counts = bits.unsigned(len(fitted), 127)
    in_references = iter(bits.unsigned(sum(len(one.references) for _, one, _ in fitted)))
    shifts = bits.unsigned(len(fitted), 12)
    biases = bits.signed(len(fitted))
    counts = [
        [count] + [next(in_references) for _ in one.references]
        for count, (_, one, _) in zip(own_counts, fitted, strict=True)
    ]
    expect(all(sum(some) <= 128 for some in counts), "too many taps")
    coefficients = bits.signed(sum(map(sum, counts)))
    expect(all(-(1 << 52) <= bias < 1 << 52 for bias in biases), "a bias is too large")
    expect(all(-(1 << 15) <= c < 1 << 15 for c in coefficients), "a coefficient is too large")
    remaining = iter(coefficients)
    for (group, one, predictor), some, shift, bias in zip(fitted, counts, shifts, biases, strict=True):
        predictor.shift, predictor.bias = 12 - shift, bias
        in_channel, in_reference = fitted_taps(group, dimensions, one.sequential)
        for source, count in zip([None, *one.references], some, strict=True):
            offsets = in_channel if source is None else in_reference
            expect(count <= len(offsets), "more taps than there are")
            predictor.taps += [Tap(source, offset, next(remaining)) for offset in offsets[:count]]
    for one in found.values():
        for group, predictor in enumerate(one.predictors):
            if predictor.kind == INHERITED:
                one.predictors[group] = one.predictors[group - ((1 << dimensions) - 1)]

    starts: dict[tuple[int, int, int], int] = {}
    differences = iter(bits.signed(len(slabs) * batch * channels))
    for slab, b in itertools.product(range(len(slabs)), range(batch)):
        for at, channel in enumerate(order):
            references = found[channel].references
            base = references[0] if references else order[at - 1] if at else None
            other = 0 if base is None else starts[slab, b, base]
            starts[slab, b, channel] = signed(other + next(differences), width)
    codes: dict[tuple[int, int, int, int], int] = {}
    for group in range(groups):
        listed = interpolated if group else order
        differences = iter(bits.signed(len(slabs) * batch * len(listed)))
        for slab, b in itertools.product(range(len(slabs)), range(batch)):
            code = 0
            for channel in listed:
                code += next(differences)
                expect(0 <= code <= 104, "an impossible magnitude code")
                codes[slab, b, channel, group] = code
    weights: dict[tuple[int, bool], list[int]] = {}
    if bits.unsigned(1, 1)[0]:
        given = bits.unsigned(2 * groups, 1)
        lists = [bits.sums(sum(given), 52) for _ in range(5)]
        which = [(i // 2, bool(i % 2)) for i in range(2 * groups) if given[i]]
        for i, key in enumerate(which):
            weights[key] = [weight_of(some[i]) for some in lists]
    if bits.unsigned(1, 1)[0]:
        sizes = bits.unsigned(channels, batch * math.prod(signal))
        ranked = [channel for channel in range(channels) if sizes[channel]]
        edge = 1 << (width - 1)
        for channel, low in zip(ranked, bits.signed(len(ranked)), strict=True):
            gaps = bits.unsigned(sizes[channel] - 1)
            occupied = list(itertools.accumulate((gap + 1 for gap in gaps), initial=low))
            expect(-edge <= occupied[0] and occupied[-1] < edge, "a level is out of range")
            found[channel].levels = occupied
    bits.end()
    return Lattice(
        kind, unit, radius, width, (batch, channels, nz, ny, nx), dimensions, axis, slabs, order, found, starts, codes,
        weights,
    )  # fmt: skip


def weight_of(code: int) -> int:
    """The weight that a weight code stands for (9.2)."""
    return round(2 ** ((code - 1) / 4)) if code else 0


@dataclass
class LatticePlane:
    """One plane in lattice mode: the values so far, and the activities."""

    values: Integers
    activities: Integers

    @classmethod
    def of(cls, extent: tuple[int, ...]) -> LatticePlane:
        """A plane of zeros."""
        return cls(np.zeros(extent, np.int64), np.zeros(extent, np.int64))


class LatticeDecoder:
    """Decodes the planes of one slab and one batch item, one after the other."""

    def __init__(self, lattice: Lattice, stream: Stream, slab: int, batch: int) -> None:
        self.lattice, self.stream, self.slab, self.batch = lattice, stream, slab, batch
        self.planes: dict[int, LatticePlane] = {}

    def decode(self, channel: int, extent: tuple[int, ...], masked: Array | None) -> LatticePlane:
        """The plane of a channel."""
        plane = self.planes[channel] = LatticePlane.of(extent)
        plane.values[0, 0, 0] = self.restore(channel, 0, self.lattice.starts[self.slab, self.batch, channel])
        coded = np.ones(extent, bool) if masked is None else ~masked
        coded[0, 0, 0] = False
        if self.lattice.channels[channel].sequential:
            self.decode_sequential(channel, plane, coded)
        else:
            self.decode_interpolated(channel, plane, coded)
        return plane

    def own(self, channel: int, group: int) -> int:
        """The mean magnitude that is stated for a group."""
        return mean_of(self.lattice.codes[self.slab, self.batch, channel, group])

    def restore(self, channel: int, guess: int, residual: int) -> int:
        """restore(p, r) of 9.1."""
        radius = self.lattice.radius_of(channel)
        if radius:
            return min(max(guess + residual * (2 * radius + 1), -(1 << 31)), (1 << 31) - 1)
        return signed(guess + residual, self.lattice.width)

    def symbol(self, role: int, own: int, total: int) -> int:
        """The next symbol, of a plane or group with a stated magnitude, and with T of 9.4."""
        total = min(total, 1 << 26)
        symbol = self.stream.symbol(role, own * total >> 16 if own < 1 << 28 else (own >> 16) * total)
        expect(abs(symbol) < 1 << (self.lattice.width - 1), "a symbol is too large")
        return symbol

    @staticmethod
    def activity(own: int, residual: int) -> int:
        """How large a residual is (9.4)."""
        s = max(own.bit_length() - 20, 0)
        return min(min(abs(residual) >> s, 1 << 30) * ((1 << 32) // (own >> s)) >> 16, 1 << 16)

    # 9.4

    def decode_interpolated(self, channel: int, plane: LatticePlane, coded: Array) -> None:
        """All passes of a plane."""
        dimensions = self.lattice.dimensions
        lengths = lengths_of(plane.values.shape)
        for level in range(len(lengths) - 2, -1, -1):
            for place in range((1 << dimensions) - 1):
                self.decode_pass(channel, plane, coded, level, place, lengths[level])

    def decode_pass(
        self, channel: int, plane: LatticePlane, coded: Array, level: int, place: int, lengths: tuple[int, ...]
    ) -> None:  # fmt: skip
        """The samples of one class at one level, all at once but for their symbols."""
        lattice, one = self.lattice, self.lattice.channels[channel]
        dimensions = lattice.dimensions
        odd = classes_of(dimensions)[place]
        group = min(level, own_levels(dimensions)) * ((1 << dimensions) - 1) + place
        long = tuple(n > 1 for n in lengths)
        full = all(long[3 - dimensions :])
        near = near_offsets(odd, long)
        step = 1 << level
        places = [range(c, n, 2) for c, n in zip(odd, lengths, strict=True)]
        if not all(places):
            return

        def at(array: Array, offset: Offset) -> Array:
            """What an array has at an offset from each sample of the pass."""
            inside = [[mirror(u + o, n) for u in some] for some, o, n in zip(places, offset, lengths, strict=True)]
            return array[::step, ::step, ::step][np.ix_(*inside)]

        def at_tap(tap: Tap) -> list[Array]:
            source = plane if tap.source is None else self.planes[tap.source]
            return [at(source.values, offset) for offset in tap.offsets]

        # the guess (9.3)
        predictor = one.predictors[group] if full else usual_predictor(MEAN, None, odd, near)
        shift = predictor.shift
        if lattice.width == 64:
            first = at_tap(predictor.taps[0])[0]
            total = 0 * first
            for tap in predictor.taps:
                total += tap.coefficient * (at_tap(tap)[0] - first)
            guess, rest = first + (total >> shift), 0 * first
        else:
            total = np.full([len(some) for some in places], predictor.bias)
            for tap in predictor.taps:
                total += tap.coefficient * sum(at_tap(tap))
            guess = (total + (1 << shift) // 2) >> shift
            rest = total - (guess << shift)
            guess = np.clip(guess, -(1 << 31), (1 << 31) - 1)

        # the expected magnitude (9.4)
        other = self.planes[one.references[0]].activities if one.references else None
        weights = lattice.weights.get((group, other is not None))
        if weights is None:
            weights = all_weights()["lattice"][f"{dimensions}d-{place}-{'first' if other is None else 'next'}"]
        around: Array = sum((weight * at(plane.activities, offset) for offset, weight in near.items()), 0 * guess)
        t = (around * (8 * weights[1] // sum(near.values())) >> 3) + 256 * weights[0]
        if full:
            t += weights[2] * sum(at(plane.activities, offset) for offset in far_offsets(dimensions, place))
        if other is not None:
            ring = [offset for axis in range(3) if long[axis] for offset in both_ways(axis)]
            t += weights[3] * at(other, HERE) + weights[4] * sum(at(other, offset) for offset in ring)

        # the symbols
        own = self.own(channel, group)
        exact = lattice.radius_of(channel) == 0
        roles = np.minimum(6 * np.abs(rest) >> shift, 2) if exact else 0 * rest
        values, activities = guess.copy(), 0 * guess
        for i in np.flatnonzero(at(coded, HERE)) if own else ():
            symbol = self.symbol(int(roles.flat[i]), own, int(t.flat[i]))
            residual = -symbol if exact and rest.flat[i] < 0 else symbol
            values.flat[i] = self.restore(channel, int(guess.flat[i]), residual)
            activities.flat[i] = self.activity(own, residual)
        here = tuple(slice(c * step, None, 2 * step) for c in odd)
        plane.values[here], plane.activities[here] = values, activities

    # 9.5

    def decode_sequential(self, channel: int, plane: LatticePlane, coded: Array) -> None:
        """One sample after the other."""
        lattice, one = self.lattice, self.lattice.channels[channel]
        dimensions, width = lattice.dimensions, lattice.width
        nz, ny, nx = plane.values.shape
        values: Nested = plane.values.tolist()
        activities: Nested = plane.activities.tolist()
        others: dict[int, Nested] = {r: self.planes[r].values.tolist() for r in one.references}
        other: Nested | None = None
        if one.references:
            other = self.planes[one.references[0]].activities.tolist()
        weights = all_weights()["lattice"][f"{dimensions}d-sequential-{'first' if other is None else 'next'}"]
        predictor = one.predictors[0]
        shift, half = predictor.shift, (1 << predictor.shift) // 2
        own = self.own(channel, 0)
        exact = lattice.radius_of(channel) == 0
        ring = [offset for axis in range(3) if plane.values.shape[axis] > 1 for offset in both_ways(axis)]
        mean = 256

        def in_row(array: Nested, z: int, y: int, x: int, first: int) -> int:
            """A place of a row, or what stands in for it before the row begins."""
            if x >= 0:
                return array[z][y][x]
            if y:
                return array[z][y - 1][0]
            return array[z - 1][0][0] if z else first

        def value_at(z: int, y: int, x: int, offset: Offset) -> int:
            """What a tap in the channel itself takes."""
            dz, dy, dx = offset
            if (dz, dy) == (0, 0):
                return in_row(values, z, y, x + dx, values[0][0][0])
            if z + dz < 0 or y + dy < 0:
                return in_row(values, z, y, x - 1, values[0][0][0])
            return values[z + dz][min(y + dy, ny - 1)][mirror(x + dx, nx)]

        def mirrored(array: Nested, z: int, y: int, x: int, offset: Offset) -> int:
            """A place of another plane."""
            return array[mirror(z + offset[0], nz)][mirror(y + offset[1], ny)][mirror(x + offset[2], nx)]

        def features(z: int, y: int, x: int) -> Iterator[int]:
            """The table of 9.5."""
            yield 256
            yield mean
            yield in_row(activities, z, y, x - 1, 256)
            yield in_row(activities, z, y, x - 2, 256)
            yield activities[z][y - 1][x] if y else 256
            yield activities[z][y - 1][mirror(x - 1, nx)] + activities[z][y - 1][mirror(x + 1, nx)] if y else 512
            yield activities[z - 1][y][x] if z else 256
            yield 0 if other is None else other[z][y][x]
            yield 0 if other is None else sum(mirrored(other, z, y, x, offset) for offset in ring)

        for z, y, x in itertools.product(range(nz), range(ny), range(nx)):
            if (z, y, x) == HERE:
                continue
            total = predictor.bias
            for tap in predictor.taps:
                if tap.source is None:
                    total += tap.coefficient * value_at(z, y, x, tap.offsets[0])
                else:
                    total += tap.coefficient * mirrored(others[tap.source], z, y, x, tap.offsets[0])
            if width == 64:
                total = signed(total, 64)
            guess = (total + half) >> shift
            rest = total - (guess << shift)
            if width == 32:
                guess = min(max(guess, -(1 << 31)), (1 << 31) - 1)
            residual = 0
            if own and coded[z, y, x]:
                role = min(6 * abs(rest) >> shift, 2) if exact else 0
                symbol = self.symbol(role, own, sum(w * f for w, f in zip(weights, features(z, y, x), strict=True)))
                residual = -symbol if exact and rest < 0 else symbol
                activities[z][y][x] = self.activity(own, residual)
                mean += (activities[z][y][x] - mean) >> 4
            values[z][y][x] = self.restore(channel, guess, residual)
        plane.values[...], plane.activities[...] = values, activities


def decode_lattice(sections: dict[int, bytes], header: Header, shape: Canonical, masked: Array | None) -> Array:
    """Samples of a chunk in lattice mode."""
    lattice = read_lattice(sections[LATTICE], header)
    masked = None if masked is None else masked.reshape(lattice.shape)
    indices = np.zeros(lattice.shape, np.int64)
    streams = decode_streams(sections[LATTICE_SYMBOLS], len(lattice.slabs), KIND_LATTICE)
    for slab, ((start, stop), stream) in enumerate(zip(lattice.slabs, streams, strict=True)):
        part = part_of(lattice.axis, start, stop)
        for b in range(lattice.shape[0]):
            decoder = LatticeDecoder(lattice, stream, slab, b)
            for c in lattice.order:
                holes = None if masked is None else masked[b, c][part]
                indices[b, c][part] = decoder.decode(c, indices[b, c][part].shape, holes).values
        stream.end()
    for c, one in lattice.channels.items():
        if one.levels is not None:
            plane = indices[:, c]
            wrong = (plane < 0) | (plane >= len(one.levels))
            expect(not np.any(wrong if masked is None else wrong & ~masked[:, c]), "a level that does not exist")
            edge = 1 << (lattice.width - 1)
            bins = (v * (2 * lattice.radius + 1) for v in one.levels)
            levels = np.array([min(max(v, -edge), edge - 1) for v in bins], np.int64)
            plane[...] = levels[np.where(wrong, 0, plane)]
    indices = indices.reshape(shape)
    if lattice.kind == 2:
        bits = 8 * header.dtype.itemsize
        ordered = indices.astype(np.uint64) & np.uint64((1 << bits) - 1)
        flipped = ordered ^ np.uint64((1 << (bits - 1)) - 1)
        unsigned = np.where(ordered < np.uint64(1 << (bits - 1)), ordered, flipped)
        return unsigned.astype(f"u{header.dtype.itemsize}").view(header.dtype)
    samples = indices.astype(np.float64)
    if lattice.kind == 0 and header.dtype == np.uint32:
        samples += 2**31 // int(lattice.unit)
    samples *= lattice.unit
    if lattice.kind == 1 and header.dtype.kind != "f":
        samples = np.rint(samples)
    return cast(samples, header)


# ---- 10 Transform mode -----------------------------------------------------------------------------------------------


def split_count(n: int) -> int:
    """How often n can be halved while it is 4 or more."""
    return 1 + split_count(ceil2(n)) if n >= 4 else 0


@dataclass(frozen=True)
class Subband:
    """A box of coefficients, its level, and the number of its parent, if any, with shifts (10.2)."""

    begin: tuple[int, ...]
    extent: tuple[int, ...]
    level: int
    parent: int | None
    shifts: tuple[int, int, int]


Filter = dict[int, int]


@dataclass(frozen=True)
class Model:
    """Section MODEL."""

    integral: bool
    fraction: int
    unit: float
    residual_step: int
    profile: int
    packet: bool
    reflect: bool
    levels: int
    tap_shift: int
    quantum: int
    points: tuple[int, int, int]
    filters: tuple[Filter, Filter]
    signal: tuple[int, int, int]
    matrix: Floats
    shift: int
    mean: Floats
    codes: list[list[int]]
    precisions: list[int] | None = None
    residual_codes: list[int] | None = None
    scales: Floats | None = None
    book: Book | None = None
    network: tuple[dict[str, Any], dict[str, Array]] | None = None

    @property
    def splits(self) -> tuple[int, ...]:
        """How often each axis is split."""
        return tuple(min(self.levels, split_count(n)) for n in self.signal)


BIOR44_LOW = (0.7884856164056644, 0.4180922732222122, -0.04068941760955844, -0.06453888262893843)
BIOR44_HIGH = (-0.8526986790094034, 0.37740285561265374, 0.1106244044184234, -0.02384946501938, -0.03782845550699546)


def bior44(shift: int) -> tuple[Filter, Filter]:
    """The wavelet that needs no taps in the frame (10.4)."""
    low, high = (
        {place: round(taps[abs(place)] * 2.0**shift) for place in range(1 - len(taps), len(taps))}
        for taps in (BIOR44_LOW, BIOR44_HIGH)
    )
    return low, high


def subbands_of(signal: Sequence[int], levels: int, packet: bool) -> list[Subband]:
    """Subbands in coding order (10.2)."""
    splits = [min(levels, split_count(n)) for n in signal]
    depth = max(splits)
    if packet:
        sizes = tuple(n >> s for n, s in zip(signal, splits, strict=True))
        paths = itertools.product(*(range(1 << s) for s in splits))
        return [
            Subband(tuple(p * n for p, n in zip(path, sizes, strict=True)), sizes, depth, None, (0, 0, 0))
            for path in paths
        ]

    def low(level: int) -> list[int]:
        return [-(-n // (1 << min(level, s))) for n, s in zip(signal, splits, strict=True)]

    found = [Subband((0, 0, 0), tuple(low(depth)), depth, None, (0, 0, 0))]
    number: dict[tuple[int, tuple[int, ...]], int] = {}
    for level in range(depth, 0, -1):
        for orientation in itertools.product((0, 1), repeat=3):
            if orientation == (0, 0, 0) or any(b and s < level for b, s in zip(orientation, splits, strict=True)):
                continue
            pairs = list(zip(orientation, low(level), low(level - 1), strict=True))
            begin = tuple(a if bit else 0 for bit, a, _ in pairs)
            extent = tuple(n - a if bit else a for bit, a, n in pairs)
            if 0 in extent:
                continue
            number[level, orientation] = len(found)
            z, y, x = (int(s > level) for s in splits)
            found.append(Subband(begin, extent, level, number.get((level + 1, orientation)), (z, y, x)))
    return found


def read_model(data: bytes, shape: Canonical) -> Model:
    """Section MODEL (5.6, 10.1); of a frame with a basis within a model, without the 8 bytes that name that (14.1)."""
    channels = shape[1]
    expect(len(data) >= 34, "cut model")
    kind, integral, fraction, unit, residual_step, profile = struct.unpack_from("<BBbdIB", data)
    tree, boundary, levels, tap_shift, quantum, p1, p2, p3, rank, mean_shift = struct.unpack_from(
        "<BBBBIhhhHB", data, 16
    )
    expect(kind in (0, 3), "a model of a later version")
    expect(integral <= 1 and profile <= FLAGS_FIRST and abs(fraction) <= 60 and 0 < unit < math.inf, "impossible units")
    expect(tree <= 3 and boundary <= 1 and levels <= 8 and tap_shift <= 30 and quantum >= 1, "impossible model")
    expect(1 <= rank <= channels and mean_shift <= 40, "impossible model")
    at = 33
    filters = bior44(tap_shift)
    if tree & 2:
        expect(len(data) >= 37, "cut taps")
        low, high, low_origin, high_origin = struct.unpack_from("<BBbb", data, at)
        expect(low >= 1 and high >= 1 and len(data) > 37 + 4 * (low + high), "cut taps")
        taps = struct.unpack_from(f"<{low + high}i", data, at + 4)
        filters = (
            {j - low_origin: tap for j, tap in enumerate(taps[:low])},
            {j - high_origin: tap for j, tap in enumerate(taps[low:])},
        )
        at += 4 + 4 * (low + high)
    if boundary == 0:
        expect(all(g == {-t: v for t, v in g.items()} for g in filters), "filters that cannot reflect")
    means_code = magnitude_codes(data[at : at + 1], 1)[0]
    packet = bool(tree & 1)
    z, y, x = shape[2:]
    if packet or boundary == 1:
        multiples = [1 << min(levels, split_count(n)) for n in shape[2:]]
        z, y, x = (-(-n // m) * m for n, m in zip(shape[2:], multiples, strict=True))
    expect(rank <= shape[0] * z * y * x, "more basis vectors than pixels")
    count = len(subbands_of((z, y, x), levels, packet))
    layout = [(rank, 17), (rank, 17), (channels, means_code)] + [(channels, 27)] * rank + [(rank, 17)] * count
    planes = [Plane((1, 1, n), code) for n, code in layout]
    decode_planes(Stream.of(data[at + 1 :], usual_tables(KIND_SIDE)), planes, KIND_SIDE, 1)
    lists = [plane.values for plane in planes]
    precisions = list(itertools.accumulate(lists[0]))
    expect(all(0 <= p <= 30 for p in precisions), "impossible precisions")
    shift = max(precisions)
    means = np.array([float(v * 2**mean_shift) for v in itertools.accumulate(lists[2])])
    vectors = [
        list(itertools.accumulate(vector)) if smooth else vector
        for smooth, vector in zip(lists[1], lists[3 : 3 + rank], strict=True)
    ]
    matrix = np.array(
        [[float(v << (shift - p)) for v in vector] for p, vector in zip(precisions, vectors, strict=True)]
    )
    codes = [list(itertools.accumulate(some)) for some in lists[3 + rank :]]
    expect(all(0 <= code <= 104 for some in codes for code in some), "impossible magnitude codes")
    return Model(
        integral=bool(integral), fraction=fraction, unit=unit, residual_step=residual_step, profile=profile,
        packet=packet, reflect=boundary == 0, levels=levels, tap_shift=tap_shift, quantum=quantum, points=(p1, p2, p3),
        filters=filters, signal=(z, y, x), matrix=matrix.T, shift=shift, mean=means, precisions=precisions,
        codes=[[codes[s][k] for s in range(count)] for k in range(rank)],
    )  # fmt: skip


def read_arrays(named: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """The description and the arrays of a model (14)."""
    size = int.from_bytes(named[:8], "little")
    header = json.loads(named[8 : 8 + size])
    description = json.loads(header.pop("__metadata__")["xwalloc"])
    types = {"F64": "<f8", "F32": "<f4", "I32": "<i4", "I8": "i1", "U8": "u1", "U16": "<u2", "BOOL": "?"}
    arrays = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        part = named[8 + size + first : 8 + size + last]
        arrays[name] = np.frombuffer(part, types[entry["dtype"]]).reshape(entry["shape"])
    return description, arrays


def places_of(signal: Sequence[int], levels: int, packet: bool, dimensions: int) -> list[int]:
    """Which subband of a model each subband of a chunk corresponds to (14)."""
    splits = [min(levels, split_count(n)) for n in signal]
    if packet:
        paths = itertools.product(*(range(1 << s) for s in splits))
        wide = 1 << levels
        return [
            sum((p << (levels - s)) * wide ** (2 - a) for a, (p, s) in enumerate(zip(path, splits, strict=True)))
            for path in paths
        ]
    bits = [b for b in itertools.product((0, 1), repeat=dimensions) if any(b)]
    keys = [(level, (0,) * (3 - dimensions) + b) for level in range(levels, 0, -1) for b in bits]
    number = {key: 1 + i for i, key in enumerate(keys)}
    found = [0]
    for subband in subbands_of(signal, levels, packet)[1:]:
        found.append(number[subband.level, tuple(int(b > 0) for b in subband.begin)])
    return found


def read_named_model(data: bytes, shape: Canonical, dimensions: int, named: bytes, residual: bool) -> Model:
    """Section MODEL of a frame that names its model (14)."""
    description, arrays = read_arrays(named)
    expect(hashlib.sha256(named).digest()[:8] == data[16:24], "another model than the frame names")
    expect((description["channels"], description["dimensions"]) == (shape[1], dimensions), "a model of other data")
    _, integral, fraction, unit, residual_step, profile = struct.unpack_from("<BBbdIB", data)
    quantum, rank, tap_shift, p1, p2, p3 = struct.unpack_from("<IHBhhh", data, 24)
    packet, levels = description["tree"] == "packet", description["levels"]
    reflect = description["boundary"] == "reflect"
    z, y, x = shape[2:]
    if packet or not reflect:
        multiples = [1 << min(levels, split_count(n)) for n in shape[2:]]
        z, y, x = (-(-n // m) * m for n, m in zip(shape[2:], multiples, strict=True))
    expected = arrays["codes"][:rank, places_of((z, y, x), levels, packet, dimensions)].astype(int)
    planes = [Plane((1, 1, rank), 17) for _ in range(expected.shape[1])]
    planes += [Plane((1, 1, shape[1]), 17)] * residual
    decode_planes(Stream.of(data[37:], usual_tables(KIND_SIDE)), planes, KIND_SIDE, 1)
    codes = expected + np.array([plane.values for plane in planes[: expected.shape[1]]]).T
    residual_codes = arrays["residual_codes"] + np.array(planes[-1].values) if residual else np.zeros(0, int)
    expect(all(0 <= code <= 104 for code in [*codes.flat, *residual_codes]), "impossible magnitude codes")
    index, tables = all_tables()
    usual = list(index)
    for place, number in zip(arrays["table_classes"], arrays["table_numbers"], strict=True):
        usual[place] = int(number)
    precisions = [int(p) for p in arrays["precisions"][:rank]]
    shift = max(precisions)
    matrix = np.array(
        [
            [float(int(v) << (shift - p)) for v in vector]
            for p, vector in zip(precisions, arrays["vectors"], strict=False)
        ]
    )
    per_sample = 2.0**fraction if integral else 1 / unit
    scales = arrays["scales"]
    return Model(
        integral=bool(integral), fraction=fraction, unit=unit, residual_step=residual_step, profile=profile,
        packet=packet, reflect=reflect, levels=levels, tap_shift=tap_shift, quantum=quantum, points=(p1, p2, p3),
        filters=bior44(tap_shift), signal=(z, y, x), matrix=matrix.T, shift=shift,
        mean=np.rint(arrays["means"] / scales * per_sample) + 0.0, codes=codes.tolist(),
        residual_codes=[int(code) for code in residual_codes], scales=scales if (scales != 1).any() else None,
        book=(tuple(usual), tables + [table_of([int(f) for f in row]) for row in arrays["tables"]]),
        network=read_network(description, arrays) if data[0] == 2 else None,
    )  # fmt: skip


def read_rotated_model(
    data: bytes, shape: Canonical, dimensions: int, named: bytes, layer: bytes | None
) -> tuple[Model, bytes | None]:
    """Section MODEL of a frame with a basis of its own within a model (14.1), and the rest of section RESIDUAL."""
    description, arrays = read_arrays(named)
    expect(hashlib.sha256(named).digest()[:8] == data[16:24], "another model than the frame names")
    expect((description["channels"], description["dimensions"]) == (shape[1], dimensions), "a model of other data")
    basis = [[int(v) for v in vector] for vector in arrays["vectors"]]
    exponents = [int(p) for p in arrays["precisions"]]
    expect(len(data) > 24, "cut model")
    further, at = data[24], 25
    if further:
        expect(len(data) >= 29 and len(basis) + further <= shape[1], "impossible further vectors")
        at = 29 + int.from_bytes(data[25:29], "little")
        planes = [Plane((1, 1, n), code) for n, code in [(further, 17)] * 2 + [(shape[1], 27)] * further]
        decode_planes(Stream.of(data[29:at], usual_tables(KIND_SIDE)), planes, KIND_SIDE, 1)
        exponents += itertools.accumulate(planes[0].values)
        expect(all(0 <= p <= 30 for p in exponents), "impossible precisions")
        for smooth, plane in zip(planes[1].values, planes[2:], strict=True):
            basis.append(list(itertools.accumulate(plane.values)) if smooth else plane.values)
    own = read_model(data[:16] + data[at:], (shape[0], len(basis), *shape[2:]))
    assert own.precisions is not None
    common = max(exponents)
    spanned = [[float(v << (common - p)) for v in vector] for p, vector in zip(exponents, basis, strict=True)]
    weights = own.matrix.T / 2.0 ** (own.shift - np.array(own.precisions))[:, None]
    offsets = np.rint(own.mean @ np.array(spanned) / 2.0**common)
    vectors = np.rint(weights @ np.array(spanned) / 2.0 ** (common - 2))
    precisions = [p + 2 for p in own.precisions]
    expect(max(precisions) <= 30, "impossible precisions")
    matrix = np.array([vector * 2.0 ** (max(precisions) - p) for p, vector in zip(precisions, vectors, strict=True)])
    per_sample = 2.0**own.fraction if own.integral else 1 / own.unit
    scales = arrays["scales"]
    index, tables = all_tables()
    usual = list(index)
    for place, number in zip(arrays["table_classes"], arrays["table_numbers"], strict=True):
        usual[place] = int(number)
    codes = None
    if layer is not None:
        length = int.from_bytes(layer[:4], "little")
        plane = Plane((1, 1, shape[1]), 17)
        decode_planes(Stream.of(layer[4 : 4 + length], usual_tables(KIND_SIDE)), [plane], KIND_SIDE, 1)
        codes = [int(code) for code in arrays["residual_codes"] + np.array(plane.values)]
        expect(all(0 <= code <= 104 for code in codes), "impossible magnitude codes")
        layer = layer[4 + length :]
    model = replace(
        own, matrix=matrix.T, shift=max(precisions),
        mean=np.rint(arrays["means"] / scales * per_sample) + offsets + 0.0,
        residual_codes=codes, scales=scales if (scales != 1).any() else None,
        book=(tuple(usual), tables + [table_of([int(f) for f in row]) for row in arrays["tables"]]),
    )  # fmt: skip
    return model, layer


def read_network(description: dict[str, Any], arrays: dict[str, Array]) -> tuple[dict[str, Any], dict[str, Array]]:
    """Description and arrays of the network of a model (14.2)."""
    expect("network" in description, "a model without a network")
    network: dict[str, Any] = description["network"]
    expect(network["version"] == 1, "a network of a later version")
    tensors = {n[8:]: np.asarray(a, np.int64) for n, a in arrays.items() if n.startswith("network.")}
    for layer in [f"hidden.{i}" for i in range(len(network["widths"]))] + ["output"]:
        sums = np.abs(tensors[layer + ".weight"]).reshape(len(tensors[layer + ".weight"]), -1).sum(axis=1)
        if layer == "hidden.0":
            sums = sums + np.abs(tensors["codes.weight"]).sum(axis=1)
        half = (1 << tensors[layer + ".shift"]) // 2
        expect(int((127 * sums + np.abs(tensors[layer + ".bias"]) + half).max()) < 1 << 24, "inexact sums")
    return network, tensors


def companded(symbol: int) -> int:
    """z(q) of 14.2."""
    size = min(abs(symbol), 1023)
    found = 8 * size
    if size > 4:
        octave = 0
        while 4 << (octave + 1) <= size:
            octave += 1
        found = min(127, 32 + 12 * octave + 12 * (size - (4 << octave)) // (4 << octave))
    return found if symbol >= 0 else -found


COMPANDED = np.array([companded(symbol) for symbol in range(-1023, 1024)])


def compand(symbols: Integers) -> Integers:
    """z(q) of every symbol."""
    found: Integers = COMPANDED[np.clip(symbols, -1023, 1023) + 1023]
    return found


@dataclass(frozen=True)
class Looked:
    """A plane of a view (14.2)."""

    number: int
    subband: Subband
    count: tuple[int, ...]
    offset: tuple[int, ...]
    corrected: bool

    def boxes(self, grid: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        """Where its coefficients are among those of a latent, and on the grid."""
        source, target = [], []
        for begin, n, count, offset, places in zip(
            self.subband.begin, self.subband.extent, self.count, self.offset, grid, strict=True
        ):
            source.append(slice(begin + offset, begin + n, count))
            target.append(slice(0, min(places, len(range(offset, n, count)))))
        return tuple(source), tuple(target)


def views_of(model: Model, levels: int, dimensions: int) -> Iterator[tuple[tuple[int, ...], list[Looked]]]:
    """Grids and planes of all views (14.2)."""
    subbands = subbands_of(model.signal, model.levels, model.packet)
    splits = model.splits[3 - dimensions :]
    one = (1, 1, 1)
    if model.packet:
        if set(splits) == {levels}:
            yield subbands[0].extent, [Looked(i, s, one, (0, 0, 0), True) for i, s in enumerate(subbands)]
        return
    two = (1,) * (3 - dimensions) + (2,) * dimensions
    for level in range(min(splits) - 1, 0, -1):
        grid = tuple(-(-n // (1 << min(level + 1, s))) for n, s in zip(model.signal, model.splits, strict=True))
        high = [(i, s) for i, s in enumerate(subbands) if any(s.begin)]
        planes = [Looked(i, s, one, (0, 0, 0), False) for i, s in high if s.level == level + 1]
        for i, s in high:
            if s.level == level:
                planes += [Looked(i, s, two, o, True) for o in itertools.product(*map(range, two))]
        yield grid, planes


def layer_of(values: Integers, tensors: dict[str, Array], name: str, extra: Array | int, low: int) -> Integers:
    """Outputs (output, z, y, x) of a layer (14.2)."""
    weight, bias, shift = (tensors[f"{name}.{part}"] for part in ("weight", "bias", "shift"))
    kernel = (1,) * (3 - weight.ndim + 2) + weight.shape[2:]
    weight = weight.reshape(*weight.shape[:2], *kernel)
    reach = [n // 2 for n in kernel]
    wide = np.pad(values, [(0, 0), *((r, r) for r in reach)])
    sums = np.zeros((len(weight), *values.shape[1:]), np.int64) + (bias + extra)[:, None, None, None]
    for tap in itertools.product(*map(range, kernel)):
        part = wide[:, *(slice(t, t + n) for t, n in zip(tap, values.shape[1:], strict=True))]
        sums += np.tensordot(weight[:, :, *tap], part, 1)
    half = ((1 << shift) // 2)[:, None, None, None]
    found: Integers = np.clip((sums + half) >> shift[:, None, None, None], low, 127)
    return found


def corrections_of(symbols: Integers, model: Model, dimensions: int) -> Integers:
    """Corrections (rank, Z, Y, X) of the symbols of a batch item (14.2)."""
    assert model.network is not None
    network, tensors = model.network
    rank = len(symbols)
    components = max(rank, network["rank"])
    codes = np.zeros((components, len(model.codes[0])), np.int64)
    codes[:rank] = model.codes
    found = np.zeros((components, *symbols.shape[1:]), np.int64)
    for grid, planes in views_of(model, network["levels"], dimensions):
        q = np.zeros((components, len(planes), *grid), np.int64)
        for i, plane in enumerate(planes):
            source, target = plane.boxes(grid)
            q[:rank, i][:, *target] = symbols[:, *source]
        z = compand(q)
        numbers = list(dict.fromkeys(plane.number for plane in planes))
        own = list(dict.fromkeys(plane.number for plane in planes if plane.corrected))

        def spectral(k: int, numbers: list[int] = numbers) -> list[int]:
            """Numbers of a component that do not depend on the place."""
            return [int(np.clip(2 * ((codes[k, s] if 0 <= k < components else 0) - 17), -127, 127)) for s in numbers]

        def inputs(k: int, q: Integers = q, z: Integers = z) -> list[Integers]:
            """Inputs of a component, less those of its neighbours."""
            parts = [z[k], np.abs(z[k])]
            for axis in range(3 - dimensions, 3) if model.packet else ():
                low = np.clip(q[k, :1], -(2**22), 2**22)
                first = np.take(low, [0], axis + 1)
                parts.append(compand(np.diff(low, axis=axis + 1, prepend=first)))
            return parts

        def beside(k: int, z: Integers = z) -> Integers:
            """Magnitudes of another component."""
            return np.abs(z[k]) if 0 <= k < components else np.zeros_like(z[0])

        together = network["kind"] == "fixed"
        for group in [range(components)] if together else [range(k, k + 1) for k in range(components)]:
            if not codes[np.ix_(list(group), own)].any():
                continue
            parts = [part for k in group for part in inputs(k)]
            fixed = [number for k in group for number in spectral(k)]
            if not together:
                parts += [beside(group[0] - 1), beside(group[0] + 1)]
                fixed += spectral(group[0] - 1) + spectral(group[0] + 1)
            values = np.concatenate(parts)
            for i in range(len(network["widths"])):
                extra = tensors["codes.weight"] @ np.array(fixed) if i == 0 else 0
                values = layer_of(values, tensors, f"hidden.{i}", extra, 0)
            both = layer_of(values, tensors, "output", 0, -127)
            wanted = [(k, i) for k in group for i, plane in enumerate(planes) if plane.corrected]
            for p, (k, i) in enumerate(wanted):
                n = np.clip(np.sign(q[k, i]) * both[p] + both[len(wanted) + p], -127, 127)
                source, target = planes[i].boxes(grid)
                found[k][source] = n[target]
    return found[:rank]


def decode_latents(data: bytes, model: Model, batch: int, dimensions: int) -> Integers:
    """Symbols (batch, rank, Z, Y, X) (10.3)."""
    rank = len(model.codes)
    subbands = subbands_of(model.signal, model.levels, model.packet)
    axis, slabs = slabs_of((batch, rank, *model.signal), 1 << model.levels, 1 << 18)
    symbols = np.zeros((batch, rank, *model.signal), np.int64)
    kind = KIND_LATENT if model.profile == ROWS else KIND_LATENT_PARALLEL
    for (start, stop), stream in zip(slabs, decode_streams(data, len(slabs), kind, model.book), strict=True):
        boxes: list[tuple[slice, ...]] = []
        for subband in subbands:
            edges = [[b, b + n] for b, n in zip(subband.begin, subband.extent, strict=True)]
            depth = min(subband.level, model.splits[axis])
            first, last = edges[axis]
            edges[axis][0] = min(first + (start >> depth), last)
            if stop != slabs[-1][1]:
                edges[axis][1] = min(first + (stop >> depth), last)
            boxes.append(tuple(slice(a, b) for a, b in edges))
        planes: dict[tuple[int, int, int], Plane] = {}

        def other(place: tuple[int, int, int], planes: dict[tuple[int, int, int], Plane] = planes) -> Plane | None:
            """A plane that has content, if there is one."""
            found = planes.get(place)
            return found if found is not None and found.code and found.values else None

        for b, k, s in itertools.product(range(batch), range(rank), range(len(subbands))):
            extent = tuple(part.stop - part.start for part in boxes[s])
            plane = Plane((extent[0], extent[1], extent[2]), model.codes[k][s], previous=other((b, k - 1, s)))
            parent = subbands[s].parent
            if parent is not None:
                plane.parent, plane.parent_shifts = other((b, k, parent)), subbands[s].shifts
            before = other((b, k, s - 1))
            if before is not None and before.extent == plane.extent and subbands[s].level == subbands[s - 1].level:
                plane.sibling = before
            planes[b, k, s] = plane
        decode_planes(stream, list(planes.values()), kind, dimensions, model.profile == FLAGS_FIRST)
        for (b, k, s), plane in planes.items():
            symbols[b, k][boxes[s]] = np.array(plane.values, np.int64).reshape(plane.extent)
    return symbols


@lru_cache(maxsize=64)
def synthesis_matrix(
    n: int, low: tuple[tuple[int, int], ...], high: tuple[tuple[int, int], ...], reflect: bool
) -> Floats:
    """What n entries (low-pass ones first) contribute to n outputs: (output, entry) (10.4)."""
    matrix = np.zeros((n, n))
    for i in range(n):
        for parity, taps in enumerate((low, high)):
            for place, tap in taps:
                m = i - place
                if m % 2 != parity:
                    continue
                m = m % (2 * n - 2) if reflect else m % n
                m = 2 * n - 2 - m if m >= n else m
                matrix[i, m // 2 if m % 2 == 0 else ceil2(n) + m // 2] += tap
    return matrix


def l1_norm(filters: tuple[Filter, Filter]) -> int:
    """Largest sum of magnitudes of the taps that one output adds up."""
    return max(
        sum(abs(tap) for q, g in enumerate(filters) for t, tap in g.items() if (parity - t) % 2 == q)
        for parity in (0, 1)
    )


def inverse_wavelet(latents: Floats, model: Model) -> None:
    """Synthesise (batch, rank, Z, Y, X) in place (10.4)."""
    splits = model.splits
    taps = tuple(tuple(sorted(g.items())) for g in model.filters)
    for level in range(max(splits), 0, -1):
        for axis in range(3):
            if splits[axis] < level:
                continue
            box = latents
            size = model.signal[axis] >> (level - 1)
            if not model.packet:
                low = [-(-n // (1 << min(level - 1, s))) for n, s in zip(model.signal, splits, strict=True)]
                box, size = latents[:, :, : low[0], : low[1], : low[2]], low[axis]
            expect(float(np.abs(box).max()) * l1_norm(model.filters) < 2.0**53, "beyond exact arithmetic")
            lines = np.moveaxis(box, 2 + axis, 0)
            matrix = synthesis_matrix(size, taps[0], taps[1], model.reflect)
            for start in range(0, len(lines), size):
                segment = lines[start : start + size]
                sums = matrix @ segment.reshape(size, -1)
                lines[start : start + size] = np.rint(sums / 2.0**model.tap_shift).reshape(segment.shape)


def continued(array: Array, signal: Sequence[int]) -> Array:
    """An array whose last entries along the signal axes are repeated up to an extent."""
    places = np.ix_(*(np.minimum(np.arange(to), n - 1) for to, n in zip(signal, array.shape[2:], strict=True)))
    return array[:, :, *places]


def decode_residuals(data: bytes, model: Model, batch: int, dimensions: int, masked: Array | None) -> Integers:
    """Residuals (batch, channel, Z, Y, X) (10.6)."""
    shape = (batch, len(model.mean), *model.signal)
    return residuals_of(data, model.residual_codes, shape, dimensions, masked, model.profile, model.book)


def residuals_of(
    data: bytes,
    codes: list[int] | None,
    shape: Canonical,
    dimensions: int,
    masked: Array | None,
    profile: int,
    book: Book | None,
) -> Integers:
    """Residuals of a shape, with the magnitude codes that stand before the streams if they are not known (5.7)."""
    batch, channels = shape[:2]
    if codes is None:
        codes, data = magnitude_codes(data[:channels], channels), data[channels:]
    axis, slabs = slabs_of(shape, GROUP, 1 << 20)
    residuals = np.zeros(shape, np.int64)
    kind = KIND_RESIDUAL if profile == ROWS else KIND_RESIDUAL_PARALLEL
    for (start, stop), stream in zip(slabs, decode_streams(data, len(slabs), kind, book), strict=True):
        part = part_of(axis, start, stop)
        box = residuals[0, 0][part].shape
        planes: list[Plane] = []
        for b, c in itertools.product(range(batch), range(channels)):
            previous = planes[-1] if c and codes[c - 1] else None
            holes = None if masked is None else masked[b, c][part].reshape(-1).tolist()
            planes.append(Plane((box[0], box[1], box[2]), codes[c], previous=previous, masked=holes))
        decode_planes(stream, planes, kind, dimensions, profile == FLAGS_FIRST)
        for i, plane in enumerate(planes):
            residuals[i // channels, i % channels][part] = np.array(plane.values, np.int64).reshape(plane.extent)
    return residuals


def decode_transform(
    sections: dict[int, bytes], header: Header, shape: Canonical, masked: Array | None, named: bytes | None
) -> Array:
    """Samples of a chunk in transform mode."""
    batch, channels = shape[:2]
    layer = sections.get(RESIDUAL)
    if named is not None and sections[MODEL][0] == 3:
        model, layer = read_rotated_model(sections[MODEL], shape, header.dimensions, named, layer)
    elif named is not None and sections[MODEL][0] in (1, 2):
        model = read_named_model(sections[MODEL], shape, header.dimensions, named, RESIDUAL in sections)
    else:
        model = read_model(sections[MODEL], shape)
    scales = np.ones((channels, 1, 1, 1)) if model.scales is None else model.scales[:, None, None, None]
    steps = np.full((channels, 1, 1, 1), float(model.residual_step))
    if model.scales is not None and model.integral:
        steps = 2 * np.floor(model.unit * scales) + 1
    symbols = decode_latents(sections[LATENTS], model, batch, header.dimensions)
    points = np.array(model.points)[np.clip(np.abs(symbols), 1, 3) - 1]
    latents = (symbols * model.quantum + np.sign(symbols) * points).astype(np.float64)
    if model.network is not None:
        n = np.stack([corrections_of(item, model, header.dimensions) for item in symbols])
        latents += np.floor((n * model.quantum + 128) / 256)
    inverse_wavelet(latents, model)
    flat = latents.reshape(batch, len(model.codes), -1)
    reach = np.abs(flat).max(axis=(0, 2))
    expect(float((np.abs(model.matrix) @ reach).max()) < 2.0**53, "beyond exact arithmetic")
    expect(float(np.abs(model.mean).max()) < 2.0**52, "beyond exact arithmetic")
    product = np.stack([model.matrix @ item for item in flat]).reshape(batch, channels, *model.signal)
    # 11 Finish
    values = np.rint(product * 2.0**-model.shift) + model.mean[:, None, None, None]
    if model.integral:
        values = np.rint(values * (2.0**-model.fraction * scales))
    if layer is not None:
        holes = None if masked is None else continued(masked, model.signal)
        residuals = decode_residuals(layer, model, batch, header.dimensions, holes)
        values = values + residuals * steps
    if not model.integral:
        values = values * (model.unit * scales)
        if header.dtype.kind != "f":
            values = np.rint(values)
    z, y, x = shape[2:]
    return cast(values[:, :, :z, :y, :x], header)


# ---- 15 Learned mode -------------------------------------------------------------------------------------------------


def decode_learned(
    sections: dict[int, bytes], header: Header, shape: Canonical, masked: Array | None, named: bytes, networks: Any
) -> Array:
    """Samples of a chunk in learned mode."""
    expect(len(sections[MODEL]) == 42, "cut model")
    key, offset, scale, tolerance, step, integral, profile = struct.unpack("<8sddddBB", sections[MODEL])
    expect(hashlib.sha256(named).digest()[:8] == key, "another model")
    expect(min(scale, step) >= 0 and math.isfinite(abs(offset) + scale + 2.0**32 * step), "impossible fields")
    expect(0 <= tolerance <= 1 and integral <= 1 and profile <= FLAGS_FIRST, "impossible fields")
    description, arrays = read_arrays(named)
    tensors = {name: array.astype(np.float64) for name, array in arrays.items()}
    expect(description["kind"] == "published", "a model of another kind")
    expect((description["channels"], description["dimensions"]) == (shape[1], header.dimensions), "another model")
    signal = shape[-header.dimensions :]
    _, count = networks.architecture_of(description)
    positions = [-(-n // (1 << description["levels"])) + (2 if header.dimensions == 1 else 0) for n in signal]
    expect(sections[LATTICE][:13] == struct.pack("<BdI", 0, 1.0, 0), "another lattice")
    there = (shape[0], count, *[1] * (3 - len(positions)), *positions)
    roles = (BATCH, CHANNEL, SIGNAL, SIGNAL, SIGNAL)
    latents = decode_lattice(
        sections, Header(MODE_LATTICE, np.dtype("i4"), False, there, roles, None), there, None
    ).reshape(shape[0], count, *positions)
    largest = 2 ** (description["architecture"]["latent_bits"] - 1) - 1
    expect(int(np.abs(latents).max()) <= largest, "latents beyond their range")
    x = np.stack([networks.output_of(item.astype(np.int64), description, tensors) for item in latents])
    values = offset + scale * x[(..., *(slice(n) for n in signal))].reshape(shape)
    if RESIDUAL in sections:
        layer = residuals_of(sections[RESIDUAL], None, shape, header.dimensions, masked, profile, None)
        values = values + step * layer
    if integral or header.dtype.kind != "f":
        values = np.rint(values)
    return cast(values, header)


# ---- 11 Finish -------------------------------------------------------------------------------------------------------


def cast(values: Floats, header: Header) -> Array:
    """Range, cast and nodata."""
    dtype = header.dtype
    info: Callable[[Any], Any] = np.finfo if dtype.kind == "f" else np.iinfo
    values = np.clip(values, float(info(dtype).min), float(info(dtype).max))
    samples: Array = (values.astype(np.float32) if dtype == np.float16 else values).astype(dtype)
    if header.nodata is not None:
        nodata = np.array(header.nodata, f"u{dtype.itemsize}").view(dtype)
        if dtype.kind == "f":
            substitute = np.nextafter(nodata, np.array(np.inf, dtype))
            if not np.isfinite(substitute):
                substitute = np.nextafter(nodata, np.array(-np.inf, dtype))
        else:
            value = int(nodata[()])
            substitute = np.array(value + 1 if value < info(dtype).max else value - 1, dtype)
        samples[samples == nodata] = substitute
    return samples
