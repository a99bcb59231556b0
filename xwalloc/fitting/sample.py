"""First and second moments of a sample of blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.codec.candidates import Chunk
from xwalloc.transform import spectral

__all__ = ["Sample", "valid_in"]

PIXELS = 1 << 17
"""About so many pixels give the covariance."""

COVARIANCE_RANGE = 2.0**17
"""Samples are rounded to so many parts of their range for exact sums."""


@dataclass
class Sample:
    """Blocks that have been looked at, and their first and second moments.

    Parameters
    ----------
    chunks
        The blocks, of which some samples are valid.
    scales : (channel,)
        Bound of each channel by the smallest.
    means : (channel,)
        Means of the valid samples.
    variances, basis : (channel,), (channel, channel)
        Karhunen-Loeve transform of the samples less their means, by the scales.
    """

    chunks: list[Chunk]
    scales: NDArray[np.float64]
    means: NDArray[np.float64] = field(init=False)
    variances: NDArray[np.float64] = field(init=False)
    basis: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        channels = len(self.scales)
        sums, counts = np.zeros(channels), np.zeros(channels)
        for chunk in self.chunks:
            valid = valid_in(chunk)
            sums += np.where(valid, chunk.samples, 0).sum(axis=(0, 2, 3, 4), dtype=np.float64)
            counts += valid.sum(axis=(0, 2, 3, 4))
        self.means = sums / np.maximum(counts, 1)
        pixels = np.concatenate([self.centred(chunk) for chunk in self.chunks], axis=1)
        largest = float(np.abs(pixels).max(initial=0.0))
        unit = largest / COVARIANCE_RANGE if largest > 0 else 1.0
        covariance = spectral.moments(np.rint(pixels / unit)).covariance * unit * unit
        self.variances, self.basis = spectral.klt(covariance)

    def centred(self, chunk: Chunk) -> NDArray[np.float64]:
        """Some pixels (channel, n) of a block, less the means, by the scales; 0 where nothing is known."""
        channels = len(self.scales)
        flat: NDArray[Any] = chunk.samples.swapaxes(0, 1).reshape(channels, -1)
        step = max(1, flat.shape[1] * len(self.chunks) // PIXELS)
        pixels: NDArray[np.float64] = (flat[:, ::step] - self.means[:, None]) / self.scales[:, None]
        pixels[~valid_in(chunk).swapaxes(0, 1).reshape(channels, -1)[:, ::step]] = 0.0
        return pixels

    @property
    def size(self) -> int:
        """Number of samples."""
        return sum(chunk.samples.size for chunk in self.chunks)


def valid_in(chunk: Chunk) -> NDArray[np.bool_]:
    """Samples of a block that are neither missing nor outliers: (batch, channel, z, y, x)."""
    special = chunk.look.special
    return np.ones(chunk.samples.shape, np.bool_) if special is None else ~special
