"""Land cover from latents: does a classifier need all the numbers, a tenth of them, or a coarser image?

The scene is AVIRIS Indian Pines with its map of 16 classes, which the package ``tensorly`` contains. The same
classifier (a support vector machine) gets, for every labelled pixel, its 200 bands; or latents that are read from a
store of xwalloc, where no decoder runs; or the 200 bands of a coarser image of about as many numbers. It may average
its input over 1, 3 or 5 pixels first, and divide it by its deviation or the root of that; this and its constant C are
chosen by validation inside the training data. Two protocols:

- "tiles": tiles of 16 x 16 pixels are trained on or tested on, with 5 pixels between them that are neither. Nothing
  that describes a training pixel has been measured at a test pixel. (Noise and model are those of the whole scene, as
  a store has them; no class takes part in them.)
- "pixels": a random tenth of the pixels is trained on, as many papers do. Test pixels then lie beside training pixels
  of the same field, or in the same coarse cell, which flatters whatever looks at neighbours. Not a fair test; shown
  because it is usual.

    pip install 'xwalloc[examples]'
    python examples/land_cover.py
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.ndimage import binary_dilation, uniform_filter
from sklearn.model_selection import GroupShuffleSplit, cross_val_score
from sklearn.svm import SVC
from tensorly.datasets import load_indian_pines

import xwalloc

TILE, GAP, FOLDS = 16, 5, 4
WINDOWS, POWERS, CS, VALIDATED = (1, 3, 5), (0.5, 1.0), (10, 100, 1000), 1000  # choices, and pixels to compare them

LATENTS = (
    ("scaled", 20, 0, "a pixel"), ("scaled", 80, 1, "2 x 2 pixels"), ("scaled", 40, 1, "2 x 2 pixels"),
    ("scaled", 32, 2, "4 x 4 pixels"), ("counts", 20, 0, "a pixel, in counts"),
)  # fmt: skip
CELLS = (3, 4, 10)


def load_scene(size: int) -> tuple[xr.DataArray, NDArray[np.int64]]:
    """The first `size` rows and columns: counts (band, y, x), and classes (y, x) with 0 for none."""
    bunch = load_indian_pines()
    counts = np.moveaxis(np.asarray(bunch.tensor), -1, 0)[:, :size, :size]
    labels = np.asarray(bunch.ticks[0])[:size, :size].astype(np.int64)
    return xr.DataArray(counts.astype(np.float32), dims=("band", "y", "x"), name="radiance"), labels


def noise(scene: xr.DataArray) -> xr.DataArray:
    """Noise of every band: what second differences along x show, by their median, which edges of fields do not move."""
    curvature = abs(scene.diff("x", 2, label="lower"))
    return 1.4826 * curvature.median(("y", "x")) / np.sqrt(6)


def stored_latents(scene: xr.DataArray, number: int, levels: int, store: Path) -> NDArray[np.float32]:
    """The strongest latents of patches of 2^levels pixels a side, given to each of these: (y, x, latent).

    They come from a store that is written here; no decoder runs.
    """
    model = xwalloc.fit(scene, latents=2 * number, levels=levels)  # twice as many, for a finer step of the quantiser
    scene.to_dataset().walloc.to_zarr(store, model=model, consolidated=False)
    latents = xwalloc.open_latents(store, str(scene.name), dequantised=True)
    strongest = np.argsort(-latents.values.var((1, 2)))[:number]
    side = 1 << levels
    pixels = np.moveaxis(latents.values[strongest], 0, -1).repeat(side, 0).repeat(side, 1)
    return pixels[: scene.sizes["y"], : scene.sizes["x"]]  # chunks may reach beyond the scene


def coarse(bands: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Means of cells of ``side x side`` pixels, given to each of them: (y, x, band)."""
    height, width, _ = bands.shape
    whole = np.pad(bands, ((0, -height % side), (0, -width % side), (0, 0)), mode="edge")
    cells = whole.reshape(whole.shape[0] // side, side, whole.shape[1] // side, side, -1).mean((1, 3))
    return cells.repeat(side, 0).repeat(side, 1)[:height, :width]


def tiles(shape: tuple[int, int], tile: int = TILE) -> NDArray[np.int64]:
    """Number of the tile that a pixel lies in."""
    y, x = np.indices(shape) // tile
    return y * (x.max() + 1) + x


def splits(labels: NDArray[np.int64], protocol: str, seed: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Masks of pixels to train on and to test on; with tiles, every labelled pixel is tested once."""
    rng, known = np.random.default_rng(seed), labels > 0
    if protocol == "pixels":
        train = known & (rng.random(labels.shape) < 0.1)
        yield train, known & ~train
        return
    where = tiles(labels.shape)
    fold = rng.permutation(np.arange(where.max() + 1) % FOLDS)[where]
    for i in range(FOLDS):
        test = fold == i
        yield known & ~binary_dilation(test, np.ones((2 * GAP + 1,) * 2)), known & test


def classify(features: NDArray[np.float32], labels: NDArray[np.int64], protocol: str, seed: int) -> tuple[float, float]:
    """Accuracy in per cent and seconds to train and predict, without the search for parameters."""
    seconds, right, total, inputs = 0.0, 0, 0, []
    groups = tiles(labels.shape, TILE if protocol == "tiles" else 1)
    for width in WINDOWS:
        smooth = uniform_filter(features - features.mean((0, 1)), (width, width, 0), mode="nearest")
        deviation = np.maximum(smooth.std((0, 1)), 1e-9)
        inputs += [smooth / deviation**power for power in POWERS]
    choices = [(SVC(C=c), values) for c in CS for values in inputs]
    for train, test in splits(labels, protocol, seed):
        y, x = np.random.default_rng(seed).permutation(np.argwhere(train))[:VALIDATED].T
        parts = list(GroupShuffleSplit(2, test_size=0.3, random_state=seed).split(y, groups=groups[y, x]))
        scores = [cross_val_score(machine, v[y, x], labels[y, x], cv=parts).mean() for machine, v in choices]
        machine, values = choices[int(np.argmax(scores))]
        start = time.perf_counter()
        machine.fit(values[train], labels[train])
        right += int((machine.predict(values[test]) == labels[test]).sum())
        seconds += time.perf_counter() - start
        total += int(test.sum())
    return 100 * right / total, seconds


def measure(size: int = 145, seeds: int = 1) -> list[dict[str, Any]]:
    """One row for every input: numbers per pixel, bytes of its store, accuracy by protocol and seed, seconds."""
    scene, labels = load_scene(size)
    scaled = (scene / noise(scene)).rename("radiance")  # latents by their signal-to-noise ratio, not by their counts
    bands = np.moveaxis(scene.values, 0, -1)
    inputs: list[tuple[str, float, int | None, NDArray[np.float32]]] = [("all bands", 200, None, bands)]
    with tempfile.TemporaryDirectory() as folder:
        for i, (of, number, levels, words) in enumerate(LATENTS):
            store = Path(folder) / f"{i}.zarr"
            latents = stored_latents(scene if of == "counts" else scaled, number, levels, store)
            nbytes = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
            inputs.append((f"{number} latents of {words}", number / 4**levels, nbytes, latents))
    for side in CELLS:
        inputs.append((f"cells of {side} x {side}", 200 * (-(-size // side) / size) ** 2, None, coarse(bands, side)))
    rows = []
    for name, numbers, stored, features in inputs:
        rows.append({"input": name, "numbers": numbers, "bytes": stored})
        for protocol in ("tiles", "pixels"):
            found = np.array([classify(features, labels, protocol, seed) for seed in range(seeds)])
            rows[-1] |= {protocol: found[:, 0].tolist(), f"{protocol}_seconds": found[:, 1].mean()}
    return rows


def main() -> None:
    """Print the comparison."""
    table = Table(title="Land cover of Indian Pines, 16 classes", title_justify="left", box=box.SIMPLE)
    for heading in ("input", "numbers/pixel", "store, bytes", "tiles, %", "pixels, %", "train + test, s"):
        table.add_column(heading, justify="left" if heading == "input" else "right")
    for row in measure():
        accuracies = [f"{np.mean(row[protocol]):.1f}" for protocol in ("tiles", "pixels")]
        stored = "" if row["bytes"] is None else f"{row['bytes']:,}"
        table.add_row(row["input"], f"{row['numbers']:.1f}", stored, *accuracies, f"{row['tiles_seconds']:.1f}")
    Console().print(table)


if __name__ == "__main__":
    main()
