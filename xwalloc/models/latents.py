# mypy: disable-error-code="no-untyped-call"
"""Latents without entropy coding: arrays to integers on a grid of patches, and back.

A model's latents are those of its basis vectors, or fewer where it was fitted for a number of them. Those of a patch
(`models.patches`) are listed by component, then in the order of the patch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.errors import BudgetError, ConfigError
from xwalloc.models import linear
from xwalloc.models.analysis import Scale
from xwalloc.models.fitted import Fitted
from xwalloc.models.patches import from_patches, labels, patch_grid, to_patches
from xwalloc.models.samples import HostSamples
from xwalloc.models.spec import Grid, LinearModel
from xwalloc.types import in_turn

__all__ = ["as_patches", "chosen", "decode", "encode", "step_of", "synthesise"]

UNITS = 128
"""Units per step, as the codec has them without a bound."""

TAPS = 20
"""Fractional bits of wavelet taps where latents are decoded."""


def step_of(fitted: Fitted, target: dict[str, float]) -> float:
    """Step of the latents of a model with that quality target, in samples."""
    return target["step"] if "step" in target else fitted.ratio * target["max_error"]


def chosen(fitted: Fitted, grid: Grid) -> NDArray[np.bool_]:
    """Which latents of a patch a model codes: (rank, P)."""
    subbands = [label.subband for label in labels(grid.plan)]
    return fitted.kept_on(grid)[:, subbands]


def as_patches(symbols: NDArray[Any], grid: Grid, rank: int, kept: NDArray[np.bool_]) -> NDArray[Any]:
    """Symbols (batch, r, z, y, x) as (batch, latent, *patch grid): those kept (rank, P), with zeros up to a rank."""
    patches = to_patches(symbols, grid.plan)
    batch, there, count, *extent = patches.shape
    result = np.zeros((batch, rank, count, *extent), symbols.dtype)
    result[:, :there] = patches
    return result[:, kept]


def encode(fitted: Fitted, samples: NDArray[np.generic], step: float) -> NDArray[np.int32]:
    """Latents (batch, latent, *patch grid) of samples (batch, channel, z, y, x).

    Raises
    ------
    ConfigError
        If samples are not finite, not of the model's channels, or too large for their step.
    """
    if samples.shape[1] != fitted.channels:
        raise ConfigError(f"Expected {fitted.channels} channels, for which the model was made. Got {samples.shape[1]}.")
    if samples.size == 0 or not np.isfinite(samples).all():
        raise ConfigError("Expected finite samples. Got NaN or infinities, or none: fill them first.")
    z, y, x = samples.shape[2:]
    grid = fitted.grid((z, y, x))
    widths = [(0, 0), (0, 0), *((0, to - n) for to, n in zip(grid.signal, (z, y, x), strict=True))]
    padded = np.pad(samples, widths, mode="edge")
    scale = Scale(UNITS / step, 0.0, UNITS)
    edges = float(samples.min()), float(samples.max())
    found = linear.apply(fitted, HostSamples(padded, in_turn), edges, scale, grid, None)
    if found is None:
        raise ConfigError(f"Expected samples within 2^40 steps. Got a range of {edges} and a step of {step:g}.")
    return as_patches(found[1], grid, fitted.rank, chosen(fitted, grid))


def decode(fitted: Fitted, latents: NDArray[Any], step: float, signal: Sequence[int]) -> NDArray[np.float64]:
    """Samples (batch, channel, z, y, x) of latents (batch, latent, *patch grid), which may be of any real type.

    Raises
    ------
    ConfigError
        If the latents do not suit the model and the extent, or are too large.
    """
    z, y, x = signal
    grid = fitted.grid((z, y, x))
    kept = chosen(fitted, grid)
    expected = (int(kept.sum()), *patch_grid(grid.plan))
    if latents.shape[1:] != expected:
        raise ConfigError(
            f"Expected latents of shape (batch, {', '.join(map(str, expected))}) for samples of extent "
            f"{tuple(signal)}. Got {latents.shape}."
        )
    whole = np.zeros((len(latents), *kept.shape, *expected[1:]))
    whole[:, kept] = latents
    return synthesise(fitted, np.rint(from_patches(whole, grid.plan) * UNITS), step, grid)[..., :z, :y, :x]


def synthesise(fitted: Fitted, units: NDArray[np.float64], step: float, grid: Grid) -> NDArray[np.float64]:
    """Samples of coefficients (batch, rank, *grid.signal) in `UNITS` to a step."""
    try:
        model: LinearModel = fitted.start(grid, UNITS, UNITS / step)
        latents = grid.inverse(np.ascontiguousarray(units), TAPS, in_turn)
    except BudgetError as error:
        raise ConfigError(f"Expected latents of ordinary magnitude. Got larger ones: {error}") from None
    flat = latents.reshape(*latents.shape[:2], -1)
    basis = np.ldexp(model.matrix, -model.shift)
    samples = (basis @ flat + model.mean_units[:, None]) * (step / UNITS) * fitted.scales[:, None]
    return samples.reshape(len(units), fitted.channels, *grid.signal)
