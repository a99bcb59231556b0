"""Frames of an array, met in Zarr's own pipeline: shards, both formats and every store come for free."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import zarr
from numcodecs.abc import Codec
from zarr.abc.codec import ArrayBytesCodec
from zarr.codecs import ShardingCodec

from xwalloc import numcodecs as v2
from xwalloc import zarr as v3
from xwalloc.codec import engine
from xwalloc.codec.chunk import ChunkCodec
from xwalloc.codec.config import CodecConfig
from xwalloc.codec.inspect import inspect

__all__ = ["Measure", "Note", "configuration", "measure", "watch"]

Note = Callable[[bytes], None]
"""Is shown a frame."""

Measure = Callable[[float | None], None]
"""Is told the largest error of a chunk; None where there is no bound."""


def watch(array: zarr.Array[Any], note: Note) -> zarr.Array[Any] | None:
    """The same array with a codec that shows frames instead of decoding them; None where xwalloc does not encode it.

    Whatever is read of it is zeros.
    """
    return with_codec(array, lambda codec: NoteV2(note) if isinstance(codec, v2.Walloc) else NoteV3(note))


def measure(array: zarr.Array[Any], tell: Measure) -> zarr.Array[Any] | None:
    """The same array with a codec that tells the errors of chunks that are written; None where there is none of ours.

    The model of the codec must be known to this process.
    """

    def measuring(codec: Any) -> Any:
        if isinstance(codec, v2.Walloc):
            return MeasureV2(tell, codec.get_config())
        return MeasureV3(tell, codec.config)

    return with_codec(array, measuring)


def with_codec(array: zarr.Array[Any], other: Callable[[Any], Any]) -> zarr.Array[Any] | None:
    """The same array with another codec in place of ours; None where there is none."""
    metadata: Any = array.metadata
    if metadata.zarr_format == 2:
        if not isinstance(metadata.compressor, v2.Walloc):
            return None
        metadata = replace(metadata, compressor=other(metadata.compressor))
    else:
        codecs = replaced(metadata.codecs, other)
        if codecs == metadata.codecs:
            return None
        metadata = replace(metadata, codecs=codecs)
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=array.store_path))


def replaced(codecs: tuple[Any, ...], other: Callable[[Any], Any]) -> tuple[Any, ...]:
    """Codecs with ours replaced, inside shards as well."""
    return tuple(
        other(codec)
        if isinstance(codec, v3.Walloc)
        else replace(codec, codecs=replaced(codec.codecs, other))
        if isinstance(codec, ShardingCodec)
        else codec
        for codec in codecs
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
    """Stands for `xwalloc.numcodecs.Walloc`: shows frames and returns zeros."""

    codec_id = "xwalloc"

    def __init__(self, note: Note) -> None:
        self._note = note

    def encode(self, buf: Any) -> Any:
        """Not meant to be used."""
        raise NotImplementedError

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Show the frame; zeros of its shape."""
        info = inspect(bytes(buf))
        self._note(bytes(buf))
        return np.zeros(info.shape, info.dtype)


@dataclass(frozen=True)
class NoteV3(ArrayBytesCodec):
    """Stands for `xwalloc.zarr.Walloc`: shows frames and returns zeros."""

    is_fixed_size = False
    note: Note = field(compare=False)

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Not meant to be used."""
        raise NotImplementedError

    async def _decode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        self.note(chunk_data.to_bytes())
        zeros = np.zeros(chunk_spec.shape, v3.native_dtype(chunk_spec.dtype))
        return chunk_spec.prototype.nd_buffer.from_numpy_array(zeros)


class MeasureV2(Codec):  # type: ignore[misc]  # numcodecs has no types
    """Encodes as `xwalloc.numcodecs.Walloc` does, and tells errors."""

    codec_id = "xwalloc"

    def __init__(self, tell: Measure, configuration: dict[str, Any]) -> None:
        self._tell = tell
        self._codec = ChunkCodec(CodecConfig.from_json({k: v for k, v in configuration.items() if k != "id"}))

    def encode(self, buf: Any) -> bytes:
        """The frame of a chunk."""
        frame, error = engine.run(self._codec.encode_and_measure, buf)
        self._tell(error)
        return frame

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Not meant to be used."""
        raise NotImplementedError


@dataclass(frozen=True)
class MeasureV3(ArrayBytesCodec):
    """Encodes as `xwalloc.zarr.Walloc` does, and tells errors."""

    is_fixed_size = False
    tell: Measure = field(compare=False)
    config: CodecConfig

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: Any) -> int:
        """Not known before encoding."""
        raise NotImplementedError

    async def _encode_single(self, chunk_data: Any, chunk_spec: Any) -> Any:
        codec = ChunkCodec(self.config)
        submitted = engine.submit(codec.encode_and_measure, chunk_data.as_numpy_array())
        frame, error = await asyncio.wrap_future(submitted)
        self.tell(error)
        return chunk_spec.prototype.buffer.from_bytes(frame)
