"""Rate and distortion of everything that is compared, from what was prepared and trained; and how fast it decodes."""

from __future__ import annotations

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load

from benchmarks.decoders.curves import WORTH, compared
from benchmarks.decoders.files import fitted_models, read_arrays, read_scenes
from benchmarks.decoders.ladders import PEERS, linear
from benchmarks.decoders.plan import FITTED, NETWORKS, PLANS, Array, Plan
from benchmarks.scenes import data_root, results_folder
from xwalloc.codec.chunk import ChunkCodec
from xwalloc.codec.config import CodecConfig
from xwalloc.codec.decode import decode_frame
from xwalloc.models.model import Model
from xwalloc.models.neural import Network
from xwalloc.models.upstream import Architecture, images
from xwalloc.settings import settings
from xwalloc.training.model import stored_bytes, with_network

__all__ = ["evaluate"]

REFERENCE = "self-fitted"
ENDINGS = (".png", ".webp", ".tif")
ROUNDS = 7
RANGE_BYTES = 8
"""What a scene of a published model stores besides its latents: range of the samples, two float32."""


class Report:
    """Points of curves, and models that they share, as they are measured."""

    def __init__(self, plan: Plan, scenes: Mapping[str, Array]) -> None:
        self.plan, self.scenes = plan, scenes
        self.points: list[dict[str, Any]] = []
        self.models: list[dict[str, Any]] = []

    def point(self, decoder: str, setting: str, scene: str, nbytes: int, decoded: Array, **more: Any) -> None:
        """A scene at a setting."""
        original = self.scenes[scene]
        if decoded.shape != original.shape or decoded.dtype != original.dtype:
            raise AssertionError(f"{decoder} returned {decoded.dtype} {decoded.shape} for {scene}.")
        row = {"decoder": decoder, "setting": setting, "scene": scene, "bytes": nbytes,
               "bits_per_sample": 8 * nbytes / original.size, "dB": self.plan.decibels(original, decoded)}  # fmt: skip
        self.points.append(row | more)

    def model(self, decoder: str, setting: str, nbytes: int, **more: Any) -> None:
        """A model that the points of a decoder at a setting share."""
        self.models.append({"decoder": decoder, "setting": setting, "bytes": nbytes, **more})


def evaluate(names: Sequence[str], folder: Path, trained: Path, output: Path | None = None) -> None:
    """Measure data sets that were prepared in one folder and trained in another, into the results or another folder."""
    torch.set_num_threads(1)
    settings.set(threads=1)
    found: dict[str, Any] = {"machine": machine(), "worth": WORTH, "data": {}}
    for name in names:
        plan, scenes = PLANS[name], read_scenes(folder, name)
        arrays = read_arrays(trained / f"trained-{name}.npz")
        about = json.loads(str(arrays["about"]))
        report = Report(plan, scenes["test"])
        _measure_own(report)
        for purpose, decoder in FITTED.items():
            networks = {n.decoder: network_in(arrays, n.decoder) for n in NETWORKS if n.purpose == purpose}
            _measure_models(report, decoder, fitted_models(folder, name, purpose), networks)
        _measure_published(report, arrays, about["published"])
        _measure_peers(report)
        samples = {scene: array.size for scene, array in scenes["test"].items()}
        itemsize = next(iter(scenes["test"].values())).itemsize
        rows = {REFERENCE: compared(report.points, report.models, samples, itemsize, REFERENCE)}
        for purpose, linear_model in FITTED.items():
            both = {linear_model, *(network.decoder for network in NETWORKS if network.purpose == purpose)}
            points = [point for point in report.points if point["decoder"] in both]
            rows[linear_model] = compared(points, report.models, samples, itemsize, linear_model)
        for row in rows[REFERENCE]:
            print(name, row, flush=True)
        found["data"][name] = {
            "measure": plan.measure, "itemsize": itemsize, "training": about, "points": report.points,
            "models": report.models, "compared": rows,
            "scenes": {purpose: {scene: list(array.shape) for scene, array in some.items()}
                       for purpose, some in scenes.items()},
        }  # fmt: skip
    if "photographs" in names:
        found["speed"] = measure_speed(folder, trained)
    target = output or results_folder(data_root())
    (target / "decoders.json").write_text(json.dumps(found, indent=1) + "\n")


def _measure_own(report: Report) -> None:
    """Chunks with their own linear model."""
    for step in report.plan.steps:
        for name, scene in report.scenes.items():
            frame, decoded = linear(scene, step)
            report.point(REFERENCE, f"step {step:g}", name, len(frame), decoded)


