"""Granules behind each other: values, coordinates, and what keeps them apart."""

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine

from xwalloc.conversion.sources.netcdf import NetcdfSource
from xwalloc.conversion.sources.raster import RasterSource
from xwalloc.conversion.sources.stack import StackSource
from xwalloc.errors import ConfigError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")
STACKS = sorted((DATA / "multispectral").glob("LE7*.gtif"))


def granule(path, index=0, days=2, *, units="days since 2000-01-01", dtype="f4", attrs=None, **changed):
    """A file with times, their bounds, a static mask, and a scalar coordinate."""
    start = 2 * index
    values = np.random.default_rng(index).normal(size=(days, 4, 5)).astype(dtype)
    time = np.arange(start, start + days)
    dataset = xr.Dataset(
        {
            "v": (("time", "y", "x"), values, {"units": "K", **(attrs or {})}),
            "mask": (("y", "x"), np.ones((4, 5), "i1")),
        },
        {
            "time": ("time", changed.get("time", time), {"units": units, "bounds": "time_bnds"}),
            "time_bnds": (("time", "nv"), changed.get("bounds", np.stack([time, time + 1], 1))),
            "x": ("x", np.arange(5.0) + changed.get("shift", 0)),
        },
        {"title": "same", "id": f"granule {index}"},
    )
    dataset = dataset.rename(changed.get("rename", {}))
    dataset.to_netcdf(path, engine="netcdf4")
    return NetcdfSource(path), dataset


def raster(path, values, transform=None, crs="EPSG:32633", **profile):
    count, height, width = values.shape
    transform = transform or Affine(10, 0, 500, 0, -10, 900)
    with rasterio.open(
        path, "w", driver="GTiff", count=count, height=height, width=width, dtype=values.dtype, crs=crs,
        transform=transform, **profile,
    ) as file:  # fmt: skip
        file.write(values)
    return RasterSource(path)


def direct(path):
    with rasterio.open(path) as file:
        return file.read()


def whole(source, name):
    return source.read(name, tuple(slice(0, size) for size in source.template()[name].shape))


@needs_data
def test_two_landsat_scenes_in_time(caplog):
    source = StackSource([RasterSource(path) for path in STACKS], "time")
    with caplog.at_level(logging.WARNING, "xwalloc"):
        template = source.template()
    assert "_FillValue -9999 of 'band_data' is declared by some" in caplog.text
    assert template.band_data.dims == ("time", "band", "y", "x")
    assert template.band_data.shape == (2, 8, 250, 250)
    assert list(template.time.values) == [path.stem for path in STACKS]
    assert template.band_data.attrs["_FillValue"] == -9999
    assert template.rio.crs == "EPSG:32615"
    expected = np.stack([direct(path) for path in STACKS])
    np.testing.assert_array_equal(whole(source, "band_data"), expected)
    region = (slice(1, 2), slice(2, 4), slice(10, 20), slice(0, 5))
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.read("band_data", region), expected[region])
    assert source.blocks("band_data") == (1, 8, 2, 250)
    assert source.named


@needs_data
def test_tiles_of_different_places_do_not_stack():
    tiles = sorted((DATA / "hyperspectral" / "enmap_potsdam").glob("*.tif"))[:2]
    with pytest.raises(ConfigError, match=rf"{tiles[1].name} has .*GeoTransform|{tiles[1].name} has other values of"):
        StackSource([RasterSource(path) for path in tiles], "time").template()


def test_along_a_dimension_that_all_have(tmp_path, caplog):
    made = [granule(tmp_path / f"{index}.nc", index, days) for index, days in enumerate((2, 3, 1))]
    source = StackSource([source for source, _ in made], "time")
    with caplog.at_level(logging.WARNING, "xwalloc"):
        template = source.template()
    assert "variable 'mask' has no dimension 'time'" in caplog.text
    expected = np.concatenate([dataset.v for _, dataset in made])
    assert template.sizes == {"time": 6, "y": 4, "x": 5, "nv": 2}
    np.testing.assert_array_equal(template.time, [0, 1, 2, 3, 4, 4])
    np.testing.assert_array_equal(template.time_bnds[:, 1], [1, 2, 3, 4, 5, 5])
    assert template.attrs == {"title": "same"}
    np.testing.assert_array_equal(whole(source, "v"), expected)
    np.testing.assert_array_equal(whole(source, "mask"), np.ones((4, 5)))
    for start, stop in ((0, 1), (1, 3), (1, 6), (2, 5), (5, 6), (3, 3), (0, 0), (6, 6)):
        found = source.read("v", (slice(start, stop), slice(1, 3), slice(0, 5)))
        np.testing.assert_array_equal(found, expected[start:stop, 1:3])
        assert found.dtype == np.float32


def test_only_the_sources_that_a_region_crosses_are_read(tmp_path, monkeypatch):
    made = [granule(tmp_path / f"{index}.nc", index) for index in range(4)]
    source = StackSource([source for source, _ in made], "time")
    source.template()
    read, original = [], NetcdfSource.read
    monkeypatch.setattr(NetcdfSource, "read", lambda self, *args: read.append(self.name) or original(self, *args))
    source.read("v", (slice(3, 5), slice(0, 4), slice(0, 5)))
    assert [Path(name).stem for name in read] == ["1", "2"]


