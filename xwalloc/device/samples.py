# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""The steps between samples and latents on a CUDA device, to the bit as the kernels for a CPU take them.

What is exact, and why: sums, counts and maxima are of integers, so that their order is free; wherever floats are
rounded (units, the last step to samples), each sample goes through the same IEEE operations in the same order
as on a CPU, none of them contracted (see `EXACT`). Only `squares` adds up floats: in an order that is the same in every
run, but not that of NumPy.

Planes of several chunks are worked on together. What chunks or channels differ in stands in tables with one row per
plane; nothing here waits for the device. A matrix product between `to_units` and `round_products`, or before
`finish`, is `torch.matmul` of float64: its partial sums are integers below 2^53.

Functions are named for what they replace: `to_units` and the rounding of `project` (models/analysis.py), `Finish` and
`misses` (codec/bound.py), `squares` (codec/examine.py).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from xwalloc.device.arithmetic import EXACT, rint
from xwalloc.device.tiles import BLOCK, WARPS, clipped, elements, numbers, per_plane, place, raise_to

__all__ = ["bounded_residuals", "finish", "misses", "residuals", "round_products", "squares", "to_units"]

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
    planes, n, grid = elements(samples)
    convert[grid](
        samples, per_plane(per_sample, planes), per_plane(means, planes), out, n, -(-n // BLOCK), BLOCK=BLOCK,
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
    planes, n, grid = elements(products)
    largest = torch.zeros(planes, dtype=torch.int64, device=products.device)
    round_down[grid](
        products, per_plane(shifts, planes), largest, n, -(-n // BLOCK), BLOCK=BLOCK, num_warps=WARPS, **EXACT
    )
    return largest.view(torch.float64).reshape(planes)


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
    planes, n, grid = elements(products)
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
        samples, products, table, mask, nodata, integral, None, per_plane(bounds, planes), missed, largest
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
    planes, n, grid = elements(products)
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
    planes, n, grid = elements(samples)
    missed = torch.empty(samples.shape, dtype=torch.bool, device=samples.device)
    largest = torch.zeros(planes, dtype=torch.int64, device=samples.device)
    compare[grid](
        samples, decoded, per_plane(bounds, planes), missed, largest, n, -(-n // BLOCK), BLOCK=BLOCK,
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
    planes, n, grid = elements(samples)
    sums = torch.empty((*planes, -(-n // BLOCK)), dtype=torch.float64, device=samples.device)
    add_errors[grid](
        samples, decoded, per_plane(scales, planes), sums, n, -(-n // BLOCK), BLOCK=BLOCK, num_warps=WARPS, **EXACT
    )
    return sums


def _range(dtype: torch.dtype, device: torch.device) -> tuple[torch.Tensor, bool]:
    """Smallest and largest value of a type, and whether it is one of integers."""
    whole = not dtype.is_floating_point
    info = torch.iinfo(dtype) if whole else torch.finfo(dtype)
    return numbers((float(info.min), float(info.max)), device), whole


@triton.jit(do_not_specialize=["tile_count"])
def convert(samples, per_sample, means, out, n, tile_count, BLOCK: tl.constexpr):
    """`to_units` of a tile."""
    plane, at, there = place(n, tile_count, BLOCK)
    value = tl.load(samples + at, mask=there, other=0).to(tl.float64)
    tl.store(out + at, rint(value * tl.load(per_sample + plane)) - tl.load(means + plane), mask=there)


@triton.jit(do_not_specialize=["tile_count"])
def round_down(products, scales, largest, n, tile_count, BLOCK: tl.constexpr):
    """`round_products` of a tile."""
    plane, at, there = place(n, tile_count, BLOCK)
    value = rint(tl.load(products + at, mask=there, other=0.0) * tl.load(scales + plane))
    tl.store(products + at, value, mask=there)
    raise_to(largest + plane, tl.abs(value))


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
    plane, at, there = place(n, tile_count, BLOCK)
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
    plane, at, there = place(n, tile_count, BLOCK)
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
        raise_to(largest + plane, tl.where(kept & there, size, 0.0))


@triton.jit(do_not_specialize=["tile_count"])
def compare(samples, decoded, bounds, missed, largest, n, tile_count, BLOCK: tl.constexpr):
    """`misses` of a tile."""
    plane, at, there = place(n, tile_count, BLOCK)
    given = tl.load(samples + at, mask=there, other=0).to(tl.float64)
    found = tl.load(decoded + at, mask=there, other=0).to(tl.float64)
    kept, size = _compared(given, found, tl.load(bounds + plane))
    tl.store(missed + at, ~kept, mask=there)
    raise_to(largest + plane, tl.where(kept & there, size, 0.0))


@triton.jit(do_not_specialize=["tile_count"])
def add_errors(samples, decoded, scales, sums, n, tile_count, BLOCK: tl.constexpr):
    """`squares` of a tile."""
    plane, at, there = place(n, tile_count, BLOCK)
    a = tl.load(samples + at, mask=there, other=0).to(tl.float64)
    b = tl.load(decoded + at, mask=there, other=0).to(tl.float64)
    error = (a - b) / tl.load(scales + plane)
    tl.store(sums + tl.program_id(0), tl.sum(tl.where(there, error * error, 0.0), axis=0))
