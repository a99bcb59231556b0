import dask
import numpy as np
import pandas as pd
import pytest
import rioxarray  # noqa: F401
import xarray as xr
import zarr

import xwalloc
from xwalloc.errors import ConfigError

BOUND = 0.125


@pytest.fixture
def scene():
    """A scene as rioxarray would have it: CRS, coordinates, attributes, flags, a time stamp and a gain per band."""
    rng = np.random.default_rng(4)
    cube = rng.normal(size=(6, 70, 50)).cumsum(1).cumsum(2).astype("f4")
    ds = xr.Dataset(
        {
            "radiance": (("band", "y", "x"), cube, {"units": "W", "long_name": "at sensor"}),
            "mask": (("y", "x"), rng.integers(0, 3, (70, 50), "i2"), {"flag_values": [0, 1, 2]}),
            "valid": (("y", "x"), np.ones((70, 50), bool)),
            "gain": ("band", np.linspace(1, 2, 6)),
            "acquired": ((), np.datetime64("2026-11-23T12:00", "ns")),
        },
        coords={
            "wavelength": ("band", np.linspace(400, 2500, 6), {"units": "nm"}),
            "y": ("y", 5e6 - 30.0 * np.arange(70)),
            "x": ("x", 4e5 + 30.0 * np.arange(50)),
        },
        attrs={"title": "scene"},
    )
    return ds.rio.write_crs("EPSG:32633")


def opened(path, **options):
    return xr.open_zarr(path, decode_coords="all", consolidated=False, **options).load()


def write(ds, path, *, to_zarr=None, **options):
    encoding = xwalloc.encoding(ds, **options)
    ds.to_zarr(
        path, zarr_format=options.get("zarr_format", 3), encoding=encoding, consolidated=False, **(to_zarr or {})
    )
    return encoding


def deviation(a, b):
    return float(np.nanmax(np.abs(np.asarray(a, "f8") - np.asarray(b, "f8"))))


def codec_of(encoding, name):
    codec = encoding[name].get("serializer") or encoding[name]["compressors"]
    return codec.to_dict()["configuration"] if hasattr(codec, "to_dict") else codec.get_config()


@pytest.mark.parametrize("dask_chunks", [None, {"y": 32, "x": 50}, {"band": 2, "y": 70, "x": 50}])
@pytest.mark.parametrize(
    "options",
    [
        {"zarr_format": 2},
        {"zarr_format": 3},
        {"chunks": {"y": 16, "x": 25}, "zarr_format": 2},
        {"chunks": {"y": 16, "x": 25}},
        {"chunks": {"y": 16, "x": 25}, "shards": {"y": 32, "x": 50}},
    ],
    ids=["v2", "v3", "v2-chunks", "v3-chunks", "sharded"],
)
def test_everything_survives(tmp_path, scene, options, dask_chunks):
    ds = scene if dask_chunks is None else scene.chunk(dask_chunks)
    encoding = write(ds, tmp_path / "s.zarr", max_error=BOUND, channel_dim="band", **options)
    assert list(encoding) == ["radiance"]
    back = opened(tmp_path / "s.zarr")
    assert deviation(back.radiance, scene.radiance) <= BOUND
    assert back.radiance.dtype == scene.radiance.dtype
    assert back.rio.crs == scene.rio.crs
    assert back.radiance.attrs == scene.radiance.attrs
    xr.testing.assert_identical(back.drop_vars("radiance"), scene.drop_vars("radiance"))
    array = zarr.open_array(tmp_path / "s.zarr/radiance")
    if options.get("zarr_format") == 2:
        assert [codec.codec_id for codec in array.compressors] == ["xwalloc"]
    else:
        assert array.compressors == ()
        assert array.serializer.to_dict()["name"] == "xwalloc"
    assert array.filters == ()


