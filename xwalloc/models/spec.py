# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Frozen description of a linear model, and its bytes (section MODEL of a frame)."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream.contexts import MAGNITUDES, Kind, magnitude_code
from xwalloc.errors import ConfigError, FormatError
from xwalloc.jit import kernel
from xwalloc.transform import wavelet as w
from xwalloc.transform.filters import check_boundary
from xwalloc.transform.tree import KEPT_SUBBANDS, Plan, Subband, most_subbands, plan, split_count
from xwalloc.types import Buffer, Parallel, cached_property, in_turn

__all__ = ["Grid", "LinearModel", "pack_vectors", "padded", "unpack_vectors"]

Tree = Literal["dyadic", "packet"]
Boundary = Literal["reflect", "periodization"]
TREES: tuple[Tree, ...] = ("dyadic", "packet")
BOUNDARIES: tuple[Boundary, ...] = ("reflect", "periodization")
BUILT_IN = "bior4.4"

HEAD = struct.Struct("<BBBBIhhhHB")
"""Tree, boundary, levels, bits of the wavelet taps, quantum, three reconstruction points, rank, mean shift."""

TAPS = struct.Struct("<BBbb")
"""Inline taps (wavelets other than the built-in one): counts of low and high taps, their origins."""

MAX_PRECISION = 30
MOST_CODE = len(MAGNITUDES) - 1
SIDE_CODE = 17
"""Magnitude code of planes of side information, whose magnitudes are about 1."""

VECTOR_CODE = 27
"""Magnitude code of basis vectors: about 32 to begin with."""


