"""What a page is made from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import xarray as xr
import zarr
from numpy.typing import NDArray

__all__ = ["Pair", "Region"]

Region = tuple[slice, ...]


class Pair(Protocol):
    """One stored array beside its source; all values are as they are stored, packed where they are packed.

    Attributes
    ----------
    path
        "group/variable" in the store.
    array
        The stored array; indexing decodes.
    template
        Dimensions, coordinates with their values, and attributes; its data is a placeholder.
    configuration
        Of the codec; None where another codec keeps the array exactly.
    """

    path: str
    array: zarr.Array[Any]
    template: xr.DataArray
    configuration: dict[str, Any] | None

    def regions(self) -> Iterator[Region]:
        """Units of storage that tile the array."""
        ...

    def read(self, region: Region) -> tuple[NDArray[Any], NDArray[Any]]:
        """Original and decoded values of a region."""
        ...
