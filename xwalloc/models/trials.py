# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Quanta and ranks tried on a few windows of a chunk: errors are not modelled but made.

A window is quantised and synthesised, and its residuals are counted. Bits are estimated from mean magnitudes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xwalloc.errors import BudgetError
from xwalloc.jit import kernel
from xwalloc.models import quantise as q
from xwalloc.models.analysis import exact_shift, filter_shift, largest_product, project, to_units
from xwalloc.models.spec import Grid
from xwalloc.types import Parallel, cached_property, in_turn

__all__ = [
    "Box", "HostTrials", "Trial", "Trials", "Windows", "boxes_of", "code_lengths", "counted_channels", "sum_of",
]  # fmt: skip

Floats = NDArray[np.float64]

Box = tuple[slice, ...]
"""A part of a signal, along z, y, x."""

CHANNELS = 64
"""About so many channels have their residuals counted."""

HEADROOM = 4.0
"""By how much quantised latents may exceed the largest before the wavelet."""


def boxes_of(grid: Grid) -> NDArray[np.int64]:
    """Start and stop of each subband along z, y, x: (subband, 6)."""
    return np.array([[edge for part in s.slices for edge in (part.start, part.stop)] for s in grid.subbands], np.int64)


def code_lengths(means: Floats) -> Floats:
    """`quantise.code_length` of every mean magnitude."""
    out = np.empty(means.shape)
    q.code_lengths(np.ascontiguousarray(means).reshape(-1), out.reshape(-1))
    return out


def counted_channels(channels: int) -> slice:
    """Those of so many channels whose residuals are counted."""
    return slice(None, None, -(-channels // CHANNELS))


def sum_of(arrays: Sequence[Floats]) -> Floats:
    """Sum over windows."""
    total: Floats = np.sum(arrays, axis=0)
    return total


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
    means: Floats
    basis: Floats
    analysis: Floats
    reach: float
    per_sample: Floats
    quanta: tuple[int, ...]
    ranks: tuple[int, ...]
    step: float

    @cached_property
    def some(self) -> slice:
        """Channels whose residuals are counted."""
        return counted_channels(self.basis.shape[1])

    @property
    def chosen_means(self) -> Floats:
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

    def latent_bits(self, magnitudes: NDArray[np.integer], window: int) -> Floats:
        """Estimated bits of latents, from sums of their magnitudes (rank, subband) in a window."""
        boxes = self.boxes_of[window]
        sizes = np.prod(boxes[:, 1::2] - boxes[:, ::2], axis=1)
        bits: Floats = (code_lengths(magnitudes / sizes) * sizes).sum(axis=1)
        return bits

    def residual_bits(self, sums: NDArray[np.int64], window: int) -> Floats:
        """Estimated bits of the residual layer, from sums of magnitudes (..., channel) in a window."""
        coded = self.coded[window]
        bits: Floats = (code_lengths(sums / np.maximum(coded, 1)) * coded).sum(axis=-1)
        return bits


@dataclass(frozen=True, eq=False)
class Trial:
    """What comes of a quantum in the windows of a chunk.

    Parameters
    ----------
    bits : (latent,)
        Estimated bits of each latent.
    saved : (latent,)
        The squared error that each saves, in steps squared.
    residual_bits
        Estimated bits of the residual layer at candidate ranks, ascending, that do not exceed the number of latents.
    """

    bits: Floats
    saved: Floats
    residual_bits: Callable[[Sequence[int]], Floats]


class Trials(Protocol):
    """Tries the candidates in the windows of a chunk."""

    def quantise(self, quantum: int, limit: int) -> Trial:
        """Quantise the first latents, so many as `limit` says, with a candidate quantum."""


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

    def quantise(self, quantum: int, limit: int) -> Trial:
        """See `Trials`."""
        found = self.parallel(lambda window: window.quantise(quantum, limit), self.windows)

        def residual_bits(ranks: Sequence[int]) -> Floats:
            return sum_of(self.parallel(lambda own: own.residual_bits(ranks), found))

        return Trial(sum_of([own.bits for own in found]), sum_of([own.saved for own in found]), residual_bits)


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
        self.units: Floats = np.empty(flat.shape)
        to_units(flat, windows.per_sample[windows.some], windows.chosen_means, self.units)
        self.holes = np.empty((1, 0), np.uint8) if windows.holes is None else windows.holes[index]

    def quantise(self, quantum: int, limit: int) -> Trial:
        """See `Trials`."""
        quantised = np.empty_like(self.coefficients[:limit])
        boxes = self.of.boxes_of[self.index]
        sums = np.zeros((limit, len(boxes), 3), np.int64)
        q.try_quantum(self.coefficients[:limit], boxes, float(quantum), quantised, sums)
        bits, saved = self.of.latent_bits(sums[:, :, 0], self.index), q.saved_by(sums.sum(axis=1), quantum)
        return Trial(bits, saved, partial(self.residual_bits, quantised))

    def residual_bits(self, quantised: Floats, ranks: Sequence[int]) -> Floats:
        """Estimated bits of the residual layer at candidate ranks, where latents are quantised to these."""
        latents = self.grid.inverse(quantised[: ranks[-1]], self.shift, in_turn).reshape(ranks[-1], -1)
        rest = np.ldexp(self.units, self.basis_shift)
        sums = np.zeros((len(ranks), len(rest)), np.int64)
        for before, now, own in zip((0, *ranks), ranks, sums, strict=False):
            rest -= self.basis[:, before:now] @ latents[before:now]
            _count(rest, self.holes, 2.0**-self.basis_shift / self.of.step, own)
        return self.of.residual_bits(sums, self.index)
