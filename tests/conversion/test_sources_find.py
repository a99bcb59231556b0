"""What is found in files, folders, patterns and URLs."""

import shutil
from pathlib import Path

import fsspec
import h5py
import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
from affine import Affine

from xwalloc.conversion.sources.find import find
from xwalloc.conversion.sources.netcdf import NetcdfSource
from xwalloc.conversion.sources.raster import RasterSource
from xwalloc.conversion.sources.zarr import ZarrSource

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")
pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")


def tiff(path, value=1):
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=4, width=5, dtype="uint8", crs="EPSG:4326",
        transform=Affine(1, 0, 0, 0, -1, 9),
    ) as file:  # fmt: skip
        file.write(np.full((1, 4, 5), value, "u1"))
    return path


@pytest.fixture
def folder(tmp_path):
    """One of each kind, and what is none."""
    path = tmp_path / "in"
    path.mkdir()
    tiff(path / "b.tif")
    tiff(path / "no_suffix")
    xr.Dataset({"v": ("x", np.arange(3))}).to_netcdf(path / "a.nc", engine="netcdf4")
    with h5py.File(path / "groups.dat", "w") as file:
        file["one/v"], file["two/w"] = np.arange(3), np.arange(4)
    zarr.create_group(path / "store").create_array("v", shape=(2,), dtype="f4", dimension_names=("x",))
    np.arange(60, dtype="u1").tofile(path / "cube.bil")
    (path / "cube.hdr").write_text(
        "ENVI\nsamples = 5\nlines = 4\nbands = 3\ndata type = 1\ninterleave = bil\nbyte order = 0\n"
    )
    (path / "README.txt").write_text("about")
    (path / "b.tif.aux.xml").write_text("<PAMDataset/>")
    (path / "empty.tif").write_bytes(b"")
    (path / "below").mkdir()
    tiff(path / "below" / "c.tif")
    return path


def test_a_folder(folder):
    found = find([folder])
    assert [granule.path for granule in found.granules] == [
        "a",
        "b",
        "cube",
        "groups/one",
        "groups/two",
        "no_suffix",
        "store",
    ]
    kinds = [type(granule.source) for granule in found.granules]
    assert kinds == [NetcdfSource, RasterSource, RasterSource, NetcdfSource, NetcdfSource, RasterSource, ZarrSource]
    assert [(Path(name).name, reason) for name, reason in found.unreadable] == [
        ("empty.tif", "The file is empty (0 bytes).")
    ]
    assert found.granules[2].source.template().band_data.shape == (3, 4, 5)


@pytest.mark.parametrize("given", ["b.tif", "cube.hdr", "cube.bil", "a.nc", "store", "no_suffix"])
def test_one_source_is_the_root(folder, given):
    (granule,) = find([str(folder / given)]).granules
    assert granule.path == ""
    assert granule.source.template().sizes


def test_groups_keep_their_names(folder):
    granules = find([folder / "groups.dat"]).granules
    assert [granule.path for granule in granules] == ["one", "two"]
    np.testing.assert_array_equal(granules[1].source.read("w", (slice(1, 3),)), [1, 2])
    assert [granule.path for granule in find([folder / "groups.dat"], groups=["two"]).granules] == ["two"]
    ((_, reason),) = find([folder / "groups.dat"], groups=["three"]).unreadable
    assert "none of the groups" in reason
    assert "'one', 'two'" in reason


def test_patterns_and_names_that_are_told_apart(folder):
    for name in ("x", "y"):
        (folder / name).mkdir()
        shutil.copy(folder / "b.tif", folder / name / "B 4%.tif")
    found = find([f"{folder}/*/B*.tif", folder / "b.tif", f"{folder}/*.none"])
    assert [granule.path for granule in found.granules] == ["B_4_", "B_4__2", "b"]
    assert found.unreadable == [(f"{folder}/*.none", "No file matches this pattern.")]
    assert [granule.path for granule in find([f"{folder}/cube*"]).granules] == [""]


def test_names_that_zarr_or_we_keep_for_ourselves(tmp_path):
    names = ["_xwalloc", "__a", "A", "a", "...", "ä ö"]
    paths = [tiff(tmp_path / f"{name}.tif") if name != "a" else tiff(tmp_path / "a.tiff") for name in names]
    found = [granule.path for granule in find(paths).granules]
    assert found == ["source_xwalloc", "source__a", "A", "a_2", "source", "ä_ö"]
    root = zarr.create_group(tmp_path / "out.zarr")
    for name in found:
        root.create_group(name)
    assert sorted(root.group_keys()) == sorted(found)


