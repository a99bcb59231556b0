"""The codecs xwalloc is compared with, each at its best: the smallest of several fair ways to call it is kept.

Integers get what an error bound on integers allows: float codecs run at ``bound + 0.499`` and their output is rounded,
quantisers use bins of ``2 floor(bound) + 1`` values. The plain bound is tried too and reported as ``strict``. Array
shape, dtype and bound are not charged to a peer (Zarr keeps them); every other byte is.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal, NamedTuple

import imagecodecs
import numpy as np
import soundfile
import zfpy
from numcodecs_safeguards import SafeguardedCodec
from numcodecs_wasm_ebcc import Ebcc
from numpy.typing import NDArray
from pcodec import ChunkConfig, standalone
from pysz import sz, szAlgorithm, szConfig, szErrorBoundMode

from benchmarks.scenes import Scene

__all__ = ["PEERS", "Codec", "Variant"]

Array = NDArray[Any]
FOLD = 1024
"""Width of the image that a long series is folded into, for codecs made for images."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to call a codec: ``encode(array, bound) -> blob`` and ``decode(blob, bound) -> array``."""

    label: str
    encode: Callable[[Array, float], bytes]
    decode: Callable[[bytes, float], Array]


@dataclass(frozen=True, kw_only=True)
class Codec:
    """A codec under comparison.

    Parameters
    ----------
    name, version : str
        Names the codec in reports and its results in the cache.
    variants : callable
        The ways to call it that make sense for a scene; none when it cannot code the scene.
    strict : bool
        The codec promises the bound and keeps nodata exactly: measured as is, never retried at a tighter bound.
    """

    name: str
    version: str
    variants: Callable[[Scene], Sequence[Variant]]
    strict: bool = False


@dataclass(frozen=True)
class View:
    """How an array is cut into the parts a codec sees, and how the parts become the array again."""

    label: str
    split: Callable[[Array], list[Array]]
    join: Callable[[list[Array]], Array]


def _whole() -> View:
    return View("whole", lambda array: [array], lambda parts: parts[0])


def _channel_last() -> View:
    return View("channel-last", lambda array: [np.moveaxis(array, 0, -1)], lambda parts: np.moveaxis(parts[0], -1, 0))


def _channels() -> View:
    return View("per-channel", list, np.stack)


def _stacked(scene: Scene) -> View:
    """All channels one below the other in one image; series are folded."""
    inner = scene.array.shape[1:] if scene.array.ndim == 3 else None
    folded = _folded(scene)

    def split(array: Array) -> list[Array]:
        cube = array if inner else folded.split(array)[0]
        return [cube.reshape(-1, cube.shape[-1])]

    def join(parts: list[Array]) -> Array:
        return parts[0].reshape(-1, *inner) if inner else folded.join([parts[0].reshape(len(scene.array), -1, FOLD)])

    return View("stacked", split, join)


def _folded(scene: Scene) -> View:
    """(channel, time) as (channel, row, column), padded with the last sample."""
    length = scene.array.shape[1]

    def split(array: Array) -> list[Array]:
        padded = np.pad(array, ((0, 0), (0, -length % FOLD)), mode="edge")
        return [padded.reshape(len(array), -1, FOLD)]

    return View("folded", split, lambda parts: parts[0].reshape(len(parts[0]), -1)[:, :length])


def _pack(parts: Sequence[bytes]) -> bytes:
    """Parts one after the other, each after its length in 4 bytes; a single part stays as it is."""
    return parts[0] if len(parts) == 1 else b"".join(struct.pack("<I", len(part)) + part for part in parts)


def _unpack(blob: bytes, count: int) -> list[bytes]:
    if count == 1:
        return [blob]
    parts, start = [], 0
    for _ in range(count):
        (length,) = struct.unpack_from("<I", blob, start)
        parts.append(blob[start + 4 : start + 4 + length])
        start += 4 + length
    return parts


# Codecs of floats -----------------------------------------------------------------------------------------------------

FloatEncode = Callable[[Array, float], bytes]
FloatDecode = Callable[[bytes, tuple[int, ...], np.dtype[Any]], Array]


def _float_variant(
    scene: Scene, view: View, encode: FloatEncode, decode: FloatDecode, dtype: str, note: str = "", strict: bool = False
) -> Variant:
    native, work = scene.array.dtype, np.dtype(dtype)
    integral = native.kind in "iu"
    slack = 0.499 if integral and not strict else 0.0
    shapes = [part.shape for part in view.split(scene.array)]

    def encode_all(array: Array, bound: float) -> bytes:
        return _pack([encode(np.ascontiguousarray(part, work), bound + slack) for part in view.split(array)])

    def decode_all(blob: bytes, bound: float) -> Array:
        blobs = _unpack(blob, len(shapes))
        array = view.join([decode(part, shape, work) for part, shape in zip(blobs, shapes, strict=True)])
        if not integral:
            return array.astype(native)
        return np.clip(np.rint(array), np.iinfo(native).min, np.iinfo(native).max).astype(native)

    label = " ".join(word for word in (view.label, dtype, note, "strict" if strict else "") if word)
    return Variant(label=label, encode=encode_all, decode=decode_all)


