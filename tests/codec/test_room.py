"""Memory that threads share: how much is taken, who waits, and in which order."""

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from xwalloc.codec.room import Room


@pytest.fixture(name="threads")
def threads_fixture():
    with ThreadPoolExecutor(8) as threads:
        yield threads


def waiting(room, count):
    """Wait until so many threads do."""
    while len(room._queue) < count:
        pass


def test_what_is_taken_stays_within_the_limit(threads):
    room, most, lock = Room(), [], threading.Lock()

    def work(nbytes):
        with room.taken(nbytes, limit=10), lock:
            most.append(room.used)

    list(threads.map(work, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10] * 20))
    assert len(most) == 200
    assert max(most) <= 10
    assert room.used == 0


def test_nobody_overtakes(threads):
    room, order = Room(), []

    def work(nbytes):
        with room.taken(nbytes, limit=10):
            order.append(nbytes)

    with room.taken(5, limit=10):
        found = [threads.submit(work, 9)]
        waiting(room, 1)
        found += [threads.submit(work, 2)]
        waiting(room, 2)
        assert order == []
    for future in found:
        future.result(timeout=60)
    assert order == [9, 2]


def test_more_than_there_is_is_taken_alone(threads):
    room, begun, go_on = Room(), threading.Event(), threading.Event()

    def work():
        with room.taken(25, limit=10):
            begun.set()
            go_on.wait(60)

    with ExitStack() as before:
        before.enter_context(room.taken(1, limit=10))
        large = threads.submit(work)
        waiting(room, 1)
        assert not begun.is_set()
    assert begun.wait(60)
    seen = []

    def look():
        with room.taken(1, limit=10):
            seen.append(room.used)

    small = threads.submit(look)
    waiting(room, 1)
    assert room.used == 25
    go_on.set()
    large.result(timeout=60)
    small.result(timeout=60)
    assert seen == [1]
    assert room.used == 0


def test_who_gives_up_waiting_is_forgotten(monkeypatch):
    room = Room()

    def give_up(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(room._changed, "wait_for", give_up)
        with pytest.raises(KeyboardInterrupt), room.taken(1, limit=10):
            raise AssertionError
    with room.taken(1, limit=10):
        assert room.used == 1


def test_errors_give_back_what_was_taken():
    room = Room()
    with pytest.raises(ValueError, match="broken"), room.taken(10, limit=10):
        raise ValueError("broken")
    assert room.used == 0
