"""Settings are checked against all groups and sources together, and each takes the part that concerns it."""

import logging
import os
import shutil

import numpy as np
import pytest
import xarray as xr
import zarr
from click.testing import CliRunner

import xwalloc
from xwalloc.cli import main
from xwalloc.conversion.convert import prepare
from xwalloc.conversion.sources.opened import OpenedSource, release
from xwalloc.conversion.verify import verify
from xwalloc.errors import ConfigError

h5py = pytest.importorskip("h5py")
netCDF4 = pytest.importorskip("netCDF4")

EMIT = {"channel_dim": "bands", "signal_dims": ("downtrack", "crosstrack")}
NEON = "SITE/Reflectance/Reflectance_Data"


def smooth(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).cumsum(0).cumsum(1)


@pytest.fixture(scope="module")
def emit(tmp_path_factory):
    """Reflectance in the root, geolocation and bands in groups."""
    path = tmp_path_factory.mktemp("emit") / "emit.nc"
    with netCDF4.Dataset(path, "w") as file:
        for name, size in (("downtrack", 40), ("crosstrack", 32), ("bands", 6)):
            file.createDimension(name, size)
        file.title = "a granule"
        cube = file.createVariable("reflectance", "f4", ("downtrack", "crosstrack", "bands"), fill_value=-9999)
        cube[:] = smooth(40, 32, 6) * 0.01
        cube[3:5, 7, :] = -9999
        location = file.createGroup("location")
        location.createDimension("ortho_y", 50)
        location.createDimension("ortho_x", 60)
        for seed, name in enumerate(("lon", "lat"), 1):
            location.createVariable(name, "f8", ("downtrack", "crosstrack"))[:] = smooth(40, 32, seed=seed)
        location.createVariable("glt_x", "i4", ("ortho_y", "ortho_x"))[:] = np.arange(3000).reshape(50, 60)
        bands = file.createGroup("sensor_band_parameters")
        bands.createVariable("wavelengths", "f4", ("bands",))[:] = np.linspace(400, 900, 6)
        bands.createVariable("good_wavelengths", "u1", ("bands",))[:] = 1
    return path


@pytest.fixture(scope="module")
def neon(tmp_path_factory):
    """Integers some groups down, dimensions without names, metadata in many groups, nothing in the root."""
    path = tmp_path_factory.mktemp("neon") / "neon.h5"
    with h5py.File(path, "w") as file:
        file.attrs["project"] = "a flight"
        group = file.create_group("SITE/Reflectance")
        file["SITE"].attrs["code"] = np.bytes_("SITE")
        group["Reflectance_Data"] = (smooth(40, 32, 6) * 100).astype("i2")
        group["Metadata/Ancillary_Imagery/Shade"] = np.arange(40 * 32, dtype="u1").reshape(40, 32)
        group["Metadata/Coordinate_System/EPSG Code"] = np.bytes_("32611")
        group["Metadata/Spectral_Data/Wavelength"] = np.linspace(400, 2500, 6)
        group["Metadata/Logs/Lines"] = np.arange(3)
        group["Metadata/to-sun_Zenith_Angle"] = np.float32(31.5)
    return path


def values(path, array):
    group, _, name = array.rpartition("/")
    with xr.open_dataset(path, group=group or None, decode_cf=False, engine="h5netcdf", phony_dims="sort") as found:
        array = found[name].values
    return array.astype(str) if array.dtype.kind == "S" else array


def codecs(store):
    """Whether xwalloc encodes, by path of the array."""
    arrays = zarr.open_group(store, mode="r").members(max_depth=None)
    return {
        path: "xwalloc" in str(array.metadata.to_dict())
        for path, array in arrays
        if isinstance(array, zarr.Array) and not path.startswith("_xwalloc")
    }


def compressed(store):
    return {path for path, ours in codecs(store).items() if ours}


