"""What a published model makes of one chunk: for those who have just imported it."""

from __future__ import annotations

import importlib
import os
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.codec.chunk import ChunkCodec
from xwalloc.codec.config import CodecConfig
from xwalloc.codec.inspect import inspect
from xwalloc.errors import ConfigError
from xwalloc.models.model import Model

__all__ = ["made", "picture", "rows"]

SIZES = {1: 1 << 16, 2: 512}
"""Samples along a signal axis, by their number."""

BOUND = 1 / 32
"""The bound that is tried, by the range of the samples."""

BYTE = (0.0, 255.0)


def made(model: Model, size: int | None = None) -> NDArray[Any]:
    """A chunk (channel, *signal) of waves, an edge and a little noise; always the same.

    Parameters
    ----------
    model
        A published model: its channels, signal axes and range are used. Without a range, images are uint8 and series
        int16; with one, float32.
    size
        Samples along every signal axis; by default 512, and 65,536 of a series.
    """
    d, channels = model.dimensions, model.channels
    n = size or SIZES[d]
    axes = np.meshgrid(*[np.arange(n) / 64] * d, indexing="ij", sparse=True)
    rng = np.random.default_rng(0)
    distance = sum((axis - n / 160) ** 2 for axis in axes)
    fields = [np.sin(axes[0]), np.cos(axes[-1] * 2.3 + axes[0] / 2), np.tanh(4 * (n / 256 - np.sqrt(distance)))]
    mixing = 0.25 * rng.uniform(-1, 1, (channels, len(fields))) + 0.1
    pattern = np.stack([sum(weight * field for weight, field in zip(row, fields, strict=True)) for row in mixing])
    chunk = np.clip(0.5 + 0.6 * pattern + 0.01 * rng.standard_normal(pattern.shape), 0, 1)
    limits = model.published.limits
    if limits is not None and limits != BYTE:
        found = (limits[0] + (limits[1] - limits[0]) * chunk).astype(np.float32)
    elif d == 1 and limits is None:
        found = np.rint((chunk - 0.5) * 65534).astype(np.int16)
    else:
        found = np.rint(chunk * 255).astype(np.uint8)
    return np.asarray(found)


def picture(model: Model, path: str | os.PathLike[str], size: int | None = None) -> NDArray[Any]:
    """The middle of a picture as a chunk (channel, y, x) of uint8, or of float32 in the range of the model.

    Raises
    ------
    ConfigError
        If the model is not one of images with one or three channels, Pillow is not installed, or there is no such
        picture.
    """
    if model.dimensions != 2 or model.channels not in (1, 3):
        raise ConfigError(
            f"Expected a model of images with 1 or 3 channels to try on a picture. Got one of {model.channels} "
            f"channels and {model.dimensions} signal axes. Leave out the picture: a chunk is made then."
        )
    try:
        images = importlib.import_module("PIL.Image")
    except ModuleNotFoundError as error:
        raise ConfigError("Reading pictures needs Pillow. Install it: pip install 'xwalloc[images]'.") from error
    try:
        with images.open(path) as image:
            pixels = np.array(image.convert("RGB" if model.channels == 3 else "L"))
    except OSError as error:
        raise ConfigError(f"Expected a picture at {path}. Got {error}.") from error
    side = size or SIZES[2]
    middle = [slice(max(0, (n - side) // 2), max(0, (n - side) // 2) + side) for n in pixels.shape[:2]]
    chunk = np.ascontiguousarray(np.moveaxis(np.atleast_3d(pixels), -1, 0)[:, *middle])
    low, high = model.published.limits or BYTE
    return chunk if (low, high) == BYTE else (low + (high - low) / 255 * chunk).astype("f4")


def rows(model: Model, chunk: NDArray[Any], max_error: float | None = None) -> list[tuple[str, str]]:
    """Round trips of a chunk at the model's own rate and with a bound, as label and text.

    Parameters
    ----------
    model
        A published model.
    chunk : (channel, *signal)
        What is encoded and decoded.
    max_error
        The bound; by default 1/32 of the range of the samples.
    """
    edges = float(chunk.min()), float(chunk.max())
    peak = model.published.scaling(chunk.dtype, edges)[1] or 1.0
    _measured(model, chunk[(slice(None), *(slice(32),) * (chunk.ndim - 1))], peak, {"step": 1})  # compiles kernels
    bound = peak * BOUND if max_error is None else max_error
    return [
        ("own rate", _measured(model, chunk, peak, {"step": 1})),
        (f"max_error {bound:.4g}", _measured(model, chunk, peak, {"max_error": bound})),
    ]


def _measured(model: Model, chunk: NDArray[Any], peak: float, quality: dict[str, float]) -> str:
    codec = ChunkCodec(CodecConfig(channel_axis=0, signal_axes=tuple(range(1, chunk.ndim)), model=model, **quality))  # type: ignore[arg-type]
    start = time.perf_counter()
    frame = codec.encode(chunk)
    middle = time.perf_counter()
    decoded = codec.decode(frame)
    end = time.perf_counter()
    error = np.abs(decoded.astype(np.float64) - chunk)
    rmse = float(np.sqrt(np.mean(error * error)))
    found = inspect(frame)
    psnr = f"PSNR {20 * np.log10(peak / rmse):.1f} dB" if rmse else "exact"
    return (
        f"{found.mode} mode, {found.nbytes} bytes, {found.bits_per_sample:.3f} bits per sample, {psnr}, largest error "
        f"{float(error.max()):.4g}, {middle - start:.2f} s to encode, {end - middle:.2f} s to decode"
    )
