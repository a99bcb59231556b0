"""Sources of many kinds go into stores, come back within the bound, and what fails says so."""

import functools
import http.server
import json
import pickle
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import dask.array
import fsspec
import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner

import xwalloc
from xwalloc.cli import main
from xwalloc.conversion import store as objects
from xwalloc.conversion.convert import prepare
from xwalloc.conversion.prepare import array_metadata, layout
from xwalloc.conversion.unit import Job
from xwalloc.conversion.verify import verify
from xwalloc.errors import ConfigError
from xwalloc.info import describe
from xwalloc.models import library, model

rasterio = pytest.importorskip("rasterio")
rioxarray = pytest.importorskip("rioxarray")

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")
LANDSAT = sorted((DATA / "multispectral").glob("LE7*.gtif"))
ENMAP = sorted((DATA / "hyperspectral" / "enmap_potsdam").glob("*.tif"))
CORN = DATA / "hyperspectral" / "corn-kernel-hyperspectral.hdr"


def field(*shape, seed=0):
    """Smooth values with noise."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=shape)
    for axis in range(len(shape)):
        values = values.cumsum(axis)
    return values / values.std() * 10 + rng.normal(size=shape)


def raster(path, values, crs="EPSG:32633", **profile):
    count, height, width = values.shape
    profile = {"transform": rasterio.Affine(10, 0, 500, 0, -10, 900), **profile}
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype, crs=crs, **profile
    ) as file:
        file.write(values)
    return path


def cut(path):
    """Keep what says what a file is, not its last values."""
    data = path.read_bytes()
    path.write_bytes(data[: len(data) - len(data) // 4])
    return data


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def within(found, expected, bound):
    """Finite values lie within the bound and the others are where they were."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
    assert np.nanmax(np.abs(found.astype("f8") - expected.astype("f8"))) <= bound


# sources


@needs_data
@pytest.mark.filterwarnings("ignore:Use `@` matmul")  # inside rioxarray
def test_geotiff(convert, tmp_path):
    result = convert(LANDSAT[0], tmp_path / "a.zarr", max_error=20)
    assert result.ok
    assert result.ratio > 2
    assert 0 < result.max_error["band_data"] <= 20
    with rasterio.open(LANDSAT[0]) as file, xr.open_zarr(tmp_path / "a.zarr") as stored:
        values = file.read()
        assert stored.rio.crs == file.crs
        assert stored.rio.transform(recalc=False) == file.transform
        assert stored.band_data.rio.encoded_nodata == file.nodata
        assert stored.band_data.encoding["dtype"] == values.dtype
        within(stored.band_data.values, np.where(values == file.nodata, np.nan, values.astype("f4")), 20)
    assert verify(LANDSAT[0], tmp_path / "a.zarr").ok


@needs_data
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_folder_becomes_groups(convert, tmp_path, zarr_format):
    folder = tmp_path / "granules"
    folder.mkdir()
    for path in ENMAP[:3]:
        shutil.copy(path, folder)
    result = convert(folder, tmp_path / "a.zarr", max_error=0.002, zarr_format=zarr_format)
    assert result.ok
    assert sorted(result.max_error) == [f"{path.stem}/band_data" for path in ENMAP[:3]]
    assert max(result.max_error.values()) <= 20.01  # as stored
    for path in ENMAP[:3]:
        with rasterio.open(path) as file, xr.open_zarr(tmp_path / "a.zarr", group=path.stem) as stored:
            values = file.read()
            assert values.dtype == stored.band_data.encoding["dtype"] == np.float32
            found = stored.band_data.values.astype("f8")
            expected = np.where(values == -32768, np.nan, values.astype("f8") * 0.0001)
            assert np.nanmax(np.abs(found - expected)) <= 0.002 * (1 + 1e-5)
            np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))
            assert stored.rio.crs == file.crs
    assert verify(folder, tmp_path / "a.zarr").ok
    assert zarr.open_group(tmp_path / "a.zarr", mode="r").metadata.zarr_format == zarr_format


