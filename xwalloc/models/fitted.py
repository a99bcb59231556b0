# mypy: disable-error-code="no-untyped-call"
"""The linear model of an array: what `models.spec.LinearModel` is to one chunk, without what differs between chunks.

Means, spectral basis, expected magnitudes and frequency tables are the model's; a frame that names it holds its own
quantum, rank and reconstruction points, and how far its magnitudes are from those of the model.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream.contexts import MAGNITUDES, Kind
from xwalloc.bitstream.tables import TOKENS, Tables, shipped
from xwalloc.errors import BudgetError, FormatError
from xwalloc.models.spec import BOUNDARIES, MAX_PRECISION, SIDE_CODE, TREES, Boundary, Grid, LinearModel, Tree, padded
from xwalloc.transform.linalg import solve_spd
from xwalloc.transform.tree import MAX_LEVELS, Plan
from xwalloc.types import Buffer, cached_property

__all__ = ["Fitted", "book", "bookkeeping", "subband_ids"]

if TYPE_CHECKING:
    from xwalloc.models.neural import Network

HEAD = struct.Struct("<IHBhhh")
"""Quantum, rank, bits of the wavelet taps, three reconstruction points."""

NETWORK = "network."
"""What the names of a network's tensors begin with among those of a model."""

MOST_MULTIPLICATIONS = 1 << 14
"""Multiply-adds per coefficient that the network of a model may ask of a decoder."""

MAX_CHANNELS = 1 << 16
LARGEST_SCALE = 2.0**64

ROTATION_BITS = 2
"""Further fractional bits of basis vectors that are sums of others."""
WAVELET = "bior4.4"


@lru_cache(maxsize=64)
def subband_ids(levels: int, tree: Tree, dimensions: int) -> dict[tuple[int, ...], int]:
    """Number of every subband of a chunk that is long enough on all axes: by level and orientation.

    A packet tree's subbands are known by their orientation alone, with `levels` bits per axis; axes that do not exist
    have orientation 0.
    """
    absent = (0,) * (3 - dimensions)
    if tree == "packet":
        paths = itertools.product(range(1 << levels), repeat=dimensions)
        return {(0, *absent, *path): i for i, path in enumerate(paths)}
    bits = [b for b in itertools.product((0, 1), repeat=dimensions) if any(b)]
    keys = [(levels, *absent, *(0,) * dimensions)]
    keys += [(level, *absent, *b) for level in range(levels, 0, -1) for b in bits]
    return {key: i for i, key in enumerate(keys)}


