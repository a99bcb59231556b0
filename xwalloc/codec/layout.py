"""Axes, byte order and special values: chunk <-> (batch, channel, z, y, x) of plain finite samples, and back.

Special values are NaN, infinities, nodata, and samples that the encoder would rather keep exactly (outliers,
undeclared fill values, values that would miss the bound). The frequent ones become labels of a *mask* over a palette
of bit patterns, at a cost of bits per region; the rare ones become *exceptions*, a list of positions and bits. The
holes that they leave are filled smoothly, so that they never leak into a transform.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream.contexts import MAGNITUDES, Kind, magnitude_code
from xwalloc.bitstream.frame import AxisRole
from xwalloc.codec.engine import map_parallel
from xwalloc.errors import FormatError
from xwalloc.types import Buffer, Region, cached_property

__all__ = ["Layout", "Special", "fill_holes", "pack_exceptions", "pack_mask", "unpack_exceptions", "unpack_mask"]

T = TypeVar("T")

PALETTE = 14
"""Most bit patterns that a mask can name."""
CORRECTED = 1 << 16
"""About so many labels of a batch item are restored together."""
PLANES, SAMPLES_PER_PLANE = 1 << 20, 16
"""So many planes may have next to no samples; beyond, each needs so many on average."""


@dataclass(frozen=True)
class Layout:
    """Where the axes of a stored chunk stand in the canonical order (batch, channel, z, y, x).

    Parameters
    ----------
    shape, roles
        Shape of the chunk as stored, and the role of each axis.
    """

    shape: tuple[int, ...]
    roles: tuple[AxisRole, ...]

    @cached_property
    def order(self) -> tuple[int, ...]:
        """Stored axes in canonical order."""
        return tuple(a for role in (0, 1, 2) for a, r in enumerate(self.roles) if r == role)

    @property
    def dimensions(self) -> int:
        """Number of signal axes."""
        return self.roles.count(AxisRole.SIGNAL)

    @cached_property
    def canonical(self) -> tuple[int, int, int, int, int]:
        """Canonical shape; axes that do not exist have length 1."""
        batch, channel, signal = self._by_role(self.shape)
        z, y, x = [1] * (3 - len(signal)) + signal
        return math.prod(batch), channel[0] if channel else 1, z, y, x

    def _by_role(self, of_axes: Sequence[T]) -> tuple[list[T], list[T], list[T]]:
        """What belongs to the batch axes, to the channel axis, and to the signal axes, from what belongs to each."""
        found: tuple[list[T], list[T], list[T]] = [], [], []
        for one, role in zip(of_axes, self.roles, strict=True):
            found[role].append(one)
        return found

    @property
    def thin(self) -> bool:
        """Whether planes are so many and so small that what is kept for each would outweigh them."""
        batch, channels, *signal = self.canonical
        return batch * channels > PLANES + batch * channels * math.prod(signal) // SAMPLES_PER_PLANE

    def arrange(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """The chunk as a contiguous native-endian array in canonical order (a view where that is possible)."""
        moved = array.transpose(self.order).reshape(self.canonical)
        return np.ascontiguousarray(moved, dtype=array.dtype.newbyteorder("="))

    def box(self, region: Sequence[slice]) -> Region:
        """Where a region of the stored chunk lies in canonical order: in all batch items where batch has several axes.

        Parameters
        ----------
        region
            A slice of each stored axis, with start and stop.
        """
        batch, channel, signal = self._by_role(region)
        whole = slice(0, self.canonical[0])
        z, y, x = [slice(0, 1)] * (3 - len(signal)) + signal
        return batch[0] if len(batch) == 1 else whole, channel[0] if channel else slice(0, 1), z, y, x

    def cut(self, region: Sequence[slice]) -> tuple[Layout, tuple[slice, ...]]:
        """Layout of what lies in `box`, and where the region lies in that."""
        joined = self.roles.count(AxisRole.BATCH) > 1
        whole = [joined and role == AxisRole.BATCH for role in self.roles]
        sizes = [part.stop - part.start for part in region]
        shape = tuple(n if w else size for n, w, size in zip(self.shape, whole, sizes, strict=True))
        inner = tuple(part if w else slice(None) for w, part in zip(whole, region, strict=True))
        return Layout(shape, self.roles), inner

    def restore(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        """Inverse of `arrange`, in native byte order (a view where that is possible)."""
        moved = array.reshape([self.shape[a] for a in self.order])
        return moved.transpose(np.argsort(self.order))


@dataclass(frozen=True)
class Special:
    """Samples that are kept bit for bit.

    Parameters
    ----------
    labels : canonical shape, uint8, or None
        0 where a sample is coded, k where it has the bits ``palette[k - 1]``; None where there is no mask.
    palette
        Bit patterns as unsigned integers.
    positions : (n,) int64
        Positions, in canonical order, of the exceptions, ascending.
    bits : (n,) uint64
        Bits of the exceptions.
    """

    labels: NDArray[np.uint8] | None
    palette: tuple[int, ...]
    positions: NDArray[np.int64]
    bits: NDArray[np.uint64]


def bits_of(array: NDArray[np.generic]) -> NDArray[np.unsignedinteger]:
    """Bits of an array as unsigned integers of the same width."""
    return array.view(f"u{array.dtype.itemsize}")


def separate(array: NDArray[np.generic], special: NDArray[np.bool_]) -> Special:
    """Split special samples into a mask of frequent bit patterns and a list of exceptions.

    Parameters
    ----------
    array : canonical shape
        Samples.
    special : canonical shape, bool
        Which of them are kept bit for bit.
    """
    where = np.flatnonzero(special)
    bits = bits_of(array).reshape(-1)[where]
    patterns, inverse, counts = np.unique(bits, return_inverse=True, return_counts=True)
    frequent = [i for i in np.argsort(-counts, kind="stable")[:PALETTE] if counts[i] >= 8]
    if not frequent:
        return Special(None, (), where.astype(np.int64), bits.astype(np.uint64))
    label_of = np.zeros(len(patterns), np.uint8)
    label_of[frequent] = np.arange(1, len(frequent) + 1)
    labels = np.zeros(array.size, np.uint8)
    labels[where] = label_of[inverse]
    rare = label_of[inverse] == 0
    return Special(
        labels.reshape(array.shape),
        tuple(int(patterns[i]) for i in frequent),
        where[rare].astype(np.int64),
        bits[rare].astype(np.uint64),
    )


def _label_planes(shape: Sequence[int], codes: NDArray[np.int64]) -> NDArray[np.void]:
    """Planes of mask labels: one per batch item and channel that has any, looking at the channel before it."""
    channels, z, y, x = shape[1:]
    coded = np.flatnonzero(codes)
    planes = coder.planes_of(len(coded))
    planes["base"] = coded * (z * y * x)
    planes["nz"], planes["ny"], planes["nx"], planes["sz"], planes["sy"] = z, y, x, y * x, x
    planes["code"] = codes[coded]
    has_previous = coded % channels > 0
    planes["previous"] = np.where(has_previous, planes["base"] - z * y * x, coder.NO_PLANE)
    planes["previous_code"] = np.where(has_previous, codes[coded - 1], 0)
    return planes


def _predict_labels(labels: NDArray[np.uint8], from_channel: bool) -> NDArray[np.uint8]:
    """Each label's prediction: that of the channel before or, in channel 0 or if told so, of its west neighbour."""
    predicted = np.zeros_like(labels)
    predicted[..., 1:] = labels[..., :-1]
    predicted[..., 1:, 0] = labels[..., :-1, 0]
    if from_channel:
        predicted[:, 1:] = labels[:, :-1]
    return predicted


