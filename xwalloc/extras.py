"""Packages that only parts of xwalloc need: who misses one is told which extra of the installation brings it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from xwalloc.errors import MissingError

__all__ = ["explained", "explaining"]

CONVERT = frozenset(
    "cftime dask distributed fsspec h5netcdf h5py jinja2 matplotlib netCDF4 psutil rasterio rioxarray".split()
)
"""Modules that come with the extra ``convert``."""


def explained(error: ModuleNotFoundError, what: str) -> ModuleNotFoundError:
    """The error with what to install; the error as it is where no extra brings the module.

    Parameters
    ----------
    error
        A module that could not be imported.
    what
        What needs it, as messages call it.
    """
    name = (error.name or "").partition(".")[0]
    if isinstance(error, MissingError) or name not in CONVERT:
        return error
    return MissingError(f"{what} needs {name}. Install it: pip install 'xwalloc[convert]'.", name=name)


@contextmanager
def explaining(what: str) -> Iterator[None]:
    """Explain what is not installed where it is missed; also decorates functions.

    Raises
    ------
    MissingError
        If a module of an extra cannot be imported.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise explained(error, what) from error
