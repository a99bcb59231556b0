"""A dataset of xarray as a source: whatever is behind it, in memory, lazy or of Dask."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import Any

import dask.base
import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.conventions import encode_cf_variable

from xwalloc.conversion.sources.base import Region, Source, placeholder
from xwalloc.xarray.stored import as_stored

__all__ = ["DatasetSource"]


class DatasetSource(Source):
    """A dataset that the caller holds.

    Parameters
    ----------
    dataset
        As users see it; it is stored as its ``encoding`` says.
    name
        What messages call it.
    """

    def __init__(self, dataset: xr.Dataset, name: str = "the dataset", *, named: bool = False) -> None:
        self.dataset, self.name, self.named = dataset, name, named
        self.in_memory = any(isinstance(v._data, np.ndarray) for v in dataset.data_vars.variables.values())

    def __reduce__(self) -> Any:
        if self.in_memory:
            return DatasetSource, (xr.Dataset(), self.name)
        return super().__reduce__()

    def template(self) -> xr.Dataset:
        """Metadata of the dataset as xarray would store it."""
        found = {}
        for name, variable in self.dataset.data_vars.items():
            stored = as_stored(variable)
            if stored.dtype.kind in "biuf":
                data: Any = placeholder(variable.shape, stored.dtype)
                named = {key: value for key, value in variable.encoding.items() if key == "coordinates"}
                found[name] = xr.Variable(variable.dims, data, stored.attrs, named)
            else:
                found[name] = variable.variable
        return xr.Dataset(found, self.dataset.coords, self.dataset.attrs)

    def read(self, variable: Hashable, region: Region) -> NDArray[Any]:
        """Part of a variable, encoded as xarray would."""
        part = self.part(variable, region).variable
        if part.dtype.kind in "iuf":
            part = encode_cf_variable(
                xr.Variable(part.dims, part.compute().values, part.attrs, self._encoding(variable))
            )
        return np.asarray(part.compute().values)

    def part(self, variable: Hashable, region: Region) -> xr.DataArray:
        """Part of a variable, lazily."""
        array = self.dataset[variable]
        return array.isel(dict(zip(array.dims, region, strict=True)))

    def _encoding(self, variable: Hashable) -> dict[str, Any]:
        return {key: value for key, value in self.dataset[variable].encoding.items() if key != "chunks"}

    def identity(self) -> dict[str, Any]:
        """Hash of coordinates and of what is in memory; of lazy arrays, how Dask or xarray names them."""
        digest = hashlib.sha256()
        for name, variable in sorted(self.dataset.variables.items(), key=lambda item: str(item[0])):
            digest.update(repr((name, variable.dims, variable.shape, str(variable.dtype))).encode())
            data = variable._data
            if isinstance(data, np.ndarray) and data.dtype.kind != "O":
                digest.update(np.ascontiguousarray(data).view(np.uint8).data)
            elif dask.base.is_dask_collection(data):
                digest.update(dask.base.tokenize(data).encode())
        return {"dataset": digest.hexdigest()}

    def rounding(self, variable: Hashable) -> float:
        """Half a unit where floats are packed to integers."""
        array = self.dataset[variable]
        return 0.5 if array.dtype.kind == "f" and as_stored(array).dtype.kind in "iu" else 0.0

    def blocks(self, variable: Hashable) -> tuple[int, ...] | None:
        """Chunks of Dask."""
        parts = self.dataset[variable].variable.chunks
        return None if parts is None else tuple(max(sizes, default=1) for sizes in parts)