def test_accessor_writes_the_same(tmp_path, scene):
    write(scene, tmp_path / "a.zarr", max_error=BOUND)
    scene.walloc.to_zarr(tmp_path / "b.zarr", max_error=BOUND, consolidated=False)
    delayed = scene.chunk(y=7).walloc.to_zarr(tmp_path / "c.zarr", max_error=BOUND, compute=False, consolidated=False)
    dask.compute(delayed)
    frame = (tmp_path / "a.zarr/radiance/c/0/0/0").read_bytes()
    assert (tmp_path / "b.zarr/radiance/c/0/0/0").read_bytes() == frame
    assert (tmp_path / "c.zarr/radiance/c/0/0/0").read_bytes() == frame
    da = scene.radiance
    da.walloc.to_zarr(tmp_path / "d.zarr", max_error=BOUND, consolidated=False)
    da.to_zarr(tmp_path / "e.zarr", encoding=xwalloc.encoding(da, max_error=BOUND), consolidated=False)
    for name in ("d", "e"):
        assert (tmp_path / f"{name}.zarr/radiance/c/0/0/0").read_bytes() == frame
    with pytest.raises(FileExistsError):
        scene.walloc.to_zarr(tmp_path / "b.zarr", max_error=BOUND)
    gain = {"gain": {"dtype": "f4"}}
    scene.walloc.to_zarr(tmp_path / "b.zarr", max_error=BOUND, mode="w", encoding=gain, consolidated=False)
    assert opened(tmp_path / "b.zarr").gain.dtype == "f4"
    with pytest.raises(ConfigError, match="radiance"):
        scene.walloc.to_zarr(tmp_path / "b.zarr", max_error=BOUND, mode="w", encoding={"radiance": {}})
    with pytest.raises(ConfigError, match="append_dim"):
        scene.walloc.to_zarr(tmp_path / "b.zarr", max_error=BOUND, append_dim="y")


@pytest.mark.parametrize("name", [None, "y"])
def test_data_arrays_without_a_usable_name(tmp_path, scene, name):
    da = scene.radiance.rename(name).drop_vars("spatial_ref")
    da.to_zarr(tmp_path / "a.zarr", encoding=xwalloc.encoding(da, max_error=BOUND), consolidated=False)
    array = zarr.open_array(tmp_path / "a.zarr/__xarray_dataarray_variable__")
    assert array.serializer.to_dict()["name"] == "xwalloc"


def test_which_variables_are_taken(scene):
    def names(ds=scene, **options):
        return sorted(xwalloc.encoding(ds, **options))

    ints = scene.assign(counts=(("band", "y", "x"), np.zeros((6, 70, 50), "u2")), t=(("y", "x"), np.zeros((70, 50))))
    assert names(max_error=1) == ["radiance"]
    assert names(ints, max_error=1) == ["radiance", "t"]
    assert names(ints, max_error=1, channel_dim="band") == ["counts", "radiance"]
    assert names(ints, snr=40) == ["radiance", "t"]
    assert names(ints, lossless=True) == ["counts", "radiance", "t"]
    assert names(ints, max_error={"mask": 1, "counts": 2}) == ["counts", "mask"]
    assert names(ints, max_error={"counts": 2}, snr={"t": 30}) == ["counts", "t"]
    assert names(ints.counts, max_error=1) == ["counts"]
    wide = scene.assign(radiance=scene.radiance.astype("c8"))
    for options in (
        {"max_error": 1, "ds": wide},
        {"max_error": 1, "ds": scene.mask},
        {"max_error": {"radiance": 1}, "ds": wide},
        {"max_error": {"radianec": 1}},
        {"max_error": {"wavelength": 1}},
        {"max_error": {"radiance": 1}, "snr": {"radiance": 30}},
        {"max_error": {"radiance": 1}, "snr": 30},
        {"max_error": {}},
        {"max_error": 1, "snr": 30},
        {"max_error": -1},
        {},
    ):
        with pytest.raises(ConfigError):
            names(**options)
    with pytest.raises(ConfigError, match="Did you mean 'radiance'"):
        names(max_error={"radianec": 1})


