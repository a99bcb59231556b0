"""What a network shared by spectral components is worth on scenes that it has never seen, and what it costs.

Gains are at equal symbols over the linear decoder with its three reconstruction points, in the domain of the samples.
Every scene is one chunk with its own basis, quantised as the codec does. No place is on both sides: tested are other
sites than trained on.

    python -m benchmarks.neural --tree packet --levels 2
    python -m benchmarks.neural --tree dyadic --levels 4           # results/neural-dyadic.json
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.scenes import data_root, load_scenes, results_folder
from xwalloc.codec.chunk import ChunkCodec
from xwalloc.codec.config import CodecConfig
from xwalloc.models.neural import Network, refine
from xwalloc.settings import settings
from xwalloc.training import Architecture, Blocks, Options, Progress, train_network
from xwalloc.training.blocks import QUANTUM, analysis_of, quantise
from xwalloc.transform import spectral
from xwalloc.transform import wavelet as w
from xwalloc.transform.tree import Tree

TRAINING = (
    "abu-airport-1", "abu-airport-2", "abu-urban-1", "abu-urban-2", "abu-urban-4", "abu-urban-5",
    "vegetation", "samson", "enmap", "corn-kernel", "ledaps-1999", "ledaps-2002",
)  # fmt: skip
VALIDATION = ("abu-airport-3",)
TEST = ("indian-pines", "abu-beach-1", "landsat7", "sentinel2")
STEPS = (32.0, 128.0, 512.0)
"""Widths of the quantiser, in units of 1e-4 reflectance."""

PER_SCENE = {"samson": 1 / 6000, "corn-kernel": 0.4, "landsat7": 0.1}
"""What the steps are multiplied with for data in other units."""

MOST_RANK = 48
SIGNIFICANT = 64
"""A component is kept if its variance times this exceeds a quarter of the squared step: see `models.choice`."""


def cube(root: Path, name: str) -> NDArray[np.float64]:
    """Samples (channel, y, x) of a scene, holes filled."""
    (scene,) = (s for s in load_scenes(root, [name]) if s.name == name)
    return scene.filled.astype(np.float64)


def blocks_of(samples: NDArray[np.float64], step: float, tree: Tree, levels: int) -> Blocks:
    """A scene as one block with its own basis."""
    flat = samples.reshape(len(samples), -1)
    means = flat.mean(axis=1)
    centred = flat - means[:, None]
    variances, basis = spectral.klt(centred @ centred.T / centred.shape[1])
    rank = min(MOST_RANK, max(1, int(np.count_nonzero(variances * SIGNIFICANT > (0.5 * step) ** 2))))
    if tree == "packet":
        y, x = (n >> levels << levels for n in samples.shape[1:])
        samples = samples[:, :y, :x]
    return Blocks(samples=samples[None, :, None], means=means, basis=basis[:rank], step=step, tree=tree, levels=levels)


def squared_error(blocks: Blocks, latents: NDArray[np.float64]) -> float:
    """Of the samples that are decoded from latents (rank, z, y, x) in units."""
    planes = w.inverse(np.ascontiguousarray(latents) / QUANTUM, blocks.plan, w.get_wavelet(blocks.wavelet), "reflect")
    decoded = np.tensordot(blocks.basis.T, planes, axes=1) * blocks.step + blocks.means[:, None, None, None]
    return float(np.square(decoded - blocks.samples[0]).sum())


def measure(network: Network, blocks: Blocks) -> dict[str, Any]:
    """Figures of one scene at one step."""
    block = quantise(blocks, 0)
    start = time.perf_counter()
    corrections = network.correct(block.symbols[None], blocks.plan, block.codes)[0]
    seconds = time.perf_counter() - start
    exact = np.rint(QUANTUM * np.tensordot(analysis_of(blocks.basis), blocks.channel_coefficients(0), axes=1))
    linear = exact - np.rint(block.errors.astype(np.float64) * QUANTUM)
    before, after = (squared_error(blocks, latents) for latents in (linear, refine(linear, corrections, QUANTUM)))
    signal = float(np.square(blocks.samples - blocks.samples.mean()).sum())
    saved = np.square(block.errors).sum(), np.square(block.errors - corrections / 256).sum()
    return {
        "bits_per_sample": block.bits / blocks.samples.size,
        "snr": 10 * math.log10(signal / before),
        "gain": 10 * math.log10(before / after),
        "gain_of_latents": 10 * math.log10(saved[0] / saved[1]),
        "rank": len(blocks.basis),
        "network_seconds": seconds,
        "linear_seconds": linear_seconds(blocks),
    }


def linear_seconds(blocks: Blocks) -> float:
    """Time in which one thread decodes the scene at this step: entropy decoding, wavelet, basis."""
    samples = blocks.samples[0, :, 0].astype(np.float32)
    codec = ChunkCodec(
        CodecConfig(
            channel_axis=0,
            signal_axes=(1, 2),
            step=blocks.step,
            tree=blocks.tree,
            levels=blocks.levels,
            wavelet="bior4.4",
        )
    )
    frame = codec.encode(samples)
    with settings.set(threads=1):
        codec.decode(frame)
        start = time.perf_counter()
        codec.decode(frame)
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", choices=get_args(Tree), default="dyadic")
    parser.add_argument("--levels", type=int, default=4)
    parser.add_argument("--widths", type=int, nargs="+", default=[48, 48])
    parser.add_argument("--steps", type=int, default=6000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    root = data_root()
    if root is None:
        raise SystemExit("This benchmark needs the data folder: set XWALLOC_BENCH_DATA.")
    tree, levels = arguments.tree, arguments.levels

    def every(names: tuple[str, ...]) -> list[tuple[str, float, Blocks]]:
        found = []
        for name in names:
            samples, scale = cube(root, name), PER_SCENE.get(name, 1.0)
            found += [(name, step * scale, blocks_of(samples, step * scale, tree, levels)) for step in STEPS]
        return found

    architecture = Architecture(tree=tree, levels=levels if tree == "packet" else 0, widths=tuple(arguments.widths))

    def show(progress: Progress) -> None:
        gain = 10 * math.log10(progress.linear / progress.distortion)
        print(f"{progress.step} of {progress.steps}: {gain:.3f} dB, {progress.seconds_left:.0f} s left", flush=True)

    result = train_network(
        [blocks for *_, blocks in every(TRAINING)],
        [blocks for *_, blocks in every(VALIDATION)],
        architecture,
        options=Options(steps=arguments.steps, places=16384, variants=16, validate_every=500, rate=1e-3),
        progress=show,
    )
    rows = [{"scene": name, "step": step, **measure(result.network, blocks)} for name, step, blocks in every(TEST)]
    print("| scene | step | bits per sample | SNR dB | gain dB | of the latents | network s | linear decode s |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['scene']} | {row['step']:g} | {row['bits_per_sample']:.3f} | {row['snr']:.1f} "
            f"| {row['gain']:+.3f} | {row['gain_of_latents']:+.3f} "
            f"| {row['network_seconds']:.3f} | {row['linear_seconds']:.3f} |"
        )
    found = {
        "description": result.network.description(),
        "weights": architecture.weights,
        "multiplications": architecture.multiplications,
        "validation_gain": result.gain,
        "int8_loss": result.int8_loss,
        "rows": rows,
    }
    (results_folder(root) / f"neural-{tree}.json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
