"""Train what is compared: published networks and ours, each for the same time, on one device.

Our network learns on the symbols of all fitted models of a data set at once, and serves each of them. Published
networks code the test scenes here as well: the largest have a hundred megabytes of weights, and what they make of the
scenes has a few.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save

from benchmarks.decoders.files import Scenes, fitted_models, read_scenes
from benchmarks.decoders.plan import LEVELS, NETWORKS, PLANS, Array, Ours, Plan, Published
from benchmarks.decoders.published import Trained, closed_form, train, tuned
from xwalloc.models.model import Model
from xwalloc.models.upstream import Architecture
from xwalloc.training import Architecture as NetworkArchitecture
from xwalloc.training import Blocks, Options, train_network

__all__ = ["train_all"]

PLACES = {"cuda": 1 << 16, "cpu": 1 << 13}
"""Places of a grid, times components, in a batch of our network."""

VARIANTS = 2
"""Of every scene and step: there are many of both."""


def train_all(names: Sequence[str], folder: Path, output: Path, device: str, seconds: float) -> None:
    """Train for data sets that `prepare` wrote to a folder; one file for each of them."""
    output.mkdir(parents=True, exist_ok=True)
    torch.backends.cudnn.allow_tf32 = False  # autocast picks what may be inexact
    cuda = torch.device(device).type == "cuda"
    what = torch.cuda.get_device_name() if cuda else f"CPU, {torch.get_num_threads()} threads"
    machine = {"device": what, "torch": torch.__version__, "python": platform.python_version()}
    for name in names:
        begin = time.monotonic()
        scenes, plan = read_scenes(folder, name), PLANS[name]
        arrays: dict[str, Any] = {}
        published, networks = [], []
        learning_rates: dict[int, float] = {}
        for number, which in enumerate(plan.published):
            row, trained = _train_published(plan, scenes, which, learning_rates, seconds, device)
            for scene, array in scenes["test"].items():
                key = f"{number}/{scene}"
                arrays[f"latents/{key}"], arrays[f"decoded/{key}"] = trained.code(array)
            published.append(row)
            print(name, row, flush=True)
        for ours in NETWORKS:
            models = fitted_models(folder, name, ours.purpose)
            row, weights = _train_network(scenes, models, ours, seconds, device)
            arrays[f"network/{ours.decoder}"] = np.frombuffer(weights, np.uint8)
            networks.append(row)
            print(name, row, flush=True)
        about = {**machine, "seconds": seconds, "published": published, "networks": networks}
        np.savez_compressed(output / f"trained-{name}.npz", about=np.array(json.dumps(about)), **arrays)
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)


def _train_published(
    plan: Plan, scenes: Scenes, which: Published, learning_rates: dict[int, float], seconds: float, device: str
) -> tuple[dict[str, Any], Trained]:
    """A published model; learning rates are tried for the first one of each width."""
    training, validation = (list(scenes[purpose].values()) for purpose in ("training", "validation"))
    sizes: dict[str, Any] = {
        "channels": len(training[0]), "J": plan.levels, "latent_dim": which.latents, "latent_bits": which.bits,
    }  # fmt: skip
    where: dict[str, Any] = {"side": plan.piece, "device": device}
    row: dict[str, Any] = {"decoder": which.decoder, "setting": which.setting}
    if not which.width:
        trained = closed_form(Architecture(kind="LinearCodec2D", **sizes), training, validation, **where)
    else:
        architecture = Architecture(kind="Codec2D", Nd=which.width, **sizes)
        if which.width not in learning_rates:
            learning_rates[which.width], row["tried"] = tuned(architecture, training, validation, seconds, **where)
        row["rate"] = learning_rates[which.width]
        trained = train(architecture, training, validation, seconds, rate=row["rate"], **where)
    row |= {"bytes": trained.nbytes, "seconds": trained.seconds, "steps": trained.steps, "errors": trained.errors}
    return row, trained


def _train_network(
    scenes: Scenes, models: Sequence[Model], ours: Ours, seconds: float, device: str
) -> tuple[dict[str, Any], bytes]:
    """Our network, and its weights: a safetensors file."""
    regions = _regions(scenes["test"])
    parts = (scenes["training"], scenes["validation"]) if ours.purpose == "unseen" else regions
    training, validation = (_blocks(part, models) for part in parts)
    architecture = NetworkArchitecture(tree="dyadic", widths=ours.widths)
    torch.backends.cudnn.benchmark = False  # grids are of many shapes
    # the first steps on a device load its kernels
    train_network(training[-1:], validation[-1:], architecture, options=Options(steps=30, variants=1), device=device)
    begin = time.monotonic()
    options = Options(
        steps=0, places=PLACES[torch.device(device).type], variants=VARIANTS, validate_every=200, patience=1_000_000,
    )  # fmt: skip
    train_network(training, validation, architecture, options=options, device=device)
    # making symbols comes on top, as trials of learning rates do for others
    preparation = time.monotonic() - begin
    begin = time.monotonic()
    options = replace(options, steps=1_000_000, minutes=(preparation + seconds) / 60)
    result = train_network(training, validation, architecture, options=options, device=device)
    row = {
        "decoder": ours.decoder, "seconds": time.monotonic() - begin, "preparation": preparation,
        "steps": result.history[-1].step, "weights": architecture.weights, "validation_gain": result.gain,
        "int8_loss": result.int8_loss,
    }  # fmt: skip
    return row, save(result.network.tensors(), {"network": json.dumps(result.network.description())})


def _regions(scenes: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, Array]]:
    """Three quarters of each scene, and the rest, as `xwalloc.train` holds it out."""
    edges = {name: scene.shape[1] * 3 // 4 >> LEVELS << LEVELS for name, scene in scenes.items()}
    return (
        {name: scene[:, : edges[name]] for name, scene in scenes.items()},
        {name: scene[:, edges[name] :] for name, scene in scenes.items()},
    )


def _blocks(scenes: Mapping[str, Array], models: Sequence[Model]) -> list[Blocks]:
    """Scenes as the encoder sees them, with every model."""
    return [
        Blocks(
            samples=scene[None, :, None], means=model.fitted.means, basis=model.fitted.basis,
            step=model.target["step"], tree="dyadic", levels=LEVELS,
        )
        for model in models for scene in scenes.values()
    ]  # fmt: skip
