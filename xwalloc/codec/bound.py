# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"
"""The last step from integers to samples, the residual layer, and the proof of the bound.

Everything before this module is exact integer arithmetic in *units*. Here the residual is added and the one float
operation of the decoder happens: a multiply by the unit and a cast. The encoder calls the decoder's own function and
compares, in extended precision, what comes out: a sample that misses is not a silent miss but an exception.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.jit import kernel

__all__ = ["Finish", "misses", "substitute"]


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
    """

    shift: int
    fraction: int | None
    unit: float
    step: int

    def samples(
        self,
        product: NDArray[np.float64],
        mean: NDArray[np.float64],
        residuals: NDArray[np.int32],
        nodata: NDArray[np.generic],
        out: NDArray[np.generic],
    ) -> None:
        """Samples (channel, n) from products of the synthesis, channel means in units, and residuals.

        Parameters
        ----------
        product : (channel, n)
            Integers, 2^shift to a unit.
        mean : (channel,)
            Integers, in units.
        residuals : (channel, n) or (1, 0)
            Residuals, or nothing where there is no residual layer.
        nodata : (2,) or (0,)
            The nodata value and its substitute, in the type of `out`.
        out : (channel, n)
            Gets the samples.
        """
        info: Any = np.iinfo(out.dtype) if out.dtype.kind in "iu" else np.finfo(out.dtype)
        _finish(
            product, mean, residuals, 2.0**-self.shift, self.fraction is not None, 2.0 ** -(self.fraction or 0),
            self.unit, float(self.step), float(info.min), float(info.max), out.dtype.kind in "iu", nodata, out,
        )  # fmt: skip

    def residuals(
        self,
        samples: NDArray[np.generic],
        product: NDArray[np.float64],
        mean: NDArray[np.float64],
        mask: NDArray[np.uint8],
        out: NDArray[np.int32],
    ) -> NDArray[np.int64]:
        """Residuals (channel, n) that bring every coded sample within the bound, where 31 bits suffice.

        Parameters
        ----------
        samples, product, mean
            As for `samples`.
        mask : (channel, n) or (1, 0)
            Not 0 where a sample is not coded.
        out : (channel, n)
            Gets the residuals.

        Returns
        -------
        (channel,)
            Sums of their magnitudes.
        """
        sums = np.zeros(len(samples), np.int64)
        _residual(
            samples, product, mean, mask, 2.0**-self.shift, self.fraction is not None, 2.0 ** -(self.fraction or 0),
            self.unit, float(self.step), out, sums,
        )  # fmt: skip
        return sums


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


@kernel
def _finish(product, mean, residuals, down, integral, fraction, unit, step, low, high, whole, nodata, out):
    has_residuals = residuals.shape[1] > 0
    for c in range(out.shape[0]):
        offset = mean[c]
        row, base = out[c], product[c]
        rest = residuals[c if has_residuals else 0]
        for i in range(row.shape[0]):
            value = np.rint(base[i] * down) + offset
            if integral:
                value = np.rint(value * fraction)
            if has_residuals:
                value += rest[i] * step
            if not integral:
                value *= unit
                if whole:
                    value = np.rint(value)
            row[i] = min(max(value, low), high)
        if nodata.shape[0]:
            for i in range(row.shape[0]):
                if row[i] == nodata[0]:
                    row[i] = nodata[1]


@kernel
def _residual(samples, product, mean, mask, down, integral, fraction, unit, step, residuals, sums):
    has_mask = mask.shape[1] > 0
    per_unit = 1.0 / unit
    per_step = 1.0 / step
    for c in range(samples.shape[0]):
        offset = mean[c]
        row, source, base = residuals[c], samples[c], product[c]
        for i in range(source.shape[0]):
            value = np.rint(base[i] * down) + offset
            if integral:
                quotient = np.rint((np.float64(source[i]) - np.rint(value * fraction)) * per_step)
            else:
                quotient = np.rint((np.float64(source[i]) * per_unit - value) * per_step)
            row[i] = np.int32(min(max(quotient, -2147483647.0), 2147483647.0))
        if has_mask:
            for i in range(row.shape[0]):
                if mask[c, i]:
                    row[i] = 0
        total = np.int64(0)
        for i in range(row.shape[0]):
            total += abs(np.int64(row[i]))
        sums[c] = total


@kernel
def misses(samples, decoded, bound, missed):
    """Mark where a decoded sample differs by more than `bound`, exactly; returns how many do.

    The difference is taken with its rounding error (Knuth's TwoSum), so that the comparison is exact for float64 too.
    `missed` (bool) is only written where a sample misses.
    """
    count = 0
    for c in range(samples.shape[0]):
        source, row = samples[c], decoded[c]
        suspects = 0
        for i in range(source.shape[0]):
            # The rounded difference is below the bound only if the exact one is not above it.
            suspects += not abs(np.float64(source[i]) - np.float64(row[i])) < bound
        if suspects == 0:
            continue
        for i in range(source.shape[0]):
            a = np.float64(source[i])
            b = -np.float64(row[i])
            total = a + b
            if abs(total) < bound:
                continue
            rest = total - a
            error = (a - (total - rest)) + (b - rest)
            if not abs(total) <= bound or (error if total > 0 else -error) > 0:
                missed[c, i] = True
                count += 1
    return count