def pack_mask(labels: NDArray[np.uint8], palette: Sequence[int]) -> bytes:
    """Bytes of a mask: palette, then the labels as corrections of their prediction."""
    candidates = []
    for from_channel in (False, True):
        predicted = _predict_labels(labels, from_channel)
        candidates.append(np.where(labels == predicted, 0, labels.astype(np.int32) + 1))
    which = int(np.count_nonzero(candidates[1]) <= np.count_nonzero(candidates[0]))
    corrections = candidates[which]
    codes = magnitude_code(corrections.mean(axis=(2, 3, 4)).reshape(-1))
    stream = coder.encode(corrections.reshape(-1), _label_planes(labels.shape, codes), Kind.SIDE, 2)
    head = struct.pack("<BB", which, len(palette)) + np.array(palette, "<u8").tobytes()
    used = codes.astype("u1").tobytes()
    if used == used[:1] * len(used):
        return head + b"\x01" + used[:1] + stream
    return head + b"\x00" + used + stream


def unpack_mask(data: Buffer, shape: Sequence[int], itemsize: int) -> tuple[NDArray[np.uint8], tuple[int, ...]]:
    """Inverse of `pack_mask` for samples of `itemsize` bytes: labels in canonical shape and palette.

    Raises
    ------
    FormatError
        If the bytes are not a mask of that shape.
    """
    count = shape[0] * shape[1]
    try:
        from_channel, size = struct.unpack_from("<BB", data)
        palette = tuple(int(bits) for bits in np.frombuffer(data, "<u8", size, offset=2))
        at = 2 + 8 * size
        uniform = data[at]
        codes = np.frombuffer(data, "u1", 1 if uniform else count, offset=at + 1).astype(np.int64)
    except (struct.error, ValueError, IndexError) as error:
        raise FormatError(f"The mask of the frame is damaged: {error}.") from None
    if from_channel > 1 or uniform > 1 or size > PALETTE or codes.max(initial=0) >= len(MAGNITUDES):
        raise FormatError("The mask of the frame is damaged.")
    if any(pattern >> (8 * itemsize) for pattern in palette):
        raise FormatError("The mask of the frame names values that are wider than its samples.")
    corrections = np.zeros(int(np.prod(shape)), np.int32)
    stream = data[at + 1 + codes.size :]
    codes = np.broadcast_to(codes, (count,)).copy()
    coder.decode(stream, corrections, _label_planes(shape, codes), Kind.SIDE, 2)
    if corrections.min(initial=0) < 0 or corrections.max(initial=0) > size + 1:
        raise FormatError("The mask of the frame names values outside its palette.")
    return _apply_corrections(corrections.reshape(shape), bool(from_channel)), palette


