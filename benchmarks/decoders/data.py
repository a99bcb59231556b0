"""Scenes of every data set, and the linear models that are fitted to them: what `prepare` writes for `train`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import skimage.io

from benchmarks.decoders.files import Scenes, model_path, write_scenes
from benchmarks.decoders.plan import LEVELS, PLANS, Array, Purpose
from benchmarks.scenes import data_root, load_scenes
from xwalloc.fitting.linear import Goal, fit_blocks

__all__ = ["prepare"]

TRAINING_PHOTOGRAPHS = (
    ("skimage", "motorcycle_left.png"), ("skimage", "motorcycle_right.png"), ("skimage", "hubble_deep_field.jpg"),
    ("skimage", "retina.jpg"), ("skimage", "ihc.png"), ("skimage", "rocket.jpg"),
    ("sklearn.datasets", "china.jpg"), ("sklearn.datasets", "flower.jpg"),
)  # fmt: skip
VALIDATION_PHOTOGRAPHS = (("matplotlib", "grace_hopper.jpg"),)
TEST_PHOTOGRAPHS = (("skimage", "astronaut.png"), ("skimage", "coffee.png"), ("skimage", "chelsea.png"))
"""Photographs by the package that ships them."""

FOLDERS = {"skimage": "data", "sklearn.datasets": "images", "matplotlib": "mpl-data/sample_data"}
SIDE = 512
"""Training photographs are cut to their central 512 x 512 pixels at most."""

BLOCK = 128
"""Pixels along a side of the blocks that models are fitted to, at most."""


def photograph(package: str, name: str, most: int | None = None) -> Array:
    """A photograph that a package ships, (channel, y, x), its centre cut to multiples of 8."""
    with as_file(files(package)) as folder:
        image = np.moveaxis(skimage.io.imread(folder / FOLDERS[package] / name), -1, 0)
    height, width = (min(n, most or n) // 8 * 8 for n in image.shape[1:])
    y, x = (image.shape[1] - height) // 2, (image.shape[2] - width) // 2
    return np.ascontiguousarray(image[:, y : y + height, x : x + width])


def _photographs(_: Path) -> Scenes:
    return {
        purpose: {name.split(".")[0]: photograph(package, name, most) for package, name in names}
        for purpose, names, most in (
            ("training", TRAINING_PHOTOGRAPHS, SIDE), ("validation", VALIDATION_PHOTOGRAPHS, SIDE),
            ("test", TEST_PHOTOGRAPHS, None),
        )
    }  # fmt: skip


def _los_angeles(root: Path) -> Scenes:
    """Parts of one flight over one city; airport-2 and urban-5 overlap, and are on the same side."""
    names = {"training": ("airport-2", "urban-4", "urban-5"), "validation": ("airport-1",), "test": ("airport-3",)}
    cubes = {scene.name: scene.array.astype(np.int16) for scene in load_scenes(root, ["airport", "urban-4", "urban-5"])}
    return {purpose: {name: cubes[f"abu-{name}"] for name in found} for purpose, found in names.items()}


def _sentinel2(root: Path) -> Scenes:
    """Halves of a scene: the upper one to test with; of the lower one, three quarters to learn from, and the rest."""
    (scene,) = load_scenes(root, ["sentinel2"])
    height, width = scene.array.shape[1] // 16 * 8, scene.array.shape[2] // 8 * 8
    edge = width * 3 // 4 // 8 * 8
    lower = scene.array[:, height : 2 * height, :width]
    parts = {"training": lower[:, :, :edge], "validation": lower[:, :, edge:], "test": scene.array[:, :height, :width]}
    return {purpose: {"sentinel2": np.ascontiguousarray(part)} for purpose, part in parts.items()}


LOADERS = {"photographs": _photographs, "los-angeles": _los_angeles, "sentinel2": _sentinel2}


def blocks_of(scenes: Mapping[str, Array]) -> Iterator[Array]:
    """Blocks (batch, channel, z, y, x) of scenes."""
    for scene in scenes.values():
        sides = [min(BLOCK, n) for n in scene.shape[1:]]
        for y in range(0, scene.shape[1] - sides[0] + 1, sides[0]):
            for x in range(0, scene.shape[2] - sides[1] + 1, sides[1]):
                yield np.ascontiguousarray(scene[None, :, None, y : y + sides[0], x : x + sides[1]])


def prepare(names: Sequence[str], folder: Path) -> None:
    """Write scenes and fitted models of data sets."""
    root = data_root()
    if root is None:
        raise SystemExit("This benchmark needs the data folder: set XWALLOC_BENCH_DATA.")
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        scenes = LOADERS[name](root)
        write_scenes(folder, name, scenes)
        others = {**scenes["training"], **{f"validation {key}": array for key, array in scenes["validation"].items()}}
        sources: dict[Purpose, dict[str, Array]] = {"unseen": others, "archive": scenes["test"]}
        for purpose, source in sources.items():
            blocks = list(blocks_of(source))
            for i, target in enumerate(PLANS[name].targets):
                goal = Goal(quality="snr", value=target)
                model = fit_blocks(blocks, goal, dimensions=2, nodata=None, levels=LEVELS, tree="dyadic", about={})
                model.save(model_path(folder, name, purpose, i))
                print(f"{name}, {purpose}: {target:g} dB, step {model.target['step']:g}", flush=True)
