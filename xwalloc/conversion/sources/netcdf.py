"""NetCDF and HDF5 files as sources."""

from __future__ import annotations

import logging
import os
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import xarray as xr

from xwalloc.conversion.sources.files import filesystem, head, is_url, stamp
from xwalloc.conversion.sources.opened import OpenedSource
from xwalloc.errors import ConfigError

__all__ = ["NetcdfSource", "groups", "is_hdf5"]

logger = logging.getLogger("xwalloc")


class NetcdfSource(OpenedSource):
    """A group of a NetCDF or HDF5 file: its variables as they are stored.

    Parameters
    ----------
    url
        Path or URL. Classic NetCDF must lie on a disk; HDF5 may lie wherever fsspec reads.
    group
        Path of the group inside, such as "geolocation/grid".

    Notes
    -----
    Dimensions that HDF5 doesn't name are called ``phony_dim_0`` and so on.
    """

    cache = 64 << 20  # HDF5 keeps chunks of every variable that is read

    def __init__(self, url: str | os.PathLike[str], group: str = "") -> None:
        self.url, self.group = os.fspath(url), group.strip("/")
        self.name = f"{self.url}:/{self.group}" if self.group else self.url

    def key(self) -> Hashable:
        """Path, group and, on a disk, when the file was changed."""
        return ("netcdf", self.url, self.group, *_changed(self.url))

    def open_raw(self) -> xr.Dataset:
        """Open it with netCDF4 (classic) or h5netcdf (HDF5)."""
        if not is_hdf5(self.url):
            if is_url(self.url):
                raise ConfigError(
                    f"{self.name} is no HDF5 file. Classic NetCDF is read from a disk only: copy it there first."
                )
            return xr.open_dataset(self.url, engine="netcdf4", group=self.group or None, decode_cf=False, cache=False)
        return xr.open_dataset(
            _local_or_open(self.url), engine="h5netcdf", phony_dims="sort", group=self.group or None,
            decode_cf=False, cache=False, drop_variables=list(_unusable(self.url, self.group, *_changed(self.url))),
        )  # fmt: skip

    def identity(self) -> dict[str, Any]:
        """Path, size and time of change."""
        return {**stamp(self.url), "group": self.group}


def is_hdf5(url: str) -> bool:
    """Whether a file is HDF5, NetCDF 4 included, by its first bytes (of which users may have put some of their own)."""
    start = head(url, 8192)
    return any(start[at : at + 8] == b"\x89HDF\r\n\x1a\n" for at in (0, 512, 1024, 2048, 4096))


def groups(url: str) -> list[str]:
    """Groups of a file that have variables or attributes; "" is the root. None where there are no variables at all.

    Raises
    ------
    OSError
        If the file cannot be read.
    """
    import h5py

    if not is_hdf5(url):
        return [""]
    found: set[str] = set()
    described: set[str] = set()

    def visit(path: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset):
            if not _only_dimension(node):
                found.add(path.rpartition("/")[0])
        elif not all(name.startswith("_") for name in node.attrs):  # those are of the libraries that write NetCDF
            described.add(path)

    with _hdf5(url) as file:
        visit("", file)
        file.visititems(visit)
    return sorted(found | described) if found else []


@contextmanager
def _hdf5(url: str) -> Iterator[Any]:
    import h5py

    if not is_url(url):
        with h5py.File(url, "r") as file:
            yield file
    else:
        with _local_or_open(url) as stream, h5py.File(stream, "r") as file:
            yield file


def _local_or_open(url: str) -> Any:
    if not is_url(url):
        return url
    files, path = filesystem(url)
    return files.open(path, "rb")


def _changed(url: str) -> tuple[int, ...]:
    if is_url(url):
        return ()
    facts = os.stat(url)
    return facts.st_size, facts.st_mtime_ns


def _only_dimension(node: Any) -> bool:
    name = node.attrs.get("NAME", b"")
    return isinstance(name, bytes) and name.startswith(b"This is a netCDF dimension but not a netCDF variable")


@lru_cache(256)
def _unusable(url: str, group: str, *changed: int) -> tuple[str, ...]:
    """Variables that are tables, references or rows of many lengths, which arrays of Zarr cannot hold; said once."""
    import h5py

    with _hdf5(url) as file:
        nodes = {name: node for name, node in file[f"/{group}"].items() if isinstance(node, h5py.Dataset)}
        dropped = tuple(
            name
            for name, node in nodes.items()
            if node.shape is None  # HDF5's "empty" dataset
            or (node.dtype.kind == "V" and not h5py.check_string_dtype(node.dtype))
            or (node.dtype.kind == "O" and not h5py.check_string_dtype(node.dtype))
        )
    if dropped:
        logger.warning(
            "%s: %s left out. Tables (compound types), references and rows of different lengths have no place "
            "in a Zarr store of arrays.",
            f"{url}:/{group}", ", ".join(map(repr, dropped)),
        )  # fmt: skip
    return dropped
