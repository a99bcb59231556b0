import warnings

import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner

import xwalloc
from xwalloc.cli import main
from xwalloc.cli.words import in_options
from xwalloc.errors import ConfigError, FormatError
from xwalloc.info import describe
from xwalloc.numcodecs import Walloc


@pytest.fixture
def dataset():
    rng = np.random.default_rng(3)
    cube = rng.normal(size=(6, 48, 40)).cumsum(1).cumsum(2).astype("f4")
    return xr.Dataset({"cube": (("band", "y", "x"), cube), "count": (("y", "x"), np.ones((48, 40), "i8"))})


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.mark.parametrize(
    "options",
    [{"zarr_format": 2}, {"zarr_format": 3}, {"chunks": {"y": 16, "x": 16}, "shards": {"y": 32, "x": 32}}],
    ids=["v2", "v3", "sharded"],
)
@pytest.mark.parametrize("group", [None, "deep/er"])
def test_info(tmp_path, dataset, options, group):
    dataset.walloc.to_zarr(tmp_path / "s.zarr", max_error=0.25, consolidated=False, group=group, **options)
    (item,) = describe(tmp_path / "s.zarr")
    array = zarr.open_group(tmp_path / "s.zarr", mode="r", path=group)["cube"]
    assert item.path == (f"{group}/cube" if group else "cube")
    assert item.shape == (6, 48, 40)
    assert item.configuration == {"channel_axis": 0, "signal_axes": [1, 2], "max_error": 0.25}
    assert item.modes.total() == (9 if "shards" in options else 1)
    assert item.storage.stored == array.nbytes_stored()
    assert item.storage.ratio == array.nbytes / array.nbytes_stored()
    assert item.storage.bits_per_sample == 8 * array.nbytes_stored() / array.size
    assert 0 < item.sections.total() <= item.storage.chunks
    assert item.storage.present == item.storage.count == (4 if "shards" in options else 1)
    result = run("info", tmp_path / "s.zarr")
    assert result.exit_code == 0, result.output
    for text in (
        item.path,
        "max_error 0.25",
        f"ratio           {item.storage.ratio:.2f}",
        "bits per sample",
        "model",
        "header",
    ):
        assert text in result.output
    assert "count" not in result.output


def test_info_of_an_array(tmp_path, dataset):
    dataset.walloc.to_zarr(tmp_path / "s.zarr", max_error=0.25, consolidated=False)
    result = run("info", tmp_path / "s.zarr" / "cube")
    assert result.exit_code == 0, result.output
    assert "max_error 0.25" in result.output


@pytest.mark.parametrize(
    "options",
    [{"zarr_format": 2}, {"zarr_format": 3}, {"shards": {"y": 32, "x": 32}}],
    ids=["v2", "v3", "sharded"],
)
def test_info_says_which_chunks_are_stored(tmp_path, dataset, options):
    store = tmp_path / "s.zarr"
    dataset.walloc.to_zarr(store, max_error=0.25, chunks={"y": 16, "x": 16}, consolidated=False, **options)
    kind, count = ("shards", 4) if "shards" in options else ("chunks", 9)
    assert "are stored" not in run("info", store).output
    files = sorted(path for path in (store / "cube").rglob("*") if path.is_file() and path.name[0] in "0123456789")
    assert len(files) == count
    files[0].unlink()  # the first one is not at an edge
    (item,) = describe(store)
    side = 32 if "shards" in options else 16
    assert (item.storage.present, item.storage.count) == (count - 1, count)
    assert item.storage.nbytes == dataset.cube.nbytes - 6 * side * side * 4
    metadata = sum(
        (store / "cube" / name).stat().st_size
        for name in ("zarr.json", ".zarray", ".zattrs")
        if (store / "cube" / name).exists()
    )
    assert (item.storage.chunks, item.storage.metadata) == (sum(path.stat().st_size for path in files[1:]), metadata)
    text = run("info", store / "cube").output
    assert f"{kind:<16}{count - 1} of {count} are stored, the others read as the fill value" in text
    assert f"ratio           {item.storage.nbytes / (item.storage.chunks + metadata):.2f} (" in text
    for path in files[1:]:
        path.unlink()
    text = run("info", store).output
    assert f"0 of {count} are stored" in text
    assert "ratio           none (0 B in " in text


def test_errors_are_messages_with_a_remedy(tmp_path, dataset):
    missing = run("info", tmp_path / "nothing.zarr")
    assert missing.exit_code == 1
    assert "Check the path" in missing.output
    assert "Traceback" not in missing.output
    dataset[["count"]].to_zarr(tmp_path / "plain.zarr", consolidated=False)
    plain = run("info", tmp_path / "plain.zarr")
    assert plain.exit_code == 1
    assert "xwalloc.encoding" in plain.output
    assert isinstance(run("info", tmp_path / "plain.zarr", "--debug").exception, ConfigError)
    assert isinstance(run("--debug", "info", tmp_path / "plain.zarr").exception, ConfigError)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_damage_is_named(tmp_path, dataset, zarr_format):
    dataset.walloc.to_zarr(tmp_path / "s.zarr", max_error=0.25, consolidated=False, zarr_format=zarr_format)
    chunk = tmp_path / "s.zarr/cube" / ("0.0.0" if zarr_format == 2 else "c/0/0/0")
    chunk.write_bytes(chunk.read_bytes()[:-5])
    result = run("info", tmp_path / "s.zarr")
    assert result.exit_code == 1
    assert "'cube'" in result.output
    assert "(0, 0, 0)" in result.output


def test_help_and_version():
    assert "info" in run("--help").output
    assert xwalloc.__version__ in run("--version").output
    assert run("nonsense").exit_code == 2


