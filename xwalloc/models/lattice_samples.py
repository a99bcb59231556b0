# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""The samples of a chunk that predictors are fitted to: which they are, and their neighbourhoods as regressors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from xwalloc.jit import allocating_kernel, kernel
from xwalloc.models.lattice_grid import CLASSES, Offset, Tap
from xwalloc.types import cached_property

__all__ = [
    "FEWEST_SAMPLES",
    "NEAREST_BELOW",
    "Geometry",
    "Samples",
    "Sampling",
    "centres_of",
    "columns_of",
    "noisy",
    "rows_of",
    "with_target",
]

Integers = NDArray[np.signedinteger]

RUN = 128
FAR = 16.0
"""Rows with a value beyond so many times the 98th percentile take no part."""
USUAL = 256
"""About so many rows tell what is usual."""
NOISE = {1: 0.6, 2: 0.75, 3: 0.75}
NOISE_OF_MANY = 0.85
"""Width of the noise that predictors are fitted under, in bins; more with many channels."""
NEAREST_BELOW = 16
"""Up to so many channels, references are chosen; beyond, they are the channels just before."""
FEWEST_SAMPLES = 96


@dataclass(frozen=True)
class Geometry:
    """Shape of a chunk, its signal axes of extent 1 moved to the front.

    Parameters
    ----------
    shape
        (batch, channel, z, y, x).
    """

    shape: tuple[int, int, int, int, int]

    @classmethod
    def of(cls, shape: Sequence[int]) -> Geometry:
        """Geometry of an array (batch, channel, z, y, x)."""
        batch, channels, *signal = (int(n) for n in shape)
        long = [n for n in signal if n > 1]
        z, y, x = [1] * (3 - len(long)) + long
        return cls((batch, channels, z, y, x))

    @property
    def dimensions(self) -> int:
        """How many signal axes have an extent; at least 1."""
        return 3 if self.shape[2] > 1 else 2 if self.shape[3] > 1 else 1

    @property
    def plane(self) -> int:
        """Samples of a channel of a batch item."""
        return self.shape[2] * self.shape[3] * self.shape[4]

    def flat(self, offset: Offset) -> int:
        """Distance in the flat array of a position at an offset."""
        return (offset[0] * self.shape[3] + offset[1]) * self.shape[4] + offset[2]


@dataclass(frozen=True)
class Samples:
    """What predictors are fitted to.

    Parameters
    ----------
    values : flat int32 or int64
        The chunk, with sensible values under the mask.
    mask : flat uint8, or empty
        Not 0 where a sample is not coded.
    geometry
        Shape of the chunk.
    bins : (channel,) float64
        Width of the bins that residuals are rounded to.
    """

    values: Integers
    mask: NDArray[np.uint8]
    geometry: Geometry
    bins: NDArray[np.float64]

    def noise(self, channel: int, sampling: Sampling) -> int:
        """Width of the noise that the samples bear which predictions of a sampling are made of.

        Decoded samples are that far off; a predictor that trusted them would hand on their errors from level to level.
        """
        share = 1.0
        if not sampling.sequential:
            many = self.geometry.shape[1] > NEAREST_BELOW
            share = NOISE_OF_MANY if many else NOISE[self.geometry.dimensions]
        return int(share * self.bins[channel]) | 1


