"""Read a corner of a large store through Dask, and ask frames what is in them without decoding anything."""

import tempfile
from pathlib import Path

import numpy as np
import xarray as xr

import xwalloc

y, x = np.mgrid[:512, :512]
image = 1000 * np.sin(x / 40) * np.cos(y / 50)
cube = np.stack([image * gain + 20 * band for band, gain in enumerate(np.linspace(0.5, 2, 12))])
da = xr.DataArray(cube.astype("int16"), dims=("band", "y", "x"), name="counts")

with tempfile.TemporaryDirectory() as folder:
    store = Path(folder) / "tiles.zarr"
    encoding = xwalloc.encoding(da, max_error=4, chunks={"y": 128, "x": 128})
    da.to_zarr(store, encoding=encoding, consolidated=False)

    with xr.open_zarr(store, consolidated=False) as ds:  # nothing is read yet; a task is a chunk
        corner = ds.counts.isel(y=slice(0, 100), x=slice(0, 100)).load()  # decodes one chunk of 16
        means = ds.counts.mean(("y", "x")).compute()  # decodes all, both cores busy
    print(f"corner {corner.shape}, band means {means.values.round(1)[:3]} ...")
    assert abs(corner.astype("int32") - da[:, :100, :100]).max() <= 4

    frame = (store / "counts/c/0/1/2").read_bytes()
    info = xwalloc.inspect(frame)
    print(f"{info.mode} frame of {info.shape} {info.dtype}: {info.target}, ratio {info.ratio:.1f}")
    for section, size in info.sections.items():
        print(f"  {section:16} {size:6} bytes")
