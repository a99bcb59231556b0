"""What every codec of ours promises about a decoded chunk, checked in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.codec.config import CodecConfig

__all__ = ["assert_kept"]

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
    assert decoded.shape == array.shape, f"shape {decoded.shape} instead of {array.shape}"
    assert decoded.dtype == array.dtype, f"dtype {decoded.dtype} instead of {array.dtype}"
    bits = np.dtype(f"u{array.dtype.itemsize}")
    before = np.ascontiguousarray(array).view(bits)
    after = np.ascontiguousarray(decoded).view(bits)
    nodata = config.nodata_as(array.dtype)
    missing = np.zeros(array.shape, bool) if nodata is None else array == nodata
    special = missing | ~np.isfinite(array)
    exact = special if not config.lossless else np.ones(array.shape, bool)
    wrong = np.argwhere(exact & (before != after))
    assert not len(wrong), f"{len(wrong)} exact values changed, the first at {tuple(wrong[0])}"
    valid = ~special
    assert np.isfinite(decoded[valid]).all(), "finite values became infinite or NaN"
    if nodata is not None:
        assert not (decoded[valid] == nodata).any(), "valid values became nodata"
    if config.max_error is not None:
        check_bound(array[valid], decoded[valid], config.max_error)
    if config.snr is not None and valid.sum() >= SNR_SAMPLES:
        check_snr(array[valid], decoded[valid], config.snr)


def check_bound(a: NDArray[Any], b: NDArray[Any], bound: float) -> None:
    """|a - b| <= bound, exactly."""
    error = np.abs(a.astype(np.longdouble) - b.astype(np.longdouble))
    for x, y in zip(a[error > bound * (1 - 1e-12)].tolist(), b[error > bound * (1 - 1e-12)].tolist(), strict=True):
        miss = abs(Fraction(x) - Fraction(y)) - Fraction(bound)
        assert miss <= 0, f"{x!r} became {y!r}, which misses the bound {bound!r} by {float(miss):.3g}"


def check_snr(a: NDArray[Any], b: NDArray[Any], snr: float) -> None:
    """The target is met, unless rounding to the dtype itself costs as much."""
    largest = float(np.abs(a.astype(np.longdouble)).max()) or 1.0
    x, y = a.astype(np.longdouble) / largest, b.astype(np.longdouble) / largest
    variance, mse = float(x.var()), float(np.square(x - y).mean())
    if mse == 0 or variance == 0:
        assert mse <= variance, "a constant chunk changed"
        return
    got = 10 * np.log10(variance / mse)
    unit = 1.0 if a.dtype.kind != "f" else float(np.spacing(np.abs(a)).astype(np.longdouble).max())
    floor = 10 * np.log10(variance / max((unit / largest) ** 2 / 12, 1e-300))
    assert got >= min(snr, floor) - SNR_TOLERANCE, f"snr is {got:.2f} dB, the target {snr:.2f} dB"
