"""What other codecs, and xwalloc without a network, make of a scene at one quality after another.

Everything here returns bytes, all side information counted, and the scene that is decoded from them, of the dtype of
the original. `(channel, y, x)` is the order of axes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from benchmarks.equal_snr import KltJpeg2000
from xwalloc.codec.chunk import ChunkCodec
from xwalloc.codec.config import CodecConfig
from xwalloc.models.model import Model

__all__ = ["PEERS", "Array", "Coded", "as_stored", "linear"]

Array = NDArray[Any]
WIDE = 65535.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Coded:
    """A scene at one quality.

    Parameters
    ----------
    setting
        What the codec was asked for.
    nbytes
        Size, without a model that scenes share.
    decoded
        The scene that comes back.
    """

    setting: str
    nbytes: int
    decoded: Array


def as_stored(decoded: Array, dtype: np.dtype[Any]) -> Array:
    """Rounded and clipped to an integer dtype."""
    info = np.iinfo(dtype)
    return np.clip(np.rint(decoded), info.min, info.max).astype(dtype)


def linear(scene: Array, step: float, model: Model | None = None) -> tuple[bytes, Array]:
    """Frame of xwalloc at a step, without a bound, and the decoded scene."""
    reference: Any = model
    codec = ChunkCodec(CodecConfig(channel_axis=0, signal_axes=(1, 2), step=step, model=reference))
    frame = codec.encode(scene)
    return frame, codec.decode(frame)


def _jpeg2000(scene: Array, levels: Sequence[float]) -> Iterator[Coded]:
    """One image for each band; photographs as RGB with the codec's own colour transform."""
    rgb = scene.dtype == np.uint8 and len(scene) == 3
    for level in levels:
        if rgb:
            blob = imagecodecs.jpeg2k_encode(np.moveaxis(scene, 0, -1), level=level, codecformat="j2k", mct=True)
            yield Coded(setting=f"{level:g} dB", nbytes=len(blob), decoded=_last_first(imagecodecs.jpeg2k_decode(blob)))
            continue
        # the codec takes dB of 16 bits: ask for so many dB below the range of the scene
        below = level + 20 * np.log10(WIDE / np.ptp(scene))
        blobs = [imagecodecs.jpeg2k_encode(band, level=below, codecformat="j2k") for band in scene]
        decoded = np.stack([imagecodecs.jpeg2k_decode(blob) for blob in blobs])
        yield Coded(setting=f"{level:g} dB", nbytes=sum(map(len, blobs)), decoded=decoded)


def _klt_jpeg2000(scene: Array, levels: Sequence[float]) -> Iterator[Coded]:
    """Principal components, each an image; 2 bytes for each number of the basis and 4 for each mean."""
    peer = KltJpeg2000(scene)
    peak = float(np.ptp(scene))
    for level in levels:
        nbytes, decoded = peer.encode(peak**2 / 10 ** (level / 10))
        yield Coded(setting=f"{level:g} dB", nbytes=nbytes, decoded=as_stored(decoded, scene.dtype))


def _jpegxl(scene: Array, levels: Sequence[float]) -> Iterator[Coded]:
    """Lossy JPEG XL, one image for each band (scaled to 16 bits; range counted), or one of a photograph."""
    low, high = float(scene.min()), float(scene.max())
    for distance in levels:
        how = {"distance": distance, "effort": 7, "numthreads": 1}
        if scene.dtype == np.uint8 and len(scene) == 3:
            blob = imagecodecs.jpegxl_encode(np.ascontiguousarray(np.moveaxis(scene, 0, -1)), **how)
            decoded = _last_first(imagecodecs.jpegxl_decode(blob))
            yield Coded(setting=f"distance {distance:g}", nbytes=len(blob), decoded=decoded)
            continue
        scaled = np.rint((scene - low) * (WIDE / (high - low))).astype(np.uint16)
        blobs = [imagecodecs.jpegxl_encode(band, **how) for band in scaled]
        restored = np.stack([imagecodecs.jpegxl_decode(blob) for blob in blobs]) * ((high - low) / WIDE) + low
        yield Coded(
            setting=f"distance {distance:g}", nbytes=sum(map(len, blobs)) + 8, decoded=as_stored(restored, scene.dtype)
        )


def _quantised_jpegxl(scene: Array, levels: Sequence[float]) -> Iterator[Coded]:
    """A uniform quantiser, and lossless JPEG XL of all bands one below the other."""
    for bound in levels:
        width = 2 * int(bound) + 1
        bins = (scene.astype(np.int64) + int(bound)) // width
        first = int(bins.min())
        image = (bins - first).astype(np.min_scalar_type(int(bins.max()) - first))
        blob = imagecodecs.jpegxl_encode(image.reshape(-1, scene.shape[2]), lossless=True, effort=7, numthreads=1)
        restored = imagecodecs.jpegxl_decode(blob).reshape(scene.shape).astype(np.int64) + first
        yield Coded(setting=f"bound {bound:g}", nbytes=len(blob) + 8, decoded=as_stored(restored * width, scene.dtype))


def _sperr(scene: Array, levels: Sequence[float]) -> Iterator[Coded]:
    """SPERR at a PSNR: cubes of many bands in three dimensions, others band by band."""
    samples = scene.astype(np.float32)
    for level in levels:
        parts = [samples] if len(scene) >= 16 else list(samples)
        blobs = [imagecodecs.sperr_encode(np.ascontiguousarray(part), level=level, mode="psnr") for part in parts]
        decoded = [
            imagecodecs.sperr_decode(blob, shape=part.shape, dtype=part.dtype)
            for blob, part in zip(blobs, parts, strict=True)
        ]
        restored = decoded[0] if len(scene) >= 16 else np.stack(decoded)
        nbytes = sum(len(blob) for blob in blobs)
        yield Coded(setting=f"{level:g} dB", nbytes=nbytes, decoded=as_stored(restored, scene.dtype))


def _last_first(image: Array) -> Array:
    return np.ascontiguousarray(np.moveaxis(image, -1, 0))


PEERS: dict[str, Callable[[Array, Sequence[float]], Iterator[Coded]]] = {
    "JPEG 2000": _jpeg2000,
    "KLT + JPEG 2000": _klt_jpeg2000,
    "JPEG XL": _jpegxl,
    "quantise + JPEG XL": _quantised_jpegxl,
    "SPERR": _sperr,
}
