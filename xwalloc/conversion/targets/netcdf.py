"""NetCDF-4, deflated, with the groups and chunks of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import numpy as np
import xarray as xr

from xwalloc.conversion.targets.contents import Contents, attribute
from xwalloc.errors import ConfigError, XwallocError

__all__ = ["write_netcdf"]

DEFLATE = {"zlib": True, "complevel": 4, "shuffle": True}


def write_netcdf(contents: Contents, target: Path) -> None:
    """Write a file with every group, one unit of storage at a time.

    Raises
    ------
    ConfigError
        If a variable is not of a type of NetCDF.
    """
    for group in contents.groups:
        dataset = contents.dataset(group)
        encoding: dict[Any, dict[str, Any]] = {}
        for name, variable in dataset.variables.items():
            array = contents.arrays["/".join(filter(None, (group, str(name))))]
            if array.dtype.kind == "c" or array.dtype == np.float16:
                raise ConfigError(
                    f"Expected types that NetCDF has. Got variable {array.path!r} of {array.dtype}. Export to Zarr, or "
                    "name the other variables with variables=."
                )
            variable.encoding = {}
            variable.attrs = {key: held(key, value, variable) for key, value in variable.attrs.items()}
            encoding[name] = {} if "_FillValue" in variable.attrs else {"_FillValue": None}
            if variable.ndim and variable.size and variable.dtype.kind in "iufb":
                encoding[name] |= DEFLATE | {"chunksizes": fitting(array.chunks, array.shape)}
            if name not in dataset.indexes and variable.ndim and variable.dtype.kind in "iufb":
                unit = array.shards or array.chunks
                dataset[name] = dataset[name].chunk(dict(zip(variable.dims, unit, strict=True)))
        dataset.attrs = {key: attribute(value) for key, value in dataset.attrs.items()}
        with dask.config.set(scheduler="synchronous"):  # one unit after the other: memory of one
            write(dataset, target, group, encoding)


def write(dataset: xr.Dataset, target: Path, group: str, encoding: dict[Any, dict[str, Any]]) -> None:
    """Write a group into the file."""
    try:
        dataset.to_netcdf(
            target, mode="a" if target.exists() else "w", group=group or None, format="NETCDF4", engine="netcdf4",
            encoding=encoding,
        )  # fmt: skip
    except XwallocError:
        raise  # a damaged chunk is not NetCDF's matter
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"Expected names, types and attributes that NetCDF can hold in group {group or '/'!r}. Got: {error} "
            "Export to Zarr, or name the variables to export with variables=."
        ) from error


def held(key: Any, value: Any, variable: xr.Variable) -> Any:
    """An attribute of a variable as NetCDF holds it: what stands for missing values has the type of the values."""
    if key in ("_FillValue", "missing_value") and variable.dtype.kind in "iuf":
        return np.asarray(value).astype(variable.dtype)[()]
    return attribute(value)


def fitting(chunks: tuple[int, ...], shape: tuple[int, ...]) -> tuple[int, ...]:
    """Chunks that are not longer than the axes."""
    return tuple(min(size, n) for size, n in zip(chunks, shape, strict=True))
