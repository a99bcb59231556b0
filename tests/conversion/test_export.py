"""What is exported is what the store decodes to, and plain readers suffice."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

import xwalloc
from xwalloc.conversion.export import export
from xwalloc.conversion.part import part_of
from xwalloc.errors import ConfigError

pytest.importorskip("netCDF4")
pytest.importorskip("rioxarray")

ROOT = Path(__file__).parents[2]
TILE = ROOT.parent / "shared/data/hyperspectral/enmap_potsdam/enmap_potsdam_tile_64_0.tif"

ALONE = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "xwalloc":
            raise ImportError("blocked")
sys.meta_path.insert(0, Blocked())
import importlib.metadata as m
real = m.entry_points
def without(**k):
    found = real(**k)
    return m.EntryPoints(e for e in found if "xwalloc" not in e.value) if k else found
m.entry_points = without
import numpy as np
"""


def alone(code, *arguments):
    """What code says in a process without xwalloc."""
    command = [sys.executable, "-W", "ignore", "-c", ALONE + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", env={"PATH": ""}, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def example():
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.normal(size=(5, 50, 70)), 2)
    values[0, 3, 4:9] = np.nan
    coords = {
        "wavelength": ("band", [450.0, 550.5, 650.0, 750.0, 850.0], {"units": "nm"}),
        "y": np.arange(50) * -30.0 + 5800000,
        "x": np.arange(70) * 30.0 + 300000,
    }
    ds = xr.Dataset({"cube": (("band", "y", "x"), values, {"units": "K", "flags": [1, 2]})}, coords)
    ds["mask"] = ("y", "x"), rng.integers(0, 2, (50, 70)).astype(bool)
    ds["label"] = "band", np.array(["a", "b", "ü", "d", "e"], object)
    ds.cube.encoding = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 3.0, "_FillValue": -32768}
    ds = ds.rio.write_crs("EPSG:32633")
    ds.attrs["xwalloc"] = {"sources": ["a.tif"], "bound": 0.05}
    return ds


@pytest.fixture(params=[2, 3])
def store(request, tmp_path):
    ds = example()
    chunks = {"y": 32, "x": 32}
    path = tmp_path / "store.zarr"
    arguments = {"max_error": {"cube": 0.05}, "channel_dim": "band", "chunks": chunks, "zarr_format": request.param}
    ds.walloc.to_zarr(path, consolidated=request.param == 2, **arguments)
    more = xr.Dataset({"series": ("time", np.sin(np.arange(999) / 9).astype("f4"))})
    plan = xwalloc.encoding(more, max_error=0.01, zarr_format=request.param)
    more.to_zarr(path, group="more/deep", encoding=plan, zarr_format=request.param, consolidated=False, mode="a")
    if request.param == 2:
        zarr.consolidate_metadata(path)
    return path


def raw(path):
    return zarr.open_group(path, mode="r")["cube"][:]


def test_plain_zarr(store, tmp_path):
    target = export(store, tmp_path / "plain.zarr")
    before, after = zarr.open_group(store, mode="r"), zarr.open_group(target, mode="r")
    assert after.metadata.zarr_format == before.metadata.zarr_format
    assert after.attrs.asdict() == before.attrs.asdict()
    names = dict(before.members(max_depth=None))
    assert sorted(dict(after.members(max_depth=None))) == sorted(names)
    for name, node in names.items():
        assert after[name].attrs.asdict() == node.attrs.asdict()
        if isinstance(node, zarr.Array):
            assert after[name].chunks == node.chunks
            np.testing.assert_array_equal(after[name][...], node[...], strict=True)
    found = alone("import zarr; print(zarr.open_group(sys.argv[1], mode='r')['cube'][:].astype('i8').sum())", target)
    assert int(found) == raw(store).astype("i8").sum()
    consolidated = before.metadata.zarr_format == 2
    opened = [xr.open_zarr(path, consolidated=consolidated) for path in (target, store)]
    xr.testing.assert_identical(*opened)


def test_netcdf(store, tmp_path):
    target = export(store, tmp_path / "plain.nc")
    with xr.open_dataset(target, decode_cf=False) as found:
        np.testing.assert_array_equal(found["cube"].values, raw(store), strict=True)
        assert found["cube"].attrs["_FillValue"] == np.int16(-32768)
        assert found["cube"].encoding["chunksizes"] == (5, 32, 32)
        assert json.loads(found.attrs["xwalloc"])["bound"] == 0.05
    with (
        xr.open_dataset(target, decode_coords="all") as found,
        xr.open_zarr(store, decode_coords="all", consolidated=False) as ours,
    ):
        np.testing.assert_array_equal(found.cube, ours.cube)
        np.testing.assert_array_equal(found.mask, ours.mask)
        assert found.label.values.tolist() == ours.label.values.tolist()
        assert found.rio.crs.to_epsg() == 32633
        assert set(found.coords) == set(ours.coords)
    code = "import netCDF4; f = netCDF4.Dataset(sys.argv[1]); print(float(f['more/deep/series'][:].sum()))"
    series = zarr.open_group(store, mode="r")["more/deep/series"][:]
    assert float(alone(code, target)) == pytest.approx(float(series.sum()), abs=1e-3)


