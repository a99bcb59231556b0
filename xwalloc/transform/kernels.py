"""Filtering of NumPy arrays in place, one chunk item at a time so that all levels run in a processor's cache.

The arithmetic is that of `xwalloc.transform.wavelet`: for integer-valued data and taps within the budget every partial
sum is exact, so the order of summation here is free. For float data the order is fixed (by tap), and no
value depends on the batch, the thread or the width of the vector unit.
"""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from xwalloc.jit import allocating_kernel, inline_kernel, kernel
from xwalloc.transform.filters import Rows
from xwalloc.transform.tree import Step

__all__ = ["NumpyRunner", "largest_magnitude", "run_steps"]

TILE = 512
"""Samples that are accumulated at a time (4 KiB: stays in the first-level cache)."""

STRIP = 256
"""Columns that are filtered together when the filtered axis is not the last one."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@allocating_kernel
def largest_magnitude(values: Floats) -> float:
    """Largest absolute value of a 1-D array; NaN where there is one; 0 for an empty array."""
    lanes = np.zeros(8)
    bad = 0
    whole = values.size // 8 * 8
    for i in range(0, whole, 8):
        for j in range(8):
            v = abs(values[i + j])
            lanes[j] = v if v > lanes[j] else lanes[j]
            bad += v != v
    top = lanes.max()
    for i in range(whole, values.size):
        v = abs(values[i])
        top = max(top, v)
        bad += v != v
    return np.nan if bad else top


@inline_kernel
def _mapped(m: int, n: int, reflect: bool) -> int:
    """Index inside 0..n-1 that stands for index m of the extended signal."""
    if not reflect:
        return m % n
    m = m % (2 * n - 2)
    return m if m < n else 2 * n - 2 - m


@inline_kernel
def _position(m: int, n: int, mallat: bool) -> int:
    """Where entry m of the interleaved signal is stored."""
    if not mallat:
        return m
    return m // 2 if m % 2 == 0 else (n + 1) // 2 + m // 2


@inline_kernel
def _combine(source: Floats, offsets: Integers, shift: int, taps: Floats, out: Floats, width: int) -> None:
    """out[j] = sum_t taps[t] source[offsets[t] + shift + j]; the number of taps is a multiple of four."""
    for t in range(0, taps.size, 4):
        c0, c1, c2, c3 = taps[t], taps[t + 1], taps[t + 2], taps[t + 3]
        s0 = source[offsets[t] + shift : offsets[t] + shift + width]
        s1 = source[offsets[t + 1] + shift : offsets[t + 1] + shift + width]
        s2 = source[offsets[t + 2] + shift : offsets[t + 2] + shift + width]
        s3 = source[offsets[t + 3] + shift : offsets[t + 3] + shift + width]
        if t == 0:
            for j in range(width):
                out[j] = c0 * s0[j] + c1 * s1[j] + c2 * s2[j] + c3 * s3[j]
        else:
            for j in range(width):
                out[j] += c0 * s0[j] + c1 * s1[j] + c2 * s2[j] + c3 * s3[j]


@kernel
def _filter_rows(
    data: Floats, base: int, stride: int, n: int, width: int, taps: Floats, firsts: Integers, scale: float,
    rounded: bool, synthesis: bool, work: Floats, row_of: Integers, margin: int, offsets: Integers, sums: Floats,
) -> None:  # fmt: skip
    """Filter `width` adjacent columns along an axis whose entries are `stride` apart."""
    count = taps.shape[1]
    for m in range(n):
        at = base + _position(m, n, synthesis) * stride
        source, copy = data[at : at + width], work[m * width : (m + 1) * width]
        for j in range(width):
            copy[j] = source[j]
    for m in range(n):
        odd = m & 1
        for t in range(count):
            offsets[t] = row_of[margin + m + firsts[odd] + t] * width
        _combine(work, offsets, 0, taps[odd], sums, width)
        at = base + _position(m, n, not synthesis) * stride
        target = data[at : at + width]
        if rounded:
            for j in range(width):
                target[j] = np.rint(sums[j] * scale) + 0.0
        else:
            for j in range(width):
                target[j] = sums[j]


@kernel
def _line_plan(
    n: int, count: int, firsts: Integers, before: int, after: int, synthesis: bool, reflect: bool, offsets: Integers,
    border: Integers,
) -> None:  # fmt: skip
    """What `_filter_line` needs to know of lines of length n: where each tap reads, and what continues the line."""
    evens, odds = (n + 1) // 2, n // 2
    size = evens + before + after
    at = 0
    for q in range(2):
        for k in range(-before, 0):
            border[at] = _position(_mapped(2 * k + q, n, reflect), n, synthesis)
            at += 1
        for k in range(odds if q else evens, evens + after):
            border[at] = _position(_mapped(2 * k + q, n, reflect), n, synthesis)
            at += 1
    for p in range(2):
        for t in range(count):
            shift = p + firsts[p] + t
            offsets[p, t] = (shift & 1) * size + before + (shift >> 1)


@kernel
def _filter_line(
    data: Floats, base: int, n: int, taps: Floats, before: int, after: int, scale: float, rounded: bool,
    synthesis: bool, work: Floats, border: Integers, offsets: Integers, sums: Floats,
) -> None:  # fmt: skip
    """Filter one contiguous line: even and odd entries apart, so that every tap meets contiguous data."""
    evens, odds = (n + 1) // 2, n // 2
    size = evens + before + after
    line = data[base : base + n]
    even, odd = work[before : before + evens], work[size + before : size + before + evens]
    if synthesis:
        for k in range(evens):
            even[k] = line[k]
        for k in range(odds):
            odd[k] = line[evens + k]
    else:
        for k in range(odds):
            even[k] = line[2 * k]
            odd[k] = line[2 * k + 1]
        if evens > odds:
            even[odds] = line[n - 1]
    at = 0
    for q in range(2):
        for k in range(q * size, q * size + before):
            work[k] = line[border[at]]
            at += 1
        for k in range(q * size + before + (odds if q else evens), (q + 1) * size):
            work[k] = line[border[at]]
            at += 1
    sum0, sum1 = sums[:TILE], sums[TILE:]
    for k in range(0, evens, TILE):
        width, width1 = min(TILE, evens - k), min(TILE, odds - k)
        _combine(work, offsets[0], k, taps[0], sum0, width)
        _combine(work, offsets[1], k, taps[1], sum1, width)
        if rounded:
            for j in range(width):
                sum0[j] = np.rint(sum0[j] * scale) + 0.0
                sum1[j] = np.rint(sum1[j] * scale) + 0.0
        if synthesis:
            target = line[2 * k : 2 * k + 2 * width1]
            for j in range(width1):
                target[2 * j] = sum0[j]
                target[2 * j + 1] = sum1[j]
            if width1 < width:
                line[n - 1] = sum0[width1]
        else:
            for j in range(width):
                line[k + j] = sum0[j]
            for j in range(width1):
                line[evens + k + j] = sum1[j]


@allocating_kernel
def run_steps(
    source: Floats, data: Floats, steps: Integers, taps: Floats, firsts: Integers,
    scale: float, rounded: bool, synthesis: bool, reflect: bool,
) -> None:  # fmt: skip
    """Copy `source` to `data` (they may be the same array) and filter it in place.

    Parameters
    ----------
    source, data
        Shape (item, z, y, x), C order.
    steps
        Shape (step, 6): axis 0..2, first entry and length of the segment along it, extent of the block on z, y, x.
    taps
        Shape (2, taps): what even and odd outputs take from the interleaved signal, zero padded to a multiple of four.
    firsts
        Position of the first tap of either row relative to the output.
    scale, rounded
        Outputs are rint(sum * scale) where `rounded`, else the sum.
    synthesis
        False: interleaved to Mallat order. True: Mallat to interleaved order.
    reflect
        Whole-sample symmetric extension; periodic otherwise.
    """
    items, _, n1, n2 = data.shape
    lowest, highest = min(firsts[0], firsts[1]), max(firsts[0], firsts[1]) + taps.shape[1] - 1
    before, after = max(0, (1 - lowest) // 2), max(0, (highest + 1) // 2) + 1
    line_size, rows_size, longest = 1, 1, 1
    for s in range(steps.shape[0]):
        n = steps[s, 2]
        longest = max(longest, n)
        if steps[s, 0] == 2:
            line_size = max(line_size, 2 * ((n + 1) // 2 + before + after))
        else:
            rows_size = max(rows_size, n * min(STRIP, n2))
    work, sums = np.empty(max(line_size, rows_size)), np.empty(2 * TILE)
    offsets, border = np.empty((2, taps.shape[1]), np.int64), np.empty(2 * (before + after + 1), np.int64)
    margin = max(0, -lowest)
    row_of = np.empty(longest + margin + max(0, highest), np.int64)
    size = data.shape[1] * n1 * n2
    flat, flat_source = data.reshape(-1), source.reshape(-1)
    for item in range(items):
        origin = item * size
        if flat.ctypes.data != flat_source.ctypes.data:
            flat[origin : origin + size] = flat_source[origin : origin + size]
        for s in range(steps.shape[0]):
            axis, start, n, e0, e1, e2 = steps[s]
            if axis == 2:
                _line_plan(n, taps.shape[1], firsts, before, after, synthesis, reflect, offsets, border)
                for i in range(e0):
                    for j in range(e1):
                        _filter_line(
                            flat, origin + (i * n1 + j) * n2 + start, n, taps, before, after, scale, rounded,
                            synthesis, work, border, offsets, sums,
                        )  # fmt: skip
                continue
            for m in range(-margin, n + max(0, highest)):
                row_of[m + margin] = _mapped(m, n, reflect)
            stride, across, others = (n2, n1 * n2, e0) if axis == 1 else (n1 * n2, n2, e1)
            for i in range(others):
                for j in range(0, e2, STRIP):
                    _filter_rows(
                        flat, origin + i * across + start * stride + j, stride, n, min(STRIP, e2 - j), taps, firsts,
                        scale, rounded, synthesis, work, row_of, margin, offsets[0], sums,
                    )  # fmt: skip


class NumpyRunner:
    """Runs steps of a plan on a NumPy array.

    Parameters
    ----------
    x
        Input, float64, shape (..., *signal).
    out
        C-contiguous float64 array of the same shape that receives the result; may be `x` itself.
    rank
        Number of signal axes.
    rows
        What outputs gather.
    shift
        Fractional bits to round away after every step; None for no rounding.
    synthesis, reflect
        See `run_steps`.
    """

    def __init__(
        self, x: Floats, out: Floats, rank: int, rows: Rows, shift: int | None, synthesis: bool, reflect: bool
    ) -> None:
        if x is not out and (not x.flags.carray or np.may_share_memory(x, out)):
            # Strided, read-only and overlapping inputs take one more pass instead of one more compiled kernel.
            np.copyto(out, x)
            x = out
        signal = x.shape[x.ndim - rank :]
        shape = (x.size // max(1, math.prod(signal)), *(1,) * (3 - rank), *signal)
        self.source, self.data, self.rank = x.reshape(shape), out.reshape(shape), rank
        self.taps, self.firsts = _taps(rows)
        self.rounding = (1.0 if shift is None else 2.0**-shift, shift is not None)
        self.mode = (synthesis, reflect)

    def run(self, steps: tuple[Step, ...]) -> None:
        """Take some steps in the given order."""
        table = _step_table(steps, self.rank)
        run_steps(self.source, self.data, table, self.taps, self.firsts, *self.rounding, *self.mode)
        self.source = self.data

    def largest(self, step: Step | None) -> float:
        """Largest magnitude in the block of a step, or anywhere."""
        block = self.source
        if step is not None:
            lead = (slice(None),) * (4 - self.rank)
            block = block[(*lead, *(slice(0, n) for n in step.extents))]
        return largest_magnitude(np.ascontiguousarray(block).reshape(-1))


@lru_cache(maxsize=64)
def _taps(rows: Rows) -> tuple[Floats, Integers]:
    """Arguments `taps` and `firsts` of `run_steps`."""
    taps = np.zeros((2, -(-max(len(rows.even), len(rows.odd)) // 4) * 4))
    taps[0, : len(rows.even)], taps[1, : len(rows.odd)] = rows.even, rows.odd
    return taps, np.array([rows.even_first, rows.odd_first], np.int64)


@lru_cache(maxsize=256)
def _step_table(steps: tuple[Step, ...], rank: int) -> Integers:
    """Argument `steps` of `run_steps`: one row per segment."""
    lead = 3 - rank
    table = [
        (lead + step.axis, end - n, n, *(1,) * lead, *step.extents)
        for step in steps
        for n, end in zip(step.segments, itertools.accumulate(step.segments), strict=True)
    ]
    return np.array(table, np.int64).reshape(len(table), 6)
