"""Lattice mode of a chunk: samples rounded to a lattice and coded losslessly, or their very bits."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream.frame import Section
from xwalloc.codec.engine import map_parallel
from xwalloc.errors import FormatError
from xwalloc.models import lattice
from xwalloc.types import Buffer, Region

__all__ = ["Draft", "Lattice", "LatticeKind", "decode", "draft", "for_bits", "for_integers", "for_reals", "is_exact"]

HEAD = struct.Struct("<BdI")
LARGEST_INDEX = 2**31 - 1
LARGEST_UNIT = 2.0**33
LARGEST_RADIUS = 2**30

PART = 1 << 18
"""So many samples are converted together."""

FINENESS = 7
"""Largest radius on reals, in units of the lattice: predictions are rounded to 1 / (2 FINENESS + 1) of a bin."""

UNSIGNED_ORIGIN = 2**31
"""Indices of uint32 count from the lattice point at or below this value."""


class LatticeKind(IntEnum):
    """What the indices of the lattice stand for."""

    INTEGERS = 0
    REALS = 1
    BITS = 2


@dataclass(frozen=True)
class Lattice:
    """A lattice: its kind, the distance of its points in samples, and how many points a decoded sample may be off."""

    kind: LatticeKind
    unit: float
    radius: int

    def width(self, dtype: np.dtype) -> int:
        """Bits of an index."""
        return 64 if self.kind == LatticeKind.BITS and dtype.itemsize == 8 else 32

    @property
    def step(self) -> float:
        """Width of the bins that residuals are rounded to."""
        return self.unit * (2 * self.radius + 1)

    def indices(self, samples: NDArray[np.generic]) -> tuple[NDArray[np.signedinteger], NDArray[np.bool_] | None]:
        """Index of the nearest lattice point of each sample; and which samples have none within 31 bits."""
        if self.kind == LatticeKind.BITS:
            return ordered_bits(samples), None
        flat = samples.reshape(-1)
        parts = [slice(start, start + PART) for start in range(0, flat.size, PART)]
        found = map_parallel(lambda part: self._nearest(flat[part]), parts)
        indices = np.concatenate([part for part, _ in found]) if found else np.empty(0, np.int32)
        if all(missing is None for _, missing in found):
            return indices.reshape(samples.shape), None
        beyond = np.zeros(flat.size, np.bool_)
        for part, (_, missing) in zip(parts, found, strict=True):
            if missing is not None:
                beyond[part] = missing
        return indices.reshape(samples.shape), beyond.reshape(samples.shape)

    def _nearest(self, samples: NDArray[np.generic]) -> tuple[NDArray[np.int32], NDArray[np.bool_] | None]:
        if self.kind == LatticeKind.INTEGERS and samples.dtype.kind in "iu":
            unit, half = int(self.unit), int(self.unit) // 2
            if samples.dtype == np.uint32:
                return ((samples.astype(np.int64) + half) // unit - UNSIGNED_ORIGIN // unit).astype(np.int32), None
            if unit == 1:
                return samples.astype(np.int32), None
            return ((samples.astype(np.int64) + half) // unit).astype(np.int32), None
        quotient = np.rint(samples.astype(np.float64) / self.unit)
        beyond = ~(np.abs(quotient) <= LARGEST_INDEX)
        if beyond.any():
            quotient[beyond] = 0
            return quotient.astype(np.int32), beyond
        return quotient.astype(np.int32), None

    def values(
        self, indices: NDArray[np.signedinteger], dtype: np.dtype, nodata: NDArray[np.generic]
    ) -> NDArray[np.generic]:
        """Samples at lattice points; none of them equals nodata."""
        if self.kind == LatticeKind.BITS:
            return from_ordered_bits(indices, dtype)
        info = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
        if dtype == np.uint32 and self.kind == LatticeKind.INTEGERS:
            values = (indices.astype(np.float64) + UNSIGNED_ORIGIN // int(self.unit)) * self.unit
        else:
            with np.errstate(over="ignore"):
                values = indices * np.float64(self.unit)
        if dtype.kind in "iu" and self.kind == LatticeKind.REALS:
            np.rint(values, out=values)
        samples = np.clip(values, float(info.min), float(info.max), out=values).astype(dtype)
        if nodata.size:
            samples[samples == nodata[0]] = nodata[1]
        return samples


def for_integers(bound: float, largest: float = 0.0) -> Lattice:
    """Lattice on integers of magnitudes up to `largest` whose decoded samples are at most `bound` off.

    It has all integers, or, where these take more than 31 bits, every (2 floor(bound) + 1)-th.
    """
    if largest < LARGEST_INDEX:
        return Lattice(LatticeKind.INTEGERS, 1.0, math.floor(bound))
    return Lattice(LatticeKind.INTEGERS, float(2 * math.floor(bound) + 1), 0)


def for_reals(step: float, largest: float = math.inf) -> Lattice:
    """Lattice whose bins have width `step`, as fine as magnitudes up to `largest` allow."""
    for radius in (FINENESS, 1):
        unit = step / (2 * radius + 1)
        if unit > 0 and largest / unit < LARGEST_INDEX:
            return Lattice(LatticeKind.REALS, unit, radius)
    return Lattice(LatticeKind.REALS, step, 0)


def for_bits() -> Lattice:
    """The order-preserving integer image of the bits of floats."""
    return Lattice(LatticeKind.BITS, 1.0, 0)


def ordered_bits(samples: NDArray[np.generic]) -> NDArray[np.signedinteger]:
    """Integers in the order of the floats (negative zero below zero): negative ones have their lower bits flipped."""
    bits = samples.view(f"i{samples.dtype.itemsize}")
    ordered = np.where(bits < 0, bits ^ np.iinfo(bits.dtype).max, bits)
    return ordered.astype(np.int64 if samples.dtype.itemsize == 8 else np.int32)


def from_ordered_bits(ordered: NDArray[np.signedinteger], dtype: np.dtype) -> NDArray[np.generic]:
    """Inverse of `ordered_bits`."""
    bits = ordered.astype(f"i{dtype.itemsize}")
    return np.where(bits < 0, bits ^ np.iinfo(bits.dtype).max, bits).view(dtype)


@dataclass(frozen=True)
class Draft:
    """A chunk that is about to be coded in lattice mode.

    Parameters
    ----------
    grid
        Its lattice.
    indices
        Indices of its samples.
    """

    grid: Lattice
    indices: NDArray[np.signedinteger]
    _inner: lattice.Draft

    @property
    def bits(self) -> float:
        """Estimated bits."""
        return self._inner.bits

    def encode(self) -> tuple[dict[Section, bytes], NDArray[np.signedinteger]]:
        """Sections of the chunk, and the indices that they decode to.

        Raises
        ------
        BudgetError
            If the chunk must be stored in another mode.
        """
        coded = self._inner.encode()
        head = HEAD.pack(self.grid.kind, self.grid.unit, self.grid.radius)
        return {Section.LATTICE: head + coded.parameters, Section.LATTICE_SYMBOLS: coded.symbols}, coded.decoded


def draft(
    grid: Lattice, indices: NDArray[np.signedinteger], mask: NDArray[np.uint8] | None, dtype: np.dtype, profile: str
) -> Draft:
    """Look at a chunk, given by the indices of its samples; `BudgetError` if its shape does not suit the mode."""
    many_lanes = profile == "parallel"
    inner = lattice.draft(indices, mask, grid.width(dtype), grid.radius, map_parallel, many_lanes=many_lanes)
    return Draft(grid, indices, inner)


def decode(
    parameters: Buffer,
    symbols: Buffer,
    shape: Sequence[int],
    mask: NDArray[np.uint8] | None,
    dtype: np.dtype,
    nodata: NDArray[np.generic],
    region: Region,
) -> NDArray[np.generic]:
    """Samples (batch, channel, z, y, x) of a region of a chunk in lattice mode.

    Raises
    ------
    FormatError
        If the sections are damaged.
    """
    if len(parameters) < HEAD.size:
        raise FormatError("The lattice of the frame is cut.")
    kind, unit, radius = HEAD.unpack_from(parameters)
    if kind > LatticeKind.BITS or not 0 < unit < math.inf or (kind == LatticeKind.BITS and dtype.kind != "f"):
        raise FormatError("The lattice of the frame is impossible.")
    if kind == LatticeKind.INTEGERS and (unit != math.floor(unit) or unit > LARGEST_UNIT):
        raise FormatError("The lattice of the frame is impossible.")
    if radius > LARGEST_RADIUS or (radius and kind == LatticeKind.BITS):
        raise FormatError("The radius of the frame's lattice is impossible.")
    grid = Lattice(LatticeKind(kind), unit, radius)
    indices = lattice.decode(
        parameters[HEAD.size :], symbols, shape, mask, grid.width(dtype), radius, map_parallel, region[2:]
    )
    return grid.values(np.ascontiguousarray(indices[region]), dtype, nodata)


def holds_bits(parameters: Buffer) -> bool:
    """Whether the indices of a lattice stand for the bits of floats."""
    return parameters[:1] == bytes([LatticeKind.BITS])


def is_exact(parameters: Buffer) -> bool:
    """Whether the indices of a lattice are integers themselves, and exact."""
    return parameters[: HEAD.size] == HEAD.pack(LatticeKind.INTEGERS, 1.0, 0)
