"""Rasters: values, metadata and coordinates as GDAL has them."""

import contextvars
import functools
import http.server
import logging
import pickle
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
import rasterio
import rioxarray
import xarray as xr
from affine import Affine
from rasterio.control import GroundControlPoint

from xwalloc.conversion.sources.find import find
from xwalloc.conversion.sources.raster import RasterSource
from xwalloc.errors import ConfigError

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
MULTI, HYPER = DATA / "multispectral", DATA / "hyperspectral"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"no data in {DATA}")
# of rioxarray with affine 3, and of reading again what has no place on Earth
pytestmark = [
    pytest.mark.filterwarnings("ignore:Use `@` matmul:PendingDeprecationWarning"),
    pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning"),
]


def whole(source):
    shape = source.template().band_data.shape
    return source.read("band_data", tuple(slice(0, size) for size in shape))


def direct(path):
    with rasterio.open(path) as raster:
        return raster.read()


NORTH_UP = Affine(10, 0, 500, 0, -10, 900)


def write(path, values, *, crs="EPSG:32633", transform=NORTH_UP, change=None, **profile):
    profile = {"driver": "GTiff", "crs": crs, "dtype": values.dtype, **profile}
    if transform is not None:
        profile["transform"] = transform
    count, height, width = values.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", count=count, height=height, width=width, **profile) as raster:
            raster.write(values)
            if change is not None:
                change(raster)
    return str(path)


def values(dtype="int16", shape=(3, 20, 30)):
    return np.random.default_rng(1).integers(0, 1000, shape).astype(dtype)


@needs_data
@pytest.mark.parametrize(
    "path",
    [
        MULTI / "L7_ETMs.tif",
        MULTI / "LE70220491999322EDC01_stack.gtif",
        MULTI / "Unevenly_spaced_time_series_R_terra.tif",
        HYPER / "enmap_potsdam" / "enmap_potsdam_tile_128_0.tif",
        HYPER / "corn-kernel-hyperspectral.raw",
    ],
    ids=lambda path: path.stem,
)
def test_values_are_those_of_rasterio(path):
    expected = direct(path)
    source = RasterSource(path)
    template = source.template()
    assert template.band_data.dtype == expected.dtype
    assert template.band_data.dims == ("band", "y", "x")
    assert template.band_data.shape == expected.shape
    assert not template.band_data.encoding
    np.testing.assert_array_equal(whole(source), expected)
    region = (slice(1, 5), slice(3, 20), slice(7, 11))
    np.testing.assert_array_equal(source.read("band_data", region), expected[region])


@needs_data
def test_packed_hyperspectral_tiff():
    template = RasterSource(HYPER / "enmap_potsdam" / "enmap_potsdam_tile_128_0.tif").template()
    attrs = template.band_data.attrs
    assert attrs["_FillValue"] == -32768
    assert attrs["_FillValue"].dtype == np.float32
    assert (attrs["scale_factor"], attrs["add_offset"]) == (0.0001, 0.0)
    assert attrs["AREA_OR_POINT"] == "Area"
    assert attrs["start_time"] == "2022-07-24T10:45:26"
    assert template.wavelength.attrs == {"units": "nm"}
    assert template.fwhm.attrs == {"units": "nm"}
    np.testing.assert_array_equal(template.wavelength[:2], [418.24, 423.874])
    assert template.fwhm[0] == 6.99561
    assert set(template.bbl.values) == {0, 1}
    assert template.band_name[0] == "band 1 (418.24 Nanometers)"


