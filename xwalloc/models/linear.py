# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""The self-fitted linear model: channel means, a spectral basis (KLT), a wavelet tree, and what quantises them.

Encoding: samples -> units (integers) -> minus channel means -> projection on the basis -> wavelet -> symbols.
Decoding: symbols -> latents in units -> inverse wavelet -> basis: products that `codec.bound` turns into samples.
Both directions are products of integers in float64 whose partial sums stay below 2^53, with a rounding shift between
them, so that neither depends on the device, the BLAS, the number of threads or the batch.

Everything the decoder needs is a `LinearModel`; `fit` makes one for a chunk in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xwalloc.errors import BudgetError
from xwalloc.jit import allocating_kernel, kernel
from xwalloc.models import quantise as q
from xwalloc.models.spec import Grid, LinearModel, Parallel, in_turn
from xwalloc.transform import spectral
from xwalloc.transform.linalg import solve_spd

__all__ = ["Scale", "fit", "products", "synthesise", "tiles"]

COVARIANCE_SAMPLES = 1 << 14
COVARIANCE_BITS = 18
RUN = 16
CROP = {1: 8192, 2: 48, 3: 16}
"""Side of the windows that estimates look at, by number of signal axes; two windows along every longer axis."""

LARGE = 1 << 15
"""Of chunks with more pixels, a smaller share is looked at: windows of two thirds the side, half the covariance."""

BASIS_STEP = 0.015
"""Step of a basis vector times the deviation it carries, in quanta (experiments: 0.01 to 0.02)."""

RATIOS = (1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)
"""Candidate quanta, in multiples of the bound."""

TAIL_SHARE, TAIL_WIDTH = 0.06, 2.4

TILE_SAMPLES = 1 << 18

HEADROOM_BITS = 2
"""By how much coefficients of ordinary signals exceed their latents."""


@dataclass(frozen=True)
class Scale:
    """Units of a chunk.

    Parameters
    ----------
    per_sample
        Units per unit of the samples.
    step
        Units per step of the residual layer; 0 without one.
    quantum
        Units per step of the latents; None where it is to be chosen with respect to `step`.
    """

    per_sample: float
    step: float
    quantum: int | None


@kernel
def to_units(samples, per_sample, mean, out):
    """Samples (channel, n) as integers in units less the channel means."""
    for c in range(samples.shape[0]):
        offset = mean[c]
        for i in range(samples.shape[1]):
            out[c, i] = np.rint(np.float64(samples[c, i]) * per_sample) - offset


