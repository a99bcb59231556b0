import gc
import os
import threading
import time
import weakref

import pytest

from xwalloc import settings
from xwalloc.codec import engine
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