@pytest.mark.parametrize(
    ("attrs", "reason"),
    [
        *[
            ({"standard_name": name}, f"standard_name '{name}'")
            for name in (
                "latitude longitude time grid_latitude grid_longitude projection_x_coordinate projection_y_coordinate"
            ).split()
        ],
        *[({"units": name}, f"units '{name}'") for name in ("degrees_north", "degreesE", "degree_E", "degrees east")],
        ({"standard_name": "latitude", "units": "degrees_north"}, "standard_name 'latitude'"),
    ],
)
def test_geolocation_is_exact_where_it_is_not_named(scene, attrs, reason, caplog):
    ds = scene.assign(place=(("y", "x"), np.zeros((70, 50)), attrs))
    with caplog.at_level("INFO", "xwalloc"):
        assert list(xwalloc.encoding(ds, max_error=1)) == ["radiance"]
    assert f"'place' is stored exactly by another codec: it is a coordinate ({reason})." in caplog.text
    assert list(xwalloc.encoding(ds, lossless=True)) == ["radiance"]
    assert list(xwalloc.encoding(ds, max_error={"place": 1})) == ["place"]
    assert list(xwalloc.encoding(ds.place, max_error=1)) == ["place"]
    with pytest.raises(ConfigError, match=r"'place': it is a coordinate.*max_error=\{'name'"):
        xwalloc.encoding(ds[["place"]], max_error=1)


@pytest.mark.parametrize("where", ["attrs", "encoding"])
def test_what_others_name_as_coordinates_is_exact(scene, where):
    ds = scene.assign(place=(("y", "x"), np.zeros((70, 50))), slope=(("y", "x"), np.zeros((70, 50))))
    getattr(ds.radiance, where)["coordinates"] = "place elsewhere"
    getattr(ds.slope, where)["coordinates"] = "slope"
    assert list(xwalloc.encoding(ds, max_error=1)) == ["radiance", "slope"]
    assert list(xwalloc.encoding(ds, max_error={"place": 1})) == ["place"]
    assert list(xwalloc.encoding(ds.place, max_error=1)) == ["place"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channel_dim": "bnad"}, "Did you mean 'band'"),
        ({"signal_dims": ("y", "lon")}, "signal_dims to name dimensions"),
        ({"signal_dims": ("band", "y", "x", "band")}, "each dimension once. Got .'band', 'y', 'x', 'band'"),
        ({"signal_dims": ("y", "y")}, "each dimension once"),
        ({"chunks": {"z": 1}}, "chunks to name dimensions"),
        ({"chunks": {"y": 0}}, "positive integers"),
        ({"chunks": {"y": 2.5}}, "positive integers"),
        ({"chunks": {"y": 16}, "shards": {"y": 40}}, "multiple of its chunks"),
        ({"shards": {"y": 64}, "zarr_format": 2}, "no shards"),
        ({"zarr_format": 4}, "2 or 3"),
        ({"model": "a.model"}, "None or a Model"),
        ({"nodata": {"nothing": 1}}, "nodata to name"),
        ({"channel_dim": "y", "signal_dims": ["y"]}, "signal dimensions"),
    ],
)
def test_impossible_requests_are_refused(scene, options, words):
    with pytest.raises(ConfigError, match=words):
        xwalloc.encoding(scene.drop_vars("gain"), max_error=1, **options)


@pytest.mark.parametrize(
    ("dims", "channel", "signal"),
    [
        (("band", "y", "x"), 0, [1, 2]),
        (("y", "x", "wavelength"), 2, [0, 1]),
        (("time", "band", "lat", "lon"), 1, [2, 3]),
        (("time", "latitude", "longitude"), 0, [1, 2]),
        (("time", "lev", "lat", "lon"), 0, [1, 2, 3]),
        (("northing", "easting"), None, [0, 1]),
        (("channel", "time"), 0, [1]),
        (("time", "electrode"), 1, [0]),
        (("trial", "lead", "sample"), 1, [2]),
        (("component", "z", "y", "x"), 0, [1, 2, 3]),
        (("time", "depth"), None, [0, 1]),
        (("Band", "Y", "X"), 0, [1, 2]),
        (("downtrack", "crosstrack", "bands"), 2, [0, 1]),
        (("along_track", "across_track", "band"), 2, [0, 1]),
        (("bands", "Along_Track", "Cross_Track"), 0, [1, 2]),
        (("time", "scanline", "ground_pixel", "spectral_channel"), 3, [1, 2]),
        (("number_of_lines", "pixels_per_line", "wavelength"), 2, [0, 1]),
    ],
)
def test_roles_from_names(dims, channel, signal):
    da = xr.DataArray(np.zeros((4,) * len(dims), "f4"), dims=dims, name="v")
    configuration = codec_of(xwalloc.encoding(da, max_error=1), "v")
    assert (configuration["channel_axis"], configuration["signal_axes"]) == (channel, signal)


