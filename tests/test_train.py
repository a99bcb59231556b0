"""`xwalloc.train`: models with a network, from arrays to stores and back."""

import importlib.util
import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner

import xwalloc
from xwalloc.bitstream.frame import DecodeLimits, Frame, Section
from xwalloc.cli import main
from xwalloc.codec.transform_sections import REFINED
from xwalloc.errors import ConfigError
from xwalloc.fitting.basis import with_basis
from xwalloc.numcodecs import Walloc
from xwalloc.xarray.fit import Source

torch = pytest.importorskip("torch")

STEP = {"snr": 14.0}

pytestmark = pytest.mark.usefixtures("one_thread")


def field(seed=0, side=160, bands=3, dtype="f4"):
    """Bands of a coarser instrument on a fine grid: fine coefficients follow from coarse ones, if one knows how."""
    cells = np.random.default_rng(seed).normal(size=(2, side // 4, side // 4)).repeat(4, axis=1).repeat(4, axis=2)
    mixed = np.tensordot(np.cos(np.outer(np.arange(bands), (1, 2))), cells, 1) * 100
    return xr.DataArray(np.rint(mixed).astype(dtype), dims=("band", "y", "x"), name="r")


@pytest.fixture(scope="module")
def trained():
    data = field()
    seen = []
    model = xwalloc.train(data.chunk({"y": 40, "x": 40}), **STEP, steps=100, levels=3, progress=seen.append)
    return data, model, seen


def arrays_of(model):
    return {name: array for name, array in model.arrays.items() if name.startswith("network.")}


def test_a_trained_model_is_better_and_says_by_how_much(trained, tmp_path):
    _, model, seen = trained
    about = model.description["train"]
    assert model.fitted.network is not None
    assert about["gain"] > 0.2
    assert about["split"] == "region"
    assert about["validation"]["refined_rmse"] < about["validation"]["linear_rmse"]
    assert abs(about["int8_loss"]) < 0.05
    mse = about["latents_mse"]
    assert mse["int8"] < mse["linear"]
    assert mse["int8"] == pytest.approx(mse["float"], rel=0.01)
    for text in (repr(model), model._repr_html_()):
        assert f"{about['gain']:.2f} dB better than the linear decoder" in text
        assert "of another region" in text
        assert "refined by a network" in text
    assert seen[-1].step == 100
    assert seen[0].gain == pytest.approx(0, abs=1e-9)
    model.save(tmp_path / "m.safetensors")
    again = xwalloc.load_model(tmp_path / "m.safetensors")
    assert again == model
    assert again.fitted.network.description() == model.description["network"]


def test_frames_are_refined_and_nearer_to_the_samples(trained):
    """On a scene that was never seen."""
    _, model, _ = trained
    chunk = field(seed=5, side=96).values
    plain = xwalloc.Model(
        description={k: v for k, v in model.description.items() if k not in ("network", "train")},
        arrays={k: v for k, v in model.arrays.items() if not k.startswith("network.")},
    )
    errors, sizes = [], []
    for each in (plain, model):
        codec = Walloc(channel_axis=0, signal_axes=[1, 2], model=each, **model.target)
        frame = codec.encode(chunk)
        sizes.append(len(frame))
        errors.append(np.square(codec.decode(frame) - chunk).mean())
    kind = Frame.parse(frame, DecodeLimits(max_bytes=2**30)).sections[Section.MODEL][0]
    assert kind == REFINED
    assert sizes[0] == sizes[1]
    assert errors[1] < errors[0]


def test_a_store_opens_elsewhere_without_torch(trained, tmp_path):
    data, model, _ = trained
    path = tmp_path / "store.zarr"
    data.to_dataset().walloc.to_zarr(path, model=model, chunks={"y": 80, "x": 80}, consolidated=False)
    assert xwalloc.open_latents(path, "r").dtype.kind == "i"
    expected = xr.open_zarr(path, consolidated=False).r.values
    script = (
        "import json, sys, xarray as xr; r = xr.open_zarr(sys.argv[1], consolidated=False).r.values; "
        "print(json.dumps([float(r[1, 50, 60]), 'torch' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [float(expected[1, 50, 60]), False]


def test_seeded_and_resumable(tmp_path):
    data, checkpoint = field(side=64), tmp_path / "state"
    settings = {**STEP, "levels": 3, "steps": 200}
    first = xwalloc.train(data, **settings)
    short = [xwalloc.train(data, **{**settings, "steps": 30, "seed": seed}).description for seed in (0, 0, 1)]
    assert short[0] == short[1]
    assert short[0]["train"]["latents_mse"] != short[2]["train"]["latents_mse"]

    def stop(now):
        if now.step == 200:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        xwalloc.train(data, **settings, progress=stop, checkpoint=checkpoint)
    assert checkpoint.exists()
    seen = []
    resumed = xwalloc.train(data, **settings, progress=seen.append, checkpoint=checkpoint)
    assert [now.step for now in seen] == [200]
    assert resumed.id == first.id
    assert not checkpoint.exists()


def test_a_shared_network_serves_other_bands(trained):
    """As it is, and as something to start from."""
    _, model, _ = trained
    other = field(seed=3, bands=5)
    taken = xwalloc.train(other, snr=16.0, levels=4, start=model, steps=0)
    assert taken.description["train"]["gain"] > 0.2
    assert taken.description["train"]["steps"] == 0
    for name, array in model.arrays.items():
        if name.startswith("network."):
            np.testing.assert_array_equal(taken.arrays[name], array)
    more = xwalloc.train(other, snr=16.0, levels=4, start=model, steps=30)
    assert more.description["train"]["gain"] >= taken.description["train"]["gain"]
    with pytest.raises(ConfigError, match="to start from"):
        xwalloc.train(other, snr=16.0, levels=4, start=model, steps=0, kind="fixed")
    with pytest.raises(ConfigError, match="without"):
        xwalloc.train(other, snr=16.0, start=xwalloc.fit(other, snr=16.0), steps=0)


def test_an_encoder_that_is_trained_is_kept_only_if_better(trained, monkeypatch):
    """The closed form is hard to beat: here it is beaten because it was spoilt before."""
    data, model, _ = trained
    about = xwalloc.train(data, **STEP, levels=3, steps=20, encoder=True).description["train"]["encoder"]
    assert about["change"] > -0.01
    assert "encoder" in about["report"]
    from xwalloc.training.encoder import Encoder

    turned = model.fitted.basis.copy()
    turned[:2] = np.array([[0.8, 0.6], [-0.6, 0.8]]) @ turned[:2]
    source = Source.of(data, channel_dim=None, signal_dims=None, nodata=None)
    blocks = source.blocks([64, 64], 8)
    spoilt = with_basis(model, turned, blocks, None)
    assert spoilt.fitted.network is None
    assert spoilt.target == model.target
    same = with_basis(model, model.fitted.basis, blocks, None)
    np.testing.assert_array_equal(same.arrays["vectors"], model.arrays["vectors"])
    assert same.description["fit"]["bits_per_sample"] < spoilt.description["fit"]["bits_per_sample"]
    monkeypatch.setattr(Encoder, "trained", lambda *a, **k: model.fitted.basis)
    better = xwalloc.train(data, model=spoilt, steps=20, encoder=True)
    assert better.description["train"]["encoder"]["change"] < 0
    assert "encoder trained" in repr(better)
    np.testing.assert_array_equal(better.arrays["vectors"], model.arrays["vectors"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_trained_on_cuda_decoded_on_cpu(trained):
    data, on_cpu, _ = trained
    models = [xwalloc.train(data, **STEP, steps=100, levels=3, device="cuda") for _ in range(2)]
    assert models[0].id == models[1].id
    about = models[0].description["train"]
    assert about["gain"] == pytest.approx(on_cpu.description["train"]["gain"], rel=0.3)
    # What CUDA measured on latents is what frames hold that the CPU decodes.
    validation = about["validation"]
    assert validation["refined_rmse"] < validation["linear_rmse"]


def test_by_scene_and_with_a_model_of_before(trained):
    _, model, _ = trained
    scenes = [field(seed, side=64) for seed in (11, 12, 13)]
    found = xwalloc.train(scenes, model=model, steps=20)
    assert found.description["train"]["split"] == "scene"
    assert found.target == model.target
    np.testing.assert_array_equal(found.arrays["vectors"], model.arrays["vectors"])


@pytest.mark.parametrize(
    ("shape", "tree"), [((2, 2048), "dyadic"), ((2, 64, 96), "packet"), ((2, 24, 28, 40), "dyadic")]
)
@pytest.mark.parametrize("kind", ["shared", "fixed"])
@pytest.mark.parametrize("dtype", ["f4", "i2"])
def test_every_number_of_axes(shape, tree, kind, dtype):
    rng = np.random.default_rng(3)
    field = np.cumsum(rng.normal(size=shape), axis=-1) * 20
    field = np.rint(field) if dtype == "i2" else field
    data = xr.DataArray(field.astype(dtype), dims=("band", "z", "y", "x")[: len(shape)])
    if dtype == "f4":
        data[0, ..., 5:9] = np.nan
    else:
        data[0, ..., 5:9] = -9999
        data.attrs["_FillValue"] = np.int16(-9999)
    levels = 2 if len(shape) == 4 else 3
    model = xwalloc.train(
        data, max_error=6.0, channel_dim="band", signal_dims=data.dims[1:], tree=tree, kind=kind, steps=12,
        levels=levels,
    )  # fmt: skip
    about = model.description["train"]
    assert (about["kind"], about["steps"]) == (kind, 12)
    nodata = -9999 if dtype == "i2" else None
    codec = Walloc(
        channel_axis=0, signal_axes=range(1, len(shape)), model=model, nodata=nodata, **model.target
    )  # fmt: skip
    decoded = codec.decode(codec.encode(data.values)).astype("f8")
    assert np.nanmax(np.abs(decoded - data.values)) <= 6.0


def test_an_honest_report_where_the_linear_decoder_is_as_good():
    noise = xr.DataArray(
        np.random.default_rng(0).normal(size=(2, 64, 128)).astype("f4"), dims=("band", "y", "x"), name="n"
    )
    model = xwalloc.train(noise, snr=15.0, steps=20, levels=3)
    assert "the linear decoder is as good: the network was left out" in model.description["train"]["report"]
    assert model.fitted.network is None
    assert "the linear decoder is as good" in repr(model)
    smooth = xr.DataArray(np.add.outer(np.arange(64.0), np.arange(128.0))[None], dims=("band", "y", "x"))
    nothing = xwalloc.train(smooth, max_error=200.0, steps=20, levels=3)
    assert "use a smaller step" in nothing.description["train"]["report"]


def test_a_budget_of_time_is_kept(trained):
    data, _, _ = trained
    seen = []
    model = xwalloc.train(data, **STEP, levels=3, steps=100_000, minutes=0.03, progress=seen.append)
    assert model.description["train"]["steps"] < 5000
    assert seen[-1].steps == model.description["train"]["steps"]


def test_what_is_not_possible_says_why(trained, monkeypatch):
    data, model, _ = trained
    for wanted, arguments in {
        "exactly one of": {},
        "beside a model": {"model": model, "snr": 30.0},
        "kind": {"snr": 30.0, "kind": "free"},
        "device": {"snr": 30.0, "device": "abacus"},
        "minutes": {"snr": 30.0, "minutes": -1.0},
    }.items():
        with pytest.raises(ConfigError, match=wanted):
            xwalloc.train(data, **{"steps": 20, "levels": 3, **arguments})
    with pytest.raises(ConfigError, match="3 channels"):
        xwalloc.train(field(bands=4), model=model)
    with pytest.raises(ConfigError, match="alike"):
        xwalloc.train([data, field(bands=4)], snr=30.0)
    with pytest.raises(ConfigError, match="Got an empty sequence"):
        xwalloc.train([], snr=30.0)
    with pytest.raises(ConfigError, match="Give several scenes"):
        xwalloc.train(data[:, :8, :8], snr=30.0)
    find = importlib.util.find_spec
    for missing, cure in {"torch": r"pip install 'xwalloc\[torch\]'", "matplotlib": "or leave out plot"}.items():
        with monkeypatch.context() as patch:
            patch.setattr(importlib.util, "find_spec", lambda n, *a, m=missing: None if n == m else find(n, *a))
            with pytest.raises(ConfigError, match=cure):
                xwalloc.train(data, snr=30.0, plot="curve.png")


def test_the_command(tmp_path):
    source, target, plot = tmp_path / "s.zarr", tmp_path / "m.safetensors", tmp_path / "curve.png"
    field(side=96).to_dataset().to_zarr(source, consolidated=False)
    command = ["train", str(source), str(target), "--variable", "r", "--snr", "14", "--levels", "3", "--steps", "40"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # xarray's, of stores without consolidated metadata
        done = CliRunner().invoke(main, [*command, "--plot", str(plot), "--channel-dim", "band", "--encoder"])
        assert done.exit_code == 0, done.output
        model = xwalloc.load_model(target)
        assert model.id in done.output
        assert model.description["train"]["report"] in done.output
        assert plot.read_bytes()[:4] == b"\x89PNG"
        assert "encoder" in done.output
        again = [*command[:2], str(tmp_path / "n"), *command[3:5], "--steps", "5", "--fitted", str(target)]
        more = CliRunner().invoke(main, again)
        assert more.exit_code == 0, more.output
        assert xwalloc.load_model(tmp_path / "n").target == model.target
        wrong = CliRunner().invoke(main, [*command[:4], "q", *command[5:]])
    assert wrong.exit_code == 1
    assert "Expected --variable" in wrong.output
