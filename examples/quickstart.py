"""A multispectral raster to Zarr and back, with every value within a bound."""

import tempfile
from pathlib import Path

import numpy as np
import xarray as xr

import xwalloc

rng = np.random.default_rng(0)
y, x = np.mgrid[:256, :256]
fields = 0.25 + 0.1 * np.sin(x / 31) * np.cos(y / 23) + 0.05 * ((x // 64 + y // 64) % 2)
bands = np.linspace(0.4, 1.6, 8)[:, None, None] * fields + rng.normal(scale=0.002, size=(8, 256, 256))
bands[:, :40, :60] = np.nan  # clouds
ds = xr.Dataset(
    {"reflectance": (("band", "y", "x"), bands.astype("float32"), {"units": "1"})},
    coords={"wavelength": ("band", np.linspace(440, 2200, 8), {"units": "nm"})},
)

with tempfile.TemporaryDirectory() as folder:
    store = Path(folder) / "scene.zarr"
    ds.to_zarr(store, encoding=xwalloc.encoding(ds, max_error=0.002), consolidated=False)

    with xr.open_zarr(store, consolidated=False) as back:  # whoever opens it needs xwalloc installed, and no import
        error = float(abs(back.reflectance - ds.reflectance).max())
        clouds = bool((back.reflectance.isnull() == ds.reflectance.isnull()).all())
    stored = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())

print(f"{ds.reflectance.nbytes:,} bytes in {stored:,}, largest error {error:.6f}, clouds kept: {clouds}")
assert error <= 0.002
assert clouds
