"""Models that lie beside the arrays that use them."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
import zarr

import xwalloc
from xwalloc.errors import ConfigError, FormatError, ModelError
from xwalloc.models import library, sidecar
from xwalloc.models import model as model_module
from xwalloc.models.model import ModelReference
from xwalloc.zarr import Walloc

BOUND = 2.0
CHUNKS = {"y": 32, "x": 32}


@pytest.fixture(scope="module")
def scene():
    y, x = np.mgrid[:70, :50] / 20
    fields = np.stack([np.sin(3 * x), np.cos(2 * x * y), y])
    cube = 1000 + 200 * np.tensordot(np.random.default_rng(0).normal(size=(24, 3)), fields, 1)
    return xr.DataArray(cube.astype("f4"), dims=("band", "y", "x"), name="radiance").to_dataset()


@pytest.fixture(scope="module")
def model(scene):
    return xwalloc.fit(scene.radiance, max_error=BOUND)


@pytest.fixture(autouse=True)
def nothing_inline(monkeypatch):
    """Every model is too large to travel in the metadata, and nobody remembers one."""
    monkeypatch.setattr(model_module, "INLINE_LIMIT", 100)
    forget()
    yield
    forget()


def forget():
    library._known.clear()


def stored(path):
    return zarr.open_array(path, mode="r").metadata.to_dict()["codecs"][0]["configuration"]["model"]


def opened(path, **options):
    return xr.open_zarr(path, consolidated=False, **options)


def deviation(a, b):
    return float(abs(a - b).max())


@pytest.mark.parametrize("dask_chunks", [None, {"y": 32, "x": 32}])
@pytest.mark.parametrize("group", [None, "a/b"])
def test_a_large_model_lies_beside_the_array_and_is_found_there(scene, model, tmp_path, group, dask_chunks):
    path = tmp_path / "s.zarr"
    ds = scene if dask_chunks is None else scene.chunk(dask_chunks)
    ds.walloc.to_zarr(path, model=model, chunks=CHUNKS, group=group, consolidated=False)
    where = path / (group or "")
    assert stored(where / "radiance") == {"id": model.id}
    beside = zarr.open_array(where / "_xwalloc" / model.id[7:], mode="r")
    assert beside[:].tobytes() == model.data
    assert beside.metadata.dimension_names == ("byte",)
    assert used(where, model)
    forget()
    assert deviation(opened(path, group=group).radiance, scene.radiance) <= BOUND
    assert library.cached(model.key) is not None


def used(path, model):
    """Whether a chunk names the model."""
    return any(model.key in file.read_bytes() for file in (path / "radiance" / "c").rglob("*") if file.is_file())


@pytest.mark.filterwarnings("ignore:Consolidated metadata", "ignore:Failed to open Zarr store with consolidated")
@pytest.mark.parametrize("mode", ["w", "w-", "a"])
@pytest.mark.parametrize("consolidated", [None, False, True])
def test_modes_and_consolidated_metadata(scene, model, tmp_path, mode, consolidated):
    path = tmp_path / "s.zarr"
    written = scene.walloc.to_zarr(path, model=model, chunks=CHUNKS, mode=mode, consolidated=consolidated)
    assert type(written).__name__ == "ZarrStore"
    forget()
    found = xr.open_zarr(path)
    assert list(found) == ["radiance"]
    assert deviation(found.radiance, scene.radiance) <= BOUND


def test_mode_of_a_store_that_exists(scene, model, tmp_path):
    path = tmp_path / "s.zarr"
    scene.to_zarr(path, consolidated=False)
    with pytest.raises(FileExistsError):
        scene.walloc.to_zarr(path, model=model, chunks=CHUNKS, consolidated=False)
    assert not (path / "_xwalloc").exists()
    scene.rename(radiance="second").walloc.to_zarr(path, model=model, chunks=CHUNKS, consolidated=False, mode="a")
    assert sorted(opened(path)) == ["radiance", "second"]
    scene.walloc.to_zarr(path, model=model, chunks=CHUNKS, consolidated=False, mode="w")
    assert sorted(opened(path)) == ["radiance"]


def test_computed_later(scene, model, tmp_path):
    path = tmp_path / "s.zarr"
    later = scene.chunk(CHUNKS).walloc.to_zarr(path, model=model, chunks=CHUNKS, consolidated=False, compute=False)
    forget()
    later.compute()
    assert used(path, model)
    assert deviation(opened(path).radiance, scene.radiance) <= BOUND


def test_two_variables_and_memory_stores(scene, model):
    store = zarr.storage.MemoryStore()
    scene.assign(second=scene.radiance + 1).walloc.to_zarr(store, model=model, chunks=CHUNKS, consolidated=False)
    forget()
    ds = opened(store)
    assert deviation(ds.second, scene.radiance + 1) <= BOUND
    assert list(zarr.open_group(store, mode="r")["_xwalloc"]) == [model.id[7:]]


@pytest.mark.filterwarnings("ignore:Duplicate name")  # xarray writes metadata twice
def test_zip_stores(scene, model, tmp_path):
    path = str(tmp_path / "s.zarr.zip")
    with zarr.storage.ZipStore(path, mode="w") as store:
        scene.walloc.to_zarr(store, model=model, chunks=CHUNKS, consolidated=False, mode="a")
    forget()
    with zarr.storage.ZipStore(path, mode="r") as store:
        assert deviation(opened(store).radiance, scene.radiance) <= BOUND


def test_data_trees_open(scene, model, tmp_path):
    scene.walloc.to_zarr(tmp_path / "s.zarr", model=model, chunks=CHUNKS, consolidated=False)
    tree = xr.open_datatree(tmp_path / "s.zarr", engine="zarr", consolidated=False)
    assert tree["_xwalloc"][model.id[7:]].dims == ("byte",)


def test_elsewhere_with_an_empty_home_and_no_import(scene, model, tmp_path):
    scene.walloc.to_zarr(tmp_path / "s.zarr", model=model, chunks=CHUNKS, consolidated=False)
    (tmp_path / "s.zarr").rename(tmp_path / "moved.zarr")
    code = (
        "import sys, xarray as xr; v = xr.open_zarr(sys.argv[1], consolidated=False).radiance.values; "
        "print(float(v.sum()), 'torch' in sys.modules)"
    )
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "moved.zarr")], env=environment, capture_output=True, text=True
    )
    total, torch = run.stdout.split()
    assert torch == "False"
    assert abs(float(total) - float(scene.radiance.sum())) < scene.radiance.size * BOUND


@pytest.mark.filterwarnings("ignore")
def test_workers_encode_and_decode_with_it(scene, model, tmp_path):
    distributed = pytest.importorskip("distributed")
    path = tmp_path / "s.zarr"
    with (
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster),
    ):
        scene.chunk(CHUNKS).walloc.to_zarr(path, model=model, chunks=CHUNKS, consolidated=False)
        assert used(path, model)
        decoded = opened(path).radiance.compute()
    assert deviation(decoded, scene.radiance) <= BOUND


def test_regions_are_written_by_whoever_opens_the_store(scene, model, tmp_path):
    path = tmp_path / "s.zarr"
    scene.chunk(CHUNKS).walloc.to_zarr(path, model=model, chunks=CHUNKS, consolidated=False, compute=False)
    forget()
    scene.isel(y=slice(32, 70)).to_zarr(path, region={"y": slice(32, 70)}, consolidated=False, zarr_format=3)
    assert used(path, model)
    found = opened(path).radiance
    assert deviation(found.isel(y=slice(32, 70)), scene.radiance.isel(y=slice(32, 70))) <= BOUND
    assert bool(found.isel(y=slice(0, 32)).isnull().all())


@pytest.mark.parametrize(
    ("selection", "value"),
    [
        ((slice(None), slice(0, 32), slice(0, 32)), 7.0),
        ((slice(None), slice(3, 9), slice(40, 50)), 7.0),
        ((slice(None), 5, slice(None)), 7.0),
        ((3, slice(None), slice(None)), None),
        ((slice(None), slice(None), 2), None),
        ((slice(None), slice(None, None, 5), slice(None)), None),
    ],
)
def test_parts_of_chunks_are_written_as_without_a_sidecar(scene, model, tmp_path, selection, value):
    new = np.full((24, 70, 50), 1000, "f4")[selection] if value is None else value
    for name, limit in (("inline", 10**6), ("beside", 100)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(model_module, "INLINE_LIMIT", limit)
            scene.walloc.to_zarr(tmp_path / name, model=model, chunks=CHUNKS, consolidated=False)
        zarr.open_array(tmp_path / name / "radiance", mode="r+")[selection] = new
    first, second = (zarr.open_array(tmp_path / name / "radiance", mode="r")[:] for name in ("inline", "beside"))
    np.testing.assert_array_equal(first, second)
    expected = scene.radiance.values.copy()
    expected[selection] = new
    assert deviation(second, expected) <= 2 * BOUND


@pytest.mark.parametrize("group", [None, "a/b"])
def test_a_copy_by_xarray_alone_holds_it(scene, model, tmp_path, group):
    scene.walloc.to_zarr(tmp_path / "s.zarr", model=model, chunks=CHUNKS, consolidated=False)
    first = opened(tmp_path / "s.zarr")
    first.isel(y=slice(0, 64)).to_zarr(tmp_path / "c.zarr", group=group, consolidated=False)
    forget()
    sidecar._kept.clear()
    assert used(tmp_path / "c.zarr" / (group or ""), model)
    assert deviation(opened(tmp_path / "c.zarr", group=group).radiance, first.radiance[:, :64]) <= BOUND
    # written anew at the same place, in the same process
    again = opened(tmp_path / "s.zarr")
    for _ in range(2):
        again.to_zarr(tmp_path / "d.zarr", mode="w", consolidated=False)
    forget()
    assert deviation(opened(tmp_path / "d.zarr").radiance, first.radiance) <= BOUND


def test_a_copy_into_shards_is_refused(scene, model, tmp_path):
    scene.walloc.to_zarr(tmp_path / "s.zarr", model=model, chunks=CHUNKS, consolidated=False)
    first = opened(tmp_path / "s.zarr", chunks=None)
    same = {key: first.radiance.encoding[key] for key in ("serializer", "compressors")}
    into = {"encoding": {"radiance": {**same, "shards": (24, 64, 64), "chunks": (24, 32, 32)}}, "consolidated": False}
    with pytest.raises(ConfigError, match="without shards"):
        first.to_zarr(tmp_path / "c.zarr", **into)
    model.save(tmp_path / f"{model.id[7:]}.safetensors")
    with xwalloc.settings.set({"model_path": str(tmp_path)}):
        first.to_zarr(tmp_path / "d.zarr", **into)


def test_an_array_that_is_the_root_of_its_store_is_warned_of(scene, model, tmp_path, caplog):
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=scene.radiance.shape, chunks=(24, 32, 32), dtype="f4", compressors=None,
        serializer=Walloc(channel_axis=0, signal_axes=[1, 2], max_error=BOUND, model=model),
    )  # fmt: skip
    array[:] = scene.radiance.values
    (told,) = [record for record in caplog.records if "root of store" in record.message]
    assert model.id in told.message


def test_half_a_model_is_written_again(scene, model, tmp_path):
    scene.walloc.to_zarr(tmp_path / "s.zarr", model=model, chunks=CHUNKS, consolidated=False)
    loaded = opened(tmp_path / "s.zarr").load()
    chunk = tmp_path / "s.zarr" / "_xwalloc" / model.id[7:] / "c" / "0"
    chunk.unlink()
    sidecar._kept.clear()
    loaded.isel(y=slice(0, 32)).drop_encoding().to_zarr(
        tmp_path / "s.zarr", region={"y": slice(0, 32)}, consolidated=False
    )
    assert chunk.exists()


def test_latents_and_previews_find_it(scene, tmp_path):
    few = xwalloc.fit(scene.radiance, latents=6, levels=2)
    scene.walloc.to_zarr(tmp_path / "s.zarr", model=few, chunks=CHUNKS, consolidated=False)
    latents = xwalloc.open_latents(tmp_path / "s.zarr", "radiance")
    preview = xwalloc.open_preview(tmp_path / "s.zarr", "radiance", 2)
    forget()
    assert latents.values.any()
    forget()
    assert preview.values.any()


@pytest.mark.parametrize(
    ("arguments", "remedy"), [({"zarr_format": 2}, "zarr_format=3"), ({"shards": {"y": 64, "x": 64}}, "shards")]
)
def test_refused_where_it_cannot_lie(scene, model, tmp_path, arguments, remedy):
    with pytest.raises(ConfigError, match=remedy):
        scene.walloc.to_zarr(tmp_path / "s.zarr", model=model, chunks=CHUNKS, **arguments)
    assert not (tmp_path / "s.zarr").exists()


def test_encoding_names_the_remedy(scene, model):
    with pytest.raises(ConfigError, match=r"walloc\.to_zarr"):
        xwalloc.encoding(scene, model=model, chunks=CHUNKS)


def test_the_model_is_missing(scene, model, tmp_path, monkeypatch):
    path = tmp_path / "s.zarr"
    scene.walloc.to_zarr(path, model=model, chunks=CHUNKS, consolidated=False)
    (path / "_xwalloc").rename(tmp_path / "elsewhere")
    forget()
    with pytest.raises(ModelError, match=f"{model.id}.*_xwalloc in its group"):
        opened(path).radiance.load()
    with pytest.raises(ModelError, match=model.id):
        zarr.open_array(path / "radiance", mode="r+")[:, :32, :32] = 1
    # an ancestor may hold it
    nested = tmp_path / "outer.zarr"
    zarr.open_group(nested, mode="w").create_group("granule")
    path.rename(nested / "granule" / "s")
    sidecar.write(zarr.open_group(nested), model)
    assert deviation(opened(nested, group="granule/s").radiance, scene.radiance) <= BOUND


@pytest.mark.parametrize("damage", ["flip", "cut", "chunk gone", "other", "group", "compressed", "huge", "json"])
def test_something_else_lies_in_its_place(scene, model, tmp_path, damage):
    path = tmp_path / "s.zarr"
    scene.walloc.to_zarr(path, model=model, chunks=CHUNKS, consolidated=False)
    where = path / "_xwalloc" / model.id[7:]
    chunk = where / "c" / "0"
    data = bytearray(chunk.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        chunk.write_bytes(data)
    elif damage == "cut":
        chunk.write_bytes(data[:-5])
    elif damage == "chunk gone":
        chunk.unlink()
    elif damage == "other":
        zarr.create_array(where, data=np.zeros(9, "u1"), overwrite=True, compressors=None)
    elif damage == "group":
        zarr.open_group(where, mode="w")
    elif damage == "compressed":
        zarr.create_array(where, data=np.frombuffer(model.data, "u1"), overwrite=True)
    elif damage == "huge":
        zarr.create_array(where, shape=(2**40,), dtype="u1", chunks=(2**40,), overwrite=True, compressors=None)
    else:
        (where / "zarr.json").write_text('{"zarr_format": 3, "node_type": "array"}')
    forget()
    with pytest.raises(FormatError, match=f"{model.id}.*Restore"):
        opened(path).radiance.load()
    if damage != "group":
        sidecar.write(zarr.open_group(path), model)
        assert deviation(opened(path).radiance, scene.radiance) <= BOUND


def test_only_the_first_of_many_chunks_reads_it(scene, model, tmp_path, monkeypatch):
    scene.walloc.to_zarr(tmp_path / "s.zarr", model=model, chunks={"y": 16, "x": 16}, consolidated=False)
    forget()
    read, found = sidecar._read, []
    monkeypatch.setattr(sidecar, "_read", lambda where, name: found.append(read(where, name)) or found[-1])
    opened(tmp_path / "s.zarr").radiance.load()
    assert [data is not None for data in found].count(True) == 1


def test_many_chunks_at_once_with_one_thread_for_files(scene, model, tmp_path):
    scene.walloc.to_zarr(tmp_path / "s.zarr", model=model, chunks={"y": 8, "x": 8}, consolidated=False)
    code = """
