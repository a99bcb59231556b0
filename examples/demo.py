"""Write a real hyperspectral scene to Zarr with a guaranteed error, and look at what comes back.

The scene is AVIRIS Indian Pines (200 bands, those of water absorption left out), which the package ``tensorly``
contains. It is written with one line, opened again by another process that never imports xwalloc, checked sample by
sample, and set beside zstd, zfp and SZ3 at the same bound. Run it with ``make demo``, or with another bound:

    python examples/demo.py --max-error 4
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
import zarr
from numcodecs import Blosc, get_codec
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

import xwalloc

OUTPUT = Path(__file__).resolve().parents[1] / "demo-output"
REPEATS = 3

READER = """
import json, sys, time
import numpy as np, xarray as xr
assert "xwalloc" not in sys.modules
start = time.perf_counter()
with xr.open_zarr(sys.argv[1], consolidated=False) as ds:
    values = ds["radiance"].values
seconds = time.perf_counter() - start
np.save(sys.argv[2], values)
print(json.dumps({"seconds": seconds, "bands": ds.sizes["band"], "source": ds.attrs["source"]}))
"""


def load_scene() -> xr.Dataset:
    """AVIRIS Indian Pines as a dataset (band, y, x) in raw counts, with wavelengths and coordinates in metres."""
    from tensorly.datasets import load_indian_pines

    bunch = load_indian_pines()
    counts = np.ascontiguousarray(np.moveaxis(np.asarray(bunch.tensor), -1, 0), np.uint16)
    metres = {"units": "m", "comment": "20 m pixels, counted from the first one; the file has no map coordinates"}
    return xr.Dataset(
        {"radiance": (("band", "y", "x"), counts, {"units": "1", "long_name": "scaled radiance counts"})},
        coords={
            "wavelength": ("band", np.asarray(bunch.ticks[-1]), {"units": "nm", "long_name": "band centre"}),
            "y": ("y", 20.0 * np.arange(counts.shape[1]) + 10, metres),
            "x": ("x", 20.0 * np.arange(counts.shape[2]) + 10, metres),
        },
        attrs={
            "title": "AVIRIS Indian Pines, Test Site 3, 12 June 1992",
            "source": f"tensorly {importlib.metadata.version('tensorly')}, tensorly.datasets.load_indian_pines",
            "references": " ".join(str(bunch.reference).split()),
        },
    )


@dataclass(frozen=True)
class Method:
    """One way to store the scene: ``encode(array)`` gives bytes-like, ``decode(blob)`` gives the array."""

    name: str
    encode: Callable[[NDArray[Any]], Any]
    decode: Callable[[Any], NDArray[Any]]


def methods(cube: NDArray[np.uint16], bound: float) -> list[Method]:
    """The codecs to compare. All see the whole cube at once, and codecs of floats get what rounding leaves them.

    Counts are integers, so a float within ``bound + 0.499`` rounds to a count within `bound`.
    """
    import zfpy
    from pysz import sz, szAlgorithm, szConfig, szErrorBoundMode

    zstd = Blosc(cname="zstd", clevel=9, shuffle=Blosc.BITSHUFFLE)
    step = 2 * int(bound) + 1
    config = szConfig(cube.shape)
    config.errorBoundMode, config.absErrorBound = szErrorBoundMode.ABS, int(bound) + 0.499
    config.cmprAlgo = szAlgorithm.LORENZO_REG  # on this scene smaller than its default, interpolation
    axes = {"id": "xwalloc", "channel_axis": 0, "signal_axes": [1, 2]}
    lossless, bounded = get_codec({**axes, "lossless": True}), get_codec({**axes, "max_error": bound})

    def whole(blob: bytes) -> NDArray[np.uint16]:
        return np.frombuffer(zstd.decode(blob), np.uint16).reshape(cube.shape)

    def rounded(values: NDArray[Any]) -> NDArray[np.uint16]:
        return np.clip(np.rint(values), 0, 65535).astype(np.uint16)

    return [
        Method("zstd, lossless", zstd.encode, whole),
        Method("xwalloc, lossless", lossless.encode, lossless.decode),
        Method(
            "zstd, quantised",
            lambda array: zstd.encode((array + np.uint16(bound)) // np.uint16(step)),
            lambda blob: whole(blob) * np.uint16(step),
        ),
        Method(
            "zfp",
            lambda array: zfpy.compress_numpy(array.astype(np.float32), tolerance=int(bound) + 0.499),
            lambda blob: rounded(zfpy.decompress_numpy(blob)),
        ),
        Method(
            "SZ3",
            lambda array: sz.compress(array.astype(np.float32), config)[0],
            lambda blob: rounded(sz.decompress(blob, np.float32, cube.shape)[0]),
        ),
        Method("xwalloc", bounded.encode, bounded.decode),
    ]


def largest_error(original: NDArray[Any], decoded: NDArray[Any]) -> int:
    """Largest absolute difference of two integer arrays."""
    return int(np.max(np.abs(original.astype(np.int64) - decoded)))


def compare(cube: NDArray[np.uint16], bound: float) -> Table:
    """Sizes, errors and times of every method, measured here and now."""
    table = Table(title=f"The cube in memory, bound {bound:g} counts", title_justify="left", box=box.SIMPLE)
    table.add_column("", no_wrap=True)
    for heading in ("bytes", "ratio", "bits/\nsample", "max\nerror", "encode\ns", "decode\ns"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_row("raw uint16", f"{cube.nbytes:,}", "1.00", f"{8 * cube.itemsize:.2f}", "0", "", "", end_section=True)
    for method in methods(cube, bound):
        decoded = method.decode(method.encode(cube))  # a first time, so that compiled kernels are there
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            blob = method.encode(cube)
            middle = time.perf_counter()
            decoded = method.decode(blob)
            seconds.append((middle - start, time.perf_counter() - middle))
        encode, decode = np.median(seconds, axis=0)
        size = memoryview(blob).nbytes
        table.add_row(
            method.name,
            f"{size:,}",
            f"{cube.nbytes / size:.2f}",
            f"{8 * size / cube.size:.2f}",
            f"{largest_error(cube, decoded)}",
            f"{encode:.2f}",
            f"{decode:.2f}",
            end_section=method.name == "xwalloc, lossless",
            style="bold" if method.name == "xwalloc" else None,
        )
    return table


def read_elsewhere(store: Path) -> tuple[NDArray[Any], dict[str, Any]]:
    """What a fresh Python process that does not import xwalloc reads from the store."""
    values = OUTPUT / "decoded.npy"
    command = [sys.executable, "-c", READER, str(store), str(values)]
    answer = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
    decoded = np.load(values)
    values.unlink()
    return decoded, answer


def draw(scene: xr.Dataset, decoded: NDArray[Any], bound: float, ratio: float, path: Path) -> None:
    """Original and decoded in false colour, the error of one band, and the spectrum of one pixel."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    cube, nm = scene["radiance"].values, scene["wavelength"].values
    bands = [int(np.abs(nm - colour).argmin()) for colour in (860, 660, 550)]
    low, high = np.percentile(cube[bands], (1, 99), axis=(1, 2))[:, :, None, None]
    error = decoded.astype(np.int64) - cube
    row, column = np.unravel_index(np.argmax(cube[bands[0]]), cube.shape[1:])  # the brightest vegetation
    extent = (0, 20 * cube.shape[2] / 1000, 20 * cube.shape[1] / 1000, 0)
    place = (0.02 * (column + 0.5), 0.02 * (row + 0.5))

    plt.rcParams.update({"font.size": 8.5, "axes.titlesize": 9, "axes.titlelocation": "left", "axes.linewidth": 0.6})
    figure = plt.figure(figsize=(9.6, 7.2), layout="constrained", dpi=160)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.12, 1))
    images = top.subplots(1, 3, sharex=True, sharey=True)
    for axes, values, title in (
        (images[0], cube, "original"),
        (images[1], decoded, f"decoded, {ratio:.1f} times smaller"),
    ):
        colours = np.clip((values[bands] - low) / (high - low), 0, 1)
        axes.imshow(np.moveaxis(colours, 0, -1), extent=extent, interpolation="nearest")
        axes.plot(*place, "o", ms=9, mfc="none", mec="white", mew=1.2)
        axes.set(title=title, xlabel="x / km")
    picture = images[2].imshow(
        error[bands[0]], cmap="RdBu_r", vmin=-bound, vmax=bound, extent=extent, interpolation="nearest"
    )
    images[2].set(title=f"error at {nm[bands[0]]:.0f} nm", xlabel="x / km")
    images[0].set(ylabel="y / km")
    top.colorbar(picture, ax=images[2], label="decoded - original / counts", shrink=0.8, ticks=[-bound, 0, bound])

    spectrum, rest = bottom.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    close = spectrum.inset_axes((0.5, 0.42, 0.28, 0.56), xlim=(1560, 1720))
    # The four spectrometers of AVIRIS overlap a little, and bands of water vapour are missing: lines break there.
    pieces = np.split(np.arange(nm.size), np.flatnonzero((np.diff(nm) < 0) | (np.diff(nm) > 30)) + 1)
    for i, piece in enumerate(pieces):
        x, original, found = nm[piece], cube[piece, row, column].astype(np.int64), decoded[piece, row, column]
        labels = [None] * 3 if i else ["original", "decoded", f"bound, ±{bound:g} counts"]
        for axes, size in ((spectrum, 2), (close, 4)):
            axes.fill_between(x, original - bound, original + bound, color="C0", alpha=0.3, lw=0, label=labels[2])
            axes.plot(x, original, color="C0", lw=1, label=labels[0])
            axes.plot(x, found, ".", color="C1", ms=size, label=labels[1])
        rest.plot(x, found - original, ".", color="C1", ms=3)
    shown = cube[(nm > close.get_xlim()[0]) & (nm < close.get_xlim()[1]), row, column]
    close.set_ylim(int(shown.min()) - 2 * bound, int(shown.max()) + 2 * bound)
    close.tick_params(labelsize=7)
    spectrum.indicate_inset_zoom(close, edgecolor="0.5", lw=0.6)
    spectrum.set(title="spectrum of the circled pixel", ylabel="counts")
    spectrum.legend(frameon=False, loc="upper right")
    rest.axhspan(-bound, bound, color="C0", alpha=0.3, lw=0)
    rest.axhline(0, color="0.4", lw=0.6)
    rest.set(xlabel="wavelength / nm", ylabel="error / counts", yticks=[-bound, 0, bound])
    rest.set(ylim=(-1.4 * bound, 1.4 * bound), xlim=(nm.min() - 20, nm.max() + 20))
    for axes in (spectrum, rest):
        axes.spines[["top", "right"]].set_visible(False)
    bottom.align_ylabels([spectrum, rest])
    top.suptitle(f"{scene.attrs['title']}: every sample within {bound:g} counts", fontsize=10.5, x=0.01, ha="left")
    figure.savefig(path)


