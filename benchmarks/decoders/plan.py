"""What is compared on which data: settings alone, so that a machine that trains needs none of what reads scenes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["FITTED", "LEVELS", "NETWORKS", "PLANS", "Array", "Ours", "Plan", "Published", "Purpose"]

Array = NDArray[Any]
Purpose = Literal["unseen", "archive"]
"""Whether models are made of other scenes, or of those that are stored."""

LEVELS = 4
"""Of the dyadic tree."""


FITTED: dict[Purpose, str] = {"unseen": "fitted", "archive": "fitted, archive"}
"""Decoders whose chunks share a fitted model."""


@dataclass(frozen=True)
class Ours:
    """A network of xwalloc: name of the decoder, what it learns on, outputs of its hidden layers."""

    decoder: str
    purpose: Purpose
    widths: tuple[int, ...] = (32,)


NETWORKS = (Ours("network", "unseen"), Ours("wide network", "unseen", (96, 96)), Ours("network, archive", "archive"))


@dataclass(frozen=True)
class Published:
    """A network of the published architecture: latents of a patch, bits of each, and width of the decoder.

    768 is the width of the published models of photographs; 0 stands for the linear architecture.
    """

    latents: int
    bits: int = 8
    width: int = 768

    @property
    def decoder(self) -> str:
        """Name of the decoder."""
        return "published" if self.width else "published, linear"

    @property
    def setting(self) -> str:
        """What it is called among the settings of the decoder."""
        return f"{self.latents} latents, {self.bits} bits" + (f", width {self.width}" if self.width else "")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings for one data set.

    Parameters
    ----------
    measure
        "PSNR", of 255, or "SNR", of the variance of a scene.
    steps
        Quanta of chunks with a model of their own.
    targets
        dB of variance over error that models are fitted for; there is one for each.
    published
        Published architectures to train, each a model of its own.
    levels, piece
        Of the published architectures: J, and pixels along a side of a piece to train on.
    peers
        Settings by codec.
    """

    measure: Literal["PSNR", "SNR"]
    steps: tuple[float, ...]
    targets: tuple[float, ...]
    published: tuple[Published, ...]
    levels: int
    piece: int
    peers: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def decibels(self, scene: Array, decoded: Array) -> float:
        """Distortion of a decoded scene."""
        error = float(np.mean(np.square(scene.astype(np.float64) - decoded)))
        signal = 255.0**2 if self.measure == "PSNR" else float(scene.astype(np.float64).var())
        return 10 * float(np.log10(signal / error))


PSNR = (22.0, 25.0, 28.0, 31.0, 34.0, 37.0, 40.0)
CUBE = (26.0, 30.0, 35.0, 40.0, 45.0, 50.0)
BANDS = (26.0, 30.0, 34.0, 38.0, 42.0, 46.0, 50.0)

LINEAR = (Published(12, width=0), Published(48, width=0), Published(48, bits=4, width=0))

PLANS: dict[str, Plan] = {
    "photographs": Plan(
        measure="PSNR", steps=(4, 6, 10, 16, 24, 40, 64, 100, 160, 250, 400, 640), targets=(11, 15, 19, 23, 27),
        published=(
            Published(3), Published(12), Published(48), Published(48, bits=4), Published(12, width=128),
            *(Published(n, bits=b, width=0) for n, b in ((3, 8), (12, 8), (48, 8), (12, 4), (48, 4), (96, 3))),
        ),
        levels=3, piece=128,
        peers={"JPEG 2000": PSNR, "KLT + JPEG 2000": PSNR, "JPEG XL": (10, 6, 4, 2.5, 1.5, 1, 0.6),
               "SPERR": (15, 18, *PSNR)},
    ),
    "los-angeles": Plan(
        measure="SNR", steps=(16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192), targets=(20, 25, 30, 35, 40),
        published=(Published(12), Published(48, bits=5), *LINEAR),
        levels=2, piece=64,
        peers={"JPEG 2000": CUBE, "KLT + JPEG 2000": CUBE, "JPEG XL": (12, 6, 3, 1, 0.4), "SPERR": CUBE,
               "quantise + JPEG XL": (8, 16, 32, 64, 128, 256, 512)},
    ),
    "sentinel2": Plan(
        measure="SNR", steps=(16, 24, 48, 96, 192, 384, 768, 1536, 3072), targets=(14, 19, 24, 29, 34),
        published=(Published(12), Published(48, bits=5), *LINEAR),
        levels=3, piece=128,
        peers={"JPEG 2000": BANDS, "KLT + JPEG 2000": BANDS, "JPEG XL": (10, 5, 2.5, 1, 0.4, 0.1), "SPERR": BANDS,
               "quantise + JPEG XL": (8, 16, 32, 64, 128, 256)},
    ),
}  # fmt: skip
