"""What several floors hand to each other."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

__all__ = ["Buffer", "Parallel", "Region", "cached_property", "in_turn"]

Buffer = bytes | memoryview
"""Bytes that are read, perhaps a part of others that is not copied."""

Parallel = Callable[[Callable[..., Any], Sequence[Any]], list[Any]]
"""Runs a function over items, perhaps on several threads; results in order."""

Region = tuple[slice, slice, slice, slice, slice]
"""Part of a chunk (batch, channel, z, y, x): slices with start and stop."""


def in_turn(fn: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
    """Run a function over items, one after the other: the `Parallel` of those who have nobody to help them."""
    return [fn(item) for item in items]


if TYPE_CHECKING or sys.version_info >= (3, 12):
    cached_property = functools.cached_property
else:

    class cached_property(functools.cached_property):
        """That of Python 3.12, without the lock for all instances of a class.

        That lock would have chunks wait for each other, and a child of a fork for a thread that it does not have.
        """

        def __get__(self, instance: Any, owner: Any = None) -> Any:
            if instance is None:
                return self
            cache = instance.__dict__
            if self.attrname not in cache:
                cache[self.attrname] = self.func(instance)
            return cache[self.attrname]
