"""Properties that are computed once, by as many threads as there are."""

import threading
from concurrent.futures import ThreadPoolExecutor

from xwalloc.types import cached_property


class Thing:
    def __init__(self, meet):
        self.meet, self.calls = meet, 0

    @cached_property
    def answer(self):
        """What it is."""
        self.calls += 1
        self.meet.wait(60)
        return 42


def test_properties_are_kept():
    thing = Thing(threading.Barrier(1))
    assert [thing.answer, thing.answer, thing.calls] == [42, 42, 1]
    assert Thing.answer.__doc__ == "What it is."


def test_things_do_not_wait_for_one_another():
    meet = threading.Barrier(2)  # both are being computed
    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(lambda thing: thing.answer, [Thing(meet), Thing(meet)])) == [42, 42]
