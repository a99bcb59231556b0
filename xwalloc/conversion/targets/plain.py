"""Plain Zarr: every array of ours with zstd instead, all else as it is."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numcodecs
import zarr
from zarr.codecs import ZstdCodec

from xwalloc.conversion.targets.contents import Contents, units
from xwalloc.frames import watch

__all__ = ["write_zarr"]

LEVEL = 5


def write_zarr(contents: Contents, target: Path) -> None:
    """Write a store of the format of its source, with the same chunks and shards."""
    version: Any = contents.root.metadata.zarr_format
    root = zarr.create_group(str(target), zarr_format=version, attributes=dict(contents.root.attrs))
    for path in contents.groups[1:]:
        root.require_group(path).attrs.update(contents.root[path].attrs.asdict())
    for path, array in contents.arrays.items():
        copy(array, root, path)
    if contents.root.metadata.consolidated_metadata is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that not every reader of v3 knows them
            zarr.consolidate_metadata(str(target))


def copy(array: zarr.Array[Any], root: zarr.Group, path: str) -> None:
    """Copy an array, one unit of storage at a time."""
    metadata: Any = array.metadata
    ours = watch(array, lambda frame: None) is not None
    arguments: dict[str, Any] = {"filters": array.filters or None, "compressors": array.compressors or None}
    if metadata.zarr_format == 3:
        arguments |= {"dimension_names": metadata.dimension_names, "chunk_key_encoding": metadata.chunk_key_encoding}
        arguments["serializer"] = "auto" if ours else array.serializer
        if ours:
            arguments["compressors"] = (ZstdCodec(level=LEVEL),)
    else:
        arguments |= {"order": metadata.order}
        arguments["chunk_key_encoding"] = {"name": "v2", "separator": metadata.dimension_separator}
        if ours:
            arguments["compressors"] = numcodecs.Zstd(level=LEVEL)
    dtype: Any = metadata.data_type if metadata.zarr_format == 3 else metadata.dtype
    copied = root.create_array(
        path, shape=array.shape, dtype=dtype, chunks=array.chunks, shards=array.shards, fill_value=metadata.fill_value,
        attributes=dict(array.attrs), config={"write_empty_chunks": True}, **arguments,
    )  # fmt: skip
    if array.ndim == 0:
        copied[...] = array[...]
        return
    for region in units(array):
        copied[region] = array[region]
