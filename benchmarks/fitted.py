"""What a model of the whole array saves: small chunks with one against small chunks that carry their own.

A model is fitted to one half of a scene and used on the other: to every second block of 64 x 64 pixels ("between", as
a sample of an array lies between its chunks), or to the upper half ("beside", where the lower half shows other things).
Every error is checked. Bytes of the model are given apart, as they stand in the metadata of an array.

    python -m benchmarks.fitted       # results/fitted.json and a table
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.scenes import Scene, data_root, load_scenes, results_folder
from xwalloc.codec.chunk import ChunkCodec
from xwalloc.codec.config import CodecConfig
from xwalloc.codec.inspect import inspect
from xwalloc.fitting.linear import Goal, fit_blocks
from xwalloc.models.model import ModelReference

BLOCK = 64
SIDES = (32, 64)
SPLITS = ("between", "beside")


def halves(scene: Scene, split: str) -> tuple[list[NDArray[Any]], list[NDArray[Any]]]:
    """Blocks of 64 x 64 pixels (or what there is) to fit to, and to test with."""
    _, height, width = scene.array.shape
    side = min(BLOCK, height // 2)
    found: tuple[list[NDArray[Any]], list[NDArray[Any]]] = ([], [])
    for i, top in enumerate(range(0, height - side + 1, side)):
        for j, left in enumerate(range(0, width - side + 1, side)):
            which = (i + j) % 2 if split == "between" else int(top >= height // 2)
            found[which].append(np.ascontiguousarray(scene.array[:, top : top + side, left : left + side]))
    return found


def cut(blocks: list[NDArray[Any]], side: int) -> Iterator[NDArray[Any]]:
    """Chunks of that side."""
    for block in blocks:
        for top in range(0, block.shape[1] - side + 1, side):
            for left in range(0, block.shape[2] - side + 1, side):
                yield np.ascontiguousarray(block[:, top : top + side, left : left + side])


def total(config: CodecConfig, chunks: list[NDArray[Any]], bound: float) -> tuple[int, float, dict[str, int]]:
    """Bytes and seconds of encoding, and how often frames carry their own model, name one, or have none."""
    codec, nbytes, models = ChunkCodec(config), 0, {"own": 0, "shared": 0, "none": 0}
    seconds = 0.0
    for chunk in chunks:
        start = time.perf_counter()
        frame = codec.encode(chunk)
        seconds += time.perf_counter() - start
        nbytes += len(frame)
        model = inspect(frame).model
        models["none" if model is None else "own" if model == "self-fitted" else "shared"] += 1
        valid = chunk != config.nodata if config.nodata is not None else np.ones(chunk.shape, bool)
        error = np.abs(codec.decode(frame).astype(np.float64) - chunk)[valid].max(initial=0.0)
        if not error <= bound * (1 + 1e-12):
            raise AssertionError(f"an error of {error} at a bound of {bound}")
    return nbytes, seconds, models


def measure(scene: Scene, bound: float, split: str) -> Iterator[dict[str, Any]]:
    """Both sides of chunks at one bound."""
    fitting, testing = halves(scene, split)
    blocks = [chunk[None, :, None] for chunk in cut(fitting, min(BLOCK, fitting[0].shape[1]))]
    start = time.perf_counter()
    model = fit_blocks(
        blocks, Goal(quality="max_error", value=bound), dimensions=2, nodata=scene.nodata, levels=4, tree="dyadic",
        about={},
    )  # fmt: skip
    seconds = time.perf_counter() - start
    for side in SIDES:
        chunks = list(cut(testing, side))
        if not chunks:
            continue
        axes: dict[str, Any] = {"channel_axis": 0, "signal_axes": (1, 2), "nodata": scene.nodata, "max_error": bound}
        own, own_seconds, modes = total(CodecConfig(**axes), chunks, bound)
        shared, shared_seconds, models = total(CodecConfig(**axes, model=model), chunks, bound)  # type: ignore[arg-type]
        yield {
            "scene": scene.name, "kind": scene.kind, "bound": bound, "split": split, "side": side,
            "chunks": len(chunks), "samples": sum(chunk.size for chunk in chunks), "own": own, "shared": shared,
            "own_seconds": own_seconds, "shared_seconds": shared_seconds, "fit_seconds": seconds, "models": models,
            "lattice": modes["none"], "model_bytes": len(ModelReference.inline(model).weights or ""),
        }  # fmt: skip


def line(row: dict[str, Any]) -> str:
    """A measurement in words."""
    what = f"{row['scene']:14} {row['bound']:8g} {row['split']:8} {row['side']:3}"
    bits = f"own {8 * row['own'] / row['samples']:.4f} bits per sample, shared {row['shared'] / row['own']:.3f} of that"
    return f"{what} {bits}, {row['models']}, model {row['model_bytes']} bytes"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the scenes")
    parser.add_argument("--output", type=Path, default=None)
    arguments = parser.parse_args(argv)
    rows = []
    for scene in load_scenes(data_root(arguments.data)):
        if len(scene.signal_axes) != 2 or min(scene.array.shape[1:]) < 2 * min(SIDES):
            continue
        for bound in scene.bounds:
            for split in SPLITS:
                for row in measure(scene, bound, split):
                    rows.append(row)
                    print(line(row), flush=True)
    output = arguments.output or results_folder(data_root(arguments.data)) / "fitted.json"
    output.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