def _measure_models(report: Report, decoder: str, models: Sequence[Model], networks: Mapping[str, Network]) -> None:
    """Chunks with a fitted model, without a network and with each of some."""
    for target, model in zip(report.plan.targets, models, strict=True):
        setting = f"{target:g} dB"
        for name, shared in {decoder: model, **{n: with_network(model, net) for n, net in networks.items()}}.items():
            report.model(name, setting, stored_bytes(shared))
            for scene, array in report.scenes.items():
                frame, decoded = linear(array, model.target["step"], shared)
                report.point(name, setting, scene, len(frame), decoded)


def network_in(arrays: Mapping[str, Array], decoder: str) -> Network:
    """Our network, of the bytes that the training wrote."""
    raw = arrays[f"network/{decoder}"].tobytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return Network.from_tensors(json.loads(header["__metadata__"]["network"]), load(raw))


def _measure_published(report: Report, arrays: Mapping[str, Array], models: Sequence[Mapping[str, Any]]) -> None:
    """Published architectures: latents as they were trained, in the smallest container."""
    for number, (which, model) in enumerate(zip(report.plan.published, models, strict=True)):
        report.model(which.decoder, which.setting, model["bytes"])
        for name in report.scenes:
            sizes = containers(arrays[f"latents/{number}/{name}"], which.bits)
            nbytes = min(sizes.values()) + RANGE_BYTES
            decoded = arrays[f"decoded/{number}/{name}"]
            report.point(which.decoder, which.setting, name, nbytes, decoded, containers=sizes)


def containers(latents: Array, bits: int) -> dict[str, int]:
    """Bytes of latents (latent, y, x) as the published images and as a lossless chunk, all read back and compared."""
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        for ending in ENDINGS:
            path = Path(folder) / f"latents{ending}"
            images.write(path, latents, bits)
            sizes[ending[1:]] = path.stat().st_size
            same(images.read(path, len(latents), bits), latents)
    codec = ChunkCodec(CodecConfig(channel_axis=0, signal_axes=(1, 2), lossless=True))
    frame = codec.encode(latents)
    same(codec.decode(frame), latents)
    return {**sizes, "xwalloc": len(frame)}


def same(restored: Array, latents: Array) -> None:
    """Refuse latents that a container changed."""
    if not np.array_equal(restored, latents):
        raise AssertionError("A lossless container changed latents.")


def _measure_peers(report: Report) -> None:
    """Codecs of images."""
    for decoder, levels in report.plan.peers.items():
        for name, scene in report.scenes.items():
            for coded in PEERS[decoder](scene, levels):
                report.point(decoder, coded.setting, name, coded.nbytes, coded.decoded)


def measure_speed(folder: Path, trained: Path, width: int = 768) -> dict[str, Any]:
    """Seconds that one thread takes to decode a photograph of 512 x 512 pixels, everything in this process.

    Decoders take turns, and the best of some rounds counts, since other processes may run. Their `load` is given.
    The speed of a published decoder does not depend on its weights: these are random.
    """
    scene = read_scenes(folder, "photographs")["test"]["astronaut"]
    model = fitted_models(folder, "photographs", "unseen")[2]
    network = network_in(read_arrays(trained / "trained-photographs.npz"), "network")
    step = model.target["step"]
    latents = torch.randint(-127, 128, (1, 12, scene.shape[1] // 8, scene.shape[2] // 8))
    full = Architecture(kind="Codec2D", channels=3, J=3, latent_dim=12, latent_bits=8, Nd=width).build().eval()
    frame, shared = linear(scene, step)[0], with_network(model, network)
    refined = linear(scene, step, shared)[0]
    codec = ChunkCodec(CodecConfig(channel_axis=0, signal_axes=(1, 2), step=step, model=shared))
    runs: dict[str, Callable[[], Any]] = {
        "self-fitted": partial(decode_frame, frame), "network": partial(codec.decode, refined),
        f"published, width {width}": partial(full.decode, latents),
    }  # fmt: skip
    spent: dict[str, list[float]] = {decoder: [] for decoder in runs}
    for _ in range(ROUNDS + 1):
        for decoder, run in runs.items():
            begin = time.perf_counter()
            run()
            spent[decoder].append(time.perf_counter() - begin)
    rows = []
    for decoder, seconds in spent.items():
        least = min(seconds[1:])  # the first run compiles
        rows.append({"decoder": decoder, "seconds": least, "ns_per_sample": 1e9 * least / scene.size})
        print(rows[-1], flush=True)
    return {"load": os.getloadavg()[0], "rows": rows}


def machine() -> dict[str, Any]:
    """What it was measured on."""
    cpu = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {"cpu": cpu[0], "cpus": os.cpu_count(), "threads": 1, "python": platform.python_version(),
            "torch": torch.__version__}  # fmt: skip
