# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Coefficients <-> symbols on a CUDA device, to the bit as models/quantise.py has them: all sums are of integers.

Planes of several chunks are worked on together. What they differ in stands in tables with one row per plane; nothing
here waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl

from xwalloc.device.arithmetic import EXACT
from xwalloc.device.memory import upload
from xwalloc.device.tiles import BLOCK, WARPS, clipped, elements, numbers, per_plane, place

__all__ = [
    "COLUMNS", "ROWS", "SPAN", "counted", "dequantise", "magnitude_sums", "quantise", "row_tiles",
    "rows_of", "total_of",
]  # fmt: skip

Boxes = Sequence[Sequence[int]]
"""Start and stop of each subband along z, y, x."""

ROWS, COLUMNS, SPAN = 8, 64, 1024
"""Rows of a program that quantises, columns that it takes at once, and all columns that it takes."""

SQUARED = tl.constexpr(1 << 15)
"""Magnitudes count for no more than this where squared errors are added up, as in quantise.py."""


def dequantise(
    symbols: torch.Tensor, quanta: torch.Tensor, points: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Latents, integers in units, that symbols stand for.

    Parameters
    ----------
    symbols : (item, latent, *signal) int32
        Contiguous.
    quanta : (item, latent) float64
        Units per step; or what broadcasts to them.
    points : (item, latent, 3) float64
        Reconstruction points of magnitudes 1, 2, and 3 or more; or what broadcasts to them.
    out : (item, latent, *signal) float64
        Where to put the result; None for a new tensor.
    """
    out = torch.empty(symbols.shape, dtype=torch.float64, device=symbols.device) if out is None else out
    planes, n, grid = elements(symbols)
    rebuild[grid](
        symbols, per_plane(quanta, planes), points.expand(*planes, 3).contiguous(), out, n, -(-n // BLOCK),
        BLOCK=BLOCK, num_warps=WARPS, **EXACT,
    )  # fmt: skip
    return out


def magnitude_sums(latents: torch.Tensor, boxes: Boxes, quanta: torch.Tensor, rise: float) -> torch.Tensor:
    """Sums of magnitudes of symbols at one threshold: what the thresholds of planes follow from.

    Parameters
    ----------
    latents : (item, latent, z, y, x) float64
        Contiguous; coefficients, integers in units.
    boxes : (subband, 6)
        Start and stop of each subband along z, y, x; on the host.
    quanta : (item, latent) float64
        Units per step; or what broadcasts to them.
    rise
        1 less the threshold within a cell.

    Returns
    -------
    (item, latent, subband) int64
    """
    planes = latents.shape[0], latents.shape[1]
    tiles, _ = row_tiles(boxes, latents.device)
    sums = torch.zeros((*planes, len(boxes)), dtype=torch.int64, device=latents.device)
    add_magnitudes[(planes[0] * planes[1] * len(tiles),)](
        latents, per_plane(quanta, planes), numbers((rise,), latents.device), tiles, sums, *latents.shape[3:],
        latents[0, 0].numel(), len(boxes), len(tiles), ROWS=ROWS, COLUMNS=COLUMNS, SPAN=SPAN, num_warps=WARPS, **EXACT,
    )  # fmt: skip
    return sums


def quantise(
    latents: torch.Tensor, boxes: Boxes, quanta: torch.Tensor, rises: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Symbols of all planes, and what their cells hold.

    Parameters
    ----------
    latents, boxes, quanta
        As for `magnitude_sums`. The boxes cover the planes.
    rises : (item, latent, subband) float64
        1 less the threshold within a cell; minus infinity where all symbols are to be 0.

    Returns
    -------
    symbols : (item, latent, z, y, x) int32
    sums : (item, latent, subband, 8) int64
        As `quantise_planes` adds them up.
    """
    planes = latents.shape[0], latents.shape[1]
    tiles, first_rows = row_tiles(boxes, latents.device)
    symbols = torch.empty(latents.shape, dtype=torch.int32, device=latents.device)
    sums = torch.zeros((*planes, len(boxes), 8), dtype=torch.int64, device=latents.device)
    rows = first_rows[-1]
    squares_of_rows = torch.zeros((*planes, rows, 2), dtype=torch.int64, device=latents.device)
    quanta = per_plane(quanta, planes)
    cut[(planes[0] * planes[1] * len(tiles),)](
        latents, quanta, rises.contiguous(), tiles, symbols, sums, squares_of_rows, *latents.shape[3:],
        latents[0, 0].numel(), len(boxes), rows, len(tiles), ROWS=ROWS, COLUMNS=COLUMNS, SPAN=SPAN, num_warps=WARPS,
        **EXACT,
    )  # fmt: skip
    add_squares[(planes[0] * planes[1] * len(boxes),)](
        squares_of_rows, quanta, _first_rows(_hashable(boxes), latents.device), sums, rows, len(boxes), BLOCK=BLOCK,
        num_warps=WARPS, **EXACT,
    )  # fmt: skip
    return symbols, sums


def row_tiles(boxes: Boxes, device: torch.device) -> tuple[torch.Tensor, list[int]]:
    """Tiles of rows of subbands: (tile, 9) int32; and the numbers of the first rows of subbands, all of them counted.

    A tile has the number of its subband, its first row in the subband, its first column, the box, and the number of
    the first row of the subband.
    """
    return _row_tiles(_hashable(boxes), device)


def _hashable(boxes: Boxes) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(edge) for edge in box) for box in boxes)


