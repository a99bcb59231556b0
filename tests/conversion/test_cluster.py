"""Work on clusters: where it goes, what a dead worker costs, how much waits, how much memory it takes."""

import os
import re
import signal
import sys
import time

import cloudpickle
import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
from distributed import Client, LocalCluster, Nanny, Scheduler, SpecCluster

from xwalloc.conversion import unit, workers
from xwalloc.conversion.convert import convert
from xwalloc.conversion.sources.netcdf import NetcdfSource
from xwalloc.conversion.verify import verify
from xwalloc.errors import ConfigError
from xwalloc.settings import settings
from xwalloc.version import __version__

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers don't have this module

SETTINGS = {"max_error": 0.5, "chunks": {"y": 32, "x": 32}}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    rng = np.random.default_rng(5)
    values = rng.normal(size=(2, 128, 160)).cumsum(1).cumsum(2).astype("f4")
    path = tmp_path_factory.mktemp("source") / "scene.nc"
    xr.Dataset({"v": (("band", "y", "x"), values)}).to_netcdf(path, engine="h5netcdf")
    return path


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """Objects of an undisturbed run."""
    store = tmp_path_factory.mktemp("whole") / "whole.zarr"
    assert convert(source, store, **SETTINGS).ok
    return chunks(store)


@pytest.fixture(scope="module")
def client():
    """A worker that offers a GPU, as far as Dask knows, and one that doesn't."""
    options = {"nthreads": 1, "memory_limit": 0, "dashboard": False}
    spec = {
        "gpu": {"cls": Nanny, "options": {**options, "resources": {"GPU": 1}}},
        "cpu": {"cls": Nanny, "options": options},
    }
    scheduler = {"cls": Scheduler, "options": {"dashboard_address": ":0"}}
    with SpecCluster(workers=spec, scheduler=scheduler, silence_logs=50) as cluster, Client(cluster) as found:
        yield found


def chunks(store):
    return {str(path.relative_to(store)): path.read_bytes() for path in store.glob("v/c/**/*") if path.is_file()}


def spy(encoding=0.0, reading=0.0):
    """Note when and what this worker reads and encodes; make it as slow as wanted."""
    notes = unit.__dict__.setdefault("notes", [])
    notes.clear()
    before = unit.__dict__.setdefault("originals", (unit.encode, NetcdfSource.read))

    def encode(*args):
        time.sleep(encoding)
        record = before[0](*args)
        notes.append(("encode", time.time()))
        return record

    def read(*args):
        time.sleep(reading)
        values = before[1](*args)
        notes.append(("read", time.time()))
        return values

    unit.encode, NetcdfSource.read = encode, read


def noted():
    return list(unit.notes)


def test_encoding_goes_to_gpus_and_reading_everywhere(client, source, whole, tmp_path):
    client.run(spy, 0.0, 0.1)
    assert convert(source, tmp_path / "a.zarr", client=client, **SETTINGS).ok
    assert chunks(tmp_path / "a.zarr") == whole
    told = client.run(noted)
    gpus = {at: worker.get("resources", {}).get("GPU", 0) for at, worker in client.scheduler_info()["workers"].items()}
    for address, notes in told.items():
        kinds = [kind for kind, _ in notes]
        assert kinds.count("encode") == (20 if gpus[address] else 0)
        assert kinds.count("read") > 0
    assert sum(kind == "read" for notes in told.values() for kind, _ in notes) == 20


def test_reading_waits_for_encoding(client, source, tmp_path):
    client.run(spy, 0.1)
    assert convert(source, tmp_path / "a.zarr", client=client, **SETTINGS).ok
    ahead = worst = 0
    for kind, _ in sorted((note for notes in client.run(noted).values() for note in notes), key=lambda note: note[1]):
        ahead += 1 if kind == "read" else -1
        worst = max(worst, ahead)
    assert ahead == 0
    assert worst <= 3  # one is encoded, one waits, one has just been read