@needs_data
def test_envi_has_wavelengths(convert, tmp_path):
    assert convert(CORN, tmp_path / "a.zarr", max_error=5).ok
    with rasterio.open(CORN.with_suffix(".raw")) as file, xr.open_zarr(tmp_path / "a.zarr") as stored:
        within(stored.band_data.values, file.read(), 5)
        assert stored.wavelength.dims == ("band",)
        assert stored.wavelength.values[0] == pytest.approx(366.6, abs=1)
    assert verify(CORN.with_suffix(".raw"), tmp_path / "a.zarr").ok


@needs_data
def test_masked_stays_masked(convert, tmp_path):
    source = DATA / "gridded" / "coads_climatology.cdf"
    assert convert(source, tmp_path / "a.zarr", max_error=0.05).ok
    readers = xr.open_dataset(source, decode_times=False), xr.open_zarr(tmp_path / "a.zarr", decode_times=False)
    with readers[0] as original, readers[1] as stored:
        assert set(stored.variables) == set(original.variables)
        for name in original.data_vars:
            assert original[name].isnull().any()
            within(stored[name].values, original[name].values, 0.05)
            assert stored[name].attrs == original[name].attrs
        for name in original.coords:
            np.testing.assert_array_equal(stored[name], original[name])
    assert verify(source, tmp_path / "a.zarr").ok


@needs_data
def test_bounds_by_variable(convert, tmp_path):
    source = tmp_path / "winds.nc"
    with xr.open_dataset(DATA / "gridded" / "monthly_navy_winds.cdf", decode_cf=False) as winds:
        winds.isel(TIME=slice(24)).to_netcdf(source, format="NETCDF3_CLASSIC")
    bounds = {"UWND": 0.5, "VWND": 1.0}
    assert convert(source, tmp_path / "a.zarr", max_error=bounds).ok
    readers = xr.open_dataset(source, decode_times=False), xr.open_zarr(tmp_path / "a.zarr", decode_times=False)
    with readers[0] as original, readers[1] as stored:
        for name, bound in bounds.items():
            within(stored[name].values, original[name].values, bound)
    assert verify(source, tmp_path / "a.zarr").ok


@pytest.mark.filterwarnings("ignore:The data type")  # of names, in the store of others
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_of_others(convert, tmp_path, zarr_format):
    values = field(4, 60, 50).astype("f4")
    values[0, :5] = np.nan
    original = xr.Dataset(
        {"v": (("band", "y", "x"), values), "flag": ("y", np.arange(60) % 2 == 0)},
        {"x": np.arange(50.0), "name": ("band", list("abcd"))},
    )
    original.to_zarr(tmp_path / "source.zarr", zarr_format=zarr_format, consolidated=False)
    assert convert(tmp_path / "source.zarr", tmp_path / "a.zarr", max_error=0.1).ok
    with xr.open_zarr(tmp_path / "a.zarr") as stored:
        within(stored.v.values, values, 0.1)
        assert stored.flag.dtype == bool
        np.testing.assert_array_equal(stored.flag, original.flag)
        np.testing.assert_array_equal(stored.name, original.name)
    assert verify(tmp_path / "source.zarr", tmp_path / "a.zarr").ok


@pytest.mark.parametrize("lazy", [False, True])
def test_dataset_that_will_be_packed(convert, tmp_path, lazy):
    values = field(3, 64, 48)
    values[1, 5, 7] = np.nan
    dataset = xr.Dataset({"t": (("time", "y", "x"), values), "whole": (("y", "x"), np.arange(64 * 48).reshape(64, 48))})
    dataset.t.encoding = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 3.0, "_FillValue": -32768}
    source = dataset.chunk({"y": 20}) if lazy else dataset
    source.t.encoding = dataset.t.encoding
    assert convert(source, tmp_path / "a.zarr", max_error=0.1).ok
    with xr.open_zarr(tmp_path / "a.zarr") as stored:
        assert stored.t.encoding["dtype"] == np.int16
        within(stored.t.values, values, 0.1 + 1e-9)
        np.testing.assert_array_equal(stored.whole, dataset.whole)
    assert verify(source, tmp_path / "a.zarr").ok


def test_array_in_memory(convert, tmp_path):
    array = xr.DataArray(field(4, 40, 40).astype("f4"), dims=("band", "y", "x"))
    assert convert(array, tmp_path / "a.zarr", max_error=0.1).ok
    with xr.open_zarr(tmp_path / "a.zarr") as stored:
        within(stored["data"].values, array.values, 0.1)
    assert verify(array, tmp_path / "a.zarr").ok


