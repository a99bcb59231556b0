"""Sections of many chunks <-> bytes on a device, to the byte what bitstream/planes.py does on a CPU.

The kernels (contexts.py, decoding.py, encoding.py) take tables: which planes there are (`Geometry`, which chunks of a
shape share and which stays on the device), what the planes of a section state (their codes), and where streams, values
and results lie. One call works on the streams of any number of sections.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby, pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream import rans, segments
from xwalloc.bitstream.choices import ALL, BITS_PER_CHOICE, Choice, costs, usual
from xwalloc.bitstream.contexts import FEATURES, FLAG_FEATURES, MAGNITUDES, Kind
from xwalloc.bitstream.contexts import weights as weights_of
from xwalloc.bitstream.tables import ESCAPE, PROB_BITS, TOKENS, Tables
from xwalloc.device import contexts, decoding, encoding
from xwalloc.device.arithmetic import EXACT
from xwalloc.device.memory import Parcel, download, side_by_side, upload
from xwalloc.types import Buffer

__all__ = ["Geometry", "Section", "Streams", "decode", "encode", "unpack"]

WARP = 32
"""Lanes of a program of the encoder."""

WIDE = 1024
"""Symbols whose tables a decoder finds at a time."""

BLOCK = 256
"""Symbols that a program looks at at a time where planes are visited, not streams."""

COMPARED = 32
"""Sections whose tables are compared at a time, which takes 3 MB for each of them."""

PACKED = 2048
"""Symbols whose words a program puts in order."""


@dataclass(frozen=True, eq=False)
class Geometry:
    """The planes of a section, part by part: their places, extents and neighbours.

    Parameters
    ----------
    table : (plane, GEOMETRY) int32
        Columns of the kernels.
    starts : (part + 1,) int64
        First plane of each part, and where they end.
    sizes, symbols : (plane,) int64
        Samples of each plane, and its symbols if all flags are set.
    """

    table: NDArray[np.int32]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    symbols: NDArray[np.int64]

    @classmethod
    def of(cls, parts: Sequence[NDArray[np.void]]) -> Geometry:
        """That of the planes (bitstream/planes.py) of each part, none of which has code 0 unless it is empty.

        Such planes look at every neighbour that there may be; whether it has content is for codes of a section to say.
        """
        return cls(
            table=np.concatenate([_columns(part) for part in parts]),
            starts=np.cumsum([0, *map(len, parts)]),
            sizes=np.concatenate([coder.sizes_of(part) for part in parts]),
            symbols=np.concatenate([coder.symbols_of(part) for part in parts]),
        )

    @property
    def parts(self) -> int:
        """Number of parts."""
        return len(self.starts) - 1

    @cached_property
    def columns(self) -> NDArray[np.int64]:
        """Number, first plane, number of planes, and samples of the largest plane of each part: (4, part)."""
        largest = [self.sizes[self.part(index)].max(initial=0) for index in range(self.parts)]
        return np.stack([np.arange(self.parts), self.starts[:-1], np.diff(self.starts), np.array(largest, np.int64)])

    def part(self, index: int) -> slice:
        """Planes of a part."""
        return slice(int(self.starts[index]), int(self.starts[index + 1]))

    def deciding(self, codes: NDArray[np.uint8]) -> list[int]:
        """Planes whose symbols decide which tables a section with such codes has; as `encode_segments` takes them."""
        symbols = np.where(codes > 0, self.symbols, 0)
        small = symbols.sum() <= coder.SMALL
        found: list[int] = []
        for index in coder.deciding(self.parts):
            part = self.part(index)
            planes = range(part.start, part.stop)
            found.extend(planes if small else planes[coder.sampled(int(symbols[part].sum()))])
        return found


def _columns(part: NDArray[np.void]) -> NDArray[np.int32]:
    """Columns of the kernels for the planes of a part."""
    filled = np.flatnonzero(coder.sizes_of(part))
    order = filled[np.argsort(part["base"][filled])]
    bases = part["base"][order]

    def places(bases_of: NDArray[np.int64]) -> NDArray[np.int64]:
        if not len(order):
            return np.full(len(part), -1)
        at = np.minimum(np.searchsorted(bases, bases_of), len(order) - 1)
        return np.where((bases_of >= 0) & (bases[at] == bases_of), order[at], -1)

    columns = [part[name] for name in ("base", "nz", "ny", "nx", "sz", "sy")]
    columns += [places(part["previous"]), places(part["parent"])]
    columns += [part[f"parent_{axis}"] for axis in "zyx"] + [part[f"parent_n{axis}"] for axis in "zyx"]
    table = np.stack([*columns, places(part["sibling"])], axis=1)
    return np.ascontiguousarray(table, np.int32)


def _tables_of(geometries: Sequence[Geometry], device: torch.device) -> torch.Tensor:
    """Tables of geometries, one behind the other."""
    tables = [_on_device(geometry, device) for geometry in geometries]
    return tables[0] if len(tables) == 1 else torch.cat(tables)


def _on_device(geometry: Geometry, device: torch.device) -> torch.Tensor:
    if geometry not in _tables.setdefault(device, WeakKeyDictionary()):
        _tables[device][geometry] = torch.from_numpy(geometry.table).to(device)
    return _tables[device][geometry]


_tables: dict[torch.device, WeakKeyDictionary[Geometry, torch.Tensor]] = {}
"""Tables of geometries on devices, as long as somebody has the geometry."""


@dataclass(frozen=True)
class Section:
    """Integers that are coded together: the latents of a chunk, or its residual layer.

    Parameters
    ----------
    geometry
        Its planes.
    codes : (plane,) uint8
        Their magnitude codes.
    kind, dimensions
        Which weights and tables to use; planes of the kind do not look at themselves.
    tables
        The frequency tables there are.
    values_at, mask_at
        Where the section begins in the values and in the mask of a call; None where nothing is masked.
    wanted
        Parts that are to be decoded; None for all.
    """

    geometry: Geometry
    codes: NDArray[np.uint8]
    kind: Kind
    dimensions: int
    tables: Tables
    values_at: int
    mask_at: int | None = None
    wanted: tuple[int, ...] | None = None

    @property
    def columns(self) -> NDArray[np.int64]:
        """`Geometry.columns` of the parts that a call works on."""
        return self.geometry.columns if self.wanted is None else self.geometry.columns[:, self.wanted]

    def placed(self, values_at: int, mask_at: int | None) -> Section:
        """The same elsewhere. (`dataclasses.replace` takes several times as long.)"""
        return Section(
            self.geometry, self.codes, self.kind, self.dimensions, self.tables, values_at, mask_at, self.wanted
        )


@dataclass(frozen=True)
class Streams:
    """The bytes of a section, taken apart.

    Parameters
    ----------
    choice
        Which tables it has.
    lanes, words : (stream,) int64
        Lanes and words of each part that is wanted.
    bits : (n,) uint8
        States of 4 bytes of all these parts, one behind the other, and then their words of 2 bytes; on the host.
    """

    choice: Choice
    lanes: NDArray[np.int64]
    words: NDArray[np.int64]
    bits: torch.Tensor


def unpack(section: Section, data: Buffer, *, pinned: bool = False) -> Streams:
    """Take the bytes of a section apart.

    Parameters
    ----------
    section, data
        The section, and its bytes.
    pinned
        Whether its streams shall lie in pinned memory, from where a device fetches them.

    Raises
    ------
    FormatError
        If they are no streams of that many parts.
    """
    edges = segments.places(data, section.geometry.parts + 1)
    choice = Choice.from_bytes(data[edges[0] : edges[1]], section.kind, section.tables)
    parts = range(section.geometry.parts) if section.wanted is None else section.wanted
    places = [(edges[part + 1], edges[part + 2]) for part in parts]
    bits = torch.empty(rans.room_for(places), dtype=torch.uint8, pin_memory=pinned)
    lanes, words = rans.take_apart(data, places, bits.numpy())
    return Streams(choice, lanes, words, bits)


@dataclass(frozen=True)
class _Job:
    """One stream of a call: its section and part, whether that has a mask, its lanes."""

    section: int
    part: int
    masked: bool
    lanes: int


class _Call:
    """What kernels read of the streams of a call, in the order of their launches.

    Parameters
    ----------
    sections
        The sections.
    lanes
        Lanes of each part of each section.
    device
        Where they are coded.

    Attributes
    ----------
    order : (stream,) int64
        Which stream each is where streams stand section by section.
    section_of, part_of, lanes : (stream,) int64
        Section, part and lanes of each stream.
    largest : (stream,) int64
        Samples of its largest plane.
    firsts : (stream,) int64
        First plane of each stream among all of the call.
    rows : (stream, STREAM) int64
        What kernels want to know of streams, as far as it is known.
    """

    def __init__(
        self, sections: Sequence[Section], lanes: Sequence[Sequence[int] | NDArray[np.int64]], device: torch.device
    ) -> None:
        self.sections, self.device = sections, device
        columns = [section.columns for section in sections]
        numbers = np.repeat(np.arange(len(sections)), [own.shape[1] for own in columns])
        all_lanes = np.concatenate([np.asarray(own, np.int64) for own in lanes])
        # Streams that are launched together have the same kind of mask, tables, and number of lanes.
        ranks: dict[int, int] = {}
        kinds = np.array(
            [(ranks.setdefault(id(own.tables), len(ranks)), own.mask_at is not None) for own in sections], np.int64
        )
        alike = np.stack([all_lanes, *kinds[numbers].T])
        self.order = np.lexsort(alike)
        alike = alike[:, self.order]
        self._edges = [
            0, *(np.flatnonzero((alike[:, 1:] != alike[:, :-1]).any(axis=0)) + 1).tolist(), len(numbers)
        ]  # fmt: skip
        self.section_of, self.lanes = numbers[self.order], alike[0]
        self.part_of, self._first_of, counts, self.largest = np.concatenate(columns, axis=1)[:, self.order]
        self.firsts = _starts(counts)
        self.rows = np.zeros((len(numbers), decoding.STREAM), np.int64)
        self.rows[:, 0], self.rows[:, 1], self.rows[:, 5] = self.firsts, counts, ALL * self.section_of

    @cached_property
    def jobs(self) -> list[_Job]:
        """The streams."""
        return [self._job(index) for index in range(len(self.rows))]

    def _job(self, index: int) -> _Job:
        number = int(self.section_of[index])
        return _Job(number, int(self.part_of[index]), self.sections[number].mask_at is not None, int(self.lanes[index]))

    @cached_property
    def looks(self) -> torch.Tensor:
        """What kernels want to know of all planes, stream by stream: (plane, LOOKS) int64."""
        return self.look(*upload(self.device, *self.tables()))

    def tables(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8]]:
        """What `look` wants on the device: parts, streams and places of planes, and codes."""
        sections = self.sections
        lengths = {section.geometry: len(section.geometry.table) for section in sections}
        geometry_at = dict(zip(lengths, _starts([*lengths.values()]).tolist(), strict=True))
        columns = np.array(
            [
                (
                    geometry_at[section.geometry], codes_at, section.values_at, section.mask_at or 0,
                    _weights_at(section.kind, section.dimensions),
                )
                for section, codes_at in zip(sections, _starts([len(s.codes) for s in sections]).tolist(), strict=True)
            ],
            np.int64,
        )  # fmt: skip
        parts = columns[self.section_of]
        parts[:, :2] += self._first_of[:, None]
        counts = self.rows[:, 1]
        plane_of = np.empty((int(counts.sum()), 2), np.int32)
        plane_of[:, 0] = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        plane_of[:, 1] = np.arange(len(plane_of), dtype=np.int32) - np.repeat(self.firsts.astype(np.int32), counts)
        return parts, plane_of, np.concatenate([section.codes for section in sections])

    def look(self, parts: torch.Tensor, plane_of: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """`looks`, from `tables` on the device."""
        device = self.device
        geometries = list(dict.fromkeys(section.geometry for section in self.sections))
        looks = torch.empty((len(plane_of), contexts.LOOKS), dtype=torch.int64, device=device)
        contexts.look_kernel[(len(plane_of),)](
            parts, plane_of, _tables_of(geometries, device), codes, _magnitudes(device), _weights(device), looks,
            num_warps=1, **EXACT,
        )  # fmt: skip
        return looks

    def launches(self) -> Iterator[tuple[slice, _Job, Tables]]:
        """Rows that are launched together, one of their streams, and their tables."""
        for start, stop in pairwise(self._edges):
            job = self._job(start)
            yield slice(start, stop), job, self.sections[job.section].tables


def decode(
    sections: Sequence[Section], streams: Sequence[Streams], values: torch.Tensor, mask: torch.Tensor | None = None
) -> tuple[NDArray[np.int64], torch.Tensor]:
    """Decode the streams of sections. Nothing here waits for the device.

    Parameters
    ----------
    sections, streams
        The sections, and their bytes.
    values : (n,) int32
        All zeros where the sections lie, on the device; is filled.
    mask : (n,) uint8
        Not 0 where a sample is not coded; on the device.

    Returns
    -------
    owners, results : (stream,) int64, (stream,) int32
        Number of the section of each stream, and 0 where it is sound (on the device). The values of a section one of
        whose streams is not are anything.
    """
    device = values.device
    call = _Call(sections, [found.lanes for found in streams], device)
    # The bytes of each section lie somewhere in a parcel: its states and words are counted from the beginning of that.
    parcel = Parcel([found.bits for found in streams])
    lanes, words = (np.concatenate(own) for own in zip(*((found.lanes, found.words) for found in streams), strict=True))
    counts = np.array([len(found.lanes) for found in streams])
    first = _starts(counts)
    states_before, words_before = _starts(lanes), _starts(words)
    places = np.array(parcel.places)
    words_at = places // 2 + 2 * np.add.reduceat(lanes, first)
    room = 4 * call.largest + BLOCK
    rows = call.rows
    rows[:, 2] = (words_before + np.repeat(words_at - words_before[first], counts))[call.order]
    rows[:, 3] = words[call.order]
    rows[:, 4] = (states_before + np.repeat(places // 4 - states_before[first], counts))[call.order]
    rows[:, 6] = _starts(room)
    table_of = np.concatenate([found.choice.tables for found in streams]).astype(np.int32)
    arrays: list[NDArray[Any]] = [rows, table_of, *call.tables()]
    arrays_at = [parcel.add(array) for array in arrays]
    parcel.send(device)
    streams_there, choices, *of_planes = [parcel.view(at, array) for at, array in zip(arrays_at, arrays, strict=True)]
    words_there, states_there = parcel.there.view(torch.int16), parcel.there.view(torch.int32)
    looks = call.look(*of_planes)
    scratch = torch.empty(int(room.sum()), dtype=torch.int32, device=device)
    results = torch.empty(len(rows), dtype=torch.int32, device=device)
    with side_by_side(device) as aside:
        for part, job, tables in call.launches():
            with aside():
                decoding.decode_kernel[(part.stop - part.start,)](
                    streams_there[part], looks, words_there, states_there, _slots(tables, device), choices, values,
                    values if mask is None else mask, scratch, results[part], MASKED=job.masked, LANES=job.lanes,
                    WIDE=WIDE, **_decoder_options(job.lanes), **EXACT,
                )  # fmt: skip
    return call.section_of, results


def _decoder_options(lanes: int) -> dict[str, int]:
    """Warps of a program of the decoder, and registers of a thread.

    A multiprocessor has 65,536 registers: it holds four programs of up to 128 lanes, three of up to 512, two of more.
    Compiled for compute capability 9.0, up to 512 lanes nothing is spilled.
    """
    if lanes <= 128:
        return {"num_warps": 4, "maxnreg": 128}
    return {"num_warps": 8, "maxnreg": 80} if lanes <= 512 else {"num_warps": 16, "maxnreg": 64}


def encode(sections: Sequence[Section], values: torch.Tensor, mask: torch.Tensor | None = None) -> list[bytes]:
    """Encode sections: the bytes of each.

    Parameters
    ----------
    sections, mask
        As for `decode`.
    values : (n,) int32
        On the device; above the minimum of the type, and 0 where a sample is not coded.
    """
    device = values.device
    call = _Call(sections, [_lanes(section) for section in sections], device)
    found = _classified(call, values, mask)
    choices, states, lengths, words = _coded(call, found, _chosen(call, found))
    streams: list[list[bytes]] = [[b""] * section.geometry.parts for section in sections]
    for job, own, first, count in zip(call.jobs, states, _starts(lengths), lengths, strict=True):
        streams[job.section][job.part] = rans.pack_stream(own, words[first : first + count])
    return [segments.pack([choice.to_bytes(), *own]) for choice, own in zip(choices, streams, strict=True)]


def _lanes(section: Section) -> list[int]:
    """Lanes of each part of a section that is encoded."""
    edges = np.append(0, np.cumsum(section.geometry.sizes * coder.BITS_OF_CODE[section.codes]))
    return [coder.lanes_for((int(bits) >> 8) // 8) for bits in np.diff(edges[section.geometry.starts])]


@dataclass(frozen=True)
class _Classified:
    """Symbols of a call on the device, plane by plane, in the order of its streams."""

    flags: torch.Tensor
    samples: torch.Tensor
    edges: torch.Tensor
    keys: torch.Tensor
    further: torch.Tensor


def _classified(call: _Call, values: torch.Tensor, mask: torch.Tensor | None) -> _Classified:
    """Put the symbols of all planes in order. Waits for the device, to know how many there are."""
    device, looks = call.device, call.looks
    flags, samples = torch.zeros((2, len(looks)), dtype=torch.int64, device=device)
    launches: list[tuple[slice, bool]] = []
    for masked, group in groupby(range(len(call.jobs)), lambda index: call.jobs[index].masked):
        indices = list(group)
        last = indices[-1]
        launches.append((slice(int(call.firsts[indices[0]]), int(call.firsts[last] + call.rows[last, 1])), masked))
    for part, masked in launches:
        encoding.count_kernel[(part.stop - part.start,)](
            looks[part], values, values if mask is None else mask, flags[part], samples[part], MASKED=masked,
            BLOCK=BLOCK, **EXACT,
        )  # fmt: skip
    edges = torch.nn.functional.pad(torch.cumsum(flags + samples, 0), (1, 0))
    (total,) = download(edges[-1:])
    room = -(-int(total[0]) // PACKED) * PACKED
    keys = torch.empty(room, dtype=torch.int16, device=device)
    further = torch.empty(room, dtype=torch.int64, device=device)
    scratch = torch.empty(room, dtype=torch.int32, device=device)
    for part, masked in launches:
        encoding.put_kernel[(part.stop - part.start,)](
            looks[part], values, values if mask is None else mask, flags[part], edges[part], keys, further,
            scratch, MASKED=masked, BLOCK=BLOCK, **EXACT,
        )  # fmt: skip
    return _Classified(flags, samples, edges, keys, further)


def _chosen(call: _Call, found: _Classified) -> torch.Tensor:
    """Tables of each section, as `choose_for` finds them: (section, role * class) int64, on the device."""
    device = call.device
    first_of = {(job.section, job.part): first for job, first in zip(call.jobs, call.firsts.tolist(), strict=True)}
    chosen = []
    for number, section in enumerate(call.sections):
        planes = np.array(section.geometry.deciding(section.codes), np.int64)
        parts = np.searchsorted(section.geometry.starts, planes, side="right") - 1
        firsts = np.array([first_of[number, part] for part in range(section.geometry.parts)], np.int64)
        places = firsts[parts] + planes - section.geometry.starts[parts]
        chosen.append(np.stack([places, np.full_like(places, number)], axis=1))
    counts = torch.zeros((len(call.sections), ALL, TOKENS), dtype=torch.int32, device=device)
    rows, expected = upload(
        device,
        np.concatenate(chosen),
        np.stack([usual(section.tables, section.kind) for section in call.sections]).astype(np.int64),
    )
    if len(rows):
        encoding.histogram_kernel[(len(rows),)](
            found.keys, found.flags, found.samples, found.edges, rows, counts, BLOCK=BLOCK, **EXACT
        )
    for _, group in groupby(range(len(call.sections)), lambda n: (id(call.sections[n].tables), n // COMPARED)):
        numbers = list(group)
        some = slice(numbers[0], numbers[-1] + 1)
        bits = counts[some].to(torch.float64) @ _costs(call.sections[numbers[0]].tables, device)
        best = bits.argmin(2, keepdim=True)
        gain = bits.gather(2, expected[some, :, None]) - bits.gather(2, best)
        expected[some] = torch.where(gain > BITS_PER_CHOICE, best, expected[some, :, None])[:, :, 0]
    return expected


def _coded(
    call: _Call, found: _Classified, tables: torch.Tensor
) -> tuple[list[Choice], list[NDArray[np.int64]], NDArray[np.int64], NDArray[np.uint16]]:
    """Choices of sections; states and number of words of each stream; all words. Waits for the device, twice."""
    device = call.device
    lanes = np.array([job.lanes for job in call.jobs])
    programs = -(-lanes // WARP)
    groups = np.empty((int(programs.sum()), encoding.ENCODED), np.int64)
    stream = groups[:, 0] = np.repeat(np.arange(len(lanes)), programs)
    groups[:, 1] = lanes[stream]
    groups[:, 2] = WARP * (np.arange(len(groups)) - _starts(programs)[stream])
    groups[:, 3] = np.array([job.section for job in call.jobs])[stream] * (ALL * TOKENS)
    groups[:, 4] = _starts(lanes)[stream]
    rows, planes = upload(device, groups, np.stack([call.firsts, call.firsts + call.rows[:, 1]], axis=1))
    given = torch.zeros(len(found.keys), dtype=torch.int8, device=device)
    states = torch.empty(int(lanes.sum()), dtype=torch.int32, device=device)
    totals = torch.empty(len(groups), dtype=torch.int32, device=device)
    encoding.encode_kernel[(len(groups),)](
        rows, found.edges[planes], found.keys, found.further, _lookups(call, tables), given, states, totals,
        LANES=WARP, num_warps=1, **EXACT,
    )  # fmt: skip
    sums = given.view(-1, PACKED).sum(1, dtype=torch.int64)
    all_states, numbers, chosen = download(states, totals, tables)
    choices = [
        Choice(section.kind, own.astype(np.uint16), section.tables)
        for section, own in zip(call.sections, chosen, strict=True)
    ]
    lengths = np.add.reduceat(numbers, _starts(programs), dtype=np.int64)
    words = torch.empty(int(lengths.sum()), dtype=torch.int16, device=device)
    if len(words):
        encoding.pack_kernel[(len(sums),)](
            given, found.keys, found.further, torch.cumsum(sums, 0) - sums, words, BLOCK=PACKED, **EXACT
        )
    (bits,) = download(words)
    lasting = all_states.view(np.uint32).astype(np.int64)
    own = [lasting[at : at + count] for at, count in zip(_starts(lanes), lanes, strict=True)]
    return choices, own, lengths, bits.view(np.uint16)


def _starts(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Where things of these lengths begin, one behind the other."""
    return np.cumsum(np.asarray(lengths, np.int64)) - lengths