@needs_data
@pytest.mark.parametrize("suffix", [".hdr", ".raw"])
def test_envi_pair(suffix, caplog):
    source = RasterSource(HYPER / f"corn-kernel-hyperspectral{suffix}")
    with caplog.at_level(logging.WARNING, "xwalloc"):
        template = source.template()
    assert "no coordinate reference system" in caplog.text
    assert template.sizes == {"band": 580, "y": 31, "x": 43}
    assert template.wavelength[0] == 366.551
    assert template.wavelength.attrs == {"units": "nm"}
    assert "spatial_ref" not in template.coords
    assert "x" not in template.coords
    assert source.blocks("band_data") == (580, 1, 43)
    assert source.identity()["header"]["path"].endswith(".hdr")
    assert source.named


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_rioxarray_finds_it_all_again_in_a_store(tmp_path):
    path = write(tmp_path / "a.tif", values(), nodata=-9999)
    template = RasterSource(path).template()
    template.to_zarr(tmp_path / "a.zarr", consolidated=False)
    with (
        rasterio.open(path) as raster,
        xr.open_zarr(tmp_path / "a.zarr", consolidated=False, decode_coords="all") as found,
    ):
        assert found.rio.crs == raster.crs
        assert found.rio.transform(recalc=True) == found.rio.transform() == raster.transform
        assert found.band_data.rio.encoded_nodata == raster.nodata
        left, bottom, right, top = raster.bounds
        assert found.attrs["spatial:bbox"] == [left, bottom, right, top]
        assert found.attrs["proj:code"] == "EPSG:32633"
        assert found.attrs["spatial:transform"] == list(raster.transform)[:6]
        assert found.attrs["spatial:shape"] == [20, 30]
        assert found.attrs["spatial:dimensions"] == ["y", "x"]
        assert [entry["name"] for entry in found.attrs["zarr_conventions"]] == ["proj:", "spatial:"]
        reference = rioxarray.open_rasterio(path)
        np.testing.assert_array_equal(found.x, reference.x)
        np.testing.assert_array_equal(found.y, reference.y)
        assert found.spatial_ref.attrs == reference.spatial_ref.attrs


def test_rotated_grid_has_a_transform_and_no_axes(tmp_path):
    transform = Affine(10, 3, 500, 2, -10, 900)
    template = RasterSource(write(tmp_path / "a.tif", values(), transform=transform)).template()
    assert set(template.coords) == {"band", "spatial_ref"}
    assert template.rio.transform() == transform
    assert template.attrs["spatial:transform"] == [10, 3, 500, 2, -10, 900]
    assert template.attrs["spatial:bbox"] == [500.0, 700.0, 860.0, 960.0]


def test_without_crs_or_with_one_of_no_authority(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "xwalloc"):
        template = RasterSource(write(tmp_path / "a.tif", values(), crs=None)).template()
    assert "no coordinate reference system" in caplog.text
    assert template.rio.crs is None
    assert template.x[0] == 505
    assert [entry["name"] for entry in template.attrs["zarr_conventions"]] == ["spatial:"]
    odd = "+proj=laea +lat_0=12.5 +lon_0=7.25 +x_0=1 +y_0=2 +ellps=GRS80 +units=m"
    template = RasterSource(write(tmp_path / "b.tif", values(), crs=odd)).template()
    assert "proj:code" not in template.attrs
    assert template.attrs["proj:wkt2"].startswith("PROJCRS[")


def test_ground_control_points_are_kept(tmp_path):
    points = [GroundControlPoint(row, col, 10 + col, 50 - row) for row, col in ((0, 0), (0, 30), (20, 0), (20, 30))]
    path = write(
        tmp_path / "a.tif",
        values(),
        crs=None,
        transform=None,
        change=lambda r: setattr(r, "gcps", (points, "EPSG:4326")),
    )
    template = RasterSource(path).template()
    assert len(template.rio.get_gcps()) == 4
    assert "x" not in template.coords


def test_what_differs_from_band_to_band_is_a_coordinate(tmp_path):
    def change(raster):
        raster.scales, raster.offsets, raster.units = (0.1, 0.2, 0.3), (0, 1, 2), ("K", "K", "%")
        for band, (center, name) in enumerate([("0.49", "blue"), ("0.56", "green"), ("0.66", "red")], 1):
            raster.set_band_description(band, name)
            raster.update_tags(band, gain=str(band / 2), sensor="A", STATISTICS_MEAN="5", note=f"n{band}")
            raster.update_tags(band, ns="IMAGERY", CENTRAL_WAVELENGTH_UM=center, FWHM_UM="0.07")

    template = RasterSource(write(tmp_path / "a.tif", values(), change=change)).template()
    assert not {"scale_factor", "add_offset", "units", "STATISTICS_MEAN"} & set(template.band_data.attrs)
    np.testing.assert_array_equal(template.band_scale, [0.1, 0.2, 0.3])
    np.testing.assert_array_equal(template.band_offset, [0, 1, 2])
    assert list(template.band_units.values) == ["K", "K", "%"]
    assert list(template.band_name.values) == ["blue", "green", "red"]
    np.testing.assert_array_equal(template.gain, [0.5, 1, 1.5])
    assert list(template.note.values) == ["n1", "n2", "n3"]
    assert template.band_data.attrs["sensor"] == "A"
    np.testing.assert_array_equal(template.wavelength, [0.49, 0.56, 0.66])
    assert template.wavelength.attrs == template.fwhm.attrs == {"units": "um"}
    assert "STATISTICS_MEAN" not in template.coords


