"""Decoding goes to workers with GPUs, and nothing else has to: on a cluster of two processes, one with a GPU."""

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

import xwalloc
from xwalloc.conversion.placement import gpu_workers, persist
from xwalloc.errors import ConfigError

distributed = pytest.importorskip("distributed", reason="distributed is not installed")


def watch():
    """On a worker: note whoever decodes a chunk."""
    from xwalloc.zarr import Walloc

    decode = Walloc._decode
    Walloc.seen = []

    def noted(self, *args):
        Walloc.seen.append(1)
        return decode(self, *args)

    Walloc._decode = noted


def decoded():
    from xwalloc.zarr import Walloc

    found, Walloc.seen = len(Walloc.seen), []
    return found


@pytest.fixture(scope="module")
def cluster():
    spec = {
        name: {"cls": distributed.Nanny, "options": {"nthreads": 1, "resources": resources, "dashboard_address": ":0"}}
        for name, resources in (("plain", {}), ("gpu", {"GPU": 1}))
    }
    scheduler = {"cls": distributed.Scheduler, "options": {"dashboard_address": ":0"}}
    with distributed.SpecCluster(workers=spec, scheduler=scheduler) as made:
        yield made


@pytest.fixture(scope="module")
def client(cluster):
    with distributed.Client(cluster) as made:
        made.wait_for_workers(2)
        made.run(watch)
        yield made


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("placement") / "s.zarr"
    values = np.random.default_rng(0).normal(size=(4, 96, 96)).cumsum(1).cumsum(2).astype("f4")
    ds = xr.Dataset({"r": (("band", "y", "x"), values), "flag": (("y",), np.arange(96))})
    ds.walloc.to_zarr(path, max_error={"r": 0.5}, channel_dim="band", chunks={"y": 32, "x": 32}, consolidated=False)
    return path


def restrictions(client):
    def look(dask_scheduler):
        return {str(key): task.resource_restrictions or {} for key, task in dask_scheduler.tasks.items()}

    return client.run_on_scheduler(look)


def opened(store):
    return xr.open_zarr(store, consolidated=False)


def test_decoding_is_placed_and_what_follows_is_free(client, store):
    (gpu,) = gpu_workers(client)
    with dask.config.set({"optimization.fuse.active": True}):
        ds = opened(store)
        held = xwalloc.persist(ds)
    distributed.wait(held)
    assert isinstance(held, xr.Dataset)
    counts = client.run(decoded)
    assert counts[gpu] == 9
    assert sum(counts.values()) == 9
    assert {at for where in client.who_has(held).values() for at in where} == {gpu}
    placed = {key for key, asked in restrictions(client).items() if asked}
    assert len(placed) >= 9
    later = client.persist((held.r * 2).mean("band"))
    distributed.wait(later)
    free = {key: asked for key, asked in restrictions(client).items() if key not in placed}
    assert free
    assert not any(free.values())
    np.testing.assert_array_equal(later.values, (opened(store).r.load(scheduler="sync") * 2).mean("band").values)
    client.run(decoded)


def test_arrays_and_what_was_computed_before_are_placed_as_well(client, store):
    (gpu,) = gpu_workers(client)
    for lazy in (opened(store).r + 1, opened(store).r.data + 2, opened(store).r[:2] + 3):
        held = persist(lazy, client=client)
        distributed.wait(held)
        assert type(held) is type(lazy)
        assert {at for where in client.who_has(held).values() for at in where} == {gpu}
        counts = client.run(decoded)
        assert {at for at, count in counts.items() if count} == {gpu}


def test_without_a_gpu_any_worker_decodes(client, store, monkeypatch):
    monkeypatch.setattr("xwalloc.conversion.placement.gpu_workers", lambda client: [])
    before = set(restrictions(client))
    held = persist(opened(store).r + 7, client=client)
    distributed.wait(held)
    assert sum(client.run(decoded).values()) == 9
    assert not any(asked for key, asked in restrictions(client).items() if key not in before)


def test_workers_that_offer_less_than_a_gpu_do_not_count():
    class Cluster:
        def scheduler_info(self, n_workers):
            resources = {"b": {"GPU": 2}, "a": {"GPU": 1.0}, "half": {"GPU": 0.5}, "none": {}, "other": {"MEM": 9}}
            return {"workers": {at: {"resources": each} for at, each in resources.items()}}

    assert gpu_workers(Cluster()) == ["a", "b"]


def test_nothing_to_place_is_refused(client):
    for obj in (np.zeros(3), xr.DataArray(np.zeros(3)), xr.Dataset({"a": ("x", np.zeros(3))})):
        with pytest.raises(ConfigError, match="open_zarr"):
            persist(obj, client=client)


def test_without_a_client(monkeypatch):
    def none():
        raise ValueError("no client")

    monkeypatch.setattr(distributed, "get_client", none)
    with pytest.raises(ConfigError, match="pass `client`"):
        persist(da.zeros(3))
