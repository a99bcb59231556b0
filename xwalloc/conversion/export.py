"""From a store of ours back to formats that are read without xwalloc."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xwalloc.conversion.part import BEFORE, part_of
from xwalloc.conversion.targets.contents import open_contents
from xwalloc.errors import ConfigError
from xwalloc.extras import explaining

__all__ = ["export"]

STORE_FILES = ("zarr.json", ".zgroup", ".zarray", ".zmetadata")
KINDS = {".zarr": "zarr", ".nc": "netcdf", ".nc4": "netcdf", ".tif": "geotiff", ".tiff": "geotiff"}


@explaining("xwalloc.export")
def export(
    store: Any,
    target: str | os.PathLike[str],
    *,
    variables: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write what a store decodes to as plain Zarr, NetCDF-4 or GeoTIFF, block by block.

    Values are those that the store decodes to, bit for bit, and packed where they are packed; attributes, coordinates,
    fill values and grid mappings go with them. Models and records of conversions (``_xwalloc``) do not.

    Parameters
    ----------
    store
        Path, URL or Zarr store of a group.
    target
        Path that ends in .zarr (zstd, in the format, chunks and shards of the store), .nc (NetCDF-4; groups stay
        groups) or .tif (one variable of 2 or 3 dimensions; coordinates of bands become descriptions and tags).
        It appears when it is complete.
    variables
        Paths of variables in the store, "group/name"; what belongs to them (coordinates, grid mappings) is written
        too. None: all.
    overwrite
        Replace a target that is there. A folder is replaced only by a Zarr store, and only if it is one.

    Returns
    -------
    Path
        The target.

    Raises
    ------
    ConfigError
        If there is no such store or variable, the target is there, or its format cannot hold what is asked for.
    """
    path = Path(target)
    kind = KINDS.get(path.suffix.lower())
    if kind is None or "://" in os.fspath(target):
        raise ConfigError(f"Expected a local path that ends in {', '.join(KINDS)}. Got {os.fspath(target)!r}.")
    check_target(path, kind, store, overwrite)
    contents = open_contents(store, variables)
    with part_of(path) as folder:
        part = folder / f"part{path.suffix}"
        if kind == "zarr":
            from xwalloc.conversion.targets.plain import write_zarr

            write_zarr(contents, part)
        elif kind == "netcdf":
            from xwalloc.conversion.targets.netcdf import write_netcdf

            write_netcdf(contents, part)
        else:
            from xwalloc.conversion.targets.geotiff import write_geotiff

            write_geotiff(contents, part)
        if path.exists():
            check_target(path, kind, store, overwrite)  # again: it may be another one by now
            if path.is_dir():
                os.replace(path, folder / BEFORE)
        os.replace(part, path)
    return path


def check_target(path: Path, kind: str, store: Any, overwrite: bool) -> None:
    """Refuse targets that must not be written.

    Raises
    ------
    ConfigError
        If something is there that may not be replaced, or the folder around it is not there.
    """
    if not path.parent.is_dir():
        raise ConfigError(f"Expected folder {path.parent} to be there. It is not. Create it first.")
    if isinstance(store, str | os.PathLike) and "://" not in os.fspath(store):
        source, goal = Path(os.path.realpath(store)), Path(os.path.realpath(path))
        if source == goal or source in goal.parents or goal in source.parents:
            raise ConfigError(f"Expected a target apart from the store {source}. Got {goal}. Choose another place.")
    if not os.path.lexists(path):
        return
    is_store = path.is_dir() and any((path / name).is_file() for name in STORE_FILES)
    if (
        path.is_symlink()
        or (path.is_dir() and not (kind == "zarr" and is_store))
        or (kind == "zarr" and path.is_file())
    ):
        raise ConfigError(
            f"Expected {path} to be free, or what may be replaced by {kind}. Got something else, which is never "
            "deleted. Choose another name, or move it away yourself."
        )
    if not overwrite:
        raise ConfigError(f"Expected {path} to be free. It is there. Choose another name, or give overwrite=True.")
