"""Latents to learn from: of arrays, and of stores without decoding them."""

import numpy as np
import pytest
import xarray as xr

import xwalloc
from xwalloc.codec import decode as decoding
from xwalloc.errors import ConfigError, FormatError


def scene(bands=6, height=80, width=96):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0:height, 0:width] / 64
    fields = np.stack([np.sin(6 * x + 2 * y), np.cos(5 * y * x), np.hypot(x - 0.3, y - 0.6)])
    mixed = np.tensordot(rng.normal(size=(bands, 3)), fields, 1) * 300 + rng.normal(size=(bands, height, width))
    return xr.DataArray(
        (mixed + 1000).astype("f4"), dims=("band", "y", "x"), name="r",
        coords={"band": range(bands), "y": 5000.0 - 10 * np.arange(height), "x": 300.0 + 10 * np.arange(width),
                "spatial_ref": ((), 0, {"crs_wkt": "EPSG:32633"})},
    )  # fmt: skip


def store(tmp_path, data, **arguments):
    path = tmp_path / "s.zarr"
    arguments = {"chunks": {"y": 32, "x": 32}, "consolidated": False, **arguments}
    data.to_dataset().walloc.to_zarr(path, **arguments)
    return path


@pytest.fixture(scope="module")
def data():
    return scene()


@pytest.fixture
def undecoded(monkeypatch):
    """No decoder may run."""

    def refuse(*_, **__):
        raise AssertionError("a chunk was decoded")

    monkeypatch.setattr(decoding, "_decode", refuse)


