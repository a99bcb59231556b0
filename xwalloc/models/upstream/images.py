"""Latents as images: the published containers PNG (one plane), WebP (RGB) and TIFF (CMYK), all of them lossless.

Latent channels become tiles: an image mode of C planes holds N = C n^2 channels as n x n tiles in each plane; channel
c n^2 + n i + j is the tile in row i and column j of plane c. Channels that lack to such an N are zeros. A byte is the
latent plus 2^(bits-1). Series are padded with zeros to a multiple of 128 and laid out in rows of 128 first.

Pillow (the extra `xwalloc[images]`) is imported when it is needed.

References
----------
.. [1] Jacobellis and Yadwadkar, "Learned compression for compressed learning", arXiv 2412.09405 (2024), section 3.
"""

from __future__ import annotations

import importlib
import math
import warnings
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from xwalloc.errors import ConfigError, FormatError, LimitError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Mode", "from_image", "from_pixels", "read", "to_image", "to_pixels", "write"]

Mode = Literal["L", "RGB", "CMYK"]

PLANES: dict[str, int] = {"L": 1, "RGB": 3, "CMYK": 4}
FORMATS: dict[str, tuple[str, Mode, dict[str, Any]]] = {
    ".png": ("PNG", "L", {"optimize": True}),
    ".webp": ("WEBP", "RGB", {"lossless": True, "quality": 100, "method": 6}),
    ".tif": ("TIFF", "CMYK", {"compression": "tiff_adobe_deflate"}),
    ".tiff": ("TIFF", "CMYK", {"compression": "tiff_adobe_deflate"}),
}
"""Container, mode and settings by the ending of a file's name."""

ROW = 128
MAX_BITS = 8
MAX_PIXELS = 1 << 28


def to_pixels(latent: NDArray[np.integer[Any]], bits: int, mode: Mode) -> NDArray[np.uint8]:
    """Pack the latents of one signal into pixels.

    Parameters
    ----------
    latent : (channel, time) or (channel, y, x) integers
        Within -2^(bits-1) to 2^(bits-1) - 1. One item of what a model's `encode` returns.
    bits
        Bits of a latent, 2 to 8.
    mode
        Planes of the image, as Pillow calls them.

    Returns
    -------
    pixels : (height, width) or (height, width, plane) uint8

    Raises
    ------
    ConfigError
        If the latents are not of that kind, or out of range.

    Examples
    --------
    >>> to_pixels(np.arange(-2, 2).reshape(4, 1, 1), 3, "L").tolist()
    [[2, 3], [4, 5]]
    """
    _check(bits, mode)
    latent = np.asarray(latent)
    if latent.ndim not in (2, 3) or latent.size == 0 or latent.dtype.kind not in "iu":
        raise ConfigError(
            "Expected integer latents (channel, time) or (channel, y, x) of one signal. Got "
            f"{latent.dtype} of shape {latent.shape}. Take one item of a batch, as a NumPy array."
        )
    half = 1 << (bits - 1)
    if latent.min() < -half or latent.max() >= half:
        raise ConfigError(
            f"Expected latents of {bits} bits, from {-half} to {half - 1}. Got {latent.min()} to {latent.max()}. "
            "Give the latent_bits of the model that they are from."
        )
    values = latent.astype(np.int64)
    if values.ndim == 2:
        values = np.pad(values, ((0, 0), (0, -values.shape[1] % ROW))).reshape(len(values), -1, ROW)
    planes = PLANES[mode]
    side = _tiles(len(values), planes)
    values = np.pad(values, ((0, planes * side * side - len(values)), (0, 0), (0, 0)))
    height, width = values.shape[1:]
    tiles = values.reshape(planes, side, side, height, width).transpose(1, 3, 2, 4, 0)
    pixels = (tiles.reshape(side * height, side * width, planes) + half).astype(np.uint8)
    return pixels[..., 0] if planes == 1 else pixels


