"""What encoding and decoding cost, how that grows with bands, chunk size and bound, and what the machine could do.

Throughput of chunks cut out of the mosaics of `benchmarks.speed`, one chunk at a time on all cores; beside it memory
copies and matrix products of the same machine, and the raw quantiser (``step``), which proves no bound.

    python -m benchmarks.cost                        # results/cost.json and a table
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.scenes import data_root, results_folder
from benchmarks.speed import mosaics
from xwalloc.codec.chunk import ChunkCodec, decode_frame
from xwalloc.codec.config import CodecConfig

BANDS = (1, 4, 8, 16, 32, 64, 128, 188)
SIDES = (32, 64, 128, 256)
FRACTIONS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
FRACTION = 0.005
"""Bound by range where it does not vary."""

LEAST_SECONDS = 0.4
Cube = NDArray[np.float32]


def median_seconds(function: Callable[[], object]) -> float:
    """Median of as many runs as take `LEAST_SECONDS`, at least 3, after a warm-up."""
    function()
    times: list[float] = []
    while len(times) < 3 or sum(times) < LEAST_SECONDS:
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def machine() -> dict[str, float]:
    """Memory copies in GB/s, of 52 MB into memory that is there; float64 products in GFLOP/s."""
    source = np.ones(13_000_000, np.float32)
    target = np.zeros_like(source)
    left, right = np.ones((200, 200)), np.ones((200, 65536))
    out = np.empty((200, 65536))
    return {
        "copy_gb_per_s": source.nbytes / median_seconds(lambda: np.copyto(target, source)) / 1e9,
        "fresh_copy_gb_per_s": source.nbytes / median_seconds(source.copy) / 1e9,
        "gflop_per_s": 2 * left.size * 65536 / median_seconds(lambda: np.matmul(left, right, out=out)) / 1e9,
    }


def measure(cube: Cube, **quality: float) -> dict[str, float]:
    """GB of samples per second, and bits per sample."""
    codec = ChunkCodec(CodecConfig(channel_axis=0, signal_axes=(1, 2), **quality))
    frame = codec.encode(cube)
    return {
        "encode_gb_per_s": cube.nbytes / median_seconds(lambda: codec.encode(cube)) / 1e9,
        "decode_gb_per_s": cube.nbytes / median_seconds(lambda: codec.decode(frame)) / 1e9,
        "bits_per_sample": 8 * len(frame) / cube.size,
    }


def cases(name: str, cube: Cube) -> Iterator[dict[str, Any]]:
    """One row for each chunk."""
    reach = float(np.ptp(cube))

    def row(varied: str, part: Cube, fraction: float) -> dict[str, Any]:
        part = np.ascontiguousarray(part)
        return {
            "mosaic": name, "varied": varied, "bands": len(part), "side": part.shape[1], "fraction": fraction,
            **measure(part, max_error=fraction * reach),
        }  # fmt: skip

    for bands in BANDS:
        first = (len(cube) - bands) // 2
        yield row("bands", cube[first : first + bands], FRACTION)
    for side in SIDES:
        yield row("side", cube[:, :side, :side], FRACTION)
    for fraction in FRACTIONS:
        yield row("fraction", cube[:, :128, :128], fraction)
    step = 2 * FRACTION * reach
    yield {"mosaic": name, "varied": "step", "bands": len(cube), "side": len(cube[0]), "fraction": FRACTION,
           **measure(cube, step=step)}  # fmt: skip


def regions(name: str, cube: Cube) -> Iterator[dict[str, Any]]:
    """Seconds to decode parts of a chunk."""
    y, x = (n // 2 for n in cube.shape[1:])
    parts = {
        "whole": np.s_[:, :, :],
        "a quarter of the pixels": np.s_[:, :y, :x],
        "32 x 32 pixels": np.s_[:, y : y + 32, x : x + 32],
        "one pixel": np.s_[:, y : y + 1, x : x + 1],
        "one band": np.s_[len(cube) // 4 : len(cube) // 4 + 1, :, :],
    }
    for fraction in (FRACTION, FRACTIONS[0]):
        bound = fraction * float(np.ptp(cube))
        frame = ChunkCodec(CodecConfig(channel_axis=0, signal_axes=(1, 2), max_error=bound)).encode(cube)
        for region, part in parts.items():
            seconds = median_seconds(lambda part=part, frame=frame: decode_frame(frame, region=part))
            yield {"mosaic": name, "fraction": fraction, "region": region, "seconds": seconds}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cost", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the data (default: $XWALLOC_BENCH_DATA or ../shared/data)")
    parser.add_argument("--output", type=Path, help="default: cost.json in benchmarks/results, or in benchmarks/out")
    options = parser.parse_args()
    root = data_root(options.data)
    report: dict[str, Any] = {"machine": machine(), "rows": [], "regions": []}
    print("| mosaic | varied | bands | side | bound / range | encode GB/s | decode GB/s | bits/sample |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for name, cube in mosaics(root):
        for row in cases(name, cube):
            report["rows"].append(row)
            print(
                f"| {name} | {row['varied']} | {row['bands']} | {row['side']} | {row['fraction']} | "
                f"{row['encode_gb_per_s']:.3f} | {row['decode_gb_per_s']:.3f} | {row['bits_per_sample']:.3f} |",
                flush=True,
            )
        for row in regions(name, cube):
            report["regions"].append(row)
            print(f"{name}, {row['fraction']}: {row['region']} in {1e3 * row['seconds']:.1f} ms", flush=True)
    report["machine_after"] = machine()
    print(report["machine"])
    output = options.output or results_folder(root) / "cost.json"
    output.write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