@lru_cache(maxsize=64)
def _row_tiles(boxes: tuple[tuple[int, ...], ...], device: torch.device) -> tuple[torch.Tensor, list[int]]:
    table, first_rows = [], [0]
    for s, (z0, z1, y0, y1, x0, x1) in enumerate(boxes):
        count = (z1 - z0) * (y1 - y0)
        table += [
            (s, row, x, z0, y0, y1 - y0, x1, count, first_rows[-1])
            for row in range(0, count, ROWS)
            for x in range(x0, x1, SPAN)
        ]
        first_rows.append(first_rows[-1] + count)
    return upload(device, np.array(table, np.int32).reshape(-1, 9))[0], first_rows


@lru_cache(maxsize=64)
def _first_rows(boxes: tuple[tuple[int, ...], ...], device: torch.device) -> torch.Tensor:
    """Numbers of the first rows of subbands, and of the row behind the last: (subband + 1,) int32."""
    return upload(device, np.array(_row_tiles(boxes, device)[1], np.int32))[0]


@triton.jit
def counted(magnitude):
    """What a magnitude counts for where squared errors are added up."""
    return tl.minimum(magnitude, SQUARED)


@triton.jit
def total_of(values):
    """Sum of integers (row, column)."""
    return tl.sum(tl.sum(values, axis=1), axis=0)


@triton.jit(do_not_specialize=["tile_count"])
def rebuild(symbols, quanta, points, out, n, tile_count, BLOCK: tl.constexpr):
    """`dequantise` of a tile."""
    plane, at, there = place(n, tile_count, BLOCK)
    symbol = tl.load(symbols + at, mask=there, other=0)
    foot = symbol.to(tl.float64) * tl.load(quanta + plane)
    one, two, more = tl.load(points + plane * 3), tl.load(points + plane * 3 + 1), tl.load(points + plane * 3 + 2)
    size = tl.abs(symbol.to(tl.int64))
    point = tl.where(size == 1, one, tl.where(size == 2, two, more))
    value = tl.where(symbol > 0, foot + point, foot - point)
    tl.store(out + at, tl.where(symbol == 0, 0.0, value), mask=there)


