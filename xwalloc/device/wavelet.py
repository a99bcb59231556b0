# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Exact wavelet transforms on a CUDA device: one kernel launch for each step of a plan and all planes.

What is computed, and why it is the same bits everywhere, is said in `xwalloc.transform.wavelet`: sums of integers that
stay below 2^53, and a rounding shift after every step. The same `Budget` guards it here.

A step reads its block once and writes it once. It never writes where it reads: results go to a second buffer, and
what is final goes to where it belongs at once. So a forward step writes the block of the next step to one buffer and
the subbands that it completes to the result; an inverse step reads what the step before it made from one buffer and
subbands that no step has read yet from the input.

Planes of several chunks are transformed together: each plane names the filters that it takes, since the fractional
bits of the taps depend on the range of the chunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from operator import and_

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray

from xwalloc.device.arithmetic import EXACT, nearest
from xwalloc.device.memory import upload
from xwalloc.transform.filters import analysis_rows, synthesis_rows
from xwalloc.transform.wavelet import Boundary, Budget, ExactFilters, Plan, Step, check_transform

__all__ = ["forward_exact", "inverse_exact"]

LINE_PAIRS, LINES = 128, 4
"""Pairs of outputs along the last axis, and lines, of a program that filters it."""

PAIRS, COLUMNS = 16, 32
"""Pairs of outputs along another axis, and columns (neighbours in memory), of a program that filters that."""

WARPS = 4


