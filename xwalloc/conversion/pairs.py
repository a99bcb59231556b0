"""Arrays of a store beside the sources that they were converted from."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store

from xwalloc.codec.config import CodecConfig
from xwalloc.conversion.manifest import Manifest, refuse_unfinished
from xwalloc.conversion.prepare import ATTRIBUTE
from xwalloc.conversion.sources.base import Region, Source
from xwalloc.conversion.sources.files import absolute
from xwalloc.conversion.sources.find import Granule, find
from xwalloc.conversion.store import place
from xwalloc.errors import ConfigError
from xwalloc.frames import configuration, watch
from xwalloc.models import sidecar

__all__ = ["Pair", "Side", "left_out", "open_root", "sides"]

MOST_LISTED = 5
"""Sources or variables that a message lists."""


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A stored array beside what it was converted from.

    Parameters
    ----------
    path
        Of the array in the store.
    array
        The stored one; what is read of it is decoded, as stored.
    source, variable
        Where the original is.
    template
        Its dimensions, coordinates and attributes; its values are placeholders.
    configuration
        Of the codec; None where it is not ours.
    """

    path: str
    array: zarr.Array[Any]
    source: Source
    variable: Hashable
    template: xr.DataArray
    configuration: dict[str, Any] | None

    def regions(self) -> Iterator[Region]:
        """Units of storage."""
        unit = self.array.shards or self.array.chunks
        starts = (range(0, n, size) for n, size in zip(self.array.shape, unit, strict=True))
        for start in itertools.product(*starts):
            yield tuple(slice(a, min(a + size, n)) for a, size, n in zip(start, unit, self.array.shape, strict=True))

    def read(self, region: Region) -> tuple[NDArray[Any], NDArray[Any]]:
        """Original and decoded samples, as stored."""
        if self.configuration is not None:
            sidecar.fetch(self.array.store_path, CodecConfig.from_json(self.configuration).model)
        return np.asarray(self.source.read(self.variable, region)), np.asarray(self.array[region])


@dataclass(frozen=True, kw_only=True)
class Side:
    """A group of a store beside its source.

    Parameters
    ----------
    group
        Path of the group.
    source, template
        The source, and what it says of its dataset.
    pairs
        Arrays of both.
    absent
        Variables that the store does not have.
    """

    group: str
    source: Source
    template: xr.Dataset
    stored: zarr.Group
    pairs: tuple[Pair, ...]
    absent: tuple[str, ...]


def open_root(store: Store) -> zarr.Group:
    """The root of a store that is whole.

    Raises
    ------
    ConfigError
        If there is no store, or its conversion was not finished.
    """
    with suppress(FileNotFoundError, ValueError):
        root = zarr.open_group(store, mode="r")
        if isinstance(root, zarr.Group):
            return root
    refuse_unfinished(store)
    raise ConfigError(f"Expected a Zarr group at {store}. Got none. Check the path.")


def left_out(store: Store) -> dict[str, str]:
    """Sources that the conversion to a store did without, with the reason."""
    said: Any = open_root(store).attrs.get(ATTRIBUTE)
    missing = said.get("missing") if isinstance(said, dict) else None
    return {str(name): str(reason) for name, reason in missing.items()} if isinstance(missing, dict) else {}


def sides(source: Any, store: Store) -> list[Side]:
    """Groups of a store, each beside its source; sources that it was completed without are passed over.

    Raises
    ------
    ConfigError
        If sources cannot be read or are not those of the store.
    """
    root = open_root(store)
    said: Any = root.attrs.get(ATTRIBUTE, {})
    settings = said.get("settings", {}) if isinstance(said, dict) else {}
    sources = [source] if isinstance(source, str) or not isinstance(source, list | tuple) else list(source)
    found = find(sources, along=settings.get("along") if isinstance(settings, dict) else None, target=place(store))
    missing = {absolute(name) for name in left_out(store)}
    lost = [f"{name}: {reason}" for name, reason in found.unreadable if absolute(name) not in missing]
    if lost:
        raise ConfigError(f"Expected all sources to be readable. {'; '.join(lost)}")
    granules = [granule for granule in found.granules if absolute(granule.given) not in missing]
    refuse_others(granules, said, store)
    result = []
    for granule in granules:
        try:
            group = root[granule.path] if granule.path else root
        except KeyError:
            group = None
        if not isinstance(group, zarr.Group):
            raise ConfigError(
                f"Expected group {granule.path!r} of {store} to hold {granule.source.name}. It is not there: give the "
                "sources that the store was converted from, in the same way."
            )
        result.append(side(granule.path, granule.source, group))
    refuse_strangers(result, store)
    return result


def refuse_others(granules: Sequence[Granule], said: Any, store: Store) -> None:
    """Refuse sources that become other groups than the record in the store names."""
    recorded = said.get("sources") if isinstance(said, dict) else None
    if not isinstance(recorded, dict):
        return
    given = {granule.path: granule.source.name for granule in granules}
    if given.keys() == recorded.keys():
        return
    lacking = {path: name for path, name in recorded.items() if path not in given}
    others = {path: name for path, name in given.items() if path not in recorded}
    details = [
        f"{words} {listed(part)}" for words, part in (("Not given:", lacking), ("Not in the store:", others)) if part
    ]
    raise ConfigError(
        f"Expected the {len(recorded)} sources (or groups of them) that the record in {store} names. Got {len(given)}. "
        f"{'. '.join(details)}. Give the sources that the store was converted from, in the same way."
    )


def refuse_strangers(found: Sequence[Side], store: Store) -> None:
    """Refuse sources of which the store has no variable, and never had one."""
    named = {f"{one.group}/{name}".lstrip("/") for one in found for name in one.template.data_vars}
    absent = {f"{one.group}/{name}".lstrip("/") for one in found for name in one.absent}
    if not named or absent < named:
        return
    plan = Manifest(store).plan()
    if plan is None:
        raise ConfigError(
            f"Expected {store} to hold variables of its sources, {', '.join(sorted(named)[:MOST_LISTED])}. It has none "
            "of them, nor the record of a conversion. Check the paths: this is no store of these sources."
        )
    recorded = plan["description"]["arrays"].keys()
    if not named & recorded:
        raise ConfigError(
            f"Expected sources with the variables that {store} was converted from: "
            f"{', '.join(sorted(recorded)[:MOST_LISTED])}. Got {', '.join(sorted(named)[:MOST_LISTED])}. Give the "
            "sources that the store was converted from, in the same way."
        )


def listed(names: dict[str, str]) -> str:
    """Some sources with the groups that they become."""
    some = [name if not path else f"{name} (group {path})" for path, name in sorted(names.items())]
    more = f" and {len(some) - MOST_LISTED} more" if len(some) > MOST_LISTED else ""
    return ", ".join(some[:MOST_LISTED]) + more


def side(path: str, source: Source, group: zarr.Group) -> Side:
    """A group beside its source."""
    template = source.template()
    pairs, absent = [], []
    for name, variable in template.data_vars.items():
        array = group.get(str(name))
        if not isinstance(array, zarr.Array):
            absent.append(str(name))
        elif variable.dtype.kind in "biufc":
            ours = watch(array, lambda frame: None) is not None
            pairs.append(
                Pair(
                    path=f"{path}/{name}" if path else str(name),
                    array=array,
                    source=source,
                    variable=name,
                    template=variable,
                    configuration=configuration(array) if ours else None,
                )
            )
    return Side(group=path, source=source, template=template, stored=group, pairs=tuple(pairs), absent=tuple(absent))
