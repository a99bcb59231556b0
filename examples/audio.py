"""Stereo audio in Zarr: sizes and signal-to-noise ratios beside FLAC, Vorbis and Opus, and a copy to listen to.

An SNR is not a listening test. Vorbis and Opus shape their noise so that ears miss it, and do not aim at a high SNR; a
copy of theirs may sound better than one of xwalloc with more decibels. What xwalloc offers is for measurements: an
array in Zarr, any part of it read alone, with an error that is bounded or a ratio that was asked for.

    pip install 'xwalloc[examples]'
    python examples/audio.py recording.flac     # WAV, FLAC, Ogg ...; without a file, a synthetic chord
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import xarray as xr
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.signal import correlate, resample_poly

import xwalloc

FULL_SCALE = 32768
OPUS_RATE = 48_000
TARGETS: tuple[dict[str, Any], ...] = ({"lossless": True}, {"max_error": 16.0}, {"snr": 40}, {"snr": 30}, {"snr": 20})
LEVELS = {"VORBIS": (0.1, 0.4, 0.7), "OPUS": (0.3, 0.6, 0.9)}  # of compression, 0 to 1, as soundfile has them

COLUMNS = {"kbit_per_s": ".0f", "snr": ".1f", "max_error": ".0f", "encode_seconds": ".2f", "decode_seconds": ".2f"}


def load(path: Path | None, seconds: float | None = None) -> xr.DataArray:
    """16-bit samples (channel, time) of a file, or of a chord of decaying strings with some hiss: synthetic."""
    if path is not None:
        samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
    else:
        rate, rng = 44_100, np.random.default_rng(0)
        t = np.arange(int(10 * rate)) / rate
        samples = rng.normal(scale=2.0, size=(t.size, 2))
        for i, pitch in enumerate((110.0, 164.8, 207.7, 246.9, 329.6)):
            for k in range(1, 13):
                tone = np.sin(2 * np.pi * pitch * k * t * (1 + 1e-4 * k * k)) * np.exp(-((t - 0.1 * i) % 5) * k / 3)
                samples += tone[:, None] * (1500 / k) * np.array([1 - i / 6, 1 / 6 + i / 6])
        samples = np.clip(np.rint(samples), -FULL_SCALE, FULL_SCALE - 1).astype(np.int16)
    samples = samples if seconds is None else samples[: int(seconds * rate)]
    time_axis = ("time", np.arange(len(samples)) / rate, {"units": "s"})
    attrs = {"sampling_rate": rate}
    return xr.DataArray(samples.T.copy(), dims=("channel", "time"), coords={"time": time_axis}, attrs=attrs, name="pcm")


def snr(original: NDArray[Any], decoded: NDArray[Any]) -> float:
    """Signal-to-noise ratio in dB."""
    difference = original.astype(np.float64) - decoded
    noise = float(np.mean(difference**2))
    return 10 * np.log10(float(np.var(original.astype(np.float64))) / noise) if noise else np.inf


def through_zarr(sound: xr.DataArray, target: dict[str, Any], folder: Path) -> tuple[int, NDArray[Any], float, float]:
    """Bytes of the array in its store, decoded samples, seconds to write and to read."""
    store = folder / "sound.zarr"
    start = time.perf_counter()
    encoding = xwalloc.encoding(sound, channel_dim="channel", **target)
    sound.to_zarr(store, mode="w", encoding=encoding, consolidated=False)
    middle = time.perf_counter()
    with xr.open_zarr(store, consolidated=False) as back:
        decoded = back.pcm.values
    end = time.perf_counter()
    size = sum(file.stat().st_size for file in (store / "pcm").rglob("*") if file.is_file())
    return size, decoded, middle - start, end - middle


def through_file(sound: xr.DataArray, kind: str, level: float) -> tuple[int, NDArray[Any], float, float]:
    """The same through FLAC, Vorbis or Opus, aligned with the original."""
    rate = sound.attrs["sampling_rate"]
    samples = sound.values.T
    if kind == "OPUS" and rate != OPUS_RATE:  # it knows some rates only; the resampling is not timed
        samples = np.rint(
            np.clip(resample_poly(samples.astype(np.float64), OPUS_RATE, rate), -FULL_SCALE, FULL_SCALE - 1)
        )
        samples, rate = samples.astype(np.int16), OPUS_RATE
    file = io.BytesIO()
    form, subtype = ("FLAC", "PCM_16") if kind == "FLAC" else ("OGG", kind)
    start = time.perf_counter()
    with soundfile.SoundFile(
        file, "w", rate, samples.shape[1], format=form, subtype=subtype, compression_level=level
    ) as out:
        for begin in range(0, len(samples), rate):  # in pieces: encoders keep what they are given on the stack
            out.write(samples[begin : begin + rate])
    middle = time.perf_counter()
    file.seek(0)
    decoded = soundfile.read(file, dtype="int16", always_2d=True)[0]
    end = time.perf_counter()
    if rate != sound.attrs["sampling_rate"]:
        decoded = resample_poly(decoded.astype(np.float64), sound.attrs["sampling_rate"], rate)
    return file.getbuffer().nbytes, aligned(sound.values, decoded.T), middle - start, end - middle


def aligned(original: NDArray[Any], decoded: NDArray[Any]) -> NDArray[Any]:
    """Decoded samples with the length of the original, without the delay of a codec, which correlation finds."""
    length = original.shape[1]
    decoded = np.pad(decoded[:, :length], ((0, 0), (0, max(0, length - decoded.shape[1]))))
    match = correlate(decoded.sum(0, dtype=np.float64), original.sum(0, dtype=np.float64), method="fft")
    return np.roll(decoded, length - 1 - int(np.argmax(match)), axis=1)


def measure(path: Path | None = None, copy: Path | None = None, seconds: float | None = None) -> list[dict[str, Any]]:
    """One row for every codec and setting; the 30 dB of xwalloc are written to `copy` as FLAC, to listen to."""
    sound = load(path, seconds)
    length, rate = sound.sizes["time"], sound.attrs["sampling_rate"]
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for target in TARGETS:
            through_zarr(sound[:, :rate], target, Path(folder))  # kernels are compiled, or loaded, before time counts
            found = through_zarr(sound, target, Path(folder))
            if copy is not None and target == {"snr": 30}:
                soundfile.write(copy, found[1].T, rate, format="FLAC")
            ((name, value),) = target.items()
            results.append(("xwalloc", name if value is True else f"{name} {value:g}", found))
    results.append(("FLAC", "lossless", through_file(sound, "FLAC", 1.0)))
    for kind, levels in LEVELS.items():
        results += [(kind.capitalize(), f"level {level:g}", through_file(sound, kind, level)) for level in levels]
    return [
        {
            "codec": codec, "setting": setting, "kbit_per_s": 8e-3 * size * rate / length,
            "snr": snr(sound.values, decoded), "max_error": float(abs(sound.values - decoded.astype(np.float64)).max()),
            "encode_seconds": encode, "decode_seconds": decode,
        }
        for codec, setting, (size, decoded, encode, decode) in results
    ]  # fmt: skip


def main() -> None:
    """Print the comparison, and leave a copy to listen to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?", help="sound file (default: a synthetic chord)")
    parser.add_argument("--copy", type=Path, default=Path("copy-30dB.flac"), help="where the copy goes")
    options = parser.parse_args()
    table = Table(title=str(options.file or "synthetic chord"), title_justify="left", box=box.SIMPLE)
    for heading in ("codec", "setting", "kbit/s", "SNR, dB", "largest\nerror", "encode, s", "decode, s"):
        table.add_column(heading, justify="left" if heading in ("codec", "setting") else "right")
    for row in measure(options.file, options.copy):
        texts = (format(row[key], form) for key, form in COLUMNS.items())
        table.add_row(row["codec"], row["setting"], *texts)
    Console().print(table)
    print(f"Copy at 30 dB: {options.copy}")


if __name__ == "__main__":
    main()
