"""What several floors hand to each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Buffer", "Parallel", "Region", "in_turn"]

Buffer = bytes | memoryview
"""Bytes that are read, perhaps a part of others that is not copied."""

Parallel = Callable[[Callable[..., Any], Sequence[Any]], list[Any]]
"""Runs a function over items, perhaps on several threads; results in order."""

Region = tuple[slice, slice, slice, slice, slice]
"""Part of a chunk (batch, channel, z, y, x): slices with start and stop."""


def in_turn(fn: Callable[..., Any], items: Sequence[Any]) -> list[Any]:
    """Run a function over items, one after the other: the `Parallel` of those who have nobody to help them."""
    return [fn(item) for item in items]
