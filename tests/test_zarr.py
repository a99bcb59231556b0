import asyncio
import json
import pickle
import threading

import numpy as np
import pytest
import zarr

from xwalloc import numcodecs as v2
from xwalloc import zarr as v3
from xwalloc.errors import ConfigError, FormatError

CONFIG = {"channel_axis": 0, "signal_axes": [1, 2], "max_error": 0.25}


@pytest.fixture
def cube():
    rng = np.random.default_rng(2)
    return rng.normal(size=(4, 40, 36)).cumsum(1).cumsum(2).astype("f4")


def create(store, data, *, zarr_format=3, codec_config=CONFIG, dtype=None, **arguments):
    codec = (
        {"compressors": v2.Walloc(**codec_config)}
        if zarr_format == 2
        else {"serializer": v3.Walloc(**codec_config), "compressors": ()}
    )
    array = zarr.create_array(
        store, shape=data.shape, dtype=dtype or data.dtype, zarr_format=zarr_format, **codec, **arguments
    )
    array[...] = data
    return array


def frames(store):
    return {
        key: value.to_bytes()
        for key, value in store._store_dict.items()
        if not key.split("/")[-1].startswith((".z", "zarr"))
    }


def test_metadata_round_trips(cube):
    store = zarr.storage.MemoryStore()
    create(store, cube, chunks=(4, 20, 20))
    codecs = json.loads(store._store_dict["zarr.json"].to_bytes())["codecs"]
    assert codecs == [{"name": "xwalloc", "configuration": CONFIG}]
    codec = v3.Walloc.from_dict(codecs[0])
    assert codec == v3.Walloc(**CONFIG)
    assert hash(codec) == hash(v3.Walloc(**CONFIG))
    assert codec.to_dict() == codecs[0]
    assert pickle.loads(pickle.dumps(codec)) == codec
    assert len(pickle.dumps(codec)) < 1000
    assert eval(repr(codec), {"Walloc": v3.Walloc}) == codec
    with pytest.raises(ConfigError):
        v3.Walloc.from_dict({"name": "other"})


@pytest.mark.parametrize("kind", ["v2", "v3", "sharded"])
@pytest.mark.parametrize("chunks", [(4, 40, 36), (4, 16, 16), (2, 23, 7)])
def test_round_trip_with_edge_chunks(cube, kind, chunks):
    store = zarr.storage.MemoryStore()
    extra = {"shards": tuple(2 * n for n in chunks)} if kind == "sharded" else {}
    create(store, cube, zarr_format=2 if kind == "v2" else 3, chunks=chunks, fill_value=np.nan, **extra)
    array = zarr.open_array(store, mode="r")
    assert np.abs(array[...].astype("f8") - cube).max() <= 0.25
    assert np.abs(array[1, 3:30, 5:].astype("f8") - cube[1, 3:30, 5:]).max() <= 0.25


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<i2", ">i2"])
def test_frames_are_equal_in_v2_v3_and_shards(cube, dtype):
    data = (cube * 10).astype(dtype)
    stores = {name: zarr.storage.MemoryStore() for name in ("v2", "v3", "sharded")}
    create(stores["v2"], data, zarr_format=2, chunks=(4, 20, 12), fill_value=0)
    create(stores["v3"], data, chunks=(4, 20, 12), fill_value=0)
    create(stores["sharded"], data, chunks=(4, 20, 12), shards=(4, 40, 36), fill_value=0)
    old = frames(stores["v2"])
    new = frames(stores["v3"])
    (shard,) = frames(stores["sharded"]).values()
    assert len(old) == len(new) == 6
    for key, frame in old.items():
        assert new["c/" + key.replace(".", "/")] == frame
        assert frame in shard
        y, x = (int(i) for i in key.split(".")[1:])
        chunk = data[:, 20 * y : 20 * y + 20, 12 * x : 12 * x + 12]
        assert v2.Walloc(**CONFIG).encode(chunk) == frame


def test_big_endian_arrays_read_as_zarr_has_them(cube):
    store = zarr.storage.MemoryStore()
    array = create(store, cube, dtype=">f4", chunks=(4, 20, 20))
    assert array[...].dtype == np.dtype(">f4")
    again = zarr.open_array(store, mode="r+")
    assert again.dtype == np.dtype("f4")  # data types of Zarr v3 have no byte order
    assert np.abs(again[...] - cube).max() <= 0.25
    again[:, :20, :20] = 1
    assert np.abs(again[:, :20, :20] - 1).max() <= 0.25
    assert np.abs(array[:, :20, :20] - 1).max() <= 0.25


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_order_f(cube, zarr_format):
    store = zarr.storage.MemoryStore()
    extra = {"order": "F"} if zarr_format == 2 else {"config": {"order": "F"}}
    create(store, cube, zarr_format=zarr_format, chunks=(4, 20, 18), **extra)
    assert np.abs(zarr.open_array(store)[...] - cube).max() <= 0.25


@pytest.mark.parametrize("shards", [None, (4, 40, 36)])
@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"channel_axis": 3, "signal_axes": [1, 2], "max_error": 1}, "f4"),
        ({"signal_axes": [1, 5], "max_error": 1}, "f4"),
        ({"signal_axes": [1, 2], "max_error": 1}, "i8"),
        ({"signal_axes": [1, 2], "max_error": 1}, "M8[s]"),
        ({"signal_axes": [1, 2], "max_error": 1, "nodata": -1}, "u1"),
    ],
)
def test_wrong_arrays_are_refused_when_they_are_created(shards, config, dtype):
    with pytest.raises(ConfigError):
        zarr.create_array(
            zarr.storage.MemoryStore(),
            shape=(4, 40, 36),
            chunks=(4, 20, 18),
            shards=shards,
            dtype=dtype,
            serializer=v3.Walloc(**config),
            compressors=(),
        )


