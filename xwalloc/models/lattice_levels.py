"""Channels that take few values: a list of the values, and indices into it.

A thermal band that was rescaled, decimal numbers stored as floats, or a few wild outliers leave most integers between
the smallest and the largest unused. Predicting the rank of a value among those in use is cheaper then.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xwalloc.errors import FormatError

__all__ = ["Levels", "from_ranks", "levels_of", "to_ranks"]

Levels = dict[int, NDArray[np.int64]]
"""The values in use, ascending, of those channels that are coded by rank."""

SAMPLE = 4096
LOOKUP = 1 << 22
LOOKUP_PER_SAMPLE = 4
"""Tables have at most so many entries, and at most so many times the samples."""
SHARE = 0.75
"""Channels that use a larger share of their range have nothing to gain."""
LEAST_GAIN = 0.08
SAMPLES_PER_LEVEL = 16


def levels_of(planes: NDArray[np.signedinteger], valid: NDArray[np.bool_] | None, radius: int = 0) -> Levels:
    """Levels of those channels of (batch, channel, n) samples that lie in gaps wide enough to gain from ranks.

    The gain is estimated as the mean of log2 of the gap beside a sample, in bits. Unused values far away from most
    samples do not count: ranks would bend what neighbouring channels have in common. Channels that seem to use nearly
    as many values as a sample of them has members are not looked at closer.
    """
    found: Levels = {}
    for channel in range(planes.shape[1]):
        plane = planes[:, channel]
        stride = max(1, plane.size // SAMPLE) | 1
        some = plane.reshape(-1)[::stride] if plane.flags.c_contiguous else plane[:, ::stride].reshape(-1)
        sample = np.sort(_binned(some, radius))
        used = 1 + int(np.count_nonzero(sample[1:] != sample[:-1]))
        if 2 * used > len(sample):
            continue
        samples = _binned(plane.reshape(-1) if valid is None else plane[valid[:, channel]], radius)
        if samples.size < 2:
            continue
        low, high = int(samples.min()), int(samples.max())
        if used > SHARE * (high - low + 1):
            continue
        if high - low < _lookup(samples.size):
            counts = np.bincount((samples - samples.dtype.type(low)).astype(np.intp))
            levels = np.flatnonzero(counts)
            counts, levels = counts[levels], low + levels
        else:
            levels, counts = np.unique(samples, return_counts=True)
            levels = levels.astype(np.int64)
        if not 1 < len(levels) <= samples.size // SAMPLES_PER_LEVEL:
            continue
        gaps = np.log2(np.diff(levels.astype(np.uint64)).astype(np.float64))  # modulo 2^64: differences are right
        gaps = np.minimum(np.append(gaps, gaps[-1]), np.append(gaps[0], gaps))
        if gaps @ counts > LEAST_GAIN * samples.size:
            found[channel] = levels
    return found


def _lookup(samples: int) -> int:
    """Most entries of a table."""
    return min(LOOKUP, LOOKUP_PER_SAMPLE * samples)


def _binned(samples: NDArray[np.signedinteger], radius: int) -> NDArray[np.signedinteger]:
    """Bins of width 2 radius + 1 that samples lie in."""
    if not radius:
        return samples
    binned: NDArray[np.signedinteger] = ((samples.astype(np.int64) + radius) // (2 * radius + 1)).astype(samples.dtype)
    return binned


def to_ranks(planes: NDArray[np.signedinteger], levels: Levels, radius: int = 0) -> None:
    """Replace the samples of channels with levels by the ranks of their bins, in place."""
    for channel, values in levels.items():
        planes[:, channel] = _binned(planes[:, channel], radius)
        plane = planes[:, channel]
        low, high = int(values[0]), int(values[-1])
        if high - low < _lookup(plane.size):
            table = np.zeros(high - low + 1, plane.dtype)
            table[values - low] = np.arange(len(values))
            held = np.clip(plane, low, high)  # samples under the mask may lie anywhere
            plane[...] = table[(held - plane.dtype.type(low)).astype(np.intp)]
        else:
            plane[...] = np.searchsorted(values, plane)


def from_ranks(
    planes: NDArray[np.signedinteger], valid: NDArray[np.bool_] | None, levels: Levels, radius: int = 0
) -> None:
    """Inverse of `to_ranks`.

    Raises
    ------
    FormatError
        If there is a rank without a level.
    """
    for channel, values in levels.items():
        plane = planes[:, channel]
        wrong = (plane < 0) | (plane >= len(values))
        if np.any(wrong if valid is None else wrong & valid[:, channel]):
            raise FormatError("A sample of a lattice chunk has none of the values of its channel.")
        info = np.iinfo(plane.dtype)
        values = np.clip(values * (2 * radius + 1), info.min, info.max)
        plane[...] = values[np.clip(plane, 0, len(values) - 1)]
