# mypy: disable-error-code="no-untyped-call"
"""The self-fitted linear model: channel means, a spectral basis (KLT), a wavelet tree, and what quantises them.

Encoding: samples -> units (integers) -> minus channel means -> projection on the basis -> wavelet -> symbols.
Decoding: symbols -> latents in units -> inverse wavelet -> basis: products that `codec.bound` turns into samples.
Both directions are products of integers in float64 whose partial sums stay below 2^53, with a rounding shift between
them, so that neither depends on the device, the BLAS, the number of threads or the batch.

Everything the decoder needs is a `LinearModel`; `fit` makes one for a chunk in closed form, `apply` makes one from a
model of the whole array.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xwalloc.errors import BudgetError
from xwalloc.models import quantise as q
from xwalloc.models.analysis import Scale, bits_of
from xwalloc.models.choice import BASIS_STEP, FIRST, RATIOS, TURNED_STEP, choose, precisions_of, side_bits
from xwalloc.models.fitted import Fitted
from xwalloc.models.spec import Grid, LinearModel
from xwalloc.models.trials import boxes_of, code_lengths
from xwalloc.transform import spectral
from xwalloc.transform.linalg import solve_spd
from xwalloc.transform.tree import Plan
from xwalloc.types import Parallel, in_turn

if TYPE_CHECKING:
    from xwalloc.models.samples import Found, Samples

__all__ = ["apply", "dequantised", "fit", "fits", "products", "quantised", "reach", "rotate", "synthesise"]

Refine = Callable[[NDArray[np.float64], NDArray[np.int32], Plan, NDArray[np.int64], int], None]
"""Corrects latents in place, from symbols, plan, magnitude codes and quantum, as `neural.Network.refined` does."""

FURTHER, MOST_FURTHER = 0.3, 8
"""A direction outside the span of a model is added if its deviation exceeds so many quanta; so many are, at most."""

DEGENERATE = 1e-3
"""Squared length of a sum of rounded basis vectors, with weights of norm 1, below which it counts as none."""

PART = 1 << 15
"""Symbols that a thread takes at once, at least."""


def fit(
    samples: Samples,
    edges: tuple[float, float],
    scale: Scale,
    grid: Grid,
    mask: NDArray[np.uint8] | None,
) -> Found | None:
    """Fit a model to a chunk and quantise the chunk with it.

    Parameters
    ----------
    samples
        Finite samples, holes filled.
    edges
        Range of the samples.
    scale
        Units.
    grid
        Tree, wavelet, boundary and levels over the signal axes.
    mask : (batch, channel, z, y, x)
        Not 0 where a sample is not coded; None where all are.

    Returns
    -------
    model, symbols : LinearModel, (batch, rank, z, y, x) int32
        Symbols are where the samples are. None where the chunk is beyond the bit budget of exact arithmetic.
    """
    channels = samples.shape[1]
    low, high = (edge * scale.per_sample for edge in edges)
    largest = max(abs(low), abs(high))
    if not largest < 2.0**40:
        return None
    try:
        means, covariance = samples.moments(scale, largest)
        reach = max(high - float(means.min()), float(means.max()) - low) + 1.0
        variances, basis = spectral.klt(covariance)
        quantum, rank = choose(samples.look, samples.shape, scale, grid, means, reach, variances, basis, mask)
    except BudgetError:
        return None
    model = _rounded(grid, quantum, scale, means, variances[:rank], basis[:rank])
    if model is None:
        return None
    return samples.quantise(model, scale.per_sample, _dual(model), reach, side_bits(model.precisions, channels), None)


def _rounded(
    grid: Grid,
    quantum: int,
    scale: Scale,
    means: NDArray[np.float64],
    variances: NDArray[np.float64],
    basis: NDArray[np.float64],
    step: float = BASIS_STEP,
) -> LinearModel | None:
    """The model as a frame holds it, without what follows from quantisation; None where its numbers are too large."""
    rank, entries = basis.shape
    precisions = precisions_of(variances, quantum, entries, step)
    vectors = np.rint(np.ldexp(basis, precisions[:, None])).astype(np.int64)
    mean_shift = max(0, bits_of((scale.step or quantum) / 8) - 1)
    coarse = np.rint(np.ldexp(means, -mean_shift)).astype(np.int64)
    if np.abs(np.diff(coarse, prepend=0)).max() >= 2**31:
        return None
    return LinearModel(
        grid=grid, quantum=quantum, points=(0,) * q.POINTS, mean_shift=mean_shift, means=coarse,
        precisions=precisions, vectors=vectors, codes=np.zeros((rank, 0), np.int64), filter_shift=0,
    )  # fmt: skip


def rotate(
    fitted: Fitted,
    samples: Samples,
    edges: tuple[float, float],
    scale: Scale,
    grid: Grid,
    mask: NDArray[np.uint8] | None,
) -> tuple[Found | None, Fitted]:
    """Fit a basis of the chunk's own within the span of the model of an array: cheap to describe, and nearly as good.

    What that span lacks most is added to it. Parameters are those of `fit`.

    Returns
    -------
    found, wide
        `wide` is `fitted` with the directions that were added, if any. What was found is as for `fit`, but the model
        has the vectors of `wide` for channels; `wide.rotated` turns it into that of the chunk.
    """
    if fitted.scaled:
        return None, fitted
    low, high = (edge * scale.per_sample for edge in edges)
    largest = max(abs(low), abs(high))
    if not largest < 2.0**40:
        return None, fitted
    try:
        means, covariance = samples.moments(scale, largest)
        fitted = _widened(fitted, covariance, scale)
        offsets = fitted.analysis @ (means - fitted.start(grid, 1, scale.per_sample).mean_units)
        weights = _orthonormal(fitted.basis)
        within = weights @ fitted.basis
        variances, rotation = spectral.klt(within @ covariance @ within.T)
        weights = rotation @ weights
        start = _rounded(grid, 1, scale, offsets, variances[:1], weights[:1], TURNED_STEP)
        if start is None:
            return None, fitted
        means = fitted.rotated(start, scale.per_sample).mean_units
        reach = max(high - float(means.min()), float(means.max()) - low) + 1.0
        quantum, rank = choose(
            samples.look, samples.shape, scale, grid, means, reach, variances, weights @ fitted.basis, mask,
            entries=fitted.rank, basis_step=TURNED_STEP,
        )  # fmt: skip
        own = _rounded(grid, quantum, scale, offsets, variances[:rank], weights[:rank], TURNED_STEP)
        if own is None:
            return None, fitted
        model = fitted.rotated(own, scale.per_sample)
    except BudgetError:
        return None, fitted
    found = samples.quantise(model, scale.per_sample, _dual(model), reach, side_bits(own.precisions, fitted.rank), None)
    if found is None:
        return None, fitted
    model, symbols = found
    return (own.quantised_as(model.rank, model.codes, model.points, model.filter_shift), symbols), fitted


def _orthonormal(basis: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (rank, rank) of rounded basis vectors in orthonormal ones of the same span, as near to them as can be."""
    lengths, turns = spectral.klt(basis @ basis.T)
    usable = lengths > DEGENERATE
    inverse_roots = np.zeros(len(lengths))
    inverse_roots[usable] = lengths[usable] ** -0.5
    weights: NDArray[np.float64] = turns.T @ (inverse_roots[:, None] * turns)
    return weights