def test_roles_from_cf_attributes():
    coords = {
        "a": ("a", np.arange(3.0), {"standard_name": "radiation_wavelength"}),
        "b": ("b", pd.date_range("2026-01-01", periods=4)),
        "c": ("c", np.arange(5.0), {"units": "degrees_north"}),
        "d": ("d", np.arange(6.0), {"axis": "X"}),
    }
    da = xr.DataArray(np.zeros((3, 4, 5, 6), "f4"), coords=coords, dims=tuple("abcd"), name="v")
    configuration = codec_of(xwalloc.encoding(da, max_error=1), "v")
    assert (configuration["channel_axis"], configuration["signal_axes"]) == (0, [2, 3])
    unknown = xr.DataArray(np.zeros((3, 4)), dims=("p", "q"), name="v")
    with pytest.raises(ConfigError, match=r"p \(unknown\), q \(unknown\).*signal_dims="):
        xwalloc.encoding(unknown, max_error=1)
    configuration = codec_of(xwalloc.encoding(unknown, max_error=1, channel_dim="p", signal_dims="q"), "v")
    assert (configuration["channel_axis"], configuration["signal_axes"]) == (0, [1])


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("scale", [0.01, -0.5])
def test_packed_variables(tmp_path, zarr_format, scale):
    rng = np.random.default_rng(5)
    values = rng.normal(scale=abs(scale) * 1000, size=(4, 40, 40)).cumsum(2).clip(-1e4 * abs(scale), 1e4 * abs(scale))
    values[:, :9, :9] = np.nan
    da = xr.DataArray(values, dims=("band", "y", "x"), name="t", attrs={"units": "K"})
    da.encoding = {
        "dtype": "i2",
        "scale_factor": scale,
        "add_offset": 3.0,
        "_FillValue": -32768,
        "zlib": True,
        "chunksizes": (1, 40, 40),
        "source": "elsewhere.nc",
    }
    bound = 8 * abs(scale)
    encoding = write(da.to_dataset(), tmp_path / "p.zarr", max_error=bound, zarr_format=zarr_format)
    configuration = codec_of(encoding, "t")
    assert configuration["max_error"] == pytest.approx(7.5)  # half a unit is for the rounding of packing
    assert configuration["nodata"] == -32768
    assert zarr.open_array(tmp_path / "p.zarr/t").dtype == "i2"
    back = opened(tmp_path / "p.zarr").t
    np.testing.assert_array_equal(np.isnan(back), np.isnan(values))
    assert deviation(back, values) <= bound
    assert back.attrs == {"units": "K"}
    assert {key: back.encoding[key] for key in ("scale_factor", "add_offset", "_FillValue")} == {
        "scale_factor": scale,
        "add_offset": 3.0,
        "_FillValue": -32768,
    }
    below = codec_of(xwalloc.encoding(da, max_error=abs(scale) / 2), "t")
    assert below["lossless"] is True
    with pytest.raises(ConfigError, match="one nodata value"):
        xwalloc.encoding(da, max_error=bound, nodata=-1)


