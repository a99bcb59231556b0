"""What every codec of ours promises about a decoded chunk, checked in exact arithmetic."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.codec.config import CodecConfig

__all__ = [
    "assert_kept",
    "assert_size",
    "assert_snr",
    "assert_specials_kept",
    "assert_within_bound",
    "signal_to_noise",
    "special_values",
]

SNR_SAMPLES = 1024
SNR_TOLERANCE = 0.5


def assert_kept(array: NDArray[Any], decoded: NDArray[Any], config: CodecConfig) -> None:
    """Check the promises about values (docs/guarantees.md) for one chunk.

    Parameters
    ----------
    array, decoded
        The chunk before encoding and after decoding.
    config
        What it was encoded with.

    Raises
    ------
    AssertionError
        If a promise is broken; the message says which, where and by how much.
    """
    value = config.nodata_as(array.dtype)
    nodata: int | float | None = None if value is None else value.item()
    if config.lossless or config.max_error is not None:
        assert_within_bound(array, decoded, config.max_error or 0.0, nodata)
    else:
        assert_specials_kept(array, decoded, nodata)
    if config.snr is not None:
        assert_snr(array, decoded, config.snr, nodata)


def special_values(array: NDArray[Any], nodata: float | int | None = None) -> NDArray[np.bool_]:
    """Where a chunk holds NaN, infinities or nodata (compared by value in the dtype of the chunk).

    Parameters
    ----------
    array
        Samples.
    nodata
        Value that stands for missing data, or None.

    Returns
    -------
    ndarray of bool
        Same shape.
    """
    special: NDArray[np.bool_] = ~np.isfinite(array)
    if nodata is not None:
        special |= array == np.array(nodata, array.dtype)
    return special


def assert_specials_kept(array: NDArray[Any], decoded: NDArray[Any], nodata: float | int | None = None) -> None:
    """Check shape and dtype, that special values came back bit for bit, and that no other value became special.

    Parameters
    ----------
    array, decoded
        The chunk before encoding and after decoding.
    nodata
        Value that stands for missing data, or None.

    Raises
    ------
    AssertionError
        If a promise is broken.
    """
    assert decoded.shape == array.shape, f"shape {decoded.shape} instead of {array.shape}"
    assert decoded.dtype == array.dtype, f"dtype {decoded.dtype} instead of {array.dtype}"
    special = special_values(array, nodata)
    _assert_same_bits(array, decoded, special, "special")
    changed = np.argwhere(~special & special_values(decoded, nodata))
    if len(changed):
        at = tuple(int(i) for i in changed[0])
        raise AssertionError(
            f"{len(changed)} valid values became NaN, infinite or nodata; at {at} {array[at]!r} became {decoded[at]!r}"
        )


def assert_within_bound(
    original: NDArray[Any], decoded: NDArray[Any], max_error: float, nodata: float | int | None = None
) -> None:
    """Check everything that a bound promises: shape, dtype, special values, and the bound itself, exactly.

    Parameters
    ----------
    original, decoded
        The chunk before encoding and after decoding.
    max_error
        The bound; 0: every value came back bit for bit.
    nodata
        Value that stands for missing data, or None.

    Raises
    ------
    AssertionError
        If a promise is broken; the message says where and by how much.
    """
    assert_specials_kept(original, decoded, nodata)
    if max_error == 0:
        _assert_same_bits(original, decoded, np.ones(original.shape, np.bool_), "lossless")
        return
    valid = ~special_values(original, nodata)
    a, b = original[valid], decoded[valid]
    # Rounding is monotonic: a rounded difference below the bound belongs to an exact one below it. Others are looked at
    # in rational arithmetic.
    with np.errstate(over="ignore"):
        suspects = ~(np.abs(a.astype(np.longdouble) - b.astype(np.longdouble)) < np.longdouble(max_error))
    for x, y in zip(a[suspects].tolist(), b[suspects].tolist(), strict=True):
        miss = abs(Fraction(x) - Fraction(y)) - Fraction(max_error)
        assert miss <= 0, f"{x!r} became {y!r}, which misses the bound {max_error!r} by {float(miss):.3g}"


def signal_to_noise(array: NDArray[Any], decoded: NDArray[Any], nodata: float | int | None = None) -> float:
    """10 log10(variance / mse) over the finite valid values, in dB; infinite where nothing differs.

    Parameters
    ----------
    array, decoded
        The chunk before encoding and after decoding.
    nodata
        Value that stands for missing data, or None.
    """
    valid = ~special_values(array, nodata)
    a, b = array[valid].astype(np.longdouble), decoded[valid].astype(np.longdouble)
    largest = np.abs(a).max(initial=0) or np.longdouble(1)
    a, b = a / largest, b / largest
    mse = float(np.square(a - b).mean()) if a.size else 0.0
    if mse == 0:
        return math.inf
    variance = float(a.var())
    return 10 * math.log10(variance / mse) if variance > 0 else -math.inf


def assert_snr(array: NDArray[Any], decoded: NDArray[Any], snr: float, nodata: float | int | None = None) -> None:
    """Check that a signal-to-noise ratio is met within 0.5 dB, unless rounding to the dtype alone costs as much.

    Nothing is promised, and nothing checked, for chunks with fewer than 1024 finite valid values.

    Parameters
    ----------
    array, decoded
        The chunk before encoding and after decoding.
    snr
        Target in dB.
    nodata
        Value that stands for missing data, or None.

    Raises
    ------
    AssertionError
        If the target is missed.
    """
    values = array[~special_values(array, nodata)]
    if values.size < SNR_SAMPLES:
        return
    got = signal_to_noise(array, decoded, nodata)
    assert got > -math.inf, "a constant chunk changed"
    if got == math.inf:
        return
    largest = float(np.abs(values.astype(np.longdouble)).max())
    unit = 1.0
    if array.dtype.kind == "f":
        top = np.abs(values).max()
        unit = float(top) - float(np.nextafter(top, np.zeros_like(top)))
    variance = float((values.astype(np.longdouble) / largest).var())
    floor = 10 * math.log10(variance / max((unit / largest) ** 2 / 12, 1e-300))
    assert got >= min(snr, floor) - SNR_TOLERANCE, f"snr is {got:.2f} dB, the target {snr:.2f} dB"


def assert_size(array: NDArray[Any], frame: bytes) -> None:
    """Check that a frame takes at most 1 % and 1 KiB more than its chunk.

    Parameters
    ----------
    array
        The chunk.
    frame
        Its frame.

    Raises
    ------
    AssertionError
        If it is longer.
    """
    assert len(frame) <= array.nbytes * 1.01 + 1024, f"{array.nbytes} bytes became a frame of {len(frame)} bytes"


def _assert_same_bits(before: NDArray[Any], after: NDArray[Any], where: NDArray[np.bool_], what: str) -> None:
    """Check that samples have the same bits."""
    unsigned = f"u{before.dtype.itemsize}"
    a = np.ascontiguousarray(before).view(unsigned).reshape(before.shape)
    b = np.ascontiguousarray(after).view(unsigned).reshape(before.shape)
    changed = np.argwhere(where & (a != b))
    if len(changed):
        at = tuple(int(i) for i in changed[0])
        raise AssertionError(
            f"{len(changed)} {what} values changed; at {at} the bytes {before[at].tobytes().hex()} ({before[at]!r}) "
            f"became {after[at].tobytes().hex()} ({after[at]!r})"
        )