def test_lazy_array_with_shards(convert, tmp_path):
    values = dask.array.from_array(field(4, 128, 100), chunks=(4, 50, 50))
    array = xr.DataArray(values, dims=("band", "y", "x"), name="v")
    result = convert(array, tmp_path / "a.zarr", max_error=0.1, chunks={"y": 32, "x": 32}, shards={"y": 64, "x": 64})
    assert (result.ok, result.units) == (True, 4)
    stored = zarr.open_group(tmp_path / "a.zarr", mode="r")["v"]
    assert (stored.chunks, stored.shards) == ((4, 32, 32), (4, 64, 64))
    within(stored[:], values.compute(), 0.1)
    assert verify(array, tmp_path / "a.zarr").ok


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_lossless_and_snr(convert, tmp_path, zarr_format):
    array = xr.DataArray(field(4, 60, 60).astype("f4"), dims=("band", "y", "x"), name="v")
    exact = convert(array, tmp_path / "exact.zarr", lossless=True, zarr_format=zarr_format)
    assert (exact.ok, exact.max_error) == (True, {"v": 0.0})
    np.testing.assert_array_equal(zarr.open_group(tmp_path / "exact.zarr", mode="r")["v"][:], array)
    noisy = convert(array, tmp_path / "noisy.zarr", snr=30, zarr_format=zarr_format)
    assert (noisy.ok, noisy.max_error) == (True, {})
    found = zarr.open_group(tmp_path / "noisy.zarr", mode="r")["v"][:]
    assert 29.5 <= 10 * np.log10(array.values.var() / np.mean((found - array.values) ** 2)) < 45
    for name in ("exact", "noisy"):
        assert verify(array, tmp_path / f"{name}.zarr").ok


@pytest.mark.parametrize("beside", [False, True])
def test_shared_model(convert, tmp_path, monkeypatch, beside):
    array = xr.DataArray(field(6, 96, 64).astype("f4"), dims=("band", "y", "x"), name="v")
    fitted = xwalloc.fit(array, max_error=0.2)
    if beside:  # as if it were a large one
        monkeypatch.setattr(model, "INLINE_LIMIT", 100)
    chunks = {"y": 32, "x": 32}
    done = convert(array, tmp_path / "a.zarr", model=fitted, chunks=chunks)
    assert done.ok
    (item,) = describe(tmp_path / "a.zarr")
    assert (item.storage.nbytes, item.storage.parts) == (done.nbytes, done.parts)
    assert item.storage.ratio == done.ratio == array.nbytes / done.stored
    assert done.parts[1][0] == "metadata and model"
    assert done.metadata > len(model.ModelReference.inline(fitted).weights)
    assert (tmp_path / "a.zarr" / "_xwalloc" / fitted.id.removeprefix("sha256:")).exists() == beside
    library._known.clear()
    within(xr.open_zarr(tmp_path / "a.zarr").v.values, array.values, 0.2)
    assert verify(array, tmp_path / "a.zarr").ok


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_arrays_share_the_weights_that_workers_are_sent(zarr_format):
    array = xr.DataArray(field(6, 96, 64).astype("f4"), dims=("band", "y", "x"), name="v")
    fitted = xwalloc.fit(array, max_error=0.2)
    weights = model.ModelReference.of(fitted).weights.encode()
    dataset = xr.Dataset({f"v{number}": array for number in range(5)})
    plan = prepare(dataset, model=fitted, zarr_format=zarr_format).plan
    job = Job.of(plan, None, array_metadata(plan, layout(plan, "", {})))
    assert 1 <= pickle.dumps(replace(job, granules=())).count(weights) <= 2


