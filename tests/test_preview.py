"""Coarse images of stores."""

import numpy as np
import pytest
import xarray as xr

import xwalloc
from xwalloc.codec import decode as decoding
from xwalloc.errors import ConfigError


def scene(shape=(5, 80, 100)):
    rng = np.random.default_rng(0)
    grids = np.meshgrid(*(np.arange(n) / 90 for n in shape), indexing="ij")
    total = sum(np.sin((2 + a) * g + a) for a, g in enumerate(grids)) * 200 + 1500
    data = total + rng.normal(size=shape)
    dims = ("band", "z", "y", "x") if len(shape) == 4 else ("band", "y", "x")
    coords = {"x": 10.0 * np.arange(shape[-1]), "band": np.arange(shape[0])}
    return xr.DataArray(data.astype("f4"), dims=dims, coords=coords, name="r", attrs={"units": "1"})


def store(tmp_path, data, **arguments):
    path = tmp_path / "s.zarr"
    arguments = {"channel_dim": "band", "consolidated": False, **arguments}
    data.to_dataset().walloc.to_zarr(path, **arguments)
    return path


def means(data, cell):
    """What lies around every so manieth sample, about: the data are smooth."""
    return data.isel({d: slice(None, None, cell) for d in data.dims if d != "band"})


@pytest.mark.parametrize("level", [1, 2, 3])
@pytest.mark.parametrize("chunks", [{}, {"y": 32, "x": 32}])
@pytest.mark.parametrize("shape", [(5, 80, 100), (2, 24, 40, 36)])
def test_a_preview_is_near_the_means(tmp_path, monkeypatch, level, chunks, shape):
    data = scene(shape)
    path = store(tmp_path, data, model=xwalloc.fit(data, channel_dim="band", snr=35), chunks=chunks)
    monkeypatch.setattr(decoding, "_decode", None)  # no chunk is decoded
    found = xwalloc.open_preview(path, "r", level)
    wanted = means(data, 1 << level)
    assert found.dims == data.dims
    assert found.shape == wanted.shape
    assert found.attrs == {"units": "1"}
    error = np.abs(found.values - wanted.values)
    assert np.sqrt((error**2).mean()) < 0.25 * float(data.std())  # at the borders of chunks signals are mirrored
    away = (slice(None), *(slice(1, -1) for _ in data.dims[1:]))
    assert np.sqrt((error[away] ** 2).mean()) < 0.06 * float(data.std())
    np.testing.assert_allclose(found.x.values, wanted.x.values)


def test_models_bounds_by_band_and_packets(tmp_path):
    data = scene()
    bounds = {"max_error": {0: 1.0, 1: 20.0, 2: 9.0, 3: 4.0, 4: 8.0}}
    for options in (bounds, {"snr": 40}, {"snr": 40, "tree": "packet", "levels": 2}):
        model = xwalloc.fit(data, channel_dim="band", **options)
        path = store(tmp_path, data, model=model, chunks={"y": 40, "x": 48}, mode="w")
        found = xwalloc.open_preview(path, "r", 2)
        error = np.abs(found.values - means(data, 4).values)
        assert np.sqrt((error**2).mean()) < 0.06 * float(data.std())


def test_chunks_in_lattice_mode_are_averaged(tmp_path):
    data = scene()
    path = store(tmp_path, data, lossless=True)
    found = xwalloc.open_preview(path, "r", 2)
    assert np.abs(found.values - means(data, 4).values).max() < 0.1 * float(data.std())
    np.testing.assert_allclose(found[1, 2, 3], data[1, 6:10, 10:14].mean(), rtol=1e-5)


@pytest.mark.parametrize("quality", [{"snr": 35}, {"lossless": True}])
def test_missing_cells_are_missing(tmp_path, quality):
    data = scene().where(lambda d: d.x >= 320)
    path = store(tmp_path, data, chunks={"y": 80, "x": 40}, **quality)
    found = xwalloc.open_preview(path, "r", 2)
    assert np.isnan(found.values).all(axis=(0, 1)).tolist() == [True] * 8 + [False] * 17
    assert not np.isnan(found.values[..., 8:]).any()


def test_packed_variables_come_in_units_of_the_reader(tmp_path):
    data = scene().astype("f8")
    data.encoding = {"dtype": "int16", "scale_factor": 0.1, "add_offset": 100.0, "_FillValue": -9999}
    path = store(tmp_path, data, max_error=3.0)
    found = xwalloc.open_preview(path, "r", 2)
    assert np.abs(found.values - means(data, 4).values).max() < 30


def test_a_preview_reads_what_it_needs(tmp_path):
    path = store(tmp_path, scene(), snr=35, chunks={"y": 32, "x": 32})
    found = xwalloc.open_preview(path, "r", 2)
    whole = found.values
    (path / "r/c/0/0/0").write_bytes(b"damaged")
    again = xwalloc.open_preview(path, "r", 2)
    np.testing.assert_array_equal(again[2, 10:15, 9].values, whole[2, 10:15, 9])


@pytest.mark.parametrize("level", [0, 5, -1, 1.5, "2", None])
def test_impossible_levels_are_refused(tmp_path, level):
    path = store(tmp_path, scene(), snr=35)
    with pytest.raises(ConfigError, match="Expected level"):
        xwalloc.open_preview(path, "r", level)


def test_chunks_that_cells_straddle_are_refused(tmp_path):
    path = store(tmp_path, scene(), snr=35, chunks={"y": 30, "x": 30})
    with pytest.raises(ConfigError, match="lower level"):
        xwalloc.open_preview(path, "r", 2)
