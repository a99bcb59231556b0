"""What a store says about its arrays: frames are found through Zarr's own pipeline, and only their headers are read."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import zarr

from xwalloc.codec.inspect import FrameInfo, inspect
from xwalloc.errors import ConfigError, FormatError
from xwalloc.frames import configuration, watch

__all__ = ["ArrayInfo", "describe"]


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
    nbytes, stored
        Bytes of the decoded array, and of everything that is stored for it.
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
    nbytes: int
    stored: int
    modes: Counter[str]
    models: Counter[str]
    sections: Counter[str]

    @property
    def ratio(self) -> float:
        """Bytes of the array by bytes stored."""
        return self.nbytes / self.stored

    @property
    def bits_per_sample(self) -> float:
        """Bits stored by samples; NaN for an empty array."""
        return 8 * self.stored * self.dtype.itemsize / self.nbytes if self.nbytes else float("nan")


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
        nbytes=array.nbytes,
        stored=array.nbytes_stored(),
        modes=Counter(frame.mode for frame in frames),
        models=Counter(frame.model or "none" for frame in frames),
        sections=sections,
    )
