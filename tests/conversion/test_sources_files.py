"""NetCDF, HDF5 and Zarr as sources: undecoded, by group, from any thread."""

import gc
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import h5py
import netCDF4
import numpy as np
import pytest
import xarray as xr
import zarr

from xwalloc.conversion.sources import netcdf, opened
from xwalloc.conversion.sources import zarr as zarrs
from xwalloc.conversion.sources.handles import Handles
from xwalloc.conversion.sources.netcdf import NetcdfSource
from xwalloc.conversion.sources.zarr import ZarrSource
from xwalloc.errors import ConfigError
from xwalloc.zarr import Walloc

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "gridded"


def all_of(source, name):
    return source.read(name, tuple(slice(0, size) for size in source.template()[name].shape))


def packed(times=3):
    rng = np.random.default_rng(2)
    dataset = xr.Dataset(
        {
            "t2m": (("time", "y", "x"), rng.integers(-900, 900, (times, 8, 10)).astype("i2")),
            "count": (("y", "x"), rng.integers(0, 9, (8, 10)).astype("u1")),
            "crs": ((), np.int32(0), {"grid_mapping_name": "latitude_longitude"}),
        },
        {"time": ("time", np.arange(times)), "lat": (("y", "x"), rng.normal(size=(8, 10)))},
        {"title": "test"},
    )
    dataset.t2m.attrs = {"_FillValue": np.int16(-999), "scale_factor": 0.01, "add_offset": 273.15, "units": "K"}
    dataset.t2m.attrs |= {"grid_mapping": "crs", "coordinates": "lat"}
    dataset.time.attrs = {"units": "days since 2000-01-01", "calendar": "noleap"}
    return dataset


def write(dataset, path, engine="netcdf4", **options):
    dataset = dataset.drop_encoding()
    dataset.to_netcdf(path, engine=engine, **options)
    return path


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")
@pytest.mark.parametrize("name", ["coads_climatology.cdf", "monthly_navy_winds.cdf"])
def test_classic_netcdf(name):
    source = NetcdfSource(DATA / name)
    template = source.template()
    with netCDF4.Dataset(DATA / name) as file:
        file.set_auto_maskandscale(False)
        assert set(template.variables) == set(file.variables)
        for variable, values in file.variables.items():
            expected = {key: values.getncattr(key) for key in values.ncattrs()}
            assert template[variable].attrs.keys() == expected.keys()
            np.testing.assert_array_equal(all_of(source, variable), values[:])
            assert all_of(source, variable).dtype == template[variable].dtype
        region = (slice(2, 5), slice(10, 30), slice(0, 7))
        np.testing.assert_array_equal(source.read("UWND", region), file["UWND"][region])
    assert netcdf.groups(str(DATA / name)) == [""]
    assert " since " in template.TIME.units
    assert template.TIME.dtype == "f8"


@pytest.mark.parametrize("layout", ["NETCDF3_64BIT", "NETCDF4"])
def test_packed_values_stay_packed(tmp_path, layout):
    dataset = packed()
    source = NetcdfSource(write(dataset, tmp_path / "a.nc", format=layout))
    template = source.template()
    assert template.t2m.dtype == "i2"
    assert template.t2m.values.strides == (0, 0, 0)
    assert template.t2m.attrs == dataset.t2m.attrs
    assert not template.t2m.encoding
    assert set(template.coords) == {"time", "lat", "crs"}
    assert template.time.attrs == {"units": "days since 2000-01-01", "calendar": "noleap"}
    np.testing.assert_array_equal(template.lat, dataset.lat)
    np.testing.assert_array_equal(all_of(source, "t2m"), dataset.t2m)
    assert template.attrs == {"title": "test"}
    assert len(pickle.dumps(source)) < 300
    np.testing.assert_array_equal(all_of(pickle.loads(pickle.dumps(source)), "count"), dataset["count"])
    decoded = xr.decode_cf(template)
    assert decoded.t2m.dtype == "f8" or decoded.t2m.dtype == "f4"