def test_wrong_metadata_is_refused_when_it_is_opened(cube):
    store = zarr.storage.MemoryStore()
    create(store, cube, chunks=(4, 20, 20))
    metadata = json.loads(store._store_dict["zarr.json"].to_bytes())
    metadata["codecs"][0]["configuration"]["max_errr"] = 1
    store._store_dict["zarr.json"] = zarr.core.buffer.cpu.Buffer.from_bytes(json.dumps(metadata).encode())
    with pytest.raises(ConfigError, match="max_error"):
        zarr.open_array(store)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("damage", [lambda f: f[:-1], lambda f: f + b"\0", lambda f: b"x" * len(f), lambda f: b"\0"])
def test_damaged_chunks_raise_format_errors(cube, zarr_format, damage):
    store = zarr.storage.MemoryStore()
    create(store, cube, zarr_format=zarr_format, chunks=(4, 40, 36))
    ((key, frame),) = frames(store).items()
    store._store_dict[key] = zarr.core.buffer.cpu.Buffer.from_bytes(damage(frame))
    with pytest.raises(FormatError):
        zarr.open_array(store)[...]


@pytest.mark.parametrize(
    "other", [np.zeros((4, 36, 40), "f4"), np.zeros((4, 400, 360), "f4"), np.zeros((4, 40, 36), "i4")]
)
def test_a_chunk_of_another_array_is_refused(cube, other):
    store = zarr.storage.MemoryStore()
    create(store, cube, chunks=(4, 40, 36))
    (key,) = frames(store)
    store._store_dict[key] = zarr.core.buffer.cpu.Buffer.from_bytes(v2.Walloc(**CONFIG).encode(other))
    with pytest.raises(FormatError):
        zarr.open_array(store)[...]


def test_nothing_is_computed_on_the_event_loop(cube, monkeypatch):
    seen = []
    for name in ("_encode", "_decode"):
        method = getattr(v3.Walloc, name)

        def spy(self, *args, method=method):
            seen.append(threading.current_thread().name)
            with pytest.raises(RuntimeError):
                asyncio.get_running_loop()
            return method(self, *args)

        monkeypatch.setattr(v3.Walloc, name, spy)
    store = zarr.storage.MemoryStore()
    create(store, cube, chunks=(4, 20, 18))
    zarr.open_array(store)[...]
    assert len(seen) == 8
    assert all(name.startswith("xwalloc") for name in seen)


def test_missing_chunks_are_fill_values(cube):
    store = zarr.storage.MemoryStore()
    array = zarr.create_array(
        store,
        shape=(4, 40, 36),
        chunks=(4, 20, 18),
        dtype="f4",
        fill_value=-7,
        serializer=v3.Walloc(**CONFIG),
        compressors=(),
    )
    array[:, :20, :18] = cube[:, :20, :18]
    values = array[...]
    assert (values[:, 20:] == -7).all()
    assert np.abs(values[:, :20, :18] - cube[:, :20, :18]).max() <= 0.25


def test_encoded_size_is_unknown(cube):
    with pytest.raises(NotImplementedError):
        v3.Walloc(**CONFIG).compute_encoded_size(1, None)


@pytest.mark.parametrize("shards", [None, (4, 40, 36)])
def test_selections_of_every_kind(cube, shards):
    array = create(zarr.storage.MemoryStore(), cube, chunks=(4, 20, 18), shards=shards)
    whole = array[...]
    rng = np.random.default_rng(0)
    mask = rng.random(cube.shape) < 0.05
    rows, columns = np.array([3, 25, 4, 39]), np.array([35, 0, 17])
    for selection in (2, (3, 5), (1, 2, 3), np.s_[:, 7:9], np.s_[1:3, ::7, 4], np.s_[..., -1], np.s_[0:0], np.s_[-1:]):
        np.testing.assert_array_equal(array[selection], whole[selection])
    np.testing.assert_array_equal(array.oindex[[0, 3], rows, 5:7], whole[np.ix_([0, 3], rows, [5, 6])])
    np.testing.assert_array_equal(array.oindex[1, rows, columns], whole[1][np.ix_(rows, columns)])
    np.testing.assert_array_equal(array.vindex[[0, 1, 3], rows[:3], columns], whole[[0, 1, 3], rows[:3], columns])
    np.testing.assert_array_equal(array.vindex[mask], whole[mask])


@pytest.mark.parametrize(
    ("selection", "region", "rest"),
    [
        (np.s_[2:5, 3], np.s_[2:5, 3:4], np.s_[0:3:1, 0]),
        (np.s_[1:8:3, :], np.s_[1:8, 0:9], np.s_[0:7:3, 0:9:1]),
        (np.s_[4:4, 1], np.s_[0:0, 1:2], np.s_[0:0, 0]),
    ],
)
def test_region_of_a_selection(selection, region, rest):
    assert v3.region_of(selection, (8, 9)) == (region, rest)


@pytest.mark.parametrize("selection", [(), np.s_[...], np.s_[1:3], np.s_[::-1, 1], (np.ones(8, bool), 1)])
def test_other_selections_have_the_whole_chunk(selection):
    region, rest = v3.region_of(selection, (8, 9))
    assert region == (slice(0, 8), slice(0, 9))
    assert rest is selection
