"""The published architectures, trained here: for a short, stated time, on the data that our network gets too.

The encoder starts from the closed form (principal components of the wavelet packets, each as wide as the bottleneck
wants it), which the published training does not have: in minutes, a random one gets nowhere. The decoder starts at
random, as published, but for the means in its last bias. Of the states that a training passes, the one with the least
error on validation scenes, with rounded latents, is kept. The linear architecture needs no training: its decoder is the
least-squares one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.decoders.plan import Array
from xwalloc.models.upstream import Architecture, Codec
from xwalloc.models.upstream.bottleneck import scale

__all__ = ["RATES", "Trained", "closed_form", "train", "tuned"]

RATES = (2e-4, 6e-4, 2e-3)
"""Largest learning rates that are tried."""

PROBE = 1 / 6
"""Part of a training's time that each of them is tried for; this comes on top."""

WARM_UP = 0.05
"""Part of the time in which the learning rate rises; then it falls to zero along a cosine."""

VALIDATIONS = 10
FIRST = 64
"""Pieces that the closed form sees."""

BATCH = {"cuda": 32, "cpu": 4}
"""Pieces of a step."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """A trained model of a published architecture, its weights rounded to float16.

    Parameters
    ----------
    model
        The module, for inference.
    seconds, steps
        What the training came to.
    errors
        Mean squared error of the validation scenes at every validation, in squares of the range of the samples.
    """

    model: Codec
    seconds: float
    steps: int
    errors: tuple[float, ...]

    @property
    def nbytes(self) -> int:
        """What a reader of latents needs: the decoder's weights, two bytes each."""
        return 2 * sum(weight.numel() for weight in self.model.decoder.parameters())

    def code(self, scene: Array) -> tuple[Array, Array]:
        """Latents (latent, y, x) int16 of a scene (channel, y, x), and what they are decoded to, in its dtype."""
        low, high = float(scene.min()), float(scene.max())
        device = next(self.model.parameters()).device
        latents = self.model.encode(_scaled(scene, low, high)[None].to(device))
        decoded = self.model.decode(latents)[0].cpu().numpy().astype(np.float64)
        kind = np.iinfo(scene.dtype)
        samples = np.rint((decoded + 0.5) * (high - low) + low).clip(kind.min, kind.max).astype(scene.dtype)
        return latents[0].cpu().numpy(), samples


def tuned(
    architecture: Architecture, training: Sequence[Array], validation: Sequence[Array], seconds: float, *, side: int,
    device: str,
) -> tuple[float, dict[float, float]]:  # fmt: skip
    """The learning rate with the least validation error in short trainings, and these errors by learning rate."""

    def error(rate: float, share: float) -> float:
        return min(
            train(architecture, training, validation, share * seconds, rate=rate, side=side, device=device).errors
        )

    error(RATES[0], 0.01)  # the first steps on a device load its kernels
    errors = {rate: error(rate, PROBE) for rate in RATES}
    return min(errors, key=lambda rate: errors[rate]), errors


def train(
    architecture: Architecture, training: Sequence[Array], validation: Sequence[Array], seconds: float, *, rate: float,
    side: int, device: str, seed: int = 0,
) -> Trained:  # fmt: skip
    """Train a network on scenes (channel, y, x), each scaled by its own range.

    Parameters
    ----------
    architecture
        What to train.
    training, validation
        Scenes to learn from, and to choose a state by.
    seconds
        When to stop.
    rate
        Largest learning rate of Adam.
    side
        Pixels along a side of a piece.
    device
        Of torch. On CUDA, the decoder network computes in bfloat16 while it trains.
    seed
        Of weights and pieces.
    """
    begin = time.monotonic()
    torch.manual_seed(seed)
    cuda = torch.device(device).type == "cuda"
    torch.backends.cudnn.benchmark = True  # pieces are of one shape
    pieces = _Pieces(training, side, seed, device)
    held = [_scaled(scene, float(scene.min()), float(scene.max()))[None].to(device) for scene in validation]
    model = architecture.build(device)
    means = _start(model, pieces.draw(FIRST))[1]
    with torch.no_grad():
        model.decoder[1].conv_out.bias.copy_(means)
    model.decoder.to(memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(model.parameters(), lr=rate, fused=cuda)
    best: dict[str, Tensor] = {}
    errors: list[float] = []
    steps, done = 0, 0.0
    while done < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, done / WARM_UP + 1e-3) * 0.5 * (1 + math.cos(math.pi * done))
        batch = pieces.draw(BATCH["cuda" if cuda else "cpu"])
        latents = model.encoder(model.wt(batch))
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=cuda):
            decoded = model.decoder[1](model.decoder[0](latents))
        loss = F.mse_loss(model.iwt(decoded.float()), batch)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        steps += 1
        done = (time.monotonic() - begin) / seconds
        if done >= (len(errors) + 1) / VALIDATIONS:
            errors.append(_error(model, held))
            if errors[-1] == min(errors):
                best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            done = (time.monotonic() - begin) / seconds
    model.load_state_dict(best)
    return _finished(model, steps, time.monotonic() - begin, errors)


