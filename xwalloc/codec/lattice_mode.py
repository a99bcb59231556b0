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

__all__ = ["Lattice", "LatticeKind", "decode", "for_bits", "for_integers", "for_reals"]

HEAD = struct.Struct("<Bd")
LARGEST_INDEX = 2**31 - 1

UNSIGNED_ORIGIN = 2**31
"""Indices of uint32 count from the lattice point at or below this value."""


class LatticeKind(IntEnum):
    """What the indices of the lattice stand for."""

    INTEGERS = 0
    REALS = 1
    BITS = 2


@dataclass(frozen=True)
class Lattice:
    """A lattice: its kind, and the width of its step in samples."""

    kind: LatticeKind
    step: float

    def width(self, dtype: np.dtype) -> int:
        """Bits of an index."""
        return 64 if self.kind == LatticeKind.BITS and dtype.itemsize == 8 else 32

    def indices(self, samples: NDArray[np.generic]) -> tuple[NDArray[np.signedinteger], NDArray[np.bool_] | None]:
        """Index of the nearest lattice point of each sample; and which samples have none within 31 bits."""
        if self.kind == LatticeKind.BITS:
            return ordered_bits(samples), None
        if self.kind == LatticeKind.INTEGERS and samples.dtype.kind in "iu":
            step, half = int(self.step), int(self.step) // 2
            if samples.dtype == np.uint32:
                wide = samples.astype(np.int64)
                return ((wide + half) // step - UNSIGNED_ORIGIN // step).astype(np.int32), None
            if samples.dtype.itemsize == 4:
                return ((samples.astype(np.int64) + half) // step).astype(np.int32), None
            return (samples.astype(np.int32) + half) // np.int32(step) if step < 2**17 else (
                (samples.astype(np.int64) + half) // step
            ).astype(np.int32), None  # fmt: skip
        quotient = np.rint(samples.astype(np.float64) / self.step)
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
            values = (indices.astype(np.float64) + UNSIGNED_ORIGIN // int(self.step)) * self.step
        else:
            with np.errstate(over="ignore"):
                values = indices * np.float64(self.step)
        if dtype.kind in "iu" and self.kind == LatticeKind.REALS:
            np.rint(values, out=values)
        samples = np.clip(values, float(info.min), float(info.max), out=values).astype(dtype)
        if nodata.size:
            samples[samples == nodata[0]] = nodata[1]
        return samples


def for_integers(bound: float) -> Lattice:
    """Lattice on integers whose points are at most `bound` from every integer: step 2 floor(bound) + 1."""
    return Lattice(LatticeKind.INTEGERS, float(2 * math.floor(bound) + 1))


def for_reals(step: float) -> Lattice:
    """Lattice of multiples of `step`."""
    return Lattice(LatticeKind.REALS, step)


def for_bits() -> Lattice:
    """The order-preserving integer image of the bits of floats."""
    return Lattice(LatticeKind.BITS, 1.0)


def ordered_bits(samples: NDArray[np.generic]) -> NDArray[np.signedinteger]:
    """Integers in the order of the floats (negative zero below zero): negative ones have their lower bits flipped."""
    bits = samples.view(f"i{samples.dtype.itemsize}")
    ordered = np.where(bits < 0, bits ^ np.iinfo(bits.dtype).max, bits)
    return ordered.astype(np.int64 if samples.dtype.itemsize == 8 else np.int32)


def from_ordered_bits(ordered: NDArray[np.signedinteger], dtype: np.dtype) -> NDArray[np.generic]:
    """Inverse of `ordered_bits`."""
    bits = ordered.astype(f"i{dtype.itemsize}")
    return np.where(bits < 0, bits ^ np.iinfo(bits.dtype).max, bits).view(dtype)


def encode(
    grid: Lattice, indices: NDArray[np.signedinteger], mask: NDArray[np.uint8] | None, dtype: np.dtype
) -> dict[Section, bytes]:
    """Sections of a chunk in lattice mode."""
    parameters, symbols = lattice.encode(indices, mask, grid.width(dtype), parallel=map_parallel)
    return {Section.LATTICE: HEAD.pack(grid.kind, grid.step) + parameters, Section.LATTICE_SYMBOLS: symbols}


def decode(
    parameters: bytes,
    symbols: bytes,
    shape: Sequence[int],
    mask: NDArray[np.uint8] | None,
    dtype: np.dtype,
    nodata: NDArray[np.generic],
) -> NDArray[np.generic]:
    """Samples (batch, channel, z, y, x) of a chunk in lattice mode.

    Raises
    ------
    FormatError
        If the sections are damaged.
    """
    if len(parameters) < HEAD.size:
        raise FormatError("The lattice of the frame is cut.")
    kind, step = HEAD.unpack_from(parameters)
    if kind > LatticeKind.BITS or not 0 < step < math.inf or (kind == LatticeKind.BITS and dtype.kind != "f"):
        raise FormatError("The lattice of the frame is impossible.")
    if kind == LatticeKind.INTEGERS and (step != math.floor(step) or step > 2.0**33):
        raise FormatError("The lattice of the frame is impossible.")
    grid = Lattice(LatticeKind(kind), step)
    indices = lattice.decode(parameters[HEAD.size :], symbols, shape, mask, grid.width(dtype), parallel=map_parallel)
    return grid.values(indices, dtype, nodata)


def holds_bits(parameters: bytes) -> bool:
    """Whether the indices of a lattice stand for the bits of floats."""
    return parameters[:1] == bytes([LatticeKind.BITS])
