"""Published WaLLoC models from their files to stores and back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner

torch = pytest.importorskip("torch", reason="torch is not installed: published models cannot run")

import xwalloc  # noqa: E402
from xwalloc.cli import main  # noqa: E402
from xwalloc.codec.config import CodecConfig  # noqa: E402
from xwalloc.errors import ConfigError, FormatError, UnsupportedFormatError  # noqa: E402
from xwalloc.info import describe  # noqa: E402
from xwalloc.models import library  # noqa: E402
from xwalloc.models.model import Model  # noqa: E402
from xwalloc.models.published import as_model, import_checkpoint, module_of  # noqa: E402
from xwalloc.models.upstream import Architecture, save  # noqa: E402
from xwalloc.xarray.plan import Request, plan  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

GOLDEN = Path(__file__).parents[2] / "shared" / "golden"
CASES = (
    "codec1d_full_encoder", "codec1d_stereo_nopost", "codec1d_stereo_post", "codec2d_full_encoder",
    "codec2d_gray_J4_2bit", "codec2d_hyper8", "codec2d_rgb_light", "linear2d_16ch", "residual2d_2stage",
)  # fmt: skip


def fresh(**sizes):
    torch.manual_seed(3)
    module = Architecture(**sizes).build().eval()
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if name.startswith("encoder"):
                weight.mul_(12)
    return module


@pytest.fixture(scope="module")
def rgb():
    return fresh(kind="Codec2D", channels=3, J=2, latent_dim=6, latent_bits=4, Nd=32)


@pytest.fixture(scope="module")
def large():
    """A model of more than 512 KiB."""
    return as_model(fresh(kind="Codec2D", channels=3, J=2, latent_dim=6, latent_bits=4, Nd=64))


@pytest.fixture(scope="module")
def stereo():
    return as_model(
        fresh(kind="Codec1D", channels=2, J=3, latent_dim=6, latent_bits=5, Nd=12), value_range=(-32768, 32767)
    )


@pytest.fixture(scope="module")
def pictures():
    y, x = np.mgrid[:80, :64] / 9
    field = np.stack([np.sin(y), np.cos(x * 1.3), np.sin(x + y)])[None] + np.arange(2)[:, None, None, None] / 2
    values = np.rint(110 + 60 * field).astype("u1")
    coords = {"time": [0, 1], "y": np.arange(80.0), "x": 2 * np.arange(64.0)}
    return xr.DataArray(values, dims=("time", "channel", "y", "x"), coords=coords, name="photo").to_dataset()


def files(module, folder):
    save(module, folder / "m.json", folder / "m.pth")
    return folder / "m.json", folder / "m.pth"


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def written(pictures, path, model, **options):
    options = {"channel_dim": "channel", "chunks": {"time": 1, "y": 40, "x": 32}, "consolidated": False, **options}
    pictures.walloc.to_zarr(path, model=model, **options)


def test_a_module_comes_back_from_its_model(rgb, tmp_path):
    model = as_model(rgb)
    model.save(tmp_path / "m.safetensors")
    again = module_of(xwalloc.load_model(tmp_path / "m.safetensors"))
    assert again.architecture == rgb.architecture
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), rgb.state_dict().values(), strict=True))
    assert "network of width 32" in repr(model)
    assert "6 channels of 4 bits" in model._repr_html_()
    with pytest.raises(ConfigError, match="kind 'published'"):
        module_of(xwalloc.fit(xr.DataArray(np.ones((3, 32, 32)), dims=("band", "y", "x"), name="a"), max_error=0.5))


def test_a_configuration_with_what_json_has_not(rgb, tmp_path):
    config, checkpoint = files(rgb, tmp_path)
    data = {**json.loads(config.read_text()), "lr": float("nan"), "\u03d5": [float("inf"), {"a": 1}]}
    config.write_text(json.dumps(data))
    model = import_checkpoint(config, checkpoint)
    assert Model.from_bytes(model.data).description["architecture"]["\u03d5"] == ["inf", {"a": 1}]


def test_a_store_carries_a_large_model_beside_its_arrays(large, pictures, tmp_path):
    written(pictures, tmp_path / "s.zarr", large)
    configuration = zarr.open_array(tmp_path / "s.zarr" / "photo", mode="r").metadata.to_dict()["codecs"][0]
    assert configuration["configuration"]["model"] == {"id": large.id}
    assert configuration["configuration"]["step"] == 1
    beside = zarr.open_array(tmp_path / "s.zarr" / "_xwalloc" / large.id[7:], mode="r")
    assert beside[:].tobytes() == large.data
    here = xr.open_zarr(tmp_path / "s.zarr", consolidated=False).photo.values
    x = torch.from_numpy(((pictures.photo.values[:1, :, :40, :32] - 127.5) / 255).astype("f4"))
    module = module_of(large)
    expected = module.decode(module.encode(x)).numpy() * 255 + 127.5
    assert np.abs(here[:1, :, :40, :32] - expected).max() <= 0.51
    (item,) = describe(tmp_path / "s.zarr")
    assert item.modes == {"learned": 8}
    # another process, and one without torch
    script = (
        "import sys, numpy as np, xarray as xr\n"
        "{before}\n"
        "da = xr.open_zarr(sys.argv[1], consolidated=False, chunks=None).photo\n"
        "assert 'torch' not in sys.modules or sys.modules['torch'] is None\n"
        "np.save(sys.argv[2], da.values)\n"
    )
    for before in ("", "sys.modules['torch'] = None"):
        arguments = [sys.executable, "-c", script.format(before=before), tmp_path / "s.zarr", tmp_path / "out.npy"]
        done = subprocess.run(list(map(str, arguments)), capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == (not before), done.stderr
        if before:
            assert "ConfigError" in done.stderr
            assert "pip install 'xwalloc[torch]'" in done.stderr
    assert np.array_equal(np.load(tmp_path / "out.npy"), here)


def test_the_bound_in_a_store(large, pictures, tmp_path):
    written(pictures, tmp_path / "s.zarr", large, max_error={"photo": 4})
    found = xr.open_zarr(tmp_path / "s.zarr", consolidated=False).photo
    assert int(abs(found.astype(int) - pictures.photo.astype(int)).max()) <= 4


@pytest.mark.parametrize("options", [{"zarr_format": 2}, {"shards": {"time": 1, "y": 80, "x": 64}}])
def test_a_large_model_is_refused_where_it_has_no_place(large, pictures, tmp_path, options):
    with pytest.raises(ConfigError, match="at most 524288 bytes"):
        written(pictures, tmp_path / "s.zarr", large, **options)


def test_chunks_suit_the_model(large, stereo):
    scene = xr.DataArray(np.zeros((3, 600, 900), "u1"), dims=("channel", "y", "x"), name="photo").to_dataset()
    options = {"model": large, "channel_dim": "channel", "beside": True}
    for ds in (scene, scene.chunk({"y": 512})):
        assert plan(ds, Request(**options))["photo"].grid.chunks == (3, 256, 256)
    with pytest.raises(ConfigError, match=r"Choose smaller chunks.*'photo'"):
        plan(scene, Request(chunks={"y": 600, "x": 900}, **options))
    audio = xr.DataArray(np.zeros((2, 1 << 24), "i1"), dims=("channel", "time"), name="a").to_dataset()
    options = {"channel_dim": "channel", "signal_dims": ["time"]}
    wide = as_model(fresh(kind="Codec1D", channels=2, J=3, latent_dim=32, latent_bits=5, Nd=64))
    for model, size in ((stereo, 1 << 22), (wide, 1 << 20)):
        assert plan(audio, Request(model=model, beside=True, **options))["a"].grid.chunks == (2, size)


def test_a_codec_names_a_large_model_and_carries_a_small_one(large, stereo):
    for model, carried in ((large, False), (stereo, True)):
        library._known.clear()
        config = CodecConfig(channel_axis=0, signal_axes=(1, 2)[: model.dimensions], step=1, model=model)
        assert (config.model.weights is not None) == carried
        assert library.resolve(config.model) == model


def test_latents_of_a_store(large, pictures, tmp_path):
    written(pictures, tmp_path / "s.zarr", large)
    latents = xwalloc.open_latents(tmp_path / "s.zarr", "photo")
    assert latents.dims == ("time", "latent", "y_patch", "x_patch")
    assert latents.shape == (2, 6, 20, 16)
    assert latents.attrs["comparable"] == 1
    assert latents.attrs["patch"] == [4, 4]
    assert latents.x_patch.values[:2].tolist() == [3.0, 11.0]
    x = (pictures.photo.values[:1, :, :40, :32] - 127.5) / 255
    assert np.array_equal(latents.values[:1, :, :10, :8], large.encode(x))
    decoded = xwalloc.decode_latents(latents[:1, :, :10, :8], large)
    assert decoded.dims == ("time", "channel", "y", "x")
    stored = xr.open_zarr(tmp_path / "s.zarr", consolidated=False).photo.values[:1, :, :40, :32]
    assert np.abs(decoded.values * 255 + 127.5 - stored).max() < 0.51
    real = xwalloc.open_latents(tmp_path / "s.zarr", "photo", dequantised=True)
    assert real.dtype == np.float32
    assert bool(((real > 0) == (latents > 0)).all())
    with pytest.raises(ConfigError, match="published WaLLoC model"):
        xwalloc.open_preview(tmp_path / "s.zarr", "photo", 1)
    written(pictures, tmp_path / "b.zarr", large, max_error={"photo": 1})
    bounded = xwalloc.open_latents(tmp_path / "b.zarr", "photo")
    assert bounded.attrs["comparable"] == 0
    with pytest.raises(FormatError, match="no latents of the model"):
        bounded.load()


def test_latents_of_a_series(stereo, tmp_path):
    t = np.arange(1000) / 30
    audio = np.stack([np.sin(t) * 9000, np.sin(t * 1.7) * 20000]).astype("i2")
    ds = xr.DataArray(audio, dims=("channel", "time"), coords={"time": np.arange(1000.0)}, name="a").to_dataset()
    options = {"signal_dims": ["time"], "channel_dim": "channel", "consolidated": False}
    xwalloc_chunks = {"time": 400}
    ds.walloc.to_zarr(tmp_path / "s.zarr", model=stereo, chunks=xwalloc_chunks, **options)
    latents = xwalloc.open_latents(tmp_path / "s.zarr", "a")
    assert latents.shape == (6, 3 * 52)
    assert latents.time_patch.values[:3].tolist() == [0.0, 3.5, 11.5]  # the one before the first patch is clipped
    assert np.array_equal(latents.values[:, :52], stereo.encode(audio[:, :400].astype("f8")))
    decoded = stereo.decode(latents[:, :52])
    stored = xr.open_zarr(tmp_path / "s.zarr", consolidated=False).a.values[:, :400]
    assert np.abs(decoded.values - stored).max() < 0.51


@pytest.mark.parametrize("kind", ["numpy", "torch", "xarray"])
def test_model_encode_and_decode(stereo, kind):
    x = np.random.default_rng(0).normal(size=(2, 3, 2, 100)).cumsum(-1) * 100
    given = {"numpy": x, "torch": torch.from_numpy(x), "xarray": xr.DataArray(x, dims=("a", "b", "c", "t"))}[kind]
    latents = stereo.encode(given)
    assert type(latents) is type(given)
    assert tuple(latents.shape) == (2, 3, 6, 15)
    decoded = stereo.decode(latents)
    assert tuple(decoded.shape) == (2, 3, 2, 104)
    assert tuple(stereo.decode(latents, (100,)).shape) == (2, 3, 2, 100)
    with pytest.raises(ConfigError, match="-32768 to 32767"):
        stereo.encode(given * 1e6)
    with pytest.raises(ConfigError, match="shape"):
        stereo.decode(latents, (200,))
    with pytest.raises(ConfigError, match="2 channels"):
        stereo.encode(np.zeros((3, 100)))


def test_import_checkpoint_in_one_command(rgb, tmp_path):
    config, checkpoint = files(rgb, tmp_path)
    result = run("import-checkpoint", config, checkpoint, tmp_path / "m.safetensors", "--size", 64, "--max-error", 5)
    assert result.exit_code == 0, result.output
    for text in ("uint8 (3, 64, 64)", "own rate        learned mode", "max_error 5", "PSNR", "s to decode"):
        assert text in result.output
    assert xwalloc.load_model(tmp_path / "m.safetensors") == as_model(rgb)
    largest = float(result.output.split("max_error 5")[1].split("largest error ")[1].split(",")[0])
    assert largest <= 5


@pytest.mark.parametrize(
    ("sizes", "options", "expected"),
    [
        ({"kind": "Codec1D", "channels": 2, "J": 2, "latent_dim": 4, "latent_bits": 4, "Nd": 8}, (), "int16 (2, 300)"),
        (
            {"kind": "LinearCodec2D", "channels": 9, "J": 2, "latent_dim": 8, "latent_bits": 6},
            ("--range", 0, 1.5),
            "float32 (9, 300, 300)",
        ),
    ],
)
def test_import_of_other_kinds(sizes, options, expected, tmp_path):
    config, checkpoint = files(fresh(**sizes), tmp_path)
    result = run("import-checkpoint", config, checkpoint, tmp_path / "m.safetensors", "--size", 300, *options)
    assert result.exit_code == 0, result.output
    assert expected in result.output
    if options:
        assert "0 to 1.5" in result.output


def test_import_with_a_picture(rgb, tmp_path):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pixels = np.random.default_rng(0).integers(0, 255, (50, 70, 3), dtype="u1")
    image.fromarray(pixels).save(tmp_path / "p.png")
    config, checkpoint = files(rgb, tmp_path)
    arguments = ("import-checkpoint", config, checkpoint, tmp_path / "m.safetensors", "--image")
    result = run(*arguments, tmp_path / "p.png")
    assert result.exit_code == 0, result.output
    assert "uint8 (3, 50, 70)" in result.output
    assert "Expected a picture" in run(*arguments, tmp_path / "none.png").output


def test_what_import_refuses(rgb, tmp_path):
    config, checkpoint = files(rgb, tmp_path)
    for arguments, text in (
        ((checkpoint, config, "m"), "Expected"),
        ((config, tmp_path / "none.pth", "m"), "Expected checkpoint_path"),
        ((config, checkpoint, "m", "--range", "2", "1"), "a lower and a higher number"),
        ((config, checkpoint, "m", "--range", "nan", "1"), "a lower and a higher number"),
    ):
        result = run("import-checkpoint", *arguments)
        assert result.exit_code == 1
        assert text in result.output
        assert not Path("m").exists()


@pytest.mark.parametrize("case", CASES)
def test_golden_models(case, tmp_path):
    """What the published package encoded and decoded is what the codec makes of the same chunk."""
    folder = GOLDEN / case
    if not folder.is_dir():
        pytest.skip("../shared/golden is not here: nothing to compare with")
    model = import_checkpoint(folder / "config.json", folder / "checkpoint.pth", value_range=(-0.5, 0.5))
    with np.load(folder / "vectors.npz") as v:
        x, latent, expected = v["x"], v["latent"], v["x_hat"]
    da = xr.DataArray(x, dims=("item", "channel", "y", "x")[: x.ndim], name="a")
    options = {"channel_dim": "channel", "signal_dims": da.dims[2:], "consolidated": False}
    da.to_dataset().walloc.to_zarr(tmp_path / "s.zarr", model=model, chunks={"item": 1}, **options)
    latents = xwalloc.open_latents(tmp_path / "s.zarr", "a")
    assert np.mean(latents.values != latent) < 1e-3
    assert np.abs(model.decode(latent) - expected).max() < 1e-5
    if np.array_equal(latents.values, latent):
        decoded = xr.open_zarr(tmp_path / "s.zarr", consolidated=False).a.values
        assert np.abs(decoded - expected).max() < 1e-5


def test_a_golden_legacy_checkpoint_wants_pickle(tmp_path):
    folder = GOLDEN / "codec2d_legacy_pickle"
    if not folder.is_dir():
        pytest.skip("../shared/golden is not here: nothing to compare with")
    arguments = ("import-checkpoint", folder / "config.json", folder / "checkpoint.pth", tmp_path / "m.safetensors")
    refused = run(*arguments, "--size", 40)
    assert refused.exit_code == 1
    assert "legacy" in refused.output
    assert run(*arguments, "--size", 40, "--pickle").exit_code == 0
    with pytest.raises(UnsupportedFormatError):
        import_checkpoint(folder / "config.json", folder / "checkpoint.pth")
