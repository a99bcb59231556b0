"""What a worker does: one unit is read, encoded and written, and noted in the manifest."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.store import Store
from zarr.storage import StorePath

from xwalloc import frames
from xwalloc.codec import engine
from xwalloc.conversion.allocator import keep_freed_memory
from xwalloc.conversion.manifest import Manifest, Record
from xwalloc.conversion.plan import ArrayPlan, Plan, UnitId
from xwalloc.conversion.sources.base import Source
from xwalloc.conversion.sources.find import Granule
from xwalloc.conversion.store import Recorder
from xwalloc.errors import XwallocError
from xwalloc.models import library
from xwalloc.models.model import Model

__all__ = ["Job", "Lost", "read", "read_and_write", "write"]


@dataclass(frozen=True)
class Lost:
    """A unit that could not be read or written: an answer instead of an exception, which Dask would log at length.

    Parameters
    ----------
    reason
        What went wrong.
    again
        Whether it may be worth to try again.
    reading
        Whether the source is to blame.
    """

    reason: str
    again: bool
    reading: bool = False


@dataclass(frozen=True)
class Job:
    """What workers must know of a conversion; each gets it once.

    Parameters
    ----------
    store
        Where to.
    granules, arrays
        As in `Plan`.
    metadata
        What Zarr knows of each array. It is not in the store while units are written (`prepare.put_arrays`).
    model
        Bytes of the model that chunks share.
    """

    store: Store
    granules: tuple[Granule, ...]
    arrays: tuple[ArrayPlan, ...]
    metadata: tuple[Any, ...]
    model: bytes | None
    _ready: threading.Event = field(default_factory=threading.Event, compare=False, repr=False)

    @classmethod
    def of(cls, plan: Plan, store: Store, metadata: tuple[Any, ...]) -> Job:
        """The job of a plan."""
        return cls(store, plan.granules, plan.arrays, metadata, None if plan.model is None else plan.model.data)

    def __reduce__(self) -> Any:
        return Job, (self.store, self.granules, self.arrays, self.metadata, self.model)

    def source(self, unit: UnitId) -> Source:
        """Where the samples of a unit come from."""
        return self.granules[self.arrays[unit[0]].granule].source

    def name(self, unit: UnitId) -> str:
        """Name of a unit in the manifest."""
        number, place = unit
        return self.arrays[number].unit_name(place)

    def prepare(self) -> None:
        """Have this process know the model, and keep the memory that it frees."""
        if not self._ready.is_set():
            keep_freed_memory()
            if self.model is not None:
                library.add(Model.from_bytes(self.model))
            self._ready.set()


def read(job: Job, unit: UnitId) -> NDArray[Any] | Lost:
    """Samples of a unit, as stored."""
    number, place = unit
    array = job.arrays[number]
    source = job.granules[array.granule].source
    region = array.region(place)
    try:
        values = np.asarray(source.read(array.variable, region))
    except Exception as error:  # libraries that read raise whatever they like
        reason = f"{source.name} could not be read: {type(error).__name__}: {error}"
        return Lost(reason, isinstance(error, OSError), reading=True)
    expected = tuple(part.stop - part.start for part in region)
    if values.shape != expected or values.dtype.newbyteorder("=") != array.dtype.newbyteorder("="):
        return Lost(
            f"Expected {array.dtype} {expected} of variable {array.variable!r} in {source.name}. Got {values.dtype} "
            f"{values.shape}: the source has changed since the conversion was planned.",
            False,
        )
    return values


def write(job: Job, unit: UnitId, values: NDArray[Any] | Lost) -> Record | Lost:
    """Encode and write a unit, and note that it is done."""
    if isinstance(values, Lost):
        return values
    try:
        return encode(job, unit, values)
    except (XwallocError, OSError, ValueError, RuntimeError) as error:
        return Lost(f"{type(error).__name__}: {error}", isinstance(error, OSError))


def encode(job: Job, unit: UnitId, values: NDArray[Any]) -> Record:
    """What `write` does where nothing goes wrong."""
    job.prepare()
    number, place = unit
    array = job.arrays[number]
    recorder = Recorder(job.store)
    place_in_store = StorePath(recorder, array.path)
    target: Any = zarr.Array(zarr.AsyncArray(metadata=job.metadata[number], store_path=place_in_store))
    errors: list[float | None] = []
    measured = frames.measure(target, errors.append)
    (target if measured is None else measured)[array.region(place)] = values
    known = [error for error in errors if error is not None]
    bounded = array.config is None or array.config.max_error is not None or array.config.lossless
    record = Record(
        unit=job.name(unit),
        objects=dict(recorder.objects()),
        nbytes=values.nbytes,
        max_error=max(known, default=0.0) if bounded else None,
        device=engine.device_kind(),
    )
    Manifest(job.store).write(record)
    return record


def read_and_write(job: Job, unit: UnitId) -> Record | Lost:
    """`read` and `write` in one task: samples never leave the worker."""
    return write(job, unit, read(job, unit))
