"""GeoTIFF: one variable of a map or of bands of maps, tiled and deflated."""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rioxarray  # noqa: F401  # the accessor .rio
import xarray as xr
import zarr
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from xwalloc.conversion.targets.contents import Contents, attribute, period
from xwalloc.errors import ConfigError

__all__ = ["write_geotiff"]

logger = logging.getLogger("xwalloc")

NAMES_Y = ("y", "lat", "latitude", "northing", "row", "line", "lines")
NAMES_X = ("x", "lon", "longitude", "easting", "col", "column", "sample", "samples")
PACKING = frozenset("_FillValue missing_value scale_factor add_offset grid_mapping coordinates units".split())
TILE, LARGEST = 16, 512


def write_geotiff(contents: Contents, target: Path) -> None:
    """Write a variable as bands, in windows of whole tiles.

    Raises
    ------
    ConfigError
        If it is not one variable of 2 or 3 dimensions, or not of a type of GeoTIFF.
    """
    path = the_variable(contents)
    array = contents.arrays[path]
    group, _, name = path.rpartition("/")
    dataset = contents.dataset(group)
    variable = dataset[name]
    y, x = spatial(variable)
    band = next((axis for axis in range(variable.ndim) if axis not in (y, x)), None)
    dtype = "uint8" if array.dtype == bool else array.dtype.newbyteorder("=").name
    if not rasterio.dtypes.check_dtype(dtype) or array.dtype.kind == "c":
        raise ConfigError(f"Expected a type that GeoTIFF has. Got {path!r} of {array.dtype}. Export to .nc or .zarr.")
    unit = array.shards or array.chunks
    steps = [period(unit[axis], array.shape[axis], TILE) for axis in (y, x)]
    profile: dict[str, Any] = {
        "driver": "GTiff", "dtype": dtype, "count": 1 if band is None else array.shape[band], "height": array.shape[y],
        "width": array.shape[x], "tiled": True, "compress": "deflate", "bigtiff": "IF_SAFER", "interleave": "band",
        "blockysize": tile(steps[0]), "blockxsize": tile(steps[1]), **place(dataset, name, y, x),
    }  # fmt: skip
    if array.dtype.kind == "f" or array.dtype.itemsize <= 4:
        profile["predictor"] = 3 if array.dtype.kind == "f" else 2
    fill = variable.attrs.get("_FillValue", variable.attrs.get("missing_value"))
    if fill is not None:
        profile["nodata"] = np.asarray(fill).astype(array.dtype).item()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(target, "w", **profile) as file:
            describe(file, dataset, variable, band)
            copy(array, file, (band, y, x), steps)


def the_variable(contents: Contents) -> str:
    """Path of the variable that is exported."""
    wanted = contents.chosen
    maps = [path for path, array in contents.arrays.items() if array.ndim in (2, 3) and array.dtype.kind in "iufb"]
    found = maps if wanted is None else list(wanted)
    if len(found) != 1:
        raise ConfigError(
            f"Expected one variable for a GeoTIFF. Got {found}. Choose with variables=[...], or export to .nc or .zarr."
        )
    if found[0] not in maps:
        array = contents.arrays[found[0]]
        raise ConfigError(
            f"Expected a variable of 2 or 3 dimensions for a GeoTIFF. Got {found[0]!r} of shape {array.shape} and "
            f"{array.dtype}. Export to .nc or .zarr."
        )
    return found[0]


def spatial(variable: xr.DataArray) -> tuple[int, int]:
    """Axes of y and x: by their names, else the last two."""
    lower = [str(dim).lower() for dim in variable.dims]
    y = next((axis for axis, name in enumerate(lower) if name in NAMES_Y), None)
    x = next((axis for axis, name in enumerate(lower) if name in NAMES_X), None)
    return (variable.ndim - 2, variable.ndim - 1) if y is None or x is None else (y, x)


