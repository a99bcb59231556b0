"""NDVI of a compressed scene, lazily: xarray reads and decodes the chunks that are needed, Dask computes.

On a cluster, `xwalloc.persist` decodes once, on GPU workers where there are any, and leaves what follows free. The
scene is AVIRIS Indian Pines, which the package ``tensorly`` contains. Run it in an empty folder:

    python examples/ndvi.py
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from dask.distributed import Client, LocalCluster
from tensorly.datasets import load_indian_pines

import xwalloc

RED, INFRARED = 650.0, 860.0
"""Nanometres."""


def scene() -> xr.Dataset:
    """The scene with approximate wavelengths of its bands."""
    counts = np.moveaxis(np.asarray(load_indian_pines().tensor), -1, 0).astype("float32")
    kept = np.delete(np.arange(220), [*range(103, 108), *range(149, 163), 219])  # without bands of water vapour
    wavelengths = ("band", 400 + 9.6 * kept, {"units": "nm"})
    return xr.Dataset({"radiance": (("band", "y", "x"), counts)}, {"wavelength": wavelengths})


def main() -> None:
    """Write, open, compute."""
    original = scene()
    xwalloc.convert(original, "scene.zarr", max_error=20, chunks={"y": 48, "x": 48})
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster) as client:
        stored = xr.open_zarr("scene.zarr").radiance
        bands = [int(np.argmin(abs(stored.wavelength.values - nm))) for nm in (RED, INFRARED)]
        red, infrared = xwalloc.persist(stored.isel(band=bands), client=client)
        ndvi = (infrared - red) / (infrared + red)
        print(f"NDVI from {float(ndvi.min()):.3f} to {float(ndvi.max()):.3f}")
        exact = original.radiance.isel(band=bands)
        expected = (exact[1] - exact[0]) / (exact[1] + exact[0])
        print(f"largest difference to that of the original: {float(abs(ndvi - expected).max()):.4f}")


if __name__ == "__main__":
    main()
