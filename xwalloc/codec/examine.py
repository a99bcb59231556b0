# mypy: disable-error-code="no-untyped-call"
"""What the encoder looks at before it writes: the samples beside exactly what the decoder will return for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.codec import bound

__all__ = ["Examine", "misses", "nothing", "squares"]

Samples = NDArray[Any]
Examine = Callable[[Samples, Samples, NDArray[np.bool_], int], float]
"""Looks at samples (channel, n) and at what will be decoded for them (channel, width) from a column on, marks those
that miss (channel, n), and returns a figure. Called from any thread."""


def nothing(samples: Samples, decoded: Samples, missed: NDArray[np.bool_], first: int) -> float:
    """Examination where nothing is promised of single samples."""
    return 0.0


def misses(limit: float | NDArray[np.float64], nodata: Samples) -> Examine:
    """Examination that marks and counts what misses a bound, as stored; `nodata` as `bound.stored` takes it.

    The bound may be one for each channel, where samples come by channels.
    """
    limits = np.atleast_1d(np.asarray(limit, np.float64))

    def examine(samples: Samples, decoded: Samples, missed: NDArray[np.bool_], first: int) -> float:
        return float(bound.misses(samples, _as_stored(decoded, nodata), limits, missed, first))

    return examine


def squares(scale: float, nodata: Samples) -> Examine:
    """Examination that adds up squared errors, in units of `scale`."""

    def examine(samples: Samples, decoded: Samples, missed: NDArray[np.bool_], first: int) -> float:
        given = samples[:, first : first + decoded.shape[1]].astype(np.float64)
        with np.errstate(over="ignore"):  # infinite, of what a network makes far from its range
            error = (given - _as_stored(decoded, nodata)) / scale
            return float(np.sum(error * error))

    return examine


def _as_stored(decoded: Samples, nodata: Samples) -> Samples:
    """What is decoded after its cast to the stored type, in the type that is worked with."""
    return bound.stored(decoded, nodata).astype(decoded.dtype, copy=False)