def test_geotiff(store, tmp_path):
    rasterio = pytest.importorskip("rasterio")
    target = export(store, tmp_path / "plain.tif", variables=["cube"])
    with rasterio.open(target) as found:
        np.testing.assert_array_equal(found.read(), raw(store), strict=True)
        assert (found.nodata, found.scales[0], found.offsets[0], found.units[0]) == (-32768, 0.01, 3.0, "K")
        assert found.crs.to_epsg() == 32633
        assert tuple(found.transform)[:6] == (30, 0, 299985, 0, -30, 5800015)
        assert found.block_shapes[0] == (32, 32)
        assert found.compression.value == "DEFLATE"
        assert "wavelength 550.5 nm" in found.descriptions[1]
        assert found.tags(2)["wavelength"] == "550.5"
    assert alone("import rasterio; print(rasterio.open(sys.argv[1]).count)", target) == "5"


@pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning")  # rioxarray's own
def test_a_real_tile_of_enmap(tmp_path):
    rioxarray = pytest.importorskip("rioxarray")
    rasterio = pytest.importorskip("rasterio")
    if not TILE.exists():
        pytest.skip("../shared/data is not here")
    with rioxarray.open_rasterio(TILE) as source:
        source.to_dataset(name="reflectance").walloc.to_zarr(
            tmp_path / "store.zarr", max_error={"reflectance": 8.0}, channel_dim="band", consolidated=False
        )
    target = export(tmp_path / "store.zarr", tmp_path / "back.tif")
    with rasterio.open(target) as found, rasterio.open(TILE) as before:
        stored = zarr.open_group(tmp_path / "store.zarr", mode="r")["reflectance"][:]
        np.testing.assert_array_equal(found.read(), stored, strict=True)
        assert (found.crs, found.transform) == (before.crs, before.transform)
        assert found.descriptions == before.descriptions
        assert found.nodata == before.nodata or np.isnan([found.nodata, before.nodata]).all()


def test_targets_that_are_there(store, tmp_path):
    folder = tmp_path / "mine.zarr"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ConfigError, match="never deleted"):
            export(store, folder, overwrite=overwrite)
    assert (folder / "thesis.txt").read_text() == "years of work"
    target = export(store, tmp_path / "a.zarr", variables=["cube"])
    assert "mask" not in zarr.open_group(target, mode="r")
    with pytest.raises(ConfigError, match="overwrite=True"):
        export(store, target)
    export(store, target, overwrite=True)
    assert "mask" in zarr.open_group(target, mode="r")
    for same in (store, store / "inside.nc"):
        with pytest.raises(ConfigError, match="apart from the store"):
            export(store, same, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "mine.zarr", "store.zarr"]


def test_a_failed_export_leaves_what_was_there(store, tmp_path):
    target = export(store, tmp_path / "a.nc", variables=["mask"])
    before = target.read_bytes()
    damaged = next(path for path in (store / "cube").rglob("*") if path.is_file() and "0" in path.name)
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.raises(xwalloc.errors.FormatError):
        export(store, target, overwrite=True)
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nc", "store.zarr"]


def test_errors_say_what_to_do(store, tmp_path):
    with pytest.raises(ConfigError, match=r"Choose with variables"):
        export(store, tmp_path / "a.tif")
    with pytest.raises(ConfigError, match=r"2 or 3 dimensions"):
        export(store, tmp_path / "a.tif", variables=["more/deep/series"])
    with pytest.raises(ConfigError, match=r"Those that are there"):
        export(store, tmp_path / "a.nc", variables=["nothing"])
    with pytest.raises(ConfigError, match=r"ends in .zarr"):
        export(store, tmp_path / "a.png")
    with pytest.raises(ConfigError, match="Check the path"):
        export(tmp_path / "none.zarr", tmp_path / "a.nc")


KILLED = """
import os, signal, sys
from pathlib import Path
from xwalloc.conversion.part import part_of
with part_of(Path(sys.argv[1])) as folder:
    (folder / sys.argv[2]).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="nothing tells whether a process has died")
def test_what_killed_exports_left_is_removed_by_the_next(store, tmp_path):
    def killed(target, name):
        before = set(tmp_path.iterdir())
        done = subprocess.run([sys.executable, "-c", KILLED, str(target), name], timeout=100)
        assert done.returncode == -9
        (left,) = set(tmp_path.iterdir()) - before
        assert (left / name).read_text() == "half"
        return left

    target = tmp_path / "a.nc"
    dead, other = killed(target, "part.nc"), killed(tmp_path / "a.nc-b.nc", "part.nc")
    replaced, elsewhere = killed(target, "before"), killed(tmp_path / "a.nc", "part.nc")
    assert not dead.exists()  # two of the same name: the second removed what the first had left
    (elsewhere / "lock").write_text("another machine")
    unknown = tmp_path / ".a.nc-abcd1234.part"
    unknown.mkdir()
    with part_of(target) as alive:
        export(store, target, variables=["mask"])
        assert all(folder.exists() for folder in (replaced, elsewhere, unknown, other, alive))
        export(store, target, variables=["mask"], overwrite=True)
        assert not replaced.exists()  # what was there before it has a successor now
        assert alive.exists()
    assert {path for path in tmp_path.iterdir() if path.suffix == ".part"} == {elsewhere, unknown, other}
