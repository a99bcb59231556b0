"""The codec as Zarr v3 knows it: an array-to-bytes codec, named "xwalloc" in the metadata of an array.

What computes is imported with the first chunk: numba takes longer to load than a store to open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, Unpack, cast

import numpy as np
from zarr.abc.codec import ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin, ArrayBytesCodecPartialEncodeMixin
from zarr.core.buffer import gpu, numpy_buffer_prototype
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.storage import StorePath

from xwalloc.bitstream.frame import DecodeLimits
from xwalloc.codec import engine
from xwalloc.codec.config import CodecConfig, Configuration
from xwalloc.codec.devices import is_cupy
from xwalloc.errors import ConfigError, FormatError
from xwalloc.models import library, sidecar

if TYPE_CHECKING:
    from zarr.abc.store import ByteGetter, ByteSetter
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer, BufferPrototype, NDBuffer

    from xwalloc.codec.resident import DeviceArray

__all__ = ["Walloc"]


@dataclass(frozen=True, init=False, repr=False)
class Walloc(ArrayBytesCodec, ArrayBytesCodecPartialDecodeMixin):
    """Lossy, error-bounded codec for N-dimensional chunks; the frames are those of `xwalloc.numcodecs.Walloc`.

    Whoever selects a part of a chunk has only the segments decoded that the part touches. After
    `zarr.config.enable_gpu()`, what the CUDA device of the setting ``device`` decodes stays there, for CuPy, and arrays
    of CuPy are encoded where they are.

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
        if self.config.model is not None and self.config.model.weights is None:
            return cast(Self, WallocWithSidecar(**self.config.to_json()))
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
        decoded = await asyncio.wrap_future(engine.submit(self._decode, chunk_data, chunk_spec))
        return as_buffer(decoded, chunk_spec.prototype)

    async def _decode_partial_single(
        self, byte_getter: ByteGetter, selection: Any, chunk_spec: ArraySpec
    ) -> NDBuffer | None:
        # Frames are parsed on the host; inside shards, Zarr hands bytes out as its configuration has them.
        alone = isinstance(byte_getter, StorePath)
        chunk_data = await byte_getter.get(numpy_buffer_prototype() if alone else chunk_spec.prototype)
        if chunk_data is None:
            return None
        await self._find_model(byte_getter)
        region, rest = region_of(selection, chunk_spec.shape)
        decoded = await asyncio.wrap_future(engine.submit(self._decode, chunk_data, chunk_spec, region))
        return as_buffer(decoded, chunk_spec.prototype)[rest]

    async def _find_model(self, place: object) -> None:
        """Have this process know the model that lies beside the array, if one does."""
        if sidecar.wanted(self.config.model):
            # Not in a thread of the event loop: were all of those waiting for the first, that could not read files.
            await asyncio.wrap_future(engine.submit(sidecar.fetch, place, self.config.model))

    def _encode(self, chunk_data: NDBuffer) -> bytes:
        from xwalloc.codec.chunk import ChunkCodec
        from xwalloc.codec.resident.arrays import from_cupy

        array = chunk_data.as_ndarray_like()
        return ChunkCodec(self.config).encode(from_cupy(array) if is_cupy(array) else chunk_data.as_numpy_array())

    def _decode(
        self, chunk_data: Buffer, chunk_spec: ArraySpec, region: Sequence[slice] | None = None
    ) -> np.ndarray | DeviceArray:
        from xwalloc.codec.decode import decode_frame, decode_there

        decode = decode_there if issubclass(chunk_spec.prototype.nd_buffer, gpu.NDBuffer) else decode_frame
        dtype = native_dtype(chunk_spec.dtype)
        limits = DecodeLimits(max_bytes=int(np.prod(chunk_spec.shape, dtype=object)) * dtype.itemsize)
        decoded = decode(
            chunk_data.to_bytes(), shape=chunk_spec.shape, limits=limits, region=region, model=self.config.model
        )
        if decoded.dtype.newbyteorder("=") != dtype.newbyteorder("="):
            raise FormatError(
                f"Expected a chunk of dtype {dtype}, as the metadata of the array has it. Got {decoded.dtype}. "
                "The chunk belongs to another array, or the metadata was changed: restore them from a copy."
            )
        if isinstance(decoded, np.ndarray):
            return decoded.astype(dtype, copy=False)  # data types of Zarr v3 have no byte order, frames do
        return decoded