def test_times_of_other_units_are_those_of_the_first(tmp_path):
    first, _ = granule(tmp_path / "a.nc", 0)
    hours = np.array([0, 24])
    second, _ = granule(
        tmp_path / "b.nc", 1, units="hours since 2000-03-01", time=hours, bounds=np.stack([hours, hours + 24], 1)
    )
    template = StackSource([first, second], "time").template()
    np.testing.assert_array_equal(template.time, [0, 1, 60, 61])
    np.testing.assert_array_equal(template.time_bnds[2:], [[60, 61], [61, 62]])
    assert template.time.attrs["units"] == "days since 2000-01-01"
    third, _ = granule(
        tmp_path / "c.nc", 1, units="hours since 2000-03-01", time=np.array([0, 6]), bounds=np.zeros((2, 2), int)
    )
    with pytest.raises(ConfigError, match=r"'time' of .*c.nc.* is no int64 in the units"):
        StackSource([first, third], "time").template()
    fourth, _ = granule(tmp_path / "d.nc", 1, units="months since 2000-03-01")
    with pytest.raises(ConfigError, match="converted exactly"):
        StackSource([first, fourth], "time").template()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "f8"}, "dtype of 'v' float64"),
        ({"shift": 0.5}, "other values of 'x'"),
        ({"attrs": {"scale_factor": 2.0}}, "scale_factor of 'v'"),
        ({"attrs": {"units": "degC"}}, "units of 'v', degC"),
        ({"rename": {"v": "w"}}, "the variables mask, w"),
        ({"rename": {"y": "rows"}}, "dimensions of 'v'"),
    ],
)
def test_what_keeps_granules_apart_is_said(tmp_path, change, message):
    first, _ = granule(tmp_path / "a.nc", 0)
    second, _ = granule(tmp_path / "b.nc", 1, **change)
    with pytest.raises(ConfigError, match=message) as error:
        StackSource([first, second], "time").template()
    assert "b.nc has" in str(error.value)
    assert "a.nc has" in str(error.value)


def test_names_of_bands_may_be_missing_but_not_others(tmp_path):
    values = np.zeros((2, 4, 5), "u1")
    made = [raster(tmp_path / f"{name}.tif", values) for name in "abc"]
    for source, names in zip(made, (("red", "nir"), ("red", ""), ("nir", "red")), strict=True):
        with rasterio.open(source.name, "r+") as file:
            file.descriptions = names
    assert list(StackSource(made[:2], "time").template().band_name.values) == ["red", "nir"]
    with pytest.raises(ConfigError, match=r"c.tif has other values of 'band_name'"):
        StackSource(made, "time").template()


def test_rasters_apart(tmp_path):
    values = np.zeros((1, 4, 5), "u1")
    first = raster(tmp_path / "a.tif", values)
    for name, change, message in (
        ("b.tif", {"crs": "EPSG:32634"}, "coordinate reference system"),
        ("c.tif", {"transform": Affine(10, 3, 500, 0, -10, 900)}, "the coordinates"),
        ("e.tif", {"transform": Affine(20, 0, 500, 0, -20, 900)}, "grid|other values of 'x'"),
    ):
        with pytest.raises(ConfigError, match=message):
            StackSource([first, raster(tmp_path / name, values, **change)], "time").template()


def test_nodata_that_only_some_declare_holds_for_all(tmp_path, caplog):
    values = np.zeros((1, 4, 5), "u1")
    made = [raster(tmp_path / f"{value}.tif", values, nodata=value) for value in (None, 255, 0)]
    with caplog.at_level(logging.WARNING, "xwalloc"):
        assert StackSource(made[:2], "time").template().band_data.attrs["_FillValue"] == 255
        assert StackSource(made[1::-1], "time").template().band_data.attrs["_FillValue"] == 255
    assert caplog.text.count("is declared by some") == 2
    with pytest.raises(ConfigError, match=r"_FillValue of 'band_data'.* 0 .* 255"):
        StackSource(made, "time").template()


def test_bands_of_several_rasters_are_counted_on(tmp_path):
    values = np.random.default_rng(0).integers(0, 99, (3, 4, 5)).astype("u1")
    sources = [raster(tmp_path / "a.tif", values[:2]), raster(tmp_path / "b.tif", values[2:])]
    source = StackSource(sources, "band")
    np.testing.assert_array_equal(source.template().band, [1, 2, 3])
    np.testing.assert_array_equal(whole(source, "band_data"), values)


def test_scalar_coordinates_become_the_new_dimension(tmp_path):
    sources = []
    for index in range(3):
        dataset = xr.Dataset(
            {"v": ("x", np.full(4, index, "i2"))},
            {"time": ((), index * 24, {"units": "hours since 2000-01-01"}), "orbit": index},
        )
        dataset.to_netcdf(tmp_path / f"{index}.nc", engine="netcdf4")
        sources.append(NetcdfSource(tmp_path / f"{index}.nc"))
    source = StackSource(sources, "time")
    template = source.template()
    np.testing.assert_array_equal(template.time, [0, 24, 48])
    assert template.v.dims == ("time", "x")
    np.testing.assert_array_equal(whole(source, "v"), np.arange(3)[:, None] * np.ones(4))


def test_identity_changes_with_one_file(tmp_path):
    made = [granule(tmp_path / f"{index}.nc", index)[0] for index in range(2)]
    source = StackSource(made, "time")
    before = source.identity()
    assert before == StackSource(made, "time").identity()
    assert before["count"] == 2
    (tmp_path / "1.nc").unlink()
    granule(tmp_path / "1.nc", 1, dtype="f8")
    assert source.identity() != before
    with pytest.raises(ConfigError, match="Got none"):
        StackSource([], "time")
