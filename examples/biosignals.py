"""ECG and EEG in Zarr: a bound in microvolts, what it costs, and whether heart beats and rhythms survive it.

pip install 'xwalloc[examples]'
python examples/biosignals.py 100.hea      # an ECG of PhysioNet (WFDB, format 212), with 100.dat beside it
python examples/biosignals.py eeg.csv      # an EEG: one column for each channel, in microvolts, 128 Hz
python examples/biosignals.py              # without a file: eight leads of a synthetic ECG
"""

from __future__ import annotations

import argparse
import io
import tempfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import xarray as xr
from numcodecs import Blosc
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.signal import butter, find_peaks, sosfiltfilt, welch

import xwalloc

BOUNDS = {"ecg": (2.5, 10.0, 40.0), "eeg": (0.5, 2.0, 8.0)}  # uV
CHUNKS = (512, 2048, 8192)
RHYTHMS = {"theta": (4, 8), "alpha": (8, 13), "beta": (13, 30)}  # Hz


def load(path: Path | None, seconds: float | None = None) -> xr.DataArray:
    """A recording (channel, time) in microvolts, as float32."""
    if path is None:
        values, rate, kind = synthetic_ecg(), 360.0, "ecg"
    elif path.suffix == ".hea":
        values, rate, kind = *read_wfdb(path), "ecg"
    else:
        table = np.genfromtxt(path, delimiter=",", skip_header=1)
        table = table[(np.abs(table) < 1e4).all(1), :14]  # not the few spikes; the 15th column is a label
        values, rate, kind = table.T, 128.0, "eeg"
    values = values if seconds is None else values[:, : int(seconds * rate)]
    return xr.DataArray(
        values.astype(np.float32), dims=("channel", "time"), name="potential",
        coords={"time": ("time", np.arange(values.shape[1]) / rate, {"units": "s"})},
        attrs={"units": "uV", "sampling_rate": rate, "kind": kind},
    )  # fmt: skip


def read_wfdb(header: Path) -> tuple[NDArray[np.float64], float]:
    """Two millivolt signals of format 212: 12 bits a sample, two samples in three bytes (physionet.org, signal(5))."""
    lines = [line.split() for line in header.read_text().splitlines() if line and not line.startswith("#")]
    rate, signals = float(lines[0][2].split("/")[0]), lines[1 : 1 + int(lines[0][1])]
    if len(signals) != 2 or any(fields[1] != "212" for fields in signals):
        raise ValueError(f"Expected a record of two signals in format 212. Got {signals} in {header}.")
    raw = np.fromfile(header.with_name(signals[0][0]), np.uint8).reshape(-1, 3).astype(np.int32)
    words = np.stack([raw[:, 0] | (raw[:, 1] & 15) << 8, raw[:, 2] | (raw[:, 1] >> 4) << 8])
    words -= (words >> 11) << 12  # two's complement
    gains = [float(fields[2].split("/")[0].split("(")[0]) for fields in signals]
    return (words - [[int(fields[4])] for fields in signals]) * 1000 / np.array(gains)[:, None], rate


def synthetic_ecg(minutes: float = 5, rate: float = 360, leads: int = 8) -> NDArray[np.float64]:
    """Waves P, Q, R, S and T as Gaussians (after McSharry and others, 2003), with a varying pulse, drift and noise."""
    rng = np.random.default_rng(0)
    t = np.arange(int(60 * minutes * rate)) / rate
    phase = np.cumsum(1.15 + 0.08 * np.sin(2 * np.pi * 0.1 * t) + 0.04 * np.sin(2 * np.pi * 0.25 * t)) / rate % 1
    waves = [(0.30, 0.025, 120), (0.46, 0.008, -110), (0.5, 0.01, 1100), (0.53, 0.009, -250), (0.78, 0.05, 300)]
    sources = np.stack([a * np.exp(-((phase - at) ** 2) / (2 * w * w)) for at, w, a in waves])
    drift = 60 * np.sin(2 * np.pi * 0.2 * t + rng.uniform(0, 6, (leads, 1)))
    return rng.uniform(0.4, 1.3, (leads, len(waves))) @ sources + drift + rng.normal(scale=4, size=(leads, t.size))


def beats(values: NDArray[Any], rate: float) -> NDArray[np.int64]:
    """Samples of the R peaks of the first channel: maxima of 5 to 20 Hz, 0.25 s apart or more."""
    band = sosfiltfilt(butter(2, (5, 20), "bandpass", fs=rate, output="sos"), values[0].astype(np.float64))
    return find_peaks(band, height=0.4 * np.percentile(band, 99.5), distance=int(rate / 4))[0]


