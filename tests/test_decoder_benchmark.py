"""The comparison of decoders: what it counts, and that its parts run, at a small size."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("PIL")
pytest.importorskip("imagecodecs", reason="the benchmarks need xwalloc[bench]")

from benchmarks.decoders import data, evaluation, files, training
from benchmarks.decoders.curves import Curve, compared
from benchmarks.decoders.ladders import PEERS, linear
from benchmarks.decoders.plan import NETWORKS, PLANS, Plan, Published
from xwalloc.models.upstream import Architecture


def some_scene(seed: int, channels: int = 3, side: int = 64) -> np.ndarray:
    """Smooth samples with edges, uint8."""
    rng = np.random.default_rng(seed)
    planes = rng.normal(size=(2, side, side)).cumsum(axis=1).cumsum(axis=2)
    planes = np.maximum(planes / np.abs(planes).max(axis=(1, 2), keepdims=True), -0.3)
    mixed = np.tensordot(rng.normal(size=(channels, 2)), planes, axes=1)
    return np.interp(mixed, (mixed.min(), mixed.max()), (0, 255)).astype(np.uint8)


def test_curves_are_linear_in_the_logarithm_of_bytes():
    curve = Curve(((400, 30.0), (100, 10.0)))
    assert curve.decibels(200) == pytest.approx(20)
    assert curve.nbytes(20) == pytest.approx(200)
    assert curve.decibels(430) == pytest.approx(30 + 10 * math.log2(430 / 400))
    assert curve.nbytes(9.7) == pytest.approx(100 * 2**-0.03)
    assert curve.decibels(80) is None
    assert curve.nbytes(31) is None


def test_a_model_pays_once_what_it_saves_exceeds_its_bytes():
    def point(decoder: str, nbytes: int, decibels: float) -> dict[str, object]:
        return {"decoder": decoder, "setting": "s", "scene": "a", "bytes": nbytes, "dB": decibels}

    points = [point("own", 100, 10.0), {**point("own", 400, 30.0), "setting": "t"}]
    points += [point("better", 100, 20.0), point("worse", 200, 10.0), point("beyond", 50, 5.0)]
    models = [{"decoder": "better", "setting": "s", "bytes": 50}, {"decoder": "better", "setting": "t", "bytes": 9}]
    better, worse, beyond = compared(points, models, {"a": 1000}, 2, "own")
    assert better["gain"] == pytest.approx(10)
    assert better["saved"] == pytest.approx(0.5)
    assert better["model_bytes"] == 50
    assert better["pays_from"] == pytest.approx(50 / 100 * 1000 * 2)
    assert better["worth_from"] == pytest.approx(50 / (100 * 4 ** (9.7 / 20) - 100) * 1000 * 2)
    assert (worse["gain"], worse["saved"], worse["pays_from"]) == (pytest.approx(-10), pytest.approx(-1), None)
    assert (beyond["gain"], beyond["saved"], beyond["pays_from"]) == (None, None, None)


def test_decibels_are_of_the_range_or_of_the_variance():
    scene = np.array([[[0, 200]]], np.uint8)
    decoded = np.array([[[5, 205]]], np.uint8)
    for measure, signal in (("PSNR", 255.0**2), ("SNR", 100.0**2)):
        plan = Plan(measure=measure, steps=(), targets=(), published=(), levels=1, piece=8)
        assert plan.decibels(scene, decoded) == pytest.approx(10 * math.log10(signal / 25))


@pytest.mark.parametrize("name", PEERS)
@pytest.mark.parametrize("channels", [3, 20])
def test_ladders_return_scenes_that_get_better_with_bytes(name, channels):
    scene = some_scene(1, channels)
    levels = {"JPEG XL": (6, 0.5), "quantise + JPEG XL": (8, 2)}.get(name, (25, 45))
    coarse, fine = PEERS[name](scene, levels)
    assert coarse.nbytes < fine.nbytes
    errors = [np.square(coded.decoded.astype(float) - scene).mean() for coded in (coarse, fine)]
    assert fine.decoded.dtype == scene.dtype
    assert errors[1] < errors[0] < scene.var() / 10


@pytest.mark.parametrize("bits", [3, 8])
def test_latents_are_counted_in_containers_that_give_them_back(bits):
    reach = 2 ** (bits - 1) - 1
    latents = np.random.default_rng(2).integers(-reach, reach + 1, (12, 8, 8)).astype(np.int16)
    sizes = evaluation.containers(latents, bits)
    assert set(sizes) == {"png", "webp", "tif", "xwalloc"}
    assert sizes["xwalloc"] >= 0.9 * bits * latents.size / 8
    with pytest.raises(AssertionError, match="changed"):
        evaluation.same(latents + 1, latents)


def test_the_three_parts_run(tmp_path, monkeypatch):
    plan = Plan(
        measure="PSNR", steps=(4, 16, 64, 250), targets=(15, 25), levels=2, piece=32,
        published=(Published(4, width=32), Published(4, bits=4, width=0)), peers={"JPEG XL": (2,)},
    )  # fmt: skip
    scenes = {
        "training": {"a": some_scene(3), "b": some_scene(4)}, "validation": {"c": some_scene(5)},
        "test": {"d": some_scene(6)},
    }  # fmt: skip
    monkeypatch.setitem(PLANS, "tiny", plan)
    for module in (training, evaluation):
        monkeypatch.setattr(module, "NETWORKS", tuple(n for n in NETWORKS if n.decoder != "wide network"))
    monkeypatch.setitem(data.LOADERS, "tiny", lambda _: scenes)
    monkeypatch.setattr(data, "data_root", lambda: tmp_path)
    data.prepare(["tiny"], tmp_path)
    training.train_all(["tiny"], tmp_path, tmp_path, "cpu", 0.2)
    evaluation.evaluate(["tiny"], tmp_path, tmp_path, tmp_path)
    found = json.loads((tmp_path / "decoders.json").read_text())["data"]["tiny"]
    decoders = {"self-fitted", "fitted", "fitted, archive", "network", "network, archive"}
    assert {p["decoder"] for p in found["points"]} == decoders | {"published", "published, linear", "JPEG XL"}
    # what is counted for the published network is its decoder, two bytes a weight
    decoder = Architecture(kind="Codec2D", channels=3, J=2, latent_dim=4, latent_bits=8, Nd=32).build().decoder
    (published,) = [m for m in found["models"] if m["decoder"] == "published"]
    assert published["bytes"] == 2 * sum(weight.numel() for weight in decoder.parameters())
    # the networks of our models take the bytes that a store takes for them
    sizes = {m["decoder"]: m["bytes"] for m in found["models"] if m["setting"] == "25 dB"}
    assert 20_000 < sizes["network"] - sizes["fitted"] < 60_000
    own = {p["setting"]: p for p in found["points"] if p["decoder"] == "self-fitted"}
    frame, decoded = linear(scenes["test"]["d"], 16)
    assert own["step 16"]["bytes"] == len(frame)
    assert own["step 16"]["dB"] == pytest.approx(plan.decibels(scenes["test"]["d"], decoded))
    assert np.array_equal(files.read_scenes(tmp_path, "tiny")["test"]["d"], scenes["test"]["d"])
