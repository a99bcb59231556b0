"""Coefficients of a wavelet tree as a uniform grid of latents: space-to-depth of every subband.

A *patch* is what 2^splits samples along every axis become: as many coefficients, P = the product of 2^splits over the
axes, whatever the tree. Patches lie on a grid of ceil(n / 2^splits) places per axis. A packet tree has one coefficient
of every subband in a patch; of a dyadic tree, a subband of level l has 2^(splits - l) along every axis.

Order of the P planes: by subband as in `Plan.subbands` (coarse to fine), then by place in the patch, the last axis
running fastest. `labels` names them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from xwalloc.errors import ConfigError
from xwalloc.transform.tree import Plan, Subband

__all__ = ["Label", "from_patches", "gather", "labels", "patch_grid", "places", "to_patches"]

NOWHERE = -1
"""Where there is no coefficient."""


@dataclass(frozen=True, kw_only=True)
class Label:
    """Which coefficients a plane of a patch holds.

    Parameters
    ----------
    subband
        Index in `Plan.subbands`.
    level, orientation
        Those of the subband.
    offset
        Place within the patch, one index per axis: the plane's entry at g is coefficient g * count + offset of the
        subband, with count coefficients of it per patch along that axis.
    """

    subband: int
    level: int
    orientation: tuple[int, ...]
    offset: tuple[int, ...]


def patch_grid(plan: Plan) -> tuple[int, ...]:
    """Patches along every signal axis: ceil(n / 2^splits)."""
    return tuple(-(-n >> splits) for n, splits in zip(plan.shape, plan.splits, strict=True))


def counts_of(plan: Plan, subband: Subband) -> tuple[int, ...]:
    """Coefficients of a subband per patch, along every axis."""
    return tuple(1 << (splits - min(splits, subband.level)) for splits in plan.splits)


@lru_cache(maxsize=256)
def labels(plan: Plan) -> tuple[Label, ...]:
    """What each of the P planes holds, in order."""
    return tuple(
        Label(subband=s, level=subband.level, orientation=subband.orientation, offset=tuple(int(o) for o in offset))
        for s, subband in enumerate(plan.subbands)
        for offset in np.ndindex(counts_of(plan, subband))
    )


def places(plan: Plan, subband: Subband, counts: Sequence[int], grid: Sequence[int]) -> NDArray[np.int64]:
    """Flat Mallat indices of a subband's coefficients, arranged as planes: shape (prod(counts), *grid).

    Parameters
    ----------
    plan
        Geometry of the coefficients.
    subband
        One of its subbands.
    counts
        Coefficients per place of the grid, along every axis.
    grid
        Extent of the grid; places without a coefficient are -1.
    """
    flat = np.zeros((1,) * len(plan.shape), np.int64)
    there = np.ones((1,) * len(plan.shape), np.bool_)
    for axis, (part, count, extent) in enumerate(zip(subband.slices, counts, grid, strict=True)):
        index = np.arange(extent * count)
        shape = [1] * len(plan.shape)
        shape[axis] = len(index)
        flat = flat * plan.shape[axis] + (part.start + index).reshape(shape)
        there = there & (index < part.stop - part.start).reshape(shape)
    split = np.where(there, flat, NOWHERE).reshape([n for pair in zip(grid, counts, strict=True) for n in pair])
    axes = range(len(plan.shape))
    planes = split.transpose([2 * a + 1 for a in axes] + [2 * a for a in axes])
    return planes.reshape(math.prod(counts), *grid)


@lru_cache(maxsize=32)
def _maps(plan: Plan) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where in Mallat layout (flat) each entry of the patches comes from, and the other way round."""
    grid = patch_grid(plan)
    source = np.concatenate([places(plan, s, counts_of(plan, s), grid).reshape(-1) for s in plan.subbands])
    target = np.empty(math.prod(plan.shape), np.int64)
    there = np.flatnonzero(source != NOWHERE)
    target[source[there]] = there
    source.flags.writeable = target.flags.writeable = False
    return source, target


def gather(flat: Any, index: NDArray[np.int64]) -> Any:
    """Entries of the last axis of `flat` at flat `index`; 0 where that is -1. The result ends with `index.shape`."""
    xp = array_namespace(flat)
    there = index >= 0
    taken = xp.take(flat, xp.asarray(np.where(there, index, 0).reshape(-1), device=device(flat)), axis=-1)
    if not there.all():
        taken = taken * xp.asarray(there.reshape(-1), dtype=flat.dtype, device=device(flat))
    return xp.reshape(taken, (*flat.shape[:-1], *index.shape))


def to_patches(array: Any, plan: Plan) -> Any:
    """Coefficients in Mallat layout as patches.

    Parameters
    ----------
    array
        Shape (..., *plan.shape), of NumPy or another array-API library, of any dtype that can be multiplied.
    plan
        Geometry.

    Returns
    -------
    Shape (..., P, *patch_grid(plan)), of the same dtype; places without a coefficient (odd extents) are 0.

    Raises
    ------
    ConfigError
        If the shape does not suit.
    """
    rank = len(plan.shape)
    if tuple(array.shape[-rank:]) != plan.shape:
        raise ConfigError(f"Expected coefficients of shape (..., {plan.shape}). Got {tuple(array.shape)}.")
    xp, lead, grid = array_namespace(array), tuple(array.shape[:-rank]), patch_grid(plan)
    source, _ = _maps(plan)
    flat = xp.reshape(array, (*lead, math.prod(plan.shape)))
    return xp.reshape(gather(flat, source), (*lead, source.size // math.prod(grid), *grid))


def from_patches(patches: Any, plan: Plan) -> Any:
    """Inverse of `to_patches`: coefficients (..., *plan.shape) of patches (..., P, *patch_grid(plan)).

    Raises
    ------
    ConfigError
        If the shape does not suit.
    """
    rank, grid = len(plan.shape), patch_grid(plan)
    source, target = _maps(plan)
    expected = (source.size // math.prod(grid), *grid)
    if tuple(patches.shape[-rank - 1 :]) != expected:
        raise ConfigError(f"Expected patches of shape (..., {expected}). Got {tuple(patches.shape)}.")
    xp, lead = array_namespace(patches), tuple(patches.shape[: -rank - 1])
    return xp.reshape(gather(xp.reshape(patches, (*lead, source.size)), target), (*lead, *plan.shape))