KINDS = (Kind.LATENT_PARALLEL, Kind.RESIDUAL_PARALLEL)


def _weights_at(kind: Kind, dimensions: int) -> int:
    return 3 * KINDS.index(kind) + dimensions - 1


@lru_cache(maxsize=8)
def _weights(device: torch.device) -> torch.Tensor:
    """Weights of kinds and dimensions, as `_weights_at` numbers them: (6, 2, WEIGHTS) int64."""
    rows = []
    for kind in KINDS:
        for dimensions in (1, 2, 3):
            symbols, flags = weights_of(kind, dimensions)
            used = [FEATURES.index(name) for name in ("self", "previous", "ring", "parent", "sibling")]
            used_by_flags = [FLAG_FEATURES.index(name) for name in ("self", "previous")]
            unused = np.delete(symbols, used, axis=1).any() or np.delete(flags, used_by_flags, axis=1).any()
            assert not unused, "planes of these kinds look at themselves"
            rows.append(np.concatenate([symbols[:, used], flags[:, used_by_flags]], axis=1))
    return torch.from_numpy(np.ascontiguousarray(np.stack(rows))).to(device)


@lru_cache(maxsize=8)
def _magnitudes(device: torch.device) -> torch.Tensor:
    return torch.from_numpy(MAGNITUDES).to(device)


