"""Training of the network of a fitted model: what `xwalloc.train` does once blocks are read."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from xwalloc.codec.candidates import Chunk
from xwalloc.codec.chunk import ChunkCodec
from xwalloc.codec.config import CodecConfig
from xwalloc.codec.transform_sections import pad
from xwalloc.errors import ConfigError
from xwalloc.models.fitted import NETWORK, places
from xwalloc.models.model import Model, ModelReference
from xwalloc.models.neural import Architecture, Network
from xwalloc.training.blocks import Blocks
from xwalloc.training.loop import NothingToLearnError, Options, train_network
from xwalloc.training.result import Progress, TrainingResult

__all__ = ["Split", "device_of", "train_model"]

logger = logging.getLogger("xwalloc")

WIDTHS = (32, 32)

AS_GOOD = "the linear decoder is as good: the network was left out"

LEAST_GAIN = 0.02
"""dB on the validation blocks below which a network is not worth its bytes and its time."""

MOST_EXAMPLES, MOST_VARIANTS = 1 << 24, 8
"""Pixels times components to learn from, and variants of every block: 30 bytes of memory for each of the former."""


@dataclass(frozen=True, kw_only=True)
class Split:
    """Blocks (batch, channel, z, y, x) as they are stored, of two regions or of different scenes.

    Parameters
    ----------
    training, validation
        To learn from; to stop by, and to report on.
    by
        What they differ in.
    """

    training: Sequence[NDArray[Any]]
    validation: Sequence[NDArray[Any]]
    by: Literal["region", "scene"]


def train_model(
    model: Model,
    split: Split,
    *,
    nodata: float | None,
    kind: Literal["shared", "fixed"] = "shared",
    options: Options | None = None,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[Model, TrainingResult | None]:
    """Train a network for a fitted model.

    Parameters
    ----------
    model
        A linear model; if it has a network of the same shape, training starts from that.
    split
        Samples.
    nodata
        Value that stands for missing data.
    kind
        Of the network: see `models.neural.Architecture`.
    options, device, checkpoint, progress
        As for `train_network`; fewer variants than `options` says where there are many samples.

    Returns
    -------
    model, result
        The model with its network, or without one if the linear decoder is as good on the validation blocks; None where
        these or the others have no symbols to learn from.

    Raises
    ------
    ConfigError
        If there is nothing to train on or to validate with.
    """
    start = time.monotonic()
    fitted, options = model.fitted, options or Options()
    looked = codec_of(model, nodata).look
    training, validation = (
        [chunk for chunk in map(looked, blocks) if chunk.look.valid] for blocks in (split.training, split.validation)
    )
    if not training or not validation:
        raise ConfigError(
            f"Expected valid samples to train on and to validate with, in two regions or scenes. Got {len(training)} "
            f"and {len(validation)} blocks with any: the rest is NaN or nodata. Give data that have more."
        )
    more = {
        "seed": options.seed, "kind": kind, "split": split.by, "blocks": [len(training), len(validation)],
    }  # fmt: skip
    architecture = Architecture(
        kind=kind, tree=fitted.tree, dimensions=fitted.dimensions, rank=fitted.rank if kind == "fixed" else 0,
        levels=fitted.levels if fitted.tree == "packet" else 0, widths=WIDTHS,
    )  # fmt: skip
    size = sum(chunk.samples[:, 0].size for chunk in training) * fitted.rank
    training = training[:: -(-size // MOST_EXAMPLES)]
    own = fitted.network
    try:
        result = train_network(
            [blocks_of(model, chunk) for chunk in training], [blocks_of(model, chunk) for chunk in validation],
            architecture, options=replace(options, variants=max(1, min(options.variants, MOST_EXAMPLES // size))),
            start=own if own is not None and own.architecture == architecture else None,
            device=device, checkpoint=checkpoint, progress=progress,
        )  # fmt: skip
    except NothingToLearnError as error:
        return described(without_network(model), {"report": f"{AS_GOOD}: {error}", **more}), None
    refined, about = judged(model, result, split, nodata)
    counts = "trained on {} blocks and validated on {} of another {}".format(*more["blocks"], split.by)
    report = f"{about['report']}; {counts}, {about['steps']} steps"
    logger.info("Training took %.0f s: %s", time.monotonic() - start, report)
    return described(refined, {**about, **more, "report": report}), result


def judged(model: Model, result: TrainingResult, split: Split, nodata: float | None) -> tuple[Model, dict[str, Any]]:
    """The model with a network or without one, and figures that say why."""
    plain, refined = without_network(model), with_network(model, result.network)
    figures = compared(codec_of(plain, nodata), codec_of(refined, nodata), split.validation)
    bounded = "max_error" in model.target
    gain = result.gain if bounded else figures["gain"]
    saved = 1 - figures["refined_bytes"] / figures["linear_bytes"]
    weights = stored_bytes(refined) - stored_bytes(plain)
    helps = gain >= LEAST_GAIN and (saved > 0 or not bounded)
    if helps and bounded:
        report = (
            f"{gain:.2f} dB better than the linear decoder, {saved:.1%} fewer bytes (int8 costs {result.int8_loss:.3f} "
            f"dB), which pays for {weights / 1000:.0f} kB of weights in arrays above {weights / saved / 1e6:.2g} MB"
        )
    elif helps:
        report = (
            f"{gain:.2f} dB better than the linear decoder (int8 costs {result.int8_loss:.3f} dB): RMSE "
            f"{figures['refined_rmse']:.4g} for {figures['linear_rmse']:.4g} at the same bytes, for "
            f"{weights / 1000:.0f} kB of weights"
        )
    else:
        report = f"{AS_GOOD} ({gain:+.3f} dB{', but no fewer bytes' if gain >= LEAST_GAIN else ''})"
    about = {
        "report": report, "gain": gain, "int8_loss": result.int8_loss, "steps": result.history[-1].step,
        "bits_per_latent": result.history[-1].rate, "weight_bytes": weights, "validation": figures,
        "latents_mse": {"linear": result.linear, "float": result.unrounded, "int8": result.distortion},
    }  # fmt: skip
    return refined if helps else plain, about


def device_of(name: str | None) -> str:
    """A device of torch; None for the best there is.

    Raises
    ------
    ConfigError
        If torch does not know it.
    """
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"Expected a device that torch can use, such as 'cpu'. Got {name!r} ({error}).") from None
    return name


def codec_of(model: Model, nodata: float | None) -> ChunkCodec:
    """The codec of blocks (batch, channel, z, y, x)."""
    axes = tuple(range(5 - model.fitted.dimensions, 5))
    return ChunkCodec(
        CodecConfig(channel_axis=1, signal_axes=axes, nodata=nodata, model=model, **model.target)  # type: ignore[arg-type]
    )


def blocks_of(model: Model, chunk: Chunk) -> Blocks:
    """A block as the encoder sees it."""
    fitted = model.fitted
    z, y, x = chunk.samples.shape[2:]
    samples = pad(chunk.samples, fitted.grid((z, y, x)).signal)
    if fitted.scaled:
        samples = samples / fitted.scales[:, None, None, None]
    return Blocks(
        samples=samples, means=fitted.means / fitted.scales, basis=fitted.basis, step=step_of(model, chunk),
        tree=fitted.tree, levels=fitted.levels, boundary=fitted.boundary,
        kept=None if fitted.kept.all() else lambda plan: fitted.kept[:, places(plan, fitted.levels, fitted.dimensions)],
    )  # fmt: skip


def step_of(model: Model, chunk: Chunk) -> float:
    """Quantum of the latents of a block, in samples by their scales."""
    if "step" in model.target:
        return model.target["step"]
    bound = model.target["max_error"]
    return model.fitted.ratio * (math.floor(bound) + 0.5 if chunk.look.integral else bound)


def with_network(model: Model, network: Network) -> Model:
    """The model with that network."""
    plain = without_network(model)
    tensors = {NETWORK + name: tensor for name, tensor in network.tensors().items()}
    return Model(
        description={**plain.description, "network": network.description()}, arrays={**plain.arrays, **tensors}
    )


def without_network(model: Model) -> Model:
    """The model as its linear part."""
    description = {name: entry for name, entry in model.description.items() if name not in ("network", "train")}
    arrays = {name: array for name, array in model.arrays.items() if not name.startswith(NETWORK)}
    return Model(description=description, arrays=arrays)


def stored_bytes(model: Model) -> int:
    """Bytes that a model takes in the metadata of an array."""
    return len(ModelReference.inline(model).weights or "")


def described(model: Model, training: dict[str, Any]) -> Model:
    """The model with a report of its training."""
    return Model(description={**model.description, "train": training}, arrays=model.arrays)


def compared(linear: ChunkCodec, refined: ChunkCodec, blocks: Sequence[NDArray[Any]]) -> dict[str, Any]:
    """What frames of blocks take, and how much nearer to the samples they are with the network, in dB."""
    found: dict[str, Any] = {"samples": 0}
    for name, codec in (("linear", linear), ("refined", refined)):
        nbytes, squares, samples = 0, 0.0, 0
        for block in blocks:
            special = codec.look(block).look.special
            frame = codec.encode(block)
            error = (codec.decode(frame).astype(np.float64) - block)[~special if special is not None else ...]
            nbytes, squares = nbytes + len(frame), squares + float(np.square(error).sum())
            samples += error.size
        found |= {f"{name}_bytes": nbytes, f"{name}_rmse": math.sqrt(squares / samples), "samples": samples}
    errors = found["linear_rmse"], found["refined_rmse"]
    found["gain"] = 20 * math.log10(errors[0] / errors[1]) if min(errors) > 0 else 0.0
    return found
