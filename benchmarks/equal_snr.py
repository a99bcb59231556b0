"""xwalloc beside JPEG 2000 after a Karhunen-Loeve transform, at equal signal-to-noise ratio.

The classic of hyperspectral compression: principal components of the bands, each one an image for JPEG 2000. All
components get the same mean square error, which is what theory asks for; those with less variance are left out. The
peer's side information counts as 2 bytes for each number of the basis and 4 for each mean.

    python -m benchmarks.equal_snr                   # results/equal_snr.json and a table
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from statistics import geometric_mean
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from benchmarks.scenes import data_root, load_scenes, results_folder
from xwalloc.codec.chunk import ChunkCodec
from xwalloc.codec.config import CodecConfig

TARGETS = (30.0, 40.0, 50.0)
"""dB of 10 log10(variance / mean square error)."""

WIDE = 65535.0


def snr_of(cube: NDArray[Any], decoded: NDArray[Any]) -> float:
    """Signal-to-noise ratio in dB."""
    signal = cube.astype(np.float64)
    return float(10 * np.log10(signal.var() / np.mean(np.square(signal - decoded))))


class KltJpeg2000:
    """Principal components of a cube (band, y, x), and what JPEG 2000 makes of them at one mean square error."""

    def __init__(self, cube: NDArray[Any]) -> None:
        self.shape = cube.shape
        pixels = cube.reshape(len(cube), -1).astype(np.float64)
        self.means = pixels.mean(axis=1, keepdims=True)
        pixels = pixels - self.means
        variances, basis = np.linalg.eigh(pixels @ pixels.T / pixels.shape[1])
        self.variances, self.basis = variances[::-1], basis[:, ::-1]
        self.components = self.basis.T @ pixels
        reach = np.abs(self.components[0]).max()
        self.scale = 2 * reach / WIDE

    def encode(self, error: float) -> tuple[int, NDArray[Any]]:
        """Bytes, and the decoded cube."""
        rank = max(1, int(np.count_nonzero(self.variances > error)))
        psnr = 10 * np.log10(WIDE**2 * self.scale**2 / error)
        total, cube = 4 * self.shape[0], np.repeat(self.means, self.components.shape[1], axis=1)
        for k in range(rank):
            image = np.rint(self.components[k] / self.scale + (WIDE + 1) / 2).clip(0, WIDE).astype(np.uint16)
            blob = imagecodecs.jpeg2k_encode(image.reshape(self.shape[1:]), level=psnr, codecformat="j2k")
            restored = imagecodecs.jpeg2k_decode(blob).astype(np.float64).reshape(-1)
            decoded = (restored - (WIDE + 1) / 2) * self.scale
            # what OpenJPEG makes of a faint image may be worse than nothing
            if np.mean(np.square(decoded - self.components[k])) < self.variances[k]:
                total += len(blob) + 2 * self.shape[0]
                cube += np.outer(self.basis[:, k], decoded)
        return total, cube.reshape(self.shape)

    def at(self, cube: NDArray[Any], target: float) -> tuple[int, float]:
        """Bytes and signal-to-noise ratio nearest to a target, from below it on."""
        low, high = np.log(cube.astype(np.float64).var() / 10 ** (target / 10)) + np.array([-4.0, 4.0])
        best = (0, np.inf)
        for _ in range(14):
            middle = (low + high) / 2
            size, decoded = self.encode(float(np.exp(middle)))
            found = snr_of(cube, decoded)
            if abs(found - target) < abs(best[1] - target):
                best = size, found
            low, high = (middle, high) if found > target else (low, middle)
        return best


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.equal_snr", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the data (default: $XWALLOC_BENCH_DATA or ../shared/data)")
    parser.add_argument(
        "--output", type=Path, help="default: equal_snr.json in benchmarks/results, or in benchmarks/out"
    )
    options = parser.parse_args()
    root = data_root(options.data)
    output = options.output or results_folder(root) / "equal_snr.json"
    rows = []
    print("| scene | SNR dB | xwalloc bits/sample | KLT + JPEG 2000 | fewer bits |\n|---|---:|---:|---:|---:|")
    for scene in load_scenes(root, None, ["hyperspectral"]):
        peer = KltJpeg2000(scene.array)
        for target in TARGETS:
            size, found = peer.at(scene.array, target)
            config = CodecConfig(channel_axis=scene.channel_axis, signal_axes=scene.signal_axes, snr=found)
            frame = ChunkCodec(config).encode(scene.array)
            ours = snr_of(scene.array, ChunkCodec(config).decode(frame))
            row: dict[str, Any] = {
                "scene": scene.name, "target": target, "peer_snr": found, "snr": ours,
                "peer_bits": 8 * size / scene.array.size, "bits": 8 * len(frame) / scene.array.size,
            }  # fmt: skip
            rows.append(row)
            saved = 1 - row["bits"] / row["peer_bits"]
            print(
                f"| {scene.name} | {found:.1f} | {row['bits']:.4f} | {row['peer_bits']:.4f} | {saved:.0%} |", flush=True
            )
    mean = geometric_mean(row["bits"] / row["peer_bits"] for row in rows)
    print(f"| geometric mean | | | | **{1 - mean:.0%}** |")
    output.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
