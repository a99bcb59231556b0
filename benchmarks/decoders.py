"""Which decoder to use: rate and distortion of linear and learned decoders and of image codecs on scenes not seen.

Compared are chunks that carry their own linear model, one fitted to other data, that with a network trained on other
data, the published architectures trained on the same data (linear: closed form; network: the same CPU seconds as ours,
for each of its rates), JPEG 2000, the same after a Karhunen-Loeve transform, JPEG XL and SPERR. Each data set is cut by
photograph, or into a lower half to learn from and an upper half to test with. Every distortion is measured on what was
decoded from the bytes that are counted; models are counted apart, since one serves a whole store.

    python -m benchmarks.decoders                                # results/decoders-*.json; 35 minutes of one core
    python -m benchmarks.decoders --data photographs sentinel2   # some of the data, to run side by side
    python -m benchmarks.decoders --quick                        # seconds of training; into benchmarks/out
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import torch
from safetensors.numpy import save

from benchmarks.ladders import PEERS, Array, as_stored, linear
from benchmarks.neural import blocks_of
from benchmarks.published import closed_form, train
from benchmarks.scenes import data_root, load_scenes, results_folder
from xwalloc.bitstream.frame import DecodeLimits, Frame
from xwalloc.codec.layout import Layout
from xwalloc.codec.transform_sections import read
from xwalloc.fitting.linear import Goal, fit_blocks
from xwalloc.models import library
from xwalloc.models.linear import dequantised
from xwalloc.models.model import Model, ModelReference
from xwalloc.models.neural import Architecture as NetworkArchitecture
from xwalloc.models.neural import Network, refine
from xwalloc.models.upstream import Architecture
from xwalloc.settings import settings
from xwalloc.training import Options, train_network

SECONDS = 180.0
"""CPU seconds for each network, ours and published."""

LEVELS = 4
"""Of the dyadic tree."""

BLOCK = 64
"""Pixels along a side of the blocks that `fit` is shown."""

TRAINING_PHOTOGRAPHS = ("motorcycle_left", "motorcycle_right", "hubble_deep_field", "retina", "ihc", "rocket")
TEST_PHOTOGRAPHS = ("astronaut", "coffee", "chelsea")
SIDE = 512
"""Training photographs are cut to their central 512 x 512 pixels at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """Scenes (channel, y, x), and what to try on them.

    Parameters
    ----------
    measure
        "PSNR", of 255, or "SNR", of the variance of a scene.
    training, validation, test
        Scenes by name. Validation scenes are those of training that decide when our network is good; the published
        one, which has no validation, trains on both.
    steps
        Of the linear coder.
    network_steps
        Of those, the ones that the network learns at.
    targets
        dB of variance over error that models are fitted for.
    latents
        Of the published architectures; each is a model of its own.
    levels, width, piece
        Of the published architectures: J, Nd, and pixels along a side of a piece to train on.
    peers
        Settings by codec.
    """

    measure: str
    training: dict[str, Array]
    validation: dict[str, Array]
    test: dict[str, Array]
    steps: tuple[float, ...]
    network_steps: tuple[float, ...]
    targets: tuple[float, ...]
    latents: tuple[int, ...]
    levels: int
    width: int
    piece: int
    peers: dict[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def all_training(self) -> list[Array]:
        return [*self.training.values(), *self.validation.values()]

    def decibels(self, scene: Array, decoded: Array) -> float:
        """Distortion of a decoded scene."""
        error = float(np.mean(np.square(scene.astype(np.float64) - decoded)))
        signal = 255.0**2 if self.measure == "PSNR" else float(scene.astype(np.float64).var())
        return 10 * float(np.log10(signal / error))


def photograph(name: str, most: int | None = None) -> Array:
    """A photograph that scikit-image ships, (channel, y, x), its centre cut to multiples of 8."""
    folder = Path(skimage.__file__).parent / "data"
    (path,) = folder.glob(f"{name}.*")
    image = np.moveaxis(skimage.io.imread(path), -1, 0)
    return _centre(image, *(min(n, most or n) // 8 * 8 for n in image.shape[1:]))


def _centre(cube: Array, height: int, width: int) -> Array:
    y, x = (cube.shape[1] - height) // 2, (cube.shape[2] - width) // 2
    return np.ascontiguousarray(cube[:, y : y + height, x : x + width])


def photographs(_: Path | None) -> Data:
    training = {name: photograph(name, SIDE) for name in TRAINING_PHOTOGRAPHS}
    dB = (22.0, 25.0, 28.0, 31.0, 34.0, 37.0, 40.0)
    return Data(
        measure="PSNR", validation={"rocket": training.pop("rocket")}, training=training,
        test={name: photograph(name) for name in TEST_PHOTOGRAPHS},
        steps=(6, 10, 16, 24, 40, 64, 100, 160), network_steps=(10, 24, 64), targets=(11, 15, 19, 23, 27),
        latents=(3, 12, 48), levels=3, width=64, piece=128,
        peers={"JPEG 2000": dB, "KLT + JPEG 2000": dB, "JPEG XL": (10, 6, 4, 2.5, 1.5, 1, 0.6), "SPERR": (15, 18, *dB)},
    )  # fmt: skip


def _halves(root: Path | None, name: str) -> tuple[Array, Array, Array]:
    """Upper half to test with; of the lower one, three quarters to learn from, and the rest."""
    (scene,) = load_scenes(root, [name])
    height = scene.array.shape[1] // 16 * 8
    width = scene.array.shape[2] // 8 * 8
    upper, lower = (np.ascontiguousarray(scene.array[:, y : y + height, :width]) for y in (0, height))
    edge = width * 3 // 4 // 8 * 8
    return upper, np.ascontiguousarray(lower[:, :, :edge]), np.ascontiguousarray(lower[:, :, edge:])


def indian_pines(root: Path | None) -> Data:
    test, training, validation = _halves(root, "indian-pines")
    dB = (26.0, 30.0, 35.0, 40.0, 45.0, 50.0)
    return Data(
        measure="SNR", training={"lower": training}, validation={"lower right": validation}, test={"upper": test},
        steps=(24, 48, 96, 192, 384, 768, 1536), network_steps=(48, 192, 768), targets=(24, 27, 30, 33, 36),
        latents=(12, 48), levels=2, width=128, piece=64,
        peers={"JPEG 2000": dB, "KLT + JPEG 2000": dB, "JPEG XL": (12, 6, 3, 1, 0.4), "SPERR": dB,
               "quantise + JPEG XL": (16, 32, 64, 128, 256, 512)},
    )  # fmt: skip


def sentinel2(root: Path) -> Data:
    test, training, validation = _halves(root, "sentinel2")
    dB = (26.0, 30.0, 34.0, 38.0, 42.0, 46.0, 50.0)
    return Data(
        measure="SNR", training={"lower": training}, validation={"lower right": validation}, test={"upper": test},
        steps=(24, 48, 96, 192, 384, 768), network_steps=(32, 128, 512), targets=(14, 19, 24, 29, 34),
        latents=(12, 48), levels=3, width=64, piece=64,
        peers={"JPEG 2000": dB, "KLT + JPEG 2000": dB, "JPEG XL": (10, 5, 2.5, 1, 0.4, 0.1), "SPERR": dB,
               "quantise + JPEG XL": (8, 16, 32, 64, 128, 256)},
    )  # fmt: skip


DATA: dict[str, Callable[[Any], Data]] = {
    "photographs": photographs, "indian-pines": indian_pines, "sentinel2": sentinel2,
}  # fmt: skip


class Report:
    """Points of curves and models that belong to them, as they are measured."""

    def __init__(self, data: Data) -> None:
        self.data = data
        self.points: list[dict[str, Any]] = []
        self.models: list[dict[str, Any]] = []

    def point(self, decoder: str, setting: str, scene: str, nbytes: int, decoded: Array, **more: Any) -> None:
        """A scene at a setting."""
        original = self.data.test[scene]
        if decoded.shape != original.shape or decoded.dtype != original.dtype:
            raise AssertionError(f"{decoder} returned {decoded.dtype} {decoded.shape} for {scene}.")
        row = {"decoder": decoder, "setting": setting, "scene": scene, "bytes": nbytes,
               "bits_per_sample": 8 * nbytes / original.size, "dB": self.data.decibels(original, decoded)}  # fmt: skip
        self.points.append(row | more)
        what = f"{decoder:24} {setting:14} {scene:10} {row['bits_per_sample']:8.4f} bits {row['dB']:7.3f} dB"
        print(what, flush=True)

    def model(self, decoder: str, setting: str, nbytes: int, cpu_seconds: float, **more: Any) -> None:
        """A model that the points of a decoder (at a setting, or at every one: "") share."""
        row = {"decoder": decoder, "setting": setting, "bytes": nbytes, "cpu_seconds": cpu_seconds}
        self.models.append(row | more)
        print(f"{decoder:24} {setting:14} model of {nbytes} bytes, {cpu_seconds:.0f} CPU seconds", flush=True)


def measure_linear(data: Data, report: Report) -> None:
    """Chunks with their own model, and with one fitted to the training scenes."""
    for step in data.steps:
        for name, scene in data.test.items():
            frame, decoded = linear(scene, step)
            report.point("self-fitted", f"{step:g}", name, len(frame), decoded)
    blocks = [block for scene in data.all_training for block in _blocks(scene)]
    for target in data.targets:
        begin = time.process_time()
        model = fit_blocks(
            blocks, Goal(quality="snr", value=target), dimensions=2, nodata=None, levels=LEVELS, tree="dyadic", about={}
        )
        report.model("fitted", f"{target:g} dB", inline_bytes(model), time.process_time() - begin)
        for name, scene in data.test.items():
            frame, decoded = linear(scene, model.target["step"], model)
            report.point("fitted", f"{target:g} dB", name, len(frame), decoded)


def inline_bytes(model: Model) -> int:
    """What a model takes in the metadata of an array."""
    return len(ModelReference.inline(model).weights or "")


def _blocks(scene: Array) -> Iterator[Array]:
    for y in range(0, scene.shape[1] - BLOCK + 1, 2 * BLOCK):
        for x in range(0, scene.shape[2] - BLOCK + 1, 2 * BLOCK):
            yield np.ascontiguousarray(scene[None, :, None, y : y + BLOCK, x : x + BLOCK])


def measure_network(data: Data, report: Report, seconds: float) -> Network:
    """The network of xwalloc, one for all steps, on the frames of self-fitted chunks."""
    scenes = {purpose: [blocks_of(scene.astype(np.float64), step, "dyadic", LEVELS)
                        for scene in found.values() for step in data.network_steps]
              for purpose, found in (("training", data.training), ("validation", data.validation))}  # fmt: skip

    def run(steps: int) -> tuple[Any, float]:
        begin = time.process_time()
        options = Options(steps=steps, places=16384, variants=4, validate_every=min(steps, 200), patience=1000)
        architecture = NetworkArchitecture(tree="dyadic", widths=(48, 48))
        result = train_network(scenes["training"], scenes["validation"], architecture, options=options)
        return result, time.process_time() - begin

    (_, few), (_, more) = run(10), run(40)  # how much a step takes: the learning rate has to know the last one
    each = max(1e-3, (more - few) / 30)
    result, spent = run(max(10, int((seconds - few) / each)))
    weights = zlib.compress(save(result.network.tensors(), {"network": json.dumps(result.network.description())}), 9)
    report.model(
        "network", "", len(base64.b64encode(weights)), spent, steps=result.history[-1].step,
        weights=result.network.architecture.weights, validation_gain=result.gain, int8_loss=result.int8_loss,
    )  # fmt: skip
    for step in data.steps:
        for name, scene in data.test.items():
            frame, _ = linear(scene, step)
            report.point("network", f"{step:g}", name, len(frame), refined(frame, result.network))
    return result.network


def refined(frame: bytes, network: Network) -> Array:
    """Decode a frame with a network behind the entropy decoder: latents corrected, then the linear synthesis."""
    parsed = Frame.parse(frame, DecodeLimits(max_bytes=1 << 30))
    layout = Layout(parsed.header.shape, parsed.header.roles)
    contents = read(parsed.sections, layout.canonical, layout.dimensions, partial(library.find, reference=None))
    model, symbols = contents.model, contents.symbols()
    corrections = network.correct(symbols, model.grid.plan, model.codes)
    latents = refine(dequantised(model, symbols), corrections, model.quantum)
    planes = model.grid.inverse(np.ascontiguousarray(latents), model.filter_shift)[0].reshape(model.rank, -1)
    units = np.ldexp(model.matrix @ planes, -model.shift) + model.mean_units[:, None]
    z, y, x = model.grid.signal
    samples = (units * contents.finish.unit).reshape(-1, z, y, x)[:, 0, : layout.canonical[3], : layout.canonical[4]]
    return as_stored(samples, parsed.header.dtype)


def measure_published(data: Data, report: Report, seconds: float) -> None:
    """Published architectures: every number of latents is a model of its own."""
    channels = len(next(iter(data.test.values())))
    for latents in data.latents:
        sizes: dict[str, Any] = {"channels": channels, "J": data.levels, "latent_dim": latents, "latent_bits": 8}
        for decoder, model in (
            ("published, linear", closed_form(
                Architecture(kind="LinearCodec2D", **sizes), data.all_training, side=data.piece)),
            ("published", train(
                Architecture(kind="Codec2D", Nd=data.width, **sizes), data.all_training, seconds, side=data.piece)),
        ):  # fmt: skip
            setting = f"{latents} latents"
            report.model(decoder, setting, model.nbytes, model.cpu_seconds, steps=model.steps, loss=model.loss)
            for name, scene in data.test.items():
                containers, decoded = model.code(scene)
                decoded = as_stored(decoded, scene.dtype)
                report.point(decoder, setting, name, min(containers.values()), decoded, containers=containers)


def measure_peers(data: Data, report: Report) -> None:
    """Codecs of images."""
    for decoder, levels in data.peers.items():
        for name, scene in data.test.items():
            for coded in PEERS[decoder](scene, levels):
                report.point(decoder, coded.setting, name, coded.nbytes, coded.decoded)


def measure_speed(network: Network, quick: bool) -> list[dict[str, Any]]:
    """Seconds that one thread takes to decode a 512 x 512 photograph, all in this process."""
    scene = photograph("astronaut")
    frame, _ = linear(scene, 24)
    from xwalloc.codec.decode import decode_frame

    rows: list[dict[str, Any]] = []

    def time_of(decoder: str, run: Callable[[], Any], repeats: int, **more: Any) -> None:
        run()
        seconds = []
        for _ in range(repeats):
            begin = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - begin)
        median = statistics.median(seconds)
        rows.append({"decoder": decoder, "seconds": median, "ns_per_sample": 1e9 * median / scene.size, **more})
        print(f"{decoder:24} {1e9 * median / scene.size:10.1f} ns per sample", flush=True)

    time_of("self-fitted", lambda: decode_frame(frame), 15)
    time_of("network", lambda: refined(frame, network), 5)
    for width, repeats in ((64, 5), (64 if quick else 768, 1 if quick else 3)):
        sizes: dict[str, Any] = {"channels": 3, "J": 3, "latent_dim": 12, "latent_bits": 8, "Nd": width}
        model = Architecture(kind="Codec2D", **sizes).build().eval()
        latents = torch.randint(-127, 128, (1, 12, scene.shape[1] // 8, scene.shape[2] // 8))
        weights = sum(weight.numel() for weight in model.decoder.parameters())
        time_of(f"published, Nd={width}", partial(model.decode, latents), repeats, weights=weights)
        begin = time.process_time()
        model.train()(torch.rand(1, 3, 128, 128) - 0.5)[1].backward()
        rows[-1]["training_seconds_per_piece"] = time.process_time() - begin
    return rows


def machine() -> dict[str, Any]:
    """What it was measured on."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {"cpu": names[0], "cpus": os.cpu_count(), "threads": 1, "python": platform.python_version(),
            "torch": torch.__version__, "scikit-image": skimage.__version__}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoders", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--quick", action="store_true", help="train for seconds; into benchmarks/out")
    options = parser.parse_args(argv)
    root = data_root()
    folder = results_folder(None if options.quick else root)
    seconds = 5.0 if options.quick else SECONDS
    torch.set_num_threads(1)
    settings.set(threads=1)
    for name in options.data:
        data = DATA[name](root)
        report = Report(data)
        measure_linear(data, report)
        measure_peers(data, report)
        network = measure_network(data, report, seconds)
        measure_published(data, report, seconds)
        found = {
            "data": name, "measure": data.measure, "seconds": seconds, "machine": machine(),
            "samples": {scene: array.size for scene, array in data.test.items()},
            "itemsize": next(iter(data.test.values())).itemsize,
            "training": {scene: list(array.shape) for scene, array in (data.training | data.validation).items()},
            "test": {scene: list(array.shape) for scene, array in data.test.items()},
            "points": report.points, "models": report.models,
        }  # fmt: skip
        if name == "photographs":
            found["speed"] = measure_speed(network, options.quick)
        (folder / f"decoders-{name}.json").write_text(json.dumps(found, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
