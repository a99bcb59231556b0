"""Requests that come together are one call; nobody waits for company, and a failure is that of one item."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr

from xwalloc import settings
from xwalloc.codec import devices, engine, networks
from xwalloc.codec.batching import MOST_ITEMS, Batcher
from xwalloc.errors import ConfigError
from xwalloc.models.neural import Architecture, Network
from xwalloc.models.neural.arithmetic import Layer
from xwalloc.zarr import Walloc


class Device:
    """A device of one thread that can be kept busy."""

    def __init__(self):
        self.executor = ThreadPoolExecutor(1)
        self.batcher = Batcher(self.executor)
        self.calls = []
        self.go_on = threading.Event()

    def hold(self):
        self.executor.submit(self.go_on.wait, 60)

    def twice(self, items):
        self.calls.append(list(items))
        if "bad" in items:
            raise KeyError("bad")
        return [2 * item for item in items]

    def other(self, items):
        self.calls.append(list(items))
        return items


@pytest.fixture
def device():
    made = Device()
    yield made
    made.go_on.set()
    made.executor.shutdown()


def test_a_lone_request_starts_at_once(device):
    assert device.batcher.submit(device.twice, 4, nbytes=8).result(timeout=60) == 8
    assert device.calls == [[4]]


def test_requests_of_equal_work_are_merged_while_the_device_is_busy(device):
    device.hold()
    works = [device.twice, device.other]
    futures = [device.batcher.submit(works[i % 2], i, nbytes=8) for i in range(10)]
    device.go_on.set()
    assert [future.result(timeout=60) for future in futures] == [0, 1, 4, 3, 8, 5, 12, 7, 16, 9]
    assert device.calls == [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]


def test_limits_of_a_batch(device):
    device.hold()
    with settings.set({"batch.max_bytes": 100}):
        futures = [device.batcher.submit(device.twice, i, nbytes=size) for i, size in enumerate((40, 40, 40, 500))]
    device.go_on.set()
    assert [future.result(timeout=60) for future in futures] == [0, 2, 4, 6]
    assert device.calls == [[0, 1], [2], [3]]
    device.calls.clear()
    device.go_on.clear()
    device.hold()
    futures = [device.batcher.submit(device.twice, i, nbytes=1) for i in range(MOST_ITEMS + 1)]
    device.go_on.set()
    assert futures[-1].result(timeout=60) == 2 * MOST_ITEMS
    assert list(map(len, device.calls)) == [MOST_ITEMS, 1]
    with settings.set({"batch.max_bytes": 0}), pytest.raises(ConfigError, match="max_bytes"):
        device.batcher.submit(device.twice, 0, nbytes=1)


def test_only_the_guilty_item_fails(device):
    device.hold()
    futures = [device.batcher.submit(device.twice, item, nbytes=1) for item in (1, "bad", 3)]
    device.go_on.set()
    assert futures[0].result(timeout=60) == 2
    assert futures[2].result(timeout=60) == 6
    with pytest.raises(KeyError, match="bad"):
        futures[1].result(timeout=60)


def test_cancelled_requests_are_left_out(device):
    device.hold()
    futures = [device.batcher.submit(device.twice, i, nbytes=1) for i in range(3)]
    assert futures[0].cancel()
    assert futures[1].cancel()
    device.go_on.set()
    assert futures[2].result(timeout=60) == 4
    assert device.calls == [[2]]
    device.batcher.submit(device.twice, 1, nbytes=1).result(timeout=60)  # goes on after that


def test_nobody_waits_for_a_device_that_was_shut_down(device):
    device.executor.shutdown()
    with pytest.raises(RuntimeError, match="shutdown"):
        device.batcher.submit(device.twice, 1, nbytes=1).result(timeout=60)


def test_from_an_event_loop_and_from_threads_at_once(device):
    async def ask(i):
        return await asyncio.wrap_future(device.batcher.submit(device.twice, i, nbytes=1))

    async def ask_all():
        return await asyncio.gather(*map(ask, range(300)))

    with ThreadPoolExecutor(8) as threads:
        others = threads.map(lambda i: device.batcher.submit(device.twice, i, nbytes=1).result(timeout=60), range(300))
        assert asyncio.run(ask_all()) == [2 * i for i in range(300)]
        assert list(others) == [2 * i for i in range(300)]
    assert sum(map(len, device.calls)) == 600


def test_chunks_that_wait_for_a_device_let_others_compute():
    """A worker with one thread brings chunks together, but never computes two at a time."""
    device, running, most, lock = Device(), 0, 0, threading.Lock()

    def compute(change):
        nonlocal running, most
        with lock:
            running += change
            most = max(most, running)

    def chunk(i):
        compute(1)
        parts = engine.map_parallel(lambda k: k, range(4))
        future = device.batcher.submit(device.twice, i, nbytes=1)
        compute(-1)
        found = engine.wait(future)
        compute(1)
        compute(-1)
        return found, parts

    for threads in (1, 2):
        with settings.set({"threads": threads}):
            engine.submit(chunk, 0).result(timeout=60)
            device.calls.clear()
            device.go_on.clear()
            device.hold()
            futures = [engine.submit(chunk, i) for i in range(12)]
            while len(device.batcher._waiting) < 12:
                assert not any(future.done() for future in futures)
            device.go_on.set()
            assert [future.result(timeout=60) for future in futures] == [(2 * i, [0, 1, 2, 3]) for i in range(12)]
        assert list(map(len, device.calls)) == [12]
        assert most <= threads
    device.executor.shutdown()


def some_network(rank, tree, seed=0):
    rng = np.random.default_rng(seed)
    architecture = Architecture(
        kind="fixed" if rank else "shared", rank=rank, tree=tree, levels=2 if tree == "packet" else 0, widths=(6,)
    )
    layers = tuple(
        Layer(
            weight=rng.integers(-30, 31, shape).astype(np.int8),
            bias=rng.integers(-500, 500, shape[0]).astype(np.int32),
            shift=rng.integers(6, 9, shape[0]).astype(np.uint8),
        )
        for shape in architecture.shapes().values()
    )
    codes = rng.integers(-9, 10, (6, architecture.codes)).astype(np.int8)
    return Network(architecture=architecture, layers=layers, codes=codes)


def refine_many(network, plan, items):
    """Latents of several chunks, refined by as many threads at once."""
    with ThreadPoolExecutor(len(items)) as threads:
        latents = [symbols * 100.0 for symbols, _ in items]
        list(
            threads.map(
                lambda each: networks.refined(network, each[0], *each[1][:1], plan, each[1][1], 100),
                zip(latents, items, strict=True),
            )
        )
    return latents


def some_chunks(plan, rank=4, seed=1):
    rng = np.random.default_rng(seed)
    found = []
    for batch in (1, 2, 1, 3):
        codes = rng.integers(0, 40, (rank, len(plan.subbands))) * (rng.random((rank, 1)) < 0.8)
        symbols = np.rint(rng.laplace(scale=3, size=(batch, rank, *plan.shape))).astype(np.int32)
        found.append((symbols, codes))
    return found


NETWORKS = [(0, "dyadic"), (4, "dyadic"), (0, "packet"), (5, "packet")]


def plan_of(tree):
    from xwalloc.models.spec import Grid

    return Grid(signal=(1, 48, 36), dimensions=2, levels=2, tree=tree, boundary="reflect", wavelet="bior4.4").plan


def on(monkeypatch, name):
    """Have networks run on a device; "cpu:0" is a CPU that is used as a CUDA device is."""
    monkeypatch.setattr(engine, "device", lambda: name)


@pytest.mark.usefixtures("one_thread")
def test_a_device_that_is_too_small_leaves_networks_to_the_cpu(monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    network, plan = some_network(*NETWORKS[0]), plan_of(NETWORKS[0][1])
    chunks = some_chunks(plan)[:1]
    expected = refine_many(network, plan, chunks)

    on(monkeypatch, "cpu:0")
    monkeypatch.setattr(devices, "_warned", False)

    def work(self, items):
        with devices.arithmetic(networks=True):
            raise torch.OutOfMemoryError("too little")

    monkeypatch.setattr(networks._Correct, "__call__", work)
    with pytest.warns(RuntimeWarning, match="on the CPU"):
        found = refine_many(network, plan, chunks)
    np.testing.assert_array_equal(found[0], expected[0])


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("rank", "tree"), NETWORKS)
@pytest.mark.parametrize("name", ["cpu:0", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def test_merged_corrections_are_the_same_bits(monkeypatch, rank, tree, name):
    network, plan = some_network(rank, tree), plan_of(tree)
    chunks = some_chunks(plan)
    expected = refine_many(network, plan, chunks)
    assert not np.array_equal(expected[0], chunks[0][0] * 100.0)
    merged = []
    work = networks._Correct.__call__
    monkeypatch.setattr(
        networks._Correct, "__call__", lambda self, items: merged.append(len(items)) or work(self, items)
    )
    on(monkeypatch, name)
    go_on = threading.Event()
    device = devices.owner(name)
    device.executor.submit(go_on.wait, 60)
    with ThreadPoolExecutor(1) as thread:
        found = thread.submit(refine_many, network, plan, chunks)
        while len(device.batcher._waiting) < len(chunks):
            assert not found.done(), found.result()
        go_on.set()
        for got, wanted in zip(found.result(timeout=300), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
    assert merged == [len(chunks)]


def published_model():
    from xwalloc.models import published, upstream

    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    config = {
        "channels": 3, "J": 2, "latent_dim": 6, "latent_bits": 6, "Nd": 32, "Ne": None, "lightweight_encode": True,
    }  # fmt: skip
    return published.as_model(upstream.Architecture.from_json(config).build(), value_range=(0.0, 1.0))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["cpu:0", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def test_concurrent_reads_of_a_store_merge_and_keep_values(monkeypatch, tmp_path: Path, name):
    pytest.importorskip("torch", reason="torch is not installed")
    model = published_model()
    rng = np.random.default_rng(0)
    rough = rng.random((3, 64, 64)).cumsum(1).cumsum(2)
    data = (rough / rough.max()).astype("f4")
    codec = Walloc(channel_axis=0, signal_axes=[1, 2], step=1, model=model)
    array = zarr.create_array(tmp_path / "s.zarr", data=data, chunks=(3, 16, 16), serializer=codec, compressors=())
    expected = array[...]
    sizes = []
    work = networks._Decode.__call__
    monkeypatch.setattr(networks._Decode, "__call__", lambda self, items: sizes.append(len(items)) or work(self, items))
    on(monkeypatch, name)
    with settings.set({"threads": 1}):
        counts = set()
        for _ in range(2):  # the pool lends slots once somebody has waited
            sizes.clear()
            found = array[...]
            counts.add(sum(sizes))
            np.testing.assert_allclose(found, expected, rtol=0, atol=2**-20)
    (learned,) = counts  # others take lattice mode
    assert len(sizes) < learned <= 16


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", ["cpu:0", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def test_batches_of_a_published_model_are_within_its_tolerance(name):
    pytest.importorskip("torch", reason="torch is not installed")
    from xwalloc.models.published import TOLERANCE

    published = published_model().published
    latents = np.random.default_rng(0).integers(-20, 21, (5, 6, 8, 7)).astype(np.int32)
    singly = published.decode(latents, (32, 27))
    for at_once in (2, 5, 64):
        together = published.decode(latents, (32, 27), device=name, at_once=at_once)
        assert np.abs(together - singly).max() < TOLERANCE / 2**10
