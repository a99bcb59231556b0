"""The published architectures, trained here: a short, stated budget of one core, on the data that others get too.

The encoder starts from the closed form (principal components of the wavelet packets, each as wide as the bottleneck
wants it), which the published training does not have: in minutes, a random one gets nowhere. The budget counts CPU
seconds of the process, so that a busy machine does not take any of it away. The linear architecture needs no training:
its decoder is the least-squares one.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xwalloc.codec.chunk import ChunkCodec
from xwalloc.codec.config import CodecConfig
from xwalloc.models.upstream import Architecture, Codec, images
from xwalloc.models.upstream.bottleneck import scale

__all__ = ["Trained", "closed_form", "train"]

Array = NDArray[Any]

ENDINGS = (".png", ".webp", ".tif")
WARM_UP = 0.05
"""Share of the budget in which the learning rate rises."""

FIRST = 64
"""Pieces that the closed form sees."""

RANGE_BYTES = 8
"""What a scene stores besides its latents: range of the samples, two float32."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """A trained model of a published architecture, its weights rounded to float16.

    Parameters
    ----------
    model
        The module, for inference.
    nbytes
        What a reader of latents needs: the decoder's weights, two bytes each.
    steps, cpu_seconds
        What the training came to.
    loss
        Mean squared error of training in the last tenth of the steps, in squares of the range of the samples.
    """

    model: Codec
    nbytes: int
    steps: int
    cpu_seconds: float
    loss: float

    def code(self, scene: Array) -> tuple[dict[str, int], NDArray[np.float64]]:
        """Bytes of a scene (channel, y, x) by container, and the scene that is decoded from them."""
        low, high = float(scene.min()), float(scene.max())
        (latents,) = self.model.encode(_scaled(scene, low, high)[None]).numpy()
        bits, sizes = self.model.architecture.latent_bits, {}
        with tempfile.TemporaryDirectory() as folder:
            for ending in ENDINGS:
                path = Path(folder) / f"latents{ending}"
                images.write(path, latents, bits)
                sizes[ending[1:]] = path.stat().st_size + RANGE_BYTES
                assert np.array_equal(images.read(path, len(latents), bits), latents)
        codec = ChunkCodec(CodecConfig(channel_axis=0, signal_axes=(1, 2), lossless=True))
        frame = codec.encode(latents)
        sizes["xwalloc lossless"] = len(frame) + RANGE_BYTES
        restored = torch.from_numpy(np.ascontiguousarray(codec.decode(frame)))
        decoded = self.model.decode(restored[None])[0].numpy().astype(np.float64)
        return sizes, (decoded + 0.5) * (high - low) + low


def _scaled(scene: Array, low: float, high: float) -> torch.Tensor:
    """Samples from -0.5 to 0.5."""
    return torch.from_numpy(((scene.astype(np.float64) - low) / (high - low) - 0.5).astype(np.float32))


class _Pieces:
    """Square pieces of scenes, flipped and transposed at random, every scene as often as any other."""

    def __init__(self, scenes: Sequence[Array], side: int, seed: int) -> None:
        self.scenes = [_scaled(scene, float(scene.min()), float(scene.max())) for scene in scenes]
        self.side, self.rng = side, np.random.default_rng(seed)

    def draw(self, count: int) -> torch.Tensor:
        """Of shape (count, channel, side, side)."""
        found = []
        for _ in range(count):
            scene = self.scenes[self.rng.integers(len(self.scenes))]
            y, x = (int(self.rng.integers(0, n - self.side + 1)) for n in scene.shape[1:])
            piece = scene[:, y : y + self.side, x : x + self.side]
            piece = piece.flip(-1) if self.rng.integers(2) else piece
            found.append(piece.transpose(1, 2) if self.rng.integers(2) else piece)
        return torch.stack(found)


def train(
    architecture: Architecture, scenes: Sequence[Array], cpu_seconds: float, *, side: int, batch: int = 4,
    rate: float = 3e-3, seed: int = 0,
) -> Trained:  # fmt: skip
    """Train a network on scenes (channel, y, x), each scaled by its own range.

    Parameters
    ----------
    architecture
        What to train.
    scenes
        What to train on.
    cpu_seconds
        When to stop, by the clock of this process.
    side, batch
        Pixels along a side of a piece, and pieces of a step.
    rate
        Largest learning rate of Adam; it rises for a twentieth of the budget and falls to zero along a cosine. Of 1e-3,
        3e-3 and 5e-3, 3e-3 was best on photographs after a minute.
    seed
        Of weights and pieces.
    """
    begin = time.process_time()
    torch.manual_seed(seed)
    pieces = _Pieces(scenes, side, seed)
    model = architecture.build()
    means = _start(model, pieces.draw(FIRST))[1]
    with torch.no_grad():
        model.decoder[1].conv_out.bias.copy_(means)
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    losses: list[float] = []
    while (done := (time.process_time() - begin) / cpu_seconds) < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, done / WARM_UP + 1e-3) * 0.5 * (1 + math.cos(math.pi * done))
        _, loss, _ = model(pieces.draw(batch))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
    return _finished(model, len(losses), time.process_time() - begin, losses[-max(1, len(losses) // 10) :])


@torch.no_grad()
def closed_form(architecture: Architecture, scenes: Sequence[Array], *, side: int, seed: int = 0) -> Trained:
    """The linear architecture ("LinearCodec2D"): principal components, and the least-squares decoder of rounded ones."""
    begin = time.process_time()
    pieces = _Pieces(scenes, side, seed).draw(FIRST)
    model = architecture.build().eval()
    coefficients, means = _start(model, pieces)
    latents = model.decoder[0](torch.round(model.encoder[1](model.encoder[0](model.wt(pieces)))))
    seen = latents.movedim(1, 0).flatten(1).double()
    weights = torch.linalg.lstsq(seen.T, coefficients.T).solution.T
    model.decoder[1].weight.copy_(weights[:, :, None, None])
    model.decoder[1].bias.copy_(means)
    loss = float(model(pieces)[1])
    return _finished(model, 0, time.process_time() - begin, [loss])


@torch.no_grad()
def _start(model: Codec, pieces: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Give a model principal components as its encoder; returns centred coefficients (coefficient, n) and means."""
    a = model.architecture
    coefficients = model.wt(pieces).movedim(1, 0).flatten(1).double()
    means = coefficients.mean(dim=1)
    centred = coefficients - means[:, None]
    vectors, values, _ = torch.svd_lowrank(centred, min(len(centred), a.latent_dim + 16), niter=6)
    deviations = values[: a.latent_dim] / math.sqrt(centred.shape[1])
    rows = vectors[:, : a.latent_dim].T * (scale(a.latent_bits) / deviations.clamp(min=1e-9))[:, None]
    linear = model.encoder[0]
    linear.weight.copy_(rows[:, :, None, None])
    linear.bias.copy_(-(rows @ means))
    return centred, means


@torch.no_grad()
def _finished(model: Codec, steps: int, spent: float, losses: Sequence[float]) -> Trained:
    """A model for inference."""
    model.eval()
    for weight in model.parameters():
        weight.copy_(weight.half().float())
    count = sum(weight.numel() for weight in model.decoder.parameters())
    return Trained(model=model, nbytes=2 * count, steps=steps, cpu_seconds=spent, loss=float(np.mean(losses)))
