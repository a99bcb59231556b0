"""From what a user gives (files, folders, patterns, URLs, datasets) to sources."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import xarray as xr
from zarr.abc.store import Store

from xwalloc.conversion.sources import netcdf, zarr
from xwalloc.conversion.sources.base import Source
from xwalloc.conversion.sources.dataset import DatasetSource
from xwalloc.conversion.sources.files import filesystem, head, is_url, listed, stem
from xwalloc.conversion.sources.kinds import folder, kind, looks_known
from xwalloc.conversion.sources.raster import RasterSource, envi_data, envi_header
from xwalloc.conversion.sources.stack import THREADS, StackSource
from xwalloc.conversion.store import place
from xwalloc.errors import ConfigError
from xwalloc.extras import explained

__all__ = ["Found", "Given", "Granule", "find"]

logger = logging.getLogger("xwalloc")

Given = str | os.PathLike[str] | xr.Dataset | xr.DataArray | Store
"""What may be given as a source."""


@dataclass(frozen=True, kw_only=True)
class Granule:
    """A source and the group of the store that it becomes.

    Attributes
    ----------
    path
        Path of the group, without leading slash; "" is the root.
    source
        Where its arrays come from.
    given
        What messages call that which was given: one file may become several granules.
    """

    path: str
    source: Source
    given: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """What there is to convert.

    Attributes
    ----------
    granules
        In the order given; of folders and patterns sorted by name.
    unreadable
        Name and reason of what could not be opened.
    """

    granules: list[Granule]
    unreadable: list[tuple[str, str]]


def find(
    sources: Sequence[Given],
    *,
    along: str | None = None,
    groups: Collection[str] | None = None,
    target: str | None = None,
) -> Found:
    """Open all that is given, once, and say where it goes.

    Parameters
    ----------
    sources
        Files, folders (all files of known kinds in them, but not in folders below), patterns such as
        ``"scenes/*.tif"``, URLs, Zarr stores, datasets.
    along
        A dimension along which all of them are put behind each other. Without it each of several becomes a group.
    groups
        Only these groups of NetCDF, HDF5 and Zarr; all by default. "" is the root.
    target
        Path without symbolic links, or URL, of a store that is none of the sources: folders and patterns pass it over.

    Returns
    -------
    Found
        What cannot be opened is among its ``unreadable``, and does not stop the rest.

    Raises
    ------
    ConfigError
        If a source is the target, or one lies in the other.
    """
    entries: list[tuple[Given, str | None]] = list(_without_pairs(_expanded(sources, target)))
    for given, _ in entries:
        _check_apart(given, target)
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(lambda entry: _opened(entry[0], entry[1], groups), entries))
    unreadable = [
        (_called(given), found) for (given, _), found in zip(entries, results, strict=True) if isinstance(found, str)
    ]
    readable = [
        (given, found) for (given, _), found in zip(entries, results, strict=True) if not isinstance(found, str)
    ]
    if along is not None:
        return Found(granules=_stacked([found for _, found in readable], along), unreadable=unreadable)
    names = _unique([_short(given) for given, _ in entries]) if len(entries) > 1 else [""] * len(entries)
    granules = [
        Granule(path="/".join(filter(None, (name, group))), source=source, given=_called(given))
        for (given, _), name, found in zip(entries, names, results, strict=True)
        if not isinstance(found, str)
        for group, source in found.items()
    ]
    return Found(granules=granules, unreadable=unreadable)


def _expanded(sources: Sequence[Given], target: str | None) -> Iterator[tuple[Given, str | None]]:
    """Each source, and a reason where it is known already that it cannot be read."""
    for given in sources:
        if not isinstance(given, str | os.PathLike):
            yield given, None
            continue
        path = os.fspath(given)
        try:
            if re.search(r"[*?\[]", path) and not os.path.exists(path):
                matches = [match for match in _matching(path) if _place(match) != target]
                if not matches:
                    yield path, "No file matches this pattern."
                yield from ((match, None) for match in matches)
            elif folder(path) and kind(path) == "folder":
                inside = [name for name in listed(path) if _is_meant(name) and _place(name) != target]
                if not inside:
                    yield (
                        path,
                        "There is no raster, NetCDF, HDF5 or Zarr in this folder (folders below are not searched).",
                    )
                yield from ((name, None) for name in inside)
            else:
                yield path, None
        except Exception as error:
            yield path, _reason(path, error)


def _is_meant(path: str) -> bool:
    """Whether something in a folder is a source; what is hidden is none, as in patterns."""
    return not os.path.basename(path.rstrip("/")).startswith(".") and looks_known(path)


def _place(path: str) -> str:
    return path.rstrip("/") if is_url(path) else os.path.realpath(path)


def _check_apart(given: Given, target: str | None) -> None:
    """Refuse a source that is the target, or lies in it, or in which the target lies."""
    path = given if isinstance(given, str) else place(given) if isinstance(given, os.PathLike | Store) else None
    if path is None or target is None:
        return
    where = _place(path)
    if f"{where}/".startswith(f"{target}/") or f"{target}/".startswith(f"{where}/"):
        raise ConfigError(
            f"Expected a store apart from its sources. Got source {path} and store {target}. Choose another place."
        )


def _matching(pattern: str) -> list[str]:
    if not is_url(pattern):
        return sorted(path for path in glob.glob(pattern) if looks_known(path) or envi_header(path))
    files, inside = filesystem(pattern)
    return sorted(path for path in map(files.unstrip_protocol, files.glob(inside)) if looks_known(path))


def _without_pairs(entries: Iterator[tuple[Given, str | None]]) -> Iterator[tuple[Given, str | None]]:
    """A header of ENVI and its data file are one source."""
    known = list(entries)
    data = set()
    for given, _ in known:
        if isinstance(given, str) and given.lower().endswith(".hdr"):
            try:
                data.add(os.path.normpath(envi_data(given)))
            except (ConfigError, OSError):
                continue  # said when it is opened
    yield from (entry for entry in known if not (isinstance(entry[0], str) and os.path.normpath(entry[0]) in data))


def _opened(given: Given, known: str | None, groups: Collection[str] | None) -> dict[str, Source] | str:
    """Sources by group, or the reason why there are none."""
    if known is not None:
        return known
    if isinstance(given, xr.DataArray):
        name = given.name if given.name is not None else "data"
        return {"": DatasetSource(given.to_dataset(name=name), _called(given), named=True)}
    if isinstance(given, xr.Dataset):
        return {"": DatasetSource(given)}
    try:
        found = _sources(given if isinstance(given, Store) else os.fspath(given))
        if groups is not None:
            wanted = {group: source for group, source in found.items() if group in groups}
            if not wanted:
                return f"It has none of the groups wanted. It has: {', '.join(map(repr, found))}."
            found = wanted
        for source in found.values():
            source.check()
    except Exception as error:  # one broken file of thousands, broken in whatever way, must not stop the others
        return _reason(_called(given), error)
    return dict(found)


def _sources(given: str | Store) -> dict[str, RasterSource | netcdf.NetcdfSource | zarr.ZarrSource]:
    if isinstance(given, Store):
        return _filled(given, {group: zarr.ZarrSource(given, group) for group in zarr.groups(given)})
    if re.match(r"[A-Z0-9_]{2,}:(?!//)", given) and not os.path.exists(given):
        return {"": RasterSource(given)}  # a sub-dataset, as GDAL names it
    what = kind(given)
    if what == "zarr":
        return _filled(given, {group: zarr.ZarrSource(given, group) for group in zarr.groups(given)})
    if what == "netcdf":
        return _filled(given, {group: netcdf.NetcdfSource(given, group) for group in netcdf.groups(given)})
    return {"": RasterSource(given)}


def _filled(given: Any, found: dict[str, Any]) -> dict[str, Any]:
    if not found:
        raise ConfigError(f"{given} has no variables.")
    return found


def _reason(path: str, error: Exception) -> str:
    """What a scientist can do something with."""
    if isinstance(error, ConfigError):
        cause = error.__cause__
        return _reason(path, cause) if isinstance(cause, OSError) else str(error)
    if isinstance(error, ModuleNotFoundError):
        return str(explained(error, "Reading it"))
    if isinstance(error, FileNotFoundError):
        return "There is no such file or folder."
    if isinstance(error, PermissionError):
        return "Permission to read it is denied."
    try:
        start = head(path, 16)
        what = kind(path)
    except Exception:
        return f"{type(error).__name__}: {error}"
    if not start:
        return "The file is empty (0 bytes)."
    if what == "hdf4":
        return f"It is an HDF4 file, which GDAL cannot read here. Convert it to HDF5 first (h4toh5). GDAL says: {error}"
    if what == "unknown":
        return (
            "It is of no kind that can be read: neither GeoTIFF, ENVI (with its .hdr beside it), NetCDF, HDF5, Zarr, "
            f"nor anything else that GDAL opens. GDAL says: {error}"
        )
    return f"It is damaged, or was cut off while it was copied: {error}"


def _stacked(readable: list[dict[str, Source]], along: str) -> list[Granule]:
    """One stack for each group that there is in any of the files."""
    by_group: dict[str, list[Source]] = {}
    for found in readable:
        for group, source in found.items():
            by_group.setdefault(group, []).append(source)
    for group, sources in by_group.items():
        if len(sources) < len(readable):
            logger.warning(
                "Group %r is in %d of %d sources only; along %r it is shorter.",
                group,
                len(sources),
                len(readable),
                along,
            )
    stacks = {group: StackSource(sources, along) for group, sources in sorted(by_group.items())}
    return [Granule(path=group, source=stack, given=stack.name) for group, stack in stacks.items()]


def _called(given: Given) -> str:
    if isinstance(given, xr.DataArray):
        return str(given.name) if given.name is not None else "data"
    if isinstance(given, xr.Dataset):
        return "dataset"
    return str(given) if isinstance(given, Store) else os.fspath(given)


def _short(given: Given) -> str:
    """What a group may be called after."""
    if isinstance(given, xr.Dataset | xr.DataArray):
        return _called(given)
    if isinstance(given, Store):
        return stem(str(getattr(given, "root", getattr(given, "path", "store"))))
    return stem(os.fspath(given))


def _unique(names: list[str]) -> list[str]:
    """Names made names of nodes in a Zarr store, told apart also where upper and lower case are the same."""
    taken: set[str] = set()
    found = []
    for name in names:
        cleaned = re.sub(r"[^\w.-]+", "_", name).lstrip(".")
        if not cleaned or cleaned.startswith("__") or cleaned == "_xwalloc" or cleaned == "zarr.json":
            cleaned = f"source{cleaned}" if cleaned.startswith("_") else f"source_{cleaned}".rstrip("_")
        chosen, count = cleaned, 1
        while chosen.lower() in taken:
            count += 1
            chosen = f"{cleaned}_{count}"
        taken.add(chosen.lower())
        found.append(chosen)
    return found