@dataclass(frozen=True)
class Sampling:
    """Some samples of one class of a level: runs along x, away from the borders.

    Parameters
    ----------
    firsts : (run,) int64
        Positions of the first sample of each run in the first channel; none where the level is too small.
    length
        Samples of a run.
    level, rank
        The level, and the class by its place in `CLASSES`; None for all samples.
    margin
        Offsets reach at most so far along each axis, in units of the level.
    """

    firsts: NDArray[np.int64]
    length: int
    level: int
    rank: int | None
    margin: Offset

    @classmethod
    def of(cls, geometry: Geometry, level: int, rank: int | None, count: int) -> Sampling:
        """About `count` samples."""
        batch, channels = geometry.shape[:2]
        d = geometry.dimensions
        odd = np.array(CLASSES[d][rank] if rank is not None else (0, 0, 0))
        stride = 2 if rank is not None else 1
        extent = -(-np.array(geometry.shape[2:]) // (1 << level))
        reach = (15 if rank is not None else 32) if d == 1 else 3
        margin = np.where(extent > 1, np.minimum(reach, np.maximum((extent - 4) // 4, 0)), 0)
        low = margin + ((margin + odd) % stride)
        inner = np.where(extent > 1, np.maximum(extent - margin - low + stride - 1, 0) // stride, 1)
        none = cls(np.empty(0, np.int64), 0, level, rank, (0, 0, 0))
        used = extent[3 - d :]
        if used.min() < 6 or margin[3 - d :].min() < 1 or inner.prod() * batch < FEWEST_SAMPLES or inner[2] < 4:
            return none
        length = int(min(RUN, inner[2]))
        per_line = int(inner[2]) // length
        total = batch * int(inner[0] * inner[1]) * per_line
        number = max(1, min(total, count // length))
        at = (2 * np.arange(number, dtype=np.int64) + 1) * total // (2 * number)
        line, part = np.divmod(at, per_line)
        line, y = np.divmod(line, inner[1])
        b, z = np.divmod(line, inner[0])
        spare = int(inner[2]) - per_line * length
        x = part * length + (np.arange(number) * 40503) % (spare + 1)
        z, y, x = ((low[a] + stride * i) << level for a, i in enumerate((z, y, x)))
        nz, ny, nx = geometry.shape[2:]
        z0, y0, x0 = int(margin[0]), int(margin[1]), int(margin[2])
        return cls(((b * channels * nz + z) * ny + y) * nx + x, length, level, rank, (z0, y0, x0))

    @property
    def sequential(self) -> bool:
        """Whether samples are visited one after the other."""
        return self.rank is None

    @property
    def step(self) -> int:
        """Distance of the samples of a run."""
        return (1 if self.rank is None else 2) << self.level

    def some(self, count: int) -> Sampling:
        """About `count` of the samples."""
        return replace(self, firsts=self.firsts[:: max(1, len(self.firsts) * self.length // count)])

    @cached_property
    def _places(self) -> NDArray[np.int64]:
        return (self.firsts[:, None] + np.arange(0, self.length, max(1, self.length // 4)) * self.step)[
            :: max(1, len(self.firsts) // 16)
        ].reshape(-1)


@kernel
def noisy(values, i, width):
    """A sample with noise of a width: the same for a place at all times."""
    if width == 1:
        return np.float64(values[i])
    mixed = np.uint64(i) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    spread = ((mixed >> np.uint64(32)) * np.uint64(width)) >> np.uint64(32)
    return np.float64(values[i]) + np.float64(spread) - np.float64(width // 2)


@allocating_kernel
def _gather(values, mask, firsts, length, step, columns, target, centres, scale, rows, valid):
    n = 0
    last = columns.shape[0]
    for first in firsts:
        for j in range(length):
            i = first + j * step
            for k in range(last):
                value = noisy(values, i + columns[k, 0], columns[k, 3])
                if columns[k, 2]:
                    value += noisy(values, i + columns[k, 1], columns[k, 3])
                rows[n, k] = (value - centres[k]) * scale
            rows[n, last] = 1.0
            rows[n, last + 1] = (np.float64(values[i + target]) - centres[last]) * scale
            valid[n] = 0.0 if mask.shape[0] > 0 and mask[i + target] else 1.0
            n += 1
    # Rows that an outlier touches would decide alone.
    largest = np.empty(n)
    for r in range(n):
        top = 0.0
        for k in range(last):
            top = max(top, abs(rows[r, k]))
        largest[r] = max(top, abs(rows[r, last + 1]))
    some = np.sort(largest[:: max(1, n // USUAL)])
    limit = FAR * some[len(some) - 1 - len(some) // 50] + 1.0
    for r in range(n):
        if largest[r] > limit:
            valid[r] = 0.0


@cache
def _flat_taps(geometry: Geometry, level: int, taps: tuple[Tap, ...]) -> NDArray[np.int64]:
    """Distances of the samples of taps: of the first, of the second, and whether there is one."""
    rows = [[geometry.flat(o) << level for o in (tap[0], tap[-1])] + [len(tap) - 1] for tap in taps]
    return np.array(rows, np.int64).reshape(-1, 3)


def columns_of(samples: Samples, sampling: Sampling, taps: Sequence[tuple[int, tuple[Tap, ...]]]) -> NDArray[np.int64]:
    """Distances of the samples of taps in channels, likewise; and the width of the noise that they bear."""
    parts = [_flat_taps(samples.geometry, sampling.level, some) for _, some in taps]
    columns = np.empty((sum(map(len, parts)), 4), np.int64)
    begin = 0
    for part, (channel, _) in zip(parts, taps, strict=True):
        columns[begin : begin + len(part), :3] = part
        columns[begin : begin + len(part), :2] += channel * samples.geometry.plane
        columns[begin : begin + len(part), 3] = samples.noise(channel, sampling)
        begin += len(part)
    return columns


def centres_of(samples: Samples, sampling: Sampling, columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Medians of what taps sum up to."""
    some = sampling._places[:, None]
    sums = samples.values[some + columns[:, 0]].astype(np.float64)
    sums += samples.values[some + columns[:, 1]] * columns[:, 2]
    medians: NDArray[np.float64] = np.sort(sums, axis=0)[len(some) // 2]
    return medians


def rows_of(
    samples: Samples, sampling: Sampling, channel: int, columns: NDArray[np.int64], centres: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Regressors, 1, and the target, in bins; and which rows count."""
    rows = np.empty((len(sampling.firsts) * sampling.length, len(columns) + 2))
    valid = np.empty(len(rows))
    target = channel * samples.geometry.plane
    _gather(
        samples.values, samples.mask, sampling.firsts, sampling.length, sampling.step, columns, target, centres,
        1.0 / samples.bins[channel], rows, valid,
    )  # fmt: skip
    return rows, valid


def with_target(samples: Samples, channel: int, columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """The distances with one more column, for the samples themselves."""
    here = channel * samples.geometry.plane
    return np.concatenate([columns, [[here, here, 0, 1]]])
