# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""The quantum and the rank of a linear model, found by trying some on a few windows of the chunk.

Few and coarse latents leave more to the residual layer, and many fine ones leave less: what counts is the sum. Bits are
estimated from mean magnitudes; errors are not modelled but made: a window is quantised and synthesised, and its
residuals are counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xwalloc.errors import BudgetError
from xwalloc.jit import kernel
from xwalloc.models import quantise as q
from xwalloc.models.analysis import Scale, exact_shift, filter_shift, largest_product, project, to_units
from xwalloc.models.spec import Grid
from xwalloc.types import Parallel, in_turn

__all__ = [
    "HostTrials", "Trials", "Windows", "aligned", "boxes_of", "choose", "code_lengths", "precisions_of", "side_bits",
    "windows_in",
]  # fmt: skip

WINDOWS = {1: 8, 2: 2, 3: 2}
"""Windows along every longer axis, by number of signal axes."""

CROP = {1: 2048, 2: 48, 3: 16}
"""Side of the windows."""

LARGE = 1 << 15
LARGE_CROP = {1: 1024, 2: 32, 3: 12}
"""Of chunks with more pixels, a smaller share is looked at."""

CHANNELS = 64
"""About so many channels have their residuals counted."""

RATIOS = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)
"""Candidate quanta, in multiples of the bound."""

FIRST = 3
"""The candidate that is tried first."""

RANKS = tuple(sorted({round(2 ** (i / 4)) for i in range(41)}))
"""Candidate ranks."""

HEADROOM = 4.0
"""By how much quantised latents may exceed the largest before the wavelet."""

CONCENTRATION = 64, 256
"""By how much more than the mean a coefficient may have of the energy: most often, and at most."""
FEW = 32
"""So many latents are tried if they may pay at all."""

GENEROUS = 2.0
"""Ranks are tried up to where latents would still pay if they saved so many times the error that they save."""

SLACK = 1.004
"""A smaller rank is preferred at this cost: it is decoded faster."""

BASIS_STEP = 0.015
"""Step of a basis vector times the deviation it carries, in quanta (experiments: 0.01 to 0.02)."""

TURNED_STEP = 0.03
"""That of a vector within the span of a model (experiments: 0.02 to 0.045)."""


def boxes_of(grid: Grid) -> NDArray[np.int64]:
    """Start and stop of each subband along z, y, x: (subband, 6)."""
    return np.array([[edge for part in s.slices for edge in (part.start, part.stop)] for s in grid.subbands], np.int64)


