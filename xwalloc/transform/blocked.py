"""Filtering of arrays of any array-API library (torch on a GPU) by banded matrix products.

An axis is cut into tiles of outputs. A tile takes a window of inputs, gathered by an index table that already holds the
extension at the boundary and the storage order, and multiplies it with one small matrix that all tiles share: work
and memory grow with the length of the axis, not with its square. Surplus outputs of the last tile are dropped.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from xwalloc.transform.filters import Rows
from xwalloc.transform.tree import Step

__all__ = ["BlockedRunner", "gather_tables", "tile_matrix"]

TILE = 64
"""Outputs per tile."""

CACHED_LENGTH = 8192
"""Index tables of longer axes are computed anew: they would fill the cache with megabytes."""

Integers = NDArray[np.int64]


class BlockedRunner:
    """Runs steps of a plan on an array of any array-API library.

    Parameters
    ----------
    x
        Input, float64, shape (..., *signal).
    out
        Array of the same shape that receives the result; may be `x` itself. None for a new array.
    rank
        Number of signal axes.
    rows
        What outputs gather.
    shift
        Fractional bits to round away after every step; None for no rounding.
    synthesis
        False: interleaved to Mallat order. True: Mallat to interleaved order.
    reflect
        Whole-sample symmetric extension; periodic otherwise.
    """

    def __init__(
        self, x: Any, out: Any, rank: int, rows: Rows, shift: int | None, synthesis: bool, reflect: bool
    ) -> None:
        self.xp = array_namespace(x)
        if out is None:
            out = self.xp.asarray(x, copy=True)
        elif out is not x:
            out[...] = x
        self.data, self.rank, self.rows, self.shift, self.mode = out, rank, rows, shift, (synthesis, reflect)

    def run(self, steps: tuple[Step, ...]) -> None:
        """Take some steps in the given order."""
        for step in steps:
            where = self._block(step)
            self.data[where] = self._filtered(self.data[where], step)

    def largest(self, step: Step | None) -> float:
        """Largest magnitude in the block of a step, or anywhere."""
        block = self.data if step is None else self.data[self._block(step)]
        return float(self.xp.max(self.xp.abs(block))) if math.prod(block.shape) else 0.0

    def _block(self, step: Step) -> tuple[Any, ...]:
        return (..., *(slice(0, n) for n in step.extents))

    def _filtered(self, block: Any, step: Step) -> Any:
        xp, synthesis, reflect = self.xp, *self.mode
        width = min(TILE, max(step.segments) + 1 & ~1)
        tables = _cached_tables if sum(step.segments) <= CACHED_LENGTH else _device_tables
        inputs, outputs = tables(step.segments, width, self.rows.reach, synthesis, reflect, xp, device(block))
        matrix = _device_matrix(self.rows, width, xp, device(block))
        axis = block.ndim - self.rank + step.axis
        lead, tail = math.prod(block.shape[:axis]), math.prod(block.shape[axis + 1 :])
        tiles = inputs.shape[0] // matrix.shape[0]
        windows = xp.take(xp.reshape(block, (lead, -1, tail)), inputs, axis=1)
        if tail == 1:
            result = xp.reshape(windows, (lead * tiles, -1)) @ matrix
        else:
            result = matrix.T @ xp.reshape(windows, (lead, tiles, -1, tail))
        result = xp.take(xp.reshape(result, (lead, tiles * width, tail)), outputs, axis=1)
        if self.shift is not None:
            # Adding zero makes negative zeros positive: which of the two a sum yields depends on its order.
            result = xp.round(result * 2.0**-self.shift) + 0.0
        return xp.reshape(result, block.shape)


@lru_cache(maxsize=256)
def tile_matrix(rows: Rows, width: int) -> NDArray[np.float64]:
    """Matrix of a tile, shape (window, width): outputs in interleaved order, the first one even."""
    first, last = rows.reach
    matrix = np.zeros((width + last - first, width))
    for j in range(width):
        taps, at = (rows.odd, rows.odd_first) if j % 2 else (rows.even, rows.even_first)
        start = j + at - first
        matrix[start : start + len(taps), j] = taps
    return matrix


def gather_tables(
    segments: tuple[int, ...], width: int, reach: tuple[int, int], synthesis: bool, reflect: bool
) -> tuple[Integers, Integers]:
    """What tiles read from an axis, and where on it their outputs go.

    Parameters
    ----------
    segments
        Lengths of adjacent segments.
    width
        Outputs per tile, an even number.
    reach
        Relative positions of the first and the last input that an output needs.
    synthesis, reflect
        See `BlockedRunner`.

    Returns
    -------
    inputs
        Shape (tiles * window,): index along the axis of each entry of each window.
    outputs
        Shape (sum of segments,): for each entry of the result its index among all outputs of all tiles.
    """
    inputs, outputs = [], []
    start = made = 0
    for n in segments:
        tiles = -(-n // width)
        m = np.arange(tiles)[:, None] * width + np.arange(reach[0], width + reach[1])
        if reflect:
            m %= 2 * n - 2
            m = np.minimum(m, 2 * n - 2 - m)
        else:
            m %= n
        lows = (n + 1) // 2
        inputs.append((start + (np.where(m % 2 == 0, 0, lows) + m // 2 if synthesis else m)).reshape(-1))
        order = np.arange(n) if synthesis else np.concatenate([np.arange(0, n, 2), np.arange(1, n, 2)])
        outputs.append(made + order)
        start, made = start + n, made + tiles * width
    return np.concatenate(inputs), np.concatenate(outputs)


def _device_tables(
    segments: tuple[int, ...], width: int, reach: tuple[int, int], synthesis: bool, reflect: bool, xp: Any, where: Any
) -> tuple[Any, Any]:
    inputs, outputs = gather_tables(segments, width, reach, synthesis, reflect)
    return xp.asarray(inputs, device=where), xp.asarray(outputs, device=where)


_cached_tables = lru_cache(maxsize=128)(_device_tables)


@lru_cache(maxsize=64)
def _device_matrix(rows: Rows, width: int, xp: Any, where: Any) -> Any:
    return xp.asarray(tile_matrix(rows, width), device=where)
