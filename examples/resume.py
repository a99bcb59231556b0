"""A conversion that is killed, and continued by the same command: what was written is not written again.

The scene is AVIRIS Indian Pines, which the package ``tensorly`` contains. Run it in an empty folder:

    python examples/resume.py
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import xarray as xr
from tensorly.datasets import load_indian_pines

import xwalloc

COMMAND = [sys.executable, "-m", "xwalloc.cli", "convert", "scene.nc", "scene.zarr", "--max-error", "40"]
COMMAND += ["--chunk", "y=29,x=29", "--quiet"]
UNITS = Path("scene.zarr/_xwalloc/conversion/units")


def main() -> None:
    """Kill, look, go on."""
    counts = np.moveaxis(np.asarray(load_indian_pines().tensor), -1, 0).astype("float32")
    xr.Dataset({"radiance": (("band", "y", "x"), counts)}).to_netcdf("scene.nc")
    process = subprocess.Popen(COMMAND)
    while process.poll() is None and len(list(UNITS.glob("*.json"))) < 5:
        time.sleep(0.01)
    process.kill()
    process.wait()
    print(f"killed after {len(list(UNITS.glob('*.json')))} of 25 units")
    try:
        xr.open_zarr("scene.zarr", consolidated=False)
    except FileNotFoundError:
        print("half a store cannot be opened")
    result = xwalloc.convert("scene.nc", "scene.zarr", max_error=40, chunks={"y": 29, "x": 29})
    print(f"complete: {result.units} units, {result.earlier} of them were there")
    print("verified" if xwalloc.verify("scene.nc", "scene.zarr").ok else "not as promised")


if __name__ == "__main__":
    main()