def tiles(shape: Sequence[int]) -> Iterator[tuple[int, slice]]:
    """(batch item, range of pixels) of the tiles in which products with the basis are made."""
    batch, channels, *signal = shape
    n = math.prod(signal)
    width = max(256, TILE_SAMPLES // channels)
    for item in range(batch):
        for start in range(0, n, width):
            yield item, slice(start, min(start + width, n))


def _bits(value: float) -> int:
    """Smallest b with |value| < 2^b."""
    return int(math.frexp(abs(value))[1])


def _means_and_covariance(
    samples: NDArray[np.generic], scale: Scale
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Channel means in units and covariance in units squared.

    A regular subset of the pixels is enough; sums are exact, so that nothing depends on the order of reduction.
    """
    batch, channels = samples.shape[:2]
    flat = samples.reshape(batch, channels, -1)
    # Every so many runs of pixels: neighbours come from memory together.
    pixels = batch * flat.shape[2]
    stride = max(1, pixels // COVARIANCE_SAMPLES * (2 if pixels > LARGE else 1)) | 1
    if stride > 1 and flat.shape[2] >= RUN * stride:
        runs = flat[:, :, : flat.shape[2] // RUN * RUN].reshape(batch, channels, -1, RUN)[:, :, ::stride]
        some = runs.transpose(1, 0, 2, 3).reshape(channels, -1)
    else:
        some = flat[:, :, ::stride].transpose(1, 0, 2).reshape(channels, -1)
    units = np.empty(some.shape, np.float64)
    to_units(some, scale.per_sample, np.zeros(channels), units)
    means = np.rint(units.mean(axis=1))
    units -= means[:, None]
    coarse = 2.0 ** max(0, _bits(float(np.abs(units).max(initial=0.0))) - COVARIANCE_BITS)
    if coarse > 1:
        np.rint(units / coarse, out=units)
    return means, spectral.moments(units).covariance * (coarse * coarse)


def _windows(signal: Sequence[int], dimensions: int) -> list[tuple[slice, ...]]:
    """A few windows spread over the signal axes."""
    side = CROP[dimensions]
    if math.prod(signal) > LARGE:
        side = side * 2 // 3
    per_axis = []
    for n in signal:
        if n <= 2 * side:
            per_axis.append([slice(0, n)])
        else:
            per_axis.append(
                [slice(n // 4 - side // 2, n // 4 + side // 2), slice(3 * n // 4 - side // 2, 3 * n // 4 + side // 2)]
            )
    return [(z, y, x) for z in per_axis[0] for y in per_axis[1] for x in per_axis[2]]


def _code_lengths(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """`quantise.code_length` of every mean magnitude."""
    out = np.empty(means.shape)
    q.code_lengths(np.ascontiguousarray(means).reshape(-1), out.reshape(-1))
    return out


def _boxes(grid: Grid) -> NDArray[np.int64]:
    """Start and stop of each subband along z, y, x: (subband, 6)."""
    return np.array([[edge for part in s.slices for edge in (part.start, part.stop)] for s in grid.subbands], np.int64)


@allocating_kernel
def _residual_magnitude(deviations, step):
    """Mean magnitude of the residuals of errors with these deviations, in units.

    Errors have heavier tails than a Gaussian, since edges are where a step saves most: `TAIL_SHARE` of them are
    `TAIL_WIDTH` times as wide as the others.
    """
    out = np.zeros(deviations.shape[0])
    for c in range(deviations.shape[0]):
        for share, width in ((1 - TAIL_SHARE, 0.87), (TAIL_SHARE, 0.87 * TAIL_WIDTH)):
            ratio = step / max(deviations[c] * width, 1e-9) / math.sqrt(2.0)
            for j in range(24):
                out[c] += share * math.erfc((j + 0.5) * ratio)
    return out


def fit(
    samples: NDArray[np.generic],
    edges: tuple[float, float],
    scale: Scale,
    grid: Grid,
    parallel: Parallel,
) -> tuple[LinearModel, NDArray[np.int32]] | None:
    """Fit a model to a chunk and quantise the chunk with it.

    Parameters
    ----------
    samples : (batch, channel, z, y, x)
        Finite samples, holes filled.
    edges
        Range of the samples.
    scale
        Units.
    grid
        Tree, wavelet, boundary and levels over the signal axes.
    parallel
        Runs a function over items on idle threads, results in order.

    Returns
    -------
    model, symbols : LinearModel, (batch, rank, z, y, x) int32
        None where the chunk is beyond the bit budget of exact arithmetic.
    """
    batch, channels, *signal = samples.shape
    pixels = batch * math.prod(signal)
    low, high = (edge * scale.per_sample for edge in edges)
    if not max(abs(low), abs(high)) < 2.0**40:
        return None
    means, covariance = _means_and_covariance(samples, scale)
    reach = max(high - float(means.min()), float(means.max()) - low) + 1.0
    variances, basis = spectral.klt(covariance)
    try:
        quantum, rank = _choose(samples, scale, grid, means, reach, variances, basis, pixels, parallel)
        precisions = _precisions(variances[:rank], quantum, channels)
        vectors = np.rint(np.ldexp(basis[:rank], precisions[:, None])).astype(np.int64)
        mean_shift = max(0, _bits((scale.step or quantum) / 8) - 1)
        coarse = np.rint(np.ldexp(means, -mean_shift)).astype(np.int64)
        if np.abs(np.diff(coarse, prepend=0)).max() >= 2**31:
            return None
        model = LinearModel(
            grid=grid, quantum=quantum, points=(0,) * q.POINTS, mean_shift=mean_shift, means=coarse,
            precisions=precisions, vectors=vectors, codes=np.zeros((rank, 0), np.int64), filter_shift=0,
        )  # fmt: skip
        analysis = _dual(np.ldexp(vectors.astype(np.float64), -precisions[:, None]))
        latents, largest = _project(samples, scale.per_sample, model.mean_units, analysis, reach, parallel)
        shift = _filter_shift(largest)
        coefficients = grid.forward(latents, shift, largest, parallel)
    except BudgetError:
        return None
    return _quantise(model, coefficients, shift, channels, parallel)


def _choose(
    samples: NDArray[np.generic],
    scale: Scale,
    grid: Grid,
    means: NDArray[np.float64],
    reach: float,
    variances: NDArray[np.float64],
    basis: NDArray[np.float64],
    pixels: int,
    parallel: Parallel,
) -> tuple[int, int]:
    """Quantum and rank, from a few windows of the chunk."""
    channels = samples.shape[1]
    quanta = [scale.quantum] if scale.quantum else [max(1, round(r * scale.step / 2)) for r in RATIOS]
    rank = max(1, int(np.count_nonzero(variances * min(pixels, 256) > (0.5 * quanta[0]) ** 2)))
    candidates = np.array(quanta, np.float64)

    def look(window: tuple[slice, ...]) -> tuple[int, NDArray[np.float64], NDArray[np.float64]]:
        """Pixels of a window, bits (quantum, latent) and squared errors (latent, quantum)."""
        crop = np.ascontiguousarray(samples[0:1, :, *window])
        latents, largest = _project(crop, scale.per_sample, means, basis[:rank], reach, in_turn)
        small = grid.cropped(crop.shape[2:])
        coefficients = small.forward(latents, _filter_shift(largest), largest)
        boxes = _boxes(small)
        sizes = np.prod(boxes[:, 1::2] - boxes[:, ::2], axis=1)
        totals = np.zeros((rank, len(quanta), len(boxes)))
        errors = np.zeros((rank, len(quanta)))
        q.survey_latents(coefficients[0], boxes, candidates, totals, errors)
        return crop[0, 0].size, (_code_lengths(totals / sizes) * sizes).sum(axis=2).T, errors

    looks = parallel(look, _windows(samples.shape[2:], grid.dimensions))
    seen = sum(size for size, _, _ in looks)
    bits = np.sum([part for _, part, _ in looks], axis=0)
    errors = np.sum([part for _, _, part in looks], axis=0)
    power = basis**2
    dropped = power[rank:].T @ variances[rank:]
    bits *= pixels / seen
    best: tuple[float, int, int] | None = None
    for i, quantum in enumerate(quanta):
        error = errors[:, i] / seen
        saved = np.maximum(variances[:rank] - error, 0.0) * pixels / quantum**2
        side = channels * (
            np.maximum(_precisions(variances[:rank], quantum, channels) - 0.5 * math.log2(channels), 0) + 2.0
        )
        worth = np.flatnonzero(saved > 2 * q.SLOPE * (bits[i] + side))
        kept = int(worth[-1]) + 1 if worth.size else 1
        cost = float(np.sum(bits[i, :kept] + side[:kept]))
        if scale.step:
            spread = power[:kept].T @ error[:kept] + power[kept:rank].T @ variances[kept:rank] + dropped
            cost += pixels * float(_code_lengths(_residual_magnitude(np.sqrt(spread), scale.step)).sum())
        if best is None or cost < best[0]:
            best = cost, quantum, kept
    assert best is not None
    return best[1], best[2]


def _precisions(variances: NDArray[np.float64], quantum: int, channels: int) -> NDArray[np.int64]:
    """Fractional bits of each basis vector: its step times the deviation it carries is `BASIS_STEP` quanta."""
    if channels == 1:
        return np.zeros(len(variances), np.int64)
    deviation = np.sqrt(np.maximum(variances, 1e-9))
    return np.clip(np.ceil(np.log2(deviation / (BASIS_STEP * quantum))), 3, 22).astype(np.int64)


def _dual(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least-squares analysis (rank, channel) of a rounded basis, itself no longer orthogonal."""
    return solve_spd(vectors @ vectors.T, vectors)


def _project(
    samples: NDArray[np.generic],
    per_sample: float,
    means: NDArray[np.float64],
    analysis: NDArray[np.float64],
    reach: float,
    parallel: Parallel,
) -> tuple[NDArray[np.float64], float]:
    """Latents before the wavelet, integers in units: (batch, rank, z, y, x); and their largest magnitude.

    Raises
    ------
    BudgetError
        If fewer than 8 fractional bits are left for the analysis.
    """
    batch, channels, *signal = samples.shape
    flat = samples.reshape(batch, channels, -1)
    norm = float(np.abs(analysis).sum(axis=1).max())
    shift = min(26, 52 - _bits(reach) - _bits(norm))
    if shift < 8:
        raise BudgetError("The range of the chunk over its step is too large for exact arithmetic.")
    matrix = np.rint(np.ldexp(analysis, shift))
    latents = np.empty((batch, len(analysis), flat.shape[2]))

    def project(tile: tuple[int, slice]) -> float:
        item, part = tile
        units = np.empty((channels, part.stop - part.start))
        to_units(flat[item, :, part], per_sample, means, units)
        product = matrix @ units
        product *= 2.0**-shift
        np.rint(product, out=latents[item, :, part])
        return max(float(product.max()), -float(product.min()))

    largest = max(parallel(project, list(tiles(samples.shape))))
    return latents.reshape(batch, len(analysis), *signal), math.ceil(largest) + 1.0


def _filter_shift(largest: float) -> int:
    """Fractional bits of wavelet taps for latents of this magnitude.

    Raises
    ------
    BudgetError
        If fewer than 8 are left.
    """
    shift = min(24, 51 - _bits(largest) - HEADROOM_BITS)
    if shift < 8:
        raise BudgetError("The range of the chunk over its step is too large for exact arithmetic.")
    return shift


def _quantise(
    model: LinearModel, coefficients: NDArray[np.float64], shift: int, channels: int, parallel: Parallel
) -> tuple[LinearModel, NDArray[np.int32]]:
    """Symbols, with thresholds by rate and the rank cut where a latent does not pay for itself."""
    batch, rank = coefficients.shape[:2]
    symbols = np.empty(coefficients.shape, np.int32)
    boxes = _boxes(model.grid)
    sums = np.zeros((rank, len(boxes), 8), np.int64)

    def quantise(k: int) -> None:
        q.quantise_planes(coefficients[:, k], boxes, float(model.quantum), symbols[:, k], sums[k])

    parallel(quantise, range(rank))
    sizes = batch * np.prod(boxes[:, 1::2] - boxes[:, ::2], axis=1)
    means = sums[:, :, 6] / sizes
    bits = (_code_lengths(means) * sizes).sum(axis=1)
    side = channels * np.maximum(model.precisions - 0.5 * math.log2(channels) + 2.0, 0)
    worth = np.flatnonzero(sums[:, :, 7].sum(axis=1) / 256 > 2 * q.SLOPE * (bits + side))
    kept = int(worth[-1]) + 1 if worth.size else 1
    points = q.reconstruction_points(sums[:kept].sum(axis=(0, 1)), model.quantum)
    return model.quantised(kept, means[:kept], points, shift), np.ascontiguousarray(symbols[:, :kept])


def synthesise(model: LinearModel, symbols: NDArray[np.int32], parallel: Parallel) -> NDArray[np.float64]:
    """Latents before the basis, integers in units: (batch, rank, n).

    Raises
    ------
    BudgetError
        If a partial sum could reach 2^53.
    """
    latents = np.empty(symbols.shape)
    points = np.array(model.points, np.float64)
    flat, out = symbols.reshape(-1, symbols.shape[-1]), latents.reshape(-1, symbols.shape[-1])
    rows = -(-len(flat) // 64)
    parallel(
        lambda part: q.dequantise(flat[part].reshape(-1), float(model.quantum), points, out[part].reshape(-1)),
        [slice(start, start + rows) for start in range(0, len(flat), rows)],
    )
    latents = model.grid.inverse(latents, model.filter_shift, parallel)
    return latents.reshape(*symbols.shape[:2], -1)


def products(model: LinearModel, latents: NDArray[np.float64], tile: tuple[int, slice]) -> NDArray[np.float64]:
    """Products (channel, n) of the basis with the latents of a tile; integers, 2^`model.shift` to a unit."""
    item, part = tile
    result: NDArray[np.float64] = model.matrix @ latents[item, :, part]
    return result
