"""What `xwalloc.train` gains on a scene, and what its network is worth on scenes that it has never seen.

"own": trained on three quarters of a scene and measured on the rest. "others": trained on other scenes, by way of a
model of these, and measured on the same rest as it is (``steps=0``). Linear models are fitted to the whole scene.
Where a step is wanted (`snr`), the encoder is trained as well, and kept only if that is better. Bytes are those of
frames, and RMSE that of decoded samples.

    python -m benchmarks.trained      # results/trained.json and a table
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
import xarray as xr

import xwalloc
from benchmarks.scenes import data_root, load_scenes, results_folder
from xwalloc.models.model import Model

SETS = {
    "multispectral": (("ledaps-1999", "ledaps-2002"), {"landsat7": 20.0, "sentinel2": 26.0}),
    "hyperspectral": (("abu-airport-1", "abu-urban-1", "abu-urban-2"), {"abu-beach-1": 28.0, "indian-pines": 28.0}),
    "series": ((), {"ecg-a103l": 20.0}),
}
"""By name: scenes to train on; SNR in dB by scene to test with."""

LEARNT_AT = 32.0
"""SNR in dB at which networks for other scenes are trained."""


def scene(root: Path, name: str) -> tuple[xr.DataArray, float | None, float]:
    """A scene, its nodata, and the loosest of its bounds."""
    (found,) = (s for s in load_scenes(root, [name]) if s.name == name)
    dims = ["?"] * found.array.ndim
    dims[found.channel_axis] = "band"
    for dim, axis in zip(("y", "x"), found.signal_axes, strict=False):
        dims[axis] = dim
    return xr.DataArray(found.array, dims=dims, name="samples"), found.nodata, found.bounds[-1]


def row(name: str, data: xr.DataArray, source: str, **arguments: Any) -> dict[str, Any]:
    """Figures of one training."""
    start = time.process_time()
    model = xwalloc.train(data, channel_dim="band", **arguments)
    about = dict(model.description["train"])
    print(name, source, about["report"], flush=True)
    goal = {key: arguments[key] for key in ("snr", "max_error") if key in arguments}
    return {
        "scene": name, "source": source, "goal": goal, "kept": model.fitted.network is not None,
        "cpu_seconds": time.process_time() - start, **about,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    root = data_root()
    if root is None:
        raise SystemExit("This benchmark needs the data folder: set XWALLOC_BENCH_DATA.")
    rows, steps = [], arguments.steps
    for training, tests in SETS.values():
        start: Model | None = None
        if training:
            scenes = [scene(root, name)[0].astype("f4") for name in training]
            start = xwalloc.train(alike(scenes), channel_dim="band", snr=LEARNT_AT, steps=2 * steps)
            print(*training, start.description["train"]["report"], flush=True)
        for name, snr in tests.items():
            data, nodata, bound = scene(root, name)
            goals: tuple[dict[str, Any], ...] = ({"snr": snr}, {"max_error": bound})
            for goal in goals:
                given = {"nodata": nodata, **goal}
                rows.append(row(name, data, "own", steps=steps, encoder="snr" in goal, **given))
                if start is not None and start.fitted.network is not None:
                    rows.append(row(name, data, "others", steps=0, start=start, **given))
    found = {"steps": steps, "threads": 1, "sets": {name: entry[0] for name, entry in SETS.items()}, "rows": rows}
    (results_folder(root) / "trained.json").write_text(json.dumps(found, indent=1) + "\n")


def alike(scenes: list[xr.DataArray]) -> list[xr.DataArray]:
    """Scenes with as many bands as the one that has the fewest."""
    bands = min(each.sizes["band"] for each in scenes)
    return [each.isel(band=slice(0, bands)) for each in scenes]


if __name__ == "__main__":
    main()
