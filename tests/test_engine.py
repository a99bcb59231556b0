import gc
import os
import subprocess
import sys
import threading
import time
import weakref

import pytest

from xwalloc import settings
from xwalloc.codec import devices, engine
from xwalloc.errors import ConfigError


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_in_order_at_any_split(threads):
    with settings.set({"threads": threads}):
        for n in (0, 1, 2, 17):
            assert engine.map_parallel(lambda i: i * i, range(n)) == [i * i for i in range(n)]


def test_nested_calls_from_every_thread_end():
    def chunk(k):
        return engine.map_parallel(lambda i: sum(engine.map_parallel(lambda j: i * j + k, range(7))), range(5))

    expected = [[sum(i * j + k for j in range(7)) for i in range(5)] for k in range(12)]
    with settings.set({"threads": 2}):
        futures = [engine.submit(chunk, k) for k in range(12)]
        assert [future.result(timeout=60) for future in futures] == expected
        assert engine.run(lambda: [engine.run(chunk, k) for k in range(12)]) == expected
        assert engine.map_parallel(chunk, range(12)) == expected


def test_the_first_failure_is_raised():
    def fail(i):
        if i in (3, 5):
            raise KeyError(i)

    with settings.set({"threads": 3}):
        for _ in range(50):
            with pytest.raises(KeyError, match="3"):
                engine.map_parallel(fail, range(9))


def test_never_more_threads_than_set():
    lock, running, most = threading.Lock(), 0, 0

    def part(i):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1

    with settings.set({"threads": 2}):
        callers = [
            threading.Thread(target=engine.run, args=(lambda: engine.map_parallel(part, range(8)),)) for _ in range(6)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(timeout=60)
    assert most == 2


def test_idle_threads_help():
    with settings.set({"threads": 2}):
        names = engine.run(engine.map_parallel, lambda i: time.sleep(0.01) or threading.current_thread().name, range(8))
    assert len(set(names)) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_has_a_pool_of_its_own():
    engine.run(int)
    child = os.fork()
    if child == 0:
        os._exit(0 if engine.run(lambda: engine.map_parallel(abs, range(9))) == list(range(9)) else 1)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("threads", [0, -1, True, "2", 1.5])
def test_impossible_settings_are_refused(threads):
    with settings.set({"threads": threads}), pytest.raises(ConfigError, match="threads"):
        engine.run(int)


def test_offers_that_nobody_took_keep_nothing_alive():
    """They wait in the queue behind chunks: what they refer to would add up to all chunks that zarr has in flight."""
    busy, go_on = threading.Event(), threading.Event()

    def block():
        busy.set()
        go_on.wait(60)

    class Large:
        pass

    def work():
        large = Large()
        assert engine.map_parallel(lambda i: (i, large)[0], range(4)) == [0, 1, 2, 3]
        return weakref.ref(large)

    with settings.set({"threads": 2}):
        blockers = [engine.submit(block) for _ in range(2)]
        assert busy.wait(60)
        reference = work()
        gc.collect()
        assert reference() is None
        go_on.set()
        for blocker in blockers:
            blocker.result(timeout=60)


def fresh_devices(monkeypatch):
    monkeypatch.setattr(devices, "_owners", {})
    monkeypatch.setattr(devices, "_forked", False)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "CPU", "cuda:1000", 0, None, True])
def test_impossible_devices_are_refused(device):
    with settings.set({"device": device}), pytest.raises(ConfigError, match="XWALLOC_DEVICE"):
        engine.device()


@pytest.mark.parametrize(
    ("environment", "driver", "reason"),
    [({"CUDA_VISIBLE_DEVICES": ""}, True, "hides all"), ({"CUDA_VISIBLE_DEVICES": "0"}, False, "driver")],
)
def test_cuda_is_never_replaced_in_silence(monkeypatch, environment, driver, reason):
    pytest.importorskip("torch", reason="torch is not installed")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(devices, "_has_driver", lambda: driver)
    with settings.set({"device": "auto"}):
        assert engine.device() == engine.device_kind() == "cpu"
    for device in ("cuda", "cuda:1"):
        with settings.set({"device": device}), pytest.raises(ConfigError, match=reason):
            engine.device()


def test_numbers_of_devices(monkeypatch):
    monkeypatch.setattr(devices, "_cuda_devices", lambda: (2, "this process sees 2 CUDA devices"))
    for device, expected in (("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("cpu", "cpu")):
        with settings.set({"device": device}):
            assert engine.device() == expected
    with settings.set({"device": "cuda:2"}), pytest.raises(ConfigError, match="sees 2"):
        engine.device()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform does not fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_of_a_process_that_used_cuda_has_none(monkeypatch):
    monkeypatch.setattr(devices, "_owners", {"cuda:0": None})
    child = os.fork()
    if child == 0:
        try:
            with settings.set({"device": "auto"}):
                if engine.device() != "cpu":
                    os._exit(3)
            with settings.set({"device": "cuda"}):
                engine.device()
        except ConfigError as error:
            os._exit(0 if "spawn" in str(error) and not devices._owners else 1)
        os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_a_child_of_a_process_whose_torch_used_cuda_has_none(monkeypatch):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    monkeypatch.setattr(devices, "_has_driver", lambda: True)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for forked, expected in ((False, "cuda:0"), (True, "cpu")):
        monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda forked=forked: forked)
        with settings.set({"device": "auto"}):
            assert engine.device() == expected
    with settings.set({"device": "cuda"}), pytest.raises(ConfigError, match="forked from one that had used CUDA"):
        engine.device()


def test_the_thread_of_a_device_is_one(monkeypatch):
    fresh_devices(monkeypatch)
    owner = devices.owner("cpu:0")
    assert devices.owner("cpu:0") is owner
    names = {owner.executor.submit(lambda: threading.current_thread().name).result() for _ in range(20)}
    assert names == {"xwalloc-cpu:0_0"}
    owner.executor.shutdown()


def test_the_device_comes_without_torch():
    code = (
        "import sys; from xwalloc.codec import engine; import xwalloc.codec.networks\n"
        "assert engine.device() == engine.device_kind() == 'cpu'; assert 'torch' not in sys.modules"
    )
    environment = {**os.environ, "XWALLOC_DEVICE": "cpu"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, timeout=120)
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=hidden, timeout=120)


@pytest.mark.gpu
def test_the_gpu_of_this_process():
    import torch

    with settings.set({"device": "auto"}):
        assert engine.device() == "cuda:0"
        assert engine.device_kind() == f"cuda: {torch.cuda.get_device_name(0)}"
    with settings.set({"device": "cuda:99"}), pytest.raises(ConfigError, match="sees"):
        engine.device()
