"""Networks of learned mode, written from section 15 of docs/format.md and nothing else: NumPy in float64, no torch."""

from __future__ import annotations

from collections.abc import Callable
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["architecture_of", "output_of"]

Floats = NDArray[np.float64]
Tensors = dict[str, Floats]


def architecture_of(description: dict[str, Any]) -> tuple[str, int]:
    """Kind and number of latent channels (15.2)."""
    entries = description["architecture"]
    if entries.get("num_stages") is not None:
        return "ResidualCodec2D", entries["latent_dim"] * entries["num_stages"]
    if entries.get("Nd") is None:
        return "LinearCodec2D", entries["latent_dim"]
    one = "post_filter" in entries or "audio_length" in entries
    return "Codec1D" if one else "Codec2D", entries["latent_dim"]


def output_of(latents: NDArray[np.int64], description: dict[str, Any], tensors: Tensors) -> Floats:
    """x (channel, *signal) of the latents (L, *positions) of a batch item (15.3)."""
    entries = description["architecture"]
    kind, _ = architecture_of(description)
    y = normal_values(latents, entries["latent_bits"])
    if kind == "LinearCodec2D":
        coefficients = pointwise(y, tensors, "decoder.1")
    elif kind == "ResidualCodec2D":
        stages = np.split(y, entries["num_stages"])
        coefficients = np.sum([pointwise(stage, tensors, f"decoders.{i}") for i, stage in enumerate(stages)], axis=0)
    elif kind == "Codec2D":
        coefficients = Image(tensors).decode(y)
    else:
        coefficients = Series(tensors).decode(y)
    x = synthesised(coefficients, entries["channels"], entries["J"], tensors)
    if entries.get("post_filter"):
        x = convolved(x, tensors["post.weight"], 1) + tensors["post.bias"][:, None]
    return np.clip(x, -0.5, 0.5)


def normal_values(latents: NDArray[np.int64], bits: int) -> Floats:
    m, s = 2 ** (bits - 1) - 0.5 - 0.001, (2 ** (bits - 1) - 1) / 1.85
    levels, places = np.unique(latents, return_inverse=True)
    quantile = NormalDist().inv_cdf
    values = [s * quantile(min(max(q / (2 * m) + 0.5, 1e-4), 0.9999)) for q in levels.tolist()]
    return np.array(values)[places].reshape(latents.shape)


def pointwise(x: Floats, tensors: Tensors, name: str) -> Floats:
    """A matrix at every position, and a bias."""
    weight = tensors[f"{name}.weight"].reshape(-1, len(x))
    return (weight @ x.reshape(len(x), -1) + tensors[f"{name}.bias"][:, None]).reshape(-1, *x.shape[1:])


