"""How numba kernels are compiled in this package."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

from numba import njit

__all__ = ["kernel"]

Function = TypeVar("Function", bound=Callable[..., object])


def kernel(function: Function) -> Function:
    """Compile lazily, without the GIL, without value-changing optimisations, cached on disk where that is possible.

    numba refuses to decorate at all where neither the package nor the user's cache folder can be written (read-only
    images, services without a home); such a process compiles for itself.
    """
    try:
        return cast(Function, njit(nogil=True, cache=True)(function))
    except RuntimeError:
        return cast(Function, njit(nogil=True)(function))
