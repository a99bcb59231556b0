"""The real data the benchmarks run on, each scene as one array with its axis roles and error bounds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal

import numpy as np
import rasterio
import soundfile
from numpy.typing import NDArray
from scipy.io import loadmat

__all__ = ["KINDS", "Kind", "Scene", "data_root", "indian_pines", "load_scenes", "matlab_cube", "results_folder"]

Kind = Literal["hyperspectral", "hyperspectral-float", "multispectral", "timeseries"]
KINDS: tuple[Kind, ...] = ("hyperspectral", "hyperspectral-float", "multispectral", "timeseries")

REFLECTANCE_BOUNDS = (8.0, 32.0, 128.0)
"""Bounds for integer rasters in units of 1e-4 reflectance, or of raw counts."""

RANGE_FRACTIONS = (0.001, 0.005, 0.02)
"""Bounds for float rasters, as fractions of the range of the valid samples."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Scene:
    """One benchmark array.

    Parameters
    ----------
    name : str
        Short unique name.
    kind : Kind
        The group whose geometric mean the scene counts in.
    array : numpy.ndarray
        C-contiguous samples in their native dtype.
    channel_axis : int
        The axis of bands, electrodes or components.
    signal_axes : tuple of int
        The axes of space or time.
    bounds : tuple of float
        Absolute error bounds, in units of the array.
    nodata : float, optional
        Value of the samples that carry no measurement.
    """

    name: str
    kind: Kind
    array: NDArray[Any]
    channel_axis: int
    signal_axes: tuple[int, ...]
    bounds: tuple[float, ...]
    nodata: float | None = None

    @cached_property
    def valid(self) -> NDArray[np.bool_]:
        """Where the array carries measurements."""
        return np.ones(self.array.shape, bool) if self.nodata is None else self.array != self.nodata

    @cached_property
    def filled(self) -> NDArray[Any]:
        """The array with nodata replaced by the mean of its channel, for codecs that know no nodata."""
        if self.nodata is None:
            return self.array
        sums = np.sum(self.array, axis=self.signal_axes, where=self.valid, keepdims=True, dtype=np.float64)
        counts = np.sum(self.valid, axis=self.signal_axes, keepdims=True)
        return np.where(self.valid, self.array, sums / np.maximum(counts, 1)).astype(self.array.dtype)


def data_root(path: str | Path | None = None) -> Path | None:
    """Folder of the benchmark data: `path`, else ``$XWALLOC_BENCH_DATA``, else ``../shared/data``, else None."""
    chosen = path or os.environ.get("XWALLOC_BENCH_DATA")
    root = Path(chosen) if chosen else Path(__file__).resolve().parents[2] / "shared" / "data"
    if chosen and not root.is_dir():
        raise FileNotFoundError(f"Expected a folder with the benchmark data. Got {root}.")
    return root if root.is_dir() else None


def results_folder(root: Path | None) -> Path:
    """Where results go: beside those of the documents only if all scenes are there."""
    folder = Path(__file__).resolve().parent / ("out" if root is None else "results")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def load_scenes(root: Path | None, names: list[str] | None = None, kinds: list[Kind] | None = None) -> Iterator[Scene]:
    """Load scenes one by one; without a data folder only Indian Pines, which `tensorly` ships.

    Parameters
    ----------
    root : Path or None
        What `data_root` returned.
    names : list of str, optional
        Keep the scenes with one of these texts in their name.
    kinds : list of Kind, optional
        Keep the scenes of these kinds.
    """
    for name, (kind, load) in _SCENES.items():
        wanted = (not names or any(text in name for text in names)) and (not kinds or kind in kinds)
        if wanted and (root is not None or name == "indian-pines"):
            yield load(root, name=name)


def indian_pines(root: Path | None) -> NDArray[np.uint16]:
    """AVIRIS Indian Pines, (band, y, x), from the data folder or from inside the `tensorly` package."""
    file = "Indian_pines_corrected.npy"
    if root is not None:
        return _band_first(np.load(root / "hyperspectral" / file))
    with as_file(files("tensorly.datasets") / "data" / file) as path:
        return _band_first(np.load(path))


