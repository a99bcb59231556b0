"""Zarr stores as sources."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Hashable
from typing import Any, cast

import xarray as xr
import zarr
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype

from xwalloc.conversion.sources.opened import OpenedSource
from xwalloc.errors import ConfigError

__all__ = ["ZarrSource", "groups"]

logger = logging.getLogger("xwalloc")


class ZarrSource(OpenedSource):
    """A group of a Zarr store, v2 or v3: its variables as they are stored, with codecs undone.

    Parameters
    ----------
    store
        Path, URL or store. It must be picklable where workers are processes.
    group
        Path of the group inside.
    """

    def __init__(self, store: str | os.PathLike[str] | Store, group: str = "") -> None:
        self.store = store if isinstance(store, Store) else os.fspath(store)
        self.group = group.strip("/")
        self.name = f"{self.store}/{self.group}" if self.group else str(self.store)

    def key(self) -> Hashable:
        """The store and the group."""
        return ("zarr", self.store if isinstance(self.store, str) else _Held(self.store), self.group)

    def open_raw(self) -> xr.Dataset:
        """Open it through xarray."""
        group = self._group()
        for name, array in group.arrays():
            dims = array.metadata.to_dict().get("dimension_names") or array.attrs.get("_ARRAY_DIMENSIONS")
            if array.ndim and not dims:
                raise ConfigError(
                    f"Array {name!r} of {self.name} doesn't name its dimensions, which xarray needs. Name them in its "
                    "metadata, or give the array as an xarray.DataArray (dask.array.from_zarr reads it)."
                )
        consolidated = group.metadata.consolidated_metadata is not None
        return xr.open_dataset(
            cast("str", self.store), engine="zarr", group=self.group or None, consolidated=consolidated,
            decode_cf=False, cache=False, chunks=None,
        )  # fmt: skip

    def template(self) -> xr.Dataset:
        """Metadata, coordinates and texts; warns of variables that xwalloc has encoded before, with a loss."""
        template = super().template()
        again = [name for name, array in self._group().arrays() if _lossy(json.loads(_metadata(array)))]
        if again:
            logger.warning(
                "%s: %s were encoded by xwalloc before, within a bound of their own. Errors add up: the new bound "
                "holds against what is stored there, not against what was measured.",
                self.name, ", ".join(map(repr, sorted(again))),
            )  # fmt: skip
        return template

    def identity(self) -> dict[str, Any]:
        """The store and a hash of its metadata: values that were overwritten in place are not noticed."""
        group = self._group()
        digest = hashlib.sha256(json.dumps(dict(group.attrs), sort_keys=True, default=str).encode())
        for name, array in sorted(group.arrays()):
            digest.update(name.encode() + b"\0" + _metadata(array))
        path = self.store
        if isinstance(path, str) and "://" not in path:
            path = os.path.abspath(path)
        return {"path": str(path), "group": self.group, "metadata": digest.hexdigest()}

    def blocks(self, variable: Hashable) -> tuple[int, ...] | None:
        """Shards where there are any, else chunks."""
        array = self._group()[str(variable)]
        if not isinstance(array, zarr.Array):
            return None
        return array.shards or array.chunks

    def _group(self) -> zarr.Group:
        try:
            return zarr.open_group(self.store, mode="r", path=self.group or None)
        except (FileNotFoundError, zarr.errors.ContainsArrayError) as error:
            raise ConfigError(
                f"Expected a group of a Zarr store, which holds arrays. Got {self.name}: {error}"
            ) from error


class _Held:
    """A store as a key: two are one if they are the same object, which stays alive while the key does."""

    def __init__(self, store: Store) -> None:
        self.store = store

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Held) and other.store is self.store

    def __hash__(self) -> int:
        return id(self.store)


def groups(store: str | Store) -> list[str]:
    """Groups of a store that have arrays or attributes; "" is the root. None where there are no arrays at all.

    Raises
    ------
    ConfigError
        If there is no group.
    """
    root = ZarrSource(store)._group()
    nodes = {"": root, **dict(root.members(max_depth=None))}
    found = {name.rpartition("/")[0] for name, node in nodes.items() if isinstance(node, zarr.Array)}
    described = {name for name, node in nodes.items() if isinstance(node, zarr.Group) and set(node.attrs) - {"xwalloc"}}
    return sorted(found | described) if found else []


def _metadata(array: zarr.Array[Any]) -> bytes:
    """Metadata document of an array, as it is stored."""
    documents = array.metadata.to_buffer_dict(default_buffer_prototype())
    return next(document.to_bytes() for name, document in documents.items() if name in ("zarr.json", ".zarray"))


def _lossy(document: Any) -> bool:
    """Whether a codec of xwalloc with a loss is named anywhere in a metadata document."""
    if isinstance(document, list):
        return any(map(_lossy, document))
    if not isinstance(document, dict):
        return False
    if "xwalloc" in (document.get("name"), document.get("id")):
        configuration = document.get("configuration", document)
        return not configuration.get("lossless") and configuration.get("max_error") != 0
    return any(_lossy(value) for key, value in document.items() if key != "attributes")
