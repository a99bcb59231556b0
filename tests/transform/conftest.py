"""The transforms as their docstring defines them: dense matrices, one segment at a time, any number type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from xwalloc.transform.filters import ExactFilters, FilterPair
from xwalloc.transform.tree import Plan


def mapped(m: int, n: int, boundary: str) -> int:
    """Index that stands for index m of the extended signal."""
    if boundary == "periodization":
        return m % n
    m %= 2 * n - 2
    return min(m, 2 * n - 2 - m)


def dense_matrix(n: int, filters: FilterPair, boundary: str, synthesis: bool) -> np.ndarray:
    """Matrix of one filtering between natural and Mallat order, shape (n, n), of Python numbers."""
    matrix = np.zeros((n, n), object)
    lows = (n + 1) // 2

    def stored(m: int) -> int:
        return m // 2 if m % 2 == 0 else lows + m // 2

    sides = ((filters.lo, filters.lo_origin), (filters.hi, filters.hi_origin))
    for m in range(-4 * n - 100, 5 * n + 100):
        taps, origin = sides[m % 2]
        for j, tap in enumerate(taps):
            if synthesis:  # y[m] of the extended signal goes to x[m + t]
                target = m + j - origin
                if 0 <= target < n:
                    matrix[target, stored(mapped(m, n, boundary))] += tap
            elif 0 <= m < n:
                matrix[stored(m), mapped(m + j - origin, n, boundary)] += tap
    return matrix


def reference_transform(x: np.ndarray, plan: Plan, filters: FilterPair, boundary: str, synthesis: bool) -> np.ndarray:
    """Apply `plan.steps`; with `ExactFilters` in Python integers, rounded after every step."""
    exact = isinstance(filters, ExactFilters)
    data: Any = x.astype(object)
    if exact:
        data = np.vectorize(int, otypes=[object])(x)
    rank = len(plan.shape)
    for step in plan.steps[::-1] if synthesis else plan.steps:
        start = 0
        for n in step.segments:
            slices = [slice(0, extent) for extent in step.extents]
            slices[step.axis] = slice(start, start + n)
            axis = step.axis - rank
            block = np.moveaxis(data[(..., *slices)], axis, -1)
            result = block @ dense_matrix(n, filters, boundary, synthesis).T
            if isinstance(filters, ExactFilters):
                result = rounded(result, filters.shift)
            data[(..., *slices)] = np.moveaxis(result, -1, axis)
            start += n
    return np.asarray(data, np.float64)


def rounded(values: np.ndarray, shift: int) -> np.ndarray:
    """Integers divided by 2^shift, halves to even."""
    one = 1 << shift
    quotient, rest = values // one, values % one
    up = (2 * rest > one) | ((2 * rest == one) & (quotient % 2 == 1))
    return np.asarray(quotient + up.astype(int).astype(object))


@pytest.fixture(name="dense_matrix")
def dense_matrix_fixture() -> Callable[..., np.ndarray]:
    """The function `dense_matrix`."""
    return dense_matrix


@pytest.fixture(name="reference_transform")
def reference_transform_fixture() -> Callable[..., np.ndarray]:
    """The function `reference_transform`."""
    return reference_transform
