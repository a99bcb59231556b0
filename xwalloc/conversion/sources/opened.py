"""What files that xarray opens have in common: undecoded variables, kept open in each process."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Hashable
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from xarray.conventions import decode_cf

from xwalloc.conversion.sources.base import Region, Source, placeholder
from xwalloc.conversion.sources.handles import Handles
from xwalloc.errors import ConfigError

__all__ = ["OpenedSource", "release", "undecoded"]

# Files that xarray has closed open again by themselves where a thread still reads from them.
_OPEN: Handles[xr.Dataset] = Handles(32, xr.Dataset.close)


class OpenedSource(Source):
    """A group of a file or store that xarray opens.

    Attributes
    ----------
    group
        Path of the group inside, without leading slash; "" for the root.
    """

    group: str = ""
    named = False

    @abstractmethod
    def key(self) -> Hashable:
        """What the open file is remembered under: another one where the file was changed."""

    @abstractmethod
    def open_raw(self) -> xr.Dataset:
        """Open it, with neither values nor attributes decoded."""

    def opened(self) -> xr.Dataset:
        """The open group of this process."""
        return _OPEN.get(self.key(), lambda: undecoded(self.open_raw()))

    def check(self) -> None:
        """Open it.

        Raises
        ------
        ConfigError
            If that fails; the message says why.
        """
        try:
            self.opened()
        except ConfigError:
            raise
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, ImportError) as error:
            raise ConfigError(f"{self.name} cannot be read: {error}") from error

    def template(self) -> xr.Dataset:
        """Metadata, coordinates and texts of the group, as they are stored."""
        self.check()
        opened = self.opened()
        found = {}
        for name, variable in opened.variables.items():
            if name in opened.data_vars and variable.dtype.kind in "biufc":
                data: Any = placeholder(variable.shape, variable.dtype)
            else:
                data = variable.values
            found[name] = xr.Variable(variable.dims, data, variable.attrs)
        return xr.Dataset(found, attrs=opened.attrs).set_coords(list(opened.coords))

    def read(self, variable: Hashable, region: Region) -> NDArray[Any]:
        """Part of a variable, as it is stored."""
        return np.asarray(self.opened().variables[variable][region].values)


def undecoded(dataset: xr.Dataset) -> xr.Dataset:
    """Coordinates and texts of an undecoded dataset; numbers, attributes and times stay as they are stored."""
    decoded = decode_cf(
        dataset, concat_characters=True, mask_and_scale=False, decode_coords="all", decode_times=False,
        decode_timedelta=False,
    )  # fmt: skip
    decoded.encoding = {}  # names of coordinates, which xarray writes again by itself
    for name, variable in decoded.variables.items():
        attrs = dict(dataset.variables[name].attrs)
        if variable.dtype.kind in "SU":
            attrs.pop("_Encoding", None)
            decoded[name] = (variable.dims, _texts(variable.values), attrs)
        else:
            variable.attrs = attrs
            variable.encoding = {}
    decoded.set_close(dataset.close)
    return decoded


def _texts(values: NDArray[Any]) -> NDArray[Any]:
    """Text as objects: of those of fixed length, Zarr has no specification."""
    if values.dtype.kind == "U":
        return values.astype(object)
    return np.array([_text(value) for value in values.ravel()], object).reshape(values.shape)


def _text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def release() -> None:
    """Close what is kept open for the next read: HDF5 lets nobody write to a file that is open."""
    _OPEN.clear()
