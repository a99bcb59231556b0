"""A histogram that widens with what it is given."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["Histogram"]


class Histogram:
    """Counts in bins of equal width over [-reach, reach], or over [0, reach].

    Where a value lies beyond, the reach doubles as often as needed, and bins are joined in pairs: nothing need be
    known of the values before, and histograms of parts can be joined.

    Parameters
    ----------
    bins
        Number of bins, even (over [-reach, reach] a multiple of 4).
    reach
        Where the histogram ends at first; None: at the power of 2 above the first values.
    signed
        Whether there are bins below 0.

    Attributes
    ----------
    counts : (bins,) int64
        Values in each bin. A value on an edge counts to the bin above, at the end to the last.

    Examples
    --------
    >>> found = Histogram(4, reach=1.0)
    >>> found.add(np.array([-0.9, 0.1, 0.2, 1.0, 1.5]))
    >>> found.reach, found.counts.tolist()
    (2.0, [0, 1, 2, 2])
    """

    def __init__(self, bins: int = 128, reach: float | None = None, *, signed: bool = True) -> None:
        self.counts = np.zeros(bins, np.int64)
        self.reach, self.signed = reach, signed

    @property
    def edges(self) -> NDArray[np.float64]:
        """Edges of the bins, (bins + 1,)."""
        reach = self.reach or 1.0
        return np.linspace(-reach if self.signed else 0.0, reach, len(self.counts) + 1)

    def add(self, values: NDArray[np.float64]) -> None:
        """Count values; those that are not finite are left out.

        Parameters
        ----------
        values : (n,)
            Not below 0 where the histogram is not signed.
        """
        values = values[np.isfinite(values)]
        if values.size:
            self._widen(float(np.abs(values).max()))
            self.counts += np.bincount(self.places(values), minlength=len(self.counts))

    def places(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Bins that values within the reach fall into, (n,)."""
        reach, n = self.reach or 1.0, len(self.counts)
        part = (values / reach + 1) / 2 if self.signed else values / reach
        found: NDArray[np.int64] = np.clip(np.floor(part * n), 0, n - 1).astype(np.int64)
        return found

    def merge(self, other: Histogram) -> None:
        """Count what another histogram of as many bins has counted.

        The reaches of both must be a power of 2 apart, as they are if they began alike.
        """
        if other.reach is None:
            return
        self._widen(other.reach)
        counts, reach = other.counts, other.reach
        while reach < (self.reach or 0.0):
            counts, reach = self._joined(counts), 2 * reach
        self.counts += counts

    def _widen(self, largest: float) -> None:
        if self.reach is None:
            if largest > 0:
                self.reach = 2.0 ** min(math.ceil(math.log2(largest)), 1023)
            else:
                self.reach = 2.0**-64  # zeros alone
        while self.reach < largest and 2 * self.reach < math.inf:
            self.counts, self.reach = self._joined(self.counts), 2 * self.reach

    def _joined(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The same counts where the reach is twice as far."""
        n = len(counts)
        pairs = counts.reshape(n // 2, 2).sum(1)
        before = n // 4 if self.signed else 0
        return np.pad(pairs, (before, n - n // 2 - before))