@torch.no_grad()
def closed_form(
    architecture: Architecture, training: Sequence[Array], validation: Sequence[Array], *, side: int, device: str,
    seed: int = 0,
) -> Trained:  # fmt: skip
    """The linear architecture: principal components, and the least-squares decoder of rounded ones."""
    begin = time.monotonic()
    torch.manual_seed(seed)
    pieces = _Pieces(training, side, seed, device).draw(FIRST)
    model = architecture.build(device).eval()
    coefficients, means = _start(model, pieces)
    latents = model.decoder[0](torch.round(model.encoder[1](model.encoder[0](model.wt(pieces)))))
    seen = latents.movedim(1, 0).flatten(1).double()
    weights = coefficients @ seen.T @ torch.linalg.pinv(seen @ seen.T, hermitian=True)
    model.decoder[1].weight.copy_(weights[:, :, None, None])
    model.decoder[1].bias.copy_(means)
    held = [_scaled(scene, float(scene.min()), float(scene.max()))[None].to(device) for scene in validation]
    return _finished(model, 0, time.monotonic() - begin, [_error(model, held)])


class _Pieces:
    """Square pieces of scenes, flipped and transposed at random, every scene as often as any other."""

    def __init__(self, scenes: Sequence[Array], side: int, seed: int, device: str) -> None:
        self.scenes = [_scaled(scene, float(scene.min()), float(scene.max())).to(device) for scene in scenes]
        self.side, self.rng = side, np.random.default_rng(seed)

    def draw(self, count: int) -> Tensor:
        """Of shape (count, channel, side, side)."""
        found = []
        for _ in range(count):
            scene = self.scenes[self.rng.integers(len(self.scenes))]
            y, x = (int(self.rng.integers(0, n - self.side + 1)) for n in scene.shape[1:])
            found.append(scene[:, y : y + self.side, x : x + self.side])
        pieces = torch.stack(found)
        pieces = pieces.flip(-1) if self.rng.integers(2) else pieces
        return (pieces.transpose(2, 3) if self.rng.integers(2) else pieces).contiguous()


def _scaled(scene: Array, low: float, high: float) -> Tensor:
    """Samples from -0.5 to 0.5."""
    return torch.from_numpy(((scene.astype(np.float64) - low) / (high - low) - 0.5).astype(np.float32))


@torch.no_grad()
def _error(model: Codec, scenes: Sequence[Tensor]) -> float:
    """Mean squared error with rounded latents."""
    model.eval()
    squares = [F.mse_loss(model.decode(model.encode(scene)), scene) for scene in scenes]
    model.train()
    return float(torch.stack(squares).mean())


@torch.no_grad()
def _start(model: Codec, pieces: Tensor) -> tuple[Tensor, Tensor]:
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
def _finished(model: Codec, steps: int, spent: float, errors: Sequence[float]) -> Trained:
    """A model for inference."""
    model.eval()
    for weight in model.parameters():
        weight.copy_(weight.half().float())
    return Trained(model=model, steps=steps, seconds=spent, errors=tuple(errors))