def code_lengths(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """`quantise.code_length` of every mean magnitude."""
    out = np.empty(means.shape)
    q.code_lengths(np.ascontiguousarray(means).reshape(-1), out.reshape(-1))
    return out


def precisions_of(
    variances: NDArray[np.float64], quantum: int, channels: int, step: float = BASIS_STEP
) -> NDArray[np.int64]:
    """Fractional bits of each basis vector: its step times the deviation it carries is `step` quanta."""
    if channels == 1:
        return np.zeros(len(variances), np.int64)
    deviation = np.sqrt(np.maximum(variances, 1e-9))
    return np.clip(np.ceil(np.log2(deviation / (step * quantum))), 3, 22).astype(np.int64)


def side_bits(precisions: NDArray[np.int64], channels: int) -> NDArray[np.float64]:
    """Bits of each basis vector, about."""
    bits: NDArray[np.float64] = channels * (np.maximum(precisions - 0.5 * math.log2(channels), 0) + 1.0)
    return bits


Box = tuple[slice, ...]


def aligned(box: Sequence[slice], signal: Sequence[int], align: int) -> Box:
    """The smallest box around another one whose edges are multiples of `align`, or those of the chunk."""
    return tuple(
        slice(part.start // align * align, min(n, -(-part.stop // align) * align))
        for part, n in zip(box, signal, strict=True)
    )


def _coded_box(mask: NDArray[np.uint8]) -> list[slice]:
    """Where samples are that are coded: the smallest box along z, y, x that holds them."""
    coded = (mask == 0).any(axis=(0, 1))
    box = []
    for axis in range(3):
        where = np.flatnonzero(coded.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(int(where[0]), int(where[-1]) + 1) if where.size else slice(0, coded.shape[axis]))
    return box


def windows_in(box: Box, dimensions: int) -> list[Box]:
    """A few windows spread over a box."""
    side = (LARGE_CROP if math.prod(part.stop - part.start for part in box) > LARGE else CROP)[dimensions]
    count = WINDOWS[dimensions]
    per_axis = []
    for part in box:
        n = part.stop - part.start
        if n <= count * side:
            per_axis.append([part])
        else:
            firsts = [part.start + (2 * i + 1) * n // (2 * count) - side // 2 for i in range(count)]
            per_axis.append([slice(first, first + side) for first in firsts])
    return [(z, y, x) for z in per_axis[0] for y in per_axis[1] for x in per_axis[2]]


@kernel
def _count(rest, holes, per_step, sums):
    """Sums of magnitudes of the residuals of errors (channel, n) where there is no hole."""
    masked = holes.shape[1] > 0
    for c in range(rest.shape[0]):
        row = rest[c]
        total = np.int64(0)
        if masked:
            for i in range(row.shape[0]):
                if holes[c, i] == 0:
                    total += abs(np.int64(np.rint(np.float64(row[i]) * per_step)))
        else:
            for i in range(row.shape[0]):
                total += abs(np.int64(np.rint(np.float64(row[i]) * per_step)))
        sums[c] = total


@dataclass(frozen=True, kw_only=True, eq=False)
class Windows:
    """What of a chunk is looked at, and what is tried with it.

    Parameters
    ----------
    boxes
        Where the windows are, along z, y, x of the first batch item.
    holes : (channel, n) uint8 each
        Not 0 where a sample of a window is not coded, for the channels `some`; None where all are.
    grid
        Tree, wavelet, boundary and levels of the chunk.
    means : (channel,)
        Channel means, in units.
    basis, analysis : (rank, channel)
        Spectral basis, and what samples less their means are multiplied by.
    reach
        Largest magnitude of the samples less their means, in units.
    per_sample : (channel,)
        Units per unit of the samples.
    quanta
        Candidates, ascending.
    ranks
        Candidates, ascending; none where there is no residual layer.
    step
        Units per step of the residual layer; 0 without one.
    """

    boxes: tuple[Box, ...]
    holes: tuple[NDArray[np.uint8], ...] | None
    grid: Grid
    means: NDArray[np.float64]
    basis: NDArray[np.float64]
    analysis: NDArray[np.float64]
    reach: float
    per_sample: NDArray[np.float64]
    quanta: tuple[int, ...]
    ranks: tuple[int, ...]
    step: float

    @cached_property
    def some(self) -> slice:
        """Channels whose residuals are counted."""
        return slice(None, None, -(-self.basis.shape[1] // CHANNELS))

    @property
    def chosen_means(self) -> NDArray[np.float64]:
        """Means of the channels `some`."""
        return self.means[self.some]

    @cached_property
    def pixels(self) -> list[int]:
        """Pixels of each window."""
        return [math.prod(part.stop - part.start for part in box) for box in self.boxes]

    @cached_property
    def coded(self) -> list[NDArray[np.int64]]:
        """Samples of each window that are coded, in each of the channels `some`."""
        channels = len(self.chosen_means)
        if self.holes is None:
            return [np.full(channels, pixels) for pixels in self.pixels]
        return [np.count_nonzero(holes == 0, axis=1) for holes in self.holes]

    @cached_property
    def analysis_shift(self) -> int:
        """Fractional bits of the analysis."""
        return exact_shift(self.analysis, self.reach)

    @cached_property
    def largest(self) -> float:
        """What no latent exceeds, whatever the samples are."""
        rounded = np.rint(np.ldexp(self.analysis, self.analysis_shift))
        return largest_product(rounded, self.analysis_shift, self.reach)

    def shifts(self, largest: float) -> tuple[int, int]:
        """Fractional bits of the taps, and of the synthesis, for latents of this magnitude.

        Raises
        ------
        BudgetError
            If too few are left.
        """
        return filter_shift(largest), exact_shift(self.basis[:, self.some].T, HEADROOM * largest)

    @cached_property
    def usual_shifts(self) -> tuple[int, int] | None:
        """`shifts` for whatever the samples are; None where only a look at them can tell."""
        with suppress(BudgetError):
            return self.shifts(self.largest)
        return None

    @cached_property
    def boxes_of(self) -> list[NDArray[np.int64]]:
        """Subbands of each window."""
        return [boxes_of(self.grid.cropped([part.stop - part.start for part in box])) for box in self.boxes]

    def latent_bits(self, magnitudes: NDArray[np.integer], window: int) -> NDArray[np.float64]:
        """Estimated bits of latents, from sums of their magnitudes (rank, subband) in a window."""
        boxes = self.boxes_of[window]
        sizes = np.prod(boxes[:, 1::2] - boxes[:, ::2], axis=1)
        bits: NDArray[np.float64] = (code_lengths(magnitudes / sizes) * sizes).sum(axis=1)
        return bits

    def residual_bits(self, sums: NDArray[np.int64], window: int) -> NDArray[np.float64]:
        """Estimated bits of the residual layer, from sums of magnitudes (..., channel) in a window."""
        coded = self.coded[window]
        bits: NDArray[np.float64] = (code_lengths(sums / np.maximum(coded, 1)) * coded).sum(axis=-1)
        return bits


class Trials(Protocol):
    """What comes of the candidates in the windows of a chunk."""

    def latents(self, quantum: int, limit: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Estimated bits of each of so many latents, and the squared error that each saves, in steps squared."""

    def residual_bits(self, quantum: int, ranks: Sequence[int]) -> NDArray[np.float64]:
        """Estimated bits of the residual layer at candidate ranks (ascending, none above the last limit)."""


class HostTrials:
    """`Trials` that threads of this process make.

    Parameters
    ----------
    samples : (batch, channel, z, y, x)
        Samples of the chunk.
    windows
        What is looked at.
    parallel
        Runs a function over items on idle threads, results in order.
    """

    def __init__(self, samples: NDArray[np.generic], windows: Windows, parallel: Parallel) -> None:
        self.parallel = parallel
        self.windows = parallel(lambda index: _Window(samples, windows, index), range(len(windows.boxes)))

    def latents(self, quantum: int, limit: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Trials`."""
        bits, saved = zip(*self.parallel(lambda window: window.quantise(quantum, limit), self.windows), strict=True)
        return np.sum(bits, axis=0), np.sum(saved, axis=0)

    def residual_bits(self, quantum: int, ranks: Sequence[int]) -> NDArray[np.float64]:
        """See `Trials`; `quantum` is that of the last call of `latents`."""
        bits: NDArray[np.float64] = np.sum(self.parallel(lambda window: window.residual_bits(ranks), self.windows), 0)
        return bits


class _Window:
    """A window: its coefficients, and its samples in some of the channels."""

    def __init__(self, samples: NDArray[np.generic], windows: Windows, index: int) -> None:
        self.of, self.index = windows, index
        crop = np.ascontiguousarray(samples[0:1, :, *windows.boxes[index]])
        self.grid = windows.grid.cropped(crop.shape[2:])
        latents, found = project(crop, windows.per_sample, windows.means, windows.analysis, windows.reach, in_turn)
        largest = windows.largest if windows.usual_shifts else found
        self.shift, self.basis_shift = windows.usual_shifts or windows.shifts(found)
        self.coefficients = self.grid.forward(latents, self.shift, largest)[0]
        synthesis = np.ascontiguousarray(windows.basis[:, windows.some].T)
        self.basis = np.rint(np.ldexp(synthesis, self.basis_shift))
        flat = crop.reshape(crop.shape[1], -1)[windows.some]
        self.units: NDArray[np.float64] = np.empty(flat.shape)
        to_units(flat, windows.per_sample[windows.some], windows.chosen_means, self.units)
        self.holes = np.empty((1, 0), np.uint8) if windows.holes is None else windows.holes[index]

    def quantise(self, quantum: int, rank: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Quantise `rank` latents; returns the estimated bits of each, and the squared error that each saves."""
        self.quantised = np.empty_like(self.coefficients[:rank])
        boxes = self.of.boxes_of[self.index]
        sums = np.zeros((rank, len(boxes), 3), np.int64)
        q.try_quantum(self.coefficients[:rank], boxes, float(quantum), self.quantised, sums)
        return self.of.latent_bits(sums[:, :, 0], self.index), q.saved_by(sums.sum(axis=1), quantum)

    def residual_bits(self, ranks: Sequence[int]) -> NDArray[np.float64]:
        """Estimated bits of the residual layer after `quantise`."""
        latents = self.grid.inverse(self.quantised[: ranks[-1]], self.shift, in_turn).reshape(ranks[-1], -1)
        rest = np.ldexp(self.units, self.basis_shift)
        sums = np.zeros((len(ranks), len(rest)), np.int64)
        for before, now, own in zip((0, *ranks), ranks, sums, strict=False):
            rest -= self.basis[:, before:now] @ latents[before:now]
            _count(rest, self.holes, 2.0**-self.basis_shift / self.of.step, own)
        return self.of.residual_bits(sums, self.index)


def choose(
    look: Callable[[Windows], Trials],
    shape: Sequence[int],
    scale: Scale,
    grid: Grid,
    means: NDArray[np.float64],
    reach: float,
    variances: NDArray[np.float64],
    basis: NDArray[np.float64],
    mask: NDArray[np.uint8] | None,
    entries: int | None = None,
    basis_step: float = BASIS_STEP,
    fixed: int = 0,
    per_sample: NDArray[np.float64] | None = None,
    analysis: NDArray[np.float64] | None = None,
) -> tuple[int, int]:
    """Quantum and rank for a chunk.

    Parameters
    ----------
    look
        Tries candidates in windows of the chunk.
    shape
        (batch, channel, z, y, x).
    scale, grid
        Units; tree, wavelet, boundary and levels.
    means : (channel,)
        Channel means, in units.
    reach
        Largest magnitude of the samples less their means, in units.
    variances : (channel,)
        Variances along the basis, descending.
    basis : (channel, channel)
        Spectral basis, a vector a row.
    mask : (batch, channel, z, y, x)
        Not 0 where a sample is not coded; None where all are.
    entries
        Numbers that a basis vector costs; None: one for each channel. 0 where other chunks share them.
    basis_step
        That of `precisions_of`.
    fixed
        The only quantum that is tried, if it is not 0.
    per_sample : (channel,)
        Units per unit of the samples in each channel, where they differ.
    analysis : (channel, channel)
        What samples less their means are multiplied by, where the basis is not orthonormal.

    Returns
    -------
    quantum, rank : int, int
        Units per step of the latents; number of basis vectors.

    Raises
    ------
    BudgetError
        If the range of the chunk over its step is too large for exact arithmetic.
    """
    batch, channels, *signal = shape
    entries = channels if entries is None else entries
    pixels = batch * math.prod(signal)
    only = fixed or scale.quantum
    quanta = (only,) if only else tuple(max(1, round(r * scale.step / 2)) for r in RATIOS)
    usual = quanta[min(FIRST, len(quanta) - 1)]
    # Wavelets concentrate energy: latents of deviations far below the quantum may pay, if seldom beyond the first few.
    likely, possible = (int(np.count_nonzero(variances * n > (0.5 * usual) ** 2)) for n in CONCENTRATION)
    limit = len(basis) if fixed else max(1, min(pixels, len(basis), max(likely, min(possible, FEW))))
    candidates = np.array([rank for rank in RANKS if rank < limit] + [limit])
    box = aligned([slice(0, n) for n in signal] if mask is None else _coded_box(mask), signal, 1 << grid.levels)
    boxes = tuple(windows_in(box, grid.dimensions))
    some = slice(None, None, -(-channels // CHANNELS))
    windows = Windows(
        boxes=boxes,
        holes=None if mask is None else tuple(_holes(mask[0, some][:, z, y, x]) for z, y, x in boxes),
        grid=grid, means=means, basis=basis[:limit], analysis=(basis if analysis is None else analysis)[:limit],
        reach=reach, per_sample=np.full(channels, scale.per_sample) if per_sample is None else per_sample,
        quanta=quanta, ranks=tuple(candidates.tolist()) if scale.step else (), step=scale.step,
    )  # fmt: skip
    trials = look(windows)
    seen = batch * math.prod(part.stop - part.start for part in box) / sum(windows.pixels)
    coded = math.prod(shape) if mask is None else int(np.count_nonzero(mask == 0))
    residuals_seen = coded / max(1, sum(int(own.sum()) for own in windows.coded))

    def attempt(quantum: int, limit: int, least: int = 1) -> tuple[float, int]:
        """Estimated bits, and rank from `least` on, with a quantum."""
        bits, saved = (seen * sums for sums in trials.latents(quantum, limit))
        if entries:
            bits += side_bits(precisions_of(variances[:limit], quantum, entries, basis_step), entries)
        if not scale.step:
            return 0.0, q.worthwhile(saved, bits)
        most = int(candidates[np.searchsorted(candidates, q.worthwhile(GENEROUS * saved, bits))])
        ranks = [rank for rank in candidates.tolist() if max(min(least, most), most / 8) <= rank <= most]
        costs = np.cumsum(bits)[np.array(ranks) - 1] + residuals_seen * trials.residual_bits(quantum, ranks)
        enough = int(np.flatnonzero(costs <= SLACK * costs.min())[0])
        return float(costs[enough]), ranks[enough]

    if len(quanta) == 1:
        return quanta[0], attempt(quanta[0], limit)[1]
    found: dict[int, tuple[float, int]] = {}

    def cost(i: int) -> float:
        if not 0 <= i < len(quanta):
            return math.inf
        if i not in found:
            # What pays at one quantum hardly differs from what pays at its neighbour.
            ranks = [rank for _, rank in found.values()]
            most = max((1 + rank * 3 // 2 for rank in ranks), default=limit)
            most = int(candidates[np.searchsorted(candidates, min(limit, most))])
            found[i] = attempt(quanta[i], most, min((rank // 3 for rank in ranks), default=1))
        return found[i][0]

    best = FIRST
    direction = 1 if cost(best + 1) < cost(best) else -1
    while cost(best + direction) < cost(best):
        best += direction
    return quanta[best], found[best][1]


def _holes(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Contiguous, with one signal axis."""
    return np.ascontiguousarray(mask.reshape(len(mask), -1))
