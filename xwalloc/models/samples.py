# mypy: disable-error-code="no-untyped-call"
"""The samples of a chunk, wherever they are, and what a fit asks of all of them."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from xwalloc.errors import BudgetError
from xwalloc.models import linear
from xwalloc.models import quantise as q
from xwalloc.models.analysis import Scale, bits_of, filter_shift, project, to_units
from xwalloc.models.spec import LinearModel
from xwalloc.models.trials import HostTrials, Trials, Windows, boxes_of
from xwalloc.transform import spectral
from xwalloc.types import Parallel

__all__ = ["COVARIANCE_BITS", "Found", "HostSamples", "Samples", "some_pixels"]

Found = tuple[LinearModel, Any]
"""The model of a chunk and its symbols (batch, rank, z, y, x), wherever these are."""

Floats = NDArray[np.float64]

COVARIANCE_SAMPLES = 1 << 14
COVARIANCE_BITS = 18
"""Deviations from the means are rounded to so many bits for the covariance."""

RUN = 16
PARTS = 4

LARGE = 1 << 15
"""Of chunks with more pixels, half as many are taken for the covariance."""


class Samples(Protocol):
    """Finite samples (batch, channel, z, y, x), holes filled."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(batch, channel, z, y, x)."""

    def ranges(self) -> tuple[Floats, Floats]:
        """Smallest and largest sample of each channel."""

    def moments(self, scale: Scale, largest: float) -> tuple[Floats, Floats]:
        """Channel means in units, integers, and covariance in units squared; no unit exceeds `largest` in magnitude.

        A regular subset of the pixels is enough; sums are exact, so that nothing depends on the order of reduction.
        """

    def look(self, windows: Windows) -> Trials:
        """Try candidates for quantum and rank in windows.

        Raises
        ------
        BudgetError
            If the range of the chunk over its step is too large for exact arithmetic.
        """

    def quantise(
        self,
        model: LinearModel,
        per_sample: float | Floats,
        analysis: Floats,
        reach: float,
        side: Floats,
        kept: NDArray[np.bool_] | None = None,
    ) -> Found | None:
        """Project the samples and quantise them.

        Parameters
        ----------
        model
            Without what follows from quantisation.
        per_sample, analysis, reach
            As for `analysis.project`.
        side : (rank,)
            Bits that a latent costs besides its symbols.
        kept : (rank, subband)
            What is coded; None for all.

        Returns
        -------
        None where the chunk is beyond the bit budget of exact arithmetic.
        """


class HostSamples:
    """`Samples` in memory that threads of this process work on.

    Parameters
    ----------
    samples : (batch, channel, z, y, x)
        The samples.
    parallel
        Runs a function over items on idle threads, results in order.
    """

    def __init__(self, samples: NDArray[np.generic], parallel: Parallel) -> None:
        self.samples, self.parallel = samples, parallel

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Samples`."""
        return self.samples.shape

    def ranges(self) -> tuple[Floats, Floats]:
        """See `Samples`."""
        axes = (0, 2, 3, 4)
        return self.samples.min(axis=axes).astype(np.float64), self.samples.max(axis=axes).astype(np.float64)

    def moments(self, scale: Scale, largest: float) -> tuple[Floats, Floats]:
        """See `Samples`."""
        some = some_pixels(self.samples).swapaxes(0, 1)
        channels, count = len(some), math.prod(some.shape[1:])
        means, units = np.empty(channels), np.empty((channels, count))
        number = min(channels, PARTS)
        parts = [slice(i * channels // number, (i + 1) * channels // number) for i in range(number)]
        exact = np.float64 if largest * count < 2.0**53 else np.int64

        def centre(part: slice) -> float:
            own = units[part]
            to_units(some[part].reshape(len(own), -1), np.array([scale.per_sample]), np.zeros(len(own)), own)
            means[part] = np.rint(own.sum(axis=1, dtype=exact) / count)
            own -= means[part, None]
            return max(float(own.max(initial=0.0)), -float(own.min(initial=0.0)))

        per_coarse = 2.0 ** -max(0, bits_of(max(self.parallel(centre, parts))) - COVARIANCE_BITS)
        coarse = 1.0 / per_coarse

        def make_coarse(part: slice) -> None:
            np.rint(np.multiply(units[part], per_coarse, out=units[part]), out=units[part])

        self.parallel(make_coarse, parts)
        return means, spectral.moments(units, parallel=self.parallel).covariance * (coarse * coarse)

    def look(self, windows: Windows) -> Trials:
        """See `Samples`."""
        return HostTrials(self.samples, windows, self.parallel)

    def quantise(
        self,
        model: LinearModel,
        per_sample: float | Floats,
        analysis: Floats,
        reach: float,
        side: Floats,
        kept: NDArray[np.bool_] | None = None,
    ) -> Found | None:
        """See `Samples`; symbols are int32."""
        try:
            latents, largest = project(self.samples, per_sample, model.mean_units, analysis, reach, self.parallel)
            shift = filter_shift(largest)
            coefficients = model.grid.forward(latents, shift, largest, self.parallel)
        except BudgetError:
            return None
        symbols, sums = self._symbols(model, coefficients, kept)
        quantised = linear.quantised(model, sums, len(symbols), shift, side)
        return quantised, np.ascontiguousarray(symbols[:, : quantised.rank])

    def _symbols(
        self, model: LinearModel, coefficients: Floats, kept: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Symbols, with thresholds by rate, and what their cells hold, (rank, subband, 8): see `quantise_planes`."""
        rank = coefficients.shape[1]
        symbols = np.empty(coefficients.shape, np.int32)
        boxes = boxes_of(model.grid)
        sums = np.zeros((rank, len(boxes), 8), np.int64)

        def one(k: int) -> None:
            if kept is None or kept[k].all():
                q.quantise_planes(coefficients, k, boxes, float(model.quantum), symbols, sums[k])
                return
            symbols[:, k] = 0
            some, found = boxes[kept[k]], np.zeros((np.count_nonzero(kept[k]), 8), np.int64)
            q.quantise_planes(coefficients, k, some, float(model.quantum), symbols, found)
            sums[k, kept[k]] = found

        self.parallel(one, range(rank))
        return symbols, sums


def some_pixels(samples: Any) -> Any:
    """A regular subset of the pixels of samples (batch, channel, z, y, x), of NumPy or torch: (batch, channel, ...)."""
    batch, channels, *signal = samples.shape
    n = math.prod(signal)
    flat = samples.reshape(batch, channels, n)
    stride = max(1, batch * n // COVARIANCE_SAMPLES * (2 if batch * n > LARGE else 1)) | 1
    if stride > 1 and n >= RUN * stride:
        # Every so many runs of pixels: neighbours come from memory together.
        return flat[:, :, : n // RUN * RUN].reshape(batch, channels, -1, RUN)[:, :, ::stride]
    items = max(1, batch * -(-n // stride) // (2 * COVARIANCE_SAMPLES)) | 1
    return flat[::items, :, ::stride]