@lru_cache(maxsize=32)
def _slots(tables: Tables, device: torch.device) -> torch.Tensor:
    """Token, frequency - 1 and slot - start of every slot of every table: (table, 4096) int32, in 7, 12 and 12 bits."""
    tokens = tables.symbols.reshape(-1, 1 << PROB_BITS).astype(np.int64)
    spans = np.take_along_axis(tables.spans.reshape(-1, TOKENS).astype(np.int64), tokens, axis=1)
    rest = np.arange(1 << PROB_BITS) - (spans & 0xFFFF)
    return torch.from_numpy((tokens << 24 | ((spans >> 16) - 1) << 12 | rest).astype(np.int32)).to(device)


def _lookups(call: _Call, tables: torch.Tensor) -> torch.Tensor:
    """What encoding takes, by section and key: (section * role * class * token,) int64."""
    codebooks = list(dict.fromkeys(section.tables for section in call.sections))
    entries = [_entries(codebook, call.device) for codebook in codebooks]
    if len(codebooks) == 1:
        return entries[0][tables].view(-1)
    first_of = dict(zip(codebooks, _starts([len(own) for own in entries]), strict=True))
    (firsts,) = upload(call.device, np.array([[first_of[section.tables]] for section in call.sections]))
    return torch.cat(entries)[tables + firsts].view(-1)


