"""Where chunks are computed: one pool of threads per process, never larger than the cores that it may use.

Whole chunks enter the pool through `submit` and `run`; a chunk that is being computed may offer its parts to idle
threads through `map_parallel`. Offers wait in the same queue behind the chunks, so chunks come first, and parts are
shared only when cores would be idle otherwise. Nobody ever waits for work that has not begun: whoever called
`map_parallel` does the parts that nobody took. Hence it may be nested and called from any thread without deadlock.

Networks run on the `device` of the process. What goes to a CUDA device waits in `wait`, and another chunk gets the core
meanwhile: chunks come together there that the device can compute in one call, on a worker with a single thread, too.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, Generic, TypeVar

from threadpoolctl import ThreadpoolController

from xwalloc.codec.batching import MOST_ITEMS
from xwalloc.codec.devices import device, device_kind
from xwalloc.settings import settings, thread_count

__all__ = ["blas_in_one_thread", "device", "device_kind", "map_parallel", "run", "submit", "wait", "wait_for"]

T = TypeVar("T")
R = TypeVar("R")


class Pool:
    """The pool of this process, made when it is first needed and again when its size is set to another value.

    As many of its threads compute as there are slots. Once somebody has waited for a device, there are more threads
    than slots: whoever waits has none.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.local = threading.local()
        self.executor: ThreadPoolExecutor | None = None
        self.size = self.waiters = self.built = 0
        self.slots = threading.Semaphore(0)

    def submit(self, fn: Callable[..., R], *args: Any) -> Future[R]:
        """Compute ``fn(*args)`` as soon as there is a slot."""
        with self.lock:  # the pool may be made anew in between
            executor, slots = self.now()
            return executor.submit(self.compute, slots, fn, *args)

    def offer(self, fn: Callable[[], None]) -> Future[None]:
        """Call a function if there is a slot when its turn comes; else forget it."""
        with self.lock:
            executor, slots = self.now()
            return executor.submit(self.help, slots, fn)

    def now(self) -> tuple[ThreadPoolExecutor, threading.Semaphore]:
        """Threads and slots."""
        size = available_threads()
        with self.lock:
            if self.size != size:
                self.size, self.slots = size, threading.Semaphore(size)
                self.built = 0
            if self.executor is None or self.built != size + self.waiters:
                if self.executor is not None:
                    self.executor.shutdown(wait=False)  # finishes what it was given
                self.built = size + self.waiters
                self.executor = ThreadPoolExecutor(self.built, "xwalloc")
            return self.executor, self.slots

    def compute(self, slots: threading.Semaphore, fn: Callable[..., R], *args: Any) -> R:
        slots.acquire()
        return self.holding(slots, fn, *args)

    def help(self, slots: threading.Semaphore, fn: Callable[[], None]) -> None:
        # Whoever made the offer holds a slot and waits for it: it must not wait for a slot.
        if slots.acquire(blocking=False):
            self.holding(slots, fn)

    def holding(self, slots: threading.Semaphore, fn: Callable[..., R], *args: Any) -> R:
        self.local.slots = slots
        try:
            return fn(*args)
        finally:
            self.local.slots = None
            slots.release()

    def wait(self, result: Callable[[], R]) -> R:
        """The result of what is computed elsewhere; lends the slot of the calling thread to others meanwhile."""
        slots = getattr(self.local, "slots", None)
        if slots is None:
            return result()
        self.waiters = MOST_ITEMS
        slots.release()
        try:
            return result()
        finally:
            slots.acquire()

    def inside(self) -> bool:
        """Whether the calling thread belongs to the pool."""
        return getattr(self.local, "slots", None) is not None


pool = Pool()


def reset() -> None:
    """Forget the pool of the parent process, whose threads and locks did not survive the fork."""
    global pool, _blas_lock, _blas_users, _blas_limit
    pool = Pool()
    _blas_lock, _blas_users, _blas_limit = threading.Lock(), 0, None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=reset)


def available_threads() -> int:
    """Threads to keep busy: the setting, else the cores of the process, on a Dask worker at most its own threads."""
    threads = thread_count()
    distributed = sys.modules.get("distributed.worker")  # its task context does not reach the event loop of Zarr
    workers = getattr(getattr(distributed, "Worker", None), "_instances", ())
    if settings.get("threads") is None and workers:
        threads = min(threads, sum(worker.state.nthreads for worker in list(workers)))
    return max(1, threads)


def submit(fn: Callable[..., R], *args: Any) -> Future[R]:
    """Compute ``fn(*args)`` in the pool."""
    return pool.submit(fn, *args)


def run(fn: Callable[..., R], *args: Any) -> R:
    """Compute ``fn(*args)`` in the pool and wait for it, however many threads call at once."""
    return fn(*args) if pool.inside() else pool.submit(fn, *args).result()


def wait(future: Future[R]) -> R:
    """The result of what a device computes, for which another chunk may use the core of this one."""
    return pool.wait(future.result)


def wait_for(result: Callable[[], R]) -> R:
    """`wait` for what a function waits for."""
    return pool.wait(result)


def map_parallel(fn: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """``[fn(item) for item in items]``, with the help of idle threads of the pool.

    Parameters
    ----------
    fn
        Called once per item, in any thread; what it returns may depend on its item only.
    items
        Parts of roughly equal cost, each worth at least 100 us.

    Raises
    ------
    Exception
        What `fn` raised for the first item that failed.
    """
    todo = list(items)
    helpers = min(available_threads(), len(todo)) - 1
    if helpers < 1:
        return [fn(item) for item in todo]
    work = _Work(fn, todo)
    offers = [pool.offer(work.drain) for _ in range(helpers)]
    work.drain()
    for offer in offers:
        if not offer.cancel():
            offer.result()
    return work.finish()


class _Work(Generic[T, R]):
    """Calls of a function that several threads take from, one after the other."""

    def __init__(self, fn: Callable[[T], R], items: list[T]) -> None:
        self.calls = [partial(fn, item) for item in items]
        self.results: list[Any] = [None] * len(items)
        self.failures: dict[int, BaseException] = {}
        self.queue = iter(range(len(items)))
        self.lock = threading.Lock()

    def drain(self) -> None:
        """Take calls until none is left or one has failed."""
        while True:
            with self.lock:
                index = None if self.failures else next(self.queue, None)
            if index is None:
                return
            try:
                self.results[index] = self.calls[index]()
            except BaseException as error:
                with self.lock:
                    self.failures[index] = error

    def finish(self) -> list[R]:
        """The results; what was worked on is let go, since offers that nobody took wait in the queue of the pool."""
        results, failures = self.results, self.failures
        self.calls, self.results, self.failures = [], [], {}
        if failures:
            raise failures[min(failures)]
        return results


@lru_cache(maxsize=1)
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


_blas_lock = threading.Lock()
_blas_users = 0
_blas_limit: Any = None


@contextmanager
def blas_in_one_thread() -> Iterator[None]:
    """Keep the BLAS of this process to the calling thread while chunks are computed.

    Tiles of a chunk are products of their own, on our threads; a BLAS that adds its own to each of them would have the
    cores wait for each other. The limit holds for the process and is lifted when the last chunk is done.
    """
    global _blas_users, _blas_limit
    with _blas_lock:
        if _blas_users == 0:
            _blas_limit = _controller().limit(limits=1, user_api="blas")
        _blas_users += 1
    try:
        yield
    finally:
        with _blas_lock:
            _blas_users -= 1
            if _blas_users == 0:
                _blas_limit.restore_original_limits()
                _blas_limit = None
