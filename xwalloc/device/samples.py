# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""The steps between samples, latents and symbols on a CUDA device, to the bit as the kernels for a CPU take them.

What is exact, and why: sums, counts and maxima are of integers, so that their order is free; wherever floats are
rounded (units, symbols, the last step to samples), each sample goes through the same IEEE operations in the same order
as on a CPU, none of them contracted (see `EXACT`). Only `squares` adds up floats: in an order that is the same in every
run, but not that of NumPy.

Planes of several chunks are worked on together. What chunks or channels differ in stands in tables with one row per
plane; nothing here waits for the device. A matrix product between `to_units` and `round_products`, or before
`finish`, is `torch.matmul` of float64: its partial sums are integers below 2^53.

Functions are named for what they replace: `to_units` and the rounding of `project` (models/analysis.py), `dequantise`
and `quantise_planes` (models/quantise.py), `Finish` and `misses` (codec/bound.py), `squares` (codec/examine.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl

from xwalloc.device.arithmetic import EXACT, rint
from xwalloc.device.memory import upload

__all__ = [
    "bounded_residuals",
    "dequantise",
    "finish",
    "magnitude_sums",
    "misses",
    "quantise",
    "residuals",
    "round_products",
    "squares",
    "to_units",
]

BLOCK, WARPS = 1024, 4
"""Samples of a program that takes each for itself, and its warps."""

ROWS, COLUMNS, SPAN = 8, 64, 1024
"""Rows of a program that quantises, columns that it takes at once, and all columns that it takes."""

SQUARED = tl.constexpr(1 << 15)
"""Magnitudes count for no more than this where squared errors are added up, as in quantise.py."""

TABLE = 5
"""Columns of the tables of `finish` and `residuals`: down, mean, fraction, unit, step."""


def to_units(
    samples: torch.Tensor, per_sample: torch.Tensor, means: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Samples as integers in units less the means of their channels.

    Parameters
    ----------
    samples : (item, channel, n)
        Contiguous, of any type that the codec works with.
    per_sample, means : (item, channel) float64
        Units per unit of the samples, and means in units; or what broadcasts to them.
    out : (item, channel, n) float64
        Where to put the result; None for a new tensor.
    """
    out = torch.empty(samples.shape, dtype=torch.float64, device=samples.device) if out is None else out
    planes, n, grid = _elements(samples)
    convert[grid](
        samples, _per_plane(per_sample, planes), _per_plane(means, planes), out, n, -(-n // BLOCK), BLOCK=BLOCK,
        num_warps=WARPS, **EXACT,
    )  # fmt: skip
    return out


def round_products(products: torch.Tensor, shifts: torch.Tensor) -> torch.Tensor:
    """Divide products by 2^shift and round them, in place.

    Parameters
    ----------
    products : (item, latent, n) float64
        Contiguous; integers.
    shifts : (item, latent) float64
        Powers of two 2^-shift; or what broadcasts to them.

    Returns
    -------
    (item, latent) float64
        Largest magnitudes of the rounded latents.
    """
    planes, n, grid = _elements(products)
    largest = torch.zeros(planes, dtype=torch.int64, device=products.device)
    round_down[grid](
        products, _per_plane(shifts, planes), largest, n, -(-n // BLOCK), BLOCK=BLOCK, num_warps=WARPS, **EXACT
    )
    return largest.view(torch.float64).reshape(planes)


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
    planes, n, grid = _elements(symbols)
    rebuild[grid](
        symbols, _per_plane(quanta, planes), points.expand(*planes, 3).contiguous(), out, n, -(-n // BLOCK),
        BLOCK=BLOCK, num_warps=WARPS, **EXACT,
    )  # fmt: skip
    return out


def magnitude_sums(
    latents: torch.Tensor, boxes: Sequence[Sequence[int]], quanta: torch.Tensor, rise: float
) -> torch.Tensor:
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
    tiles, _ = row_tiles(hashable(boxes), latents.device)
    sums = torch.zeros((*planes, len(boxes)), dtype=torch.int64, device=latents.device)
    add_magnitudes[(planes[0] * planes[1] * len(tiles),)](
        latents, _per_plane(quanta, planes), _numbers((rise,), latents.device), tiles, sums, *latents.shape[3:],
        latents[0, 0].numel(), len(boxes), len(tiles), ROWS=ROWS, COLUMNS=COLUMNS, SPAN=SPAN, num_warps=WARPS, **EXACT,
    )  # fmt: skip
    return sums


def quantise(
    latents: torch.Tensor, boxes: Sequence[Sequence[int]], quanta: torch.Tensor, rises: torch.Tensor
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
    tiles, first_rows = row_tiles(hashable(boxes), latents.device)
    symbols = torch.empty(latents.shape, dtype=torch.int32, device=latents.device)
    sums = torch.zeros((*planes, len(boxes), 8), dtype=torch.int64, device=latents.device)
    rows = first_rows[-1]
    squares_of_rows = torch.zeros((*planes, rows, 2), dtype=torch.int64, device=latents.device)
    quanta = _per_plane(quanta, planes)
    cut[(planes[0] * planes[1] * len(tiles),)](
        latents, quanta, rises.contiguous(), tiles, symbols, sums, squares_of_rows, *latents.shape[3:],
        latents[0, 0].numel(), len(boxes), rows, len(tiles), ROWS=ROWS, COLUMNS=COLUMNS, SPAN=SPAN, num_warps=WARPS,
        **EXACT,
    )  # fmt: skip
    add_squares[(planes[0] * planes[1] * len(boxes),)](
        squares_of_rows, quanta, _first_rows(hashable(boxes), latents.device), sums, rows, len(boxes), BLOCK=BLOCK,
        num_warps=WARPS, **EXACT,
    )  # fmt: skip
    return symbols, sums


def finish(
    products: torch.Tensor,
    table: torch.Tensor,
    residuals: torch.Tensor | None,
    nodata: torch.Tensor | None,
    out: torch.Tensor,
    *,
    integral: bool,
) -> torch.Tensor:
    """Samples from products of the synthesis and residuals, as `Finish.samples` makes them.

    Parameters
    ----------
    products : (item, channel, n) float64
        Contiguous; integers.
    table : (item, channel, 5) float64
        Rows of `Finish.table`; or what broadcasts to it.
    residuals : (item, channel, n) int32
        Contiguous; None where there is no residual layer.
    nodata : (2,)
        The nodata value and its substitute, in the type of `out`; None where there is none.
    out : (item, channel, n)
        Contiguous; gets the samples.
    integral
        Whether chunks are integral.

    Returns
    -------
    `out`
    """
    planes, n, grid = _elements(products)
    limits, whole = _range(out.dtype, out.device)
    make_samples[grid](
        products, table.expand(*planes, TABLE).contiguous(), residuals, nodata, out, limits, n, -(-n // BLOCK),
        INTEGRAL=integral, WHOLE=whole, BLOCK=BLOCK, num_warps=WARPS, **EXACT,
    )  # fmt: skip
    return out


def residuals(
    samples: torch.Tensor,
    products: torch.Tensor,
    table: torch.Tensor,
    mask: torch.Tensor | None,
    nodata: torch.Tensor | None,
    *,
    integral: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Residuals as `Finish.residuals` computes them; `products` stay as they are.

    Parameters
    ----------
    samples : (item, channel, n)
        Contiguous; the samples.
    products, table, nodata, integral
        As for `finish`.
    mask : (item, channel, n) uint8
        Contiguous; not 0 where a sample is not coded. None where all are.

    Returns
    -------
    residuals : (item, channel, n) int32
    decoded : (item, channel, n)
        What `finish` makes of them, in the type of `samples`.
    sums : (item, channel) int64
        Sums of magnitudes of the residuals.
    """
    decoded = torch.empty_like(samples)
    rest, sums = _residuals(samples, products, table, mask, nodata, integral, decoded, None, None, None)
    return rest, decoded, sums


def bounded_residuals(
    samples: torch.Tensor,
    products: torch.Tensor,
    table: torch.Tensor,
    mask: torch.Tensor | None,
    nodata: torch.Tensor | None,
    bounds: torch.Tensor,
    *,
    integral: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """`residuals`, and `misses` of what they decode to, which is neither written nor read again.

    Parameters
    ----------
    samples, products, table, mask, nodata, integral
        As for `residuals`.
    bounds
        As for `misses`.

    Returns
    -------
    residuals, sums, missed, largest
        As `residuals` and `misses` return them.
    """
    planes = samples.shape[0], samples.shape[1]
    missed = torch.empty(samples.shape, dtype=torch.bool, device=samples.device)
    largest = torch.zeros(planes, dtype=torch.int64, device=samples.device)
    rest, sums = _residuals(
        samples, products, table, mask, nodata, integral, None, _per_plane(bounds, planes), missed, largest
    )
    return rest, sums, missed, largest.view(torch.float64)


def _residuals(
    samples: torch.Tensor,
    products: torch.Tensor,
    table: torch.Tensor,
    mask: torch.Tensor | None,
    nodata: torch.Tensor | None,
    integral: bool,
    decoded: torch.Tensor | None,
    bounds: torch.Tensor | None,
    missed: torch.Tensor | None,
    largest: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Residuals and sums of their magnitudes; what is decoded goes to `decoded`, or is compared with the samples."""
    planes, n, grid = _elements(products)
    limits, whole = _range(samples.dtype, samples.device)
    rest = torch.empty(products.shape, dtype=torch.int32, device=products.device)
    sums = torch.zeros(planes, dtype=torch.int64, device=products.device)
    make_residuals[grid](
        samples, products, table.expand(*planes, TABLE).contiguous(), mask, nodata, rest, sums, decoded, bounds, missed,
        largest, limits, n, -(-n // BLOCK), INTEGRAL=integral, WHOLE=whole, BLOCK=BLOCK, num_warps=WARPS, **EXACT,
    )  # fmt: skip
    return rest, sums


def misses(samples: torch.Tensor, decoded: torch.Tensor, bounds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where a decoded sample differs by more than its bound, exactly, as `bound.misses` marks it.

    Parameters
    ----------
    samples, decoded : (item, channel, n)
        Contiguous, of one type.
    bounds : (item, channel) float64
        Bounds; or what broadcasts to them.

    Returns
    -------
    missed : (item, channel, n) bool
    largest : (item, channel) float64
        Largest difference of the samples that do not miss, rounded.
    """
    planes, n, grid = _elements(samples)
    missed = torch.empty(samples.shape, dtype=torch.bool, device=samples.device)
    largest = torch.zeros(planes, dtype=torch.int64, device=samples.device)
    compare[grid](
        samples, decoded, _per_plane(bounds, planes), missed, largest, n, -(-n // BLOCK), BLOCK=BLOCK,
        num_warps=WARPS, **EXACT,
    )  # fmt: skip
    return missed, largest.view(torch.float64)


def squares(samples: torch.Tensor, decoded: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Sums of squared errors in units of a scale; in a fixed order, but not that of NumPy.

    Parameters
    ----------
    samples, decoded : (item, channel, n)
        Contiguous, of one type.
    scales : (item, channel) float64
        What errors are divided by; or what broadcasts to them.

    Returns
    -------
    (item, channel, tile) float64
        Sums of tiles: `math.fsum` of those of a chunk is the sum of the chunk within 1e-13 of it.
    """
    planes, n, grid = _elements(samples)
    sums = torch.empty((*planes, -(-n // BLOCK)), dtype=torch.float64, device=samples.device)
    add_errors[grid](
        samples, decoded, _per_plane(scales, planes), sums, n, -(-n // BLOCK), BLOCK=BLOCK, num_warps=WARPS, **EXACT
    )
    return sums


def _elements(x: torch.Tensor) -> tuple[tuple[int, int], int, tuple[int]]:
    """Planes, samples of a plane, and the grid of programs that take `BLOCK` samples each."""
    planes, n = (x.shape[0], x.shape[1]), x[0, 0].numel() if x.numel() else 0
    return planes, n, (planes[0] * planes[1] * -(-n // BLOCK),)


def _per_plane(values: torch.Tensor, planes: tuple[int, int]) -> torch.Tensor:
    return values.expand(planes).contiguous()


def _range(dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, bool]:
    """Smallest and largest value of a type, and whether it is one of integers."""
    whole = not dtype.is_floating_point
    info = torch.iinfo(dtype) if whole else torch.finfo(dtype)
    return _numbers((float(info.min), float(info.max)), device), whole


@lru_cache(maxsize=64)
def _numbers(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Floats for a kernel, which would take them as float32 if they were handed to it as they are."""
    return upload(device, np.array(values))[0]


def hashable(boxes: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int(edge) for edge in box) for box in boxes)


@lru_cache(maxsize=64)
def row_tiles(boxes: tuple[tuple[int, ...], ...], device: torch.device) -> tuple[torch.Tensor, list[int]]:
    """Tiles of rows of subbands: (tile, 9) int32; and the numbers of the first rows of subbands, all of them counted.

    A tile has the number of its subband, its first row in the subband, its first column, the box, and the number of
    the first row of the subband.
    """
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
    return upload(device, np.array(row_tiles(boxes, device)[1], np.int32))[0]


@triton.jit
def clipped(x):
    """Float64 in the range of int32 without its lowest number. (A literal would become a float32 here.)"""
    largest = tl.full(x.shape, 2147483647.0, tl.float64)
    return tl.minimum(tl.maximum(x, -largest), largest)


@triton.jit
def counted(magnitude):
    """What a magnitude counts for where squared errors are added up."""
    return tl.minimum(magnitude, SQUARED)


@triton.jit
def total_of(values):
    """Sum of integers (row, column)."""
    return tl.sum(tl.sum(values, axis=1), axis=0)


@triton.jit
def _place(n, tile_count, BLOCK: tl.constexpr):
    """Plane of this program, its samples in the plane, where they lie in all planes, and which of them exist."""
    at = tl.program_id(0)
    plane = (at // tile_count).to(tl.int64)
    i = at % tile_count * BLOCK + tl.arange(0, BLOCK)
    return plane, plane * n + i, i < n


@triton.jit(do_not_specialize=["tile_count"])
def convert(samples, per_sample, means, out, n, tile_count, BLOCK: tl.constexpr):
    """`to_units` of a tile."""
    plane, at, there = _place(n, tile_count, BLOCK)
    value = tl.load(samples + at, mask=there, other=0).to(tl.float64)
    tl.store(out + at, rint(value * tl.load(per_sample + plane)) - tl.load(means + plane), mask=there)


@triton.jit(do_not_specialize=["tile_count"])
def round_down(products, scales, largest, n, tile_count, BLOCK: tl.constexpr):
    """`round_products` of a tile."""
    plane, at, there = _place(n, tile_count, BLOCK)
    value = rint(tl.load(products + at, mask=there, other=0.0) * tl.load(scales + plane))
    tl.store(products + at, value, mask=there)
    _raise_to(largest + plane, tl.abs(value))


@triton.jit
def _raise_to(largest, values):
    """Raise a maximum, kept as bits, to that of float64 values without sign, whose bits are ordered as they are."""
    bits = values.to(tl.int64, bitcast=True)
    tl.atomic_max(largest, tl.max(bits, axis=0))


@triton.jit(do_not_specialize=["tile_count"])
def rebuild(symbols, quanta, points, out, n, tile_count, BLOCK: tl.constexpr):
    """`dequantise` of a tile."""
    plane, at, there = _place(n, tile_count, BLOCK)
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


@triton.jit
def _base(product, table, INTEGRAL: tl.constexpr):
    """The base, from a product of the synthesis and a row of the table."""
    value = rint(product * tl.load(table)) + tl.load(table + 1)
    if INTEGRAL:
        value = rint(value * tl.load(table + 2))
    return value


@triton.jit
def _sample(value, table, nodata, limits, dtype: tl.constexpr, INTEGRAL: tl.constexpr, WHOLE: tl.constexpr):
    """The sample, from a base with its residual."""
    if not INTEGRAL:
        value = value * tl.load(table + 3)
        if WHOLE:
            value = rint(value)
    value = tl.minimum(tl.maximum(value, tl.load(limits)), tl.load(limits + 1))
    if WHOLE:
        sample = value.to(tl.int64).to(dtype)
    else:
        sample = value.to(dtype)
    if nodata is not None:
        sample = tl.where(sample == tl.load(nodata), tl.load(nodata + 1), sample)
    return sample


@triton.jit(do_not_specialize=["tile_count"])
def make_samples(
    products, table, residuals, nodata, out, limits, n, tile_count,
    INTEGRAL: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`finish` of a tile."""
    plane, at, there = _place(n, tile_count, BLOCK)
    table += plane * 5
    value = _base(tl.load(products + at, mask=there, other=0.0), table, INTEGRAL)
    if residuals is not None:
        value += tl.load(residuals + at, mask=there, other=0).to(tl.float64) * tl.load(table + 4)
    tl.store(out + at, _sample(value, table, nodata, limits, out.dtype.element_ty, INTEGRAL, WHOLE), mask=there)


@triton.jit
def _compared(given, found, bound):
    """Whether what was found is within the bound; the difference is taken with its rounding error (Knuth's TwoSum)."""
    minus = -found
    total = given + minus
    rest = total - given
    error = (given - (total - rest)) + (minus - rest)
    size = tl.abs(total)
    beyond = tl.where(total > 0, error, -error) > 0
    return (size < bound) | ((size <= bound) & ~beyond), size


@triton.jit(do_not_specialize=["tile_count"])
def make_residuals(
    samples, products, table, mask, nodata, residuals, sums, decoded, bounds, missed, largest,
    limits, n, tile_count,
    INTEGRAL: tl.constexpr, WHOLE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """`residuals` or `bounded_residuals` of a tile."""
    plane, at, there = _place(n, tile_count, BLOCK)
    table += plane * 5
    base = _base(tl.load(products + at, mask=there, other=0.0), table, INTEGRAL)
    given = tl.load(samples + at, mask=there, other=0).to(tl.float64)
    step = tl.load(table + 4)
    if INTEGRAL:
        quotient = rint((given - base) * (1.0 / step))
    else:
        quotient = rint((given * (1.0 / tl.load(table + 3)) - base) * (1.0 / step))
    rest = clipped(quotient).to(tl.int32)
    coded = there
    if mask is not None:
        coded = there & (tl.load(mask + at, mask=there, other=1) == 0)
    rest = tl.where(coded, rest, 0)
    tl.store(residuals + at, rest, mask=there)
    tl.atomic_add(sums + plane, tl.sum(tl.abs(rest.to(tl.int64)), axis=0))
    value = base + rest.to(tl.float64) * step
    sample = _sample(value, table, nodata, limits, samples.dtype.element_ty, INTEGRAL, WHOLE)
    if decoded is not None:
        tl.store(decoded + at, sample, mask=there)
    else:
        kept, size = _compared(given, sample.to(tl.float64), tl.load(bounds + plane))
        tl.store(missed + at, ~kept, mask=there)
        _raise_to(largest + plane, tl.where(kept & there, size, 0.0))


@triton.jit(do_not_specialize=["tile_count"])
def compare(samples, decoded, bounds, missed, largest, n, tile_count, BLOCK: tl.constexpr):
    """`misses` of a tile."""
    plane, at, there = _place(n, tile_count, BLOCK)
    given = tl.load(samples + at, mask=there, other=0).to(tl.float64)
    found = tl.load(decoded + at, mask=there, other=0).to(tl.float64)
    kept, size = _compared(given, found, tl.load(bounds + plane))
    tl.store(missed + at, ~kept, mask=there)
    _raise_to(largest + plane, tl.where(kept & there, size, 0.0))


@triton.jit(do_not_specialize=["tile_count"])
def add_errors(samples, decoded, scales, sums, n, tile_count, BLOCK: tl.constexpr):
    """`squares` of a tile."""
    plane, at, there = _place(n, tile_count, BLOCK)
    a = tl.load(samples + at, mask=there, other=0).to(tl.float64)
    b = tl.load(decoded + at, mask=there, other=0).to(tl.float64)
    error = (a - b) / tl.load(scales + plane)
    tl.store(sums + tl.program_id(0), tl.sum(tl.where(there, error * error, 0.0), axis=0))
