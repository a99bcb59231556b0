"""Convolutions of small integers that are the same bits in every library, on every device.

Activations are integers of magnitude 127 or less, weights int8. A layer computes, for every place of a grid,

    sum = bias + sum over taps and inputs of weight * input
    output = floor((sum + 2^(shift - 1)) / 2^shift)          (without the half where shift is 0), clipped

in float32. All numbers are integers, and for every output sum |weight| * 127 + |bias| + 2^(shift - 1) < 2^24
(`bound_of`), so that every partial sum is exact in any order, with or without fused multiply-add, and also where a
device multiplies with the 8 bits of bfloat16 or the 11 of TF32, which hold int8 exactly, and adds in float32. A
division by a power of two and a floor are exact as well. So NumPy, torch, every BLAS, thread count and batch agree.

A grid is stored flat, with one place of zeros behind every axis: a shifted grid is then a shifted slice, and what
a kernel reads beyond a border is such a place. A convolution is the product of the weights with stacked slices.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

__all__ = ["EXACT_LIMIT", "LARGEST", "TAPS", "Layer", "Prepared", "bound_of", "pad", "prepare", "run", "unpad"]

LARGEST = 127
"""Largest magnitude of an activation, an input and a correction."""

EXACT_LIMIT = 1 << 24
"""Integers of smaller magnitude, and their sums below it, are exact in float32."""

TAPS = 3
"""Kernel of a convolution along every signal axis."""

TILE, STACK = 2048, 1 << 21
"""Places whose stacked slices are made at once, and at most so many numbers: a few megabytes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """Weights of a layer.

    Parameters
    ----------
    weight : (output, input, *kernel) int8
        Kernel of `TAPS` or 1 along each axis.
    bias : (output,) int32
        In units of the sum.
    shift : (output,) uint8
        Fractional bits to round away.
    """

    weight: NDArray[np.int8]
    bias: NDArray[np.int32]
    shift: NDArray[np.uint8]


def bound_of(weight: NDArray[np.int8], bias: NDArray[np.int32], shift: NDArray[np.uint8]) -> int:
    """What no partial sum of a layer exceeds, rounding included."""
    sums = np.abs(weight.astype(np.int64)).reshape(len(weight), -1).sum(axis=1)
    return int((sums * LARGEST + np.abs(bias.astype(np.int64)) + (1 << shift.astype(np.int64)) // 2).max(initial=0))


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A layer as arrays of a library on a device: matrix (output, tap * input), offset and scale (output, 1)."""

    matrix: Any
    offset: Any
    scale: Any
    taps: int


def prepare(layer: Layer, like: Any) -> Prepared:
    """A layer for arrays such as `like`."""
    xp = array_namespace(like)
    outputs, inputs = layer.weight.shape[:2]
    matrix = np.moveaxis(layer.weight.reshape(outputs, inputs, -1), 1, 2).reshape(outputs, -1)
    shift = layer.shift.astype(np.int64)
    parts = (matrix, (layer.bias + (1 << shift) // 2)[:, None], np.ldexp(1.0, -shift)[:, None])
    made = [xp.asarray(np.ascontiguousarray(p, np.float32), device=device(like)) for p in parts]
    return Prepared(matrix=made[0], offset=made[1], scale=made[2], taps=matrix.shape[1] // inputs)


def pad(planes: Any) -> Any:
    """Planes (plane, item, *grid) stored flat with zeros behind every axis: (plane, item * place)."""
    xp = array_namespace(planes)
    for axis in range(2, planes.ndim):
        shape = list(planes.shape)
        shape[axis] = 1
        planes = xp.concat([planes, xp.zeros(shape, dtype=planes.dtype, device=device(planes))], axis=axis)
    return xp.reshape(planes, (planes.shape[0], -1))


def unpad(flat: Any, grid: Sequence[int]) -> Any:
    """Inverse of `pad`: (plane, item, *grid)."""
    xp = array_namespace(flat)
    planes = xp.reshape(flat, (flat.shape[0], -1, *(n + 1 for n in grid)))
    return planes[(slice(None), slice(None), *(slice(0, n) for n in grid))]


def shifts(grid: Sequence[int], taps: int) -> list[int]:
    """Offset in the flat grid of each tap, the last axis running fastest."""
    if taps == 1:
        return [0]
    strides = [math.prod(n + 1 for n in grid[axis + 1 :]) for axis in range(len(grid))]
    reach = range(-(TAPS // 2), TAPS // 2 + 1)
    return [sum(o * s for o, s in zip(at, strides, strict=True)) for at in itertools.product(reach, repeat=len(grid))]


def run(flat: Any, layer: Prepared, grid: Sequence[int], low: int, extra: Any = None) -> Any:
    """Output of a layer for planes stored by `pad`: (output, item * place), zeros behind every axis again.

    Parameters
    ----------
    flat : (input, item * place) float32
        Input.
    layer
        Weights.
    grid
        Extent of the grid.
    low
        Outputs are clipped from here (0 or -`LARGEST`) to `LARGEST`.
    extra : (output, item) float32, optional
        Integers that are added to the sums of each item; part of the bound.
    """
    xp = array_namespace(flat)
    where = device(flat)
    size = math.prod(n + 1 for n in grid)
    inside = np.zeros(tuple(n + 1 for n in grid), np.float32)
    inside[tuple(slice(0, n) for n in grid)] = 1
    mask = xp.asarray(inside.reshape(-1), device=where)
    offsets = shifts(grid, layer.taps)
    margin = max(offsets)
    if margin:
        zeros = xp.zeros((flat.shape[0], margin), dtype=flat.dtype, device=where)
        flat = xp.concat([zeros, flat, zeros], axis=1)
    total = flat.shape[1] - 2 * margin
    tile = max(1, min(TILE, STACK // layer.matrix.shape[1]))
    done = []
    for start in range(0, total, tile):
        stop = min(start + tile, total)
        slices = [flat[:, margin + start + o : margin + stop + o] for o in offsets]
        sums = layer.matrix @ (xp.concat(slices, axis=0) if len(slices) > 1 else slices[0]) + layer.offset
        places = np.arange(start, stop)
        if extra is not None:
            sums = sums + xp.take(extra, xp.asarray(places // size, device=where), axis=1)
        outputs = xp.clip(xp.floor(sums * layer.scale), low, LARGEST)
        done.append(outputs * xp.take(mask, xp.asarray(places % size, device=where), axis=0))
    return xp.concat(done, axis=1) if len(done) > 1 else done[0]
