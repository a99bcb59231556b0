"""What of a store is exported: its groups and arrays, as they are stored."""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
import zarr

from xwalloc.conversion.manifest import refuse_unfinished
from xwalloc.errors import ConfigError
from xwalloc.models.sidecar import FOLDER

__all__ = ["Contents", "attribute", "open_contents", "units"]

Region = tuple[slice, ...]
REFERENCES = ("coordinates", "grid_mapping", "bounds")
"""Attributes of CF that name variables without which a variable is not whole."""


@dataclass(frozen=True, kw_only=True)
class Contents:
    """Groups and arrays of a store that are exported.

    Parameters
    ----------
    root
        The store.
    groups
        Their paths, those around others first; "" is the root.
    arrays
        By path.
    chosen
        Paths of the variables that were asked for, without what belongs to them; None: all.
    """

    root: zarr.Group
    groups: tuple[str, ...]
    arrays: dict[str, zarr.Array[Any]]
    chosen: tuple[str, ...] | None

    def dataset(self, group: str) -> xr.Dataset:
        """What xarray makes of a group: values are neither unpacked nor masked, and read when they are used."""
        consolidated = self.root.metadata.consolidated_metadata is not None and not group
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about consolidated metadata
            found: xr.Dataset = xr.open_zarr(
                self.root.store, group="/".join(filter(None, (self.root.path, group))) or None, chunks=None,
                decode_cf=False, consolidated=consolidated,
            )  # fmt: skip
        names = {path.rpartition("/")[2] for path in self.arrays if path.rpartition("/")[0] == group}
        return found.drop_vars([name for name in found.variables if name not in names])


def open_contents(store: Any, variables: Sequence[str] | None) -> Contents:
    """Find what is to be exported.

    Raises
    ------
    ConfigError
        If there is no such store, or no such variable.
    """
    try:
        root = zarr.open_group(store, mode="r")
    except (FileNotFoundError, zarr.errors.ContainsArrayError) as error:
        refuse_unfinished(store)
        raise ConfigError(f"Expected a Zarr group at {store}. Got none ({error}). Check the path.") from None
    members = [(path, node) for path, node in sorted(root.members(max_depth=None)) if FOLDER not in path.split("/")]
    arrays = {path: node for path, node in members if isinstance(node, zarr.Array)}
    groups = ["", *(path for path, node in members if isinstance(node, zarr.Group))]
    if variables is None:
        return Contents(root=root, groups=tuple(groups), arrays=arrays, chosen=None)
    if isinstance(variables, str):
        raise ConfigError(f"Expected a list of variables. Got the text {variables!r}: write [{variables!r}].")
    wanted = [name.strip("/") for name in variables]
    if missing := [name for name in wanted if name not in arrays]:
        raise ConfigError(f"Expected variables of {store}. Got {missing}. Those that are there: {sorted(arrays)}.")
    needed: set[str] = set()
    for name in wanted:
        needed |= belonging(name, arrays)
    around = {"/".join(path.split("/")[:n]) for path in needed for n in range(path.count("/") + 1)}
    kept = {path: arrays[path] for path in sorted(needed)}
    return Contents(root=root, groups=tuple(g for g in groups if g in around), arrays=kept, chosen=tuple(wanted))


def belonging(path: str, arrays: dict[str, zarr.Array[Any]]) -> set[str]:
    """A variable and what it needs: coordinates and grid mappings of its group, or of groups around it."""
    found, todo = set(), [path]
    while todo:
        path = todo.pop()
        found.add(path)
        names = set(dimensions(arrays[path]))
        for key in REFERENCES:
            value = arrays[path].attrs.get(key)
            names |= set(value.replace(":", " ").split()) if isinstance(value, str) else set()
        group = path.split("/")[:-1]
        for name in names:
            places = ("/".join([*group[:n], name]) for n in range(len(group), -1, -1))
            place = next((place for place in places if place in arrays), None)
            if place is not None and place not in found:
                todo.append(place)
    return found


def dimensions(array: zarr.Array[Any]) -> tuple[str, ...]:
    """Names of the dimensions of an array, of both formats."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS") or ()
    return tuple(str(name) for name in names if name is not None)  # type: ignore[union-attr]


def units(array: zarr.Array[Any]) -> Iterator[Region]:
    """Units of storage (shards, else chunks) that tile an array."""
    unit = array.shards or array.chunks
    for start in itertools.product(*(range(0, n, max(step, 1)) for n, step in zip(array.shape, unit, strict=True))):
        yield tuple(slice(a, min(a + step, n)) for a, step, n in zip(start, unit, array.shape, strict=True))


def attribute(value: Any) -> Any:
    """An attribute as formats have it that know only texts, numbers and lists of them: the rest becomes JSON."""
    if isinstance(value, np.ndarray | np.number | str | bytes) or (
        isinstance(value, int | float) and not isinstance(value, bool)
    ):
        return value
    if isinstance(value, list | tuple) and value:
        for kinds in (str, int | float):
            if all(isinstance(item, kinds) and not isinstance(item, bool) for item in value):
                return list(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def period(unit: int, length: int, multiple: int) -> int:
    """The smallest length that units and tiles of a multiple divide, if it is not above 4 units; else the tiles'."""
    if unit >= length:
        return -(-length // multiple) * multiple
    common = math.lcm(unit, multiple)
    return common if common <= 4 * unit else -(-unit // multiple) * multiple
