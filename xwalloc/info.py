"""What a store says about its arrays: frames are found through Zarr's own pipeline, and only their headers are read."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import zarr
from numcodecs.abc import Codec
from zarr.abc.codec import ArrayBytesCodec
from zarr.codecs import ShardingCodec

from xwalloc import numcodecs as v2
from xwalloc import zarr as v3
from xwalloc.codec.inspect import FrameInfo, inspect
from xwalloc.errors import ConfigError, FormatError

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
            watched = watch(array, frames)
            if watched is not None:
                read(path, watched)
                yield summarise(path, array, frames)


def watch(array: zarr.Array[Any], frames: list[FrameInfo]) -> zarr.Array[Any] | None:
    """The same array with a codec that notes frames instead of decoding them; None where xwalloc does not encode it."""
    metadata: Any = array.metadata
    if metadata.zarr_format == 2:
        if not isinstance(metadata.compressor, v2.Walloc):
            return None
        metadata = replace(metadata, compressor=NoteV2(frames))
    else:
        codecs = noting(metadata.codecs, frames)
        if codecs == metadata.codecs:
            return None
        metadata = replace(metadata, codecs=codecs)
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=array.store_path))


def noting(codecs: tuple[Any, ...], frames: list[FrameInfo]) -> tuple[Any, ...]:
    """Codecs with ours replaced, inside shards as well."""
    return tuple(
        NoteV3(frames)
        if isinstance(codec, v3.Walloc)
        else replace(codec, codecs=noting(codec.codecs, frames))
        if isinstance(codec, ShardingCodec)
        else codec
        for codec in codecs
    )


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


def configuration(array: zarr.Array[Any]) -> dict[str, Any]:
    """JSON configuration of our codec in an array."""
    metadata: Any = array.metadata
    if metadata.zarr_format == 2:
        return {key: value for key, value in metadata.compressor.get_config().items() if key != "id"}
    codecs = list(metadata.codecs)
    while not any(isinstance(codec, v3.Walloc) for codec in codecs):
        codecs = [inner for codec in codecs if isinstance(codec, ShardingCodec) for inner in codec.codecs]
    return next(codec.config.to_json() for codec in codecs if isinstance(codec, v3.Walloc))


class NoteV2(Codec):  # type: ignore[misc]  # numcodecs has no types
    """Stands for `xwalloc.numcodecs.Walloc`: notes what a frame says and returns zeros."""

    codec_id = "xwalloc"

    def __init__(self, frames: list[FrameInfo]) -> None:
        self._frames = frames

    def encode(self, buf: Any) -> Any:
        """Not meant to be used."""
        raise NotImplementedError

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Note the frame; zeros of its shape."""
        info = inspect(bytes(buf))
        self._frames.append(info)
        return np.zeros(info.shape, info.dtype)


@dataclass(frozen=True)
class NoteV3(ArrayBytesCodec):
    """Stands for `xwalloc.zarr.Walloc`: notes what a frame says and returns zeros."""

    is_fixed_size = False
    frames: list[FrameInfo] = field(compare=False)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Not meant to be used."""
        raise NotImplementedError

    async def _decode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        self.frames.append(inspect(chunk_data.to_bytes()))
        zeros = np.zeros(chunk_spec.shape, v3.native_dtype(chunk_spec.dtype))
        return chunk_spec.prototype.nd_buffer.from_numpy_array(zeros)