def _widened(fitted: Fitted, covariance: NDArray[np.float64], scale: Scale) -> Fitted:
    """The model with the directions outside its span along which a chunk of that covariance varies most."""
    outside = np.eye(fitted.channels) - fitted.basis.T @ fitted.analysis
    rest = outside @ covariance @ outside.T
    usual = max(1, round(RATIOS[FIRST] * scale.step / 2))
    least = (FURTHER * usual) ** 2
    room = min(MOST_FURTHER, fitted.channels - fitted.rank)
    if room == 0 or np.trace(rest) <= least:
        return fitted
    variances, directions = spectral.klt(rest)
    count = min(room, int(np.count_nonzero(variances > least)))
    if count == 0:
        return fitted
    precisions = precisions_of(variances[:count], usual, fitted.channels, TURNED_STEP)
    return fitted.widened(np.rint(np.ldexp(directions[:count], precisions[:, None])).astype(np.int64), precisions)


def apply(
    fitted: Fitted,
    samples: Samples,
    edges: tuple[float, float],
    scale: Scale,
    grid: Grid,
    mask: NDArray[np.uint8] | None,
) -> Found | None:
    """Quantise a chunk with the model of an array; parameters and returned values are those of `fit`."""
    quantum = scale.quantum or max(1, round(fitted.ratio * scale.step / 2))
    per_sample = scale.per_sample / fitted.scales
    low, high = (np.full(fitted.channels, edge) for edge in edges)
    if fitted.scaled:  # channels may differ by orders of magnitude
        low, high = samples.ranges()
    low, high = low * per_sample, high * per_sample
    if not max(np.abs(low).max(), np.abs(high).max()) < 2.0**40:
        return None
    try:
        model = fitted.start(grid, quantum, scale.per_sample)
        means = model.mean_units
        reach = float(max((high - means).max(), (means - low).max())) + 1.0
        rank = min(fitted.rank, samples.shape[0] * math.prod(grid.signal))
        if scale.step:
            _, rank = choose(
                samples.look, samples.shape, scale, grid, means, reach, np.ones(rank), fitted.basis[:rank], mask,
                entries=0, fixed=quantum, per_sample=per_sample, analysis=fitted.analysis[:rank],
            )  # fmt: skip
    except BudgetError:
        return None
    start = model.quantised_as(rank, model.codes[:rank], model.points, 0)
    kept = fitted.kept_on(grid)[:rank]
    return samples.quantise(start, per_sample, fitted.analysis[:rank], reach, np.zeros(rank), kept)