@pytest.mark.parametrize(("shards", "zarr_format"), [(None, 2), (None, 3), ({"y": 32, "x": 64}, 3)])
def test_what_is_all_fill_value_is_not_counted_as_compressed(convert, tmp_path, shards, zarr_format):
    values = field(2, 96, 64).astype("f4")
    values[:, :32] = np.nan
    array = xr.DataArray(values, dims=("band", "y", "x"), name="v")
    options = {"max_error": 0.2, "chunks": {"y": 32, "x": 32}, "shards": shards, "zarr_format": zarr_format}
    shown = []
    done = convert(array, tmp_path / "a.zarr", progress=shown.append, **options)
    (item,) = describe(tmp_path / "a.zarr")
    assert (done.nbytes, done.empty) == (values.nbytes, values.nbytes // 3)
    assert (item.storage.nbytes, item.storage.parts) == (done.nbytes - done.empty, done.parts)
    assert item.storage.ratio == done.ratio == shown[-1].ratio
    assert (item.storage.present, item.storage.count) == ((2, 3) if shards else (4, 6))
    assert done.parts[1] == ("metadata", done.metadata)


def test_along_dimensions(convert, tmp_path):
    days = [field(2, 40, 30, seed=day).astype("f4") for day in range(3)]
    for day, values in enumerate(days):
        coords = {"time": ("time", 2 * day + np.arange(2), {"units": "days since 2000-01-01"})}
        xr.Dataset({"v": (("time", "y", "x"), values)}, coords).to_netcdf(tmp_path / f"{day}.nc", engine="netcdf4")
        raster(tmp_path / f"{day}.tif", values)
    assert convert(f"{tmp_path}/*.nc", tmp_path / "there.zarr", max_error=0.1, along="time").ok
    with xr.open_zarr(tmp_path / "there.zarr") as stored:
        within(stored.v.values, np.concatenate(days), 0.1)
        np.testing.assert_array_equal(stored.time, np.arange("2000-01-01", "2000-01-07", dtype="M8[D]"))
    assert verify(f"{tmp_path}/*.nc", tmp_path / "there.zarr").ok
    assert convert(f"{tmp_path}/*.tif", tmp_path / "new.zarr", max_error=0.1, along="date").ok
    with xr.open_zarr(tmp_path / "new.zarr") as stored:
        within(stored.band_data.values, np.stack(days), 0.1)
        assert list(stored.date.values) == ["0", "1", "2"]
    assert verify(f"{tmp_path}/*.tif", tmp_path / "new.zarr").ok


def test_readers_need_no_import_and_get_no_warning(convert, tmp_path, monkeypatch):
    raster(tmp_path / "a.tif", field(3, 40, 50).astype("f4"), nodata=-1)
    raster(tmp_path / "b.tif", field(3, 40, 50).astype("f4"))
    sources = [tmp_path / "a.tif", tmp_path / "b.tif"]
    for zarr_format in (2, 3):
        assert convert(sources, tmp_path / f"{zarr_format}.zarr", max_error=0.1, zarr_format=zarr_format).ok
    array = xr.DataArray(field(6, 96, 64).astype("f4"), dims=("band", "y", "x"), name="v")
    monkeypatch.setattr(model, "INLINE_LIMIT", 100)
    assert convert(array, tmp_path / "model.zarr", model=xwalloc.fit(array, max_error=0.2), chunks={"y": 32}).ok
    code = f"""
import sys, numpy as np, xarray as xr
folder = {str(tmp_path)!r}
for number in (2, 3):
    store = f"{{folder}}/{{number}}.zarr"
    assert {{"a", "b"}} <= set(xr.open_datatree(store, engine="zarr").children)
    assert xr.open_zarr(store).attrs["xwalloc"]["sources"]["a"] == f"{{folder}}/a.tif"
    for name in "ab":
        assert xr.open_zarr(store, group=name).band_data.load().shape == (3, 40, 50)
np.save(f"{{folder}}/v.npy", xr.open_zarr(f"{{folder}}/model.zarr").v.values)
assert not {{"torch", "rasterio"}} & set(sys.modules)
"""
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    within(np.load(tmp_path / "v.npy"), array.values, 0.2)


# what fails


@pytest.fixture
def folder(tmp_path):
    """Three rasters of which the second is cut."""
    folder = tmp_path / "granules"
    folder.mkdir()
    for index, name in enumerate(("a", "b", "c")):
        raster(
            folder / f"{name}.tif", field(3, 64, 64, seed=index).astype("f4"), tiled=True, blockxsize=32, blockysize=32
        )
    whole = cut(folder / "b.tif")
    return folder, whole


def test_a_cut_file_costs_only_itself(folder, tmp_path):
    folder, whole = folder
    store = tmp_path / "a.zarr"
    command = ("convert", folder, store, "--max-error", "0.1", "--chunk", "y=32,x=32")
    done = run(*command)
    assert done.exit_code == 3
    assert "b/band_data[0:3, 32:64, 32:64]" in done.stderr.replace("\n", "")
    assert "b.tif" in done.stderr
    for name in "ac":
        with xr.open_zarr(store / name) as stored, rasterio.open(folder / f"{name}.tif") as file:
            within(stored.band_data.values, file.read(), 0.1)
    with pytest.raises(FileNotFoundError):
        zarr.open_group(store, mode="r")
    for path in ("b", "b/band_data"):
        with pytest.raises(FileNotFoundError):
            zarr.open(store, path=path, mode="r")
    untouched = {path: path.stat().st_mtime_ns for path in (store / "a" / "band_data" / "c").rglob("*")}
    (folder / "b.tif").write_bytes(whole)
    done = run(*command)
    assert done.exit_code == 0, done.output
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched
    assert run("verify", folder, store).exit_code == 0
    assert sorted(xr.open_datatree(store, engine="zarr").children)[-3:] == ["a", "b", "c"]


def test_a_source_that_changed_after_failure_is_converted_anew(convert, folder, tmp_path):
    """What was written of the damaged file is not mixed with the repaired one."""
    folder, _ = folder
    assert not convert(folder, tmp_path / "a.zarr", max_error=0.1, chunks={"y": 32, "x": 32}).ok
    raster(folder / "b.tif", field(3, 64, 64, seed=9).astype("f4"))
    again = convert(folder, tmp_path / "a.zarr", max_error=0.1, chunks={"y": 32, "x": 32})
    assert (again.ok, again.earlier) == (True, 8)
    assert verify(folder, tmp_path / "a.zarr").ok


def test_missing_and_unreadable_sources(folder, tmp_path):
    folder, whole = folder
    (folder / "b.tif").write_bytes(b"")
    store = tmp_path / "a.zarr"
    command = ("convert", folder, tmp_path / "none.tif", store, "--max-error", "0.1", "--quiet")
    done = run(*command)
    assert done.exit_code == 3
    assert "none.tif: There is no such file or folder" in done.stderr
    assert "b.tif: The file is empty" in done.stderr
    with pytest.raises(FileNotFoundError):
        zarr.open_group(store, mode="r")
    assert zarr.open_group(store, path="c", mode="r")["band_data"].shape == (3, 64, 64)
    assert run(*command, "--skip-unreadable").exit_code == 3
    missing = zarr.open_group(store, mode="r").attrs["xwalloc"]["missing"]
    assert missing == {
        str(folder / "b.tif"): "The file is empty (0 bytes).",
        str(tmp_path / "none.tif"): "There is no such file or folder.",
    }
    assert run("verify", folder, tmp_path / "none.tif", store, "--quiet").exit_code == 0
    (folder / "b.tif").write_bytes(whole)
    raster(tmp_path / "none.tif", field(3, 64, 64).astype("f4"))
    assert run(*command).exit_code == 0
    assert "missing" not in zarr.open_group(store, mode="r").attrs["xwalloc"]
    assert {"a", "b", "c", "none"} <= set(xr.open_datatree(store, engine="zarr").children)
    assert run("verify", folder, tmp_path / "none.tif", store).exit_code == 0


def test_sources_that_are_cut_are_left_out_where_that_is_wanted(folder, tmp_path, monkeypatch):
    folder, whole = folder
    (folder / "d.tif").write_bytes(b"no raster at all")
    store = tmp_path / "a.zarr"
    command = ("convert", folder, store, "--max-error", "0.1", "--chunk", "y=32,x=32", "--skip-unreadable")
    for _ in range(2):  # the same again changes nothing
        done = run(*command)
        assert done.exit_code == 3
        assert "b/band_data[0:3, 32:64, 32:64]" in done.stderr.replace("\n", "")
        assert "not complete" not in done.stderr
        root = zarr.open_group(store, mode="r")
        assert sorted(root.group_keys()) == ["a", "c"]
        assert not (store / "b").exists() or not any(path.is_file() for path in (store / "b").rglob("*"))
        missing = root.attrs["xwalloc"]["missing"]
        assert {Path(name).name: reason[:18] for name, reason in missing.items()} == {
            "b.tif": str(folder / "b.tif")[:18], "d.tif": "It is of no kind t",
        }  # fmt: skip
        checked = run("verify", folder, store)
        assert checked.exit_code == 0, checked.output
        assert f"left out        {folder / 'b.tif'}: " in checked.stdout
        assert f"left out        {folder / 'd.tif'}: It is of no kind" in checked.stdout
        monkeypatch.chdir(folder)
        assert run("verify", "*.tif", store).exit_code == 0  # however they are called
    (folder / "b.tif").write_bytes(whole)
    (folder / "d.tif").unlink()
    assert run(*command[:-1]).exit_code == 0
    assert run("verify", folder, store).exit_code == 0
    with xr.open_zarr(store, group="b") as stored, rasterio.open(folder / "b.tif") as file:
        within(stored.band_data.values, file.read(), 0.1)


def test_what_is_damaged_of_a_group_that_was_whole_does_not_leave_it_out(convert, tmp_path, monkeypatch):
    for name in "ab":
        raster(tmp_path / f"{name}.tif", field(3, 64, 64).astype("f4"))
    settings = {"max_error": 0.1, "chunks": {"y": 32, "x": 32}, "skip_unreadable": True}
    assert convert(f"{tmp_path}/*.tif", tmp_path / "s.zarr", **settings).ok
    chunk = tmp_path / "s.zarr" / "b" / "band_data" / "c" / "0" / "1" / "1"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    kept = {path for path in (tmp_path / "s.zarr" / "b").rglob("*") if path != chunk}

    def refuse(self, variable, region):
        raise ValueError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr("xwalloc.conversion.sources.raster.RasterSource.read", refuse)
        result = convert(f"{tmp_path}/*.tif", tmp_path / "s.zarr", **settings)
    assert (result.complete, len(result.failures)) == (False, 1)
    assert kept <= set((tmp_path / "s.zarr" / "b").rglob("*"))
    assert convert(f"{tmp_path}/*.tif", tmp_path / "s.zarr", **settings).ok


def test_a_single_source_and_one_along_a_dimension_cannot_be_left_out(folder, tmp_path):
    folder, _ = folder
    for more in ([folder / "b.tif"], [folder, "--along", "time"]):
        command = ("convert", *more, tmp_path / f"{len(more)}.zarr", "--max-error", "0.1", "--skip-unreadable")
        done = run(*command)
        assert done.exit_code == 3
        assert "not complete" in done.stderr
        assert "--skip-unreadable" not in done.stderr


def test_only_missing_sources(tmp_path):
    done = run("convert", tmp_path / "none.tif", tmp_path / "a.zarr", "--max-error", "1")
    assert done.exit_code == 1
    assert "There is no such file" in done.stderr
    (tmp_path / "empty").mkdir()
    done = run("convert", tmp_path / "empty", tmp_path / "a.zarr", "--max-error", "1")
    assert done.exit_code == 1
    assert "There is no raster, NetCDF, HDF5 or Zarr in this folder" in done.stderr.replace("\n", " ")
    assert not (tmp_path / "a.zarr").exists()


def test_shapes_that_do_not_go_along(tmp_path):
    raster(tmp_path / "a.tif", field(2, 30, 30))
    raster(tmp_path / "b.tif", field(2, 30, 31))
    command = ("convert", f"{tmp_path}/*.tif", tmp_path / "a.zarr", "--max-error", "1", "--along", "time")
    done = run(*command)
    assert done.exit_code == 1
    assert "b.tif" in done.stderr
    assert not (tmp_path / "a.zarr").exists()
    (tmp_path / "b.tif").write_bytes(b"")
    assert run(*command).exit_code == 1
    assert not (tmp_path / "a.zarr").exists()
    assert run(*command, "--skip-unreadable").exit_code == 3
    assert zarr.open_group(tmp_path / "a.zarr", mode="r")["band_data"].shape == (1, 2, 30, 30)


def test_no_reference_system_is_worth_a_warning(convert, tmp_path, caplog):
    raster(tmp_path / "a.tif", field(2, 30, 30), crs=None)
    assert convert(tmp_path / "a.tif", tmp_path / "a.zarr", max_error=1).ok
    assert "coordinate reference system" in caplog.text


def test_target_that_cannot_be_written(convert, tmp_path):
    raster(tmp_path / "a.tif", field(2, 30, 30))
    (tmp_path / "file").write_text("text")
    for target in (tmp_path / "file" / "a.zarr", tmp_path / "file"):
        with pytest.raises(ConfigError, match=r"file.*"):
            convert(tmp_path / "a.tif", target, max_error=1)
    assert (tmp_path / "file").read_text() == "text"


@pytest.mark.parametrize(
    "name", ["a/b", "..", ".", "", "x" * 300, "zarr.json", "_xwalloc", "__reserved", "a\0b", 7, "../../escape"]
)
def test_hostile_names_are_refused(convert, tmp_path, name):
    dataset = xr.Dataset({name: (("y", "x"), field(30, 30))})
    with pytest.raises(ConfigError, match="name"):
        convert(dataset, tmp_path / "a.zarr", max_error=1, chunks={"y": 8})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x" * 100, "ünï", "with blank", "a.b", "c", "0"])
def test_odd_names_are_fine(convert, tmp_path, name):
    dataset = xr.Dataset({name: (("y", "x"), field(30, 30))})
    assert convert(dataset, tmp_path / "a.zarr", max_error=1, chunks={"y": 8}).ok
    within(zarr.open_group(tmp_path / "a.zarr", mode="r")[name][:], dataset[name], 1)
    assert verify(dataset, tmp_path / "a.zarr").ok


def test_a_target_in_the_folder_of_sources(convert, tmp_path):
    raster(tmp_path / "a.tif", field(2, 30, 30))
    raster(tmp_path / "b.tif", field(2, 30, 30))
    for sources in (tmp_path, f"{tmp_path}/*"):
        for _ in range(2):
            result = convert(sources, tmp_path / "a.zarr", max_error=1)
            assert result.ok
        assert result.earlier == result.units == 2
        assert verify(sources, tmp_path / "a.zarr").ok
    done = run("convert", tmp_path, tmp_path / "a.zarr", "--max-error", "1", "--dry-run", "--json")
    assert sorted(json.loads(done.stdout)["sources"]) == ["a", "b"]


def test_a_source_that_is_the_target_or_in_it(convert, tmp_path):
    store = tmp_path / "a.zarr"
    array = xr.DataArray(field(4, 40, 40), dims=("band", "y", "x"), name="v")
    convert(array, store, max_error=1)
    raster(store / "scene.tif", field(2, 30, 30))
    before = files(store)
    for source, target in (
        (store, store),
        (store / "scene.tif", store),
        (f"{store}/*.tif", store),
        (store, store / "v" / "in.zarr"),
        ([tmp_path / "none.tif", store], store),
    ):
        for overwrite in (False, True):
            with pytest.raises(ConfigError, match="apart"):
                convert(source, target, max_error=2, overwrite=overwrite)
    assert files(store) == before


# stores


def test_memory_file_system(convert, tmp_path):
    system = fsspec.filesystem("memory")
    path = raster(tmp_path / "a.tif", field(2, 40, 40).astype("f4"))
    system.pipe_file("/in/a.tif", path.read_bytes())
    assert convert("memory://in/a.tif", "memory://out/a.zarr", max_error=0.1).ok
    assert system.exists("/out/a.zarr/zarr.json")
    assert verify("memory://in/a.tif", "memory://out/a.zarr").ok
    again = convert("memory://in/a.tif", "memory://out/a.zarr", max_error=0.1)
    assert again.earlier == again.units


def test_store_in_memory(convert):
    array = xr.DataArray(field(2, 900, 800), dims=("band", "y", "x"), name="v")  # more than Dask likes to be sent
    store = zarr.storage.MemoryStore()
    assert convert(array, store, max_error=5).ok
    assert verify(array, store).ok
    within(zarr.open_group(store, mode="r")["v"][:], array, 5)
    small = zarr.storage.MemoryStore()
    array[:, ::8, ::8].to_dataset().to_zarr(small, consolidated=False)
    assert convert(small, copy := zarr.storage.MemoryStore(), max_error=0.5).ok
    assert verify(small, copy).ok


def test_web_server_as_source(convert, tmp_path):
    values = field(2, 40, 40).astype("f4")
    xr.Dataset({"v": (("band", "y", "x"), values)}).to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    raster(tmp_path / "b.tif", values)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        sources = [f"http://127.0.0.1:{server.server_port}/{name}" for name in ("a.nc", "b.tif")]
        assert convert(sources, tmp_path / "a.zarr", max_error=0.1).ok
        assert verify(sources, tmp_path / "a.zarr").ok
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    within(zarr.open_group(tmp_path / "a.zarr", mode="r")["a/v"][:], values, 0.1)


@pytest.mark.parametrize("kind", ["local", "memory"])
def test_obstore(convert, tmp_path, kind):
    obstore = pytest.importorskip("obstore.store", reason="obstore is not installed")
    made = obstore.MemoryStore() if kind == "memory" else obstore.LocalStore(str(tmp_path / "out"), mkdir=True)
    store = zarr.storage.ObjectStore(made)
    array = xr.DataArray(field(2, 40, 40), dims=("band", "y", "x"), name="v")
    assert convert(array, store, max_error=0.1, chunks={"y": 16}).ok
    again = convert(array, store, max_error=0.1, chunks={"y": 16})
    assert again.earlier == again.units
    assert verify(array, store).ok
    within(zarr.open_group(store, mode="r")["v"][:], array, 0.1)


def test_icechunk(convert):
    icechunk = pytest.importorskip("icechunk", reason="icechunk is not installed")
    repository = icechunk.Repository.create(icechunk.in_memory_storage())
    session = repository.writable_session("main")
    array = xr.DataArray(field(2, 40, 40), dims=("band", "y", "x"), name="v")
    assert convert(array, session.store, max_error=0.1, chunks={"y": 16}).ok
    session.commit("converted")
    store = repository.readonly_session("main").store
    assert verify(array, store).ok
    within(zarr.open_group(store, mode="r")["v"][:], array, 0.1)
    again = convert(array, repository.writable_session("main").store, max_error=0.1, chunks={"y": 16})
    assert again.earlier == again.units
    session = icechunk.Repository.create(icechunk.in_memory_storage()).writable_session("main")

    def interrupt(progress):
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(array, session.store, max_error=0.1, chunks={"y": 16}, progress=interrupt)
    with pytest.raises(ConfigError, match="begin with a new session"):
        convert(array, session.store, max_error=0.1, chunks={"y": 16})


def test_json_of_results_is_strict(tmp_path):
    raster(tmp_path / "a.tif", field(2, 40, 40))
    done = run("convert", tmp_path / "a.tif", tmp_path / "a.zarr", "--max-error", "1", "--json")

    def refuse(text):
        raise AssertionError(text)

    events = [json.loads(line, parse_constant=refuse) for line in done.stdout.splitlines()]
    assert [event["event"] for event in events] == ["progress"] * (len(events) - 1) + ["result"]
    assert events[-1]["ok"] is True
    assert objects.is_empty(objects.open_store(tmp_path / "none"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"device": "cuda:999"}, "Expected a CUDA device for the xwalloc setting 'device'"),
        ({"device": "gpu"}, "Expected xwalloc setting 'device' (XWALLOC_DEVICE) to be"),
        ({"threads": 0}, "Expected xwalloc setting 'threads' to be null or a positive integer. Got 0."),
        ({"batch.max_bytes": "much"}, "Expected xwalloc setting 'batch.max_bytes' to be a number of bytes"),
    ],
)
@pytest.mark.parametrize("dry", [False, True])
def test_settings_are_looked_at_before_work_begins(tmp_path, changed, words, dry, monkeypatch):
    raster(tmp_path / "s.tif", field(2, 16, 16).astype("f4"))
    monkeypatch.setattr("xwalloc.conversion.convert.find", lambda *_, **__: pytest.fail("sources were opened"))
    command = ["convert", str(tmp_path / "s.tif"), str(tmp_path / "s.zarr"), "--max-error", "5"]
    with xwalloc.settings.set(changed):
        result = CliRunner().invoke(main, [*command, *["--dry-run"] * dry])
    assert result.exit_code == 1
    (line,) = result.output.strip().splitlines()
    assert line.startswith(f"Error: {words}")
    assert not (tmp_path / "s.zarr").exists()