@lru_cache(maxsize=64)
def places(plan: Plan, levels: int, dimensions: int) -> NDArray[np.int64]:
    """Which of `subband_ids` every subband of a chunk corresponds to."""
    ids = subband_ids(levels, plan.tree, dimensions)
    found = []
    for subband in plan.subbands:
        if plan.tree == "packet":
            path = (p << (levels - n) for p, n in zip(subband.orientation, plan.splits, strict=True))
            found.append(ids[0, *path])
        else:
            found.append(ids[subband.level if any(subband.orientation) else levels, *subband.orientation])
    return np.array(found, np.int64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """A linear model of an array.

    Parameters
    ----------
    dimensions, levels, tree, boundary
        Number of signal axes; the wavelet transform.
    ratio
        Quantum of the latents, by the error bound.
    means : (channel,) float64
        Channel means, in units of the samples.
    scales : (channel,) float64
        Error bound of each channel, by the bound of the frame, which is the smallest: 1 or more.
    vectors : (rank, channel) int
        Basis vectors.
    precisions : (rank,) int
        Their fractional bits.
    kept : (rank, subband) bool
        Latents that are coded at all, by `subband_ids`.
    codes : (rank, subband) int
        Usual magnitude codes of the latents.
    residual_codes : (channel,) int
        Usual magnitude codes of the residual layer.
    codebook
        Frequency tables.
    network
        What refines the latents of chunks that ask for it; None: nothing does.
    """

    dimensions: int
    levels: int
    tree: Tree
    boundary: Boundary
    ratio: float
    means: NDArray[np.float64]
    scales: NDArray[np.float64]
    vectors: NDArray[np.int64]
    precisions: NDArray[np.int64]
    kept: NDArray[np.bool_]
    codes: NDArray[np.int64]
    residual_codes: NDArray[np.int64]
    codebook: Tables
    network: Network | None = None

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.means)

    @property
    def rank(self) -> int:
        """Number of basis vectors."""
        return len(self.vectors)

    @cached_property
    def scaled(self) -> bool:
        """Whether channels have bounds of their own."""
        return bool((self.scales != 1).any())

    @cached_property
    def basis(self) -> NDArray[np.float64]:
        """Basis vectors (rank, channel), nearly orthonormal."""
        return np.ldexp(self.vectors.astype(np.float64), -self.precisions[:, None])

    @cached_property
    def analysis(self) -> NDArray[np.float64]:
        """What samples less their means are multiplied by, (rank, channel): least squares on the basis."""
        return solve_spd(self.basis @ self.basis.T, self.basis)

    @classmethod
    def of(cls, description: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Fitted:
        """From what a `Model` holds, which is not trusted.

        Raises
        ------
        FormatError
            If it makes no linear model.
        """
        try:
            channels, dimensions, levels = (int(description[name]) for name in ("channels", "dimensions", "levels"))
            tree, boundary, ratio = description["tree"], description["boundary"], float(description["ratio"])
            if not (
                1 <= channels <= MAX_CHANNELS
                and 1 <= dimensions <= 3
                and 0 <= levels <= MAX_LEVELS
                and tree in TREES
                and boundary in BOUNDARIES
                and description["wavelet"] == WAVELET
                and 0 < ratio < 2**20
                and (tree == "dyadic" or levels * dimensions <= 12)
            ):
                raise FormatError("The model has impossible parameters.")
            count = len(subband_ids(levels, tree, dimensions))
            means, scales = (_take(arrays, name, np.float64, (channels,)) for name in ("means", "scales"))
            rank = len(arrays["vectors"])
            vectors = _take(arrays, "vectors", np.int32, (rank, channels)).astype(np.int64)
            precisions = _take(arrays, "precisions", np.uint8, (rank,)).astype(np.int64)
            kept = _take(arrays, "kept", np.bool_, (rank, count))
            codes = _take(arrays, "codes", np.uint8, (rank, count)).astype(np.int64)
            residual_codes = _take(arrays, "residual_codes", np.uint8, (channels,)).astype(np.int64)
            codebook = book(arrays)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise FormatError(f"The model is damaged: {error!r}.") from None
        possible = (
            1 <= rank <= channels
            and np.isfinite(means).all()
            and np.isfinite(scales).all()
            and (scales >= 1).all()
            and (scales < LARGEST_SCALE).all()
            and precisions.max() <= MAX_PRECISION
            and max(codes.max(initial=0), residual_codes.max(initial=0)) < len(MAGNITUDES)
        )
        if not possible:
            raise FormatError("The model has impossible numbers.")
        return cls(
            dimensions=dimensions, levels=levels, tree=tree, boundary=boundary, ratio=ratio, means=means,
            scales=scales, vectors=vectors, precisions=precisions, kept=kept, codes=codes,
            residual_codes=residual_codes, codebook=codebook,
            network=_network(description, arrays, dimensions, levels, tree, rank),
        )  # fmt: skip

    def grid(self, signal: tuple[int, int, int]) -> Grid:
        """The transform over a chunk of that extent (without padding)."""
        return Grid(
            signal=padded(signal, self.levels, self.tree, self.boundary), dimensions=self.dimensions,
            levels=self.levels, tree=self.tree, boundary=self.boundary, wavelet=WAVELET,
        )  # fmt: skip

    def codes_on(self, grid: Grid) -> NDArray[np.int64]:
        """Usual magnitude codes (rank, subband) on a grid."""
        return self.codes[:, places(grid.plan, self.levels, self.dimensions)]

    def kept_on(self, grid: Grid) -> NDArray[np.bool_]:
        """Latents (rank, subband) that are coded at all, on a grid."""
        return self.kept[:, places(grid.plan, self.levels, self.dimensions)]

    def start(self, grid: Grid, quantum: int, per_sample: float) -> LinearModel:
        """The model of a chunk before it is quantised, with the full rank; `per_sample` units to a unit of samples.

        Raises
        ------
        BudgetError
            If the means are too large for exact arithmetic.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # of forged frames
            means = np.rint(self.means / self.scales * per_sample)
        if not np.abs(means).max() < 2.0**52:
            raise BudgetError("The means of the model exceed the bit budget of exact arithmetic.")
        return LinearModel(
            grid=grid, quantum=quantum, points=(0, 0, 0), mean_shift=0, means=means.astype(np.int64),
            precisions=self.precisions, vectors=self.vectors, codes=self.codes_on(grid), filter_shift=0,
        )  # fmt: skip

    def widened(self, vectors: NDArray[np.int64], precisions: NDArray[np.int64]) -> Fitted:
        """The model with further basis vectors (count, channel) of those fractional bits, and of no magnitude."""
        more = ((0, len(vectors)), (0, 0))
        return replace(
            self, vectors=np.concatenate([self.vectors, vectors]), precisions=np.append(self.precisions, precisions),
            kept=np.pad(self.kept, more, constant_values=True), codes=np.pad(self.codes, more), network=None,
        )  # fmt: skip

    def rotated(self, own: LinearModel, per_sample: float) -> LinearModel:
        """The model of a chunk that has a basis of its own within the span of this one.

        Parameters
        ----------
        own
            Its model, with the vectors of this one for channels.
        per_sample
            Units to a unit of samples.

        Raises
        ------
        BudgetError
            If numbers are too large for exact arithmetic.
        """
        start = self.start(own.grid, own.quantum, per_sample)
        common = int(self.precisions.max())
        spanned = np.ldexp(self.vectors.astype(np.float64), (common - self.precisions)[:, None])
        weights = np.concatenate([own.means[None], own.vectors]).astype(np.float64)
        products = weights @ spanned
        offsets = np.rint(np.ldexp(products[0], own.mean_shift - common))
        precisions = own.precisions + ROTATION_BITS
        exact = (np.abs(weights) @ np.abs(spanned)).max() < 2.0**53 and np.abs(offsets).max() < 2.0**52
        if not exact or precisions.max() > MAX_PRECISION:
            raise BudgetError("The basis of the chunk exceeds the bit budget of exact arithmetic.")
        vectors = np.rint(np.ldexp(products[1:], ROTATION_BITS - common)).astype(np.int64)
        return replace(
            own, mean_shift=0, means=start.means + offsets.astype(np.int64), precisions=precisions, vectors=vectors
        )

    def pack(self, model: LinearModel, residual_codes: NDArray[np.int64] | None) -> bytes:
        """What a frame holds of a chunk's model; `residual_codes` (channel,) where it has a residual layer."""
        expected = self.codes_on(model.grid)[: model.rank]
        side = [(model.codes - expected).T]
        if residual_codes is not None:
            side.append(residual_codes - self.residual_codes)
        buffer = np.concatenate([part.reshape(-1) for part in side]).astype(np.int32)
        planes = _side_planes(model.codes.shape[1], model.rank, len(buffer))
        head = HEAD.pack(model.quantum, model.rank, model.filter_shift, *model.points)
        return head + coder.encode(buffer, planes, Kind.SIDE, 1)

    def unpack(
        self, data: Buffer, signal: tuple[int, int, int], per_sample: float, batch: int, *, residual: bool
    ) -> tuple[LinearModel, NDArray[np.int64]]:
        """Inverse of `pack` for a chunk of that extent, whose unit and batch items are known.

        Raises
        ------
        FormatError
            If the bytes are not what a frame holds of such a chunk.
        """
        if len(data) < HEAD.size:
            raise FormatError("The model of the frame is cut.")
        quantum, rank, filter_shift, *points = HEAD.unpack_from(data)
        grid = self.grid(signal)
        if not 1 <= rank <= min(self.rank, batch * math.prod(grid.signal)) or quantum == 0 or filter_shift > 30:
            raise FormatError("The model of the frame has impossible parameters.")
        try:
            start = self.start(grid, quantum, per_sample)
        except BudgetError as error:
            raise FormatError(f"The model of the frame is impossible: {error}") from None
        expected = start.codes[:rank]
        size = expected.size + self.channels * residual
        buffer = np.zeros(size, np.int32)
        coder.decode(data[HEAD.size :], buffer, _side_planes(expected.shape[1], rank, size), Kind.SIDE, 1)
        codes = expected + buffer[: expected.size].reshape(expected.shape[::-1]).T
        residual_codes = buffer[expected.size :].astype(np.int64)
        if residual:
            residual_codes += self.residual_codes
        for found in (codes, residual_codes):
            if found.size and not 0 <= found.min() <= found.max() < len(MAGNITUDES):
                raise FormatError("The model of the frame has impossible magnitudes.")
        return start.quantised_as(rank, codes, tuple(points), filter_shift), residual_codes


def _take(arrays: Mapping[str, NDArray[Any]], name: str, dtype: Any, shape: tuple[int, ...]) -> NDArray[Any]:
    array = arrays[name]
    if array.dtype != dtype or array.shape != shape:
        raise FormatError(
            f"Expected array {name!r} of the model to be {np.dtype(dtype)} of shape {shape}. "
            f"Got {array.dtype} of shape {array.shape}."
        )
    return array


def _network(
    description: Mapping[str, Any],
    arrays: Mapping[str, NDArray[Any]],
    dimensions: int,
    levels: int,
    tree: Tree,
    rank: int,
) -> Network | None:
    """The network of a model, if it has one."""
    if "network" not in description:
        return None
    from xwalloc.models.neural import Network  # most models have none

    tensors = {name.removeprefix(NETWORK): array for name, array in arrays.items() if name.startswith(NETWORK)}
    network = Network.from_tensors(description["network"], tensors)
    kind = network.architecture
    fits = (kind.tree, kind.dimensions) == (tree, dimensions) and kind.rank in (0, rank)
    if not fits or (tree == "packet" and kind.levels != levels):
        raise FormatError(f"The network of the model is for other latents: {kind}.")
    if kind.multiplications > MOST_MULTIPLICATIONS:
        raise FormatError(
            f"Expected a network of at most {MOST_MULTIPLICATIONS} multiplications per coefficient. "
            f"Got {kind.multiplications:.0f}."
        )
    return network


def _side_planes(subbands: int, rank: int, size: int) -> NDArray[np.void]:
    """Planes of differences of magnitude codes: one for each subband, and one for the residual layer, if any."""
    sizes = [rank] * subbands + [size - rank * subbands] * (size > rank * subbands)
    planes = coder.planes_of(len(sizes))
    planes["nx"] = sizes
    planes["base"] = np.cumsum(sizes) - sizes
    planes["code"] = SIDE_CODE
    return planes


def book(arrays: Mapping[str, NDArray[Any]]) -> Tables:
    """The codebook that a model's arrays hold: the shipped tables, those of the model, and what is usual.

    Raises
    ------
    FormatError
        If they are no tables.
    """
    if "table_classes" not in arrays:
        return shipped()
    classes = _take(arrays, "table_classes", np.uint16, (len(arrays["table_classes"]),))
    numbers = _take(arrays, "table_numbers", np.uint16, classes.shape)
    own = _take(arrays, "tables", np.uint16, (len(arrays["tables"]), TOKENS))
    usual = shipped()
    if len(classes) > len(usual.index) or len(own) > len(classes) or classes.max(initial=0) >= len(usual.index):
        raise FormatError("The model names a frequency table for a class that there is not.")
    index = usual.index.copy()
    index[classes] = numbers
    return Tables(np.concatenate([usual.frequencies, own]), index)


def bookkeeping(codebook: Tables) -> dict[str, NDArray[Any]]:
    """Inverse of `book`: the arrays of a model that say how a codebook differs from the shipped one."""
    usual = shipped()
    classes = np.flatnonzero(codebook.index != usual.index)
    return {
        "table_classes": classes.astype(np.uint16),
        "table_numbers": codebook.index[classes],
        "tables": codebook.frequencies[len(usual.frequencies) :],
    }