def forward_exact(
    x: torch.Tensor,
    plan: Plan,
    filters: Sequence[ExactFilters],
    boundary: Boundary,
    *,
    which: Sequence[int] | NDArray[np.integer] | None = None,
    bounds: Sequence[float] | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Integer wavelet coefficients of integers, as `xwalloc.transform.wavelet.forward_exact` computes them.

    Waits for the device only where `bounds` is None or does not suffice.

    Parameters
    ----------
    x
        Shape (plane, *plan.shape), integer-valued float64. A plane has fewer than 2^31 samples.
    plan
        Geometry.
    filters
        Integer filters of the analysis side; several where planes differ in them.
    boundary
        "reflect" or "periodization".
    which : (plane,)
        Which of the filters each plane takes; None where all take the first.
    bounds
        For each of the filters a value that no magnitude in its planes exceeds. It is trusted. None where it is to be
        measured.
    out
        Where to put the result: a tensor like `x`, or `x` itself, but none that shares some of its memory. None for a
        new one.

    Returns
    -------
    Coefficients in Mallat layout.

    Raises
    ------
    BudgetError
        If a step could leave the exact range, in any plane; the contents of `out` are then undefined.
    ConfigError
        If dtype, shape or filters do not suit.
    """
    return _transform(x, plan, filters, boundary, which, bounds, out, False)


def inverse_exact(
    c: torch.Tensor,
    plan: Plan,
    filters: Sequence[ExactFilters],
    boundary: Boundary,
    *,
    which: Sequence[int] | NDArray[np.integer] | None = None,
    bounds: Sequence[float] | None = None,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Integers from integer wavelet coefficients: `forward_exact` with filters of the synthesis side, backwards."""
    return _transform(c, plan, filters, boundary, which, bounds, out, True)


def _transform(
    x: torch.Tensor,
    plan: Plan,
    filters: Sequence[ExactFilters],
    boundary: Boundary,
    which: Sequence[int] | NDArray[np.integer] | None,
    bounds: Sequence[float] | None,
    out: torch.Tensor | None,
    synthesis: bool,
) -> torch.Tensor:
    for own in filters:
        check_transform(x, plan, own, boundary, out)
    in_place = out is x
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
    if not x.numel():
        return out
    steps = plan.steps[::-1] if synthesis else plan.steps
    if not steps:
        return out if in_place else out.copy_(x)
    sets = np.zeros(len(x), np.int32) if which is None else np.asarray(which, np.int32)
    if bounds is None:
        bounds = _largest([x], sets, len(filters))
    budgets = [Budget(own, synthesis, bound) for own, bound in zip(filters, bounds, strict=True)]
    work = _Work(x, out, steps, _Taps(filters, sets, boundary == "reflect", synthesis, x.device))
    for at in range(len(steps)):
        if not all(budget.admits for budget in budgets):
            for budget, largest in zip(budgets, _largest(work.block(at), sets, len(filters)), strict=True):
                if not budget.admits:
                    budget.measured(largest, at + 1, len(steps))
        for budget in budgets:
            budget.take()
        work.take(at)
    return out


def _largest(parts: Sequence[torch.Tensor], sets: NDArray[np.int32], count: int) -> list[float]:
    """Largest magnitude in the planes of each of the filters; NaN where there is one. Waits for the device."""
    norms = [torch.linalg.vector_norm(part, math.inf, dim=tuple(range(1, part.ndim))) for part in parts]
    found = np.zeros(count)
    with np.errstate(invalid="ignore"):
        np.maximum.at(found, sets, torch.stack(norms).amax(dim=0).cpu().numpy())
    return [float(value) for value in found]


class _Taps:
    """What outputs gather, on the device.

    Attributes
    ----------
    taps : (filters, 2, count) float64
        What the outputs 2 k and 2 k + 1 of the interleaved signal take from its entries 2 k + first + t.
    scales : (filters,) float64
        Powers of two that sums are multiplied by.
    sets : (plane,) int32
        Which filters each plane takes.
    """

    def __init__(
        self,
        filters: Sequence[ExactFilters],
        sets: NDArray[np.int32],
        reflect: bool,
        synthesis: bool,
        device: torch.device,
    ) -> None:
        rows = [(synthesis_rows if synthesis else analysis_rows)(own) for own in filters]
        self.first = min(min(row.even_first, row.odd_first + 1) for row in rows)
        end = max(max(row.even_first + len(row.even), row.odd_first + 1 + len(row.odd)) for row in rows)
        self.count, self.reflect, self.synthesis = end - self.first, reflect, synthesis
        taps = np.zeros((len(rows), 2, self.count))
        for own, row in zip(taps, rows, strict=True):
            even, odd = row.even_first - self.first, row.odd_first + 1 - self.first
            own[0, even : even + len(row.even)] = row.even
            own[1, odd : odd + len(row.odd)] = row.odd
        scales = np.array([2.0**-own.shift for own in filters])
        self.taps, self.scales, self.sets = upload(device, taps, scales, sets)

    @property
    def reach(self) -> int:
        """How far from an output, at most, lies what it gathers."""
        return max(-self.first, self.first + self.count - 1)


class _Work:
    """A transform under way: its buffers, and which of them each step reads and writes.

    Parameters
    ----------
    x, out
        Input and result, perhaps the same tensor: (plane, *signal).
    steps
        Steps in the order in which they are taken.
    taps
        What they gather.
    """

    def __init__(self, x: torch.Tensor, out: torch.Tensor, steps: Sequence[Step], taps: _Taps) -> None:
        lead = 3 - (x.ndim - 1)
        self.taps = taps
        self.steps = [
            Step(axis=step.axis + lead, segments=step.segments, extents=(1,) * lead + step.extents) for step in steps
        ]
        blocks = [step.extents for step in self.steps]
        # The part of a step's block that one buffer holds; the rest is final (forward) or was never touched (inverse).
        if taps.synthesis:
            self.near = [blocks[0], *blocks[:-1]]
        else:
            self.near = [*blocks[1:], blocks[-1]]
        # Steps that read the input, besides what the step before made, and steps that write to the result.
        split = [near != block for near, block in zip(self.near, blocks, strict=True)]
        count = len(blocks)
        from_input = [i == 0 or (split[i] and taps.synthesis) for i in range(count)]
        to_result = [i == count - 1 or (split[i] and not taps.synthesis) for i in range(count)]
        if out is x and any(map(and_, from_input, to_result)):
            x = x.clone()
        self.x, self.out = _in_space(x, lead), _in_space(out, lead)
        # From the last step on backwards: where each writes, so that none writes where it reads. 0 is the result.
        self.writes = [0]
        for i in reversed(range(count - 1)):
            barred = {self.writes[0]} | ({0} if to_result[i + 1] or (out is x and from_input[i]) else set())
            self.writes.insert(0, min({0, 1, 2} - barred))
        self.buffers = [self.out]
        for b in range(1, max(self.writes) + 1):
            held = self.near[:-1] if not taps.synthesis else blocks
            sizes = [block for block, own in zip(held, self.writes, strict=False) if own == b]
            largest = max(sizes, key=math.prod)  # blocks are nested
            self.buffers.append(torch.empty((len(x), *largest), dtype=x.dtype, device=x.device))

    def read(self, at: int) -> torch.Tensor:
        """What the step before made, or the input."""
        return self.buffers[self.writes[at - 1]] if at else self.x

    def block(self, at: int) -> list[torch.Tensor]:
        """The block of a step before it is taken, in parts."""
        extents, near = self.steps[at].extents, self.near[at]
        if not self.taps.synthesis:
            return [_part(self.read(at), [(0, n) for n in extents])]
        parts = [_part(self.read(at), [(0, n) for n in near])]
        for axis in range(3):
            if near[axis] < extents[axis]:
                ranges = [(0, n) for n in (*near[:axis], *extents[axis:])]
                ranges[axis] = (near[axis], extents[axis])
                parts.append(_part(self.x, ranges))
        return parts

    def take(self, at: int) -> None:
        """Take a step."""
        step, near, taps = self.steps[at], self.near[at], self.taps
        source, target = self.read(at), self.buffers[self.writes[at]]
        whole, part, rest = (target, source, self.x) if taps.synthesis else (source, target, self.out)
        across = {0: (1, 2), 1: (0, 2), 2: (0, 1)}[step.axis]
        outer, inner = (step.extents[axis] for axis in across)
        columns, last = outer * inner, step.axis == 2
        pairs, width = (LINE_PAIRS, LINES) if last else (PAIRS, COLUMNS)
        if columns == 1:
            pairs, width = pairs * width, 1
        tiles = _tiles(step.segments, pairs, whole.device)
        order = (step.axis, *across)
        grid = (len(whole) * len(tiles) * -(-columns // width),)
        take_step[grid](
            whole, part, rest, tiles, taps.sets, taps.taps, taps.scales,
            *_strides(whole, order), *_strides(part, order), *_strides(rest, order),
            *(near[axis] for axis in order), inner, columns, len(tiles), -(-columns // width),
            FIRST=taps.first, COUNT=taps.count, SYNTHESIS=taps.synthesis, REFLECT=taps.reflect,
            SPLIT=near != step.extents, REPEAT=min(step.segments) <= taps.reach, LAST=last, PAIRS=pairs, COLUMNS=width,
            num_warps=WARPS, **EXACT,
        )  # fmt: skip


def _in_space(x: torch.Tensor, lead: int) -> torch.Tensor:
    """A view (plane, z, y, x)."""
    return x[(slice(None), *(None,) * lead)]


def _part(x: torch.Tensor, ranges: Sequence[tuple[int, int]]) -> torch.Tensor:
    return x[(slice(None), *(slice(*ends) for ends in ranges))]


def _strides(x: torch.Tensor, order: Sequence[int]) -> list[int]:
    """Strides over planes and over signal axes in this order."""
    strides = x.stride()
    return [strides[0], *(strides[1 + axis] for axis in order)]


@lru_cache(maxsize=256)
def _tiles(segments: tuple[int, ...], pairs: int, device: torch.device) -> torch.Tensor:
    """Start and length of the segment, and first pair of outputs, of each tile of an axis: (tile, 3) int32."""
    table = [
        (end - n, n, k)
        for n, end in zip(segments, accumulate(segments), strict=True)
        for k in range(0, (n + 1) // 2, pairs)
    ]
    return upload(device, np.array(table, np.int32))[0]


@triton.jit
def _mapped(m, n, REFLECT: tl.constexpr, REPEAT: tl.constexpr):
    """Index inside 0..n-1 that stands for index m of the extended signal; without REPEAT, for -n < m < 2 n - 1 only."""
    if REPEAT:
        period = 2 * n - 2 if REFLECT else n
        m = (m % period + period) % period
    if REFLECT:
        m = tl.abs(m)
        return tl.minimum(m, 2 * n - 2 - m)
    return tl.where(m < 0, m + n, tl.where(m >= n, m - n, m))


# Few variants are worth their compilation: sizes are not constants of a kernel, but that neighbours are one apart is.
@triton.jit(
    do_not_specialize=[
        "whole_plane", "whole_outer", "near_plane", "near_outer", "far_plane", "far_outer", "near_length",
        "near_outers", "near_inners", "inner", "columns", "tile_count", "column_tiles",
    ],
    do_not_specialize_on_alignment=[
        "whole_axis", "whole_inner", "near_axis", "near_inner", "far_axis", "far_inner"
    ],
)  # fmt: skip
def take_step(
    whole, near, far, tiles, sets, taps, scales,
    whole_plane, whole_axis, whole_outer, whole_inner,
    near_plane, near_axis, near_outer, near_inner,
    far_plane, far_axis, far_outer, far_inner,
    near_length, near_outers, near_inners,
    inner, columns, tile_count, column_tiles,
    FIRST: tl.constexpr, COUNT: tl.constexpr, SYNTHESIS: tl.constexpr, REFLECT: tl.constexpr, SPLIT: tl.constexpr,
    REPEAT: tl.constexpr, LAST: tl.constexpr, PAIRS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Filter a tile: pairs of outputs 2 k and 2 k + 1 of the interleaved signal in adjacent columns of a plane.

    An analysis reads `whole`; what lies in the block (near_length, near_outers, near_inners) is written to `near`, the
    rest to `far`. A synthesis reads from these two and writes to `whole`. Without SPLIT all is near.
    LAST: pairs are the last axis of the tile, since they are neighbours in memory; columns otherwise.
    """
    at = tl.program_id(0)
    first_column = at % column_tiles * COLUMNS
    at = at // column_tiles
    tile = tiles + at % tile_count * 3
    plane = (at // tile_count).to(tl.int64)
    start, n, first_pair = tl.load(tile), tl.load(tile + 1), tl.load(tile + 2)
    own = tl.load(sets + plane)
    scale = tl.load(scales + own)
    taps += own * (2 * COUNT)
    lows = (n + 1) // 2
    k = first_pair + tl.arange(0, PAIRS)
    column = first_column + tl.arange(0, COLUMNS)
    if LAST:
        k, column = k[None, :], column[:, None]
    else:
        k, column = k[:, None], column[None, :]
    i, j = column // inner, column % inner
    there = column < columns
    is_near = (i < near_outers) & (j < near_inners)
    i, j = i.to(tl.int64), j.to(tl.int64)
    whole += plane * whole_plane + i * whole_outer + j * whole_inner
    near += plane * near_plane + i * near_outer + j * near_inner
    far += plane * far_plane + i * far_outer + j * far_inner
    has_even, has_odd = (k < lows) & there, (k < n // 2) & there
    if LAST:
        even = tl.zeros((COLUMNS, PAIRS), tl.float64)
        odd = tl.zeros((COLUMNS, PAIRS), tl.float64)
    else:
        even = tl.zeros((PAIRS, COLUMNS), tl.float64)
        odd = tl.zeros((PAIRS, COLUMNS), tl.float64)
    for t in tl.static_range(COUNT):
        m = _mapped(2 * k + (FIRST + t), n, REFLECT, REPEAT)
        if SYNTHESIS:
            m = (m >> 1) + (m & 1) * lows
        m = start + m
        if not SYNTHESIS:
            value = tl.load(whole + m.to(tl.int64) * whole_axis, mask=has_even, other=0.0)
        elif SPLIT:
            inside = is_near & (m < near_length)
            value = tl.where(
                inside,
                tl.load(near + m.to(tl.int64) * near_axis, mask=has_even & inside, other=0.0),
                tl.load(far + m.to(tl.int64) * far_axis, mask=has_even & ~inside, other=0.0),
            )
        else:
            value = tl.load(near + m.to(tl.int64) * near_axis, mask=has_even, other=0.0)
        even += tl.load(taps + t) * value
        odd += tl.load(taps + COUNT + t) * value
    even = nearest(even * scale) + 0.0
    odd = nearest(odd * scale) + 0.0
    if SYNTHESIS and LAST:
        m = 2 * first_pair + tl.arange(0, 2 * PAIRS)[None, :]
        tl.store(whole + (start + m).to(tl.int64) * whole_axis, tl.interleave(even, odd), mask=(m < n) & there)
    elif SYNTHESIS:
        at_even = (start + 2 * k).to(tl.int64) * whole_axis
        tl.store(whole + at_even, even, mask=has_even)
        tl.store(whole + at_even + whole_axis, odd, mask=has_odd)
    else:
        at_even, at_odd = start + k, start + lows + k
        if SPLIT:
            even_near, odd_near = is_near & (at_even < near_length), is_near & (at_odd < near_length)
            tl.store(near + at_even.to(tl.int64) * near_axis, even, mask=has_even & even_near)
            tl.store(near + at_odd.to(tl.int64) * near_axis, odd, mask=has_odd & odd_near)
            tl.store(far + at_even.to(tl.int64) * far_axis, even, mask=has_even & ~even_near)
            tl.store(far + at_odd.to(tl.int64) * far_axis, odd, mask=has_odd & ~odd_near)
        else:
            tl.store(near + at_even.to(tl.int64) * near_axis, even, mask=has_even)
            tl.store(near + at_odd.to(tl.int64) * near_axis, odd, mask=has_odd)
