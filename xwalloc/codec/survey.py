# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""A first look at a chunk: which samples are special, what range the others have, whether all of them are integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xwalloc.codec.engine import map_parallel
from xwalloc.jit import kernel

__all__ = ["Survey", "found_usual", "some_of", "survey"]

SAMPLE = 1 << 16
FENCE = 20.0
"""Samples further from the bulk (0.5 to 99.5 %) than this many times its width are outliers."""
RARE = 0.005
GAP = 2.0
LARGEST_INTEGER = 2.0**31
PART = 1 << 20
BLOCK = 4096


@dataclass(frozen=True)
class Survey:
    """What the encoder wants to know of a chunk before it chooses how to code it.

    Parameters
    ----------
    special
        Samples to keep bit for bit (same shape as the chunk); None where there are none.
    valid
        Number of other samples.
    low, high
        Their range.
    integral
        Whether all of them are integers; in floats below 2^31 in magnitude, and none of them a negative zero.
    """

    special: NDArray[np.bool_] | None
    valid: int
    low: float
    high: float
    integral: bool


@kernel
def _are_integers(flat):
    """Whether all samples are integers, and none of them a negative zero."""
    for start in range(0, flat.shape[0], BLOCK):
        fractional = 0
        for i in range(start, min(start + BLOCK, flat.shape[0])):
            value = flat[i]
            fractional += (value != np.rint(value)) | ((value == 0) & np.signbit(value))
        if fractional:
            return False
    return True


@kernel
def _scan(flat, nodata, special):
    """Mark NaN, infinities and nodata; count the rest, and find its range and whether it is integral."""
    valid = 0
    low = np.inf
    high = -np.inf
    integral = True
    has_nodata = nodata.shape[0] > 0
    for i in range(flat.shape[0]):
        value = np.float64(flat[i])
        if not np.isfinite(value) or (has_nodata and flat[i] == nodata[0]):
            special[i] = True
            continue
        valid += 1
        low = min(low, value)
        high = max(high, value)
        if integral and (value != np.rint(value) or (value == 0.0 and np.signbit(value))):
            integral = False
    return valid, low, high, integral


@kernel
def _mark_beyond(flat, low, high, special):
    """Mark samples outside [low, high]."""
    for i in range(flat.shape[0]):
        if not special[i] and not low <= np.float64(flat[i]) <= high:
            special[i] = True


def survey(array: NDArray[np.generic], nodata: NDArray[np.generic], *, outliers: bool) -> Survey:
    """Look at a chunk.

    Parameters
    ----------
    array
        Native-endian samples.
    nodata : (0,) or (1,)
        The nodata value in the type of `array`, if any.
    outliers
        Whether outliers and undeclared fill values are to be special too.
    """
    flat = array.reshape(-1)
    special = np.zeros(flat.size, np.bool_)
    parts = [slice(start, start + PART) for start in range(0, max(flat.size, 1), PART)]

    def look(part: slice) -> tuple[int, float, float, bool]:
        values = flat[part]
        if values.size and not nodata.size:
            # The common case: nothing special at all.
            with np.errstate(invalid="ignore"):
                low, high = float(values.min()), float(values.max())
            if np.isfinite(low) and np.isfinite(high):
                return values.size, low, high, values.dtype.kind in "iu" or bool(_are_integers(values))
        valid, low, high, integral = _scan(values, nodata, special[part])
        return valid, low, high, integral

    found = map_parallel(look, parts)
    valid, integral = sum(part[0] for part in found), all(part[3] for part in found)
    low, high = min(part[1] for part in found), max(part[2] for part in found)
    fences = low, high
    if outliers and valid:
        some = some_of(flat.size)
        fences = _fences(flat[some][~special[some]], low, high)
    if fences != (low, high):
        _mark_beyond(flat, fences[0], fences[1], special)
        kept = flat[~special].astype(np.float64)
        valid, low, high = kept.size, float(kept.min(initial=np.inf)), float(kept.max(initial=-np.inf))
    if array.dtype.kind == "f":
        integral = integral and max(abs(low), abs(high)) < LARGEST_INTEGER
    if valid == flat.size:
        return Survey(None, valid, low, high, bool(integral))
    return Survey(special.reshape(array.shape), valid, low, high, bool(integral))


def some_of(size: int) -> slice:
    """A regular subset of so many samples, that outliers are looked for in."""
    return slice(None, None, max(1, size // SAMPLE))


def found_usual(
    some: NDArray[np.generic], size: int, low: float, high: float, integral: bool, *, outliers: bool
) -> Survey | None:
    """What there is to know of a chunk of which all samples are valid; None where there may be outliers.

    Parameters
    ----------
    some
        Its samples `some_of`, in its type.
    size, low, high, integral
        How many samples there are, their range, and whether all of them are integers.
    outliers
        As for `survey`.
    """
    if outliers and _fences(some, low, high) != (low, high):
        return None
    if some.dtype.kind == "f":
        integral = integral and max(abs(low), abs(high)) < LARGEST_INTEGER
    return Survey(None, size, low, high, integral)


@np.errstate(over="ignore", invalid="ignore")
def _fences(given: NDArray[np.generic], low: float, high: float) -> tuple[float, float]:
    """Range outside which samples are outliers or fill values; the whole range where there are none.

    A repeated extreme value far from all others is a fill value. Beyond that, rare samples far from the bulk are
    outliers.
    """
    some = np.sort(given).astype(np.float64)
    if some.size < 16:
        return low, high
    stripped = some.size
    for _ in range(4):
        for side in (0, -1):
            extreme = some[side]
            rest = some[np.searchsorted(some, extreme, "right") :] if side == 0 else some[: some.searchsorted(extreme)]
            repeated = some.size - rest.size
            if rest.size < 16 or repeated < 4 or rest[0] == rest[-1]:
                continue
            gap = rest[0] - extreme if side == 0 else extreme - rest[-1]
            if gap > GAP * (rest[-1] - rest[0]):
                some = rest
    first, last = np.quantile(some, [0.005, 0.995])
    fence = FENCE * (last - first)
    outside = some.size - np.searchsorted(some, last + fence, "right") + np.searchsorted(some, first - fence)
    if fence > 0 and outside <= RARE * some.size:
        below, above = first - fence, last + fence
    else:
        # A constant bulk, or a distribution with heavy tails: only what is as far away as a fill value is special.
        reach = GAP * (some[-1] - some[0]) if some.size < stripped else np.inf
        below, above = some[0] - reach, some[-1] + reach
    return max(low, float(below)), min(high, float(above))
