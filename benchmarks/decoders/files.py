"""What the parts of the comparison leave for one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.decoders.plan import PLANS, Array, Purpose
from xwalloc.models.model import Model

__all__ = ["Scenes", "fitted_models", "model_path", "read_arrays", "read_scenes", "write_scenes"]

Scenes = dict[str, dict[str, Array]]
"""Scenes (channel, y, x) by name, by purpose: "training", "validation" (decides which of the networks that a training
passes is kept) and "test"."""


def write_scenes(folder: Path, name: str, scenes: Scenes) -> None:
    """Write the scenes of a data set."""
    parts = {f"{purpose}/{scene}": array for purpose, found in scenes.items() for scene, array in found.items()}
    arrays: Any = parts
    np.savez_compressed(folder / f"{name}.npz", **arrays)


def read_scenes(folder: Path, name: str) -> Scenes:
    """Inverse of `write_scenes`."""
    scenes: Scenes = {}
    for key, array in read_arrays(folder / f"{name}.npz").items():
        purpose, scene = key.split("/")
        scenes.setdefault(purpose, {})[scene] = array
    return scenes


def read_arrays(path: Path) -> dict[str, Array]:
    """Arrays of a file by name."""
    with np.load(path) as file:
        return dict(file)


def model_path(folder: Path, name: str, purpose: Purpose, target: int) -> Path:
    """Where a fitted model lies."""
    return folder / f"{name}-{purpose}-{target}.safetensors"


def fitted_models(folder: Path, name: str, purpose: Purpose) -> list[Model]:
    """Fitted models by target."""
    return [Model.load(model_path(folder, name, purpose, i)) for i in range(len(PLANS[name].targets))]
