"""What a store says about its arrays: frames are found through Zarr's own pipeline, and only their headers are read."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.core.sync import sync

from xwalloc.codec.inspect import FrameInfo, inspect
from xwalloc.errors import ConfigError, FormatError
from xwalloc.frames import configuration, watch
from xwalloc.models import sidecar
from xwalloc.models.model import parse_reference

__all__ = ["ArrayInfo", "Storage", "describe", "parts"]

METADATA = ("zarr.json", ".zarray", ".zattrs")


@dataclass(frozen=True, kw_only=True)
class Storage:
    """What is stored for an array: its chunks, its metadata, and its model, there or beside the array.

    Parameters
    ----------
    count, present
        Units of storage (shards, or chunks where there are none): all, and those that are stored. The others read as
        the fill value, be it that they hold nothing else or that they were never written.
    samples, nbytes
        Number of samples in units that are stored, and their bytes.
    chunks, metadata
        Bytes of these units, and of metadata and model.
    has_model
        Whether there is a model among the latter.
    """

    count: int
    present: int
    samples: int
    nbytes: int
    chunks: int
    metadata: int
    has_model: bool

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> Storage:
        """What is stored for an array; sizes are looked up, nothing is read."""
        path = array.store_path.path
        prefix = f"{path}/" if path else ""
        sizes = sync(sizes_below(array.store_path.store, prefix))
        unit = array.shards or array.chunks
        grid = [-(-n // step) for n, step in zip(array.shape, unit, strict=True)]
        present = samples = chunks = 0
        for place in np.ndindex(*grid):
            size = sizes.get(prefix + array.metadata.encode_chunk_key(place))
            if size is not None:
                present += 1
                chunks += size
                ends = zip(place, unit, array.shape, strict=True)
                samples += math.prod(min((p + 1) * step, n) - p * step for p, step, n in ends)
        ours = watch(array, lambda frame: None) is not None
        reference = parse_reference(configuration(array).get("model")) if ours else None
        beside = sidecar.size(array.store_path, reference)
        return cls(
            count=math.prod(grid), present=present, samples=samples, nbytes=samples * array.dtype.itemsize,
            chunks=chunks,
            metadata=sum(sizes.get(prefix + name, 0) for name in METADATA) + beside,
            has_model=bool(beside) or (reference is not None and reference.weights is not None),
        )  # fmt: skip

    @property
    def stored(self) -> int:
        """Bytes of everything that is stored."""
        return self.chunks + self.metadata

    @property
    def parts(self) -> list[tuple[str, int]]:
        """Bytes of everything that is stored, by what it is."""
        return parts(self.chunks, self.metadata, self.has_model)

    @property
    def ratio(self) -> float:
        """Bytes of the samples in units that are stored, by bytes of everything that is; NaN where there are none."""
        return self.nbytes / self.stored if self.nbytes else math.nan

    @property
    def bits_per_sample(self) -> float:
        """Bits of everything that is stored, by samples in units that are; NaN where there are none."""
        return 8 * self.stored / self.samples if self.samples else math.nan


def parts(chunks: int, metadata: int, has_model: bool) -> list[tuple[str, int]]:
    """Bytes that are stored, by what they are."""
    return [("chunks", chunks), ("metadata and model" if has_model else "metadata", metadata)]


async def sizes_below(store: Store, prefix: str) -> dict[str, int]:
    """Bytes of the objects below a prefix, by key."""
    found = [key async for key in store.list_prefix(prefix)]
    limit = asyncio.Semaphore(zarr.config.get("async.concurrency"))

    async def size(key: str) -> int:
        async with limit:
            return await store.getsize(key)

    return dict(zip(found, await asyncio.gather(*map(size, found)), strict=True))


@dataclass(frozen=True, kw_only=True)
class ArrayInfo:
    """One array of a store that xwalloc encodes.

    Parameters
    ----------
    path
        Path of the array in the store.
    dtype, shape, chunks, shards
        Of the array as stored.
    configuration
        JSON configuration of the codec.
    zarr_format
        2 or 3.
    storage
        What is stored for it.
    modes
        Number of frames by mode.
    models
        Number of frames by model.
    sections
        Bytes of all frames by part.
    """

    path: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    shards: tuple[int, ...] | None
    configuration: dict[str, Any]
    zarr_format: int
    storage: Storage
    modes: Counter[str]
    models: Counter[str]
    sections: Counter[str]


def describe(store: Any) -> Iterator[ArrayInfo]:
    """Arrays of a store that xwalloc encodes, one after the other.

    Parameters
    ----------
    store
        Path, URL or Zarr store of an array or a group.

    Raises
    ------
    ConfigError
        If there is no such store.
    FormatError
        If a frame is damaged; the message names its place.
    """
    try:
        node = zarr.open(store, mode="r")
    except FileNotFoundError as error:
        raise ConfigError(f"Expected a Zarr array or group at {store}. Got none ({error}). Check the path.") from None
    name = node.path or str(store).rstrip("/").rpartition("/")[2]
    arrays = [(name, node)] if isinstance(node, zarr.Array) else sorted(node.members(max_depth=None))
    for path, array in arrays:
        if isinstance(array, zarr.Array):
            frames: list[FrameInfo] = []
            watched = watch(array, partial(note, frames))
            if watched is not None:
                read(path, watched)
                yield summarise(path, array, frames)


def note(frames: list[FrameInfo], frame: bytes) -> None:
    """Remember what a frame says."""
    frames.append(inspect(frame))


def read(path: str, array: zarr.Array[Any]) -> None:
    """Pass every frame of the array through its pipeline, one unit of storage at a time."""
    unit = array.shards or array.chunks
    for start in itertools.product(*(range(0, n, step) for n, step in zip(array.shape, unit, strict=True))):
        try:
            array[tuple(slice(a, a + step) for a, step in zip(start, unit, strict=True))]
        except FormatError as error:
            raise type(error)(f"{error} (array {path!r}, chunk at {start})") from error


def summarise(path: str, array: zarr.Array[Any], frames: list[FrameInfo]) -> ArrayInfo:
    """Sum of the frames of an array."""
    sections: Counter[str] = Counter()
    for frame in frames:
        sections.update(frame.sections)
    return ArrayInfo(
        path=path,
        dtype=array.dtype,
        shape=array.shape,
        chunks=array.chunks,
        shards=array.shards,
        configuration=configuration(array),
        zarr_format=array.metadata.zarr_format,
        storage=Storage.of(array),
        modes=Counter(frame.mode for frame in frames),
        models=Counter(frame.model or "none" for frame in frames),
        sections=sections,
    )