def _apply_corrections(corrections: NDArray[np.int32], from_channel: bool) -> NDArray[np.uint8]:
    """Labels from corrections of their predictions: the last corrected label before each place holds there."""
    shape = corrections.shape
    labels = np.empty(shape, np.uint8)
    step = max(1, CORRECTED // max(1, math.prod(shape[2:])))
    for start in range(0, shape[1], step):
        own = corrections[:, start : start + step]
        if from_channel:
            own = own.copy()
            if start:
                own[:, 0] = np.where(own[:, 0] > 0, own[:, 0], labels[:, start - 1].astype(np.int32) + 1)
            else:
                own[:, 0] = _run(_hold_columns(own[:, 0])).astype(np.int32) + 1
            labels[:, start : start + step] = np.moveaxis(_run(np.moveaxis(own, 1, -1)), -1, 1)
        else:
            # West neighbours, and north ones in the first column: along the scan the last correction of the row or,
            # in a row without one so far, what holds in the first column.
            labels[:, start : start + step] = _run(_hold_columns(own))
    return labels


def _hold_columns(corrections: NDArray[np.int32]) -> NDArray[np.int32]:
    """Corrections with every row's first one made explicit."""
    held = corrections.copy()
    first = corrections[..., 0]
    held[..., 0] = _run(first).astype(np.int32) + 1
    return held


def _run(corrections: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Last correction along the last axis, minus one; 0 before the first."""
    n = corrections.shape[-1]
    last = np.maximum.accumulate(np.where(corrections > 0, np.arange(n), -1), axis=-1)
    taken = np.take_along_axis(corrections, np.maximum(last, 0), axis=-1)
    return np.where(last >= 0, taken - 1, 0).astype(np.uint8)


def pack_exceptions(positions: NDArray[np.int64], bits: NDArray[np.uint64], itemsize: int) -> bytes:
    """Bytes of exceptions: their number, the width of a gap, gaps between positions, bits."""
    gaps = np.diff(positions, prepend=-1) - 1
    width = next(w for w in (1, 2, 4, 8) if gaps.max(initial=0) < 1 << (8 * w))
    return (
        struct.pack("<QB", len(positions), width)
        + gaps.astype(f"<u{width}").tobytes()
        + bits.astype(f"<u{itemsize}").tobytes()
    )


def unpack_exceptions(data: Buffer, size: int, itemsize: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Inverse of `pack_exceptions` for a chunk of `size` samples.

    Raises
    ------
    FormatError
        If the bytes are not exceptions inside the chunk.
    """
    if len(data) < 9:
        raise FormatError("The exceptions of the frame are cut.")
    count, width = struct.unpack_from("<QB", data)
    if width not in (1, 2, 4, 8) or count > size or len(data) != 9 + count * (width + itemsize):
        raise FormatError("The exceptions of the frame are damaged.")
    gaps = np.frombuffer(data, f"<u{width}", count, offset=9)
    if gaps.max(initial=0) >= size:
        raise FormatError("The exceptions of the frame lie outside the chunk.")
    positions = np.cumsum(gaps.astype(np.int64) + 1) - 1
    if positions.max(initial=0) >= size:
        raise FormatError("The exceptions of the frame lie outside the chunk.")
    return positions, np.frombuffer(data, f"<u{itemsize}", count, offset=9 + count * width).astype(np.uint64)


FILL_SAMPLES = 1 << 18
"""Holes are filled in so many samples at a time."""

SWEEPS = 8
"""How often the fill of holes is smoothed at each scale: blocks leave edges, which cost bits."""


def fill_holes(array: NDArray[np.generic], holes: NDArray[np.bool_]) -> NDArray[np.generic]:
    """A copy of `array` with holes filled smoothly by a pyramid of means of what surrounds them.

    A channel without any sample left is filled with zeros, or with what is next to zero in the range of all samples.

    Parameters
    ----------
    array : (batch, channel, z, y, x)
        Samples; what stands in the holes is not looked at.
    holes : same shape, bool
        Where to fill.
    """
    out = array.copy()
    out[holes] = 0
    kept = array[~holes]
    low, high = (float(kept.min()), float(kept.max())) if kept.size else (0.0, 0.0)
    # Sums of the largest floats would overflow.
    scale = max(float(out.max(initial=0)), -float(out.min(initial=0)), 1.0)

    def fill(channels: slice) -> None:
        part, where = out[:, channels], holes[:, channels]
        filled = _pull(part.astype(np.float64) / scale, (~where).astype(np.float64)) * scale
        np.clip(filled, low, high, out=filled)
        if array.dtype.kind in "iu":
            filled = np.rint(filled)
        part[where] = filled[where].astype(array.dtype)

    width = max(1, FILL_SAMPLES * array.shape[1] // max(array.size, 1))
    map_parallel(fill, [slice(first, first + width) for first in range(0, array.shape[1], width)])
    return out


def _pull(values: NDArray[np.float64], weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means where `weight` is positive, and the means of coarser and coarser blocks elsewhere."""
    safe = np.where(weight > 0, values / np.maximum(weight, 1e-300), 0.0)
    empty = weight <= 0
    if max(values.shape[2:]) == 1 or not empty.any():
        return safe
    coarse_values, coarse_weight = values, weight
    for axis in (2, 3, 4):
        coarse_values, coarse_weight = _halve(coarse_values, axis), _halve(coarse_weight, axis)
    # A block counts for at most one sample from here on, so that large known areas do not drown near ones.
    scale = np.maximum(coarse_weight, 1.0)
    coarse = _pull(coarse_values / scale, coarse_weight / scale)
    for axis in (2, 3, 4):
        coarse = np.repeat(coarse, 2, axis=axis)[
            tuple(slice(None) if a != axis else slice(values.shape[a]) for a in range(5))
        ]
    filled = np.ascontiguousarray(np.where(empty, coarse, safe))
    flat, places = filled.reshape(-1), np.flatnonzero(empty)
    neighbours = _neighbours(places, values.shape)
    for _ in range(SWEEPS):
        flat[places] = sum(flat[before] + flat[behind] for before, behind in neighbours) / (2 * len(neighbours))
    return filled


def _neighbours(places: NDArray[np.int64], shape: Sequence[int]) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Flat indices of both neighbours along each signal axis; beyond an edge the sample itself stands in."""
    found = []
    for axis in (2, 3, 4):
        n, stride = shape[axis], math.prod(shape[axis + 1 :])
        if n > 1:
            at = places // stride % n
            found.append((places - stride * (at > 0), places + stride * (at < n - 1)))
    return found


def _halve(array: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Sums of pairs along an axis (the last one alone where the length is odd)."""
    n = array.shape[axis]
    if n == 1:
        return array
    return np.add.reduceat(array, np.arange(0, n, 2), axis=axis)
