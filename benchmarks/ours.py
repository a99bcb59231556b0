"""xwalloc as a codec of the benchmarks, imported only when it is run."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Any

from numpy.typing import NDArray

from benchmarks.peers import Codec, Variant
from benchmarks.scenes import Scene

__all__ = ["xwalloc_codec"]


def xwalloc_codec(scene: Scene, bound: float) -> Codec:
    """xwalloc with its defaults at one bound, self-fitted, no model shared between chunks."""
    from xwalloc.codec.chunk import ChunkCodec
    from xwalloc.codec.config import CodecConfig

    config = CodecConfig(
        channel_axis=scene.channel_axis, signal_axes=scene.signal_axes, max_error=bound, nodata=scene.nodata
    )
    codec = ChunkCodec(config)

    def encode(array: NDArray[Any], _: float) -> bytes:
        return codec.encode(array)

    def decode(blob: bytes, _: float) -> NDArray[Any]:
        return codec.decode(blob)

    default = Variant(label="default", encode=encode, decode=decode)
    return Codec(name="xwalloc", version=_version(), variants=lambda _: [default], strict=True)


def _version() -> str:
    try:
        return f"xwalloc {version('xwalloc')}"
    except PackageNotFoundError:
        return "xwalloc (working tree)"
