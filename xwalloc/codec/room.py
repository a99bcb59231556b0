"""Memory of a device that chunks share while they are under way there."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Room"]


class Room:
    """Memory that is taken and given back by several threads.

    Whoever asks for more than is left waits for others to give back what they have, and nobody overtakes him. Who asks
    for more than there is gets it once nobody else has any.

    Examples
    --------
    >>> room = Room()
    >>> with room.taken(3, limit=10), room.taken(7, limit=10):
    ...     room.used
    10
    """

    def __init__(self) -> None:
        self.used = 0
        self._changed = threading.Condition()
        self._queue: deque[object] = deque()

    @contextmanager
    def taken(
        self, nbytes: int, *, limit: int, wait: Callable[[Callable[[], None]], None] = lambda entry: entry()
    ) -> Iterator[None]:
        """Take so many bytes, of `limit`, for as long as the context is open.

        Parameters
        ----------
        nbytes, limit
            What is taken, and what there is.
        wait
            Calls a function that may wait for other threads.
        """
        wait(lambda: self._enter(nbytes, limit))
        try:
            yield
        finally:
            with self._changed:
                self.used -= nbytes
                self._changed.notify_all()

    def _enter(self, nbytes: int, limit: int) -> None:
        ticket = object()
        with self._changed:
            self._queue.append(ticket)
            try:
                self._changed.wait_for(
                    lambda: self._queue[0] is ticket and (not self.used or self.used + nbytes <= limit)
                )
                self.used += nbytes
            finally:
                self._queue.remove(ticket)
                self._changed.notify_all()
