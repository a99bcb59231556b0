# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Candidates for quantum and rank, tried in windows of chunks on a CUDA device: what models/trials.py does on a CPU.

All candidates are tried at once, since a device has room for that, and to go step by step would have it wait. All sums
are of integers. Windows of several chunks are worked on together; nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from xwalloc.device.arithmetic import EXACT, rint
from xwalloc.device.quantiser import COLUMNS, ROWS, SPAN, counted, row_tiles, rows_of, total_of
from xwalloc.device.tiles import WARPS, clipped

__all__ = ["residual_sums", "try_quanta"]

CHANNELS, PIXELS = 8, 128
"""Channels and pixels of a program that counts residuals."""


def try_quanta(
    latents: torch.Tensor, boxes: Sequence[Sequence[int]], quanta: torch.Tensor, rise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise windows with several quanta, at one threshold, without reconstruction points.

    Parameters
    ----------
    latents : (window, latent, z, y, x) float64
        Contiguous; coefficients, integers in units.
    boxes : (subband, 6)
        Start and stop of each subband along z, y, x; on the host. They cover the windows.
    quanta : (window, candidate) float64
        Units per step.
    rise : (1,) float64
        1 less the threshold within a cell.

    Returns
    -------
    quantised : (window, candidate, latent, z, y, x) float64
        What coefficients are quantised to.
    sums : (window, candidate, latent, subband, 3) int64
        As `quantise.try_quantum` adds them up.
    """
    windows, rank, *extent = latents.shape
    candidates = quanta.shape[1]
    tiles, _ = row_tiles(boxes, latents.device)
    quantised = torch.empty((windows, candidates, rank, *extent), dtype=torch.float64, device=latents.device)
    sums = torch.zeros((windows, candidates, rank, len(boxes), 3), dtype=torch.int64, device=latents.device)
    try_rows[(windows * candidates * rank * len(tiles),)](
        latents, quanta.contiguous(), rise, tiles, quantised, sums, extent[1], extent[2], latents[0, 0].numel(),
        len(boxes), rank, candidates, len(tiles), ROWS=ROWS, COLUMNS=COLUMNS, SPAN=SPAN, num_warps=WARPS, **EXACT,
    )  # fmt: skip
    return quantised, sums


def residual_sums(
    units: torch.Tensor, latents: torch.Tensor, basis: torch.Tensor, ranks: torch.Tensor, scales: torch.Tensor,
    holes: torch.Tensor | None,
) -> torch.Tensor:  # fmt: skip
    """Sums of magnitudes of the residuals that candidates leave in windows.

    Parameters
    ----------
    units : (window, channel, n) float64
        Samples less the means of their channels; integers, in units.
    latents : (window, candidate, latent, n) float64
        Latents of each candidate quantum, integers in units.
    basis : (window, latent, channel) float64
        Basis times a power of two, rounded to integers.
    ranks : (window, rank) int32
        Candidate ranks, ascending.
    scales : (window, 2) float64
        What units are multiplied by to be as large as products with the basis, and what the difference is multiplied
        by to be in steps of the residual layer.
    holes : (window, channel, n) uint8
        Not 0 where a sample is not coded; None where all are.

    Returns
    -------
    (window, candidate, rank, channel) int64
    """
    windows, channels, n = units.shape
    candidates, rank = latents.shape[1:3]
    count = ranks.shape[1]
    sums = torch.zeros((windows, candidates, count, channels), dtype=torch.int64, device=units.device)
    across = -(-channels // CHANNELS) * -(-n // PIXELS)
    count_rest[(windows * candidates * across,)](
        units.contiguous(), latents.contiguous(), basis.contiguous(), ranks.contiguous(), scales.contiguous(), holes,
        sums, n, channels, rank, count, candidates, across, CHANNELS=CHANNELS, PIXELS=PIXELS, num_warps=WARPS, **EXACT,
    )  # fmt: skip
    return sums


@triton.jit(do_not_specialize=["ny", "nx", "size", "subbands", "rank", "candidates", "tile_count"])
def try_rows(
    latents, quanta, rise, tiles, quantised, sums, ny, nx, size, subbands, rank, candidates, tile_count,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """`try_quanta` of a tile of rows."""
    plane, subband, first, end, _, has_row, start = rows_of(tiles, tile_count, ny, nx, size, ROWS)
    candidate = plane // rank
    source = candidate // candidates * rank + plane % rank
    quantum = tl.load(quanta + candidate)
    scale = 1.0 / quantum
    rise = tl.load(rise)
    total = tl.zeros((ROWS, COLUMNS), tl.int64)
    squared = tl.zeros((ROWS, COLUMNS), tl.int64)
    cross = tl.zeros((ROWS, COLUMNS), tl.int64)
    for x in range(first, tl.minimum(first + SPAN, end), COLUMNS):
        column = x + tl.arange(0, COLUMNS)
        there = has_row[:, None] & (column < end)[None, :]
        at = start[:, None] + column[None, :]
        latent = tl.load(latents + at + (source - plane) * size, mask=there, other=0.0)
        value = tl.abs(latent)
        magnitude = tl.where(there, clipped(tl.floor(value * scale + rise)), 0.0)
        near = magnitude * quantum
        tl.store(quantised + at, tl.where(latent > 0, near, -near), mask=there)
        rest = clipped(value - near).to(tl.int64)
        whole = magnitude.to(tl.int64)
        limited = counted(whole)
        total += whole
        squared += limited * limited
        cross += limited * rest
    found = sums + (plane * subbands + subband) * 3
    tl.atomic_add(found, total_of(total))
    tl.atomic_add(found + 1, total_of(squared))
    tl.atomic_add(found + 2, total_of(cross))


@triton.jit(do_not_specialize=["n", "channels", "rank", "count", "candidates", "across"])
def count_rest(
    units, latents, basis, ranks, scales, holes, sums, n, channels, rank, count, candidates, across,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    """`residual_sums` of a tile of channels and pixels."""
    at = tl.program_id(0)
    candidate = (at // across).to(tl.int64)
    window = candidate // candidates
    tile = at % across
    parts = (n + PIXELS - 1) // PIXELS
    channel = tile // parts * CHANNELS + tl.arange(0, CHANNELS)
    pixel = tile % parts * PIXELS + tl.arange(0, PIXELS)
    there = (channel < channels)[:, None] & (pixel < n)[None, :]
    place = (window * channels + channel)[:, None] * n + pixel[None, :]
    rest = tl.load(units + place, mask=there, other=0.0) * tl.load(scales + window * 2)
    per_step = tl.load(scales + window * 2 + 1)
    coded = there
    if holes is not None:
        coded = there & (tl.load(holes + place, mask=there, other=1) == 0)
    latents += candidate * rank * n
    basis += window * rank * channels
    k = at * 0
    for r in range(count):
        end = tl.load(ranks + window * count + r)
        while k < end:
            latent = tl.load(latents + k * n + pixel, mask=pixel < n, other=0.0)
            vector = tl.load(basis + k * channels + channel, mask=channel < channels, other=0.0)
            rest -= vector[:, None] * latent[None, :]
            k += 1
        size = tl.where(coded, tl.abs(rint(rest * per_step)), 0.0).to(tl.int64)
        tl.atomic_add(
            sums + (candidate * count + r) * channels + channel, tl.sum(size, axis=1), mask=channel < channels
        )