def test_header_of_envi(tmp_path):
    cube = values("int16", (4, 5, 6))
    (tmp_path / "cube.IMG").write_bytes(cube.transpose(1, 2, 0).tobytes())
    (tmp_path / "cube.hdr").write_text(
        "ENVI\nsamples = 6\nlines = 5\nbands = 4\nheader offset = 0\nfile type = ENVI Standard\ndata type = 2\n"
        "interleave = bip\nbyte order = 0\nsensor type = HySpex\ndata ignore value = -1\n"
        "reflectance scale factor = 5000\n"
        "wavelength units = Micrometers\nwavelength = {0.4, 0.5, 0.6, 0.7}\nfwhm = {0.01, 0.02, 0.03, 0.04}\n"
        "bbl = {1, 1, 0, 1}\nband names = {a, b, c, d}\n"
    )
    source = RasterSource(tmp_path / "cube.hdr")
    template = source.template()
    np.testing.assert_array_equal(whole(source), cube)
    assert template.band_data.attrs["_FillValue"] == -1
    assert template.band_data.attrs["scale_factor"] == 1 / 5000
    assert template.band_data.attrs["sensor_type"] == "HySpex"
    np.testing.assert_array_equal(template.wavelength, [0.4, 0.5, 0.6, 0.7])
    np.testing.assert_array_equal(template.fwhm, [0.01, 0.02, 0.03, 0.04])
    assert template.fwhm.attrs == {"units": "um"}
    np.testing.assert_array_equal(template.bbl, [1, 1, 0, 1])
    assert list(template.band_name.values) == ["a", "b", "c", "d"]
    assert source.blocks("band_data") == (4, 1, 6)
    (tmp_path / "cube.IMG").unlink()
    with pytest.raises(ConfigError, match=r"data of .*cube.hdr beside it"):
        RasterSource(tmp_path / "cube.hdr").template()


def test_nodata_that_no_value_can_have_is_left_out(tmp_path):
    vrt = tmp_path / "a.vrt"
    write(tmp_path / "a.tif", values("uint8"))
    vrt.write_text(
        '<VRTDataset rasterXSize="30" rasterYSize="20"><VRTRasterBand dataType="Byte" band="1">'
        "<NoDataValue>-9999</NoDataValue><SimpleSource><SourceFilename relativeToVRT='1'>a.tif</SourceFilename>"
        "<SourceBand>2</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    source = RasterSource(vrt)
    assert "_FillValue" not in source.template().band_data.attrs
    np.testing.assert_array_equal(whole(source), direct(tmp_path / "a.tif")[1:2])


def test_mask_instead_of_nodata_is_told(tmp_path, caplog):
    def change(raster):
        raster.write_mask(np.ones((20, 30), bool))

    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        path = write(tmp_path / "a.tif", values(), change=change)
    with caplog.at_level(logging.WARNING, "xwalloc"):
        RasterSource(path).template()
    assert "has a mask" in caplog.text


@pytest.mark.parametrize(("interleave", "expected"), [("pixel", (3, 16, 16)), ("band", (1, 16, 16))])
def test_blocks(tmp_path, interleave, expected):
    path = write(tmp_path / "a.tif", values(), tiled=True, blockxsize=16, blockysize=16, interleave=interleave)
    assert RasterSource(path).blocks("band_data") == expected


def test_pickles_small_and_reads_from_many_threads(tmp_path):
    path = write(tmp_path / "a.tif", values(), compress="deflate", tiled=True, blockxsize=16, blockysize=16)
    source = RasterSource(path)
    expected = whole(source)
    text = pickle.dumps(source)
    assert len(text) < 300
    copy = pickle.loads(text)
    regions = [
        (slice(b, b + 1), slice(r, r + 7), slice(c, c + 9)) for b in range(3) for r in (0, 5, 13) for c in (0, 11)
    ]
    with ThreadPoolExecutor(8) as pool:
        for region, found in zip(regions * 8, pool.map(lambda r: copy.read("band_data", r), regions * 8), strict=True):
            np.testing.assert_array_equal(found, expected[region])


def test_a_file_that_was_written_again_is_opened_again(tmp_path):
    source = RasterSource(write(tmp_path / "a.tif", values()))
    before, identity = whole(source), source.identity()
    write(tmp_path / "a.tif", values() + 1)
    np.testing.assert_array_equal(whole(source), before + 1)
    assert source.identity() != identity


def test_memory_file_system(tmp_path):
    files = fsspec.filesystem("memory")
    expected = values()
    files.pipe_file("/rasters/a.tif", Path(write(tmp_path / "a.tif", expected)).read_bytes())
    source = RasterSource("memory://rasters/a.tif")
    region = (slice(0, 3), slice(0, 20), slice(0, 30))
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: source.read("band_data", region), range(16)):
            np.testing.assert_array_equal(found, expected)
    assert source.template().rio.crs == "EPSG:32633"
    assert source.identity()["size"] == files.size("/rasters/a.tif")


