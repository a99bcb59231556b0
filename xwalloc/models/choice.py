"""The quantum and the rank of a linear model, found by trying some on a few windows of the chunk.

Few and coarse latents leave more to the residual layer, and many fine ones leave less: what counts is the sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from xwalloc.models import quantise as q
from xwalloc.models.analysis import Scale
from xwalloc.models.spec import Grid
from xwalloc.models.trials import Box, Trials, Windows, counted_channels

__all__ = ["aligned", "choose", "precisions_of", "side_bits", "windows_in"]

WINDOWS = {1: 8, 2: 2, 3: 2}
"""Windows along every longer axis, by number of signal axes."""

CROP = {1: 2048, 2: 48, 3: 16}
"""Side of the windows."""

LARGE = 1 << 15
LARGE_CROP = {1: 1024, 2: 32, 3: 12}
"""Of chunks with more pixels, a smaller share is looked at."""

RATIOS = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)
"""Candidate quanta, in multiples of the bound."""

FIRST = 3
"""The candidate that is tried first."""

RANKS = tuple(sorted({round(2 ** (i / 4)) for i in range(41)}))
"""Candidate ranks."""

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
    some = counted_channels(channels)
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
        trial = trials.quantise(quantum, limit)
        bits, saved = seen * trial.bits, seen * trial.saved
        if entries:
            bits += side_bits(precisions_of(variances[:limit], quantum, entries, basis_step), entries)
        if not scale.step:
            return 0.0, q.worthwhile(saved, bits)
        most = int(candidates[np.searchsorted(candidates, q.worthwhile(GENEROUS * saved, bits))])
        ranks = [rank for rank in candidates.tolist() if max(min(least, most), most / 8) <= rank <= most]
        costs = np.cumsum(bits)[np.array(ranks) - 1] + residuals_seen * trial.residual_bits(ranks)
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