def same_but(path, store, bounds):
    """Arrays with a bound are within it, all others are exact."""
    root = zarr.open_group(store, mode="r")
    assert compressed(store) == set(bounds)
    for array in codecs(store):
        found, expected = root[array][...], values(path, array)
        if array in bounds:
            assert 0 < np.abs(found.astype("f8") - expected).max() <= bounds[array]
        else:
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("bound", [0.002, {"reflectance": 0.002}, {"/reflectance": 0.002}], ids=str)
def test_groups_beside_a_cube_are_kept_exactly(convert, emit, tmp_path, bound):
    store = tmp_path / "e.zarr"
    assert convert(emit, store, max_error=bound, nodata={"reflectance": -9999}, **EMIT).ok
    same_but(emit, store, {"reflectance": 0.002})
    assert len(codecs(store)) == 6
    attrs = zarr.open_group(store, mode="r").attrs
    assert (attrs["title"], attrs["xwalloc"]["sources"][""]) == ("a granule", str(emit))
    found = verify(emit, store)
    assert (found.ok, found.checked) == (True, 6)
    xwalloc.export(store, tmp_path / "plain.nc")
    with xr.open_dataset(tmp_path / "plain.nc", group="location", decode_cf=False) as plain:
        np.testing.assert_array_equal(plain.lon, values(emit, "location/lon"))
    again = convert(emit, store, max_error=bound, nodata={"reflectance": -9999}, **EMIT)
    assert (again.ok, again.earlier) == (True, 6)


def test_the_command_line_goes_on_where_groups_were_interrupted(convert, emit, tmp_path):
    store = tmp_path / "e.zarr"

    def stop(progress):
        if progress.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(emit, store, max_error={"reflectance": 0.002, "location/lat": 0.1}, progress=stop, **EMIT)
    dims = ("--channel-dim", "bands", "--signal-dim", "downtrack", "--signal-dim", "crosstrack")
    command = ["convert", str(emit), str(store), *dims, "--max-error"]
    refused = CliRunner().invoke(main, [*command, "reflectance=0.002,location/lon=0.1"])
    assert refused.exit_code == 1
    assert "was begun" in refused.stderr
    done = CliRunner().invoke(main, [*command, "reflectance=0.002,location/lat=0.1"])
    assert done.exit_code == 0, done.output
    same_but(emit, store, {"reflectance": 0.002, "location/lat": 0.1})


def test_a_file_of_which_one_group_is_complete_may_be_repaired(convert, emit, tmp_path, monkeypatch):
    """All of the file is converted again; where all of it was complete, it may not change."""
    path, store = tmp_path / "copy.nc", tmp_path / "e.zarr"
    shutil.copy(emit, path)
    read = OpenedSource.read

    def damaged(self, variable, region):
        if variable == "reflectance":
            raise ValueError("damaged")
        return read(self, variable, region)

    with monkeypatch.context() as patch:
        patch.setattr(OpenedSource, "read", damaged)
        assert not convert(path, store, max_error={"reflectance": 0.002}, **EMIT).complete
    assert zarr.open_group(store / "location", mode="r")["lon"].shape == (40, 32)
    with netCDF4.Dataset(path, "a") as file:
        file["location/lon"][3, 4] = 7
    again = convert(path, store, max_error={"reflectance": 0.002}, **EMIT)
    assert (again.ok, again.earlier) == (True, 0)
    assert verify(path, store).ok
    os.utime(path)
    with pytest.raises(ConfigError, match=r"begun\. source .*copy\.nc has changed \(modified .* now\)\. Use"):
        convert(path, store, max_error={"reflectance": 0.002}, **EMIT)


def test_integers_in_groups_and_a_root_without_variables(convert, neon, tmp_path):
    store = tmp_path / "n.zarr"
    with xr.open_dataset(neon, group="SITE/Reflectance", engine="h5netcdf", phony_dims="sort") as opened:
        y, x, bands = opened.Reflectance_Data.dims
    settings = {"max_error": {"Reflectance_Data": 20}, "channel_dim": bands, "signal_dims": (y, x)}
    assert convert(neon, store, chunks={y: 32}, shards={y: 32, x: 32}, **settings).ok
    same_but(neon, store, {NEON: 20})
    assert len(codecs(store)) == 6
    root = zarr.open_group(store, mode="r")
    assert (root.attrs["project"], root["SITE"].attrs["code"]) == ("a flight", "SITE")
    assert verify(neon, store).ok
    assert "to-sun_Zenith_Angle" in xwalloc.report(neon, store, tmp_path / "page.html").read_text()
    xwalloc.export(store, tmp_path / "plain.zarr")
    plain = zarr.open_group(tmp_path / "plain.zarr", mode="r")
    assert plain["SITE/Reflectance/Metadata/Coordinate_System/EPSG Code"][()] == "32611"
    with pytest.raises(ConfigError, match=rf"at least one variable.*'{NEON}': it holds integers.*Name the variables"):
        prepare(neon, max_error=20)


