"""A micro-batcher: concurrent requests of the same work become one call.

A device has one thread. While that is busy, requests queue up; when it is free, it takes the oldest request and all
that ask for equal work, within limits, and makes one call for them. So nobody ever waits for company, a lone request
starts at once, and the busier a device is the larger are its batches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from typing import Any

from xwalloc.settings import batch_limit

__all__ = ["MOST_ITEMS", "Batcher", "Work"]

MOST_ITEMS = 32
"""Requests in one call."""

Work = Callable[[list[Any]], list[Any]]
"""Computes one result for each item, whatever other items there are; hashable. Requests of equal work may be merged."""


@dataclass(frozen=True)
class _Request:
    work: Work
    item: Any
    nbytes: int
    limit: int
    future: Future[Any] = field(default_factory=Future)


class Batcher:
    """Merges requests of equal work.

    Parameters
    ----------
    executor
        Makes the calls; one thread, so that requests come together while it is busy.
    limit
        Memory in bytes, about, of what is computed in one call, unless the setting ``batch.max_bytes`` says it.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> def squares(items):
    ...     return [item**2 for item in items]
    >>> with ThreadPoolExecutor(1) as executor:
    ...     batcher = Batcher(executor)
    ...     futures = [batcher.submit(squares, i, nbytes=8) for i in range(4)]
    >>> [future.result() for future in futures]
    [0, 1, 4, 9]
    """

    def __init__(self, executor: Executor, limit: int = 1 << 30) -> None:
        self._executor, self._limit = executor, limit
        self._lock = threading.Lock()
        self._waiting: list[_Request] = []
        self._asked = False

    @property
    def limit(self) -> int:
        """Memory in bytes, about, of what is computed in one call.

        Raises
        ------
        ConfigError
            If the setting ``batch.max_bytes`` is impossible.
        """
        return batch_limit(self._limit)

    def submit(self, work: Work, item: Any, *, nbytes: int) -> Future[Any]:
        """Compute ``work([item])[0]``, perhaps together with other items.

        Parameters
        ----------
        work
            Called in the thread of the device. Where it fails for several items, it is called for each half of them, so
            that an item's failure is its own, and a batch that has too little memory gets smaller.
        item
            What to compute.
        nbytes
            Memory that this takes; the sum over a batch stays within the setting ``batch.max_bytes``.

        Returns
        -------
        Future
            May be cancelled until the item's batch begins.

        Raises
        ------
        ConfigError
            If the setting ``batch.max_bytes`` is impossible.
        """
        request = _Request(work, item, nbytes, self.limit)
        with self._lock:
            self._waiting.append(request)
            ask, self._asked = not self._asked, True
        if ask:
            self._ask()
        return request.future

    def _ask(self) -> None:
        """Have the executor serve a batch; where it does not take work any more, nobody shall wait for it."""
        try:
            self._executor.submit(self._serve)
        except RuntimeError as error:
            with self._lock:
                lost, self._waiting, self._asked = self._waiting, [], False
            for request in lost:
                if request.future.set_running_or_notify_cancel():
                    request.future.set_exception(error)

    def _serve(self) -> None:
        """Compute one batch. What else waits takes its turn behind other work of the executor."""
        _compute(self._take())
        with self._lock:
            self._asked = bool(self._waiting)
            ask = self._asked
        if ask:
            self._ask()

    def _take(self) -> list[_Request]:
        """The oldest request that nobody cancelled, and those to be merged with it."""
        taken: list[_Request] = []
        left: list[_Request] = []
        size = 0
        with self._lock:
            for request in self._waiting:
                first = taken[0] if taken else request
                within = len(taken) < MOST_ITEMS and size + request.nbytes <= first.limit
                fits = not taken or (within and request.work == first.work)
                if not fits:
                    left.append(request)
                elif request.future.set_running_or_notify_cancel():
                    taken.append(request)
                    size += request.nbytes
            self._waiting = left
        return taken


def _compute(requests: list[_Request]) -> None:
    """One call for all of them; where that fails, one for each half."""
    if not requests:
        return
    try:
        results = requests[0].work([request.item for request in requests])
        if len(results) != len(requests):
            raise RuntimeError(f"Expected {len(requests)} results of a batch. Got {len(results)}.")
    except BaseException as error:
        if len(requests) == 1:
            requests[0].future.set_exception(error)
            return
        results = None
    if results is None:  # behind the clause, so that the error does not keep what the call held
        half = len(requests) // 2
        _compute(requests[:half])
        _compute(requests[half:])
        return
    for request, result in zip(requests, results, strict=True):
        request.future.set_result(result)