import sys, zarr, xarray as xr
zarr.config.set({"threading.max_workers": 1, "async.concurrency": 64})
ds = xr.open_zarr(sys.argv[1], consolidated=False, chunks=None)
print(float(ds.radiance.values.mean()))
"""
    arguments = [sys.executable, "-c", code, str(tmp_path / "s.zarr")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=60, check=True)
    assert abs(float(done.stdout) - float(scene.radiance.mean())) <= BOUND


@pytest.mark.parametrize(
    "metadata", [b"[]", b"null", b"[" * 100_000, b'{"chunk_grid": {"name": "regular"', "chunk 0", "fill"]
)
def test_forged_metadata_of_a_model_are_damage(scene, model, tmp_path, metadata):
    scene.walloc.to_zarr(tmp_path / "s.zarr", model=model, chunks=CHUNKS, consolidated=False)
    place = tmp_path / "s.zarr" / "_xwalloc" / model.id[7:] / "zarr.json"
    if isinstance(metadata, str):
        found = json.loads(place.read_text())
        if metadata == "fill":
            found["fill_value"] = -1
        else:
            found["chunk_grid"]["configuration"]["chunk_shape"] = [0]
        metadata = json.dumps(found).encode()
    place.write_bytes(metadata)
    forget()
    with pytest.raises(FormatError, match="something else"):
        opened(tmp_path / "s.zarr", chunks=None).radiance.load()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_forgets_the_locks_of_its_parent():
    with sidecar._lock, library._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if sidecar._lock.acquire(timeout=2) and library._lock.acquire(timeout=2) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_references_without_weights_that_are_carried_are_left_alone(model):
    sidecar.fetch(zarr.storage.StorePath(zarr.storage.MemoryStore(), "a/c/0"), ModelReference.inline(model))
    sidecar.fetch(object(), ModelReference(model.id))
    assert library.cached(model.key) is None
