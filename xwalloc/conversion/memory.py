"""How much memory a worker will take at most, before it does."""

from __future__ import annotations

import math
from dataclasses import dataclass

from xwalloc.conversion.plan import ArrayPlan, Plan
from xwalloc.conversion.workers import Worker
from xwalloc.errors import ConfigError

__all__ = ["MOST_ROOM", "Projection", "project", "room_for_unit"]

CODEC = 230 << 20
"""Bytes of compiled kernels, tables and libraries that the first units load, generously."""

WORK = 8
"""Bytes that encoding a chunk takes at most, by those of its samples as float32: docs/guarantees.md, "Memory"."""

COPIES = 2
"""Copies of a unit that a task holds: its samples, and what a reader, or a shard that is put together, adds."""

SHARE = 0.9
"""Of a worker's memory, what may be planned for."""

MOST_ROOM = 128 << 20
"""Bytes of samples of a unit that is made as large as memory allows."""

UNIT_SHARE = 0.5
"""Of the memory that is left on a worker, what its units may take; the rest is for encoding."""


@dataclass(frozen=True, kw_only=True)
class Projection:
    """Peak memory of one worker.

    Parameters
    ----------
    resident
        Bytes of its process before.
    tasks
        Units that it holds at once.
    per_task
        Bytes of the most expensive unit, but for encoding.
    encoding
        Bytes of the chunks that are encoded at once.
    cache
        Bytes that reading keeps.
    """

    resident: int
    tasks: int
    per_task: int
    encoding: int
    cache: int

    @property
    def peak(self) -> int:
        """Bytes at most."""
        return self.resident + CODEC + self.cache + self.tasks * self.per_task + self.encoding


def project(plan: Plan, workers: list[Worker], *, apart: bool) -> Projection:
    """Projection for the worker that comes nearest to its limit.

    Parameters
    ----------
    apart
        Reading and encoding are tasks of their own: units wait between them.

    Raises
    ------
    ConfigError
        If it goes beyond the limit of a worker; the message says what would fit.
    """
    tightest, room = None, math.inf
    for worker in workers:
        tasks = worker.threads * (3 if apart else 1)
        per_task = max((task_bytes(plan, array) for array in plan.arrays), default=0)
        encoding = worker.threads * max((encoding_bytes(array) for array in plan.arrays), default=0)
        cache = max((granule.source.cache for granule in plan.granules), default=0)
        found = Projection(resident=worker.resident, tasks=tasks, per_task=per_task, encoding=encoding, cache=cache)
        left = worker.memory_limit * SHARE - found.peak if worker.memory_limit else math.inf
        if tightest is None or left < room:
            tightest, room = found, left
            limit = worker.memory_limit
    if tightest is None:
        raise ConfigError("Expected at least one worker. Got none.")
    if room < 0:
        raise ConfigError(
            f"Expected a conversion to take at most {limit * SHARE / 1e6:.0f} MB on each worker, {SHARE:.0%} of its "
            f"limit. {tightest.tasks} units at once need {tightest.peak / 1e6:.0f} MB. Give workers more memory or "
            "fewer threads, or make chunks or shards smaller."
        )
    return tightest


def room_for_unit(workers: list[Worker]) -> int:
    """Bytes of samples that a unit may have on every worker."""
    rooms = [MOST_ROOM]
    for worker in workers:
        if worker.memory_limit:
            left = worker.memory_limit * SHARE - worker.resident - CODEC
            rooms.append(int(left * UNIT_SHARE / ((COPIES + 1) * worker.threads * (3 if worker.gpus else 1))))
    return max(0, min(rooms))


def task_bytes(plan: Plan, array: ArrayPlan) -> int:
    """Bytes of a unit that is read and put together."""
    source = plan.granules[array.granule].source
    blocks = source.blocks(array.variable) or (1,) * len(array.shape)
    touched = [
        min(n, (-(-size // block) + 1) * block if size % block else size)
        for n, size, block in zip(array.shape, array.grid.unit, blocks, strict=True)
    ]
    reading = math.prod(touched) * array.dtype.itemsize
    return (COPIES - 1) * array.unit_nbytes + max(reading, array.unit_nbytes)


def encoding_bytes(array: ArrayPlan) -> int:
    """Bytes that encoding a chunk takes."""
    samples = math.prod(array.grid.chunks)
    return (samples * max(4, array.dtype.itemsize) * WORK) if array.config is not None else array.chunk_nbytes