def test_each_task_in_a_context_of_its_own(tmp_path):
    files = fsspec.filesystem("memory")
    for index in range(20):
        files.pipe_file(f"/contexts/{index}.tif", Path(write(tmp_path / "a.tif", values() + index)).read_bytes())
    region = (slice(0, 1), slice(0, 2), slice(0, 2))
    for index in range(20):
        source = RasterSource(f"memory://contexts/{index}.tif")
        for _ in range(2):
            found = contextvars.copy_context().run(source.read, "band_data", region)
            np.testing.assert_array_equal(found, values()[region] + index)


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """Files, also in parts, as object stores give them."""

    def do_GET(self):
        wanted = self.headers.get("Range")
        if wanted is None:
            return super().do_GET()
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        body = path.read_bytes()
        start, _, end = wanted.removeprefix("bytes=").partition("-")
        part = body[int(start) : int(end or len(body)) + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{int(start) + len(part) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        return self.wfile.write(part)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """URL of what lies in `tmp_path`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Ranges, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_http(tmp_path, server):
    expected = values()
    write(tmp_path / "a.tif", expected)
    (granule,) = find([f"{server}/a.tif"]).granules
    np.testing.assert_array_equal(whole(granule.source), expected)
    assert granule.source.identity()["size"] == (tmp_path / "a.tif").stat().st_size


def test_http_of_other_kinds(tmp_path, server):
    dataset = xr.Dataset({"v": (("y", "x"), np.arange(12.0).reshape(3, 4))})
    dataset.to_netcdf(tmp_path / "a.nc", engine="netcdf4")
    dataset.to_zarr(tmp_path / "b.zarr", zarr_format=2, consolidated=True)
    found = find([f"{server}/a.nc", f"{server}/b.zarr", f"{server}/none.nc"])
    assert [granule.path for granule in found.granules] == ["a", "b"]
    for granule in found.granules:
        np.testing.assert_array_equal(granule.source.read("v", (slice(1, 3), slice(0, 2))), dataset["v"][1:3, :2])
    assert found.unreadable == [(f"{server}/none.nc", "There is no such file or folder.")]


def test_what_cannot_be_read_says_so(tmp_path):
    broken = tmp_path / "broken.tif"
    broken.write_bytes(b"II*\0" + b"\1" * 50)
    with pytest.raises(ConfigError, match=r"broken.tif cannot be read"):
        RasterSource(broken).template()
    with pytest.raises(OSError, match="none"):
        RasterSource(tmp_path / "none.tif").read("band_data", (slice(0, 1),) * 3)


def test_sub_datasets_are_named(tmp_path):
    xr.Dataset({name: (("y", "x"), np.zeros((3, 4))) for name in "ab"}).to_netcdf(tmp_path / "a.nc", engine="netcdf4")
    with rasterio.open(tmp_path / "a.nc") as raster:
        inside = raster.subdatasets
    with pytest.raises(ConfigError, match=r"sub-datasets: .*:a, .*:b"):
        RasterSource(tmp_path / "a.nc").template()
    assert RasterSource(inside[1]).template().band_data.shape == (1, 3, 4)
