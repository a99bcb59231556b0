# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""The encoder's half of the linear model that precedes the wavelet: samples -> units -> latents.

Here floats do: nothing of this reaches the decoder but the integers that come out. Products are made tile by tile, with
a BLAS in one thread and tiles that follow from the shape alone, so that they are the same whatever the threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xwalloc.errors import BudgetError
from xwalloc.jit import kernel
from xwalloc.models.spec import Parallel

__all__ = ["Scale", "bits_of", "filter_shift", "precision", "project", "tiles", "to_units"]

TILE_SAMPLES = 1 << 17
"""Samples of a tile: its floats fit into a second-level cache."""

SINGLE_RANGE = 2.0**14
"""Quanta that the samples of a chunk may span where single precision does for the analysis."""

HEADROOM_BITS = 2
"""By how much coefficients of ordinary signals exceed their latents."""


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
    """Samples (channel, n), from a column on, in units less the channel means (channel, width)."""
    for c in range(samples.shape[0]):
        offset = mean[c]
        row = out[c]
        source = samples[c][first : first + row.shape[0]]
        for i in range(row.shape[0]):
            row[i] = np.float64(source[i]) * per_sample - offset


@kernel
def _round(product, out, first):
    """Round a product (latent, width) to integers, into columns of `out`; returns the largest magnitude."""
    largest = 0.0
    for k in range(product.shape[0]):
        source = product[k]
        row = out[k][first : first + source.shape[0]]
        for i in range(row.shape[0]):
            value = np.rint(np.float64(source[i]))
            row[i] = value
            largest = max(largest, abs(value))
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


def precision(reach: float, quantum: int) -> type[np.floating]:
    """Type of the analysis of samples of some reach, both in units: what it rounds away is far below the quantum."""
    return np.float32 if reach < SINGLE_RANGE * quantum else np.float64


def project(
    samples: NDArray[np.generic],
    per_sample: float,
    means: NDArray[np.float64],
    analysis: NDArray[np.floating],
    parallel: Parallel,
) -> tuple[NDArray[np.float64], float]:
    """Latents before the wavelet, and a bound of their magnitude.

    Parameters
    ----------
    samples : (batch, channel, z, y, x)
        Samples.
    per_sample
        Units per unit of the samples.
    means : (channel,)
        Channel means, in units.
    analysis : (rank, channel)
        What the samples are multiplied by, in its precision.
    parallel
        Runs a function over items on idle threads, results in order.

    Returns
    -------
    latents, largest : (batch, rank, z, y, x) float64, float
        Integers, in units.
    """
    batch, channels, *signal = samples.shape
    flat = samples.reshape(batch, channels, -1)
    latents = np.empty((batch, len(analysis), flat.shape[2]))

    def one(tile: tuple[int, slice]) -> float:
        item, part = tile
        units = np.empty((channels, part.stop - part.start), analysis.dtype)
        to_units(flat[item], per_sample, means, units, part.start)
        return float(_round(analysis @ units, latents[item], part.start))

    largest = max(parallel(one, list(tiles(samples.shape))))
    return latents.reshape(batch, len(analysis), *signal), largest + 1.0


def filter_shift(largest: float) -> int:
    """Fractional bits of wavelet taps for latents of this magnitude.

    Raises
    ------
    BudgetError
        If fewer than 8 are left.
    """
    shift = min(24, 51 - bits_of(largest) - HEADROOM_BITS)
    if shift < 8:
        raise BudgetError("The range of the chunk over its step is too large for exact arithmetic.")
    return shift
