# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""The encoder's half of the linear model that precedes the wavelet: samples -> units -> latents.

Products of integers in float64 whose partial sums stay below 2^53: the same whatever the BLAS and its threads. Single
precision would be faster, but not that.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xwalloc.errors import BudgetError
from xwalloc.jit import kernel
from xwalloc.types import Parallel

__all__ = [
    "ORDINARY", "Scale", "bits_of", "exact_shift", "filter_shift", "largest_product", "project", "tiles", "to_units",
]  # fmt: skip

TILE_SAMPLES = 1 << 17
"""Samples of a tile: its floats fit into a second-level cache."""

MOST_TAP_BITS = 24
"""Fractional bits of wavelet taps, unless latents are too large for them."""

HEADROOM_BITS = 2
"""By how much coefficients of ordinary signals exceed their latents."""


ORDINARY = 2.0 ** (51 - HEADROOM_BITS - MOST_TAP_BITS)
"""Latents below it leave taps all their bits."""


@dataclass(frozen=True)
class Scale:
    """Units of a chunk.

    Parameters
    ----------
    per_sample
        Units per unit of the samples.
    step
        Units per step of the residual layer; 0 without one.
    quantum
        Units per step of the latents; None where it is to be chosen with respect to `step`.
    """

    per_sample: float
    step: float
    quantum: int | None


@kernel
def to_units(samples, per_sample, mean, out, first=0):
    """Samples (channel, n), from a column on, as integers in units less the channel means (channel, width).

    `per_sample` holds one number for each channel, or one for all.
    """
    for c in range(samples.shape[0]):
        offset, scale = mean[c], per_sample[min(c, per_sample.shape[0] - 1)]
        row = out[c]
        source = samples[c][first : first + row.shape[0]]
        for i in range(row.shape[0]):
            row[i] = np.rint(np.float64(source[i]) * scale) - offset


@kernel
def _round(product, scale, out, first):
    """Round a product (latent, width) times a power of two, into columns of `out`; returns the largest magnitude."""
    largest = 0.0
    for k in range(product.shape[0]):
        source = product[k]
        row = out[k][first : first + source.shape[0]]
        for i in range(row.shape[0]):
            row[i] = np.rint(source[i] * scale)
        for i in range(row.shape[0]):
            largest = max(largest, abs(row[i]))
    return largest


def tiles(shape: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """(batch item, range of pixels) of the tiles in which products with the basis are made."""
    batch, channels, *signal = shape
    n = math.prod(signal)
    width = max(256, TILE_SAMPLES // channels)
    for item in range(batch):
        for start in range(0, n, width):
            yield item, slice(start, min(start + width, n))


def bits_of(value: float) -> int:
    """Smallest b with |value| < 2^b."""
    return int(math.frexp(abs(value))[1])


def exact_shift(matrix: NDArray[np.float64], reach: float) -> int:
    """Fractional bits for a matrix (n, m), so that its products with integers below `reach` in magnitude are exact.

    Raises
    ------
    BudgetError
        If fewer than 8 are left.
    """
    norm = float(np.abs(matrix).sum(axis=1).max(initial=0.0))
    shift = min(26, 52 - bits_of(reach) - bits_of(norm))
    if shift < 8:
        raise BudgetError("The range of the chunk over its step is too large for exact arithmetic.")
    return shift


def project(
    samples: NDArray[np.generic],
    per_sample: float | NDArray[np.float64],
    means: NDArray[np.float64],
    analysis: NDArray[np.float64],
    reach: float,
    parallel: Parallel,
) -> tuple[NDArray[np.float64], float]:
    """Latents before the wavelet, and a bound of their magnitude.

    Parameters
    ----------
    samples : (batch, channel, z, y, x)
        Samples.
    per_sample
        Units per unit of the samples; one number for each channel, or one for all.
    means : (channel,)
        Channel means, in units.
    analysis : (rank, channel)
        What the samples, less their means, are multiplied by.
    reach
        Largest magnitude of the samples less their means, in units.
    parallel
        Runs a function over items on idle threads, results in order.

    Returns
    -------
    latents, largest : (batch, rank, z, y, x) float64, float
        Integers, in units.

    Raises
    ------
    BudgetError
        If fewer than 8 fractional bits are left for the analysis.
    """
    batch, channels, *signal = samples.shape
    flat = samples.reshape(batch, channels, -1)
    per_sample = np.atleast_1d(np.asarray(per_sample, np.float64))
    shift = exact_shift(analysis, reach)
    matrix = np.rint(np.ldexp(analysis, shift))
    latents = np.empty((batch, len(analysis), flat.shape[2]))

    def one(tile: tuple[int, slice]) -> float:
        item, part = tile
        units = np.empty((channels, part.stop - part.start))
        to_units(flat[item], per_sample, means, units, part.start)
        return float(_round(matrix @ units, 2.0**-shift, latents[item], part.start))

    largest = max(parallel(one, list(tiles(samples.shape))))
    return latents.reshape(batch, len(analysis), *signal), largest + 1.0


def largest_product(matrix: NDArray[np.float64], shift: int, reach: float) -> float:
    """What no product of a matrix of integers with integers below `reach` exceeds, divided by 2^shift and rounded."""
    norm = np.ldexp(np.abs(matrix).sum(axis=1).max(initial=0.0), -shift)
    return math.ceil(float(norm) * reach) + 1.0


def filter_shift(largest: float) -> int:
    """Fractional bits of wavelet taps for latents of this magnitude.

    Raises
    ------
    BudgetError
        If fewer than 8 are left.
    """
    shift = min(MOST_TAP_BITS, 51 - bits_of(largest) - HEADROOM_BITS)
    if shift < 8:
        raise BudgetError("The range of the chunk over its step is too large for exact arithmetic.")
    return shift