def test_reasons(tmp_path):
    (tmp_path / "text.csv").write_text("a,b\n1,2\n")
    whole = tiff(tmp_path / "whole.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[:30])
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 30)
    (tmp_path / "old.hdf").write_bytes(b"\x0e\x03\x13\x01" + b"\0" * 99)
    (tmp_path / "alone.hdr").write_text("ENVI\nsamples = 5\n")
    with h5py.File(tmp_path / "no.h5", "w") as file:
        file.create_group("nothing")
    (tmp_path / "bare").mkdir()
    names = ["whole.tif", "text.csv", "cut.tif", "cut.h5", "old.hdf", "alone.hdr", "no.h5", "missing.tif", "bare"]
    found = find([tmp_path / name for name in names])
    assert [granule.path for granule in found.granules] == ["whole"]
    reasons = {Path(name).name: reason for name, reason in found.unreadable}
    for name, words in {
        "text.csv": "of no kind that can be read",
        "cut.tif": "damaged, or was cut off",
        "cut.h5": "damaged, or was cut off",
        "old.hdf": "HDF4",
        "alone.hdr": "beside it",
        "no.h5": "has no variables",
        "missing.tif": "no such file",
        "bare": "folders below are not searched",
    }.items():
        assert words in reasons[name]


def test_along(tmp_path):
    for index in range(3):
        tiff(tmp_path / f"s{index}.tif", index)
    (tmp_path / "s3.tif").write_bytes(b"")
    found = find([tmp_path], along="time")
    (granule,) = found.granules
    assert granule.path == ""
    assert len(found.unreadable) == 1
    np.testing.assert_array_equal(
        granule.source.read("band_data", (slice(0, 3), *[slice(0, 1)] * 3)).ravel(), [0, 1, 2]
    )


def test_along_by_group(tmp_path):
    for index in range(2):
        with h5py.File(tmp_path / f"{index}.h5", "w") as file:
            file["one/v"], file["two/w"] = np.full(3, index), np.full(4, index)
    granules = find([tmp_path], along="scene").granules
    assert [granule.path for granule in granules] == ["one", "two"]
    np.testing.assert_array_equal(granules[1].source.read("w", (slice(0, 2), slice(0, 1))), [[0], [1]])


def test_datasets_and_stores():
    dataset = xr.Dataset({"v": ("x", np.arange(3))})
    store = zarr.storage.MemoryStore()
    zarr.create_group(store).create_array("v", shape=(2,), dtype="f4", dimension_names=("x",))
    found = find([dataset, dataset.v.rename("w.t"), store])
    assert [granule.path for granule in found.granules] == ["dataset", "w.t", "store"]
    assert [granule.source.named for granule in found.granules] == [False, True, False]
    assert set(found.granules[1].source.template().data_vars) == {"w.t"}


def test_urls(tmp_path):
    files = fsspec.filesystem("memory")
    for index in range(2):
        files.pipe_file(f"/found/{index}.tif", tiff(tmp_path / f"{index}.tif", index).read_bytes())
    zarr.create_group("memory://found/a.zarr").create_array("v", shape=(2,), dtype="f4", dimension_names=("x",))
    assert [granule.path for granule in find(["memory://found/*.tif"]).granules] == ["0", "1"]
    assert [granule.path for granule in find(["memory://found"]).granules] == ["0", "1", "a"]
    (granule,) = find(["memory://found/1.tif"]).granules
    assert granule.source.read("band_data", (slice(0, 1),) * 3).item() == 1
    assert find(["memory://found/none.tif"]).unreadable[0][1] == "There is no such file or folder."


@needs_data
def test_real_folders():
    found = find([DATA / "hyperspectral"])
    assert [granule.path for granule in found.granules] == [""]  # its other files are of no kind that is known
    tiles = DATA / "hyperspectral" / "enmap_potsdam"
    assert len(find([tiles]).granules) == len(list(tiles.glob("*.tif")))
    assert {granule.path for granule in find([DATA / "gridded"]).granules} == {
        "coads_climatology",
        "monthly_navy_winds",
    }
