# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"
"""The last step from integers to samples, the residual layer, and the proof of the bound.

Everything before this module is exact integer arithmetic in *units*. Here the residual is added and the one float
operation of the decoder happens: a multiply by the unit and a cast. The encoder calls the decoder's own function and
compares, in extended precision, what comes out: a sample that misses is not a silent miss but an exception.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.jit import inline_kernel, kernel

__all__ = ["Finish", "early_nodata", "misses", "stored", "substitute"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Finish:
    """How integers in units become samples.

    Parameters
    ----------
    shift
        Products of the synthesis are divided by 2^shift and rounded to integers: these are units.
    fraction
        Integral chunks: units are 2^-fraction, and bases are rounded to integers; None for other chunks.
    unit
        Other chunks: value of one unit.
    step
        What one residual stands for: in samples for integral chunks, in units otherwise; 0 without residual layer.
    scales : (channel,) float64
        Bound of each channel, by that of the chunk; None where all have the same. `unit` is the bound of the chunk
        then if it is integral.
    """

    shift: int
    fraction: int | None
    unit: float
    step: int
    scales: NDArray[np.float64] | None = None

    def of(self, channels: slice) -> Finish:
        """The same for some of the channels."""
        return self if self.scales is None else replace(self, scales=self.scales[channels])

    def samples(
        self,
        product: NDArray[np.float64],
        mean: NDArray[np.float64],
        residuals: NDArray[np.int32],
        nodata: NDArray[np.generic],
        out: NDArray[np.generic],
        first: int = 0,
    ) -> None:
        """Samples of a tile from products of the synthesis, channel means in units, and residuals.

        Parameters
        ----------
        product : (channel, width)
            Integers, 2^shift to a unit.
        mean : (channel,)
            Integers, in units.
        residuals : (channel, n) or (1, 0)
            Residuals, or nothing where there is no residual layer.
        nodata : (2,) or (0,)
            The nodata value and its substitute, in the type of `out`.
        out : (channel, n)
            Gets the samples.
        first
            Where the tile begins in `residuals` and `out`. (Kernels want whole rows: of a slice they do not know that
            its samples are neighbours.)
        """
        _finish(product, mean, residuals, *self._numbers(out), nodata, out, first)

    def residuals(
        self,
        samples: NDArray[np.generic],
        product: NDArray[np.float64],
        mean: NDArray[np.float64],
        mask: NDArray[np.uint8],
        nodata: NDArray[np.generic],
        out: NDArray[np.int32],
        decoded: NDArray[np.generic],
        first: int = 0,
    ) -> NDArray[np.int64]:
        """Residuals of a tile that bring every coded sample within the bound, where 31 bits suffice.

        Parameters
        ----------
        samples : (channel, n)
            The samples.
        product, mean, nodata
            As for the method `samples`; `product` gets the bases.
        mask : (channel, n) or (1, 0)
            Not 0 where a sample is not coded.
        out : (channel, n)
            Gets the residuals.
        decoded : (channel, width)
            Gets what `samples` makes of them.
        first
            Where the tile begins in `samples`, `mask` and `out`.

        Returns
        -------
        (channel,)
            Sums of their magnitudes.
        """
        sums = np.zeros(len(samples), np.int64)
        _residual(samples, product, mean, mask, *self._numbers(decoded), nodata, out, decoded, sums, first)
        return sums

    def table(self, mean: NDArray[np.float64]) -> Floats:
        """The numbers of each channel as a table, for kernels of a device.

        Parameters
        ----------
        mean : (channel,)
            Channel means, integers in units.

        Returns
        -------
        (channel, 5)
            What products are multiplied by, mean, what bases are multiplied by if the chunk is integral, value of one
            unit if it is not, and what one residual stands for.
        """
        scales = 1.0 if self.scales is None else self.scales
        table = np.empty((len(mean), 5))
        table[:, 0], table[:, 1], table[:, 2] = 2.0**-self.shift, mean, 2.0 ** -(self.fraction or 0) * scales
        table[:, 3], table[:, 4] = self.unit * scales, self._steps
        return table

    @property
    def _steps(self) -> float | Floats:
        """What one residual stands for in each channel, or in all."""
        if self.scales is not None and self.fraction is not None and self.step:
            return 2 * np.floor(self.unit * self.scales) + 1
        return float(self.step)

    def _numbers(self, out: NDArray[np.generic]) -> tuple[float, bool, Floats, Floats, Floats, float, float, bool]:
        """Arguments `down` to `whole` of the kernels."""
        dtype = out.dtype
        info: Any = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
        scales = np.ones(len(out)) if self.scales is None else self.scales
        return (
            2.0**-self.shift, self.fraction is not None, 2.0 ** -(self.fraction or 0) * scales, self.unit * scales,
            np.full(len(out), self._steps), float(info.min), float(info.max), dtype.kind in "iu",
        )  # fmt: skip


def substitute(nodata: Any) -> Any:
    """The value that stands for a decoded value equal to nodata: the next larger one, at the top the next smaller.

    Parameters
    ----------
    nodata
        NumPy scalar or array without axes.
    """
    dtype = nodata.dtype
    if dtype.kind in "iu":
        value = int(nodata[()])
        return np.array(value + 1 if value < np.iinfo(dtype).max else value - 1, dtype)
    with np.errstate(over="ignore", under="ignore"):
        up = np.nextafter(nodata, np.array(np.inf, dtype), dtype=dtype)
        return up if np.isfinite(up) else np.nextafter(nodata, np.array(-np.inf, dtype), dtype=dtype)


def stored(decoded: NDArray[Any], nodata: NDArray[Any]) -> NDArray[Any]:
    """Decoded samples in the stored type, that of `nodata`.

    Only float16 is another type than the one worked with: the range and nodata are looked after once more.
    """
    if decoded.dtype == nodata.dtype:
        return decoded
    info = np.finfo(nodata.dtype)
    samples: NDArray[Any] = np.clip(decoded, float(info.min), float(info.max)).astype(nodata.dtype)
    if nodata.size:
        samples[samples == nodata[0]] = nodata[1]
    return samples


def early_nodata(nodata: NDArray[Any]) -> NDArray[Any]:
    """`nodata` for those who make samples; nothing for float16, whose samples are float32 until `stored`."""
    return np.empty(0, np.float32) if nodata.dtype == np.float16 else nodata


@inline_kernel
def _base(product, offset, down, integral, fraction):
    """The base, from a product of the synthesis."""
    value = np.rint(product * down) + offset
    return np.rint(value * fraction) if integral else value


@inline_kernel
def _sample(value, integral, unit, low, high, whole):
    """What a base with its residual is, but for the cast."""
    if not integral:
        value *= unit
        if whole:
            value = np.rint(value)
    return min(max(value, low), high)


@inline_kernel
def _avoid(row, nodata):
    """Keep samples off nodata."""
    if nodata.shape[0]:
        for i in range(row.shape[0]):
            if row[i] == nodata[0]:
                row[i] = nodata[1]


@kernel
def _finish(product, mean, residuals, down, integral, fractions, units, steps, low, high, whole, nodata, out, first):
    has_residuals = residuals.shape[1] > 0
    for c in range(out.shape[0]):
        offset, fraction, unit, step = mean[c], fractions[c], units[c], steps[c]
        base = product[c]
        row = out[c][first : first + base.shape[0]]
        if has_residuals:
            rest = residuals[c][first : first + base.shape[0]]
            for i in range(row.shape[0]):
                value = _base(base[i], offset, down, integral, fraction) + rest[i] * step
                row[i] = _sample(value, integral, unit, low, high, whole)
        else:
            for i in range(row.shape[0]):
                value = _base(base[i], offset, down, integral, fraction)
                row[i] = _sample(value, integral, unit, low, high, whole)
        _avoid(row, nodata)


@kernel
def _residual(
    samples, product, mean, mask, down, integral, fractions, units, steps, low, high, whole, nodata, residuals, decoded,
    sums, first,
):  # fmt: skip
    has_mask = mask.shape[1] > 0
    for c in range(samples.shape[0]):
        offset, fraction, unit, step = mean[c], fractions[c], units[c], steps[c]
        per_step = 1.0 / step
        scale = 1.0 if integral else 1.0 / unit
        base, row = product[c], decoded[c]
        source, rest = samples[c][first : first + row.shape[0]], residuals[c][first : first + row.shape[0]]
        # Short loops over a row that stays in the first-level cache: they become vector instructions.
        for i in range(row.shape[0]):
            base[i] = _base(base[i], offset, down, integral, fraction)
        for i in range(row.shape[0]):
            quotient = np.rint((np.float64(source[i]) * scale - base[i]) * per_step)
            rest[i] = np.int32(min(max(quotient, -2147483647.0), 2147483647.0))
        if has_mask:
            holes = mask[c][first : first + row.shape[0]]
            for i in range(row.shape[0]):
                if holes[i]:
                    rest[i] = 0
        total = np.int64(0)
        for i in range(row.shape[0]):
            total += abs(np.int64(rest[i]))
        sums[c] = total
        for i in range(row.shape[0]):
            row[i] = _sample(base[i] + rest[i] * step, integral, unit, low, high, whole)
        _avoid(row, nodata)


@kernel
def misses(samples, decoded, bounds, missed, first=0):
    """Mark where a decoded sample differs by more than its channel's bound, exactly.

    Returns the largest difference of the samples that do not, rounded to float64.

    `bounds` holds one number for each channel, or one for all.
    `decoded` holds the columns from `first` on of what `samples` and `missed` hold. The difference is taken with its
    rounding error (Knuth's TwoSum), so that the comparison is exact for float64 too.
    `missed` (bool) is only written where a sample misses.
    """
    largest = 0.0
    for c in range(samples.shape[0]):
        row = decoded[c]
        bound = bounds[min(c, bounds.shape[0] - 1)]
        source = samples[c][first : first + row.shape[0]]
        # Of floats without sign, bits are ordered as values are, NaN last; maxima of integers are vector instructions.
        most = np.int64(0)
        for i in range(source.shape[0]):
            bits = np.float64(abs(np.float64(source[i]) - np.float64(row[i]))).view(np.int64)
            most = bits if bits > most else most
        # The rounded difference is below the bound only if the exact one is not above it.
        if np.int64(most).view(np.float64) < bound:
            largest = max(largest, np.int64(most).view(np.float64))
            continue
        for i in range(source.shape[0]):
            a = np.float64(source[i])
            b = -np.float64(row[i])
            total = a + b
            if abs(total) < bound:
                largest = max(largest, abs(total))
                continue
            rest = total - a
            error = (a - (total - rest)) + (b - rest)
            if not abs(total) <= bound or (error if total > 0 else -error) > 0:
                missed[c, first + i] = True
            else:
                largest = max(largest, abs(total))
    return largest
