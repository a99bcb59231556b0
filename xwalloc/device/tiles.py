# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""What kernels that work through planes, tile by tile, share: `samples`, `quantiser`, `trials`."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl

from xwalloc.device.memory import upload

__all__ = ["BLOCK", "WARPS", "clipped", "elements", "numbers", "per_plane", "place", "raise_to"]

BLOCK, WARPS = 1024, 4
"""Samples of a program that takes each for itself, and its warps."""


def elements(x: torch.Tensor) -> tuple[tuple[int, int], int, tuple[int]]:
    """Planes, samples of a plane, and the grid of programs that take `BLOCK` samples each."""
    planes, n = (x.shape[0], x.shape[1]), x[0, 0].numel() if x.numel() else 0
    return planes, n, (planes[0] * planes[1] * -(-n // BLOCK),)


def per_plane(values: torch.Tensor, planes: tuple[int, int]) -> torch.Tensor:
    """Numbers of planes, from what broadcasts to them."""
    return values.expand(planes).contiguous()


@lru_cache(maxsize=64)
def numbers(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Floats for a kernel, which would take them as float32 if they were handed to it as they are."""
    return upload(device, np.array(values))[0]


@triton.jit
def clipped(x):
    """Float64 in the range of int32 without its lowest number. (A literal would become a float32 here.)"""
    largest = tl.full(x.shape, 2147483647.0, tl.float64)
    return tl.minimum(tl.maximum(x, -largest), largest)


@triton.jit
def place(n, tile_count, BLOCK: tl.constexpr):
    """Plane of this program, its samples in the plane, where they lie in all planes, and which of them exist."""
    at = tl.program_id(0)
    plane = (at // tile_count).to(tl.int64)
    i = at % tile_count * BLOCK + tl.arange(0, BLOCK)
    return plane, plane * n + i, i < n


@triton.jit
def raise_to(largest, values):
    """Raise a maximum, kept as bits, to that of float64 values without sign, whose bits are ordered as they are."""
    bits = values.to(tl.int64, bitcast=True)
    tl.atomic_max(largest, tl.max(bits, axis=0))
