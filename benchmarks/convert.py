"""Conversion of a mosaic on worker processes, beside bare encoding: time, share of CPU in encode, memory, kills.

    python -m benchmarks.convert [--gigabytes 2.1] [--kills 20] [--out benchmarks/results/convert.json]

The mosaic is Indian Pines, turned and mirrored, with gains from tile to tile so that no two are alike, as a tiled
GeoTIFF without compression. Bare encoding takes the same chunks from memory, in one process with as many threads as the
conversion has workers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
from distributed import Client, LocalCluster

from xwalloc.codec import engine
from xwalloc.codec.chunk import ChunkCodec
from xwalloc.conversion.convert import convert, prepare
from xwalloc.conversion.manifest import FOLDER

SIDE = 256
BOUNDS = (86,)
"""1 % of the range."""
WORKERS = 2


def scene():
    """Indian Pines, (band, y, x)."""
    from tensorly.datasets import load_indian_pines

    return np.ascontiguousarray(np.moveaxis(np.asarray(load_indian_pines()["tensor"]), -1, 0)).astype("u2")


def mosaic(path, gigabytes):
    """Write the mosaic; returns its shape."""
    tile = scene()
    count = max(1, round((gigabytes * 1e9 / 2 / len(tile)) ** 0.5 / SIDE))
    n = count * SIDE
    profile = {
        "driver": "GTiff", "width": n, "height": n, "count": len(tile), "dtype": "uint16", "tiled": True,
        "blockxsize": SIDE, "blockysize": SIDE, "interleave": "pixel", "BIGTIFF": "YES", "crs": "EPSG:32616",
        "transform": rasterio.transform.from_origin(500000, 4480000, 20, 20),
    }  # fmt: skip
    whole = np.concatenate([tile, tile[:, :, ::-1]], 2)
    whole = np.concatenate([whole, whole[:, ::-1]], 1)
    rng = np.random.default_rng(0)
    with rasterio.open(path, "w", **profile) as target:
        for i in range(count):
            for j in range(count):
                y, x = rng.integers(0, whole.shape[1] - SIDE + 1), rng.integers(0, whole.shape[2] - SIDE + 1)
                cut = np.rot90(whole[:, y : y + SIDE, x : x + SIDE], (i + j) % 4, (1, 2)) * rng.uniform(0.9, 1.1)
                window = rasterio.windows.Window(j * SIDE, i * SIDE, SIDE, SIDE)
                target.write(cut.astype("u2"), window=window)
    return len(tile), n, n


def instrument():
    """Have this process add up the CPU time of encoding."""
    times = {"encode": 0.0}
    plain = ChunkCodec.encode_and_measure

    def timed(self, array):
        began = time.thread_time()
        try:
            return plain(self, array)
        finally:
            times["encode"] += time.thread_time() - began

    ChunkCodec.encode_and_measure = timed
    ChunkCodec.times = times
    times["before"] = time.process_time()


def usage():
    """CPU time of this process and of encoding since `instrument`, and its peak memory."""
    status = Path("/proc/self/status").read_text()  # getrusage has the peak of the parent, too
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    return time.process_time() - ChunkCodec.times["before"], ChunkCodec.times["encode"], peak


def bare(path, arguments):
    """What encoding the chunks takes in this process; reading does not count."""
    plan = prepare(str(path), **arguments).plan
    (array,) = plan.arrays
    source = plan.granules[0].source
    codec = ChunkCodec(array.config)
    total, seconds, busy, stored = 0, 0.0, 0.0, 0
    side = SIDE // 2

    def chunks(place):
        unit = source.read(array.variable, array.region(place))
        parts = [(i, j) for i in range(0, unit.shape[1], side) for j in range(0, unit.shape[2], side)]
        return [np.ascontiguousarray(unit[:, i : i + side, j : j + side]) for i, j in parts]

    places = list(array.places())
    engine.run(codec.encode, chunks(places[0])[0])  # compiles
    for start in range(0, len(places), 2):
        todo = [chunk for place in places[start : start + 2] for chunk in chunks(place)]
        began, worked = time.perf_counter(), time.process_time()
        frames = [future.result() for future in [engine.submit(codec.encode, chunk) for chunk in todo]]
        seconds += time.perf_counter() - began
        busy += time.process_time() - worked
        total += sum(chunk.nbytes for chunk in todo)
        stored += sum(map(len, frames))
    return {"seconds": seconds, "CPU seconds": busy, "nbytes": total, "stored": stored}


def converted(path, store, arguments):
    """Figures of a conversion on worker processes."""
    seen = {}
    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as cluster,
        Client(cluster) as client,
    ):
        client.run(instrument)
        began = time.perf_counter()
        result = convert(
            str(path), store, client=client, planned=lambda plan, projection: seen.update(peak=projection.peak),
            **arguments,
        )  # fmt: skip
        wall = time.perf_counter() - began
        workers = list(client.run(usage).values())
    assert result.ok, result.failures
    return {
        "seconds": result.seconds,
        "seconds with planning": wall,
        "CPU seconds": sum(w[0] for w in workers),
        "share of CPU in encode": sum(w[1] for w in workers) / sum(w[0] for w in workers),
        "peak memory planned": seen["peak"],
        "peak memory": max(w[2] for w in workers),
        "nbytes": result.nbytes,
        "stored": result.stored,
        "max_error": max(result.max_error.values()),
    }


def objects(store):
    """Chunks of a store."""
    return {p.relative_to(store): p.read_bytes() for p in Path(store).rglob("c/*/*/*") if p.is_file()}


def killed(path, folder, kills, side):
    """Chunks that differ from an uninterrupted run after so many kills at random moments."""
    command = [
        sys.executable, "-m", "xwalloc.cli", "convert", str(path), str(folder / "killed.zarr"), "--max-error",
        str(BOUNDS[0]), "--chunk", f"y={side},x={side}", "--quiet", "--workers", str(WORKERS),
    ]  # fmt: skip
    whole = [*command]
    whole[5] = str(folder / "whole.zarr")
    began = time.perf_counter()
    subprocess.run(whole, check=True)
    longest = time.perf_counter() - began
    chance = random.Random(7)
    done = 0
    progress = []
    while done < kills:
        process = subprocess.Popen(command, start_new_session=True)
        try:
            process.wait(chance.uniform(0.2, 1.0) * longest)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            done += 1
        progress.append(len(list((folder / "killed.zarr").glob(f"{FOLDER}/units/*.json"))))
        if process.returncode == 0 and done < kills:  # complete: begin anew
            different = compare(folder)
            if different:
                return done, different, progress
            shutil.rmtree(folder / "killed.zarr")
    subprocess.run(command, check=True)
    return done, compare(folder), progress


def compare(folder):
    """Number of chunks that differ."""
    a, b = objects(folder / "whole.zarr"), objects(folder / "killed.zarr")
    return sum(a.get(key) != b.get(key) for key in a.keys() | b.keys())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--gigabytes", type=float, default=2.1)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--out", default="benchmarks/results/convert.json")
    options = parser.parse_args()
    found = {
        "machine": f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}",
        "load before": os.getloadavg()[0],
    }
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if options.gigabytes:
            shape = mosaic(folder / "mosaic.tif", options.gigabytes)
            found["mosaic"] = {
                "shape": shape,
                "chunk": [shape[0], SIDE // 2, SIDE // 2],
                "shard": [shape[0], SIDE, SIDE],
            }
            found["bounds"] = {}
            for bound in BOUNDS:
                arguments = {
                    "max_error": bound,
                    "chunks": {"y": SIDE // 2, "x": SIDE // 2},
                    "shards": {"y": SIDE, "x": SIDE},
                }
                one = {"bare": bare(folder / "mosaic.tif", arguments)}
                one["converted"] = converted(folder / "mosaic.tif", folder / f"out{bound}.zarr", arguments)
                one["times as slow"] = one["converted"]["seconds"] / one["bare"]["seconds"]
                one["times as much CPU"] = one["converted"]["CPU seconds"] / one["bare"]["CPU seconds"]
                one["load"] = os.getloadavg()[0]
                found["bounds"][bound] = one
                print(json.dumps(one, indent=1), flush=True)
            (folder / "mosaic.tif").unlink()
        if options.kills:
            mosaic(folder / "small.tif", 0.15)
            done, different, progress = killed(folder / "small.tif", folder, options.kills, 64)
            found["kills"] = {"kills": done, "chunks that differ": different, "units after each run": progress}
    print(json.dumps(found, indent=1))
    Path(options.out).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
