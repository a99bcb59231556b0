"""`xwalloc.convert` on a GPU worker beside a worker with two cores: seconds for one store, and whether chunks agree.

The source is a plain Zarr store without compression: a mosaic of Indian Pines, mirrored, as float32. Each cluster is
one worker process of Dask on this machine. That of the GPU offers as many ``GPU`` as it has threads (docs/clusters.md);
the other has two threads and computes on the CPU. Both convert a few chunks before: that compiles, and does not count.

.. code-block:: shell

    python -m benchmarks.gpu_convert
    python -m benchmarks.gpu_convert --device cpu --gigabytes 0.01 --side 64 --bands 16 --threads 2   # no GPU: a trial
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from distributed import Client, LocalCluster
from numpy.typing import NDArray

from benchmarks.mosaic import mosaic
from xwalloc.codec import engine
from xwalloc.conversion.convert import convert

logger = logging.getLogger(__name__)

GIGABYTES = 3.0
FRACTION = 0.01
"""Bound, as a fraction of the range."""
WARM = 4
"""Chunks that are converted before."""
CORES = 2
REPEATS = 2


def source(path: Path, cube: NDArray[Any], side: int, bands: int, chunks: int) -> float:
    """Write a plain store of so many chunks, as a strip of them; returns the range of its samples."""
    array = zarr.create_group(path).create_array(
        "radiance", shape=(bands, side, chunks * side), chunks=(bands, side, side), dtype="float32", compressors=None,
        dimension_names=("band", "y", "x"),
    )  # fmt: skip
    low, high = np.inf, -np.inf
    for place, chunk in enumerate(mosaic(cube, side, bands, chunks)):
        array[:, :, place * side : (place + 1) * side] = chunk
        low, high = min(low, chunk.min()), max(high, chunk.max())
    return float(high) - float(low)


@contextmanager
def worker(device: str, threads: int, resources: dict[str, float]) -> Iterator[Client]:
    """A cluster of one worker process that computes on a device.

    Raises
    ------
    ConfigError
        If it has no such device.
    """
    before = os.environ.get("XWALLOC_DEVICE")
    os.environ["XWALLOC_DEVICE"] = device  # processes take it over when they start
    try:
        with (
            LocalCluster(
                n_workers=1,
                threads_per_worker=threads,
                resources=resources,
                memory_limit=0,
                dashboard_address=":0",
                silence_logs=logging.CRITICAL,
            ) as cluster,
            Client(cluster) as client,
        ):
            client.run(engine.device)
            yield client
    finally:
        if before is None:
            del os.environ["XWALLOC_DEVICE"]
        else:
            os.environ["XWALLOC_DEVICE"] = before


def converted(client: Client, path: Path, store: Path, **how: Any) -> dict[str, Any]:
    """Figures of a conversion."""
    shutil.rmtree(store, ignore_errors=True)
    result = convert(str(path), str(store), client=client, channel_dim="band", profile="parallel", **how)
    if not result.ok:
        raise RuntimeError(f"The conversion failed: {result.failures}")
    (error,) = result.max_error.values()
    return {"seconds": result.seconds, "nbytes": result.nbytes, "stored": result.stored, "max_error": error}


def on_worker(
    client: Client, few: Path, path: Path, store: Path, repeats: int, **how: Any
) -> dict[str, Any]:  # fmt: skip
    """Figures of conversions of one store, after one of another."""
    converted(client, few, store, **how)
    every = [converted(client, path, store, **how) for _ in range(repeats)]
    seconds = [one.pop("seconds") for one in every]
    return {"seconds": seconds, "gb_per_s": every[0]["nbytes"] / statistics.median(seconds) / 1e9, **every[0]}


def objects(store: Path) -> dict[str, bytes]:
    """Chunks of a store."""
    return {str(path.relative_to(store)): path.read_bytes() for path in store.glob("radiance/c/**/*") if path.is_file()}


def run(
    folder: Path, cube: NDArray[Any], *, device: str, threads: int, gigabytes: float, side: int, bands: int,
    fraction: float, repeats: int,
) -> dict[str, Any]:  # fmt: skip
    """Convert the same store on both workers."""
    chunks = max(WARM, round(gigabytes * 1e9 / (4 * bands * side**2)))
    few, path = folder / "few.zarr", folder / "plain.zarr"
    source(few, cube, side, bands, WARM)
    how = {"max_error": fraction * source(path, cube, side, bands, chunks), "chunks": {"y": side, "x": side}}
    found: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores", "shape": [bands, side, chunks * side], "chunk": [bands, side, side],
        "fraction": fraction, "threads": threads, "worker": device,
    }  # fmt: skip
    stores = {}
    for name, place, count, resources in (("gpu", device, threads, {"GPU": threads}), ("cpu", "cpu", CORES, {})):
        stores[name] = folder / f"{name}.zarr"
        with worker(place, count, resources) as client:
            found[name] = on_worker(client, few, path, stores[name], repeats, **how)
        logger.info("%s worker, %d threads: %.1f s", place, count, statistics.median(found[name]["seconds"]))
    ours, others = (objects(stores[name]) for name in ("gpu", "cpu"))
    found["chunks"] = len(others)
    found["chunks that differ"] = sum(ours.get(name) != others.get(name) for name in ours.keys() | others.keys())
    found["times as fast"] = found["gpu"]["gb_per_s"] / found["cpu"]["gb_per_s"]
    logger.info("%.2f times as fast; %d of %d chunks differ", found["times as fast"], found["chunks that differ"],
                found["chunks"])  # fmt: skip
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--cube", type=Path, help=".npy file (band, y, x) instead of Indian Pines")
    parser.add_argument("--device", default="cuda", help="of the GPU worker")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the GPU worker")
    parser.add_argument("--gigabytes", type=float, default=GIGABYTES, help="of the source")
    parser.add_argument("--side", type=int, default=256, help="of chunks")
    parser.add_argument("--bands", type=int, default=200)
    parser.add_argument("--fraction", type=float, default=FRACTION, help="bound by the range")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu_convert.json")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.cube:
        cube = np.load(options.cube)
    else:
        from benchmarks.scenes import indian_pines

        cube = indian_pines(None)
    with tempfile.TemporaryDirectory() as folder:
        found = run(
            Path(folder), cube, device=options.device, threads=options.threads, gigabytes=options.gigabytes,
            side=options.side, bands=options.bands, fraction=options.fraction, repeats=options.repeats,
        )  # fmt: skip
    if options.device != "cpu":
        import torch

        found["device"] = torch.cuda.get_device_name(torch.device(options.device))
    options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