def tile(step: int) -> int:
    """The largest tile of a multiple of 16, at most 512, that divides a step."""
    parts = step // TILE
    return TILE * max(n for n in range(1, min(parts, LARGEST // TILE) + 1) if parts % n == 0)


def place(dataset: xr.Dataset, name: str, y: int, x: int) -> dict[str, Any]:
    """Where the map lies: CRS and transform, as far as the store says."""
    variable = dataset[name]
    attrs = variable.attrs
    mapping = attrs.get("grid_mapping", "spatial_ref")
    found: dict[str, Any] = {}
    dims = variable.dims[y], variable.dims[x]
    described = xr.DataArray(
        np.broadcast_to(np.zeros((), "u1"), (variable.shape[y], variable.shape[x])), dims=dims,
        coords={dim: dataset[dim] for dim in dims if dim in dataset.variables},
    )  # fmt: skip
    geo = dict(dataset[mapping].attrs) if mapping in dataset.variables else {}
    if geo:
        described = described.assign_coords({mapping: xr.Variable((), 0, geo)})
        described.encoding["grid_mapping"] = mapping
        described = described.rio.set_spatial_dims(x_dim=dims[1], y_dim=dims[0])
        if described.rio.crs is not None:
            found["crs"] = described.rio.crs
    if "GeoTransform" in geo:
        found["transform"] = rasterio.Affine.from_gdal(*(float(part) for part in str(geo["GeoTransform"]).split()))
    elif all(regular(described, dim) for dim in dims):
        ys, xs = (described[dim].values.astype(np.float64) for dim in dims)
        dy, dx = (ys[-1] - ys[0]) / (len(ys) - 1), (xs[-1] - xs[0]) / (len(xs) - 1)
        found["transform"] = rasterio.Affine(dx, 0, xs[0] - dx / 2, 0, dy, ys[0] - dy / 2)
    else:
        logger.warning("Variable %r says nowhere where it lies: the GeoTIFF has no transform.", name)
    return found


def regular(variable: xr.DataArray, dim: Hashable) -> bool:
    """Whether coordinates of a dimension are numbers of equal distances."""
    if dim not in variable.coords or variable[dim].dtype.kind not in "iuf" or variable[dim].size < 2:
        return False
    steps = np.diff(variable[dim].values.astype(np.float64))
    return bool(steps[0] != 0 and np.allclose(steps, steps.mean(), rtol=1e-3, atol=0))


def describe(file: Any, dataset: xr.Dataset, variable: xr.DataArray, band: int | None) -> None:
    """Names of bands, their coordinates as tags, scales, units and attributes."""
    attrs = variable.attrs
    count = file.count
    scale, offset = (float(np.ravel(attrs.get(key, one))[0]) for key, one in (("scale_factor", 1), ("add_offset", 0)))
    if (scale, offset) != (1, 0):
        file.scales, file.offsets = (scale,) * count, (offset,) * count
    if isinstance(attrs.get("units"), str):
        file.units = (attrs["units"],) * count
    others = {**dataset.attrs, **{key: value for key, value in attrs.items() if key not in PACKING}}
    file.update_tags(**{str(key): text(attribute(value)) for key, value in others.items()})
    names = attrs.get("long_name")
    labels: list[list[str]] = [[] for _ in range(count)]
    for name, coordinate in dataset.variables.items():
        if band is None or coordinate.dims != (variable.dims[band],) or coordinate.dtype.kind not in "iufSUOT":
            continue
        values = coordinate.values
        if coordinate.dtype.kind in "iu" and np.array_equal(values, np.arange(1, count + 1)):
            continue  # the number of the band
        unit = coordinate.attrs.get("units")
        for index, value in enumerate(values.tolist()):
            tags = {str(name): text(value)} | ({f"{name}_units": text(unit)} if unit else {})
            file.update_tags(index + 1, **tags)
            labels[index].append(f"{name} {value}" + (f" {unit}" if unit else ""))
    for index in range(count):
        if isinstance(names, list | tuple) and len(names) == count:
            file.set_band_description(index + 1, str(names[index]))
        elif labels[index]:
            file.set_band_description(index + 1, ", ".join(labels[index]))


def copy(array: zarr.Array[Any], file: Any, axes: tuple[int | None, int, int], steps: list[int]) -> None:
    """Copy the values, in windows of whole tiles and whole units of storage."""
    band, y, x = axes
    unit = array.shards or array.chunks
    bands = 1 if band is None else array.shape[band]
    some = 1 if band is None else unit[band]
    for first in range(0, bands, some):
        last = min(first + some, bands)
        for top in range(0, file.height, steps[0]):
            for left in range(0, file.width, steps[1]):
                bottom, right = min(top + steps[0], file.height), min(left + steps[1], file.width)
                region = [slice(None)] * array.ndim
                region[y], region[x] = slice(top, bottom), slice(left, right)
                if band is not None:
                    region[band] = slice(first, last)
                block: Any = np.asarray(array[tuple(region)])
                block = block.transpose((y, x))[None] if band is None else block.transpose((band, y, x))
                block = block.astype(file.dtypes[0], copy=False)
                window = Window(left, top, right - left, bottom - top)
                file.write(block, indexes=list(range(first + 1, last + 1)), window=window)


def text(value: Any) -> str:
    """A value of a tag."""
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    return str(value)