@pytest.mark.parametrize(("tree", "levels"), [("dyadic", 3), ("packet", 2)])
def test_latents_of_a_store_are_those_of_its_chunks(tmp_path, data, tree, levels, undecoded):
    model = xwalloc.fit(data, snr=35, tree=tree, levels=levels)
    path = store(tmp_path, data, model=model)
    found = xwalloc.open_latents(path, "r")
    patch = 1 << levels
    assert found.dims == ("latent", "y_patch", "x_patch")
    assert found.dtype == np.int32
    assert found.attrs["comparable"] == 1
    assert found.attrs["model"] == model.id
    assert found.shape[1:] == (96 // patch, 96 // patch)
    there = model.encode(data.isel(y=slice(32, 64), x=slice(64, 96)))
    n = 32 // patch
    np.testing.assert_array_equal(found[:, n : 2 * n, 2 * n : 3 * n].values, there.values)
    centres = data.y.values[:patch].mean(), data.x.values[:patch].mean()
    assert (float(found.y_patch[0]), float(found.x_patch[0])) == centres
    assert "spatial_ref" in found.coords
    steps = np.diff(found.y_patch)
    np.testing.assert_allclose(steps, -10.0 * patch)


def test_selections_read_what_they_need(tmp_path, data, monkeypatch):
    path = store(tmp_path, data, model=xwalloc.fit(data, snr=35))
    found = xwalloc.open_latents(path, "r")
    whole = found.values
    read = []
    from xwalloc import latents

    original = latents.LatentArray.block
    monkeypatch.setattr(latents.LatentArray, "block", lambda self, place: read.append(place) or original(self, place))
    fresh = xwalloc.open_latents(path, "r")
    np.testing.assert_array_equal(fresh[5:50:3, 3, 1:5].values, whole[5:50:3, 3, 1:5])
    assert sorted(read) == [(0, 1, 0), (0, 1, 1), (0, 1, 2)]
    np.testing.assert_array_equal(fresh.isel(latent=[3, 1, 8]).values, whole[[3, 1, 8]])
    lazy = fresh.chunk(fresh.encoding["preferred_chunks"])
    np.testing.assert_array_equal(lazy.values, whole)


def test_dequantised_latents_decode_to_the_samples(tmp_path, data):
    model = xwalloc.fit(data, snr=40)
    path = store(tmp_path, data, model=model, chunks={"y": 80, "x": 96})
    values = xr.open_zarr(path, consolidated=False).r.values
    latents = xwalloc.open_latents(path, "r", dequantised=True)
    assert latents.dtype == np.float32
    step = model.target["step"]
    again = xwalloc.decode_latents(latents / step, model, (80, 96))
    assert np.abs(again.values - values).max() < 0.05 * step


def test_a_number_of_latents_is_a_small_array(tmp_path, data):
    path = store(tmp_path, data, model=xwalloc.fit(data, latents=8, tree="packet", levels=2))
    found = xwalloc.open_latents(path, "r")
    assert found.shape == (8, 24, 24)
    assert found.component.shape == found.level.shape == found.orientation.shape == (8,)


@pytest.mark.parametrize("arguments", [{"zarr_format": 2}, {"shards": {"y": 64, "x": 64}}])
def test_every_store_of_ours_has_latents(tmp_path, data, arguments):
    path = store(tmp_path, data, snr=30, **arguments)
    found = xwalloc.open_latents(path, "r")
    assert found.attrs["comparable"] == 0
    assert found.attrs["model"] == "self-fitted"
    assert found.values.any()


def test_missing_data_have_latents_of_zeros(tmp_path, data):
    holed = data.where(data.x >= 700)
    path = store(tmp_path, holed, model=xwalloc.fit(holed, snr=30))
    found = xwalloc.open_latents(path, "r")
    assert not found[:, :, 0].values.any()
    assert found.values.any()


def test_chunks_without_latents_say_so(tmp_path, data):
    path = store(tmp_path, data, max_error=1e-3)
    with pytest.raises(FormatError, match="lattice mode, which has no latents"):
        xwalloc.open_latents(path, "r").load()


def test_wrong_names_are_refused(tmp_path, data):
    path = store(tmp_path, data, snr=30)
    for name in ("q", "x"):
        with pytest.raises(ConfigError, match="Expected"):
            xwalloc.open_latents(path, name)
    with pytest.raises(ConfigError, match="Expected"):
        xwalloc.open_latents(tmp_path / "nothing", "r")


def test_arrays_come_back_within_the_step(data):
    model = xwalloc.fit(data, snr=40)
    latents = model.encode(data)
    decoded = model.decode(latents, (80, 96))
    assert decoded.dims == data.dims
    error = float(((decoded - data.values) ** 2).mean())
    assert 10 * np.log10(float(data.values.var()) / error) > 39
    plain = model.encode(data.values)
    np.testing.assert_array_equal(plain, latents.values)
    batch = np.stack([data.values, data.values[:, ::-1]])
    assert model.encode(batch).shape == (2, *plain.shape)


def test_tensors_come_back_as_tensors(data):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    model = xwalloc.fit(data, latents=20)
    latents = model.encode(torch.from_numpy(data.values))
    assert isinstance(latents, torch.Tensor)
    np.testing.assert_array_equal(latents.numpy(), model.encode(data.values))
    assert model.decode(latents.double()).shape == (6, 80, 96)


def test_wrong_arrays_are_refused(data):
    model = xwalloc.fit(data, snr=30)
    for wrong in (np.zeros((5, 32, 32)), np.zeros((32, 32)), np.full((6, 32, 32), np.nan), data.rename(y="z")):
        with pytest.raises(ConfigError, match="Expected"):
            model.encode(wrong)
    for wrong in (np.zeros((5, 2, 2)), np.zeros(3), xr.DataArray(np.zeros((2, 2)), dims=("a", "b"))):
        with pytest.raises(ConfigError, match="Expected"):
            model.decode(wrong)


def test_patches_of_short_axes_are_as_short():
    rng = np.random.default_rng(0)
    da = xr.DataArray(rng.normal(size=(3, 40, 64)).cumsum(1).cumsum(2), dims=("band", "y", "x"), name="r")
    model = xwalloc.fit(da, latents=6, levels=3)
    found = model.encode(da.isel(y=slice(0, 3)))
    assert found.sizes["y_patch"] == 3  # too short to be split
    assert found.attrs["patch"] == [1, 8]
    assert model.encode(da).attrs["patch"] == [8, 8]


@pytest.mark.parametrize("chunks", [{"y": 16, "x": 16}, {"y": 24, "x": 40}, {"y": 70, "x": 64}])
def test_latents_of_a_store_decode_to_what_it_decodes_to(tmp_path, chunks):
    """Chunks were encoded each by itself: borders, and levels that short ones do not have."""
    rng = np.random.default_rng(0)
    mixed = np.tensordot(rng.normal(size=(5, 2)), rng.normal(size=(2, 70, 64)).cumsum(1).cumsum(2), 1)
    da = xr.DataArray(mixed, dims=("band", "y", "x"), name="r")
    model = xwalloc.fit(da, snr=30, levels=4)
    da.to_dataset().walloc.to_zarr(tmp_path / "s.zarr", model=model, chunks=chunks, consolidated=False)
    stored = xr.open_zarr(tmp_path / "s.zarr", consolidated=False).r.values
    latents = xwalloc.open_latents(tmp_path / "s.zarr", "r")
    decoded = xwalloc.decode_latents(latents * 1, model)
    assert decoded.shape == da.shape
    # up to the points within steps to which the codec reconstructs
    assert np.abs(decoded - stored).max() < 3 * model.target["step"]
    if chunks["x"] == 40:
        second = latents.isel(x_patch=latents.x_chunk.values == 1)
        np.testing.assert_array_equal(model.decode(second), decoded[:, :, 40:])
        with pytest.raises(ConfigError, match="whole chunks"):
            model.decode(latents.isel(x_patch=slice(1, None)))


def test_latents_keep_the_extent_and_the_dimensions():
    rng = np.random.default_rng(0)
    da = xr.DataArray(rng.normal(size=1003).cumsum(), dims="time")
    model = xwalloc.fit(da, snr=30)
    latents = model.encode(da)
    assert model.decode(latents).dims == ("time",)
    assert model.decode(latents).shape == (1003,)
    assert model.decode(latents[:, :4]).shape == (64,)
    torch = pytest.importorskip("torch", reason="torch is not installed")
    assert model.encode(torch.from_numpy(da.values).bfloat16()).shape == latents.shape
    for wrong in (latents.astype("f4") * np.nan, latents.to_dataset(name="a")):
        with pytest.raises(ConfigError, match="Expected"):
            (model.encode if isinstance(wrong, xr.Dataset) else model.decode)(wrong)
    with pytest.raises(ConfigError, match="Expected a path"):
        xwalloc.open_latents(latents, "a")
