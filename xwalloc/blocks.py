"""Arrays that are read block by block from the frames of a store, lazily."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from xarray.backends import BackendArray
from xarray.core import indexing
from zarr.errors import ContainsArrayError

from xwalloc.bitstream.frame import DecodeLimits, Frame
from xwalloc.codec.config import CodecConfig
from xwalloc.errors import ConfigError, FormatError
from xwalloc.frames import configuration, watch
from xwalloc.models import sidecar

__all__ = ["BlockArray", "open_variable"]


def open_variable(store: Any, variable: str, group: str | None) -> tuple[zarr.Array[Any], xr.DataArray]:
    """An array that xwalloc encodes, and what xarray makes of it; nothing is read.

    Raises
    ------
    ConfigError
        If there is no such variable, or xwalloc does not encode it.
    """
    try:
        node = zarr.open_group(store, mode="r", path=group or "")
        array = node[variable]
    except ContainsArrayError:
        raise ConfigError(
            f"Expected a store or a group that holds array {variable!r}. Got {store}, itself an array. Give the group "
            "around it."
        ) from None
    except TypeError as error:
        raise ConfigError(f"Expected a path, a URL or a store of Zarr. Got {type(store).__name__} ({error}).") from None
    except (FileNotFoundError, KeyError) as error:
        raise ConfigError(f"Expected array {variable!r} in {store}. Got none ({error}). Check its name.") from None
    if not isinstance(array, zarr.Array) or watch(array, lambda frame: None) is None:
        raise ConfigError(f"Expected {variable!r} to be an array that xwalloc encodes. Got {array}.")
    consolidated = node.metadata.consolidated_metadata is not None
    dataset = xr.open_zarr(store, group=group, chunks=None, consolidated=consolidated)
    return array, dataset[variable]


class BlockArray(BackendArray):
    """What the frames of an array hold, one block for each.

    Subclasses set `shape` and `dtype`, and `sizes`, the extent of a block, and make blocks (`block`) of frames
    (`decoded`). The last blocks may reach beyond the shape.
    """

    shape: tuple[int, ...]
    sizes: tuple[int, ...]
    dtype: np.dtype[Any]

    def __init__(self, array: zarr.Array[Any]) -> None:
        self.array = array
        self.config = CodecConfig.from_json(configuration(array))
        self.signal = self.config.signal_axes
        sidecar.fetch(array.store_path, self.config.model)
        self.blocks = [-(-n // size) for n, size in zip(array.shape, array.chunks, strict=True)]

    def block(self, place: tuple[int, ...]) -> NDArray[Any]:
        """The block at a place of the grid of blocks."""
        raise NotImplementedError

    def decoded(self, data: bytes) -> NDArray[Any]:
        """What a frame becomes."""
        raise NotImplementedError

    def missing(self) -> NDArray[Any]:
        """What stands for a chunk that was never written."""
        return np.zeros(self.sizes, self.dtype)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        result: NDArray[Any] = indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.BASIC, self.read
        )
        return result

    def read(self, key: tuple[Any, ...]) -> NDArray[Any]:
        """A selection of slices and integers, from the blocks that it touches."""
        ranges = [
            range(n)[part] if isinstance(part, slice) else range(n)[part : part + 1 or None]
            for part, n in zip(key, self.shape, strict=True)
        ]
        out = np.zeros([len(r) for r in ranges], self.dtype)
        touched = [sorted({i // size for i in r}) for r, size in zip(ranges, self.sizes, strict=True)]
        for index in np.ndindex(*(len(t) for t in touched)):
            place = tuple(t[i] for t, i in zip(touched, index, strict=True))
            inner, outer = [], []
            for r, size, p in zip(ranges, self.sizes, place, strict=True):
                here = [(i - p * size, k) for k, i in enumerate(r) if i // size == p]
                inner.append(np.array([i for i, _ in here], np.int64))
                outer.append(np.array([k for _, k in here], np.int64))
            out[np.ix_(*outer)] = self.block(place)[np.ix_(*inner)]
        return out[tuple(slice(None) if isinstance(part, slice) else 0 for part in key)]

    def of_frame(self, place: tuple[int, ...]) -> NDArray[Any]:
        """What the chunk at a place of the grid of chunks becomes.

        Raises
        ------
        FormatError
            If the chunk is damaged, or cannot be used; the message names it.
        """
        frames: list[bytes] = []
        watched = watch(self.array, frames.append)
        box = tuple(
            slice(p * size, min((p + 1) * size, n))
            for p, size, n in zip(place, self.array.chunks, self.array.shape, strict=True)
        )
        if watched is not None:
            watched[box]
        if not frames:
            return self.missing()
        sidecar.fetch(self.array.store_path, self.config.model)
        try:
            return self.decoded(frames[0])
        except FormatError as error:
            raise type(error)(f"{error} (chunk at {tuple(part.start for part in box)})") from error

    def parsed(self, data: bytes) -> Frame:
        """A frame of a chunk of the array.

        Raises
        ------
        FormatError
            If it is not one.
        """
        nbytes = math.prod(self.array.chunks) * self.array.dtype.itemsize
        frame = Frame.parse(data, DecodeLimits(max_bytes=nbytes))
        if frame.header.shape != tuple(self.array.chunks):
            raise FormatError(
                f"Expected a chunk of shape {self.array.chunks}. The frame holds one of {frame.header.shape}."
            )
        return frame

    def positions(
        self, values: NDArray[Any], axis: int, count: int, width: int, place: float
    ) -> NDArray[np.float64] | None:
        """Coordinates of cells along an axis: `count` for each chunk, `width` samples each, at a place within them.

        None where coordinates are no numbers. Beyond the last sample its step goes on.
        """
        n = len(values)
        if values.dtype.kind not in "iuf" or n < 2:
            return None
        within = np.arange(count) * width + place
        index = (np.arange(self.blocks[axis])[:, None] * self.array.chunks[axis] + within).reshape(-1)
        beyond = np.maximum(index - (n - 1), 0) * float(values[-1] - values[-2])
        result: NDArray[np.float64] = np.interp(index, np.arange(n), values) + beyond
        return result
