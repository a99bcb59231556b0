# mypy: disable-error-code="no-untyped-def, no-untyped-call, operator"
"""Uniform quantisation of latents: thresholds by rate, reconstruction points by what fell into the cells.

Latents are integers in units, `quantum` units to a step. The threshold between two neighbouring symbols is not the
middle but where the squared error that the larger symbol saves is worth its bits: with a cost of `bits` for one more in
magnitude and the slope of a uniform quantiser at high rate (d distortion / d bit = -2 ln 2 step^2 / 12), that is
1/2 + (ln 2 / 12) bits. Integers from end to end, so that encoding is the same on every machine.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from xwalloc.jit import kernel

__all__ = [
    "POINTS",
    "SLOPE",
    "TYPICAL_THRESHOLD",
    "code_length",
    "code_lengths",
    "dequantise",
    "quantise_planes",
    "reconstruction_points",
    "rises",
    "saved_by",
    "try_quantum",
    "worthwhile",
]

POINTS = 3
"""Reconstruction points of their own: magnitudes 1, 2, and 3 or more."""

SLOPE = math.log(2) / 12
TYPICAL_THRESHOLD = 0.62
LARGEST = 2147483647.0
SQUARED = 1 << 15
"""Magnitudes count for no more than this where squared errors are added up."""


@kernel
def code_length(mean):
    """Bits per symbol of a two-sided geometric distribution with this mean magnitude."""
    mean = max(mean, 1e-6)
    t = (math.sqrt(1 + mean * mean) - 1) / mean
    return math.log2((1 + t) / (1 - t)) - mean * math.log2(t)


@kernel
def code_lengths(means, out):
    """`code_length` of every mean."""
    for i in range(means.shape[0]):
        out[i] = code_length(means[i])


@kernel
def threshold(mean):
    """Threshold within a cell, in steps, for a plane of a mean magnitude (in symbols).

    For a two-sided geometric distribution of mean magnitude m, one more in magnitude costs -log2(t) bits with
    t = (sqrt(1 + m^2) - 1) / m.
    """
    mean = max(mean, 1e-3)
    return 0.5 + SLOPE * min(-math.log2((math.sqrt(1 + mean * mean) - 1) / mean), 9.0)


@kernel
def magnitude_sum(latents, box, quantum):
    """Sum of magnitudes of the symbols of one plane, at a typical threshold."""
    z0, z1, y0, y1, x0, x1 = box
    scale = 1.0 / quantum
    rise = 1.0 - TYPICAL_THRESHOLD
    total = np.int64(0)
    for z in range(z0, z1):
        for y in range(y0, y1):
            row = latents[z, y]
            for x in range(x0, x1):
                total += np.int64(np.int32(min(abs(row[x]) * scale + rise, LARGEST)))
    return float(total)


@kernel
def rises(sums, sizes, out):
    """What `quantise_planes` adds to magnitudes in steps, before it cuts them, for sums that were taken elsewhere.

    Parameters
    ----------
    sums : (batch, latent, subband) int64
        Sums of magnitudes at a typical threshold.
    sizes : (subband,) int64
        Coefficients of a subband in all batch items.
    out : (latent, subband) float64
        Gets 1 less the threshold; minus infinity where all symbols are 0.
    """
    for k in range(sums.shape[1]):
        for s in range(sums.shape[2]):
            guess = 0.0
            for b in range(sums.shape[0]):
                guess += float(sums[b, k, s])
            out[k, s] = -np.inf if guess == 0.0 else 1.0 - threshold(guess / sizes[s])


@kernel
def try_quantum(latents, boxes, quantum, quantised, sums):
    """Quantise every plane of every latent at a typical threshold, without reconstruction points.

    Parameters
    ----------
    latents, quantised : (latent, z, y, x) float64
        Coefficients, in units; gets what they are quantised to.
    boxes : (subband, 6) int64
        Start and stop of each subband along z, y, x.
    quantum : float
        Units per step.
    sums : (latent, subband, 3) int64
        Gets the sums of magnitudes; of their squares; and of magnitudes times what |latent| has beyond magnitude times
        quantum: see `saved_by`.
    """
    scale = 1.0 / quantum
    rise = 1.0 - TYPICAL_THRESHOLD
    for k in range(latents.shape[0]):
        for s in range(boxes.shape[0]):
            z0, z1, y0, y1, x0, x1 = boxes[s]
            total = squares = cross = np.int64(0)
            for z in range(z0, z1):
                for y in range(y0, y1):
                    row, out = latents[k, z, y, x0:x1], quantised[k, z, y, x0:x1]
                    for x in range(row.shape[0]):
                        value = abs(row[x])
                        size = min(np.floor(value * scale + rise), LARGEST)
                        near = size * quantum
                        out[x] = near if row[x] > 0 else -near
                        magnitude = np.int64(np.int32(size))
                        counted = min(magnitude, SQUARED)
                        total += magnitude
                        squares += counted * counted
                        cross += counted * np.int64(np.int32(min(max(value - near, -LARGEST), LARGEST)))
            sums[k, s, 0], sums[k, s, 1], sums[k, s, 2] = total, squares, cross


def saved_by(sums: NDArray[np.int64], quantum: int) -> NDArray[np.float64]:
    """Squared errors that latents save, in steps squared, from what `try_quantum` adds up (..., 3)."""
    # (m q + r)^2 - r^2 = q^2 m^2 + 2 q m r
    saved: NDArray[np.float64] = sums[..., 1] + 2.0 * sums[..., 2] / quantum
    return saved


def worthwhile(saved: NDArray[np.float64], bits: NDArray[np.float64]) -> int:
    """Rank up to which latents pay for themselves best: by squared errors saved, in steps squared, and bits."""
    return int(np.argmax(np.cumsum(saved - 2 * SLOPE * bits))) + 1


@kernel
def quantise_planes(latents, k, boxes, quantum, symbols, sums):
    """Symbols of all planes of latent `k`, and what their cells hold.

    Parameters
    ----------
    latents, symbols : (batch, latent, z, y, x) float64 of integers, int32
        Input and output.
    boxes : (subband, 6) int64
        Start and stop of each subband along z, y, x.
    quantum : float
        Units per step.
    sums : (subband, 8) int64
        Has added to it: counts of magnitudes 1, 2, >= 3; for each of them the sum of what |latent| has beyond
        magnitude times quantum; the sum of magnitudes; squared errors saved, in steps squared times 256.
    """
    scale = 1.0 / quantum
    for s in range(boxes.shape[0]):
        z0, z1, y0, y1, x0, x1 = boxes[s]
        size = latents.shape[0] * (z1 - z0) * (y1 - y0) * (x1 - x0)
        guess = 0.0
        for b in range(latents.shape[0]):
            guess += magnitude_sum(latents[b, k], boxes[s], quantum)
        if guess == 0.0:
            symbols[:, k, z0:z1, y0:y1, x0:x1] = 0
            continue
        rise = 1.0 - threshold(guess / size)
        found = sums[s]
        for b in range(latents.shape[0]):
            for z in range(z0, z1):
                for y in range(y0, y1):
                    row, out = latents[b, k, z, y, x0:x1], symbols[b, k, z, y, x0:x1]
                    _quantise_row(row, scale, rise, out)
                    _add_cells(row, out, quantum, found)


@kernel
def _quantise_row(row, scale, rise, out):
    for x in range(row.shape[0]):
        size = np.int32(min(max(np.floor(abs(row[x]) * scale + rise), 0.0), LARGEST))
        out[x] = size if row[x] > 0 else -size


@kernel
def _add_cells(row, symbols, quantum, found):
    """Add what the cells of a row hold to `found`, see `quantise_planes`. All sums are of integers: they vectorise."""
    ones = twos = more = rest_one = rest_two = rest_more = total = squares = cross = np.int64(0)
    for x in range(row.shape[0]):
        size = abs(np.int64(symbols[x]))
        beyond = abs(row[x]) - np.float64(size) * quantum
        rest = np.int64(np.int32(min(max(beyond, -LARGEST), LARGEST)))
        one, two, large = size == 1, size == 2, size > 2
        ones += one
        twos += two
        more += large
        rest_one += rest if one else 0
        rest_two += rest if two else 0
        rest_more += rest if large else 0
        total += size
        counted = min(size, SQUARED)
        squares += counted * counted
        cross += counted * rest
    found[0] += ones
    found[1] += twos
    found[2] += more
    found[3] += rest_one
    found[4] += rest_two
    found[5] += rest_more
    found[6] += total
    # (m q + r)^2 - r^2 = q^2 m^2 + 2 q m r
    found[7] += np.int64(256.0 * (np.float64(squares) + 2.0 * np.float64(cross) / quantum))


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
