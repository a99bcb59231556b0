"""Recordings of many channels, (channel, time): what correlated channels save, and a bound for each variable."""

import tempfile
from pathlib import Path

import numpy as np
import xarray as xr
import zarr

import xwalloc

rng = np.random.default_rng(0)
time = np.arange(60_000) / 250  # four minutes at 250 Hz
sources = np.stack([np.sin(2 * np.pi * f * time + p) * np.sin(2 * np.pi * time / 37) for f, p in ((1, 0), (9, 1))])
eeg = 30 * rng.normal(size=(16, 2)) @ sources + rng.normal(scale=0.5, size=(16, time.size))
ds = xr.Dataset(
    {
        "eeg": (("channel", "time"), eeg.astype("float32"), {"units": "uV"}),
        "trigger": ("time", (time % 10 < 0.1).astype("int8"), {"flag_values": [0, 1]}),  # stored exactly
    },
    coords={"time": ("time", time, {"units": "s"})},
)

with tempfile.TemporaryDirectory() as folder:
    for name, options in (
        ("0.5 uV", {"max_error": {"eeg": 0.5}}),
        ("40 dB", {"snr": {"eeg": 40}}),
        ("lossless", {"lossless": True}),
    ):
        store = Path(folder) / f"{name}.zarr"
        ds.to_zarr(store, encoding=xwalloc.encoding(ds, **options), consolidated=False)
        with xr.open_zarr(store, consolidated=False) as back:
            error = float(abs(back.eeg - ds.eeg).max())
            assert back.trigger.identical(ds.trigger)
        array = zarr.open_array(store / "eeg", mode="r")
        print(f"{name:9} {array.nbytes / array.nbytes_stored():6.2f} times smaller, largest error {error:.4f} uV")
