"""Statistics of channels and the Karhunen-Loeve basis that decorrelates them.

The moments are sums of integers: exact, and so the same for any library, thread count or order. The eigenbasis is
computed in floats, in a fixed order (linalg.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, is_numpy_array
from numpy.typing import NDArray

from xwalloc.errors import BudgetError, ConfigError
from xwalloc.transform.kernels import largest_magnitude
from xwalloc.transform.linalg import eigh
from xwalloc.types import Parallel, in_turn

__all__ = ["Moments", "from_sums", "klt", "moments"]

EXACT_LIMIT = 2**53
PARTS = 4
"""Products are added up in so many parts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """First and second moments of channels.

    Parameters
    ----------
    mean
        Shape (channel,), in the units of the data.
    covariance
        Shape (channel, channel), symmetric: mean of the products of deviations from the mean (divided by the number of
        samples), in squared units.
    """

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]


def moments(x: Any, *, bound: float | None = None, parallel: Parallel = in_turn) -> Moments:
    """Means and covariance of integer-valued channels, from exact sums.

    Parameters
    ----------
    x
        Shape (channel, n), integer-valued float64, of NumPy or another array-API library.
    bound
        A value that no magnitude in `x` exceeds, where the caller knows one: saves a pass over the data. It is trusted.
    parallel
        Runs a function over items, perhaps on several threads; results in order.

    Returns
    -------
    NumPy arrays that are the same bits whatever library, device or thread count did the sums; every entry is right to
    a few units in the last place of the covariance itself, however large the means.

    Raises
    ------
    ConfigError
        If `x` is not a float64 matrix with at least one sample.
    BudgetError
        If n * max |x|^2 reaches 2^53 (or a value is not finite): sums could be inexact. Use coarser or fewer samples.
    """
    xp = array_namespace(x)
    if x.ndim != 2 or x.shape[1] == 0 or x.dtype != xp.float64:
        raise ConfigError(f"Expected float64 of shape (channel, n). Got {x.dtype} of shape {tuple(x.shape)}.")
    count = x.shape[1]
    if bound is None:
        bound = _largest(x)
    if not bound * bound * count < EXACT_LIMIT:
        raise BudgetError(
            f"Expected magnitudes of at most {math.isqrt((EXACT_LIMIT - 1) // count)} for {count} samples. "
            f"Got {bound}: use coarser or fewer samples."
        )
    parts = [x[:, i * count // PARTS : (i + 1) * count // PARTS] for i in range(PARTS)]
    products = sum(parallel(lambda part: _integers(part @ part.T), parts))
    sums = _integers(xp.sum(x, axis=1))
    return from_sums(np.asarray(products), sums, count)


def from_sums(products: NDArray[np.int64], sums: NDArray[np.int64], count: int) -> Moments:
    """Moments of integers from sums that were taken elsewhere.

    Parameters
    ----------
    products
        Shape (channel, channel): sums of products.
    sums
        Shape (channel,): sums of samples.
    count
        How many samples a channel has.
    """
    # Move the origin to an integer near each mean, still exactly (below 2^55 in int64): means that are large against
    # the deviations then cancel no digits.
    origin = np.rint(sums / count).astype(np.int64)
    products = products - origin[:, None] * sums - sums[:, None] * origin + count * origin[:, None] * origin
    rest = (sums - count * origin) / count
    return Moments(mean=origin + rest, covariance=products / count - rest[:, None] * rest)


def klt(covariance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Karhunen-Loeve transform: the orthonormal basis in which channels are uncorrelated.

    Parameters
    ----------
    covariance
        Shape (channel, channel), symmetric, finite.

    Returns
    -------
    variances
        Shape (channel,): eigenvalues, descending, not below zero.
    basis
        Shape (channel, channel): basis vectors as rows, see `xwalloc.transform.linalg.eigh` for their signs.
        Components of x are `basis @ (x - mean)`.

    Raises
    ------
    ConfigError
        If `covariance` is not a finite square matrix.
    """
    variances, basis = eigh(covariance)
    return np.maximum(variances, 0.0), basis


def _largest(x: Any) -> float:
    if is_numpy_array(x):
        return largest_magnitude(np.ascontiguousarray(x).reshape(-1))
    xp = array_namespace(x)
    return float(xp.max(xp.abs(x))) if math.prod(x.shape) else 0.0


def _integers(x: Any) -> NDArray[np.int64]:
    if not is_numpy_array(x):
        x = array_namespace(x).asarray(x, device="cpu")
    return np.asarray(x).astype(np.int64)