def padded(signal: Sequence[int], levels: int, tree: Tree, boundary: Boundary) -> tuple[int, int, int]:
    """Extent (z, y, x) of the coefficients of a chunk.

    The reflecting dyadic transform takes every length. A packet tree wants a uniform grid, and periodization even
    lengths: there, every axis is padded to a multiple of 2^splits.
    """
    multiples = [1] * 3
    if tree == "packet" or boundary == "periodization":
        multiples = [1 << min(levels, split_count(n)) for n in signal]
    z, y, x = (-(-n // multiple) * multiple for n, multiple in zip(signal, multiples, strict=True))
    return z, y, x


KEPT_PLANES = 1 << 12
"""Tables of more planes are made anew each time: they would fill the memory."""

MOST_PARTS, PART_BITS = 16, 15
"""Transforms of many latents are split into so many parts, of 2^15 coefficients or more."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Wavelet, tree and boundary over the signal axes of a chunk.

    Parameters
    ----------
    signal
        Extent (z, y, x) of the coefficients; axes that do not exist have length 1.
    dimensions
        Number of signal axes.
    levels, tree, boundary, wavelet
        As in the codec's configuration; `wavelet` is a name (encoder) or the taps of the synthesis (decoder).
    """

    signal: tuple[int, int, int]
    dimensions: int
    levels: int
    tree: Tree
    boundary: Boundary
    wavelet: str | w.ExactFilters

    @cached_property
    def plan(self) -> Plan:
        """Subbands of the coefficients."""
        return plan(self.signal, self.levels, self.tree)

    @property
    def subbands(self) -> tuple[Subband, ...]:
        """Subbands in coding order, coarse to fine."""
        return self.plan.subbands

    def filters(self, side: Literal["analysis", "synthesis"], shift: int) -> w.ExactFilters:
        """Integer taps with `shift` fractional bits."""
        if isinstance(self.wavelet, w.ExactFilters):
            return self.wavelet
        return w.exact_filters(w.get_wavelet(self.wavelet), side, shift)

    def forward(
        self, latents: NDArray[np.float64], shift: int, largest: float, parallel: Parallel = in_turn
    ) -> NDArray[np.float64]:
        """Exact wavelet analysis of (batch, rank, z, y, x), none beyond `largest` in magnitude, in place."""
        transform = partial(w.forward_exact, bound=largest)
        return self._transform(transform, latents, self.filters("analysis", shift), parallel)

    def inverse(
        self, coefficients: NDArray[np.float64], shift: int, parallel: Parallel = in_turn
    ) -> NDArray[np.float64]:
        """Exact wavelet synthesis of (batch, rank, z, y, x), in place."""
        return self._transform(w.inverse_exact, coefficients, self.filters("synthesis", shift), parallel)

    def inverse_bound(self, largest: float, shift: int) -> float:
        """What no result of `inverse` exceeds if no coefficient exceeds `largest`; infinite if only data can tell."""
        return w.inverse_bound(self.plan, self.filters("synthesis", shift), largest)

    def _transform(
        self, transform: Callable[..., Any], array: NDArray[np.float64], filters: w.ExactFilters, parallel: Parallel
    ) -> NDArray[np.float64]:
        planes = array.reshape(-1, *self.signal)
        count = max(1, min(len(planes), MOST_PARTS, array.size >> PART_BITS))
        parts = [planes[i * len(planes) // count : (i + 1) * len(planes) // count] for i in range(count)]
        parallel(lambda part: transform(part, self.plan, filters, self.boundary, out=part), parts)
        return array

    def cropped(self, signal: Sequence[int]) -> Grid:
        """The same over another extent."""
        z, y, x = signal
        return replace(self, signal=(z, y, x))

    def with_levels(self, levels: int) -> Grid:
        """The same with another number of levels."""
        return replace(self, levels=levels)

    def planes(
        self, batch: int, codes: NDArray[np.int64], slab: tuple[int, int, int], *, last: bool
    ) -> NDArray[np.void]:
        """Planes (bitstream/planes.py) of the symbols (batch, rank, z, y, x) in coding order.

        Parameters
        ----------
        batch
            Number of batch items.
        codes : (rank, subband) int
            Magnitude codes.
        slab
            Axis (0 z, 1 y, 2 x), start and stop, in samples, of the segment.
        last
            Whether the slab is the last one: it takes what rounding leaves over.
        """
        rank, count = codes.shape
        kept = batch * rank * count <= KEPT_PLANES
        flat = (_kept_planes if kept else _planes)(self, batch, rank, slab, last).copy()
        planes = flat.reshape(batch, rank, count)
        planes["code"] = codes
        planes["parent_code"] = codes[:, [max(subband.parent, 0) for subband in self.subbands]]
        planes["sibling_code"][..., 1:] = codes[:, :-1]
        planes["previous_code"][:, 1:] = codes[:-1]
        # A plane of zeros says nothing beyond its code.
        for name in ("previous", "parent", "sibling"):
            flat[name][flat[name + "_code"] == 0] = coder.NO_PLANE
        flat["code"][(flat["nz"] == 0) | (flat["ny"] == 0) | (flat["nx"] == 0)] = 0
        return flat


def _planes(grid: Grid, batch: int, rank: int, slab: tuple[int, int, int], last: bool) -> NDArray[np.void]:
    """`Grid.planes` but for their codes: a plane looks at every other one that there may be."""
    z, y, x = grid.signal
    axis, start, stop = slab
    subbands, splits = grid.subbands, grid.plan.splits
    template = coder.planes_of(len(subbands))
    template["sz"], template["sy"] = y * x, x
    for s, subband in enumerate(subbands):
        first = [part.start for part in subband.slices]
        size = list(subband.shape)
        depth = min(subband.level, splits[axis])
        begin, end = start >> depth, size[axis] if last else min(stop >> depth, size[axis])
        first[axis] += begin
        size[axis] = max(0, end - begin)
        template["base"][s] = (first[0] * y + first[1]) * x + first[2]
        template["nz"][s], template["ny"][s], template["nx"][s] = size
    for s, subband in enumerate(subbands):
        own = template[s]
        if subband.parent >= 0:
            parent = template[subband.parent]
            own["parent"] = parent["base"]
            halved = [int(split > subband.level) for split in splits]
            own["parent_z"], own["parent_y"], own["parent_x"] = halved
            own["parent_nz"], own["parent_ny"], own["parent_nx"] = parent["nz"], parent["ny"], parent["nx"]
            if min(parent["nz"], parent["ny"], parent["nx"]) == 0:
                own["parent"] = coder.NO_PLANE
        before = template[s - 1]
        if s and all(before[n] == own[n] for n in ("nz", "ny", "nx")) and subband.level == subbands[s - 1].level:
            own["sibling"] = before["base"]
    planes = np.tile(template, batch * rank).reshape(batch, rank, len(subbands))
    offsets = np.arange(batch * rank).reshape(batch, rank, 1) * (z * y * x)
    planes["base"] += offsets
    for name in ("parent", "sibling"):
        planes[name] = np.where(planes[name] >= 0, planes[name] + offsets, coder.NO_PLANE)
    planes["previous"][:, 1:] = planes["base"][:, :-1]
    return planes.reshape(-1)


_kept_planes = lru_cache(maxsize=64)(_planes)


@dataclass(frozen=True, kw_only=True, eq=False)
class LinearModel:
    """What the decoder of a linear model needs beyond the symbols.

    Parameters
    ----------
    grid
        Wavelet and tree.
    quantum
        Units per step.
    points
        Reconstruction points of magnitudes 1, 2, >= 3: what is added to magnitude times quantum, in units.
    mean_shift, means : (channel,) int
        Channel means in units of 2^mean_shift units.
    precisions : (rank,) int
        Fractional bits of each basis vector.
    vectors : (rank, channel) int
        Basis vectors as integers with those fractional bits.
    codes : (rank, subband) int
        Magnitude codes of the symbols.
    filter_shift
        Fractional bits of the wavelet taps.
    """

    grid: Grid
    quantum: int
    points: tuple[int, ...]
    mean_shift: int
    means: NDArray[np.int64]
    precisions: NDArray[np.int64]
    vectors: NDArray[np.int64]
    codes: NDArray[np.int64]
    filter_shift: int

    @property
    def rank(self) -> int:
        """Number of basis vectors."""
        return len(self.vectors)

    @cached_property
    def shift(self) -> int:
        """Fractional bits of `matrix`."""
        return int(self.precisions.max(initial=0))

    @cached_property
    def matrix(self) -> NDArray[np.float64]:
        """Basis (channel, rank) as integers with `shift` fractional bits."""
        scales = np.ldexp(1.0, self.shift - self.precisions)
        return np.multiply(self.vectors.T, scales, dtype=np.float64, order="C")

    @cached_property
    def mean_units(self) -> NDArray[np.float64]:
        """Channel means in units."""
        return np.ldexp(self.means.astype(np.float64), self.mean_shift)

    def quantised(
        self, rank: int, means: NDArray[np.float64], points: NDArray[np.int64], filter_shift: int
    ) -> LinearModel:
        """The model with its first `rank` vectors and what quantisation found: mean magnitudes, points, tap bits."""
        return self.quantised_as(rank, magnitude_code(means), tuple(int(p) for p in points), filter_shift)

    def quantised_as(
        self, rank: int, codes: NDArray[np.int64], points: tuple[int, ...], filter_shift: int
    ) -> LinearModel:
        """The model with its first `rank` vectors, and what else follows from quantisation."""
        return replace(
            self, points=points, precisions=self.precisions[:rank], vectors=self.vectors[:rank], codes=codes,
            filter_shift=filter_shift,
        )  # fmt: skip

    def to_bytes(self) -> bytes:
        """Section MODEL."""
        grid = self.grid
        head = HEAD.pack(
            TREES.index(grid.tree) | (0 if grid.wavelet == BUILT_IN else 2),
            BOUNDARIES.index(grid.boundary),
            grid.levels,
            self.filter_shift,
            self.quantum,
            *self.points,
            self.rank,
            self.mean_shift,
        )
        if grid.wavelet != BUILT_IN:
            head += _pack_taps(grid.filters("synthesis", self.filter_shift))
        means = np.diff(self.means, prepend=0)
        vectors, from_west = _differences(self.vectors, self.precisions)
        side = [
            np.diff(self.precisions, prepend=0),
            from_west,
            means,
            vectors,
            np.diff(self.codes, axis=0, prepend=0).T,
        ]
        code = int(magnitude_code(np.abs(means).mean()))
        buffer = np.concatenate([part.reshape(-1) for part in side]).astype(np.int32)
        planes = _side_planes(self.rank, len(self.means), self.codes.shape[1], code)
        return head + bytes([code]) + coder.encode(buffer, planes, Kind.SIDE, 1)

    @classmethod
    def from_bytes(
        cls, data: Buffer, signal: tuple[int, int, int], dimensions: int, channels: int, batch: int = 1
    ) -> LinearModel:
        """Inverse of `to_bytes` for a chunk of that extent (without padding), channels and batch items.

        Raises
        ------
        FormatError
            If the bytes are not a model.
        """
        try:
            tree, boundary, levels, filter_shift, quantum, p1, p2, p3, rank, mean_shift = HEAD.unpack_from(data)
            at = HEAD.size
            wavelet: str | w.ExactFilters = BUILT_IN
            if tree & 2:
                wavelet, at = _unpack_taps(data, at, filter_shift)
            code = data[at]
        except (struct.error, IndexError) as error:
            raise FormatError(f"The model of the frame is cut: {error}.") from None
        if tree > 3 or boundary > 1 or levels > 8 or filter_shift > 30 or mean_shift > 40 or not 1 <= rank <= channels:
            raise FormatError("The model of the frame has impossible parameters.")
        if quantum == 0 or code >= len(MAGNITUDES):
            raise FormatError("The model of the frame has impossible parameters.")
        try:
            kept = most_subbands(signal, levels, TREES[tree & 1]) <= KEPT_SUBBANDS
            grid = (_kept_grid if kept else _grid)(
                signal, dimensions, levels, TREES[tree & 1], BOUNDARIES[boundary], wavelet, filter_shift
            )
            count = len(grid.subbands)
        except ConfigError as error:
            raise FormatError(f"The model of the frame does not fit its chunk: {error}") from None
        if rank > batch * math.prod(grid.signal):
            raise FormatError("The model of the frame has more basis vectors than its chunk has pixels.")
        planes = _side_planes(rank, channels, count, code)
        buffer = np.zeros(int(planes["base"][-1] + planes["nx"][-1]), np.int32)
        coder.decode(data[at + 1 :], buffer, planes, Kind.SIDE, 1)
        precisions, means = np.empty(rank, np.int64), np.empty(channels, np.int64)
        vectors, codes = np.empty((rank, channels), np.int64), np.empty((rank, count), np.int64)
        if not _undo_differences(buffer, precisions, means, vectors, codes):
            raise FormatError("The model of the frame has impossible precisions or magnitudes.")
        return cls(
            grid=grid, quantum=quantum, points=(p1, p2, p3), mean_shift=mean_shift, means=means,
            precisions=precisions, vectors=vectors, codes=codes, filter_shift=filter_shift,
        )  # fmt: skip


def _grid(
    signal: tuple[int, int, int],
    dimensions: int,
    levels: int,
    tree: Tree,
    boundary: Boundary,
    wavelet: str | w.ExactFilters,
    filter_shift: int,
) -> Grid:
    """The grid of a chunk of an extent without padding.

    Raises
    ------
    ConfigError
        If its filters do not suit its boundary.
    """
    grid = Grid(
        signal=padded(signal, levels, tree, boundary), dimensions=dimensions, levels=levels, tree=tree,
        boundary=boundary, wavelet=wavelet,
    )  # fmt: skip
    check_boundary(grid.filters("synthesis", filter_shift), grid.boundary)
    return grid


_kept_grid = lru_cache(maxsize=64)(_grid)


@kernel
def _undo_differences(buffer, precisions, means, vectors, codes):
    """Side information from the differences that the planes of `_side_planes` hold; False if it is impossible."""
    rank, channels = vectors.shape
    total = np.int64(0)
    for k in range(rank):
        total += buffer[k]
        if not 0 <= total <= MAX_PRECISION:
            return False
        precisions[k] = total
    at, total = 2 * rank, np.int64(0)
    for channel in range(channels):
        total += buffer[at + channel]
        means[channel] = total
    at += channels
    for k in range(rank):
        total = np.int64(0)
        for channel in range(channels):
            value = np.int64(buffer[at + channel])
            total += value
            vectors[k, channel] = total if buffer[rank + k] != 0 else value
        at += channels
    for subband in range(codes.shape[1]):
        total = np.int64(0)
        for k in range(rank):
            total += buffer[at + k]
            if not 0 <= total <= MOST_CODE:
                return False
            codes[k, subband] = total
        at += rank
    return True


def _side_planes(rank: int, channels: int, subbands: int, mean_code: int) -> NDArray[np.void]:
    """Planes of the side information: precisions, flags, means, vectors, magnitude codes."""
    kept = rank + subbands <= KEPT_PLANES
    planes = (_kept_side_template if kept else _side_template)(rank, channels, subbands).copy()
    planes["code"][2] = mean_code
    return planes


def _side_template(rank: int, channels: int, subbands: int) -> NDArray[np.void]:
    """`_side_planes` but for what the means say."""
    planes = coder.planes_of(3 + rank + subbands)
    sizes = np.array([rank, rank, channels] + [channels] * rank + [rank] * subbands)
    planes["nx"] = sizes
    planes["base"] = np.cumsum(sizes) - sizes
    planes["code"] = SIDE_CODE
    planes["code"][3 : 3 + rank] = VECTOR_CODE
    return planes


_kept_side_template = lru_cache(maxsize=64)(_side_template)


def pack_vectors(vectors: NDArray[np.int64], precisions: NDArray[np.int64]) -> bytes:
    """Stream of vectors (count, channel) and their fractional bits (count,)."""
    differences, from_west = _differences(vectors, precisions)
    side = [np.diff(precisions, prepend=0), from_west, differences]
    buffer = np.concatenate([part.reshape(-1) for part in side]).astype(np.int32)
    return coder.encode(buffer, _vector_planes(*vectors.shape), Kind.SIDE, 1)


def unpack_vectors(data: Buffer, count: int, channels: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Inverse of `pack_vectors`.

    Raises
    ------
    FormatError
        If the bytes are no such stream.
    """
    buffer = np.zeros(2 * count + count * channels, np.int32)
    coder.decode(data, buffer, _vector_planes(count, channels), Kind.SIDE, 1)
    steps, from_west, vectors = np.split(buffer.astype(np.int64), [count, 2 * count])
    precisions = np.cumsum(steps)
    if precisions.min() < 0 or precisions.max() > MAX_PRECISION:
        raise FormatError("The vectors of the frame have impossible precisions.")
    vectors = vectors.reshape(count, channels)
    return np.where(from_west[:, None] != 0, np.cumsum(vectors, axis=1), vectors), precisions


def _vector_planes(count: int, channels: int) -> NDArray[np.void]:
    """Planes of vectors: precisions, flags, and each vector."""
    planes = coder.planes_of(2 + count)
    sizes = np.array([count, count] + [channels] * count)
    planes["nx"] = sizes
    planes["base"] = np.cumsum(sizes) - sizes
    planes["code"] = SIDE_CODE
    planes["code"][2:] = VECTOR_CODE
    return planes


def _differences(
    vectors: NDArray[np.int64], precisions: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Vectors, those that are smooth over the channels as differences, and which ones are."""
    differences = np.diff(vectors, axis=1, prepend=0)
    smooth = np.abs(differences).sum(axis=1) < np.abs(vectors).sum(axis=1)
    return np.where(smooth[:, None], differences, vectors), smooth.astype(np.int64)


def _pack_taps(filters: w.ExactFilters) -> bytes:
    counts = TAPS.pack(len(filters.lo), len(filters.hi), filters.lo_origin, filters.hi_origin)
    return counts + np.array([*filters.lo, *filters.hi], "<i4").tobytes()


def _unpack_taps(data: Buffer, at: int, shift: int) -> tuple[w.ExactFilters, int]:
    low, high, low_origin, high_origin = TAPS.unpack_from(data, at)
    end = at + TAPS.size + 4 * (low + high)
    if end > len(data) or not low or not high:
        raise FormatError("The wavelet of the frame is cut.")
    taps = [int(t) for t in np.frombuffer(data, "<i4", low + high, offset=at + TAPS.size)]
    filters = w.ExactFilters(
        lo=tuple(taps[:low]), lo_origin=low_origin, hi=tuple(taps[low:]), hi_origin=high_origin, shift=shift
    )
    return filters, end
