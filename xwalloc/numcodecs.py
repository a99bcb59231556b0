"""The codec as numcodecs and Zarr v2 know it.

What computes is imported with the first chunk: numba takes longer to load than a store to open.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np
from numcodecs.abc import Codec
from numcodecs.compat import ensure_bytes, ensure_ndarray

from xwalloc.bitstream.frame import DecodeLimits, parse_header
from xwalloc.codec import engine
from xwalloc.codec.config import CodecConfig, Configuration
from xwalloc.codec.devices import is_cupy
from xwalloc.errors import ConfigError, FormatError

__all__ = ["Walloc"]


class Walloc(Codec):  # type: ignore[misc]  # numcodecs has no types
    """Lossy, error-bounded codec for N-dimensional chunks; the frames are those of `xwalloc.zarr.Walloc`.

    Parameters
    ----------
    **configuration
        The keys of `xwalloc.codec.config.CodecConfig`. They are the public attributes of the codec.

    Raises
    ------
    ConfigError
        If a key is unknown or a value is not possible.

    Examples
    --------
    >>> import numpy as np
    >>> codec = Walloc(channel_axis=0, signal_axes=[1, 2], max_error=0.5)
    >>> codec
    Walloc(channel_axis=0, signal_axes=[1, 2], max_error=0.5)
    >>> array = np.zeros((3, 4, 5), "f4")
    >>> codec.decode(codec.encode(array)).shape
    (3, 4, 5)
    """

    codec_id = "xwalloc"

    def __init__(self, **configuration: Unpack[Configuration]) -> None:
        self._config = CodecConfig.from_json(configuration)

    def __getattr__(self, name: str) -> Any:
        if name in Configuration.__annotations__:
            return getattr(self._config, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def encode(self, buf: Any) -> bytes:
        """Encode one chunk.

        Parameters
        ----------
        buf
            Array of any shape that has the axes of the configuration, in any memory order and either byte order; one of
            CuPy is encoded where it is if chunks are computed there.

        Returns
        -------
        bytes
            A frame, which carries shape and dtype.

        Raises
        ------
        ConfigError
            If the configuration does not fit the array, or its dtype is not accepted.
        """
        from xwalloc.codec.chunk import ChunkCodec
        from xwalloc.codec.resident.arrays import from_cupy

        try:
            array = from_cupy(buf) if is_cupy(buf) else ensure_ndarray(buf)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"Expected an array or a buffer. Got {type(buf).__name__} ({error}).") from None
        self._config.check(array.shape, array.dtype)
        return engine.run(ChunkCodec(self._config).encode, array)

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Decode one frame, whatever the configuration it was written with.

        Parameters
        ----------
        buf
            A frame.
        out
            Array of the shape and dtype of the chunk, or a flat buffer of as many bytes, that receives the values.

        Returns
        -------
        ndarray
            The chunk in the shape and dtype that were encoded, byte order included; `out` where it is given.

        Raises
        ------
        FormatError
            If the bytes are no undamaged frame.
        ConfigError
            If `out` cannot hold the chunk.
        """
        from xwalloc.codec.decode import decode_frame

        try:
            frame = ensure_bytes(buf)
        except TypeError as error:
            raise FormatError(f"Expected the bytes of a frame. Got {type(buf).__name__} ({error}).") from None
        if out is None:
            return engine.run(lambda: decode_frame(frame, model=self._config.model)).view(Chunk)
        header, _, _ = parse_header(frame)
        target = ensure_target(out)
        if (target.shape, target.dtype) != (header.shape, header.dtype):
            flat = target.ndim == 1 and target.dtype.itemsize == 1 and target.flags.c_contiguous
            if not flat or target.nbytes != header.nbytes:
                raise ConfigError(
                    f"Expected out to have shape {header.shape} and dtype {header.dtype}, or to be "
                    f"{header.nbytes} flat bytes. Got {target.dtype} {target.shape}. Leave out away to get a new array."
                )
            target = target.view(header.dtype).reshape(header.shape)
        limits = DecodeLimits(max_bytes=target.nbytes)
        engine.run(lambda: decode_frame(frame, out=target, limits=limits, model=self._config.model))
        return out

    def get_config(self) -> dict[str, Any]:
        """Configuration as JSON-able values, with the codec's id."""
        return {"id": self.codec_id, **self._config.to_json()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Walloc:
        """Codec of a configuration, with or without the id."""
        return cls(**{key: value for key, value in config.items() if key != "id"})

    def __repr__(self) -> str:
        return f"Walloc({', '.join(f'{key}={value!r}' for key, value in self._config.to_json().items())})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Walloc) and self._config == other._config

    def __hash__(self) -> int:
        return hash((self.codec_id, self._config))

    def __reduce__(self) -> tuple[Any, ...]:
        return self.from_config, (self._config.to_json(),)


class Chunk(np.ndarray):
    """A decoded chunk that survives being flattened and shaped again in either memory order.

    Zarr v2 takes what a codec returns for the memory of an array of the order in its metadata: it does
    ``chunk.reshape(-1, order="A").reshape(shape, order=order)``, which scrambles a C array where that order is "F". A
    frame knows no memory order (equal chunks have equal frames), so the array remembers what it was before.
    """

    _whole: np.ndarray | None = None

    def reshape(self, *shape: Any, **options: Any) -> Any:
        """As for any array, except that flattening in order "A" and shaping again in order "F" gives the same array."""
        order = options.get("order")
        if self._whole is not None and order == "F" and shape == (self._whole.shape,):
            return self._whole
        result = super().reshape(*shape, **options)
        if order == "A" and shape == (-1,) and isinstance(result, Chunk):
            result._whole = self
        return result


def ensure_target(out: Any) -> np.ndarray:
    """`out` as a writable array that shares its memory."""
    try:
        target: np.ndarray = ensure_ndarray(out)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"Expected out to be an array or a buffer. Got {type(out).__name__} ({error}).") from None
    if not target.flags.writeable:
        raise ConfigError("Expected out to be writable. Got read-only memory. Give a copy of it.")
    return target
