"""Models of whole arrays: fitting, where they live, what frames say of them."""

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from numcodecs import get_codec

import xwalloc
from xwalloc.bitstream.frame import DecodeLimits, Frame, Section
from xwalloc.cli import main
from xwalloc.codec import examine, transform_mode, transform_sections
from xwalloc.errors import ConfigError, FormatError, ModelError
from xwalloc.models import library
from xwalloc.models.model import Model, ModelReference
from xwalloc.numcodecs import Walloc

BANDS, SIDE = 12, 96


def scene(seed=0, bands=BANDS, side=SIDE):
    """Smooth fields mixed into bands, with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    fields = np.stack([np.sin(9 * x + 4 * y), np.cos(7 * y * x), np.hypot(x - 0.3, y - 0.6)])
    mixed = np.tensordot(rng.normal(size=(bands, 3)), fields, 1) * 400 + rng.normal(size=(bands, side, side)) * 4
    return xr.DataArray((mixed + 2000).astype("f4"), dims=("band", "y", "x"), coords={"band": range(bands)}, name="r")


@pytest.fixture(scope="module")
def data():
    return scene()


@pytest.fixture(scope="module")
def model(data):
    return xwalloc.fit(data.chunk({"y": 32, "x": 32}), max_error=8.0)


@pytest.fixture
def forgetful(monkeypatch):
    """A process that remembers no model."""
    monkeypatch.setattr(library, "_known", type(library._known)())


def codec(**configuration):
    return Walloc(channel_axis=0, signal_axes=[1, 2], **configuration)


def written(tmp_path, data, **arguments):
    path = tmp_path / "store.zarr"
    arguments = {"chunks": {"y": 32, "x": 32}, "consolidated": False, **arguments}
    data.to_dataset().walloc.to_zarr(path, **arguments)
    return path, xr.open_zarr(path, consolidated=False)[data.name].values


def test_a_store_with_a_model_keeps_the_bound_and_opens_elsewhere(tmp_path, data, model):
    path, values = written(tmp_path, data, model=model)
    assert np.abs(values - data.values).max() <= 8.0
    script = (
        "import xarray as xr, sys; d = xr.open_zarr(sys.argv[1], consolidated=False); "
        "assert not {'torch', 'safetensors'} & set(sys.modules), 'opening is light'; print(float(d.r[3, 40, 50]))"
    )
    found = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert float(found.stdout) == values[3, 40, 50]


def test_chunks_are_never_larger_than_self_fitted_ones_but_for_the_residue_of_a_model(data, model):
    own, shared = codec(max_error=8.0), codec(max_error=8.0, model=model)
    sizes = []
    for y in range(0, SIDE, 32):
        chunk = data.values[:, y : y + 32, :32]
        frame = shared.encode(chunk)
        assert np.abs(shared.decode(frame) - chunk).max() <= 8.0
        sizes.append((len(own.encode(chunk)), len(frame)))
    assert all(with_model <= without for without, with_model in sizes)
    assert sum(b for _, b in sizes) < 0.9 * sum(a for a, _ in sizes)


def test_frames_name_their_model(data, model):
    frame = codec(max_error=8.0, model=model).encode(data.values[:, :32, :32])
    assert xwalloc.inspect(frame).model == model.id[: len("sha256:") + 16]
    assert xwalloc.inspect(codec(max_error=8.0).encode(data.values)).model == "self-fitted"


@pytest.mark.usefixtures("forgetful")
def test_a_missing_model_is_named_with_the_remedies(data, model):
    frame = codec(max_error=8.0, model=model).encode(data.values[:, :32, :32])
    library._known.clear()
    with pytest.raises(ModelError, match=f"{model.id[:23]}.*XWALLOC_MODEL_PATH"):
        codec(max_error=8.0).decode(frame)
    with pytest.raises(ModelError, match=model.id):
        codec(max_error=8.0, model={"id": model.id}).decode(frame)
    library._known.clear()
    assert codec(max_error=8.0, model=model).decode(frame).shape == (BANDS, 32, 32)


@pytest.mark.usefixtures("forgetful")
def test_models_are_found_in_the_folders_of_the_path(tmp_path, data, model):
    frame = codec(max_error=8.0, model=model).encode(data.values[:, :32, :32])
    library._known.clear()
    model.save(tmp_path / f"{model.id.removeprefix('sha256:')}.safetensors")
    with xwalloc.settings.set({"model_path": str(tmp_path)}):
        assert codec(max_error=8.0).decode(frame).shape == (BANDS, 32, 32)
    library._known.clear()
    other = xwalloc.fit(scene(1), max_error=8.0)
    library._known.clear()
    other.save(tmp_path / f"{model.id.removeprefix('sha256:')}.safetensors")
    with xwalloc.settings.set({"model_path": str(tmp_path)}), pytest.raises(FormatError, match="was changed"):
        codec(max_error=8.0).decode(frame)


@pytest.mark.usefixtures("forgetful")
def test_other_weights_than_those_of_the_id_are_refused(data, model):
    other = ModelReference.inline(xwalloc.fit(scene(1), max_error=8.0)).weights
    frame = codec(max_error=8.0, model=model).encode(data.values[:, :32, :32])
    library._known.clear()
    with pytest.raises(FormatError, match="Got others"):
        codec(max_error=8.0, model={"id": model.id, "weights": other}).decode(frame)
    for weights in ("", "!", "AAAA"):
        with pytest.raises(FormatError, match=r"damaged|Got others"):
            codec(max_error=8.0, model={"id": model.id, "weights": weights}).decode(frame)


def test_configurations_come_back(data, model):
    given = codec(max_error=8.0, model=model)
    again = get_codec(json.loads(json.dumps(given.get_config())))
    assert again == given
    assert hash(again) == hash(given)
    assert pickle.loads(pickle.dumps(given)) == given
    chunk = data.values[:, :32, :32]
    assert again.encode(chunk) == given.encode(chunk)


@pytest.mark.parametrize("wrong", ["sha256:" + "0" * 64, {"id": "md5:0"}, {"id": "sha256:" + "g" * 64}, {}, 3])
def test_what_is_no_model_is_refused(wrong):
    with pytest.raises(ConfigError, match="Expected model"):
        codec(max_error=1.0, model=wrong)


def test_models_come_back_from_files(tmp_path, model):
    path = tmp_path / "model.safetensors"
    model.save(path)
    again = xwalloc.load_model(path)
    assert again == model
    assert again.id == model.id
    assert pickle.loads(pickle.dumps(model)) == model
    assert "8" in repr(model)
    assert model.id in model._repr_html_()
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ConfigError, match="Check the path"):
        xwalloc.load_model(tmp_path / "other")
    with pytest.raises(ConfigError, match="Make the folder first"):
        model.save(tmp_path / "none" / "m")
    with pytest.raises(ConfigError, match="Got the folder"):
        model.save(tmp_path)
    path.write_bytes(model.data[:-7])
    with pytest.raises(FormatError):
        xwalloc.load_model(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(FormatError):
        xwalloc.load_model(path)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("vectors", lambda a: a[:, :-1]),
        ("vectors", lambda a: a.astype("f4")),
        ("precisions", lambda a: a + 100),
        ("means", lambda a: a * np.nan),
        ("scales", lambda a: a * 0),
        ("codes", lambda a: np.full_like(a, 255)),
        ("kept", lambda a: a[:1]),
        ("tables", lambda a: np.ones((1, 128), "u2")),
        ("table_classes", lambda a: np.full(3, 60000, "u2")),
    ],
)
def test_hostile_models_are_refused(model, name, change):
    arrays = {**model.arrays, name: change(model.arrays[name])}
    with pytest.raises(FormatError):
        _ = Model(description=model.description, arrays=arrays).fitted


@pytest.mark.parametrize(
    ("key", "value"),
    [("channels", 10**9), ("dimensions", 4), ("levels", 99), ("tree", "oak"), ("ratio", -1), ("ratio", "x"),
     ("boundary", None), ("wavelet", "haar")],
)  # fmt: skip
def test_hostile_descriptions_are_refused(model, key, value):
    with pytest.raises(FormatError):
        _ = Model(description={**model.description, key: value}, arrays=model.arrays).fitted


def test_damaged_frames_that_name_a_model_raise_our_errors(data, model):
    frame = codec(max_error=8.0, model=model).encode(data.values[:, :32, :32])
    rng = np.random.default_rng(0)
    for _ in range(60):
        bad = bytearray(frame)
        bad[rng.integers(len(bad))] ^= 1 << int(rng.integers(8))
        with pytest.raises(FormatError):
            codec(max_error=8.0, model=model).decode(bytes(bad))


@pytest.mark.parametrize("rotated", [False, True])
def test_forged_parameters_of_a_named_model_raise_our_errors(data, model, rotated):
    """What a checksum does not see: section MODEL of other numbers."""
    chunk = np.ascontiguousarray(data.values[None, :, None, :32, :32])
    target = transform_mode.Target(integral=False, step=16.0, quantum=0.0)
    grid = model.fitted.grid((1, 32, 32))
    coded = transform_mode.encode(
        chunk, (float(chunk.min()), float(chunk.max())), None, target, grid, "default", np.empty(0, "f4"),
        examine.nothing, model, rotated,
    )  # fmt: skip
    assert coded.sections[Section.MODEL][0] == (transform_sections.ROTATED if rotated else transform_sections.NAMED)
    rng = np.random.default_rng(1)
    whole = tuple(slice(0, n) for n in chunk.shape)
    for _ in range(200):
        sections = {name: bytearray(part) for name, part in coded.sections.items()}
        section = sections[list(sections)[int(rng.integers(len(sections)))]]
        section[int(rng.integers(len(section)))] = int(rng.integers(256))
        forged = {name: bytes(part) for name, part in sections.items()}
        try:
            contents = transform_sections.read(forged, chunk.shape, 2, library.find)
            found = transform_mode.decode(contents, None, np.dtype("f4"), np.empty(0, "f4"), whole)
        except FormatError:
            continue
        assert found.shape == chunk.shape


def kind_of(frame):
    """Kind of the model of a chunk; None where it has none."""
    section = Frame.parse(frame, DecodeLimits(max_bytes=2**30)).sections.get(Section.MODEL)
    return None if section is None else section[0]


@pytest.mark.parametrize("dtype", ["f4", "i2"])
@pytest.mark.parametrize("nodata", [None, -9999])
def test_a_chunk_that_the_basis_does_not_suit_takes_one_within_its_span(dtype, nodata):
    """Fields that the sample has in equal parts, and the chunk in others: its own basis has fewer vectors."""
    rng = np.random.default_rng(5)
    mixing = np.linalg.qr(rng.normal(size=(160, 6)))[0]
    fields = np.cumsum(rng.normal(size=(6, 64, 64)), axis=2) * 40
    sample = 3000 + np.tensordot(mixing, fields, 1) + rng.normal(size=(160, 64, 64))
    model = xwalloc.fit(xr.DataArray(sample.astype(dtype), dims=("band", "y", "x")), max_error=4.0)
    turned = mixing @ rng.normal(size=(6, 2))
    chunk = 3000 + np.tensordot(turned, fields[:2, :32, :32], 1) + rng.normal(size=(160, 32, 32))
    chunk = chunk.astype(dtype)
    if nodata is not None:
        chunk[:, 5:9, 3:20] = nodata
    with_model = codec(max_error=4.0, model=model, nodata=nodata)
    frame, own = with_model.encode(chunk), codec(max_error=4.0, nodata=nodata).encode(chunk)
    assert kind_of(frame) == transform_sections.ROTATED
    assert len(frame) < 0.9 * len(own)
    assert xwalloc.inspect(frame).model == model.id[:23]
    decoded = with_model.decode(frame)
    assert np.abs(decoded.astype("f8") - chunk).max() <= 4.0
    if nodata is not None:
        np.testing.assert_array_equal(decoded == nodata, chunk == nodata)
    with_step = codec(step=4.0, model=model).encode(chunk)
    assert kind_of(with_step) == transform_sections.NAMED


def test_a_chunk_with_a_thing_that_the_sample_lacks_adds_a_vector():
    """One material, in few pixels, whose spectrum lies outside the span of the model."""
    rng = np.random.default_rng(6)
    mixing = np.linalg.qr(rng.normal(size=(120, 5)))[0]
    fields = np.cumsum(rng.normal(size=(5, 64, 96)), axis=2) * 40
    scene = (3000 + np.tensordot(mixing[:, :4], fields[:4], 1) + rng.normal(0, 0.5, size=(120, 64, 96))).astype("f4")
    model = xwalloc.fit(xr.DataArray(scene[:, :, :64], dims=("band", "y", "x")), max_error=4.0)
    chunk = np.ascontiguousarray(scene[:, :32, 64:])
    plain = codec(max_error=4.0, model=model).encode(chunk)
    chunk[:, 10:14, 8:20] += (2000 * mixing[:, 4, None, None]).astype("f4")
    frame = codec(max_error=4.0, model=model).encode(chunk)
    sections = [Frame.parse(f, DecodeLimits(max_bytes=2**30)).sections[Section.MODEL] for f in (plain, frame)]
    assert [section[0] for section in sections] == [transform_sections.NAMED, transform_sections.ROTATED]
    assert sections[1][24] == 1
    assert len(frame) < 0.9 * len(codec(max_error=4.0).encode(chunk))
    assert np.abs(codec(max_error=4.0, model=model).decode(frame).astype("f8") - chunk).max() <= 4.0


@pytest.mark.parametrize("shape", [(2, 2), (1, 3), (16, 1)])
def test_chunks_of_fewer_pixels_than_the_model_has_vectors(shape):
    rng = np.random.default_rng(7)
    noise = xr.DataArray(rng.normal(1000, 50, size=(40, 32, 32)), dims=("band", "y", "x"))
    model = xwalloc.fit(noise, max_error=1.0)
    assert model.fitted.rank > shape[0] * shape[1]
    chunk = np.ascontiguousarray(noise.values[:, : shape[0], : shape[1]])
    frame = codec(max_error=1.0, model=model).encode(chunk)
    assert np.abs(codec(max_error=1.0, model=model).decode(frame) - chunk).max() <= 1.0
    target = transform_mode.Target(integral=False, step=1.9, quantum=0.0)
    canonical = chunk[None, :, None]
    coded = transform_mode.encode(
        canonical, (float(chunk.min()), float(chunk.max())), None, target, model.fitted.grid(canonical.shape[2:]),
        "default", np.empty(0), examine.nothing, model,
    )  # fmt: skip
    whole = tuple(slice(0, n) for n in canonical.shape)
    contents = transform_sections.read(coded.sections, canonical.shape, 2, library.find)
    found = transform_mode.decode(contents, None, np.dtype("f8"), np.empty(0), whole)
    assert np.abs(found - canonical).max() <= 1.0


@pytest.mark.parametrize("target", [{"snr": 30.0}, {"bits": 0.3}, {"ratio": 60.0}])
def test_targets_are_met_over_the_array(tmp_path, data, target):
    model = xwalloc.fit(data, **target)
    assert list(model.target) == ["step"]
    _, values = written(tmp_path, data, model=model, chunks={"y": 96, "x": 96})
    error = values.astype("f8") - data.values
    fit = model.description["fit"]
    if "snr" in target:
        assert 10 * np.log10(data.values.var() / (error**2).mean()) >= 29.5
        assert fit["snr"] >= 30.0
    else:
        wanted = target.get("bits") or 32 / target["ratio"]
        assert 0.7 * wanted < fit["bits_per_sample"] <= wanted


@pytest.mark.parametrize(("tree", "levels", "count"), [("dyadic", 3, 40), ("packet", 2, 10)])
def test_so_many_latents_are_kept(tmp_path, data, tree, levels, count):
    model = xwalloc.fit(data, latents=count, tree=tree, levels=levels)
    sizes = [1] if tree == "packet" else [4 ** (levels - key[0]) for key in _ids(model)]
    assert int((model.fitted.kept * np.array(sizes)).sum()) == count
    _, values = written(tmp_path, data, model=model)
    assert np.corrcoef(values.ravel(), data.values.ravel())[0, 1] > 0.9


def _ids(model):
    from xwalloc.models.fitted import subband_ids

    return list(subband_ids(model.fitted.levels, model.fitted.tree, model.fitted.dimensions))


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "i4"])
def test_every_band_has_its_own_bound(tmp_path, data, dtype):
    data = data.copy(data=np.rint(data.values) if dtype[0] == "i" else data.values).astype(dtype)
    bounds = {band: 2.0 if band % 3 else 16.0 for band in range(BANDS)}
    model = xwalloc.fit(data, max_error=bounds)
    assert model.target == {"max_error": 2.0}
    _, values = written(tmp_path, data, model=model, max_error={"r": 2.0})
    error = np.abs(values.astype("f8") - data.values).max(axis=(1, 2))
    assert (error <= list(bounds.values())).all()
    assert error[0] > 2.0


def test_bands_of_very_different_units(tmp_path, data):
    units = 10.0 ** np.linspace(-6, 6, BANDS)
    other = data.copy(data=data.values.astype("f8") * units[:, None, None])
    bounds = {band: float(8 * unit) for band, unit in enumerate(units)}
    model = xwalloc.fit(other, max_error=bounds)
    _, values = written(tmp_path, other, model=model)
    error = np.abs(values - other.values).max(axis=(1, 2))
    assert (error <= list(bounds.values())).all()
    assert model.description["fit"]["bits_per_sample"] < 3


def test_holes_dead_bands_and_outliers(tmp_path, data):
    values = data.values.copy()
    values[:, 10:40, 5:60] = np.nan
    values[4] = -9999.0
    values[7] = 25.0
    values[2, 3, 3] = 1e30
    other = data.copy(data=values)
    model = xwalloc.fit(other, max_error=8.0, nodata=-9999.0)
    clean = xwalloc.fit(data, max_error=8.0)
    assert model.fitted.rank <= clean.fitted.rank + 2
    assert np.abs(model.fitted.means[[0, 1, 3]] - clean.fitted.means[[0, 1, 3]]).max() < 200
    _, back = written(tmp_path, other, model=model, nodata=-9999.0)
    np.testing.assert_array_equal(np.isnan(back), np.isnan(values))
    np.testing.assert_array_equal(back[4], values[4])
    assert np.nanmax(np.abs(back.astype("f8") - values)) <= 8.0


def test_all_missing_is_refused(data):
    with pytest.raises(ConfigError, match="without any"):
        xwalloc.fit(data.copy(data=np.full(data.shape, np.nan, "f4")), max_error=1.0)


@pytest.mark.parametrize("shape", [(BANDS, 1, 1), (BANDS, 3, 2), (1, 40, 40)])
def test_tiny_samples(tmp_path, shape):
    rng = np.random.default_rng(3)
    data = xr.DataArray(rng.normal(size=shape).astype("f4") * 50, dims=("band", "y", "x"), name="r")
    model = xwalloc.fit(data, max_error=1.0, channel_dim="band")
    _, values = written(tmp_path, data, model=model, chunks={}, channel_dim="band")
    assert np.abs(values - data.values).max() <= 1.0


def test_constant_data(tmp_path, data):
    constant = data.copy(data=np.full(data.shape, 7.0, "f4"))
    model = xwalloc.fit(constant, max_error=0.5)
    _, values = written(tmp_path, constant, model=model)
    assert np.abs(values - 7).max() <= 0.5
    with pytest.raises(ConfigError, match="data that vary"):
        xwalloc.fit(constant, snr=30)


def test_series_and_volumes(tmp_path):
    rng = np.random.default_rng(5)
    series = xr.DataArray(np.cumsum(rng.normal(size=(6000, 4)), axis=0), dims=("time", "channel"), name="r")
    model = xwalloc.fit(series, max_error=0.2, channel_dim="channel", signal_dims="time")
    _, values = written(tmp_path, series, model=model, channel_dim="channel", signal_dims="time", chunks={})
    assert np.abs(values - series.values).max() <= 0.2


def test_only_a_sample_is_read(data):
    reads = []

    def block(block_info=None):
        reads.append(block_info[None]["chunk-location"])
        return data.values[:, :64, :64]

    import dask.array as da

    lazy = da.map_blocks(block, chunks=((BANDS,), (64,) * 30, (64,) * 30), dtype="f4", meta=np.empty((0, 0, 0), "f4"))
    xwalloc.fit(xr.DataArray(lazy, dims=("band", "y", "x"), name="r"), max_error=8.0)
    assert len(set(reads)) == len(reads) == 32


def test_packed_integers_are_fitted_as_they_are_stored(tmp_path, data):
    packed = data.astype("f8")
    packed.encoding = {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -32768}
    model = xwalloc.fit(packed, max_error=8.0)
    assert model.target == {"max_error": 15.5}
    assert model.description["dtype"] == "int16"
    _, values = written(tmp_path, packed, model=model)
    assert np.abs(values - packed.values).max() <= 8.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one of"),
        ({"max_error": 1.0, "snr": 30}, "exactly one of"),
        ({"max_error": -1.0}, "above 0"),
        ({"max_error": {0: 1.0}}, "for every label"),
        ({"max_error": {"zero": 1.0}}, "to name labels"),
        ({"latents": 10**6}, "from 1 to"),
        ({"bits": 1e-6}, "to be possible"),
        ({"max_error": 1.0, "levels": 40}, "levels"),
        ({"max_error": 1.0, "tree": "oak"}, "tree"),
        ({"max_error": 1.0, "channel_dim": "x", "signal_dims": "x"}, "x"),
    ],
)
def test_wrong_requests_are_refused(data, arguments, message):
    with pytest.raises(ConfigError, match=message):
        xwalloc.fit(data, **arguments)


def test_models_for_other_data_are_refused(data, model):
    with pytest.raises(ConfigError, match="12 channels"):
        xwalloc.encoding(scene(bands=5).to_dataset(), model=model, channel_dim="band")
    with pytest.raises(ConfigError, match="12 channels"):
        codec(max_error=1.0, model=model).encode(np.zeros((5, 32, 32), "f4"))
    with pytest.raises(ConfigError, match="return models"):
        xwalloc.encoding(data.to_dataset(), model="model.safetensors")
    with pytest.raises(ConfigError, match="brings its own transform"):
        codec(max_error=1.0, model=model, levels=2)


def test_regions_and_profiles(data, model):
    chunk = data.values[:, :48, :80]
    for profile in ("default", "parallel"):
        ours = codec(max_error=8.0, model=model, profile=profile)
        frame = ours.encode(chunk)
        whole = ours.decode(frame)
        from xwalloc.codec.decode import decode_frame

        part = decode_frame(frame, region=(slice(2, 9), slice(5, 30), slice(60, 80)))
        np.testing.assert_array_equal(part, whole[2:9, 5:30, 60:80])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channel_dim": "bands"}, "Did you mean 'band'"),
        ({"signal_dims": ("yy", "x")}, "signal_dims"),
        ({"latents": 3.5, "max_error": None}, "a number of latents"),
        ({"max_error": {"0": 1.0}}, "Did you mean 0, of type int"),
    ],
)
def test_slips_are_named(options, message):
    da = xr.DataArray(np.zeros((2, 16, 16)), dims=("band", "y", "x"), coords={"band": [0, 1]})
    with pytest.raises(ConfigError, match=message):
        xwalloc.fit(da, **{"max_error": 1.0, **options})


def test_bounds_beyond_all_integers(data):
    model = xwalloc.fit(data.astype("i4"), max_error=2.0**33)
    chunk = data.values[:, :32, :32].astype("i4")
    with_model = codec(max_error=2.0**33, model=model)
    assert with_model.decode(with_model.encode(chunk)).shape == chunk.shape


def test_stores_take_the_nodata_of_their_model(tmp_path):
    rng = np.random.default_rng(0)
    da = xr.DataArray(rng.normal(size=(4, 40, 40)).cumsum(1).astype("f4"), dims=("band", "y", "x"), name="r")
    da[:, 5:20, 7:30] = -9999
    model = xwalloc.fit(da, snr=30, nodata=-9999)
    da.to_dataset().walloc.to_zarr(tmp_path / "s.zarr", model=model, consolidated=False)
    found = xr.open_zarr(tmp_path / "s.zarr", consolidated=False, mask_and_scale=False).r.values
    np.testing.assert_array_equal(found == -9999, da.values == -9999)


@pytest.mark.parametrize("forged", [{"channels": float("inf")}, {"levels": float("inf")}])
def test_endless_numbers_are_refused(model, forged):
    with pytest.raises(FormatError):
        _ = Model(description={**model.description, **forged}, arrays=model.arrays).fitted


@pytest.mark.parametrize(("name", "array"), [("table_classes", np.uint16(3)), ("scales", np.full(60, 1e308))])
def test_impossible_arrays_are_refused(model, name, array):
    with pytest.raises(FormatError):
        _ = Model(description=model.description, arrays={**model.arrays, name: np.asarray(array)}).fitted


@pytest.mark.parametrize(
    "forged",
    [
        {"target": None}, {"target": {"snr": 3}}, {"target": {"step": 0}}, {"target": {"step": 10**400}},
        {"tree": None, "wavelet": {}}, {"fit": {"samples": 3}},
    ],
)  # fmt: skip
def test_forged_descriptions_are_named(model, forged):
    bad = Model(description={**model.description, **forged}, arrays=model.arrays)
    if forged != {"tree": None, "wavelet": {}}:
        with pytest.raises(FormatError, match="damaged"):
            bad.facts()
    assert bad.id in repr(bad)


def test_bounds_of_channels_are_those_of_their_labels(tmp_path):
    rng = np.random.default_rng(0)
    da = xr.DataArray(
        rng.normal(size=(3, 48, 48)).cumsum(1).cumsum(2),
        dims=("band", "y", "x"),
        name="r",
        coords={"band": [3, 4, 8]},
    )
    model = xwalloc.fit(da, max_error={3: 0.5, 4: 5.0, 8: 50.0})
    assert "smallest" in repr(model)
    options = {"model": model, "consolidated": False}
    with pytest.raises(ConfigError, match="in this order"):
        da.isel(band=[2, 1, 0]).to_dataset().walloc.to_zarr(tmp_path / "s.zarr", **options)
    with pytest.raises(ConfigError, match="bound for each channel"):
        da.to_dataset().walloc.to_zarr(tmp_path / "s.zarr", max_error=1.0, **options)
    with pytest.raises(ConfigError, match="bound for each channel"):
        codec(max_error=1.0, model=model).encode(da.values)
    da.to_dataset().walloc.to_zarr(tmp_path / "s.zarr", **options)
    error = abs(xr.open_zarr(tmp_path / "s.zarr", consolidated=False).r - da).max(("y", "x"))
    assert (error <= [0.5, 5.0, 50.0]).all()
    done = CliRunner().invoke(main, ["info", str(tmp_path / "s.zarr")])
    assert "for the channel of the smallest bound" in done.output


def test_integers_need_no_name_beside_the_model_of_their_like(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 40, 40)).cumsum(1).cumsum(2).astype("i2")
    ds = xr.Dataset({"counts": (("band", "y", "x"), values), "scl": (("y", "x"), np.zeros((40, 40), "u1"))})
    model = xwalloc.fit(ds.counts, max_error=2.0)
    ds.walloc.to_zarr(tmp_path / "s.zarr", model=model, consolidated=False)
    found = xr.open_zarr(tmp_path / "s.zarr", consolidated=False)
    assert found.counts.encoding["serializer"].config.max_error == 2.0
    assert "xwalloc" not in str(found.scl.encoding["serializer"]).lower()
    np.testing.assert_array_equal(found.scl, ds.scl)