def test_nodata_is_what_cf_declares(scene):
    def nodata(**options):
        da = scene.radiance.astype(options.pop("dtype", "f4")).copy()
        attrs, encoding = options.pop("attrs", {}), options.pop("encoding", {})
        da.attrs.update(attrs)
        da.encoding.update(encoding)
        return codec_of(xwalloc.encoding(da, max_error=1, **options), "radiance").get("nodata")

    assert nodata() is None
    assert nodata(encoding={"_FillValue": np.float32(-9999)}) == -9999
    assert nodata(attrs={"_FillValue": -9999.0}) == -9999
    assert nodata(attrs={"missing_value": [1e20]}) == float(np.float32(1e20))
    assert nodata(encoding={"_FillValue": np.nan}) is None
    assert nodata(encoding={"_FillValue": np.nan}, nodata=-1) == -1
    assert nodata(nodata={"radiance": 65535}, dtype="u2") == 65535
    assert nodata(attrs={"_FillValue": -9999}, dtype="u2") is None  # cannot occur
    with pytest.raises(ConfigError, match="nodata"):
        nodata(nodata=-9999, dtype="u2")
    with pytest.raises(ConfigError, match="one nodata value"):
        nodata(attrs={"_FillValue": -9999.0, "missing_value": -1.0})


def test_fill_values_of_rasters_survive(tmp_path, scene):
    values = (np.abs(scene.radiance) * 100).astype("i2").where(scene.mask > 0, -9999).astype("i2")
    da = values.rio.write_crs("EPSG:32633").rio.write_nodata(-9999).rename("dn")
    da.walloc.to_zarr(tmp_path / "r.zarr", max_error=4, channel_dim="band", consolidated=False)
    raw = opened(tmp_path / "r.zarr", mask_and_scale=False).dn
    assert raw.rio.crs == da.rio.crs
    assert raw.rio.nodata == -9999
    assert raw.dtype == "i2"
    np.testing.assert_array_equal(raw == -9999, da == -9999)
    assert deviation(raw, da) <= 4


@pytest.mark.parametrize(
    ("dims", "shape", "dtype", "chunks"),
    [
        (("band", "y", "x"), (200, 145, 145), "u2", (200, 145, 145)),
        (("band", "y", "x"), (200, 1000, 3000), "f4", (200, 112, 96)),
        (("time", "y", "x"), (1000, 73, 144), "f4", (250, 73, 144)),
        (("channel", "time"), (8, 10_000_000), "f4", (8, 256_416)),
        (("y", "x"), (20_000, 20_000), "u1", (2864, 2864)),
        (("band", "time", "y", "x"), (4, 10, 600, 600), "f4", (4, 1, 600, 600)),
        (("z", "y", "x"), (7, 4000, 4000), "f4", (7, 512, 576)),
        (("y", "x"), (0, 5), "f4", (1, 5)),
        (("y",), (1,), "f4", (1,)),
    ],
)
def test_default_chunks(dims, shape, dtype, chunks):
    lazy = dask.array.zeros(shape, dtype=dtype, chunks=-1)
    encoding = xwalloc.encoding(xr.DataArray(lazy, dims=dims, name="v"), max_error=1)
    assert encoding["v"]["chunks"] == chunks
    assert np.prod(chunks) * np.dtype(dtype).itemsize <= 16 * 2**20


@pytest.mark.parametrize(
    ("dask_chunks", "chunks"),
    [
        ((200, 512, 512), (200, 64, 64)),
        ((50, 512, 512), (50, 256, 128)),
        ((200, 100, 100), (200, 100, 100)),
        ((200, 1000, 1000), (200, 1000, 10)),
    ],
)
def test_chunks_divide_dask_chunks(dask_chunks, chunks):
    lazy = dask.array.zeros((200, 4000, 4000), dtype="u2", chunks=dask_chunks)
    found = xwalloc.encoding(xr.DataArray(lazy, dims=("band", "y", "x"), name="v"), max_error=1)["v"]["chunks"]
    for part, n in zip(dask_chunks, found, strict=True):
        assert part % n == 0
    assert 2**20 <= 2 * np.prod(found) <= 16 * 2**20


