"""Latents packed into images, as the published package packs them."""

from __future__ import annotations

import sys

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch is not installed: published models cannot run")
pillow = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

from xwalloc.errors import ConfigError, FormatError  # noqa: E402
from xwalloc.models.upstream import images  # noqa: E402

FILES = {
    "L": "rgb_latent_L.png",
    "RGB": "rgb_latent_RGB.webp",
    "CMYK": "rgb_latent_CMYK.tif",
}


def latents(shape, bits=8, seed=0):
    half = 1 << (bits - 1)
    return np.random.default_rng(seed).integers(-half, half, shape).astype(np.int16)


@pytest.mark.parametrize("mode", FILES)
def test_published_images(golden, mode):
    with np.load(golden / "entropy_coding" / "packed_pixels.npz") as arrays:
        pixels, latent = arrays[mode], arrays["latent"][0]
    assert np.array_equal(images.to_pixels(latent, 8, mode), pixels)
    image = images.to_image(latent, 8, mode)
    assert image.mode == mode
    assert np.array_equal(np.asarray(image), pixels)
    assert np.array_equal(images.from_image(image, 12, 8), latent)
    published = golden / "entropy_coding" / FILES[mode]
    assert np.array_equal(images.read(published, 12, 8), latent)
    with pillow.open(published) as opened:
        assert np.array_equal(images.from_image(opened, 12, 8), latent)


def test_published_series(golden, vectors):
    latent = vectors("codec1d_stereo_post")["latent"][0].numpy()
    path = golden / "entropy_coding" / "stereo_latent_RGB.webp"
    assert np.array_equal(images.read(path, 12, 8, length=82), latent)
    with pillow.open(path) as opened:
        assert np.array_equal(images.to_pixels(latent, 8, "RGB"), np.asarray(opened))


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "A.TIFF"])
@pytest.mark.parametrize(("shape", "bits"), [((12, 5, 7), 8), ((1, 1, 1), 2), ((13, 3, 2), 5), ((12, 300), 6)])
def test_what_is_written_is_read(tmp_path, name, shape, bits):
    latent = latents(shape, bits)
    images.write(tmp_path / name, latent, bits)
    length = shape[1] if len(shape) == 2 else None
    again = images.read(str(tmp_path / name), shape[0], bits, length=length)
    assert again.dtype == np.int16
    assert np.array_equal(again, latent)


@pytest.mark.parametrize("mode", FILES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 12, 13, 27, 48])
def test_any_number_of_channels(mode, channels):
    latent = latents((channels, 2, 3))
    assert np.array_equal(images.from_pixels(images.to_pixels(latent, 8, mode), channels, 8), latent)


def test_what_cannot_be_packed():
    for latent, bits, mode in (
        (latents((3, 2, 2)), 4, "L"),
        (latents((3, 2, 2)), 9, "L"),
        (latents((3, 2, 2)), 8, "P"),
        (latents((1, 3, 2, 2)), 8, "L"),
        (latents((3, 0, 2)), 8, "L"),
        (latents((3, 2, 2)).astype(float), 8, "L"),
    ):
        with pytest.raises(ConfigError, match="Expected"):
            images.to_pixels(latent, bits, mode)
    with pytest.raises(ConfigError, match=r"ends in \.png"):
        images.write("a.jpg", latents((1, 1, 1)), 8)


def test_images_that_hold_something_else(tmp_path):
    path = tmp_path / "a.png"
    images.write(path, latents((12, 4, 4)), 8)
    for channels, bits, length in ((30, 8, None), (12, 4, None), (12, 8, 7)):
        with pytest.raises(FormatError, match="Expected"):
            images.read(path, channels, bits, length=length)
    with pytest.raises(ConfigError, match="positive"):
        images.read(path, 0, 8)
    data = path.read_bytes()
    for cut in range(0, data.index(b"IDAT") + 20, 11):
        path.write_bytes(data[:cut])
        with pytest.raises(FormatError, match="image"):
            images.read(path, 12, 8)
    pillow.new("RGB", (4, 4)).save(path)
    with pytest.raises(FormatError, match="mode L"):
        images.read(path, 1, 8)
    with pytest.raises(FormatError, match="mode"):
        images.from_image(pillow.new("P", (4, 4)), 1, 8)
    with pytest.raises(ConfigError, match="no"):
        images.read(tmp_path / "none.png", 1, 8)


def test_images_beyond_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 100)
    images.write(tmp_path / "a.png", latents((1, 20, 20)), 8)
    with pytest.raises(FormatError, match="at most 100 pixels"):
        images.read(tmp_path / "a.png", 1, 8)


def test_without_pillow(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ConfigError, match=r"xwalloc\[images\]"):
        images.to_image(latents((1, 1, 1)), 8)