def replaced(client, address):
    """Wait until the scheduler has noticed that a worker is dead, and another has come for it."""
    patience = time.monotonic() + 30
    while address in client.scheduler_info()["workers"]:
        assert time.monotonic() < patience
        time.sleep(0.05)
    client.wait_for_workers(2, timeout=30)


@pytest.mark.parametrize(("kind", "moment"), [("gpu", 4), ("cpu", 4), ("cpu", 20)])
def test_a_dead_worker_costs_only_what_it_had(client, source, whole, tmp_path, kind, moment):
    client.wait_for_workers(2, timeout=30)
    client.run(spy, 0.05, 0.02)
    resources = {at: worker.get("resources") for at, worker in client.scheduler_info()["workers"].items()}
    ((address, victim),) = [
        (at, pid) for at, pid in client.run(os.getpid).items() if bool(resources[at]) == (kind == "gpu")
    ]
    dead = []

    def kill(progress):
        if progress.done == moment and not dead:
            os.kill(victim, signal.SIGKILL)
            dead.append(victim)

    result = convert(source, tmp_path / "a.zarr", client=client, progress=kill, **SETTINGS)
    assert dead
    assert result.ok
    assert chunks(tmp_path / "a.zarr") == whole
    replaced(client, address)
    assert victim not in client.run(os.getpid).values()


def peak(reset=False):
    """Most memory of this process since the last reset; getrusage includes that of its parent."""
    if reset:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        return 0
    with open("/proc/self/status") as file:
        return int(re.search(r"VmHWM:\s+(\d+) kB", file.read())[1]) << 10


def make(kind, folder):
    rng = np.random.default_rng(1)
    values = rng.normal(size=(16, 1, 1)).astype("f4") * np.hypot(*np.ogrid[:256, :512]).astype("f4")
    if kind == "raster":
        profile = {"count": 16, "height": 256, "width": 512, "dtype": "float32", "crs": "EPSG:32633"}
        with rasterio.open(folder / "a.tif", "w", driver="GTiff", interleave="pixel", **profile) as file:
            file.write(values)
        return folder / "a.tif"
    dataset = xr.Dataset({"v": (("band", "y", "x"), values)})
    if kind == "zarr":
        dataset.to_zarr(folder / "a.zarr", consolidated=False, encoding={"v": {"chunks": (16, 256, 128)}})
        return folder / "a.zarr"
    dataset.to_netcdf(folder / "a.nc", engine="h5netcdf", encoding={"v": {"chunksizes": (16, 128, 512), "zlib": True}})
    return folder / "a.nc"


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="peaks are read from Linux's /proc")
@pytest.mark.filterwarnings("ignore:Dataset has no geotransform")
@pytest.mark.parametrize(
    ("kind", "grid"),
    [
        ("netcdf", {"chunks": {"y": 256, "x": 256}}),
        ("raster", {"chunks": {"y": 256, "x": 512}}),
        ("zarr", {"chunks": {"y": 128, "x": 128}, "shards": {"y": 256, "x": 256}}),
    ],
)
def test_memory_is_as_projected(client, tmp_path, kind, grid):
    path = make(kind, tmp_path)
    client.wait_for_workers(2, timeout=30)
    client.run(spy)
    client.run(peak, True)
    told = []
    result = convert(
        path, tmp_path / "out.zarr", max_error=0.5, client=client, planned=lambda *facts: told.append(facts), **grid
    )
    assert result.ok
    projection = told[0][1]
    found = max(client.run(peak).values())
    assert found <= projection.peak
    assert projection.peak < found + (900 << 20)  # of which compiled kernels, that are there already, are 230


def other_version(manifest):
    return {"resident": 0, "version": "0.0.0", "plan": None}


def missing_library(manifest):
    raise ModuleNotFoundError("No module named 'rasterio'", name="rasterio")


def broken(manifest):
    raise OSError("GLIBC_2.99 not found")