def test_groups_that_have_attributes_only(convert, neon, tmp_path):
    settings = {"max_error": {"Reflectance_Data": 20}, "signal_dims": ("phony_dim_0", "phony_dim_1")}
    for number in range(2):
        shutil.copy(neon, tmp_path / f"{number}.h5")
    sources = [tmp_path / "0.h5", tmp_path / "1.h5"]
    assert convert(sources, tmp_path / "groups.zarr", **settings).ok
    root = zarr.open_group(tmp_path / "groups.zarr", mode="r")
    assert (root["1"].attrs["project"], root["1/SITE"].attrs["code"]) == ("a flight", "SITE")
    assert verify(sources, tmp_path / "groups.zarr").ok
    assert convert(sources, tmp_path / "along.zarr", along="time", **settings).ok
    root = zarr.open_group(tmp_path / "along.zarr", mode="r")
    assert (root.attrs["project"], list(root.array_keys()), root[NEON].shape) == ("a flight", [], (2, 40, 32, 6))
    assert verify(sources, tmp_path / "along.zarr").ok
    again = tmp_path / "again.zarr"
    assert convert(tmp_path / "groups.zarr", again, lossless=True, signal_dims=settings["signal_dims"]).ok
    assert zarr.open_group(again, mode="r")["1/SITE"].attrs["code"] == "SITE"
    assert verify(tmp_path / "groups.zarr", again).ok


def test_sources_with_different_variables(convert, tmp_path):
    for name, variable in (("m1", "reflectance"), ("m2", "radiance"), ("m3", "radiance")):
        xr.Dataset({variable: (("y", "x", "band"), smooth(32, 40, 3))}).to_netcdf(tmp_path / f"{name}.nc")
    sources, store = [tmp_path / f"m{n}.nc" for n in (1, 2, 3)], tmp_path / "m.zarr"
    bounds = {"reflectance": 0.2, "radiance": 0.1, "m3/radiance": 0.3}
    result = convert(sources, store, max_error=bounds)
    assert result.ok
    arrays = {"m1/reflectance": 0.2, "m2/radiance": 0.1, "m3/radiance": 0.3}
    assert all(bound / 2 < result.max_error[path] <= bound for path, bound in arrays.items())
    assert compressed(store) == set(arrays)
    assert verify(sources, store).ok


def plans(source, **settings):
    """Quality targets of the arrays that are compressed."""
    arrays = prepare(source, **settings).plan.arrays
    return {a.path: a.config.max_error or a.config.snr for a in arrays if a.config is not None}


