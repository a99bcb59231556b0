"""How numba kernels are compiled in this package."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar, cast

from numba import njit
from numba.core import event

__all__ = ["allocating_kernel", "inline_kernel", "kernel"]

Function = TypeVar("Function", bound=Callable[..., object])

logger = logging.getLogger(__name__)
NOTICE = (
    "Compiling kernels of xwalloc for this machine: the first chunk of a kind takes up to a minute of a core, once."
)


def kernel(function: Function) -> Function:
    """Compile lazily, without the GIL and without value-changing optimisations.

    Such a kernel can't make arrays. In return it doesn't count references: numba otherwise does so, atomically, for
    every slice and every array that is passed on, which costs a multiple of the work of an inner loop and has threads
    fight for the counters of the arrays that they share.
    """
    return _compiled(function, _nrt=False)


def inline_kernel(function: Function) -> Function:
    """`kernel` for what inner loops call for every sample: LLVM has no say in whether it is inlined."""
    return _compiled(function, _nrt=False, forceinline=True)


def allocating_kernel(function: Function) -> Function:
    """`kernel` for functions that make arrays; what is called often belongs into kernels that they call."""
    return _compiled(function)


class _Notice(event.Listener):
    """Says before the first compilation in this process what the user is waiting for."""

    given = False

    def on_start(self, event: event.Event) -> None:
        if not self.given and event.data["dispatcher"].py_func.__module__.startswith("xwalloc."):
            self.given = True
            logger.warning(NOTICE)

    def on_end(self, event: event.Event) -> None:
        pass


event.register("numba:compile", _Notice())  # type: ignore[no-untyped-call]


def _compiled(function: Function, **options: Any) -> Function:
    """A dispatcher, cached on disk where that is possible.

    numba refuses to decorate at all where neither the package nor the user's cache folder can be written (read-only
    images, services without a home); such a process compiles for itself.
    """
    options |= {"nogil": True, "error_model": "numpy"}
    try:
        return cast(Function, njit(cache=True, **options)(function))
    except RuntimeError:
        return cast(Function, njit(**options)(function))