def main() -> int:
    """Run the demonstration; the exit status is 1 if the bound does not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--max-error", type=float, default=16.0, help="bound in counts (default: 16)")
    bound = parser.parse_args().max_error
    if not 1 <= bound <= 1000:
        parser.error(f"expected --max-error from 1 to 1000 counts, got {bound:g}")
    console = Console(highlight=False)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("matplotlib").setLevel(logging.WARNING)
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    store = OUTPUT / "indian-pines.zarr"

    scene = load_scene()
    cube = scene["radiance"].values
    console.print(f"[bold]{scene.attrs['title']}[/]\n{scene.attrs['references']}", soft_wrap=True)
    console.print(f"{cube.shape} {cube.dtype}, counts from {cube.min()} to {cube.max()}\n")

    console.print("Writing. The first time, kernels are compiled: this takes a minute or so ...")
    ds = scene.chunk({"y": 73})  # two tasks for Dask
    start = time.perf_counter()
    ds.to_zarr(store, encoding=xwalloc.encoding(ds, max_error=bound, channel_dim="band"), consolidated=False)
    written = time.perf_counter() - start
    on_disk = zarr.open_array(store / "radiance", mode="r").nbytes_stored()
    ratio = cube.nbytes / on_disk
    console.print(
        f"Written through Dask in {written:.1f} s (compilation included, where it was needed):\n"
        f"{cube.nbytes:,} bytes became {on_disk:,} on disk, {ratio:.2f} times smaller, metadata included.",
        soft_wrap=True,
    )

    decoded, answer = read_elsewhere(store)
    error = largest_error(cube, decoded)
    holds = error <= bound and decoded.dtype == cube.dtype and decoded.shape == cube.shape
    console.print(
        f"Read in {answer['seconds']:.1f} s by a fresh process that does not import xwalloc; its source attribute says "
        f"{answer['source']!r}.\nLargest error over all {cube.size:,} samples: {error} counts, bound {bound:g}: "
        + ("[bold green]holds[/]" if holds else "[bold red]VIOLATED[/]")
        + "\n",
        soft_wrap=True,
    )

    console.print(compare(cube, bound))
    console.print(
        f"Seconds: medians of {REPEATS} on this machine, with the threads that each codec uses by default.\n"
        f"zstd: Blosc at level 9 with bit shuffling; quantised: bins of {2 * int(bound) + 1} counts.\n"
        "zfp and SZ3: float32, at the bound plus 0.499, rounded to counts. zfp stays well inside its tolerance.\n"
        "xwalloc: the cube as one chunk. Its entropy tables were fitted to scenes that include this one.\n",
        soft_wrap=True,
    )
    draw(scene, decoded, bound, ratio, OUTPUT / "demo.png")
    console.print(f"Picture: {OUTPUT / 'demo.png'}\nStore:   {store}")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
