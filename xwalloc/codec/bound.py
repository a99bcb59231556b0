"""The last step from integers to samples, the residual layer, and the proof of the bound.

Everything before this module is exact integer arithmetic in *units*. Here the residual is added and the one float operation of
the decoder happens: a multiply by the unit and a cast. The encoder calls the decoder's own function and compares, in
extended precision, what comes out: a sample that misses is not a silent miss but an exception.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xwalloc.jit import kernel

__all__ = ["Finish", "finish", "misses", "residual"]


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

    def arguments(self, dtype: np.dtype, nodata: NDArray[np.generic]) -> tuple[object, ...]:
        """What the kernels take: powers of two, unit, step, the finite range of `dtype`, and nodata with its substitute."""
        info = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
        return (
            2.0**-self.shift,
            self.fraction is not None,
            2.0 ** -(self.fraction or 0),
            self.unit,
            float(self.step),
            float(info.min),
            float(info.max),
            dtype.kind in "iu",
            nodata,
        )


def substitute(nodata: NDArray[np.generic]) -> NDArray[np.generic]:
    """The value that stands for a decoded value equal to nodata: the next larger one, at the top the next smaller."""
    dtype = nodata.dtype
    if dtype.kind in "iu":
        value = int(nodata[()])
        return np.array(value + 1 if value < np.iinfo(dtype).max else value - 1, dtype)
    up = np.nextafter(nodata, np.array(np.inf, dtype), dtype=dtype)
    return up if np.isfinite(up) else np.nextafter(nodata, np.array(-np.inf, dtype), dtype=dtype)


@kernel
def finish(product, mean, residuals, down, integral, fraction, unit, step, low, high, whole, nodata, out):
    """Samples (channel, n) from products of the synthesis, channel means in units, and residuals.

    `residuals` is (channel, n), or (0, 0) where there is no residual layer. `nodata` holds the nodata value and its
    substitute, or nothing.
    """
    has_residuals = residuals.shape[0] > 0
    for c in range(out.shape[0]):
        offset = mean[c]
        for i in range(out.shape[1]):
            value = np.rint(product[c, i] * down) + offset
            if integral:
                value = np.rint(value * fraction)
                if has_residuals:
                    value += residuals[c, i] * step
            else:
                if has_residuals:
                    value += residuals[c, i] * step
                value *= unit
                if whole:
                    value = np.rint(value)
            out[c, i] = min(max(value, low), high)
        if nodata.shape[0]:
            for i in range(out.shape[1]):
                if out[c, i] == nodata[0]:
                    out[c, i] = nodata[1]


@kernel
def residual(samples, product, mean, mask, down, integral, fraction, unit, step, low, high, whole, nodata, residuals):
    """Residuals (channel, n) int32 that bring every coded sample within the bound, where 31 bits suffice."""
    has_mask = mask.shape[0] > 0
    per_unit = 1.0 / unit
    per_step = 1.0 / step
    for c in range(samples.shape[0]):
        offset = mean[c]
        for i in range(samples.shape[1]):
            value = np.rint(product[c, i] * down) + offset
            if integral:
                quotient = np.rint((np.float64(samples[c, i]) - np.rint(value * fraction)) * per_step)
            else:
                quotient = np.rint((np.float64(samples[c, i]) * per_unit - value) * per_step)
            residuals[c, i] = np.int32(min(max(quotient, -2147483647.0), 2147483647.0))
        if has_mask:
            for i in range(samples.shape[1]):
                if mask[c, i]:
                    residuals[c, i] = 0


@kernel
def misses(samples, decoded, bound, missed):
    """Mark where a decoded sample differs by more than `bound`, exactly; returns how many do.

    The difference is taken with its rounding error (Knuth's TwoSum), so that the comparison is exact for float64 too.
    `missed` (bool) is only written where a sample misses.
    """
    count = 0
    for c in range(samples.shape[0]):
        for i in range(samples.shape[1]):
            a = np.float64(samples[c, i])
            b = -np.float64(decoded[c, i])
            total = a + b
            rest = total - a
            error = (a - (total - rest)) + (b - rest)
            size = abs(total)
            if not size < bound:
                beyond = error if total > 0 else -error
                if not size <= bound or beyond > 0:
                    missed[c, i] = True
                    count += 1
    return count
