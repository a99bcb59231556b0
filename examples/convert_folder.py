"""A folder of scenes becomes one sharded store, on a cluster of worker processes; then it is checked and described.

The scenes are cut from AVIRIS Indian Pines, which the package ``tensorly`` contains, and written as GeoTIFF. Run it in
an empty folder:

    python examples/convert_folder.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
import xarray as xr
from dask.distributed import Client, LocalCluster
from tensorly.datasets import load_indian_pines

import xwalloc

BOUND = 40


def write_scenes(folder: Path) -> None:
    """Four scenes of 200 bands, neighbours on the ground."""
    folder.mkdir(exist_ok=True)
    counts = np.moveaxis(np.asarray(load_indian_pines().tensor), -1, 0).astype("uint16")
    for row in range(2):
        for column in range(2):
            part = counts[:, 72 * row : 72 * row + 72, 72 * column : 72 * column + 72]
            profile = {
                "driver": "GTiff", "width": 72, "height": 72, "count": len(part), "dtype": "uint16", "nodata": 0,
                "crs": "EPSG:32616",
                "transform": rasterio.Affine(20, 0, 500_000 + 1440 * column, 0, -20, 4_480_000 - 1440 * row),
            }  # fmt: skip
            with rasterio.open(folder / f"scene_{row}{column}.tif", "w", **profile) as target:
                target.write(part)


def main() -> None:
    """Convert, verify, describe, read."""
    write_scenes(Path("scenes"))
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        result = xwalloc.convert(
            "scenes", "archive.zarr", max_error=BOUND, chunks={"y": 36, "x": 36}, shards={"y": 72, "x": 72},
            client=client,
        )  # fmt: skip
    print(f"{result.units} shards, ratio {result.ratio:.1f}, largest error {max(result.max_error.values()):g}")
    found = xwalloc.verify("scenes", "archive.zarr")
    print("verified" if found.ok else f"differences: {found.differences}")
    print("page:", xwalloc.report("scenes", "archive.zarr", "archive.html"))
    scene = xr.open_zarr("archive.zarr", group="scene_01")
    print(scene.band_data.isel(band=30).mean().values, "is the mean of band 31 of one scene")


if __name__ == "__main__":
    main()
