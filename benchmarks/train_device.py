"""How fast a network is trained on a CPU and on a CUDA device, and whether what comes out is the same everywhere.

One small job is trained on the CPU and, where there is one, on CUDA in float32 and in mixed precision, with the batch
of `xwalloc.train` and with a larger one; then `LatentLoader` is timed with its batches on each. No data are needed:
without --scene (a .npy of channel, y, x) fields with the spectrum of natural scenes stand for one. No store is written.

    python -m benchmarks.train_device --output train_device.json
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from xwalloc.learning import LatentDataset, LatentLoader
from xwalloc.models.neural import Network
from xwalloc.training import Architecture, Blocks, Options, Progress, train_network
from xwalloc.training.blocks import Quantised, quantise
from xwalloc.transform import spectral

BANDS, SIDE, LEVELS = 24, 256, 4
STEPS, PLACES, MANY_PLACES = 200, 8192, 131072
WIDTHS = (32,)
"""As `xwalloc.train` has it."""

NOISE = 0.1
"""Deviation of the noise in the made-up scene, by that of its weakest field."""


def synthetic(seed: int = 0) -> NDArray[np.float64]:
    """Bands mixed from fields whose amplitude falls with the wave number to the power of 1.4, with some noise."""
    rng = np.random.default_rng(seed)
    wave = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    wave[0, 0] = np.inf
    fields = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(6, SIDE, SIDE))) * wave**-1.4, s=(SIDE, SIDE))
    fields /= fields.std(axis=(1, 2), keepdims=True) * 2.0 ** np.arange(6)[:, None, None]
    mixing = np.linalg.qr(rng.normal(size=(BANDS, 6)))[0]
    return np.tensordot(mixing, fields, 1) + rng.normal(size=(BANDS, SIDE, SIDE)) * NOISE * 2.0**-5


def halves(samples: NDArray[np.float64]) -> tuple[Blocks, Blocks]:
    """The upper and the lower half of a scene as blocks, with the basis of the upper one."""
    rows = samples.shape[1] // 2 >> LEVELS << LEVELS
    upper = samples[:, :rows].reshape(len(samples), -1)
    means = upper.mean(axis=1)
    centred = upper - means[:, None]
    variances, basis = spectral.klt(centred @ centred.T / centred.shape[1])
    step = float(np.sqrt(variances[:6].sum())) / 12
    rank = max(1, int(np.count_nonzero(variances * 64 > (0.5 * step) ** 2)))
    first, second = (
        Blocks(samples=part[None, :, None], means=means, basis=basis[:rank], step=step, tree="dyadic", levels=LEVELS)
        for part in (samples[:, :rows], samples[:, rows : 2 * rows])
    )
    return first, second


def corrections(network: Network, blocks: Blocks, block: Quantised, device: str) -> tuple[NDArray[np.int8], float]:
    """What a network makes of a block on a device, and the coefficients per second."""
    symbols: Any = block.symbols[None] if device == "cpu" else torch.from_numpy(block.symbols[None]).to(device)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        found = network.correct(symbols, blocks.plan, block.codes)
        wait(device)
        seconds.append(time.perf_counter() - start)
    return found if device == "cpu" else found.cpu().numpy(), block.symbols.size / min(seconds)


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def trained(first: Blocks, second: Blocks, device: str, mixed: bool, places: int, devices: list[str]) -> dict[str, Any]:
    """Figures of one training."""
    architecture = Architecture(widths=WIDTHS)
    options = Options(steps=STEPS, places=places, validate_every=STEPS // 4, patience=STEPS, variants=8, mixed=mixed)
    times: list[tuple[int, float]] = []

    def note(now: Progress) -> None:
        wait(device)
        times.append((now.step, time.perf_counter()))

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    result = train_network([first], [second], architecture, options=options, device=device, progress=note)
    (begin, start), (end, stop) = times[1], times[-1]  # kernels are chosen and compiled in the first quarter
    rate = (end - begin) / (stop - start)
    block = quantise(second, 0)
    made = {d: corrections(result.network, second, block, d) for d in devices}
    same = all(np.array_equal(found, made["cpu"][0]) for found, _ in made.values())
    on_cpu = float(np.square(block.errors - made["cpu"][0] / 256).mean(dtype=np.float64))
    return {
        "device": device,
        "precision": "bfloat16 products" if mixed and device == "cuda" else "float32",
        "places": places,
        "steps_per_second": rate,
        # A place has so many coefficients, each of which is a pixel of a component.
        "megapixels_per_second": rate * places * architecture.corrected / 1e6,
        "peak_device_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
        "peak_process_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "mse_linear": result.linear,
        "mse_int8": result.distortion,
        "mse_int8_on_cpu": on_cpu,
        "mse_float": result.unrounded,
        "gain_db": result.gain,
        "int8_loss_db": result.int8_loss,
        "same_bits_on": sorted(made) if same else [],
        "corrected_per_second": {d: speed for d, (_, speed) in made.items()},
    }


def loaded(device: str) -> dict[str, Any]:
    """A pass over latents in memory, with batches on a device."""
    rng = np.random.default_rng(0)
    values = rng.integers(-20, 21, (64, 256, 256)).astype(np.int32)
    latents = xr.DataArray(values, dims=("latent", "y_patch", "x_patch"), attrs={"step": 0.5})
    latents.encoding["preferred_chunks"] = {"y_patch": 32, "x_patch": 32}
    labels = xr.DataArray(rng.integers(0, 9, (256, 256)), dims=("y_patch", "x_patch"))
    loader = LatentLoader(LatentDataset(latents, labels, window=8), 128, shuffle=True, device=device, dequantised=True)
    seconds = []
    for _ in range(4):
        start, total, windows = time.perf_counter(), torch.zeros((), device=device), 0
        for x, y in loader:
            total += x.sum() + y.sum()
            windows += len(x)
        wait(device)
        seconds.append(time.perf_counter() - start)
    return {
        "device": device,
        "windows_per_second": windows / min(seconds),
        "megabytes_per_second": values.nbytes / min(seconds) / 1e6,
        "checksum": float(total),
    }


def timed(what: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    start = time.perf_counter()
    found = {**work(), "seconds": 0.0}
    found["seconds"] = time.perf_counter() - start
    print(what, json.dumps(found), flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scene", type=Path, help=".npy of (channel, y, x)")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    samples = synthetic() if arguments.scene is None else np.load(arguments.scene).astype(np.float64)
    first, second = halves(samples)
    quantise(first, 0)  # compiles
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    jobs = [("cpu", False, PLACES)]
    if "cuda" in devices:
        jobs += [("cuda", mixed, places) for places in (PLACES, MANY_PLACES) for mixed in (False, True)]
    found = {
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cpu_threads": torch.get_num_threads(),
            "cuda": torch.cuda.get_device_name() if "cuda" in devices else None,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "scene": {"source": str(arguments.scene or "synthetic"), "shape": samples.shape, "rank": len(first.basis)},
        "training": [timed("training", lambda job=job: trained(first, second, *job, devices)) for job in jobs],
        "loader": [timed("loader", lambda device=device: loaded(device)) for device in devices],
    }
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
