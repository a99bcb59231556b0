"""Uniform quantisation of latents: thresholds by rate, reconstruction points by what fell into the cells.

Latents are integers in units, `quantum` units to a step. The threshold between two neighbouring symbols is not the middle
but where the squared error that the larger symbol saves is worth its bits: with a cost of `bits` for one more in
magnitude and the slope of a uniform quantiser at high rate (d distortion / d bit = -2 ln 2 step^2 / 12), that is
1/2 + (ln 2 / 12) bits. Integers from end to end, so that encoding is the same on every machine.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xwalloc.jit import kernel

__all__ = ["POINTS", "dequantise", "quantise", "reconstruction_points", "thresholds"]

POINTS = 3
"""Reconstruction points of their own: magnitudes 1, 2, and 3 or more."""

SLOPE = np.log(2) / 12


def thresholds(mean: NDArray[np.float64], quantum: int) -> NDArray[np.int64]:
    """Threshold within a cell, in units, for planes of a mean magnitude (in symbols).

    For a two-sided geometric distribution of mean magnitude m, one more in magnitude costs -log2(t) bits with
    t = (sqrt(1 + m^2) - 1) / m.
    """
    mean = np.maximum(mean, 1e-3)
    bits = -np.log2((np.sqrt(1 + mean * mean) - 1) / mean)
    return np.rint((0.5 + SLOPE * np.minimum(bits, 9.0)) * quantum).astype(np.int64)


@kernel
def quantise(latents, threshold, quantum, symbols, sums):
    """Symbols of one plane (rows of a (z, y, x) view) and what its cells hold.

    Parameters
    ----------
    latents, symbols : (z, y, x) float64 of integers, int32
        Input and output.
    threshold, quantum : int
        Units above which the next symbol is taken, and units per step.
    sums : (8,) int64
        Gets, added up: counts of magnitudes 1, 2, >= 3; sums of the rest of |latent| above the cell's foot for each of
        them; the sum of magnitudes; squared latents saved, in steps squared times 256.
    """
    scale = 1.0 / quantum
    rise = 1.0 - threshold * scale
    largest = 2147483647.0
    total = 0
    saved = 0.0
    for z in range(latents.shape[0]):
        for y in range(latents.shape[1]):
            for x in range(latents.shape[2]):
                value = latents[z, y, x]
                size = min(np.floor(abs(value) * scale + rise), largest)
                if size > 0:
                    symbols[z, y, x] = np.int32(size if value > 0 else -size)
                    point = min(int(size), 3) - 1
                    rest = abs(value) - size * quantum
                    sums[point] += 1
                    sums[3 + point] += np.int64(rest)
                    total += int(size)
                    saved += (abs(value) * abs(value) - rest * rest) * scale * scale
                else:
                    symbols[z, y, x] = 0
    sums[6] += total
    sums[7] += np.int64(min(saved * 256.0, 4e18))


def reconstruction_points(sums: NDArray[np.int64], quantum: int) -> NDArray[np.int64]:
    """Mean place within the cell, in units, of each class of magnitudes; within half a step of the cell's foot."""
    counts, rests = sums[:3], sums[3:6]
    points = np.rint(rests / np.maximum(counts, 1)).astype(np.int64)
    return np.clip(points, -(quantum // 2), quantum // 2)


@kernel
def dequantise(symbols, quantum, points, latents):
    """Latents (float64 of integers, in units) of flat symbols."""
    for i in range(symbols.shape[0]):
        symbol = symbols[i]
        if symbol == 0:
            latents[i] = 0.0
        elif symbol > 0:
            latents[i] = np.float64(symbol) * quantum + points[min(symbol, 3) - 1]
        else:
            latents[i] = np.float64(symbol) * quantum - points[min(-np.int64(symbol), 3) - 1]