@pytest.mark.parametrize(
    ("probe", "words"),
    [
        (other_version, r"on all workers, as here. Got 0\.0\.0 on .*Install the same version"),
        (missing_library, r"Expected rasterio to be installed on all workers.*Install xwalloc\[convert\]"),
        (broken, r"GLIBC_2\.99"),
    ],
)
def test_workers_that_do_not_suit(client, source, tmp_path, monkeypatch, probe, words):
    monkeypatch.setattr(workers, "probe", probe)
    with pytest.raises(ConfigError, match=words):
        convert(source, tmp_path / "a.zarr", client=client, **SETTINGS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("url", [None, "memory://clusters/a.zarr"])
def test_stores_that_workers_do_not_see(client, source, url):
    store = url or zarr.storage.MemoryStore()
    with pytest.raises(ConfigError, match="without worker processes"):
        convert(source, store, client=client, **SETTINGS)
    opened = zarr.storage.FsspecStore.from_url(url) if url else store
    assert unit.Manifest(opened).plan() is None


def test_too_little_memory(source, tmp_path):
    refused = pytest.raises(ConfigError, match=r"at most 270 MB on each worker.*more memory or")
    options = {"processes": False, "dashboard_address": ":0", "memory_limit": "300MB"}
    with LocalCluster(n_workers=1, **options) as local, Client(local) as few, refused:
        convert(source, tmp_path / "a.zarr", client=few, **SETTINGS)
    assert not list(tmp_path.iterdir())


def test_no_workers(source, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "PATIENCE", 0.3)
    refused = pytest.raises(ConfigError, match="Got none: start workers")
    with LocalCluster(n_workers=0, processes=False, dashboard_address=":0") as local, Client(local) as none, refused:
        convert(source, tmp_path / "a.zarr", client=none, **SETTINGS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", "smoke://signals"])
def test_no_scheduler(source, tmp_path, monkeypatch, address):
    monkeypatch.setattr(workers, "PATIENCE", 0.5)
    with pytest.raises(ConfigError, match="Expected a Dask scheduler at"):
        convert(source, tmp_path / "a.zarr", scheduler=address, **SETTINGS)
    assert not list(tmp_path.iterdir())


def test_worker_processes_of_its_own(source, whole, tmp_path):
    result = convert(source, tmp_path / "a.zarr", workers=1, **SETTINGS)
    assert result.ok
    assert chunks(tmp_path / "a.zarr") == whole
    assert verify(source, tmp_path / "a.zarr").ok
    with pytest.raises(ConfigError, match="one of client, scheduler and workers"):
        convert(source, tmp_path / "b.zarr", workers=2, scheduler="tcp://127.0.0.1:1", **SETTINGS)


def test_only_workers_that_encode_need_the_device_of_their_settings():
    def crew(*trouble):
        facts = {"threads": 1, "memory_limit": 0, "resident": 0, "version": __version__, "plan": None}
        return [
            workers.Worker(address=f"tcp://{n}", gpus=gpus, trouble=said, **facts)
            for n, (gpus, said) in enumerate(trouble)
        ]

    workers.check(crew((1, None), (0, "no device")), None)
    with pytest.raises(ConfigError, match=r"^no device \(worker tcp://1\)$"):
        workers.check(crew((0, None), (0, "no device")), None)
    with pytest.raises(ConfigError, match="worker tcp://0"):
        workers.check(crew((1, "no device"), (0, "no device")), None)


def test_the_device_is_that_of_the_workers(source, tmp_path, client):
    """The process that asks for a conversion may name a device that only workers have."""
    with settings.set({"device": "cuda:999"}):
        assert convert(source, tmp_path / "a.zarr", client=client, **SETTINGS).ok
    with settings.set({"device": "gpu"}), pytest.raises(ConfigError, match="XWALLOC_DEVICE"):
        convert(source, tmp_path / "b.zarr", client=client, **SETTINGS)
    assert not (tmp_path / "b.zarr").exists()