def test_text(tmp_path):
    with netCDF4.Dataset(tmp_path / "a.nc", "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("station", 2)
        file.createDimension("letters", 5)
        file.createVariable("name", "S1", ("station", "letters"))[:] = netCDF4.stringtochar(
            np.array([b"Oslo", b"Rome"], "S5")
        )
        file.createVariable("v", "f4", ("station",))[:] = [1, 2]
    template = NetcdfSource(tmp_path / "a.nc").template()
    assert template["name"].dims == ("station",)
    assert list(template["name"].values) == ["Oslo", "Rome"]
    assert template["name"].dtype == object


def test_hdf5_without_names_and_with_groups(tmp_path, caplog):
    path = tmp_path / "a.h5"
    cube = np.arange(24, dtype=">f4").reshape(2, 3, 4)
    with h5py.File(path, "w") as file:
        file.create_dataset("cube", data=cube, chunks=(1, 3, 4))
        file["flag"] = np.array([True, False])
        file["deep/er/counts"] = np.arange(5, dtype="u2")
        file["deep/square"] = np.eye(3)
        file["table"] = np.zeros(3, [("a", "i4"), ("b", "f8")])
        file.create_dataset("ragged", (2,), h5py.vlen_dtype(np.int32))
        file.create_group("nothing")
    assert netcdf.groups(str(path)) == ["", "deep", "deep/er"]
    with caplog.at_level(logging.WARNING, "xwalloc"):
        template = NetcdfSource(path).template()
    assert "'ragged', 'table' left out" in caplog.text
    assert template.cube.dims == ("phony_dim_0", "phony_dim_1", "phony_dim_2") or len(set(template.cube.dims)) == 3
    assert template.cube.dtype == np.dtype("<f4")
    np.testing.assert_array_equal(all_of(NetcdfSource(path), "cube"), cube)
    np.testing.assert_array_equal(all_of(NetcdfSource(path, "deep/er"), "counts"), np.arange(5))
    np.testing.assert_array_equal(all_of(NetcdfSource(path, "/deep/"), "square"), np.eye(3))
    assert NetcdfSource(path, "deep").name.endswith("a.h5:/deep")


def test_remote_hdf5_and_not_remote_classic(tmp_path):
    files = fsspec.filesystem("memory")
    dataset = packed()
    files.pipe_file("/nc/a.nc", write(dataset, tmp_path / "a.nc").read_bytes())
    files.pipe_file("/nc/b.nc", write(dataset, tmp_path / "b.nc", format="NETCDF3_CLASSIC").read_bytes())
    source = NetcdfSource("memory://nc/a.nc")
    np.testing.assert_array_equal(all_of(source, "t2m"), dataset.t2m)
    assert netcdf.groups("memory://nc/a.nc") == [""]
    assert source.identity()["size"] == (tmp_path / "a.nc").stat().st_size
    with pytest.raises(ConfigError, match="copy it there first"):
        NetcdfSource("memory://nc/b.nc").template()


def test_many_threads_and_more_files_than_stay_open(tmp_path, monkeypatch):
    monkeypatch.setattr(opened, "_OPEN", Handles(2, xr.Dataset.close))
    dataset = packed()
    paths = [
        write(dataset + index, tmp_path / f"{index}.nc", "h5netcdf" if index % 2 else "netcdf4") for index in range(5)
    ]
    work = [(index, slice(start, start + 2)) for start in (0, 1) for index in range(5)] * 2

    def read(task):
        index, part = task
        return NetcdfSource(paths[index]).read("t2m", (part, slice(1, 5), slice(2, 9)))

    with ThreadPoolExecutor(8) as pool:
        for (index, part), found in zip(work, pool.map(read, work), strict=True):
            np.testing.assert_array_equal(found, dataset.t2m[part, 1:5, 2:9] + index)
    gc.collect()


def test_a_file_that_was_written_again_is_opened_again(tmp_path):
    path = write(packed(), tmp_path / "a.nc")
    before = all_of(NetcdfSource(path), "count")
    path.unlink()
    write(packed() + 1, path)
    np.testing.assert_array_equal(all_of(NetcdfSource(path), "count"), before + 1)


def test_broken_file(tmp_path):
    (tmp_path / "a.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)
    with pytest.raises(ConfigError, match=r"a.nc cannot be read"):
        NetcdfSource(tmp_path / "a.nc").template()
    with pytest.raises(ConfigError, match=r"none.nc cannot be read"):
        NetcdfSource(tmp_path / "none.nc").template()


@pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("layout", [2, 3])
def test_zarr(tmp_path, layout, consolidated):
    dataset, path = packed(), tmp_path / "a.zarr"
    encoding = {"t2m": {"chunks": (1, 8, 5)}}
    dataset.to_zarr(path, zarr_format=layout, consolidated=consolidated, encoding=encoding)
    dataset[["count"]].to_zarr(path, group="more/counts", zarr_format=layout, consolidated=False)
    source = ZarrSource(path)
    template = source.template()
    assert template.t2m.dtype == "i2"
    assert template.t2m.attrs["scale_factor"] == 0.01
    assert template.t2m.attrs["_FillValue"] == -999
    assert set(template.coords) == {"time", "lat", "crs"}
    assert template.time.attrs["units"] == "days since 2000-01-01"
    np.testing.assert_array_equal(all_of(source, "t2m"), zarr.open_group(path, mode="r")["t2m"][:])
    assert source.blocks("t2m") == (1, 8, 5)
    assert len(pickle.dumps(source)) < 300
    np.testing.assert_array_equal(all_of(pickle.loads(pickle.dumps(source)), "t2m"), dataset.t2m)
    if not consolidated:
        assert zarrs.groups(str(path)) == ["", "more/counts"]
    np.testing.assert_array_equal(all_of(ZarrSource(path, "more/counts"), "count"), dataset["count"])


def test_zarr_store_objects_shards_and_plain_arrays():
    store = zarr.storage.MemoryStore()
    group = zarr.open_group(store, mode="w")
    array = group.create_array("a", shape=(8, 8), chunks=(2, 2), shards=(4, 8), dtype="f4", dimension_names=("y", "x"))
    array[:] = np.arange(64).reshape(8, 8)
    source = ZarrSource(store)
    before = source.identity()
    assert source.blocks("a") == (4, 8)
    np.testing.assert_array_equal(all_of(source, "a"), array[:])
    group.create_array("b", shape=(3,), dtype="f4")
    assert source.identity() != before
    with pytest.raises(ConfigError, match="doesn't name its dimensions"):
        ZarrSource(store, "").open_raw()
    with pytest.raises(ConfigError, match="Expected a group"):
        zarrs.groups(zarr.storage.MemoryStore())


def test_stores_that_were_lossy_before_are_told(tmp_path, caplog):
    for name, quality in (("a", {"max_error": 0.1}), ("b", {"lossless": True})):
        codec = Walloc(signal_axes=(0, 1), **quality)
        zarr.create_array(
            tmp_path / f"{name}.zarr/a", shape=(32, 32), chunks=(16, 16), shards=(32, 32), dtype="f8", serializer=codec,
            compressors=(), dimension_names=("y", "x"),
        )  # fmt: skip
        zarr.open_group(tmp_path / f"{name}.zarr")
    with caplog.at_level(logging.WARNING, "xwalloc"):
        ZarrSource(tmp_path / "b.zarr").template()
        assert "Errors add up" not in caplog.text
        ZarrSource(tmp_path / "a.zarr").template()
    assert "'a' were encoded by xwalloc before" in caplog.text


def test_handles_close_what_is_pushed_out():
    closed = []
    handles = Handles(2, closed.append)
    assert [handles.get(key, lambda key=key: key) for key in "abac"] == ["a", "b", "a", "c"]
    assert closed == ["b"]
    assert len(handles) == 2
    with pytest.raises(ZeroDivisionError):
        handles.get("x", lambda: 1 / 0)
    assert handles.get("x", lambda: "x") == "x"
    handles.clear()
    assert sorted(closed) == ["a", "b", "c", "x"]
    assert len(handles) == 0