def matlab_cube(path: Path, key: str = "data") -> NDArray[Any]:
    """Read a (y, x, band) cube of a MATLAB file as (band, y, x)."""
    return _band_first(loadmat(path)[key])


def _band_first(cube: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(np.moveaxis(cube, -1, 0))


def _raster(
    name: str, kind: Kind, array: NDArray[Any], bounds: tuple[float, ...], nodata: float | None = None
) -> Scene:
    array = np.ascontiguousarray(array)
    return Scene(name=name, kind=kind, array=array, channel_axis=0, signal_axes=(1, 2), bounds=bounds, nodata=nodata)


def _series(name: str, array: NDArray[Any], bounds: tuple[float, ...]) -> Scene:
    array = np.ascontiguousarray(array)
    return Scene(name=name, kind="timeseries", array=array, channel_axis=0, signal_axes=(1,), bounds=bounds)


def _range_bounds(values: NDArray[Any]) -> tuple[float, ...]:
    return tuple(float(fraction * np.ptp(values)) for fraction in RANGE_FRACTIONS)


def _deviation_bounds(array: NDArray[Any], fractions: tuple[float, ...]) -> tuple[float, ...]:
    """Fractions of the median standard deviation of the channels of a (channel, time) array."""
    deviation = np.median(array.std(axis=1, dtype=np.float64))
    return tuple(float(fraction * deviation) for fraction in fractions)


def _indian_pines(root: Path | None, *, name: str) -> Scene:
    return _raster(name, "hyperspectral", indian_pines(root), REFLECTANCE_BOUNDS)


def _matlab(root: Path, *, name: str, file: str, key: str) -> Scene:
    return _raster(name, "hyperspectral", matlab_cube(root / "hyperspectral" / file, key), REFLECTANCE_BOUNDS)


def _corn_kernel(root: Path, *, name: str) -> Scene:
    lines, bands, samples = 31, 580, 43
    raw = np.fromfile(root / "hyperspectral" / "corn-kernel-hyperspectral.raw", "<u2")
    return _raster(name, "hyperspectral", raw.reshape(lines, bands, samples).swapaxes(0, 1), REFLECTANCE_BOUNDS)


def _samson(root: Path, *, name: str) -> Scene:
    pixels = loadmat(root / "hyperspectral" / "Samson.mat")["Y"]
    cube = pixels.reshape(-1, 95, 95).swapaxes(1, 2)  # MATLAB keeps pixels in column-major order
    return _raster(name, "hyperspectral-float", cube, _range_bounds(cube))


def _enmap(root: Path, *, name: str) -> Scene:
    folder, nodata = root / "hyperspectral" / "enmap_potsdam", -32768.0
    tiles = [[_read_tiff(folder / f"enmap_potsdam_tile_{x}_{y}.tif") for x in (64, 96, 128)] for y in (0, 32)]
    cube = np.concatenate([np.concatenate(row, axis=2) for row in tiles], axis=1)
    return _raster(name, "hyperspectral-float", cube, _range_bounds(cube[cube != nodata]), nodata)


def _geotiff(root: Path, *, name: str, file: str, bands: int, bounds: tuple[float, ...]) -> Scene:
    return _raster(name, "multispectral", _read_tiff(root / "multispectral" / file)[:bands], bounds)


def _read_tiff(path: Path) -> NDArray[Any]:
    with rasterio.open(path) as dataset:
        return np.asarray(dataset.read())


def _sentinel2(root: Path, *, name: str) -> Scene:
    cube = np.load(root / "multispectral" / "spyndex_sentinel2_10m.npz")["data"]
    return _raster(name, "multispectral", cube, REFLECTANCE_BOUNDS)


def _wfdb212(root: Path, *, name: str, file: str, channels: int, bounds: tuple[float, ...]) -> Scene:
    """Waveform database format 212: two 12-bit two's complement samples in three bytes."""
    low, middle, high = np.fromfile(root / "timeseries" / file, np.uint8).astype(np.int16).reshape(-1, 3).T
    samples = np.stack([low | (middle & 0x0F) << 8, high | (middle & 0xF0) << 4], axis=1).ravel()
    samples = (samples ^ 0x800) - 0x800
    return _series(name, samples.reshape(-1, channels).T.astype(np.int16), bounds)


def _physionet_matlab(root: Path, *, name: str) -> Scene:
    return _series(name, loadmat(root / "timeseries" / "a103l.mat")["val"], (4.0, 16.0, 64.0))


def _eeg(root: Path, *, name: str) -> Scene:
    table = np.loadtxt(root / "timeseries" / "EEG_Eye_State_Classification.csv", delimiter=",", skiprows=1)
    return _series(name, table[:, :14].T, (0.5, 2.0, 8.0))


def _imu(root: Path, *, name: str) -> Scene:
    table = np.loadtxt(root / "timeseries" / "xio_imu_sensor_data.csv", delimiter=",", skiprows=1)
    array = table[:, 1:].T.astype(np.float32)
    return _series(name, array, _deviation_bounds(array, (0.01, 0.05, 0.2)))


def _seismic(root: Path, *, name: str) -> Scene:
    """The first 8 events with all three components, one after the other in time."""
    events = np.load(root / "timeseries" / "seismic" / "ncedc_3c_NC_BG.npz")["data"]
    complete = events[events.any(axis=1).all(axis=1)][:8]
    array = complete.transpose(2, 0, 1).reshape(3, -1).astype(np.float32)
    return _series(name, array, _deviation_bounds(array, (0.01, 0.05, 0.2)))


def _audio(root: Path, *, name: str, file: str) -> Scene:
    samples, _ = soundfile.read(root / "audio" / file, dtype="int16")
    return _series(name, samples.T, (16.0, 64.0, 256.0))


_ABU = ("airport-1", "airport-2", "airport-3", "beach-1", "urban-1", "urban-2", "urban-4", "urban-5")
_SCENES: dict[str, tuple[Kind, Callable[..., Scene]]] = {
    "indian-pines": ("hyperspectral", _indian_pines),
    "vegetation": ("hyperspectral", partial(_matlab, file="a_hsi_img_for_VI_demo.mat", key="hsi_img")),
    **{f"abu-{site}": ("hyperspectral", partial(_matlab, file=f"abu-{site}.mat", key="data")) for site in _ABU},
    "corn-kernel": ("hyperspectral", _corn_kernel),
    "samson": ("hyperspectral-float", _samson),
    "enmap": ("hyperspectral-float", _enmap),
    "landsat7": ("multispectral", partial(_geotiff, file="L7_ETMs.tif", bands=6, bounds=(1.0, 2.0, 4.0))),
    "ledaps-1999": (
        "multispectral",
        partial(_geotiff, file="LE70220491999322EDC01_stack.gtif", bands=7, bounds=REFLECTANCE_BOUNDS),
    ),
    "ledaps-2002": (
        "multispectral",
        partial(_geotiff, file="LE70220492002106EDC00_stack.gtif", bands=7, bounds=REFLECTANCE_BOUNDS),
    ),
    "sentinel2": ("multispectral", _sentinel2),
    "ecg-100": ("timeseries", partial(_wfdb212, file="100.dat", channels=2, bounds=(1.0, 4.0, 16.0))),
    "ecg-a103l": ("timeseries", _physionet_matlab),
    "ecg-v102s": ("timeseries", partial(_wfdb212, file="v102s.dat", channels=4, bounds=(1.0, 4.0, 16.0))),
    "eeg": ("timeseries", _eeg),
    "imu": ("timeseries", _imu),
    "seismic": ("timeseries", _seismic),
    "audio-safari": ("timeseries", partial(_audio, file="loop_safari.flac")),
    "audio-guitar": ("timeseries", partial(_audio, file="guit_em9.flac")),
}
