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
from xwalloc.training.encoder import TRADEOFF, Encoder
from xwalloc.training.loop import NothingToLearnError, Options, train_network
from xwalloc.training.result import Progress, TrainingResult

__all__ = ["Split", "device_of", "train_model"]

logger = logging.getLogger("xwalloc")

WIDTHS = (32,)
"""Hidden layers. On Sentinel-2 and Landsat 7, 600 steps on a part of the scene gained 0.17 and 0.05 dB on the rest with
one of 32 outputs, 0.12 and 0.03 with two."""

AS_GOOD = "the linear decoder is as good: the network was left out"

LEAST_GAIN = 0.02
"""dB on the validation blocks below which a network is not worth its bytes and its time."""

MOST_EXAMPLES = 1 << 24
"""Pixels times components to learn from, variants included: 30 bytes of memory for each."""

ENCODER_SHARE = 0.7
"""Steps of the encoder, if it is trained, as a part of those of the network."""

Rebase = Callable[[Model, NDArray[np.float64]], Model]
"""Makes the model of another spectral basis."""


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
    rebase: Rebase | None = None,
    start: Network | None = None,
    options: Options | None = None,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> tuple[Model, TrainingResult | None]:
    """Train a network for a fitted model.

    Parameters
    ----------
    model
        A linear model. A network that it has is replaced.
    split
        Samples.
    nodata
        Value that stands for missing data.
    kind
        Of the network: see `models.neural.Architecture`.
    rebase
        If given, the encoder is trained first, and kept if it is better on the validation blocks.
    start, options, device, checkpoint, progress
        As for `train_network`; fewer variants than `options` says where there are many samples.

    Returns
    -------
    model, result
        The model with its network, or without one if the linear decoder is as good on the validation blocks; None where
        these or the others have no symbols to learn from.

    Raises
    ------
    ConfigError
        If there is nothing to train on or to validate with, or the network to start from is of another shape.
    """
    began = time.monotonic()
    options = options or Options()
    looked = codec_of(model, nodata).look
    training, validation = (
        [chunk for chunk in map(looked, blocks) if chunk.look.valid] for blocks in (split.training, split.validation)
    )
    if not training or not validation:
        raise ConfigError(
            f"Expected valid samples to train on and to validate with, in two regions or scenes. Got {len(training)} "
            f"and {len(validation)} blocks with any: the rest is NaN or nodata. Give data that have more."
        )
    about: dict[str, Any] = {}
    if rebase is not None:
        model, about["encoder"] = with_encoder(model, training, split, nodata, rebase, options, device)
    fitted, counts = model.fitted, [len(training), len(validation)]
    about |= {"seed": options.seed, "kind": kind, "split": split.by, "blocks": counts}
    architecture = Architecture(
        kind=kind, tree=fitted.tree, dimensions=fitted.dimensions, rank=fitted.rank if kind == "fixed" else 0,
        levels=fitted.levels if fitted.tree == "packet" else 0, widths=WIDTHS,
    )  # fmt: skip
    size = sum(chunk.samples[:, 0].size for chunk in training) * fitted.rank
    training = training[:: -(-size // MOST_EXAMPLES)]
    try:
        result = train_network(
            [blocks_of(model, chunk) for chunk in training], [blocks_of(model, chunk) for chunk in validation],
            architecture, options=replace(options, variants=max(1, min(options.variants, MOST_EXAMPLES // size))),
            start=start, device=device, checkpoint=checkpoint, progress=progress,
        )  # fmt: skip
    except NothingToLearnError as error:
        return described(without_network(model), {**about, "report": f"{AS_GOOD}: {error}"}), None
    refined, figures = judged(model, result, split, nodata)
    first, rest = (f"{n} block{'s' * (n != 1)}" for n in counts)
    origin = f"trained on {first} in {figures['steps']} steps" if options.steps else "a network of other data"
    words = [figures["report"], f"{origin}; validated on {rest} of another {split.by}"]
    if "encoder" in about:
        words.insert(1, about["encoder"]["report"])
    report = "; ".join(words)
    logger.info("Training took %.0f s: %s", time.monotonic() - began, report)
    return described(refined, {**about, **figures, "report": report}), result


def with_encoder(
    model: Model, training: Sequence[Chunk], split: Split, nodata: float | None, rebase: Rebase, options: Options,
    device: str,
) -> tuple[Model, dict[str, Any]]:  # fmt: skip
    """The model with a trained encoder, or as it was if that is as good on the validation blocks, and what was found.

    With a bound, fewer bytes are better; without one, less of MSE + lambda * rate.
    """
    basis = Encoder.trained(
        [blocks_of(model, chunk) for chunk in training], steps=max(1, int(ENCODER_SHARE * options.steps)),
        seed=options.seed, device=torch.device(device),
    )  # fmt: skip
    trained = rebase(model, basis)
    costs = []
    for each in (without_network(model), trained):
        nbytes, squares, _ = coded(codec_of(each, nodata), split.validation)
        step = model.target.get("step")
        costs.append(8.0 * nbytes if step is None else squares / step**2 + TRADEOFF * 8 * nbytes)
    change = costs[1] / costs[0] - 1
    what = "bytes" if "max_error" in model.target else "MSE + lambda * rate"
    if change < 0:
        return trained, {"change": change, "report": f"encoder trained ({what} {change:+.2%})"}
    return model, {
        "change": change,
        "report": f"encoder in closed form, since training it is no better ({what} {change:+.2%})",
    }


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


def coded(codec: ChunkCodec, blocks: Sequence[NDArray[Any]]) -> tuple[int, float, int]:
    """Bytes of the frames of blocks, the sum of their squared errors, and the number of valid samples."""
    nbytes, squares, samples = 0, 0.0, 0
    for block in blocks:
        special = codec.look(block).look.special
        frame = codec.encode(block)
        error = (codec.decode(frame).astype(np.float64) - block)[~special if special is not None else ...]
        nbytes, squares = nbytes + len(frame), squares + float(np.square(error).sum())
        samples += error.size
    return nbytes, squares, samples


def compared(linear: ChunkCodec, refined: ChunkCodec, blocks: Sequence[NDArray[Any]]) -> dict[str, Any]:
    """What frames of blocks take, and how much nearer to the samples they are with the network, in dB."""
    found: dict[str, Any] = {}
    for name, codec in (("linear", linear), ("refined", refined)):
        nbytes, squares, samples = coded(codec, blocks)
        found |= {f"{name}_bytes": nbytes, f"{name}_rmse": math.sqrt(squares / samples), "samples": samples}
    errors = found["linear_rmse"], found["refined_rmse"]
    found["gain"] = 20 * math.log10(errors[0] / errors[1]) if min(errors) > 0 else 0.0
    return found
