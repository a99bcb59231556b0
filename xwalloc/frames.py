"""Frames of an array, found through Zarr's own pipeline: shards, both formats and every store come for free."""

from __future__ import annotations

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
from xwalloc.codec.inspect import inspect

__all__ = ["Note", "configuration", "watch"]

Note = Callable[[bytes], None]
"""Is shown a frame."""


def watch(array: zarr.Array[Any], note: Note) -> zarr.Array[Any] | None:
    """The same array with a codec that shows frames instead of decoding them; None where xwalloc does not encode it.

    Whatever is read of it is zeros.
    """
    metadata: Any = array.metadata
    if metadata.zarr_format == 2:
        if not isinstance(metadata.compressor, v2.Walloc):
            return None
        metadata = replace(metadata, compressor=NoteV2(note))
    else:
        codecs = noting(metadata.codecs, note)
        if codecs == metadata.codecs:
            return None
        metadata = replace(metadata, codecs=codecs)
    return zarr.Array(zarr.AsyncArray(metadata=metadata, store_path=array.store_path))


def noting(codecs: tuple[Any, ...], note: Note) -> tuple[Any, ...]:
    """Codecs with ours replaced, inside shards as well."""
    return tuple(
        NoteV3(note)
        if isinstance(codec, v3.Walloc)
        else replace(codec, codecs=noting(codec.codecs, note))
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