@lru_cache(maxsize=32)
def _costs(tables: Tables, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(costs(tables)).to(device)


@lru_cache(maxsize=32)
def _entries(tables: Tables, device: torch.device) -> torch.Tensor:
    """What encoding a token with a table takes: (table, token) int64.

    From the lowest bit on: first slot and frequency - 1, of 12 bits each; shift (4) and addend (1) of `reciprocals`;
    `ESCAPED`, with the figures of the token that announces it, and `RARE`; from bit 32 on, the multiplier.
    """
    spans = tables.spans.reshape(-1, TOKENS).astype(np.int64)
    escaped = spans < rans.FREQUENCY_ONE
    spans = np.where(escaped, spans[:, ESCAPE, None], spans)
    multiplier, shift, addend = (table[spans >> 16] for table in reciprocals())
    entries = (multiplier << 32) | (addend << 28) | (shift << 24) | (((spans >> 16) - 1) << 12) | (spans & 0xFFFF)
    entries |= np.where(escaped, encoding.ESCAPED, 0)
    entries |= np.where(escaped | (np.arange(TOKENS) > 2 * rans.DIRECT), encoding.RARE, 0)
    return torch.from_numpy(entries).to(device)


@lru_cache(maxsize=1)
def reciprocals() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Multiplier m < 2^32, shift s and addend c (0 or 1) of each f from 1 to 2^12: x // f = (x + c) m >> (32 + s).

    That holds for x < 2^20 f, and such are the states that take a symbol of the frequency f. With 2^s < f <= 2^(s+1)
    and N = 32 + s, either m = (2^N + e) / f and c = 0: the product is x / f and an excess x e / (f 2^N), which must be
    below 1 / f, and is if f e <= 2^(12+s). Or m = (2^N - d) / f and c = 1: the product is (x + 1) / f less
    (x + 1) d / (f 2^N), which must not exceed 1 / f, and does not if f d <= 2^(12+s). One of them is true, since
    d + e = f <= 2^(s+1) and s <= 11. Of f = 1, where s = 0, m = 2^32 - 1.

    (T. Granlund and P. Montgomery, "Division by invariant integers using multiplication", PLDI 1994.)
    """
    f = np.arange((1 << PROB_BITS) + 1, dtype=np.int64)
    f[0] = 1
    shift = np.array([max(int(n - 1).bit_length() - 1, 0) for n in f])
    whole = np.left_shift(np.int64(1), 32 + shift)
    below = np.minimum(whole // f, (1 << 32) - 1)
    above = -(-whole // f)
    up = (above < 1 << 32) & (f * (above * f - whole) <= np.left_shift(np.int64(1), PROB_BITS + shift))
    return np.where(up, above, below), shift, np.where(up, 0, 1)
