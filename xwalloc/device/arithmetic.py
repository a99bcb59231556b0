# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""What kernels of this package share: rounding as NumPy rounds, numbers on their way to a device.

Kernels are launched with `EXACT`: otherwise Triton contracts a product and a sum into a fused multiply-add, which
rounds once where the kernels for a CPU round twice.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

__all__ = ["EXACT", "nearest", "rint"]

EXACT: dict[str, Any] = {"enable_fp_fusion": False}
"""Options with which every kernel is launched."""


@triton.jit
def nearest(x):
    """The nearest integer, halves to even, of float64; the sign of a zero is arbitrary."""
    below = tl.floor(x)
    rest = x - below  # exact
    even = 2.0 * tl.floor(0.5 * below + 0.5)
    return tl.where(rest > 0.5, below + 1.0, tl.where(rest < 0.5, below, even))


@triton.jit
def rint(x):
    """`nearest`, with zeros that have the sign of `x`: as NumPy's function of that name, to the bit."""
    whole = nearest(x)
    return tl.where(whole == 0.0, x * 0.0, whole)