def survived(original: NDArray[Any], decoded: NDArray[Any], rate: float, kind: str) -> str:
    """What analysis finds in the decoded recording, beside what it finds in the original."""
    if kind == "ecg":
        one, two = beats(original, rate), beats(decoded, rate)
        shifts = np.abs(one[:, None] - two[None, :]).min(1)
        return f"{len(two)} of {len(one)} beats, {(shifts == 0).sum()} at the same sample, others within {shifts.max()}"
    frequency, before = welch(original, rate, nperseg=512)
    after, changes = welch(decoded, rate, nperseg=512)[1], []
    for name, (low, high) in RHYTHMS.items():
        band = (frequency >= low) & (frequency < high)
        changes.append(f"{name} {np.abs(after[:, band].sum(1) / before[:, band].sum(1) - 1).max():.1%}")
    return "power changed by at most " + ", ".join(changes)


def stored(recording: xr.DataArray, folder: Path, **options: Any) -> tuple[int, NDArray[Any]]:
    """Bytes of the array in a store, metadata included, and what comes back."""
    store = folder / "recording.zarr"
    recording.to_dataset().walloc.to_zarr(store, mode="w", channel_dim="channel", consolidated=False, **options)
    with xr.open_zarr(store, consolidated=False) as back:
        values = back[str(recording.name)].values
    return sum(file.stat().st_size for file in (store / str(recording.name)).rglob("*") if file.is_file()), values


def peers(values: NDArray[Any], bound: float, rate: float) -> dict[str, int]:
    """Bytes of lossless codecs after rounding to multiples of twice the bound, which is then the bound of them all."""
    steps = np.rint(values / (2 * bound)).astype(np.int16)
    sizes = {
        "zlib": len(zlib.compress(np.diff(steps, prepend=0).astype(np.int16).tobytes(), 9)),
        "Blosc (zstd)": len(Blosc("zstd", 9, Blosc.BITSHUFFLE).encode(steps)),
        "FLAC": 0,
    }
    for first in range(0, len(steps), 8):  # FLAC has at most eight channels
        file = io.BytesIO()
        soundfile.write(file, steps[first : first + 8].T, int(rate), "PCM_16", format="FLAC", compression_level=1.0)
        sizes["FLAC"] += file.getbuffer().nbytes
    return sizes


def measure(path: Path | None = None, seconds: float | None = None) -> dict[str, Any]:
    """Sizes at each bound beside other codecs and what survives; and sizes of short chunks with a model and without."""
    recording = load(path, seconds)
    rate, kind, raw = recording.attrs["sampling_rate"], recording.attrs["kind"], 2 * recording.size  # int16 files
    bounds, chunks = [], []
    with tempfile.TemporaryDirectory() as folder:
        for bound in BOUNDS[kind]:
            size, back = stored(recording, Path(folder), max_error=bound)
            error = float(np.abs(back.astype(np.float64) - recording.values).max())
            sizes = {"xwalloc": size} | peers(recording.values, bound, rate)
            found = survived(recording.values, back, rate, kind)
            bounds.append({"bound": bound, "max_error": error, "raw": raw, "bytes": sizes, "survived": found})
        middle = BOUNDS[kind][1]
        model = xwalloc.fit(recording, max_error=middle, channel_dim="channel")
        for length in CHUNKS:
            options = {"own": {"max_error": middle}, "shared": {"model": model}}
            sizes = {k: stored(recording, Path(folder), chunks={"time": length}, **o)[0] for k, o in options.items()}
            chunks.append({"length": length, "bound": middle, "bytes": sizes})
    return {"shape": recording.shape, "kind": kind, "rate": rate, "bounds": bounds, "chunks": chunks}


def main() -> None:
    """Print both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?", help="header of a WFDB record, or CSV (default: synthetic ECG)")
    path = parser.parse_args().file
    result = measure(path)
    names = result["bounds"][0]["bytes"]
    table = Table(title=f"{path or 'synthetic ECG'}: times smaller than int16", title_justify="left", box=box.SIMPLE)
    for heading in ("bound, uV", "largest error", *names, "what survives"):
        table.add_column(heading)
    for row in result["bounds"]:
        ratios = (f"{row['raw'] / row['bytes'][name]:.1f}" for name in names)
        table.add_row(f"{row['bound']:g}", f"{row['max_error']:.4g}", *ratios, row["survived"])
    Console().print(table)
    for row in result["chunks"]:
        own, shared = row["bytes"].values()
        print(
            f"chunks of {row['length']:5} samples, {row['bound']:g} uV: {own:,} bytes, {shared:,} with a model of all"
        )


if __name__ == "__main__":
    main()
