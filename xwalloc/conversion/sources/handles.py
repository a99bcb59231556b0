"""Open files that are kept for the next read, as many as there is room for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

__all__ = ["Handles"]

T = TypeVar("T")


class Handles(Generic[T]):
    """The last few open files of a process or thread; what is pushed out is closed.

    Parameters
    ----------
    most
        How many stay open.
    close
        What closes one. It must not disturb a thread that still reads from it.
    """

    def __init__(self, most: int, close: Callable[[T], object]) -> None:
        self.most, self.close = most, close
        self._open: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()
        self._opening: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, opened: Callable[[], T]) -> T:
        """What is open under a key; opened if it is not, once even where many threads ask."""
        with self._lock:
            if key in self._open:
                self._open.move_to_end(key)
                return self._open[key]
            turn = self._opening.setdefault(key, threading.Lock())
        with turn:
            with self._lock:
                if key in self._open:
                    return self._open[key]
            try:
                handle = opened()
                with self._lock:
                    self._open[key] = handle
                    surplus = [self._open.popitem(last=False)[1] for _ in range(len(self._open) - self.most)]
            finally:
                with self._lock:
                    self._opening.pop(key, None)
        for old in surplus:
            self.close(old)
        return handle

    def clear(self) -> None:
        """Close all."""
        with self._lock:
            old = list(self._open.values())
            self._open.clear()
        for handle in old:
            self.close(handle)

    def __len__(self) -> int:
        return len(self._open)
