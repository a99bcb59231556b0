# mypy: disable-error-code="no-untyped-call"
"""Units on the workers of a cluster: as many at once as they can hold, and again where one fails."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from distributed import Client, Future, as_completed

from xwalloc.conversion.here import Reference
from xwalloc.conversion.manifest import Record
from xwalloc.conversion.plan import UnitId
from xwalloc.conversion.unit import Job, Lost, read, read_and_write, write
from xwalloc.conversion.workers import Worker

__all__ = ["Failure", "Progress", "run"]

logger = logging.getLogger("xwalloc")

ATTEMPTS = 3
"""Times that a unit is tried where a read or a write fails."""

AHEAD = 2
"""Units that are given out for each that can be worked on: the next one waits where it will be needed."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A part of a source that is not in the store.

    Parameters
    ----------
    source
        Its name.
    path
        Array in the store; None where the source could not be opened.
    region
        Samples of that array, as ``(start, stop)`` along every axis.
    reason
        What went wrong.
    reading
        Whether the source cannot be read: it can be left out.
    """

    source: str
    reason: str
    path: str | None = None
    region: tuple[tuple[int, int], ...] | None = None
    reading: bool = False

    def __str__(self) -> str:
        if self.path is None or self.region is None:
            return f"{self.source}: {self.reason}"
        region = ", ".join(f"{start}:{stop}" for start, stop in self.region)
        return f"{self.path}[{region}]: {self.reason}"


@dataclass(kw_only=True)
class Progress:
    """How far a conversion is.

    Parameters
    ----------
    total, done
        Units: all, and those that are written. What earlier runs did counts as done.
    total_bytes, nbytes
        Bytes of samples: all, and those that are written.
    empty
        Bytes of those in units that are all fill value, which are not stored.
    stored
        Bytes in the store: of metadata and model of the arrays, and of units.
    earlier
        Bytes of samples that earlier runs wrote.
    max_error
        Largest error so far, by path of the array, as stored.
    seconds
        Since this run began.
    """

    total: int
    total_bytes: int
    done: int = 0
    nbytes: int = 0
    empty: int = 0
    stored: int = 0
    earlier: int = 0
    max_error: dict[str, float] = field(default_factory=dict)
    began: float = field(default_factory=time.monotonic)

    def add(self, record: Record, path: str) -> None:
        """Count a unit that is written."""
        self.done += 1
        self.nbytes += record.nbytes
        self.empty += 0 if record.objects else record.nbytes
        self.stored += record.stored
        if record.max_error is not None:
            self.max_error[path] = max(self.max_error.get(path, 0.0), record.max_error)

    @property
    def seconds(self) -> float:
        """Seconds since this run began."""
        return time.monotonic() - self.began

    @property
    def rate(self) -> float:
        """Bytes of samples written in a second by this run."""
        return (self.nbytes - self.earlier) / max(self.seconds, 1e-9)

    @property
    def ratio(self) -> float:
        """Bytes of samples in units that are stored, by bytes stored for them; NaN before there are any."""
        counted = self.nbytes - self.empty
        return counted / self.stored if counted else float("nan")

    @property
    def remaining(self) -> float:
        """Seconds that are left at this rate; infinite before the first unit."""
        return (self.total_bytes - self.nbytes) / self.rate if self.rate else float("inf")


def run(
    client: Client,
    workers: list[Worker],
    job: Job,
    units: Iterable[UnitId],
    done: Callable[[Record], None],
) -> list[Failure]:
    """Read, encode and write units.

    Where workers offer the resource ``GPU``, reading is spread over all workers and encoding goes to those; elsewhere
    each unit is one task. Only as many units as workers can hold are under way.

    Parameters
    ----------
    done
        Is told of every unit that is written.

    Returns
    -------
    list of Failure
        Units that could not be, after several attempts.
    """
    apart = any(worker.gpus for worker in workers)
    slots = sum(int(worker.gpus) for worker in workers) if apart else sum(worker.threads for worker in workers)
    here = all(worker.address.startswith("inproc://") for worker in workers)
    shared = client.submit(as_it_is, Reference(job) if here else job, key=f"xwalloc-job-{id(job)}-{time.time_ns()}")
    waiting = iter(units)
    attempts: dict[UnitId, int] = {}
    failures: list[Failure] = []
    names = itertools.count()

    def submit(unit: UnitId) -> Future[Any]:
        attempts[unit] = attempts.get(unit, 0) + 1
        key = f"xwalloc-{job.name(unit)}-{next(names)}-{shared.key}"
        if job.source(unit).in_memory and not here:
            where = {"GPU": 1} if apart else None
            return client.submit(write, shared, unit, read(job, unit), key=key, pure=False, resources=where)
        if not apart:
            return client.submit(read_and_write, shared, unit, key=key, pure=False)
        values = client.submit(read, shared, unit, key=f"read-{key}", pure=False)
        return client.submit(write, shared, unit, values, key=key, pure=False, resources={"GPU": 1})

    def more(count: int) -> Iterator[Future[Any]]:
        for unit in itertools.islice(waiting, count):
            future = submit(unit)
            under_way[future] = unit
            yield future

    under_way: dict[Future[Any], UnitId] = {}
    completed = as_completed(list(more(max(2, AHEAD * slots))))
    for future in completed:
        unit = under_way.pop(future)
        again: list[Future[Any]] = []
        answer = future.result() if future.status == "finished" else lost(future)
        if isinstance(answer, Record):
            done(answer)
        elif answer.again and attempts[unit] < ATTEMPTS:
            logger.info("Unit %s is tried again: %s", job.name(unit), answer.reason)
            again = [submit(unit)]
            under_way[again[0]] = unit
        else:
            failures.append(failure(job, unit, answer))
            logger.error("%s", failures[-1])
        future.release()
        for new in again or more(1):
            completed.add(new)
    return failures


def lost(future: Future[Any]) -> Lost:
    """Why a task came to nothing: its workers died, or all that knew what it needs."""
    if future.status != "error":
        return Lost("all workers that had to do with it are gone", True)
    error = future.exception()
    return Lost(f"{type(error).__name__}: {error}", False)


def failure(job: Job, unit: UnitId, lost: Lost) -> Failure:
    """A unit that failed."""
    number, place = unit
    array = job.arrays[number]
    return Failure(
        source=job.granules[array.granule].source.name,
        path=array.path,
        region=tuple((part.start, part.stop) for part in array.region(place)),
        reason=lost.reason,
        reading=lost.reading,
    )


def as_it_is(value: Any) -> Any:
    """What is given: a task of its own, which workers that come later can do again."""
    return value.value if isinstance(value, Reference) else value