@triton.jit
def rows_of(tiles, tile_count, ny, nx, size, ROWS: tl.constexpr):
    """Plane and subband of a program, its first column and the end of its subband, and its rows: numbers, places."""
    at = tl.program_id(0)
    plane = (at // tile_count).to(tl.int64)
    tile = tiles + at % tile_count * 9
    first_row, first_column, z0, y0 = tl.load(tile + 1), tl.load(tile + 2), tl.load(tile + 3), tl.load(tile + 4)
    height, end, count = tl.load(tile + 5), tl.load(tile + 6), tl.load(tile + 7)
    row = first_row + tl.arange(0, ROWS)
    y = (z0 + row // height) * ny + y0 + row % height
    start = plane * size + y.to(tl.int64) * nx
    return plane, tl.load(tile), first_column, end, tl.load(tile + 8) + row, row < count, start


@triton.jit(do_not_specialize=["ny", "nx", "size", "subbands", "tile_count"])
def add_magnitudes(
    latents, quanta, rise, tiles, sums, ny, nx, size, subbands, tile_count,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """`magnitude_sums` of a tile of rows."""
    plane, subband, first, end, _, has_row, start = rows_of(tiles, tile_count, ny, nx, size, ROWS)
    scale = 1.0 / tl.load(quanta + plane)
    rise = tl.load(rise)
    total = tl.zeros((ROWS, COLUMNS), tl.int64)
    for x in range(first, tl.minimum(first + SPAN, end), COLUMNS):
        column = x + tl.arange(0, COLUMNS)
        there = has_row[:, None] & (column < end)[None, :]
        value = tl.abs(tl.load(latents + start[:, None] + column[None, :], mask=there, other=0.0))
        total += tl.where(there, clipped(value * scale + rise), 0.0).to(tl.int64)
    tl.atomic_add(sums + plane * subbands + subband, total_of(total))


@triton.jit(do_not_specialize=["ny", "nx", "size", "subbands", "rows", "tile_count"])
def cut(
    latents, quanta, rises, tiles, symbols, sums, squares_of_rows, ny, nx, size, subbands, rows, tile_count,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """`quantise` of a tile of rows; what squares are made of is added up by rows."""
    plane, subband, first, end, row, has_row, start = rows_of(tiles, tile_count, ny, nx, size, ROWS)
    quantum = tl.load(quanta + plane)
    scale = 1.0 / quantum
    which = plane * subbands + subband
    rise = tl.load(rises + which)
    counts = tl.zeros((ROWS, COLUMNS), tl.int64)  # of magnitudes 1, 2, 3 or more, 20 bits each
    rest_one = tl.zeros((ROWS, COLUMNS), tl.int64)
    rest_two = tl.zeros((ROWS, COLUMNS), tl.int64)
    rest_more = tl.zeros((ROWS, COLUMNS), tl.int64)
    total = tl.zeros((ROWS, COLUMNS), tl.int64)
    squared = tl.zeros((ROWS, COLUMNS), tl.int64)
    cross = tl.zeros((ROWS, COLUMNS), tl.int64)
    for x in range(first, tl.minimum(first + SPAN, end), COLUMNS):
        column = x + tl.arange(0, COLUMNS)
        there = has_row[:, None] & (column < end)[None, :]
        at = start[:, None] + column[None, :]
        latent = tl.load(latents + at, mask=there, other=0.0)
        value = tl.abs(latent)
        whole = clipped(tl.maximum(tl.floor(value * scale + rise), 0.0))
        magnitude = tl.where(there, whole, 0.0).to(tl.int64)
        tl.store(symbols + at, tl.where(latent > 0, magnitude, -magnitude).to(tl.int32), mask=there)
        beyond = value - magnitude.to(tl.float64) * quantum
        rest = clipped(beyond).to(tl.int64)
        one, two, more = magnitude == 1, magnitude == 2, magnitude > 2
        counts += tl.where(one, 1, tl.where(two, 1 << 20, tl.where(more, 1 << 40, 0))).to(tl.int64)
        rest_one += tl.where(one, rest, 0)
        rest_two += tl.where(two, rest, 0)
        rest_more += tl.where(more, rest, 0)
        total += magnitude
        limited = counted(magnitude)
        squared += limited * limited
        cross += limited * rest
    found = sums + which * 8
    count = total_of(counts)
    tl.atomic_add(found, count & 0xFFFFF)
    tl.atomic_add(found + 1, (count >> 20) & 0xFFFFF)
    tl.atomic_add(found + 2, count >> 40)
    tl.atomic_add(found + 3, total_of(rest_one))
    tl.atomic_add(found + 4, total_of(rest_two))
    tl.atomic_add(found + 5, total_of(rest_more))
    tl.atomic_add(found + 6, total_of(total))
    at = squares_of_rows + (plane * rows + row) * 2
    tl.atomic_add(at, tl.sum(squared, axis=1), mask=has_row)
    tl.atomic_add(at + 1, tl.sum(cross, axis=1), mask=has_row)


@triton.jit(do_not_specialize=["rows", "subbands"])
def add_squares(squares_of_rows, quanta, first_rows, sums, rows, subbands, BLOCK: tl.constexpr):
    """Add up the squared errors that the rows of a subband save, rounded row by row."""
    at = tl.program_id(0)
    plane, subband = (at // subbands).to(tl.int64), at % subbands
    quantum = tl.load(quanta + plane)
    end = tl.load(first_rows + subband + 1)
    saved = tl.zeros((BLOCK,), tl.int64)
    for first in range(tl.load(first_rows + subband), end, BLOCK):
        row = first + tl.arange(0, BLOCK)
        pair = squares_of_rows + (plane * rows + row) * 2
        squared = tl.load(pair, mask=row < end, other=0).to(tl.float64)
        cross = tl.load(pair + 1, mask=row < end, other=0).to(tl.float64)
        saved += (256.0 * (squared + 2.0 * cross / quantum)).to(tl.int64)
    tl.store(sums + (plane * subbands + subband) * 8 + 7, tl.sum(saved, axis=0))
