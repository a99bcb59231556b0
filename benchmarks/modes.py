"""Whether the encoder chooses the smaller of its two modes, what choosing costs, and what the profile parallel costs.

Every scene at every bound, whole and in chunks of 64 x 64 pixels or 8192 points, is encoded three times: as usual, and
with either mode forced. A choice counts as right if no mode would have been more than half a per cent smaller.

    python -m benchmarks.modes       # results/modes.json and a table
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from benchmarks.scenes import Scene, data_root, load_scenes, results_folder
from xwalloc.codec import chunk
from xwalloc.codec.chunk import ChunkCodec
from xwalloc.codec.config import CodecConfig

FORCED = {
    "transform": {"MANY_CHANNELS": 0, "CLEAR": math.inf},
    "lattice": {"MANY_CHANNELS": math.inf, "LOOSE": -1.0},
}
"""What to set in `xwalloc.codec.chunk`."""

SIDES = {1: 8192, 2: 64}
PARTS = 4
"""So many small chunks of each scene, spread over it."""

TOLERANCE = 1.005


def parts(scene: Scene) -> Iterator[tuple[str, NDArray[Any]]]:
    """The array, and small chunks of it."""
    yield "whole", scene.filled
    side = SIDES[len(scene.signal_axes)]
    last = [max(0, scene.array.shape[axis] - side) for axis in scene.signal_axes]
    for i in range(PARTS):
        where = [slice(None)] * scene.array.ndim
        for axis, end in zip(scene.signal_axes, last, strict=True):
            where[axis] = slice(end * i // (PARTS - 1), end * i // (PARTS - 1) + side)
        yield "small", np.ascontiguousarray(scene.filled[tuple(where)])


def encoded(codec: ChunkCodec, array: NDArray[Any]) -> tuple[int, float]:
    """Bytes, and CPU seconds of all threads."""
    start = time.process_time()
    frame = codec.encode(array)
    return len(frame), time.process_time() - start


def measure(scene: Scene, bound: float, size: str, array: NDArray[Any]) -> dict[str, Any]:
    """One chunk in all three ways."""
    config = CodecConfig(channel_axis=scene.channel_axis, signal_axes=scene.signal_axes, max_error=bound)
    codec = ChunkCodec(config)
    codec.encode(array)  # warm-up
    row: dict[str, Any] = {"scene": scene.name, "kind": scene.kind, "bound": bound, "size": size}
    row["bytes"], row["seconds"] = encoded(codec, array)
    for mode, values in FORCED.items():
        with patch.multiple(chunk, **values):
            row[f"{mode} bytes"], row[f"{mode} seconds"] = encoded(codec, array)
    row["parallel bytes"], _ = encoded(ChunkCodec(replace(config, profile="parallel")), array)
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Share of right choices, bytes lost by wrong ones, and time by that of the better mode alone."""
    best = [min(FORCED, key=lambda mode: row[f"{mode} bytes"]) for row in rows]
    least = [row[f"{mode} bytes"] for row, mode in zip(rows, best, strict=True)]
    alone = [row[f"{mode} seconds"] for row, mode in zip(rows, best, strict=True)]
    parallel = [row["parallel bytes"] / row["bytes"] - 1 for row in rows]
    right = [row["bytes"] <= TOLERANCE * few for row, few in zip(rows, least, strict=True)]
    return {
        "chunks": len(rows),
        "right": float(np.mean(right)),
        "larger": float(np.exp(np.mean([np.log(row["bytes"] / few) for row, few in zip(rows, least, strict=True)])))
        - 1,
        "time": sum(row["seconds"] for row in rows) / sum(alone),
        "parallel": float(np.mean(parallel)),
        "most parallel": max(parallel),
    }


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.modes", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the data (default: $XWALLOC_BENCH_DATA or ../shared/data)")
    parser.add_argument("--scene", nargs="*", help="names of scenes (default: all)")
    parser.add_argument("--output", type=Path, help="default: modes.json in benchmarks/results, or in benchmarks/out")
    options = parser.parse_args()
    root = data_root(options.data)
    rows = []
    for scene in load_scenes(root, options.scene):
        for bound in scene.bounds:
            rows += [measure(scene, bound, size, array) for size, array in parts(scene)]
            part = summary(rows[-PARTS - 1 :])
            print(f"{scene.name:14} {bound:8.4g} right {part['right']:4.0%} larger {part['larger']:6.2%}", flush=True)
    report = [
        {"kind": kind, "size": size, **summary([row for row in rows if (row["kind"], row["size"]) == (kind, size)])}
        for kind, size in dict.fromkeys((row["kind"], row["size"]) for row in rows)
    ]
    report.append({"kind": "all", "size": "", **summary(rows)})
    output = options.output or results_folder(root) / "modes.json"
    output.write_text(json.dumps({"summary": report, "rows": rows}, indent=1) + "\n")
    for item in report:
        print(item)
    return 0


if __name__ == "__main__":
    sys.exit(main())
