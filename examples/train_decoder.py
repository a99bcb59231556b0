"""Train a decoder on one set of scenes, use it on another, and say whether that was worth it.

Two kinds of data: Indian Pines (AVIRIS, ships with tensorly), whose west half is trained on and whose east half is
stored; and made-up scenes with bands of a coarser instrument that were resampled to a fine grid, as the 20 m bands of
Sentinel-2 often are. A network can learn what resampling does, and it has little to learn from the former.

    python examples/train_decoder.py [steps]      # 600 steps: a minute on a CPU. Needs xwalloc[torch,demo].
"""

import sys
import tempfile
from importlib.resources import as_file, files
from pathlib import Path

import numpy as np
import xarray as xr

import xwalloc

SNR = 25.0
CHUNKS = {"y": 64, "x": 64}


def indian_pines() -> xr.DataArray:
    """Every fourth band of the scene."""
    with as_file(files("tensorly.datasets") / "data" / "Indian_pines_corrected.npy") as path:
        cube = np.load(path)[:, :, ::4]
    return xr.DataArray(np.moveaxis(cube, 2, 0).astype("f4"), dims=("band", "y", "x"), name="radiance")


def resampled(seed: int) -> xr.DataArray:
    """Two bands of 10 m and four of 20 m, all on a grid of 10 m."""
    rng = np.random.default_rng(seed)
    wave = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128)[None])
    wave[0, 0] = np.inf
    fields = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(6, 128, 128))) * wave**-1.2)
    coarse = fields[2:].reshape(4, 64, 2, 64, 2).mean(axis=(2, 4)).repeat(2, axis=1).repeat(2, axis=2)
    bands = 1000 + 20 * np.concatenate([fields[:2], coarse])
    return xr.DataArray(bands.astype("f4"), dims=("band", "y", "x"), name="reflectance")


def stored(scene: xr.DataArray, model: xwalloc.Model) -> tuple[int, float]:
    """Bytes of the chunks of a scene, and the root mean square of what storing it changes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scene.zarr"
        scene.to_dataset().walloc.to_zarr(path, model=model, chunks=CHUNKS, consolidated=False)
        decoded = xr.open_zarr(path, consolidated=False)[scene.name]
        nbytes = sum(file.stat().st_size for file in (path / scene.name / "c").rglob("*") if file.is_file())
        return nbytes, float(np.sqrt(((decoded - scene) ** 2).mean()))


def main(steps: int) -> None:
    """Train on some scenes of each kind, and store another one with what came out."""
    west, east = (indian_pines().isel(x=part) for part in (slice(0, 72), slice(72, 144)))
    sets = {
        "Indian Pines, halves": ([west.isel(y=slice(0, 72)), west.isel(y=slice(72, 144))], east),
        "resampled bands": ([resampled(seed) for seed in range(4)], resampled(9)),
    }
    for name, (training, other) in sets.items():
        print(f"{name}, {SNR:g} dB")
        taught = xwalloc.train(training, snr=SNR, steps=steps)
        print("  trained:     ", taught.description["train"]["report"])
        if taught.fitted.network is None:
            print("  verdict:      xwalloc.fit is enough for such data")
            continue
        linear = xwalloc.fit(other, snr=SNR)
        refined = xwalloc.train(other, model=linear, start=taught, steps=0)
        print("  other scene: ", refined.description["train"]["report"])
        for label, model in (("linear", linear), ("refined", refined)):
            nbytes, error = stored(other, model)
            print(f"  {label:<13} {nbytes} bytes of chunks, {len(model.data)} of the model, RMSE {error:.3f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 600)