def convolved(x: Floats, weight: Floats, distance: int) -> Floats:
    """Cross-correlation with weight (output, input, *taps), zeros beyond the edges."""
    taps = weight.shape[2:]
    edges = [(0, 0), *((t // 2 * distance,) * 2 for t in taps)]
    wide = np.pad(x, edges)
    total = np.zeros((len(weight), *x.shape[1:]))
    for place in np.ndindex(*taps):
        box = tuple(slice(p * distance, p * distance + n) for p, n in zip(place, x.shape[1:], strict=True))
        total += np.tensordot(weight[(..., *place)], wide[(slice(None), *box)], 1)
    return total


class Image:
    """The decoder of Codec2D."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = {k.removeprefix("decoder.1."): v for k, v in tensors.items() if k.startswith("decoder.1.")}

    def conv(self, name: str, x: Floats) -> Floats:
        return convolved(x, self.tensors[f"{name}.weight"], 1) + self.tensors[f"{name}.bias"][:, None, None]

    def norm(self, name: str, x: Floats) -> Floats:
        groups = x.reshape(32, -1)
        mean, variance = groups.mean(axis=1, keepdims=True), groups.var(axis=1, keepdims=True)
        plain = ((groups - mean) / np.sqrt(variance + 1e-6)).reshape(x.shape)
        return plain * self.tensors[f"{name}.weight"][:, None, None] + self.tensors[f"{name}.bias"][:, None, None]

    def block(self, name: str, x: Floats) -> Floats:
        inner = self.conv(f"{name}.conv1", silu(self.norm(f"{name}.norm1", x)))
        return x + self.conv(f"{name}.conv2", silu(self.norm(f"{name}.norm2", inner)))

    def attention(self, name: str, x: Floats) -> Floats:
        plain = self.norm(f"{name}.group_norm", x)
        q, k, v = (
            pointwise(plain, self.tensors, f"{name}.{part}").reshape(len(x), -1) for part in ("to_q", "to_k", "to_v")
        )
        scores = q.T @ k / np.sqrt(len(x))
        weights = np.exp(scores - scores.max(axis=1, keepdims=True))
        mixed = v @ (weights / weights.sum(axis=1, keepdims=True)).T
        return x + pointwise(mixed.reshape(x.shape), self.tensors, f"{name}.to_out.0")

    def decode(self, x: Floats) -> Floats:
        x = self.block("mid_block.resnets.0", self.conv("conv_in", x))
        x = self.block("mid_block.resnets.1", self.attention("mid_block.attentions.0", x))
        for i in range(3):
            x = self.block(f"up_blocks.0.resnets.{i}", x)
        return self.conv("conv_out", silu(self.norm("conv_norm_out", x)))


def silu(x: Floats) -> Floats:
    return x / (1 + np.exp(-x))


class Series:
    """The decoder of Codec1D."""

    def __init__(self, tensors: Tensors) -> None:
        self.tensors = {k.removeprefix("decoder.1."): v for k, v in tensors.items() if k.startswith("decoder.1.")}

    def weight(self, name: str) -> Floats:
        v = self.tensors[f"{name}.weight_v"]
        return v * (self.tensors[f"{name}.weight_g"] / np.sqrt((v * v).sum(axis=(1, 2), keepdims=True)))

    def conv(self, name: str, x: Floats, distance: int = 1) -> Floats:
        bias = self.tensors.get(f"{name}.bias")
        return convolved(x, self.weight(name), distance) + (0 if bias is None else bias[:, None])

    def snake(self, name: str, x: Floats) -> Floats:
        alpha, beta = (self.tensors[f"{name}.{part}"][0] for part in ("alpha", "beta"))
        return x + np.sin(np.exp(alpha) * x) ** 2 / (np.exp(beta) + 1e-9)

    def unit(self, name: str, x: Floats, distance: int) -> Floats:
        inner = self.conv(f"{name}.conv1", self.snake(f"{name}.snake1", x), distance)
        return x + self.conv(f"{name}.conv2", self.snake(f"{name}.snake2", inner))

    def block(self, name: str, x: Floats) -> Floats:
        weight, before = self.weight(f"{name}.conv_t1"), self.snake(f"{name}.snake1", x)
        x = weight[:, :, 0].T @ before[:, 1:] + weight[:, :, 1].T @ before[:, :-1]
        x = x + self.tensors[f"{name}.conv_t1.bias"][:, None]
        for i, distance in enumerate((1, 3, 9), start=1):
            x = self.unit(f"{name}.res_unit{i}", x, distance)
        return x

    def decode(self, x: Floats) -> Floats:
        x = self.block("block.1", self.block("block.0", self.conv("conv1", x)))
        return self.conv("conv2", self.snake("snake1", x))


def synthesised(x: Floats, channels: int, levels: int, tensors: Tensors) -> Floats:
    """Samples of coefficients."""
    one = x.ndim == 2
    merges: list[tuple[int, str]] = [(1, "")] if one else [(1, "_col"), (2, "_row")]
    for _ in range(levels):
        for axis, suffix in merges:
            low, high = (tensors[f"iwt.g{i}{suffix}"].reshape(-1) for i in (0, 1))
            x = merged(x[::2], x[1::2], low, high, axis)
    assert len(x) == channels
    return x


def merged(low: Floats, high: Floats, g0: Floats, g1: Floats, axis: int) -> Floats:
    n = low.shape[axis]
    phases: list[Floats] = []
    roll: Callable[[Floats, int], Floats] = lambda band, k: np.roll(band, 2 - k, axis=axis)  # noqa: E731
    for last in (8, 9):
        phases.append(
            np.sum([g0[last - 2 * k] * roll(low, k) + g1[last - 2 * k] * roll(high, k) for k in range(5)], axis=0)
        )
    shape = [*low.shape]
    shape[axis] = 2 * n
    return np.stack(phases, axis=axis + 1).reshape(shape)