def from_pixels(pixels: NDArray[np.uint8], channels: int, bits: int, *, length: int | None = None) -> NDArray[np.int16]:
    """Unpack what `to_pixels` packed.

    Parameters
    ----------
    pixels : (height, width) or (height, width, plane) uint8
        One, three or four planes.
    channels
        Latent channels (the padding is dropped).
    bits
        Bits of a latent, 2 to 8.
    length
        Positions of a series; None for an image.

    Returns
    -------
    latent : (channel, time) or (channel, y, x) int16

    Raises
    ------
    FormatError
        If the pixels cannot be such latents.
    """
    pixels = np.asarray(pixels)
    planes = 1 if pixels.ndim == 2 else pixels.shape[-1]
    if pixels.ndim not in (2, 3) or pixels.dtype != np.uint8 or planes not in PLANES.values():
        raise FormatError(f"Expected an image of 1, 3 or 4 planes of bytes. Got {pixels.dtype} {pixels.shape}.")
    mode = next(name for name in get_args(Mode) if PLANES[name] == planes)
    _check(bits, mode)
    if channels < 1 or (length is not None and length < 1):
        raise ConfigError(f"Expected channels and length to be positive. Got {channels!r} and {length!r}.")
    side = _tiles(channels, planes)
    height, width = pixels.shape[0] // side, pixels.shape[1] // side
    if pixels.shape[:2] != (side * height, side * width) or not height or not width:
        raise FormatError(
            f"Expected {side} x {side} tiles of equal size, for {channels} channels in mode {mode}. Got an image of "
            f"{pixels.shape[1]} x {pixels.shape[0]} pixels. Give the channels of the model that wrote it."
        )
    if pixels.max() >> bits:
        raise FormatError(f"Expected bytes of {bits} bits. Got {pixels.max()}. Give the latent_bits of the model.")
    tiles = pixels.reshape(side, height, side, width, planes).transpose(4, 0, 2, 1, 3)
    latent = tiles.reshape(-1, height, width)[:channels].astype(np.int16) - np.int16(1 << (bits - 1))
    if length is None:
        return latent
    if width != ROW or not 0 <= height * ROW - length < ROW:
        raise FormatError(
            f"Expected {-(-length // ROW)} rows of {ROW} positions, for a series of {length}. Got {height} of {width}."
        )
    return latent.reshape(channels, -1)[:, :length]


def to_image(latent: NDArray[np.integer[Any]], bits: int, mode: Mode = "L") -> Image:
    """`to_pixels`, as a Pillow image of mode `mode`; the same parameters and errors."""
    pixels = to_pixels(latent, bits, mode)
    image: Image = _pillow().frombytes(mode, pixels.shape[1::-1], pixels.tobytes())
    return image


def from_image(image: Image, channels: int, bits: int, *, length: int | None = None) -> NDArray[np.int16]:
    """`from_pixels` of a Pillow image of mode L, RGB or CMYK; the same parameters and errors."""
    if image.mode not in PLANES:
        raise FormatError(f"Expected an image of mode {', '.join(PLANES)}. Got {image.mode}.")
    return from_pixels(np.asarray(image), channels, bits, length=length)


def write(path: str | Path, latent: NDArray[np.integer[Any]], bits: int) -> None:
    """Write the latents of one signal as .png (mode L), .webp (RGB, lossless) or .tif (CMYK, deflate).

    Parameters
    ----------
    path
        Its ending decides.
    latent, bits
        As for `to_pixels`.

    Raises
    ------
    ConfigError
        If the ending is another, the latents do not fit, or the file cannot be written.
    """
    container, mode, settings = _format(Path(path))
    image = to_image(latent, bits, mode)
    try:
        image.save(path, container, **settings)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"Expected latents and a path that a {container} image can be written with. Got {error}. WebP holds at "
            "most 16383 pixels along each axis: take .png or .tif for larger ones."
        ) from error


def read(path: str | Path, channels: int, bits: int, *, length: int | None = None) -> NDArray[np.int16]:
    """Read the latents that `write`, or the published package, wrote; parameters as for `from_pixels`.

    Raises
    ------
    ConfigError
        If the file is missing, or its name ends otherwise.
    FormatError
        If it is not an image of such latents.
    LimitError
        If it has more than 2^28 pixels.
    """
    pillow = _pillow()
    path = Path(path)
    container, mode, _ = _format(path)
    if not path.is_file():
        raise ConfigError(f"Expected an image file. There is none at {path}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pillow.open(path, formats=[container]) as image:
                if math.prod(image.size) > MAX_PIXELS:
                    raise LimitError(f"Expected an image of at most {MAX_PIXELS} pixels. {path} has {image.size}.")
                if image.mode != mode:
                    raise FormatError(f"Expected an image of mode {mode} in {path}. Got {image.mode}.")
                return from_image(image, channels, bits, length=length)
    except (FormatError, ConfigError):
        raise
    except Exception as error:  # whatever Pillow makes of damaged bytes
        raise FormatError(f"Expected {path} to be a {container} image. Got {error}. Fetch it again.") from error


def _pillow() -> ModuleType:
    try:
        return importlib.import_module("PIL.Image")
    except ModuleNotFoundError as error:
        raise ConfigError("Images need Pillow. Install it: pip install 'xwalloc[images]'.") from error


def _format(path: Path) -> tuple[str, Mode, dict[str, Any]]:
    try:
        return FORMATS[path.suffix.lower()]
    except KeyError:
        raise ConfigError(f"Expected a path that ends in {', '.join(FORMATS)}. Got {path.name!r}.") from None


def _tiles(channels: int, planes: int) -> int:
    """Side n of the n x n tiles of each plane."""
    return math.isqrt(-(-channels // planes) - 1) + 1


def _check(bits: int, mode: str) -> None:
    if mode not in PLANES:
        raise ConfigError(f"Expected mode to be one of {', '.join(PLANES)}. Got {mode!r}.")
    if not 2 <= bits <= MAX_BITS:
        raise ConfigError(f"Expected 2 to {MAX_BITS} bits, for a latent to fit a byte. Got {bits!r}.")