def test_names_are_ends_of_paths_and_the_longest_counts(tmp_path):
    for group in ("", "a", "a/b"):
        dataset = xr.Dataset({"v": (("y", "x"), smooth(16, 16)), "w": (("y", "x"), smooth(16, 16))})
        dataset.to_netcdf(tmp_path / "g.nc", mode="a" if group else "w", group=group or None, engine="h5netcdf")
    source = tmp_path / "g.nc"
    assert plans(source, max_error={"v": 1}) == {"v": 1, "a/v": 1, "a/b/v": 1}
    assert plans(source, max_error={"/v": 1, "b/v": 2}) == {"v": 1, "a/b/v": 2}
    assert plans(source, max_error={"b/v": 2, "v": 1}, snr={"a/v": 40}) == {"v": 1, "a/v": 40, "a/b/v": 2}
    assert plans(source, max_error={"a/v": 1}) == {"a/v": 1}
    with pytest.raises(ConfigError, match=r"one of max_error and snr for variable 'v'\. Got both"):
        plans(source, max_error={"v": 1}, snr={"v": 40})
    plan = prepare(source, max_error={"v": 1}, nodata={"v": 7, "a/v": 8}).plan
    assert [a.config.nodata for a in plan.arrays if a.config is not None] == [7, 8, 7]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_error": {"reflectence": 1}}, r"'reflectance', 'location/lon'.*Got 'reflectence'.*mean 'reflectance'\?"),
        ({"max_error": {"location/reflectance": 1}}, "Got 'location/reflectance'"),
        ({"max_error": {"wavelength": 1}}, r"Got 'wavelength'. Did you mean 'wavelengths'\?"),
        ({"max_error": {"/lon": 1}}, r"Got '/lon'. Did you mean 'lon'\?"),
        ({"max_error": {"reflectance": 1}, "snr": {"latt": 1}}, "snr to name data variables.*Got 'latt'"),
        ({"max_error": {"reflectance": 1, "": 1}}, "Got ''"),
        ({"max_error": {"reflectance": 1, 5: 1}}, "Got 5"),
        ({"max_error": {"reflectance": 1}, "nodata": {"lon": -9999}}, "compressed: 'reflectance'. Got 'lon'"),
        ({"max_error": 1, "channel_dim": "band"}, "channel_dim to name dimensions.*Got 'band'.*mean 'bands'"),
        ({"max_error": 1, "signal_dims": ("downtrack", "crostrack")}, "signal_dims.*mean 'crosstrack'"),
        ({"max_error": 1, "chunks": {"ortho": 8}}, "chunks.*mean 'ortho_"),
        ({"max_error": 1, "shards": {"down": 8}}, "shards to name dimensions.*Got 'down'"),
        ({"max_error": 1, "signal_dims": ("ortho_x",)}, "signal dimensions of variable 'reflectance'.*emit.nc"),
        ({"max_error": 1, "channel_dim": "ortho_x"}, "at least one variable.*'reflectance': it has no dimension"),
        ({"max_error": {}}, "empty mapping"),
        ({}, "exactly one of max_error, snr and lossless. Got none"),
    ],
)
def test_what_no_group_has_is_refused(emit, settings, words):
    with pytest.raises(ConfigError, match=words):
        prepare(emit, **settings)


def test_settings_for_one_group_only(emit):
    settings = {"channel_dim": "bands", "signal_dims": ("downtrack", "crosstrack"), "chunks": {"ortho_y": 16}}
    assert plans(emit, max_error={"reflectance": 1, "lat": 2}, **settings) == {"reflectance": 1, "location/lat": 2}
    assert plans(emit, max_error={"glt_x": 2}, signal_dims=("ortho_y", "ortho_x")) == {"location/glt_x": 2}


def test_what_cannot_be_guessed_is_left_out_only_where_it_is_small(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("xwalloc"), "propagate", True)
    path = tmp_path / "g.nc"
    xr.Dataset({"cube": (("band", "y", "x"), smooth(4, 32, 32))}).to_netcdf(path, engine="h5netcdf")
    xr.Dataset({"odd": (("i", "j"), smooth(32, 32))}).to_netcdf(path, mode="a", group="meta", engine="h5netcdf")
    with caplog.at_level("WARNING", "xwalloc"):
        assert plans(path, max_error=1) == {"cube": 1}
    assert "'meta/odd' is stored exactly" in caplog.text
    release()
    xr.Dataset({"large": (("i", "j"), smooth(64, 64))}).to_netcdf(path, mode="a", group="more", engine="h5netcdf")
    with pytest.raises(ConfigError, match=r"signal dimensions of variable 'large'.*g\.nc:/more"):
        plans(path, max_error=1)
    assert plans(path, max_error=1, signal_dims=("y", "x", "i", "j")) == {"cube": 1, "meta/odd": 1, "more/large": 1}


def test_a_source_that_settings_pass_over_is_said(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("xwalloc"), "propagate", True)
    xr.Dataset({"v": (("band", "y", "x"), smooth(4, 32, 32))}).to_netcdf(tmp_path / "a.nc")
    xr.Dataset({"v": (("bands", "y", "x"), smooth(4, 32, 32))}).to_netcdf(tmp_path / "b.nc")
    with caplog.at_level("WARNING", "xwalloc"):
        assert plans([tmp_path / "a.nc", tmp_path / "b.nc"], max_error=1, channel_dim="band") == {"a/v": 1}
    (record,) = caplog.records
    assert "Stored exactly" in record.getMessage()
    assert "'v' of" in record.getMessage()
    assert record.getMessage().endswith("b.nc.")