@dataclass(frozen=True, init=False, repr=False)
class WallocWithSidecar(Walloc, ArrayBytesCodecPartialEncodeMixin):
    """The codec of arrays whose model lies beside them.

    Zarr says where a chunk is to codecs that encode parts of chunks only, so this is one of them; but it leaves it to
    Zarr's own pipeline to complete the chunk. Whoever writes a chunk has the store hold the model first: xarray's own
    `to_zarr` of a dataset that was opened, too.
    """

    async def _keep_model(self, place: object) -> None:
        """Have this process know the model, and the store hold it."""
        await self._find_model(place)
        reference = self.config.model
        if reference is None:
            return
        if isinstance(place, StorePath):
            if not await sidecar.kept(place, reference):
                await asyncio.wrap_future(engine.submit(sidecar.keep, place, reference))
        elif not await asyncio.wrap_future(engine.submit(library.installed, reference)):
            raise ConfigError(
                f"Expected an array without shards, beside which model {reference.id} can lie: codecs inside shards "
                "are not told where they are, and nobody could read this store elsewhere. Leave shards out, or save "
                "the model into a folder that XWALLOC_MODEL_PATH names, here and wherever the store is read."
            )

    async def _encode_partial_single(
        self, byte_setter: ByteSetter, chunk_array: NDBuffer, selection: Any, chunk_spec: ArraySpec
    ) -> None:
        await self._keep_model(byte_setter)
        pipeline = BatchedCodecPipeline.from_codecs([Walloc(**self.config.to_json())])
        part: Any = ...
        whole = all(
            isinstance(item, slice) and item.indices(n) == (0, n, 1)
            for item, n in zip(selection, chunk_spec.shape, strict=True)
        )
        await pipeline.write_batch([(byte_setter, chunk_spec, selection, part, whole)], chunk_array)


def as_buffer(decoded: np.ndarray | DeviceArray, prototype: BufferPrototype) -> NDBuffer:
    """A buffer of Zarr: over the samples themselves, except that those on the host are uploaded for one of a GPU."""
    if isinstance(decoded, np.ndarray):
        return prototype.nd_buffer.from_numpy_array(decoded)
    return prototype.nd_buffer.from_ndarray_like(decoded.as_cupy())


def region_of(selection: Any, shape: Sequence[int]) -> tuple[tuple[slice, ...], Any]:
    """The smallest region of a chunk that holds a selection, and the selection within that.

    Selections of other kinds than slices, integers and arrays of integers have the whole chunk as region.
    """
    items = selection if isinstance(selection, tuple) else (selection,)
    region, rest = [], []
    for item, n in zip(items, shape, strict=False):
        if isinstance(item, slice):
            start, stop, step = item.indices(n)
            places = range(start, stop, step)
            first, last = (min(places[0], places[-1]), max(places[0], places[-1]) + 1) if places else (0, 0)
            inner: Any = slice(start - first, stop - first, step) if step > 0 and places else slice(0, 0)
            known = step > 0
        else:
            indices = np.asarray(item)
            known = indices.dtype.kind in "iu" and indices.size > 0 and 0 <= indices.min() <= indices.max() < n
            first, last = (int(indices.min()), int(indices.max()) + 1) if known else (0, n)
            inner = item - first if known else item
        if not known:
            break
        region.append(slice(first, last))
        rest.append(inner)
    if len(region) != len(shape) or len(items) != len(shape):
        return tuple(slice(0, n) for n in shape), selection
    return tuple(region), tuple(rest)


def native_dtype(dtype: Any) -> np.dtype[Any]:
    """NumPy's form of a Zarr data type (or of a NumPy one)."""
    native: np.dtype[Any] = np.dtype(dtype.to_native_dtype() if hasattr(dtype, "to_native_dtype") else dtype)
    return native