def _dual(model: LinearModel) -> NDArray[np.float64]:
    """Least-squares analysis (rank, channel) of a rounded basis, itself no longer orthogonal."""
    vectors = np.ldexp(model.vectors.astype(np.float64), -model.precisions[:, None])
    return solve_spd(vectors @ vectors.T, vectors)


def quantised(
    model: LinearModel, sums: NDArray[np.int64], batch: int, shift: int, side: NDArray[np.float64]
) -> LinearModel:
    """The model with what quantisation found; its rank is cut where a latent does not pay for itself.

    Parameters
    ----------
    model
        Without what follows from quantisation.
    side : (rank,)
        Bits that a latent costs besides its symbols.
    sums : (rank, subband, 8)
        What `quantise_planes` added up, over all batch items.
    batch
        Number of these.
    shift
        Fractional bits of the taps.
    """
    boxes = boxes_of(model.grid)
    sizes = batch * np.prod(boxes[:, 1::2] - boxes[:, ::2], axis=1)
    means = sums[:, :, 6] / sizes
    bits = (code_lengths(means) * sizes).sum(axis=1)
    paying = q.worthwhile(sums[:, :, 7].sum(axis=1) / 256, bits + side)
    points = q.reconstruction_points(sums[:paying].sum(axis=(0, 1)), model.quantum)
    return model.quantised(paying, means[:paying], points, shift)


def reach(model: LinearModel, symbols: NDArray[np.int32]) -> float:
    """What no latent that `synthesise` returns exceeds; infinite if only synthesis can tell."""
    largest = max(int(symbols.max(initial=0)), -int(symbols.min(initial=0)))
    return model.grid.inverse_bound(largest * model.quantum + max(map(abs, model.points)), model.filter_shift)


def synthesise(
    model: LinearModel, symbols: NDArray[np.int32], parallel: Parallel, refine: Refine | None = None
) -> NDArray[np.float64]:
    """Latents before the basis, integers in units, refined if something does that: (batch, rank, n).

    Raises
    ------
    BudgetError
        If a partial sum could reach 2^53.
    """
    coefficients = dequantised(model, symbols, parallel)
    if refine is not None:
        refine(coefficients, symbols, model.grid.plan, model.codes, model.quantum)
    latents = model.grid.inverse(coefficients, model.filter_shift, parallel)
    return latents.reshape(*symbols.shape[:2], -1)


def dequantised(model: LinearModel, symbols: NDArray[np.int32], parallel: Parallel = in_turn) -> NDArray[np.float64]:
    """Latents that symbols (contiguous, of any shape) stand for, in units."""
    latents = np.empty(symbols.shape)
    points = np.array(model.points, np.float64)
    flat, out = symbols.reshape(-1, symbols.shape[-1]), latents.reshape(-1, symbols.shape[-1])
    rows = max(-(-len(flat) // 64), PART // max(1, symbols.shape[-1]), 1)
    parallel(
        lambda part: q.dequantise(flat[part].reshape(-1), float(model.quantum), points, out[part].reshape(-1)),
        [slice(start, start + rows) for start in range(0, len(flat), rows)],
    )
    return latents


def products(
    model: LinearModel, latents: NDArray[np.float64], tile: tuple[int, slice], channels: slice = slice(None)
) -> NDArray[np.float64]:
    """Products (channel, n) of the basis with the latents of a tile; integers, 2^`model.shift` to a unit."""
    item, part = tile
    result: NDArray[np.float64] = model.matrix[channels] @ latents[item, :, part]
    return result


def fits(model: LinearModel, reach: NDArray[np.float64]) -> bool:
    """Whether no partial sum of the spectral synthesis reaches 2^53 if no latent (rank,) exceeds `reach`."""
    with np.errstate(invalid="ignore"):
        largest = float((np.abs(model.matrix) @ reach).max(initial=0.0))
    return largest < 2.0**53 and float(np.abs(model.mean_units).max(initial=0.0)) < 2.0**52
