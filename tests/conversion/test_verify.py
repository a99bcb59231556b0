"""What differs between a store and its sources is found, and said where."""

import json
import shutil

import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner

from xwalloc.cli import main
from xwalloc.conversion.convert import convert
from xwalloc.conversion.verify import verify
from xwalloc.errors import ConfigError

BOUND = 0.5
CHUNKS = {"y": 32, "x": 32}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A source, and its store as it should be."""
    folder = tmp_path_factory.mktemp("original")
    rng = np.random.default_rng(3)
    values = rng.normal(size=(4, 64, 96)).cumsum(1).cumsum(2).astype("f4")
    values[:, 40:44, 70:75] = np.nan
    values[2, 3, 3] = np.inf
    masked = np.where(rng.random((64, 96)) < 0.1, -9999, rng.normal(size=(64, 96)) * 100).astype("f4")
    dataset = xr.Dataset(
        {
            "radiance": (("band", "y", "x"), values),
            "height": (("y", "x"), masked, {"_FillValue": np.float32(-9999)}),
            "flags": (("y", "x"), rng.integers(0, 4, (64, 96)).astype("u1"), {"flag_masks": [1, 2]}),
        },
        {"wavelength": ("band", np.linspace(400.0, 900, 4), {"units": "nm"}), "name": ("band", list("abcd"))},
    )
    dataset.height.encoding = {"_FillValue": np.float32(-9999)}
    del dataset.height.attrs["_FillValue"]
    dataset.to_netcdf(folder / "scene.nc", engine="h5netcdf")
    assert convert(folder / "scene.nc", folder / "good.zarr", max_error=BOUND, chunks=CHUNKS).ok
    return folder


@pytest.fixture
def store(original, tmp_path):
    """A copy that may be spoiled."""
    return shutil.copytree(original / "good.zarr", tmp_path / "copy.zarr")


def command(original, store, *more):
    return CliRunner().invoke(main, ["verify", str(original / "scene.nc"), str(store), *more])


def test_all_is_well(original):
    found = verify(original / "scene.nc", original / "good.zarr")
    assert found.ok
    assert found.checked == found.units == 6 + 6 + 1
    assert 0 < found.max_error["radiance"] <= BOUND
    assert found.max_error["flags"] == 0
    done = command(original, original / "good.zarr")
    assert done.exit_code == 0
    assert "all as promised" in done.output


def change(original, store, path, region, how):
    """Encode the original anew, but for what is to be found."""
    with xr.open_dataset(original / "scene.nc", decode_cf=False) as dataset:
        values = np.array(dataset[path].values[region])
    zarr.open_group(store, mode="r+")[path][region] = how(values)


def forget_consolidated(store):
    root = json.loads((store / "zarr.json").read_text())
    del root["consolidated_metadata"]
    (store / "zarr.json").write_text(json.dumps(root))


def spoilt_sample(values):
    values[1, 3, 4] += 2.1 * BOUND
    return values


def moved_nan(values):
    values[:, 8, 6] = values[:, 9, 7]
    values[:, 9, 7] = np.float32(0)
    return values


def masked(values):
    values[tuple(np.argwhere(values == -9999)[0])] = 1
    return values


@pytest.mark.parametrize(
    ("path", "how", "region", "words"),
    [
        ("radiance", spoilt_sample, ((0, 4), (32, 64), (0, 32)), "1 samples beyond the bound of 0.5"),
        ("radiance", moved_nan, ((0, 4), (32, 64), (64, 96)), "where NaN, infinities or nodata are"),
        ("height", masked, ((32, 64), (32, 64)), "where NaN, infinities or nodata are"),
        ("flags", lambda values: values ^ 1, ((0, 64), (0, 96)), "samples differ of an array that is kept exactly"),
    ],
)
def test_values_that_are_off(original, store, path, how, region, words):
    change(original, store, path, tuple(slice(a, b) for a, b in region), how)
    (difference,) = verify(original / "scene.nc", store).differences
    assert (difference.path, difference.region) == (path, region)
    assert words in difference.reason
    done = command(original, store)
    assert done.exit_code == 3
    assert f"{path}[{', '.join(f'{a}:{b}' for a, b in region)}]" in done.stderr.replace("\n", "")


def test_damaged_chunk(original, store):
    chunk = store / "radiance" / "c" / "0" / "1" / "2"
    chunk.write_bytes(chunk.read_bytes()[:-5])
    (difference,) = verify(original / "scene.nc", store).differences
    assert difference.region == ((0, 4), (32, 64), (64, 96))
    assert "Error" in difference.reason
    chunk.unlink()  # then it reads as fill value
    (difference,) = verify(original / "scene.nc", store).differences
    assert difference.region == ((0, 4), (32, 64), (64, 96))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("wavelength", lambda values: values + 0.25),
        ("name", lambda values: values[::-1]),
    ],
)
def test_coordinates_that_are_off(original, store, name, how):
    change(original, store, name, slice(None), how)
    (difference,) = verify(original / "scene.nc", store).differences
    assert (difference.path, difference.region) == (name, None)


@pytest.mark.parametrize("name", ["radiance", "wavelength", "flags"])
def test_deleted_variable(original, store, name):
    shutil.rmtree(store / name)
    forget_consolidated(store)
    differences = verify(original / "scene.nc", store).differences
    assert [(found.path, found.reason) for found in differences] == [(name, "is not in the store")]
    assert command(original, store).exit_code == 3


@pytest.mark.parametrize("name", ["radiance", "wavelength"])
def test_variable_that_only_consolidated_metadata_know(original, store, name):
    shutil.rmtree(store / name)
    assert {found.path for found in verify(original / "scene.nc", store).differences} == {name}


def test_other_shape_and_dtype(original, store):
    forget_consolidated(store)
    root = zarr.open_group(store, mode="r+")
    values = root["radiance"][:, :60]
    del root["radiance"]
    root.create_array("radiance", data=values.astype("f8"), dimension_names=("band", "y", "x"))
    difference, more = verify(original / "scene.nc", store).differences
    assert "xarray cannot open it" in more.reason
    assert "float64 (4, 60, 96) in the store and float32 (4, 64, 96) in the source" in difference.reason


def test_attributes_without_which_values_mean_something_else(original, store):
    forget_consolidated(store)
    root = zarr.open_group(store, mode="r+")
    root["height"].attrs["scale_factor"] = 0.1
    root["flags"].attrs["flag_masks"] = [1, 4]
    root["wavelength"].attrs["units"] = "um"
    found = verify(original / "scene.nc", store).differences
    assert {(one.path, one.reason.split()[0]) for one in found} == {
        ("height", "scale_factor"), ("flags", "flag_masks"), ("wavelength", "units"),
    }  # fmt: skip


def test_sample(original, store):
    found = verify(original / "scene.nc", store, sample=2)
    assert (found.checked, found.units, found.ok) == (2 + 2 + 1, 13, True)
    array = zarr.open_group(store, mode="r+")["radiance"]
    array[:] = array[:] + 2
    assert len(verify(original / "scene.nc", store, sample=2).differences) == 2
    done = command(original, store, "--sample", "1", "--quiet")
    assert done.exit_code == 3
    assert done.stdout == ""
    with pytest.raises(ConfigError, match="sample"):
        verify(original / "scene.nc", store, sample=0)


def test_json(original, store):
    done = command(original, store, "--json")
    facts = json.loads(done.stdout)
    assert (facts["event"], facts["ok"], facts["checked"], facts["differences"]) == ("verification", True, 13, [])
    change(original, store, "radiance", (slice(0, 4), slice(0, 32), slice(0, 32)), spoilt_sample)
    done = command(original, store, "--json")
    assert done.exit_code == 3
    (difference,) = json.loads(done.stdout)["differences"]
    assert difference["region"] == [[0, 4], [0, 32], [0, 32]]


def test_not_its_sources(original, store, tmp_path):
    with pytest.raises(ConfigError, match=r"none\.nc"):
        verify(tmp_path / "none.nc", store)
    with pytest.raises(ConfigError, match="Got none"):
        verify(original / "scene.nc", tmp_path / "none.zarr")
    shutil.copy(original / "scene.nc", tmp_path / "other.nc")
    with pytest.raises(ConfigError, match="Give the sources that the store was converted from"):
        verify([original / "scene.nc", tmp_path / "other.nc"], store)
    xr.Dataset({"wind": (("y", "x"), np.zeros((8, 8), "f4"))}).to_netcdf(tmp_path / "wind.nc")
    with pytest.raises(ConfigError, match=r"converted from: flags, height, radiance\. Got wind"):
        verify(tmp_path / "wind.nc", store)
    done = CliRunner().invoke(main, ["verify", str(tmp_path / "wind.nc"), str(store)])
    assert done.exit_code == 1


def test_some_of_its_sources(original, tmp_path):
    sources = [shutil.copy(original / "scene.nc", tmp_path / f"{name}.nc") for name in "abc"]
    store = tmp_path / "abc.zarr"
    assert convert(sources, store, max_error={"height": BOUND}).ok
    assert verify(sources, store, sample=1).ok
    done = CliRunner().invoke(main, ["verify", str(sources[0]), str(sources[1]), str(store)])
    assert done.exit_code == 1
    assert "Expected the 3 sources (or groups of them)" in done.stderr
    assert f"Got 2. Not given: {sources[2]} (group c). Give" in done.stderr
    with pytest.raises(ConfigError, match=r"Got 1\. Not given: .*a\.nc \(group a\).*Not in the store: .*a\.nc\. Give"):
        verify(sources[0], store)
    shutil.copy(original / "scene.nc", tmp_path / "d.nc")
    with pytest.raises(ConfigError, match=r"Not in the store: .*d\.nc \(group d\)"):
        verify([*sources, tmp_path / "d.nc"], store)


def test_store_that_another_wrote(original, tmp_path):
    with xr.open_dataset(original / "scene.nc", decode_cf=False) as dataset:
        plain = dataset.drop_vars(["name", "wavelength"]).load()
    plain.to_zarr(tmp_path / "plain.zarr", consolidated=False)
    found = verify(plain, tmp_path / "plain.zarr")
    assert found.ok
    assert found.max_error == {"radiance": 0, "height": 0, "flags": 0}
    (plain.height.to_dataset(name="other")).to_zarr(tmp_path / "other.zarr", consolidated=False)
    with pytest.raises(ConfigError, match="has none of them, nor the record of a conversion"):
        verify(plain, tmp_path / "other.zarr")
