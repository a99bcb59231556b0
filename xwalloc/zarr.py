"""The codec as Zarr v3 knows it: an array-to-bytes codec, named "xwalloc" in the metadata of an array."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, Unpack

import numpy as np
from zarr.abc.codec import ArrayBytesCodec

from xwalloc.bitstream.frame import DecodeLimits
from xwalloc.codec import engine
from xwalloc.codec.chunk import ChunkCodec, decode_frame
from xwalloc.codec.config import CodecConfig, Configuration
from xwalloc.errors import ConfigError, FormatError

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, NDBuffer

__all__ = ["Walloc"]


@dataclass(frozen=True, init=False, repr=False)
class Walloc(ArrayBytesCodec):
    """Lossy, error-bounded codec for N-dimensional chunks; the frames are those of `xwalloc.numcodecs.Walloc`.

    Parameters
    ----------
    **configuration
        The keys of `xwalloc.codec.config.CodecConfig`, which the attribute `config` holds.

    Raises
    ------
    ConfigError
        If a key is unknown or a value is not possible.

    Examples
    --------
    >>> import numpy as np, zarr
    >>> codec = Walloc(channel_axis=0, signal_axes=[1, 2], max_error=0.5)
    >>> codec.to_dict()
    {'name': 'xwalloc', 'configuration': {'channel_axis': 0, 'signal_axes': [1, 2], 'max_error': 0.5}}
    >>> zeros = np.zeros((3, 8, 8), "f4")
    >>> array = zarr.create_array({}, data=zeros, chunks=(3, 4, 4), serializer=codec, compressors=())
    >>> array[:, 2:6].shape
    (3, 4, 8)
    """

    is_fixed_size = False
    config: CodecConfig

    def __init__(self, **configuration: Unpack[Configuration]) -> None:
        object.__setattr__(self, "config", CodecConfig.from_json(configuration))

    def __repr__(self) -> str:
        return f"Walloc({', '.join(f'{key}={value!r}' for key, value in self.config.to_json().items())})"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Codec of the metadata ``{"name": "xwalloc", "configuration": {...}}``."""
        if data.get("name") != "xwalloc":
            raise ConfigError(f"Expected a codec named 'xwalloc'. Got {data.get('name')!r}.")
        return cls(**data.get("configuration", {}))

    def to_dict(self) -> dict[str, Any]:
        """Metadata of the codec."""
        return {"name": "xwalloc", "configuration": self.config.to_json()}

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Refuse arrays that the configuration does not fit; Zarr does not call this for codecs inside shards."""
        self.config.check(getattr(chunk_grid, "chunk_shape", shape), native_dtype(dtype))

    def evolve_from_array_spec(self, array_spec: ArraySpec) -> Self:
        """Refuse chunks that the configuration does not fit; Zarr calls this for codecs inside shards as well."""
        self.config.check(array_spec.shape, native_dtype(array_spec.dtype))
        return self

    def compute_encoded_size(self, input_byte_length: int, chunk_spec: ArraySpec) -> int:
        """Not known before encoding.

        Raises
        ------
        NotImplementedError
            Always, as Zarr expects of codecs without a fixed size.
        """
        raise NotImplementedError

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        frame = await asyncio.wrap_future(engine.submit(self._encode, chunk_data))
        return chunk_spec.prototype.buffer.from_bytes(frame)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        array = await asyncio.wrap_future(engine.submit(self._decode, chunk_data, chunk_spec))
        return chunk_spec.prototype.nd_buffer.from_numpy_array(array)

    def _encode(self, chunk_data: NDBuffer) -> bytes:
        return ChunkCodec(self.config).encode(chunk_data.as_numpy_array())

    def _decode(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> np.ndarray:
        dtype = native_dtype(chunk_spec.dtype)
        limits = DecodeLimits(max_bytes=int(np.prod(chunk_spec.shape, dtype=object)) * dtype.itemsize)
        array = decode_frame(chunk_data.to_bytes(), shape=chunk_spec.shape, limits=limits)
        if array.dtype.newbyteorder("=") != dtype.newbyteorder("="):
            raise FormatError(
                f"Expected a chunk of dtype {dtype}, as the metadata of the array has it. Got {array.dtype}. "
                "The chunk belongs to another array, or the metadata was changed: restore them from a copy."
            )
        return array.astype(dtype, copy=False)  # data types of Zarr v3 have no byte order, frames do


def native_dtype(dtype: Any) -> np.dtype[Any]:
    """NumPy's form of a Zarr data type (or of a NumPy one)."""
    native: np.dtype[Any] = np.dtype(dtype.to_native_dtype() if hasattr(dtype, "to_native_dtype") else dtype)
    return native
