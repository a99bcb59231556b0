"""Sections of integers that a device codes: which planes they have, and what kernels want to know of these.

The kernels (kernels/) take tables: which planes there are (`Geometry`, which chunks of a shape share and which stays on
the device), what the planes of a section state (their codes), and where streams, values and results lie. One call works
on the streams of any number of sections.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream.choices import ALL
from xwalloc.bitstream.contexts import FEATURES, FLAG_FEATURES, MAGNITUDES, Kind
from xwalloc.bitstream.contexts import weights as weights_of
from xwalloc.bitstream.tables import Tables
from xwalloc.device.arithmetic import EXACT
from xwalloc.device.coder.kernels import contexts
from xwalloc.device.coder.kernels.decoder import STREAM
from xwalloc.device.memory import upload
from xwalloc.types import cached_property

__all__ = ["BLOCK", "Call", "Geometry", "Section", "starts"]

BLOCK = 256
"""Symbols that a program looks at at a time where planes are visited, not streams."""


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
    def samples(self) -> NDArray[np.int64]:
        """Samples of each part: (part,)."""
        return np.diff(np.append(0, np.cumsum(self.sizes))[self.starts])

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


class Call:
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
    masked : (stream,) bool
        Whether it has a mask; those that have stand last.
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
        self.section_of, self.lanes, self.masked = numbers[self.order], alike[0], alike[2] > 0
        self.part_of, self._first_of, counts, self.largest = np.concatenate(columns, axis=1)[:, self.order]
        self.firsts = starts(counts)
        self.rows = np.zeros((len(numbers), STREAM), np.int64)
        self.rows[:, 0], self.rows[:, 1], self.rows[:, 5] = self.firsts, counts, ALL * self.section_of

    @cached_property
    def looks(self) -> torch.Tensor:
        """What kernels want to know of all planes, stream by stream: (plane, LOOKS) int64."""
        return self.look(*upload(self.device, *self.tables()))

    def tables(self) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.uint8]]:
        """What `look` wants on the device: parts, streams and places of planes, and codes."""
        sections = self.sections
        lengths = {section.geometry: len(section.geometry.table) for section in sections}
        geometry_at = dict(zip(lengths, starts([*lengths.values()]).tolist(), strict=True))
        columns = np.array(
            [
                (
                    geometry_at[section.geometry], codes_at, section.values_at, section.mask_at or 0,
                    _weights_at(section.kind, section.dimensions),
                )
                for section, codes_at in zip(sections, starts([len(s.codes) for s in sections]).tolist(), strict=True)
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

    def launches(self) -> Iterator[tuple[slice, bool, int, Tables]]:
        """Rows that are launched together, whether they have masks, their lanes and tables."""
        for start, stop in pairwise(self._edges):
            tables = self.sections[self.section_of[start]].tables
            yield slice(start, stop), bool(self.masked[start]), int(self.lanes[start]), tables


def starts(lengths: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
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