def test_dask_chunks_that_do_not_fit(tmp_path, scene):
    irregular = scene.chunk(y=(13, 40, 17))
    with pytest.raises(ConfigError, match=r"ds\.walloc\.to_zarr"):
        xwalloc.encoding(irregular, max_error=BOUND)
    with pytest.raises(ConfigError, match=r"ds\.chunk"):
        xwalloc.encoding(scene.chunk(y=10), max_error=BOUND, chunks={"y": 16})
    irregular.walloc.to_zarr(tmp_path / "a.zarr", max_error=BOUND, chunks={"y": 16}, consolidated=False)
    scene.chunk(band=1).walloc.to_zarr(tmp_path / "b.zarr", max_error=BOUND, consolidated=False)
    assert zarr.open_array(tmp_path / "a.zarr/radiance").chunks == (6, 16, 50)
    assert zarr.open_array(tmp_path / "b.zarr/radiance").chunks == (6, 70, 50)
    assert deviation(opened(tmp_path / "a.zarr").radiance, scene.radiance) <= BOUND


def test_a_store_is_written_again_from_itself(tmp_path, scene):
    """What was read from one format goes to another: nothing of the first is carried along that the second refuses."""
    kinds = [{"zarr_format": 2}, {"zarr_format": 3}, {"shards": {"y": 32}, "chunks": {"y": 16}}, {"zarr_format": 2}]
    ds = scene
    for i, options in enumerate(kinds):
        write(ds, tmp_path / f"{i}.zarr", max_error=BOUND, **options)
        ds = xr.open_zarr(tmp_path / f"{i}.zarr", decode_coords="all", consolidated=False)
        assert deviation(ds.radiance, scene.radiance) <= BOUND * (i + 1)
        ds = ds.compute()
        for name in ds.variables.keys() - {"radiance"}:
            ds[name].encoding = {}  # xarray carries their codecs along, which the other format refuses


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_dask_cluster_of_processes(tmp_path, scene):
    from distributed import Client, LocalCluster

    tiled = xr.concat([scene[["radiance"]]] * 4, "x").drop_vars("x").chunk(y=32, x=50)
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": "spawn"}),
        LocalCluster(n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        write(tiled, tmp_path / "d.zarr", max_error=BOUND)
        lazy = xr.open_zarr(tmp_path / "d.zarr", consolidated=False)
        assert float(np.abs(lazy.radiance.astype("f8") - tiled.radiance).max()) <= BOUND
        threads = client.run(worker_threads)
        assert all(n <= 2 for n in threads.values())
    write(tiled.load(), tmp_path / "l.zarr", max_error=BOUND, chunks={"y": 32, "x": 50})
    for chunk in (tmp_path / "l.zarr/radiance/c/0").glob("*/*"):
        assert (tmp_path / "d.zarr" / chunk.relative_to(tmp_path / "l.zarr")).read_bytes() == chunk.read_bytes()


def worker_threads():
    from xwalloc.codec.engine import available_threads

    return available_threads()


def test_errors_name_what_encoding_takes():
    """`step` is a target of the codec alone, and a dtype that cannot be compressed is not worth naming."""
    floats = xr.Dataset({"a": (("band", "y", "x"), np.zeros((2, 8, 8)))})
    with pytest.raises(ConfigError, match=r"one of max_error, snr and lossless\. Got none"):
        xwalloc.encoding(floats)
    with pytest.raises(ConfigError, match="Got max_error and snr"):
        xwalloc.encoding(floats, max_error=1, snr=3)
    with pytest.raises(ConfigError, match=r"of these dtypes can be compressed: .*float32"):
        xwalloc.encoding(floats.astype("int64"), max_error=1)
    with pytest.raises(ConfigError, match="Name the variables"):
        xwalloc.encoding(floats.astype("int32"), max_error=1)


def test_bounds_of_coordinates_stay_exact(tmp_path):
    """CF calls the edges of cells data variables; they belong to the coordinate."""
    edges = np.linspace(-90, 90, 9) + np.sin(np.arange(9)) / 7
    coords = {
        "lat": ("lat", (edges[1:] + edges[:-1]) / 2, {"bounds": "lat_bnds"}),
        "y": ("y", np.arange(8.0), {"bounds": ["y_bnds"]}),
        "time": ("time", np.arange(50.0), {"climatology": "climatology_bounds"}),
    }
    ds = xr.Dataset(
        {
            "tas": (("time", "lat"), np.random.default_rng(0).normal(size=(50, 8))),
            "lat_bnds": (("lat", "bnds"), np.stack([edges[:-1], edges[1:]], 1)),
            "y_bnds": (("y", "bnds"), np.zeros((8, 2))),
            "climatology_bounds": (("time", "bnds"), np.random.default_rng(1).normal(size=(50, 2))),
        },
        coords=coords,
    )
    assert set(xwalloc.encoding(ds, max_error=0.5)) == {"tas"}
    assert set(xwalloc.encoding(ds, max_error={"lat_bnds": 0.5})) == {"lat_bnds"}
    ds.walloc.to_zarr(tmp_path / "s.zarr", max_error=0.5, consolidated=False)
    back = xr.open_zarr(tmp_path / "s.zarr", consolidated=False)
    xr.testing.assert_identical(back.lat_bnds.load(), ds.lat_bnds)


def test_variables_whose_dimensions_nobody_knows_are_left_exact_beside_others(caplog):
    values = np.zeros((5, 100), "f4")
    ds = xr.Dataset({"p": (("station", "time"), values), "elevation": ("station", values[:, 0])})
    assert set(xwalloc.encoding(ds, max_error=0.01)) == {"p"}
    assert "elevation" in caplog.text
    with pytest.raises(ConfigError, match="station"):
        xwalloc.encoding(ds[["elevation"]], max_error=0.01)
    with pytest.raises(ConfigError, match="station"):
        xwalloc.encoding(ds, max_error={"elevation": 0.01})


def test_a_dimension_that_is_probably_a_channel_is_named(caplog):
    cube = xr.DataArray(np.zeros((8, 20, 20), "f4"), dims=("qqq", "y", "x"), name="cube")
    xwalloc.encoding(cube, max_error=0.1)
    assert "channel_dim='qqq'" in caplog.text
    caplog.clear()
    for more in ({"channel_dim": "qqq"}, {"signal_dims": ("y", "x")}):
        xwalloc.encoding(cube, max_error=0.1, **more)
    xwalloc.encoding(cube.rename(qqq="frequency"), max_error=0.1)
    assert not caplog.text


def test_changed_dimensions_of_opened_data_are_explained(tmp_path):
    cube = xr.DataArray(np.random.default_rng(0).normal(size=(4, 20, 20)), dims=("band", "y", "x"), name="cube")
    cube.walloc.to_zarr(tmp_path / "a.zarr", max_error=0.1, consolidated=False)
    band = xr.open_zarr(tmp_path / "a.zarr", consolidated=False).cube.isel(band=2)
    with pytest.raises(ConfigError, match="drop_encoding"):
        band.to_zarr(tmp_path / "b.zarr", consolidated=False)
    band.drop_encoding().to_zarr(tmp_path / "c.zarr", consolidated=False)


def test_bounds_may_be_scalars_of_any_kind():
    cube = xr.DataArray(np.zeros((4, 20, 20)), dims=("band", "y", "x"), name="cube")
    for bound in (np.array(0.5), np.float32(0.5), xr.DataArray(0.5)):
        assert xwalloc.encoding(cube, max_error=bound)["cube"]["serializer"].config.max_error == 0.5


@pytest.mark.parametrize("wanted", [{"chunks": 64}, {"chunks": (4, 10, 10)}, {"shards": 64}])
def test_sizes_must_name_dimensions(wanted):
    cube = xr.DataArray(np.zeros((4, 20, 20)), dims=("band", "y", "x"), name="cube")
    with pytest.raises(ConfigError, match="map dimensions"):
        xwalloc.encoding(cube, max_error=0.5, **wanted)


def test_the_profile_is_that_of_the_codec(tmp_path):
    array = xr.DataArray(np.arange(3000.0).reshape(3, 20, 50), dims=("band", "y", "x"), name="a")
    array.walloc.to_zarr(tmp_path / "a.zarr", max_error=0.1, profile="parallel", consolidated=False)
    stored = zarr.open_array(tmp_path / "a.zarr" / "a", mode="r")
    assert stored.serializer.config.profile == "parallel"
    np.testing.assert_allclose(stored[...], array, atol=0.1)
    with pytest.raises(ConfigError, match="profile"):
        xwalloc.encoding(array, max_error=0.1, profile="fast")