def test_inspect(dataset):
    data = dataset.cube.values.astype(">i2")
    frame = Walloc(channel_axis=0, signal_axes=[1, 2], max_error=2, nodata=-9999).encode(data)
    info = xwalloc.inspect(frame)
    assert (info.version, info.dtype, info.shape) == (1, np.dtype(">i2"), (6, 48, 40))
    assert (info.channel_axis, info.signal_axes) == (0, (1, 2))
    assert (info.quality, info.value, info.nodata) == ("max_error", 2, -9999)
    assert info.nbytes == len(frame)
    assert info.ratio == data.nbytes / len(frame)
    assert info.bits_per_sample == 8 * len(frame) / data.size
    assert "max_error 2" in repr(info)
    assert xwalloc.inspect(memoryview(frame)) == info
    for wrong in (b"", b"nonsense" * 20, frame[:-1], None):
        with pytest.raises(FormatError):
            xwalloc.inspect(wrong)


def test_fit_writes_a_model(tmp_path):
    y, x = np.mgrid[:64, :64] / 20
    cube = np.stack([np.sin(x * y), np.cos(x), y]).astype("f4")
    xr.Dataset({"r": (("band", "y", "x"), cube)}).to_zarr(tmp_path / "s.zarr", consolidated=False)
    target = tmp_path / "m.safetensors"
    arguments = ["fit", str(tmp_path / "s.zarr"), "r", str(target), "--snr", "30", "--channel-dim", "band"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # xarray's, of stores without consolidated metadata
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 0, done.output
        model = xwalloc.load_model(target)
        assert model.id in done.output
        assert model.description["fit"]["snr"] >= 30
        wrong = CliRunner().invoke(main, ["fit", str(tmp_path / "s.zarr"), "q", str(target), "--snr", "30"])
    assert wrong.exit_code == 1
    assert "Expected VARIABLE" in wrong.output


@pytest.mark.parametrize(
    "command",
    [
        ("fit", "none.zarr", "cube", "none/m"),
        ("train", "none.zarr", "none/m", "--variable", "cube"),
        ("import-checkpoint", "none.json", "none.pth", "none/m"),
    ],
)
def test_where_a_model_cannot_be_is_said_before_anything_is_read(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*command)
    assert result.exit_code == 1
    assert result.output.startswith("Error: Expected MODEL to be a file in a folder that exists. Got 'none/m'.")


@pytest.mark.parametrize(
    ("command", "said", "wanted"),
    [
        ("export", "It is there. Choose another, or give overwrite=True.", "Choose another, or give --overwrite."),
        ("export", "Choose with variables=[...], or .nc", "Choose with --variable ..., or .nc"),
        ("export", "Name others with variables=.", "Name others with --variable."),
        ("convert", "that you mean: max_error={'name': bound}.", "that you mean: --max-error name=bound."),
        ("convert", "such as chunks={'y': 256, 'x': 256}.", "such as --chunk y=256,x=256."),
        (
            "convert",
            "Name them: channel_dim='band', signal_dims=('y', 'x'), for example.",
            "Name them: --channel-dim band, --signal-dim y --signal-dim x, for example.",
        ),
        ("convert", "one of max_error, snr and lossless. Got", "one of --max-error, --snr and --lossless. Got"),
        ("convert", "Got max_error=5.0, snr=None.", "Got --max-error 5.0, no --snr."),
        ("convert", "leave them out with skip_unreadable.", "leave them out with --skip-unreadable."),
        ("convert", "Leave shards out or make chunks smaller.", "Leave shards out or make chunks smaller."),
        ("convert", "'max_error' and `snr` of my/max_error.tif", "'max_error' and `snr` of my/max_error.tif"),
        ("verify", "give channel_dim='band'", "give channel_dim='band'"),
    ],
)
def test_messages_speak_of_options(command, said, wanted):
    assert wanted in in_options(said, main.commands[command].params)


def test_errors_speak_of_options(tmp_path, dataset):
    dataset = dataset.rename(band="p", y="q", x="r")
    dataset.walloc.to_zarr(
        tmp_path / "s.zarr", max_error=0.25, channel_dim="p", signal_dims=("q", "r"), consolidated=False
    )
    assert run("export", tmp_path / "s.zarr", tmp_path / "p.zarr").exit_code == 0
    assert "or give --overwrite." in run("export", tmp_path / "s.zarr", tmp_path / "p.zarr").output
    result = run("export", tmp_path / "s.zarr", tmp_path / "p.tif")
    assert "Choose with --variable ..." in result.output
    result = run("convert", tmp_path / "p.zarr", tmp_path / "t.zarr", "--max-error", "1")
    assert result.exit_code == 1
    assert "--channel-dim band, --signal-dim y --signal-dim x" in result.output
    dims = ("--channel-dim", "p", "--signal-dim", "q", "--signal-dim", "r")
    result = run("fit", tmp_path / "p.zarr", "cube", tmp_path / "m", *dims)
    assert "exactly one of --max-error, --snr, --bits, --ratio, --latents. Got none" in result.output


def test_warnings_speak_of_options(tmp_path):
    pytest.importorskip("distributed", reason="dask is not installed")
    values = np.random.default_rng(0).normal(size=(9, 16, 16))
    xr.Dataset({"v": (("kind", "y", "x"), values)}).to_zarr(tmp_path / "s.zarr", consolidated=False)
    result = run("convert", tmp_path / "s.zarr", tmp_path / "t.zarr", "--max-error", "1")
    assert "say --channel-dim kind" in " ".join(result.stderr.split())
