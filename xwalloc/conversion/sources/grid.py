"""Where the pixels of a raster lie: coordinates, CRS and transform, in the words of CF and of GeoZarr."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import xarray as xr

__all__ = ["grid_metadata"]

logger = logging.getLogger("xwalloc")

# https://github.com/zarr-conventions/geo-proj and https://github.com/zarr-conventions/spatial, both of tag v1
_PROJ = {
    "schema_url": "https://raw.githubusercontent.com/zarr-experimental/geo-proj/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-experimental/geo-proj/blob/v1/README.md",
    "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "name": "proj:",
    "description": "Coordinate reference system information for geospatial data",
}
_SPATIAL = {
    "schema_url": "https://raw.githubusercontent.com/zarr-conventions/spatial/refs/tags/v1/schema.json",
    "spec_url": "https://github.com/zarr-conventions/spatial/blob/v1/README.md",
    "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
    "name": "spatial:",
    "description": "Spatial coordinate information",
}


def grid_metadata(raster: Any, name: str) -> xr.Dataset:
    """Coordinates x, y and spatial_ref of an open raster, and attributes of the group it becomes.

    x and y are centres of pixels, left out where the grid is rotated; ``spatial_ref`` is as rioxarray writes it, left
    out where a raster has neither CRS nor transform.
    """
    import rioxarray  # noqa: F401  (the accessor "rio")

    crs, transform = raster.crs, raster.transform
    placed = not transform.is_identity
    points, points_crs = raster.gcps
    if crs is None and not points:
        logger.warning("%s has no coordinate reference system; neither has what it becomes.", name)
    if raster.rpcs is not None:
        logger.warning("%s: its rational polynomial coefficients (RPC) are not kept.", name)
    grid = xr.Dataset()
    if crs is not None:
        grid = grid.rio.write_crs(crs)
    if placed:
        grid = grid.rio.write_transform(transform)
    elif points:
        grid = grid.rio.write_gcps(points, points_crs)
    if placed and transform.is_rectilinear:
        grid = grid.assign_coords(_axes(transform, raster.shape, crs))
    grid.attrs = _geozarr(raster, placed)
    return grid


def _axes(transform: Any, shape: tuple[int, int], crs: Any) -> dict[str, Any]:
    """Centres of pixels, with attributes of CF."""
    rows, columns = shape
    x = transform.c + transform.a * (np.arange(columns) + 0.5)
    y = transform.f + transform.e * (np.arange(rows) + 0.5)
    x_attrs: dict[str, Any] = {"axis": "X"}
    y_attrs: dict[str, Any] = {"axis": "Y"}
    if crs is not None and crs.is_geographic:
        x_attrs |= {"standard_name": "longitude", "long_name": "longitude", "units": "degrees_east"}
        y_attrs |= {"standard_name": "latitude", "long_name": "latitude", "units": "degrees_north"}
    elif crs is not None and crs.is_projected:
        units = {"units": str(crs.linear_units)} if crs.linear_units else {}
        x_attrs |= {"standard_name": "projection_x_coordinate", "long_name": "x coordinate of projection", **units}
        y_attrs |= {"standard_name": "projection_y_coordinate", "long_name": "y coordinate of projection", **units}
    return {"x": ("x", x, x_attrs), "y": ("y", y, y_attrs)}


def _geozarr(raster: Any, placed: bool) -> dict[str, Any]:
    """Attributes of the conventions "proj:" and "spatial:"."""
    attrs: dict[str, Any] = {}
    conventions = []
    if raster.crs is not None and placed:
        conventions.append(_PROJ)
        authority = raster.crs.to_authority(confidence_threshold=100)
        if authority and authority[0].isalpha() and authority[0].isupper() and authority[1].isdecimal():
            attrs["proj:code"] = ":".join(authority)
        else:
            attrs["proj:wkt2"] = raster.crs.to_wkt(version="WKT2_2019")
    if placed:
        conventions.append(_SPATIAL)
        rows, columns = raster.shape
        a, b, c, d, e, f = raster.transform[:6]
        xs = [a * column + b * row + c for column in (0, columns) for row in (0, rows)]
        ys = [d * column + e * row + f for column in (0, columns) for row in (0, rows)]
        attrs |= {
            "spatial:dimensions": ["y", "x"],
            "spatial:shape": [rows, columns],
            "spatial:transform": [float(value) for value in raster.transform[:6]],
            "spatial:bbox": [float(value) for value in (min(xs), min(ys), max(xs), max(ys))],
            "spatial:registration": "pixel",
        }
    return {"zarr_conventions": [dict(entry) for entry in conventions], **attrs} if conventions else attrs
