"""Wavelet transforms on 1 to 3 trailing axes: in floats, and in exact integers that are the same bits everywhere.

What a transform computes
-------------------------
`plan.steps` names the one-axis filterings of a forward transform in their order: levels from 1 (finest) upwards, within
a level axes from last to first. An inverse transform takes the same steps in exactly the reverse order. One step
works on the block [0, extent) of every signal axis and filters every segment of `step.axis` in it on its own.

Let n be the length of a segment, ceil(n / 2) of whose coefficients are low-pass. *Mallat* order stores these
first, then the high-pass; the *interleaved* signal y has low-pass coefficient k as y[2k] and high-pass coefficient
k as y[2k + 1]. Let map(m) be the index that stands for index m of the extended signal:

    reflect         m mod (2n - 2), and 2n - 2 minus that where it is n or more     (whole-sample symmetric)
    periodization   m mod n                                                        (n must be even)

    analysis        y[m] = sum over t of h_(m mod 2)[t] x[map(m + t)]
    synthesis       x[i] = sum over t of g_((i + t) mod 2)[-t] y[map(i + t)]

with h_0, g_0 = `lo` and h_1, g_1 = `hi` of the analysis or the synthesis filters.

Exactness
---------
The exact transforms take integer filters (scale 2^shift) and integer-valued float64 data. After every step each value s
becomes rint(s * 2^-shift), halves to even, as positive zero if it is zero. All sums are of integers, and as long
as the largest magnitude of the block times the largest L1 norm of a row (`Rows.gain`) is below 2^53, every partial
sum is exact in float64, in any order, with or without fused multiply-add: so NumPy, torch, every BLAS, thread count and
batch give identical bits. This is checked before each step; beyond it, `BudgetError` is raised.

NumPy arrays take numba kernels (kernels.py), other arrays banded matrix products (blocked.py). For planes on
a CUDA device, `xwalloc.device.wavelet` has kernels of its own.

References
----------
Mallat, A theory for multiresolution signal decomposition, IEEE PAMI 11(7), 1989. Cohen, Daubechies, Feauveau,
Biorthogonal bases of compactly supported wavelets, CPAM 45, 1992. Brislawn, Classification of nonexpansive symmetric
extension transforms, ACHA 3, 1996.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
from array_api_compat import array_namespace, is_numpy_array

from xwalloc.errors import BudgetError, ConfigError
from xwalloc.transform.blocked import BlockedRunner
from xwalloc.transform.filters import (
    REFLECTING,
    Boundary,
    ExactFilters,
    FilterPair,
    Side,
    Wavelet,
    analysis_rows,
    check_boundary,
    exact_filters,
    get_wavelet,
    synthesis_rows,
)
from xwalloc.transform.kernels import NumpyRunner
from xwalloc.transform.tree import MAX_LEVELS, Plan, Step, Subband, Tree, plan

__all__ = [
    "EXACT_LIMIT",
    "MAX_LEVELS",
    "REFLECTING",
    "Boundary",
    "Budget",
    "ExactFilters",
    "FilterPair",
    "Plan",
    "Side",
    "Step",
    "Subband",
    "Tree",
    "Wavelet",
    "check_transform",
    "exact_filters",
    "forward",
    "forward_exact",
    "get_wavelet",
    "inverse",
    "inverse_bound",
    "inverse_exact",
    "plan",
]

EXACT_LIMIT = 2**53
"""Integers of smaller magnitude, and their sums below it, are exact in float64."""


class Runner(Protocol):
    """Takes steps of a plan on the array that it holds."""

    def run(self, steps: tuple[Step, ...]) -> None: ...

    def largest(self, step: Step | None) -> float: ...


def forward(x: Any, plan: Plan, wavelet: Wavelet, boundary: Boundary, *, out: Any = None) -> Any:
    """Wavelet coefficients of float data.

    Parameters
    ----------
    x
        Shape (..., *plan.shape), float64, finite, of NumPy or another array-API library.
    plan
        Geometry, see `plan`.
    wavelet
        See `get_wavelet`.
    boundary
        "reflect" (wavelets in `REFLECTING`, any lengths) or "periodization" (any wavelet, every segment that is split
        must be of even length).
    out
        Where to put the result: an array like `x` (for NumPy C-contiguous), or `x` itself. None for a new array.

    Returns
    -------
    Coefficients in Mallat layout, of the shape and library of `x`. NumPy results do not depend on batch, threads or
    processor; those of other libraries are subject to their matrix product.

    Raises
    ------
    ConfigError
        If dtype, shape or wavelet do not suit.
    """
    return _float(x, plan, wavelet.analysis, boundary, False, out)


def inverse(c: Any, plan: Plan, wavelet: Wavelet, boundary: Boundary, *, out: Any = None) -> Any:
    """Data from wavelet coefficients: the inverse of `forward`, with the same parameters."""
    return _float(c, plan, wavelet.synthesis, boundary, True, out)


def forward_exact(
    x: Any, plan: Plan, filters: ExactFilters, boundary: Boundary, *, bound: float | None = None, out: Any = None
) -> Any:
    """Integer wavelet coefficients of integers, rounded after every step (see the module's docstring).

    Parameters
    ----------
    x
        Shape (..., *plan.shape), integer-valued float64, of NumPy or another array-API library.
    plan
        Geometry, see `plan`.
    filters
        Integer filters of the analysis side, see `exact_filters`.
    boundary
        "reflect" or "periodization", see `forward`.
    bound
        A value that no magnitude in `x` exceeds, where the caller knows one: saves a pass over the data. It is trusted:
        too small a bound lets inexact results through. The data are measured where a large bound does not suffice.
    out
        Where to put the result: an array like `x` (for NumPy C-contiguous), or `x` itself. None for a new array.

    Returns
    -------
    Integer-valued coefficients in Mallat layout, the same bits everywhere.

    Raises
    ------
    BudgetError
        If a step could leave the exact range; the contents of `out` are then undefined.
    ConfigError
        If dtype, shape or filters do not suit.
    """
    return _exact(x, plan, filters, boundary, False, bound, out)


def inverse_exact(
    c: Any, plan: Plan, filters: ExactFilters, boundary: Boundary, *, bound: float | None = None, out: Any = None
) -> Any:
    """Integers from integer wavelet coefficients, rounded after every step (see the module's docstring).

    Parameters, result and errors are those of `forward_exact`, with the filters of the synthesis side. It undoes
    `forward_exact` up to rounding.
    """
    return _exact(c, plan, filters, boundary, True, bound, out)


def inverse_bound(plan: Plan, filters: ExactFilters, largest: float) -> float:
    """What no result of `inverse_exact` exceeds if no coefficient exceeds `largest`; infinite if only data can tell."""
    budget = Budget(filters, True, largest)
    for _ in plan.steps:
        if not budget.admits:
            return math.inf
        budget.take()
    return budget.reach


class Budget:
    """What no value of an exact transform in progress exceeds.

    Parameters
    ----------
    filters
        Integer filters of the side that is transformed with.
    synthesis
        Whether the transform is an inverse one.
    bound
        A value that no magnitude in the input exceeds.

    Attributes
    ----------
    reach
        What no value of the block of the next step exceeds, as far as it can be told without looking.
    """

    def __init__(self, filters: ExactFilters, synthesis: bool, bound: float) -> None:
        self.gain = int((synthesis_rows if synthesis else analysis_rows)(filters).gain)
        self.shift, self.reach = filters.shift, _bound(bound)
        # In a synthesis, the next level also reads coefficients that no step has touched yet.
        self.least = self.reach if synthesis else 0

    @property
    def admits(self) -> bool:
        """Whether the next step is certain to be exact."""
        return self.reach * self.gain < EXACT_LIMIT

    def take(self) -> None:
        """Take the next step."""
        self.reach = max((self.reach * self.gain >> self.shift) + 1, self.least)

    def measured(self, largest: float, step: int, count: int) -> None:
        """Go by the largest magnitude that was found in the block of a step, counted from 1, of so many.

        Raises
        ------
        BudgetError
            If that step could leave the exact range all the same.
        """
        self.reach = _bound(largest)
        if not self.admits:
            raise BudgetError(
                f"Expected values of at most {(EXACT_LIMIT - 1) // self.gain} in step {step} of {count} of the "
                f"exact wavelet transform. Got {self.reach}: use a smaller shift than {self.shift} or coarser data."
            )


def check_transform(x: Any, plan: Plan, filters: FilterPair, boundary: str, out: Any) -> None:
    """Whether a transform can take these arguments.

    Raises
    ------
    ConfigError
        If dtype, shape or filters do not suit.
    """
    xp, rank = array_namespace(x), len(plan.shape)
    for name, array in (("input", x), ("out", out)):
        if array is None:
            continue
        if array.dtype != xp.float64:
            raise ConfigError(f"Expected {name} of dtype float64. Got {array.dtype}.")
        if tuple(array.shape[-rank:]) != plan.shape or tuple(array.shape) != tuple(x.shape):
            raise ConfigError(f"Expected {name} of shape (..., {plan.shape}). Got {tuple(array.shape)}.")
    check_boundary(filters, boundary)
    if boundary == "periodization":
        for step in plan.steps:
            if any(n % 2 for n in step.segments):
                raise ConfigError(
                    f"Expected signal axis {step.axis} to be divisible by {2 ** plan.splits[step.axis]} for boundary "
                    f"'periodization'. Got length {plan.shape[step.axis]}: pad it or use boundary='reflect'."
                )


def _float(x: Any, plan: Plan, filters: FilterPair, boundary: str, synthesis: bool, out: Any) -> Any:
    runner, out = _start(x, plan, filters, boundary, synthesis, None, out)
    runner.run(_steps(plan, synthesis))
    return out


def _exact(
    x: Any, plan: Plan, filters: ExactFilters, boundary: str, synthesis: bool, bound: float | None, out: Any
) -> Any:
    runner, out = _start(x, plan, filters, boundary, synthesis, filters.shift, out)
    steps = _steps(plan, synthesis)
    budget = Budget(filters, synthesis, runner.largest(None) if bound is None else bound)
    done = 0
    while done < len(steps):
        # Take as many steps at once as the propagated bound admits; measure the block of the next one only if none.
        until = done
        while until < len(steps) and budget.admits:
            budget.take()
            until += 1
        if until > done:
            runner.run(steps[done:until])
            done = until
        else:
            budget.measured(runner.largest(steps[done]), done + 1, len(steps))
    if not steps:
        runner.run(())
    return out


def _bound(value: float) -> int:
    """Smallest integer that is not below `value`; beyond every budget if it is not finite."""
    return math.ceil(value) if math.isfinite(value) else EXACT_LIMIT


def _steps(plan: Plan, synthesis: bool) -> tuple[Step, ...]:
    return plan.steps[::-1] if synthesis else plan.steps


def _start(
    x: Any, plan: Plan, filters: FilterPair, boundary: str, synthesis: bool, shift: int | None, out: Any
) -> tuple[Runner, Any]:
    """Check the arguments of a transform and choose who runs it."""
    check_transform(x, plan, filters, boundary, out)
    rank = len(plan.shape)
    rows = synthesis_rows(filters) if synthesis else analysis_rows(filters)
    reflect = boundary == "reflect"
    if not is_numpy_array(x):
        runner = BlockedRunner(x, out, rank, rows, shift, synthesis, reflect)
        return runner, runner.data
    if out is None:
        out = np.empty(x.shape)
    elif not (isinstance(out, np.ndarray) and out.flags.carray):
        raise ConfigError("Expected out to be a writeable C-contiguous NumPy array. Pass out=None.")
    return NumpyRunner(x, out, rank, rows, shift, synthesis, reflect), out
