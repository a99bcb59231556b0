# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Weights of features that fit a chunk better than the shipped ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream.contexts import ONE, lattice_weights
from xwalloc.jit import allocating_kernel
from xwalloc.models.lattice_grid import CLASSES
from xwalloc.models.lattice_rows import FEATURES
from xwalloc.models.lattice_work import Sample

__all__ = ["PER_GROUP", "WEIGHTS", "Weights", "better", "no_sample", "sample_of", "weights_of"]

Weights = tuple[NDArray[np.int64], NDArray[np.int64]]
"""By group, and for sequential channels."""

WEIGHTS = np.array([0] + [int(np.rint(2.0 ** (i / 4))) for i in range(52)], np.int64)
"""The weight, in 1/256, that each code stands for: quarter octaves."""

PER_GROUP = 3000
FEWEST = 400
BITS = 60.0
"""What weights of a group have to save."""

LEAST = 0.02
PASSES = 12


def weights_of(d: int, codes: NDArray[np.int64]) -> Weights:
    """Weights by group: those of codes, and the shipped ones where these are -1."""
    interpolated, sequential = lattice_weights(d)
    repeated = np.tile(interpolated, (len(codes) // len(CLASSES[d]), 1, 1))
    return np.where(codes < 0, repeated, WEIGHTS[codes]), sequential


def no_sample(count: int) -> Sample:
    """Nothing is sampled of so many groups."""
    return sample_of(np.zeros(count), 0)


def sample_of(share: NDArray[np.float64], most: int = PER_GROUP) -> Sample:
    """Room for a sample of a share of the symbols of each group."""
    shape = (len(share), 2)
    return Sample(share, np.zeros(shape), np.zeros(shape, np.int64), np.empty((*shape, most, len(FEATURES) + 1)))


def better(table: NDArray[np.float64], usual: NDArray[np.int64], number: float) -> NDArray[np.int64] | None:
    """Codes of weights for `number` symbols that a sample stands for; None where the usual ones are as good."""
    if len(table) < FEWEST:
        return None
    weights = usual / ONE
    _, before = _improve(table, weights.copy(), 0)
    fitted = np.maximum(weights, LEAST)
    _improve(table, fitted, PASSES)
    codes = _codes(fitted)
    _, after = _improve(table, WEIGHTS[codes] / ONE, 0)
    return codes if (before - after) * number / len(table) > BITS else None


def _codes(weights: NDArray[np.float64]) -> NDArray[np.int64]:
    scaled = weights * ONE
    codes = 1 + np.rint(4 * np.log2(np.maximum(scaled, 1.0))).astype(np.int64)
    return np.where(scaled < 0.7, 0, np.clip(codes, 1, len(WEIGHTS) - 1))


@allocating_kernel
def _improve(table, weights, passes):
    """Improve non-negative weights of features for the code length of geometric magnitudes; returns bits before, after.

    The last column of the table is the magnitude. Each pass multiplies a weight by the ratio of what pulls
    it up to what pulls it down, which keeps it positive.
    """
    n, width = table.shape[0], table.shape[1] - 1
    up, down = np.empty(width), np.empty(width)
    before = after = 0.0
    for step in range(passes + 1):
        up[:] = 0.0
        down[:] = 0.0
        bits = 0.0
        for r in range(n):
            mean = 1e-3
            for f in range(width):
                mean += weights[f] * table[r, f]
            size = table[r, width]
            pull, push = size / (mean * (1.0 + mean)), 1.0 / (1.0 + mean)
            bits += np.log2(1.0 + mean) + size * np.log2((1.0 + mean) / mean)
            for f in range(width):
                up[f] += table[r, f] * pull
                down[f] += table[r, f] * push
        if step == 0:
            before = bits
        after = bits
        if step < passes:
            for f in range(width):
                if down[f] > 0.0:
                    weights[f] *= up[f] / down[f]
    return before, after
