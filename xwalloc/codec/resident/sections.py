"""What the entropy coder of a device is told of the latents and the residual layer of a chunk.

Where planes lie follows from the shape of a chunk alone: that stays on the device. What they state are a few bytes.
"""

from __future__ import annotations

from functools import cache, lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream.planes import Order
from xwalloc.bitstream.tables import Tables
from xwalloc.codec.transform_sections import latent_parts_of, residual_parts
from xwalloc.models.spec import Grid, LinearModel

if TYPE_CHECKING:
    from xwalloc.device.coder import Geometry, Section

__all__ = ["ORDER", "has_kernels", "latent_section", "residual_section"]

KEPT_PLANES = 1 << 14
"""Geometries of more planes in a segment are made anew each time."""

ORDER = Order.FLAGS_FIRST
"""The order that devices code planes in."""


@cache
def has_kernels() -> bool:
    """Whether kernels for devices can be compiled: torch comes without Triton on some systems."""
    return find_spec("triton") is not None


def latent_section(model: LinearModel, batch: int, tables: Tables, at: int) -> Section:
    """Symbols (batch, rank, z, y, x) of a model that begin at a place among the values of a call."""
    from xwalloc.device.coder import Section

    geometry = _latent_geometry(model.grid, batch, model.rank)
    codes = np.tile(model.codes.reshape(-1), batch * geometry.parts).astype(np.uint8)
    return Section(geometry, codes, ORDER.latents, model.grid.dimensions, tables, at)


def residual_section(
    shape: tuple[int, ...],
    codes: NDArray[np.int64],
    dimensions: int,
    tables: Tables,
    at: int,
    mask_at: int | None,
    wanted: tuple[int, ...] | None = None,
) -> Section:
    """Residuals (batch, channel, z, y, x) with magnitude codes (channel,); `at` and `mask_at` are places in a call.

    `wanted` are the slabs that are to be decoded; None for all.
    """
    from xwalloc.device.coder import Section

    geometry = _residual_geometry(tuple(shape))
    tiled = np.tile(codes, shape[0] * geometry.parts).astype(np.uint8)
    return Section(geometry, tiled, ORDER.residuals, dimensions, tables, at, mask_at, wanted)


def _latent_geometry(grid: Grid, batch: int, rank: int) -> Geometry:
    """Planes of latents; those of many small ones are not kept, since they would fill the memory."""
    few = batch * rank * len(grid.subbands) <= KEPT_PLANES
    return _kept_latent_geometry(grid, batch, rank) if few else _new_latent_geometry(grid, batch, rank)


def _new_latent_geometry(grid: Grid, batch: int, rank: int) -> Geometry:
    from xwalloc.device.coder import Geometry

    return Geometry.of(latent_parts_of(grid, batch, np.ones((rank, len(grid.subbands)), np.int64)))


_kept_latent_geometry = lru_cache(maxsize=64)(_new_latent_geometry)


def _residual_geometry(shape: tuple[int, ...]) -> Geometry:
    """Planes of residuals, likewise."""
    few = shape[0] * shape[1] <= KEPT_PLANES
    return _kept_residual_geometry(shape) if few else _new_residual_geometry(shape)


def _new_residual_geometry(shape: tuple[int, ...]) -> Geometry:
    from xwalloc.device.coder import Geometry

    return Geometry.of(residual_parts(shape, np.ones(shape[1], np.int64))[2])


_kept_residual_geometry = lru_cache(maxsize=64)(_new_residual_geometry)
