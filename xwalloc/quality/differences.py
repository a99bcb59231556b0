"""Differences of two arrays, without the rounding error of taking them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["changed", "magnitudes", "valid"]

Array = NDArray[Any]


def valid(values: Array, nodata: float | int | None = None) -> NDArray[np.bool_]:
    """Where values are finite and not nodata.

    Parameters
    ----------
    values : (...)
        Numbers or bool.
    nodata
        Compared by value in the dtype of `values`; a value that the dtype cannot hold matches nothing.
    """
    found = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
    if nodata is not None and np.isfinite(nodata):
        with np.errstate(over="ignore"):
            held = np.asarray(nodata).astype(values.dtype) if fits(nodata, values.dtype) else None
        if held is not None:
            found &= values != held
    return found


def fits(value: float | int, dtype: np.dtype[Any]) -> bool:
    """Whether a finite number has a place in a dtype (rounded, where it is of floats)."""
    if dtype.kind not in "iu":
        return True
    info = np.iinfo(dtype)
    return value == int(value) and info.min <= value <= info.max


def changed(original: Array, decoded: Array) -> NDArray[np.bool_]:
    """Where two arrays of one dtype differ by any bit: the sign of a zero and the payload of a NaN count.

    Parameters
    ----------
    original, decoded : (...)
        Of the same native dtype.
    """
    width = f"u{original.dtype.itemsize}"
    found: NDArray[np.bool_] = np.ascontiguousarray(original).view(width) != np.ascontiguousarray(decoded).view(width)
    return found


def magnitudes(original: Array, decoded: Array) -> NDArray[np.float64]:
    """|original - decoded|, rounded up to a float64.

    So a magnitude is above a bound, itself a float64, exactly where the difference of the real numbers is. For floats
    the difference is taken with its rounding error e (TwoSum: Knuth, The Art of Computer Programming 2, 4.2.2):

        s = fl(a - b),   e = (a - (s - (s - a))) + (-b - (s - a)),   a - b = s + e

    Parameters
    ----------
    original, decoded : (...)
        Integers, floats of up to 64 bits, or bool, of the same dtype. Where they are not finite, what comes out means
        nothing.
    """
    if original.dtype.kind in "iub":
        low, high = np.minimum(original, decoded), np.maximum(original, decoded)
        exact = high.astype(np.uint64) - low.astype(np.uint64)  # modulo 2^64: right for signed ones too
        rounded = exact.astype(np.float64)
        if original.dtype.itemsize < 8:
            return rounded
        below = (rounded < 2.0**64) & (np.minimum(rounded, 2.0**64 - 2048).astype(np.uint64) < exact)
        return np.where(below, np.nextafter(rounded, np.inf), rounded)
    a, b = original.astype(np.float64), -decoded.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        total = a + b
        rest = total - a
        error = (a - (total - rest)) + (b - rest)
        size = np.abs(total)
        above = np.where(total > 0, error, -error) > 0
    return np.where(above, np.nextafter(size, np.inf), size)
