"""Units of work: which shards are chosen, and what a plan says."""

import logging
import math

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st

from xwalloc.conversion.convert import convert, prepare
from xwalloc.conversion.memory import MOST_ROOM, room_for_unit
from xwalloc.conversion.plan import with_shards
from xwalloc.conversion.verify import verify
from xwalloc.conversion.workers import Worker
from xwalloc.errors import ConfigError

GB = 2**30


def scene(height=96, width=80, bands=4):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(bands, height, width)).cumsum(1).cumsum(2).astype("f4")
    return xr.Dataset({"radiance": (("band", "y", "x"), values)})


def worker(memory, threads=2, gpus=0):
    return Worker(
        address="tcp://here", threads=threads, gpus=gpus, memory_limit=memory, resident=200 << 20, version="", plan=None
    )


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 1 << 28))
def test_shards_are_whole_chunks_and_fit(height, width, room):
    template = xr.Dataset({"a": (("band", "y", "x"), np.broadcast_to(np.float32(0), (3, height, width)))})
    plan = prepare(template, max_error=1.0, chunks={"y": 64, "x": 64}).plan
    (array,) = with_shards(plan, room, None).arrays
    chunks, shards = array.grid.chunks, array.grid.shards
    assert all(shard % chunk == 0 for shard, chunk in zip(shards, chunks, strict=True))
    assert array.unit_nbytes <= max(room, array.chunk_nbytes)
    grown = [shard // chunk for shard, chunk in zip(shards, chunks, strict=True)]
    most = [-(-n // chunk) for n, chunk in zip(array.shape, chunks, strict=True)]
    assert all(n <= m for n, m in zip(grown, most, strict=True))
    for axis, (n, m) in enumerate(zip(grown, most, strict=True)):  # nothing more fits
        larger = math.prod(grown) // n * min(2 * n, m) * array.chunk_nbytes
        assert n == m or larger > room, axis


def test_room_follows_from_the_smallest_worker():
    assert room_for_unit([worker(0)]) == MOST_ROOM
    small, large = room_for_unit([worker(GB)]), room_for_unit([worker(4 * GB)])
    assert 0 < small < large <= MOST_ROOM
    assert room_for_unit([worker(4 * GB), worker(GB)]) == small
    assert room_for_unit([worker(GB, threads=4)]) == pytest.approx(small / 2, abs=1)
    assert room_for_unit([worker(GB, gpus=1)]) == pytest.approx(small / 3, abs=1)


def test_shards_that_were_chosen_stay(tmp_path, monkeypatch):
    settings = {"max_error": 0.1, "chunks": {"y": 16, "x": 16}, "shards": "auto"}
    monkeypatch.setattr("xwalloc.conversion.convert.room_for_unit", lambda crew: 40_000)

    def stop(progress):
        if progress.done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(scene(), tmp_path / "s.zarr", progress=stop, **settings)
    monkeypatch.setattr("xwalloc.conversion.convert.room_for_unit", lambda crew: 9_000)
    result = convert(scene(), tmp_path / "s.zarr", **settings)
    assert result.ok
    assert result.earlier >= 2
    array = zarr.open_group(tmp_path / "s.zarr", mode="r")["radiance"]
    assert (array.chunks, array.shards) == ((4, 16, 16), (4, 32, 64))
    np.testing.assert_allclose(array[:], scene().radiance.values, rtol=0, atol=0.1)


def test_no_shards_where_there_can_be_none(tmp_path):
    with pytest.raises(ConfigError, match="zarr_format 2"):
        convert(scene(), tmp_path / "s.zarr", max_error=0.1, shards="auto", zarr_format=2)
    assert not (tmp_path / "s.zarr").exists()


def test_equal_plans_have_equal_fingerprints():
    def fingerprint(**settings):
        return prepare(scene(), **{"max_error": 0.1, **settings}).plan.fingerprint

    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint(max_error=0.2), fingerprint(chunks={"y": 32}), fingerprint(nodata=3)}) == 4


def geolocated():
    """A swath whose latitude and longitude are data variables."""
    y, x = np.meshgrid(np.arange(32.0), np.arange(40.0), indexing="ij")
    radiance = np.random.default_rng(3).normal(size=(4, 32, 40)).cumsum(1).cumsum(2)
    return xr.Dataset(
        {
            "radiance": (("band", "y", "x"), radiance),
            "lat": (("y", "x"), 50 + 1e-4 * (y + 0.3 * x), {"units": "degrees_north"}),
            "lon": (("y", "x"), 8 + 1e-4 * (x - 0.3 * y), {"standard_name": "longitude"}),
        }
    )


@pytest.mark.parametrize("kind", ["dataset", "netcdf"])
def test_geolocation_stays_exact(tmp_path, kind):
    ds = geolocated()
    ds.to_netcdf(tmp_path / "s.nc", engine="h5netcdf")
    source = str(tmp_path / "s.nc") if kind == "netcdf" else ds
    assert convert(source, tmp_path / "s.zarr", max_error=0.5).ok
    back = xr.open_zarr(tmp_path / "s.zarr", consolidated=False).load()
    for name in ("lat", "lon"):
        xr.testing.assert_identical(back[name], ds[name])
    assert 0 < abs(back.radiance - ds.radiance).max() <= 0.5
    assert verify(source, tmp_path / "s.zarr").ok
    arrays = prepare(source, max_error={"lat": 0.5}).plan.arrays
    assert [array.variable for array in arrays if array.config] == ["lat"]


@pytest.mark.parametrize("where", ["attrs", "encoding"])
def test_what_others_name_as_coordinates_stays_exact(where):
    ds = geolocated().assign(seconds=(("y", "x"), np.ones((32, 40))))
    getattr(ds.radiance, where)["coordinates"] = "seconds"
    arrays = prepare(ds, max_error=0.5).plan.arrays
    assert [array.variable for array in arrays if array.config] == ["radiance"]


def test_bounds_of_packed_values_are_said_as_stored(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("xwalloc"), "propagate", True)
    ds = xr.Dataset({"v": (("y", "x"), np.ones((8, 8), "f4")), "plain": (("y", "x"), np.ones((8, 8), "f4"))})
    ds.to_netcdf(tmp_path / "p.nc", encoding={"v": {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -9999}})
    with caplog.at_level("WARNING", "xwalloc"):
        prepare([str(tmp_path / "p.nc")], max_error=20)
    assert [r.getMessage() for r in caplog.records] == ["v has scale_factor 0.5: the bound 20 is 40 as stored."]