def _float_dtype(scene: Scene) -> str:
    return "float64" if scene.array.dtype == np.float64 else "float32"


def _float_views(scene: Scene) -> list[View]:
    """Both axis orders of a cube; channels one by one where they are few."""
    orders = [_whole(), _channel_last()] if scene.array.ndim == 3 else [_whole()]
    return orders + ([_channels()] if len(scene.array) < 16 else [])


def _sz3(scene: Scene) -> list[Variant]:
    """SZ3 in absolute error mode: float and int32 input, the default (interpolation) and the Lorenzo predictors."""

    def encode(algorithm: int) -> FloatEncode:
        def run(array: Array, bound: float) -> bytes:
            config = szConfig(array.shape)
            config.errorBoundMode, config.absErrorBound = szErrorBoundMode.ABS, bound
            config.cmprAlgo = algorithm
            return bytes(sz.compress(array, config)[0])

        return run

    def decode(blob: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return np.asarray(sz.decompress(np.frombuffer(blob, np.uint8), dtype, shape)[0])

    algorithms = {"interpolation": szAlgorithm.INTERP_LORENZO, "lorenzo": szAlgorithm.LORENZO_REG}
    integral = scene.array.dtype.kind in "iu"
    views = _float_views(scene)
    cases = [(view, False) for view in views] + ([(views[0], True)] if integral else [])
    return [
        _float_variant(scene, view, encode(algorithm), decode, dtype, name, strict)
        for view, strict in cases
        for dtype in [_float_dtype(scene)] + (["int32"] if integral else [])
        for name, algorithm in algorithms.items()
    ]


def _zfp(scene: Scene) -> list[Variant]:
    """zfp in fixed accuracy mode (it keeps well inside its tolerance by design)."""

    def encode(array: Array, bound: float) -> bytes:
        return bytes(zfpy.compress_numpy(array, tolerance=bound))

    def decode(blob: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return np.asarray(zfpy.decompress_numpy(blob))

    return [_float_variant(scene, view, encode, decode, _float_dtype(scene)) for view in _float_views(scene)]


def _sperr(scene: Scene) -> list[Variant]:
    """SPERR with a point-wise error bound: cubes in 3-D, few bands also in 2-D, series folded into images.

    The native build in `imagecodecs`: 16 bytes smaller than what `numcodecs-wasm-sperr` makes, and three times as fast.
    """

    def encode(array: Array, bound: float) -> bytes:
        return bytes(imagecodecs.sperr_encode(array, level=bound, mode="pwe"))

    def decode(blob: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return imagecodecs.sperr_decode(blob, shape=shape, dtype=dtype)

    dtype = _float_dtype(scene)
    if scene.array.ndim == 3:
        views = [_whole()] + ([_channels()] if len(scene.array) < 16 else [])
    else:
        views = [_whole(), _folded(scene), _stacked(scene)]
    variants = [_float_variant(scene, view, encode, decode, dtype) for view in views]
    if scene.array.dtype.kind in "iu" and scene.array.ndim == 3:
        variants.append(_float_variant(scene, views[0], encode, decode, dtype, strict=True))
    return variants


# Lossless codecs behind a quantiser -----------------------------------------------------------------------------------

PartEncode = Callable[[Array], bytes]
PartDecode = Callable[[bytes, tuple[int, ...]], Array]


def _quantised(scene: Scene, views: Sequence[View], encode: PartEncode, decode: PartDecode) -> list[Variant]:
    """A lossless codec of unsigned integers on the bin numbers of a uniform quantiser."""
    native = scene.array.dtype

    def variant(view: View) -> Variant:
        shapes = [part.shape for part in view.split(scene.array)]

        def encode_all(array: Array, bound: float) -> bytes:
            return _pack([_with_offset(encode, part) for part in view.split(_bins(array, bound))])

        def decode_all(blob: bytes, bound: float) -> Array:
            blobs = _unpack(blob, len(shapes))
            parts = [
                decode(part[4:], shape).reshape(shape).astype(np.int64) + struct.unpack_from("<i", part)[0]
                for part, shape in zip(blobs, shapes, strict=True)
            ]
            return _centres(view.join(parts), bound, native)

        return Variant(label=view.label, encode=encode_all, decode=decode_all)

    return [variant(view) for view in views]


def _with_offset(encode: PartEncode, bins: Array) -> bytes:
    lowest = int(bins.min())
    return struct.pack("<i", lowest) + encode(_narrow(bins - lowest))


def _bins(array: Array, bound: float) -> Array:
    if array.dtype.kind in "iu":
        half = int(bound)
        return (array.astype(np.int64) + half) // (2 * half + 1)
    return np.rint(array.astype(np.float64) / (2 * bound)).astype(np.int64)


def _centres(bins: Array, bound: float, dtype: np.dtype[Any]) -> Array:
    if dtype.kind in "iu":
        centres = bins * (2 * int(bound) + 1)
        return np.asarray(np.clip(centres, np.iinfo(dtype).min, np.iinfo(dtype).max), dtype)
    return (bins * (2 * bound)).astype(dtype)


def _narrow(values: Array) -> Array:
    """Non-negative integers in the smallest of uint8, uint16 and uint32."""
    narrow: np.dtype[Any] = np.min_scalar_type(int(values.max()))
    return np.ascontiguousarray(values).astype(narrow)


def _images(scene: Scene, encode: Callable[[Array], bytes], decode: Callable[[bytes], Array]) -> list[Variant]:
    """A codec of images of up to 16 bits: one image per band, or all bands (channels, folded) in one image."""

    def encode_all(bins: Array) -> bytes:
        planes = [bins] if bins.itemsize < 4 else [(bins & 0xFFFF).astype(np.uint16), (bins >> 16).astype(np.uint16)]
        return bytes([len(planes)]) + _pack([bytes(encode(plane)) for plane in planes])

    def decode_all(blob: bytes, shape: tuple[int, ...]) -> Array:
        planes = [decode(part).astype(np.int64) for part in _unpack(blob[1:], blob[0])]
        return planes[0] if len(planes) == 1 else planes[0] + (planes[1] << 16)

    if scene.array.ndim == 3:
        return _quantised(scene, [_channels(), _stacked(scene)], encode_all, decode_all)
    folded = _folded(scene)
    per_channel = View(
        "folded-per-channel", lambda array: list(folded.split(array)[0]), lambda parts: folded.join([np.stack(parts)])
    )
    return _quantised(scene, [per_channel, _stacked(scene)], encode_all, decode_all)


def _jpegxl(scene: Scene) -> list[Variant]:
    """Lossless JPEG XL at effort 7."""

    def encode(plane: Array) -> bytes:
        return bytes(imagecodecs.jpegxl_encode(plane, lossless=True, effort=7, numthreads=1))

    return _images(scene, encode, imagecodecs.jpegxl_decode)


def _jpeg2000(scene: Scene) -> list[Variant]:
    """Lossless JPEG 2000 (reversible wavelet)."""

    def encode(plane: Array) -> bytes:
        return bytes(imagecodecs.jpeg2k_encode(plane, level=0, reversible=True, codecformat="j2k"))

    return _images(scene, encode, imagecodecs.jpeg2k_decode)


def _htj2k(scene: Scene) -> list[Variant]:
    """Lossless high-throughput JPEG 2000 (reversible wavelet)."""

    def encode(plane: Array) -> bytes:
        return bytes(imagecodecs.htj2k_encode(plane, reversible=True))

    return _images(scene, encode, imagecodecs.htj2k_decode)


def _pcodec(scene: Scene) -> list[Variant]:
    """pcodec with its automatic modes, on the whole array or per channel."""

    def encode(bins: Array) -> bytes:
        wide = bins.astype(np.uint16) if bins.itemsize == 1 else bins
        return bytes(standalone.simple_compress(wide.ravel(), ChunkConfig()))

    def decode(blob: bytes, shape: tuple[int, ...]) -> Array:
        decoded = standalone.simple_decompress(blob)
        return np.zeros(shape, np.uint16) if decoded is None else decoded

    return _quantised(scene, [_whole(), _channels()], encode, decode)


def _zstd(scene: Scene) -> list[Variant]:
    """Zstandard at level 19 on the narrowest unsigned integers."""

    def encode(bins: Array) -> bytes:
        return bytes([bins.itemsize]) + imagecodecs.zstd_encode(bins.tobytes(), level=19)

    def decode(blob: bytes, shape: tuple[int, ...]) -> Array:
        return np.frombuffer(imagecodecs.zstd_decode(blob[1:]), f"<u{blob[0]}")

    return _quantised(scene, [_whole(), _channels()], encode, decode)


def _blosc(scene: Scene) -> list[Variant]:
    """Blosc2 with bit shuffling and Zstandard at its highest level."""

    def encode(bins: Array) -> bytes:
        return bytes([bins.itemsize]) + imagecodecs.blosc2_encode(
            bins, level=9, compressor="zstd", shuffle="bitshuffle", typesize=bins.itemsize
        )

    def decode(blob: bytes, shape: tuple[int, ...]) -> Array:
        return np.frombuffer(imagecodecs.blosc2_decode(blob[1:]), f"<u{blob[0]}")

    return _quantised(scene, [_whole(), _channels()], encode, decode)


def _safeguards(scene: Scene) -> list[Variant]:
    """numcodecs-safeguards around a codec that stores nothing: what the bound itself costs there."""

    def encode(array: Array, bound: float) -> bytes:
        return bytes(_safeguarded(bound).encode(array))

    def decode(blob: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        out = np.empty(shape, dtype)
        _safeguarded(1.0).decode(blob, out=out)
        return out

    return [_float_variant(scene, _whole(), encode, decode, _float_dtype(scene))]


def _safeguarded(bound: float) -> SafeguardedCodec:
    return SafeguardedCodec(codec={"id": "zero"}, safeguards=[{"kind": "eb", "type": "abs", "eb": bound}])


def _ebcc(scene: Scene) -> list[Variant]:
    """EBCC: JPEG 2000 and a residual layer, for rasters of few bands (its WebAssembly build takes minutes for many)."""
    if scene.kind != "multispectral":
        return []

    def encode(array: Array, bound: float) -> bytes:
        return bytes(Ebcc(residual="absolute", error=bound, base_cr=30.0).encode(array))

    def decode(blob: bytes, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        codec = Ebcc(residual="absolute", error=1.0, base_cr=30.0)
        return np.asarray(codec.decode(np.frombuffer(blob, np.uint8))).reshape(shape)

    return [_float_variant(scene, _whole(), encode, decode, "float32")]


class _FlacLayout(NamedTuple):
    """How bin numbers stand in PCM samples: minus `centre`, shifted to the top of the container `dtype`."""

    subtype: str
    dtype: Literal["int16", "int32"]
    shift: int
    centre: int


_FLAC_LAYOUTS = {
    1: _FlacLayout("PCM_S8", "int16", 8, 1 << 7),
    2: _FlacLayout("PCM_16", "int16", 0, 1 << 15),
    4: _FlacLayout("PCM_24", "int32", 8, 0),
}
"""By bytes per bin number."""


def _flac(scene: Scene) -> list[Variant]:
    """FLAC at its highest level for time series: a file per channel, or one file for up to 8 channels."""
    if scene.kind != "timeseries":
        return []

    def encode(bins: Array) -> bytes:
        layout = _FLAC_LAYOUTS[bins.itemsize]
        samples = ((bins.astype(np.int64) - layout.centre) << layout.shift).astype(layout.dtype)
        target = io.BytesIO()
        soundfile.write(target, samples.T, 44100, layout.subtype, format="FLAC", compression_level=1.0)
        return bytes([bins.itemsize]) + target.getvalue()

    def decode(blob: bytes, shape: tuple[int, ...]) -> Array:
        layout = _FLAC_LAYOUTS[blob[0]]
        samples, _ = soundfile.read(io.BytesIO(blob[1:]), dtype=layout.dtype)
        return np.asarray(samples.T.astype(np.int64) >> layout.shift) + layout.centre

    views = [_channels()] + ([_whole()] if len(scene.array) <= 8 else [])
    return _quantised(scene, views, encode, decode)


PEERS: tuple[Codec, ...] = (
    Codec(name="SZ3", version=f"pysz {version('pysz')}", variants=_sz3),
    Codec(name="zfp", version=f"zfpy {version('zfpy')}", variants=_zfp),
    Codec(name="SPERR", version=f"SPERR {imagecodecs.sperr_version().split()[-1]}", variants=_sperr),
    Codec(name="quantise+JXL", version=imagecodecs.jpegxl_version(), variants=_jpegxl),
    Codec(name="quantise+pcodec", version=f"pcodec {version('pcodec')}", variants=_pcodec),
    Codec(name="quantise+FLAC", version=f"libsndfile {soundfile.__libsndfile_version__}", variants=_flac),
    Codec(name="quantise+zstd", version=imagecodecs.zstd_version(), variants=_zstd),
    Codec(name="quantise+blosc", version=imagecodecs.blosc2_version(), variants=_blosc),
    Codec(name="quantise+J2K", version=imagecodecs.jpeg2k_version(), variants=_jpeg2000),
    Codec(name="quantise+HTJ2K", version=imagecodecs.htj2k_version(), variants=_htj2k),
    Codec(name="safeguards", version=f"numcodecs-safeguards {version('numcodecs-safeguards')}", variants=_safeguards),
    Codec(name="EBCC", version=f"numcodecs-wasm-ebcc {version('numcodecs-wasm-ebcc')}", variants=_ebcc),
)
