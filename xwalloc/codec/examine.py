# mypy: disable-error-code="no-untyped-call"
"""What the encoder looks at before it writes: the samples beside exactly what the decoder will return for them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.codec import bound

__all__ = ["Examine", "misses", "nothing", "squares"]

Samples = NDArray[Any]


class Examine(ABC):
    """A look at samples beside what will be decoded for them. Called from any thread.

    `nodata` has the type of samples as they are stored.
    """

    nodata: Samples

    @abstractmethod
    def __call__(self, samples: Samples, decoded: Samples, missed: NDArray[np.bool_], first: int) -> float:
        """Mark the samples that miss what is promised, and return a figure.

        Parameters
        ----------
        samples : (channel, n)
            The samples.
        decoded : (channel, width)
            What will be decoded for them, from column `first` on.
        missed : (channel, n)
            Is set where a sample misses.
        """

    def join(self, figures: Iterable[float]) -> float:
        """One figure of several."""
        return math.fsum(figures)


class _Nothing(Examine):
    nodata = np.empty(0)

    def __call__(self, samples: Samples, decoded: Samples, missed: NDArray[np.bool_], first: int) -> float:
        return 0.0


nothing = _Nothing()
"""Examination where nothing is promised of single samples."""


@dataclass(frozen=True, eq=False)
class misses(Examine):  # reads as the verb that it is
    """Examination that marks what misses a bound, as stored; the figure is the largest error of what does not.

    Parameters
    ----------
    limit
        The bound, or one for each channel, where samples come by channels.
    nodata
        As `bound.stored` takes it.
    """

    limit: float | NDArray[np.float64]
    nodata: Samples

    def __call__(self, samples: Samples, decoded: Samples, missed: NDArray[np.bool_], first: int) -> float:
        """Mark, and return the largest error within the bound."""
        limits = np.atleast_1d(np.asarray(self.limit, np.float64))
        return float(bound.misses(samples, _as_stored(decoded, self.nodata), limits, missed, first))

    def join(self, figures: Iterable[float]) -> float:
        """The largest."""
        return max(figures, default=0.0)


@dataclass(frozen=True, eq=False)
class squares(Examine):
    """Examination that adds up squared errors, in units of `scale`; `nodata` as `bound.stored` takes it."""

    scale: float
    nodata: Samples

    def __call__(self, samples: Samples, decoded: Samples, missed: NDArray[np.bool_], first: int) -> float:
        """Sum of squared errors."""
        given = samples[:, first : first + decoded.shape[1]].astype(np.float64)
        with np.errstate(over="ignore"):  # infinite, of what a network makes far from its range
            error = (given - _as_stored(decoded, self.nodata)) / self.scale
            return float(np.sum(error * error))


def _as_stored(decoded: Samples, nodata: Samples) -> Samples:
    """What is decoded after its cast to the stored type, in the type that is worked with."""
    return bound.stored(decoded, nodata).astype(decoded.dtype, copy=False)
