"""`xwalloc.convert`: sources into one store, begun, gone on with, or found complete."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Literal

from distributed import Client
from zarr.abc.store import Store

from xwalloc.codec.config import Profile
from xwalloc.conversion import store as objects
from xwalloc.conversion.begin import agree, note_of, plan_in
from xwalloc.conversion.here import held
from xwalloc.conversion.manifest import Manifest, Record
from xwalloc.conversion.memory import MOST_ROOM, Projection, project, room_for_unit
from xwalloc.conversion.plan import Plan, UnitId, make_plan, with_shards
from xwalloc.conversion.prepare import array_metadata, bytes_beside, finish_groups, is_finished, layout, put_arrays
from xwalloc.conversion.replace import Replacement
from xwalloc.conversion.run import Failure, Progress, run
from xwalloc.conversion.sources.dataset import DatasetSource
from xwalloc.conversion.sources.files import absolute
from xwalloc.conversion.sources.find import find
from xwalloc.conversion.sources.opened import release
from xwalloc.conversion.sources.stack import StackSource
from xwalloc.conversion.unit import Job
from xwalloc.conversion.workers import Worker, cluster, look, refuse_unseen
from xwalloc.errors import ConfigError
from xwalloc.info import parts
from xwalloc.models.model import Model
from xwalloc.types import cached_property
from xwalloc.xarray import as_dims
from xwalloc.xarray.plan import PerVariable, Request

__all__ = ["Conversion", "Preparation", "convert", "prepare"]

logger = logging.getLogger("xwalloc")

CHECKED_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What came of a conversion.

    Parameters
    ----------
    store
        Where it went.
    units, earlier
        Units of the store, and how many of them were written before this run.
    nbytes
        Bytes of the samples that are written.
    empty
        Bytes of those in units (shards, or chunks) that are all fill value, which are not stored.
    chunks, metadata
        Bytes that are stored: of chunks, and of metadata and model of their arrays. Coordinates, groups, consolidated
        metadata and the record of the conversion are not counted.
    has_model
        Whether there is a model among the latter.
    max_error
        Largest error of finite valid samples by path of the array, as stored; arrays without a bound are left out.
    failures
        What could not be converted.
    complete
        Whether the store is whole: its root can be opened.
    seconds
        That this run took.
    """

    store: str
    units: int
    earlier: int
    nbytes: int
    empty: int
    chunks: int
    metadata: int
    has_model: bool
    max_error: dict[str, float]
    failures: tuple[Failure, ...]
    complete: bool
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether everything was converted."""
        return self.complete and not self.failures

    @property
    def stored(self) -> int:
        """Bytes that are stored."""
        return self.chunks + self.metadata

    @property
    def parts(self) -> list[tuple[str, int]]:
        """Bytes that are stored, by what they are."""
        return parts(self.chunks, self.metadata, self.has_model)

    @property
    def ratio(self) -> float:
        """Bytes of samples in units that are stored, by bytes stored for them; NaN where there are none."""
        counted = self.nbytes - self.empty
        return counted / self.stored if counted else math.nan


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """A conversion that is planned, and sources that cannot be read."""

    plan: Plan
    unreadable: tuple[Failure, ...]


def prepare(
    source: Any,
    *,
    max_error: PerVariable[float] = None,
    snr: PerVariable[float] = None,
    lossless: bool = False,
    channel_dim: Hashable | None = None,
    signal_dims: Hashable | Sequence[Hashable] | None = None,
    model: Model | None = None,
    nodata: PerVariable[float] = None,
    chunks: Mapping[Hashable, int] | None = None,
    shards: Mapping[Hashable, int] | Literal["auto"] | None = None,
    profile: Profile = "default",
    zarr_format: int = 3,
    along: str | None = None,
    skip_unreadable: bool = False,
    room: int = MOST_ROOM,
    before: Mapping[str, Any] | None = None,
    target: Any = None,
) -> Preparation:
    """Plan a conversion; arguments are those of `convert`. Nothing is written.

    Parameters
    ----------
    room
        Bytes that a unit may take, for ``shards="auto"``.
    before
        Plan of the conversion that will be gone on with: it keeps the shards that were chosen.
    target
        Where the store will be: in folders of sources it is passed over.

    Raises
    ------
    ConfigError
        If something is not possible, or no source can be read.
    """
    sources = [source] if isinstance(source, str) or not isinstance(source, Sequence) else list(source)
    found = find(sources, along=along, target=None if target is None else objects.place(target))
    unreadable = tuple(Failure(source=name, reason=reason, reading=True) for name, reason in found.unreadable)
    if not found.granules:
        raise ConfigError("Expected a source that can be read. Got none. " + "; ".join(map(str, unreadable)))
    if unreadable and along is not None and not skip_unreadable:
        raise ConfigError(
            f"Expected all sources to be readable, since they become one array along {along!r}. "
            f"{'; '.join(map(str, unreadable))}. Repair them, or leave them out with skip_unreadable."
        )
    for failure in unreadable:
        logger.error("%s", failure)
    request = Request(
        max_error=max_error, snr=snr, lossless=lossless, channel_dim=channel_dim, signal_dims=as_dims(signal_dims),
        model=model, nodata=nodata, chunks=chunks, shards=None if shards == "auto" else shards,
        profile=profile, zarr_format=zarr_format, beside=True,
    )  # fmt: skip
    asked = {
        "max_error": max_error, "snr": snr, "lossless": lossless or None, "channel_dim": channel_dim,
        "signal_dims": signal_dims, "model": None if model is None else model.id, "nodata": nodata, "chunks": chunks,
        "shards": shards, "along": along, "profile": None if profile == "default" else profile,
    }  # fmt: skip
    settings = {key: plain(value) for key, value in asked.items() if value is not None}
    plan = make_plan(tuple(found.granules), request, settings)
    if shards == "auto":
        plan = with_shards(plan, room, before)
    return Preparation(plan=plan, unreadable=unreadable)


def plain(value: Any) -> Any:
    """A setting in JSON types."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value


def convert(
    source: Any,
    store: Any,
    *,
    max_error: PerVariable[float] = None,
    snr: PerVariable[float] = None,
    lossless: bool = False,
    channel_dim: Hashable | None = None,
    signal_dims: Hashable | Sequence[Hashable] | None = None,
    model: Model | None = None,
    nodata: PerVariable[float] = None,
    chunks: Mapping[Hashable, int] | None = None,
    shards: Mapping[Hashable, int] | Literal["auto"] | None = None,
    profile: Profile = "default",
    zarr_format: int = 3,
    along: str | None = None,
    client: Client | None = None,
    scheduler: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    skip_unreadable: bool = False,
    storage_options: dict[str, Any] | None = None,
    progress: Callable[[Progress], None] | None = None,
    planned: Callable[[Plan, Projection], None] | None = None,
) -> Conversion:
    """Convert sources to one Zarr store, compressed with xwalloc, on a Dask cluster or on this machine.

    The same call again goes on where it was stopped. Until all is written, neither the root of the store can be
    opened nor an array by its own path; of several sources, groups that are whole can be.

    Parameters
    ----------
    source
        Path, URL or pattern of GeoTIFF, COG, VRT, ENVI, NetCDF, HDF5 or Zarr, a folder of such, a dataset or array of
        xarray, or a sequence of these.
    store
        Path or URL of the store to write, or a Zarr store.
    max_error, snr, lossless, channel_dim, signal_dims, model, nodata, chunks, shards, profile, zarr_format
        As for `xwalloc.encoding`. Bounds are in the units that users see (where values are packed, in unpacked ones).
        Variables of a raster are taken whatever their dtype. Names and dimensions are looked for in all groups and
        sources together; a name is the end of a path ("lon" is any, "location/lon" that of a group) or, after a slash,
        all of it ("/lon" is that of the root), and the longest that fits counts. ``shards="auto"``: as many chunks as
        the memory of the workers allows, up to 128 MiB of samples.
    along
        Dimension along which several sources become one array; where they do not have it, it is made. None: each
        becomes a group of the store.
    client, scheduler, workers
        At most one: a client of Dask, the address of a scheduler, or a number of worker processes on this machine.
        None: threads of this process.
    overwrite
        Replace a store that `convert` wrote: the new one is built beside it and renamed when it is complete. Only on
        file systems.
    skip_unreadable
        Complete the store without sources that cannot be opened, or read somewhere. They are still failures. Along a
        dimension, only those that cannot be opened are left out.
    storage_options
        For fsspec, where `store` is a URL.
    progress, planned
        Are told how far the conversion is, after each unit, and what will be done, before the first.

    Returns
    -------
    Conversion
        Says what failed, if anything did.

    Raises
    ------
    ConfigError
        If something is not possible; nothing is touched then.
    """
    final = held(objects.open_store(store, storage_options))
    replacement = Replacement.of(final) if overwrite else None
    target = final if replacement is None else replacement.store
    with cluster(client, scheduler, workers) as connected, ExitStack() as stack:
        stack.callback(release)  # here, where sources were planned, also where that is refused
        crew = look(connected)
        refuse_unseen(target, crew)
        preparation = prepare(
            source, max_error=max_error, snr=snr, lossless=lossless, channel_dim=channel_dim, signal_dims=signal_dims,
            model=model, nodata=nodata, chunks=chunks, shards=shards, profile=profile, zarr_format=zarr_format,
            along=along, skip_unreadable=skip_unreadable, room=room_for_unit(crew), before=plan_in(target),
            target=store,
        )  # fmt: skip
        missing = {absolute(failure.source): failure.reason for failure in preparation.unreadable}
        projection = project(preparation.plan, crew, apart=any(worker.gpus for worker in crew))
        if planned is not None:
            planned(preparation.plan, projection)
        try:
            beginning = agree(target, preparation.plan, missing)
        except ConfigError:
            if replacement is None or not replacement.discard():  # it was begun with other settings
                raise
            beginning = agree(target, preparation.plan, missing)
        made = layout(preparation.plan, beginning.created, missing if skip_unreadable else {})
        beginning.write()
        try:
            look(connected, beginning.manifest)
        except ConfigError:
            beginning.undo()
            raise
        task = Task(
            client=connected, crew=crew, store=target, manifest=beginning.manifest, created=beginning.created,
            plan=preparation.plan, made=made, unreadable=preparation.unreadable, skip=skip_unreadable,
        )  # fmt: skip
        try:
            result = task.work(progress or (lambda progress: None))
        finally:
            connected.run(release, on_error="ignore")  # a worker that dies has nothing open
    if replacement is not None and result.complete:
        replacement.swap()
    return result


@dataclass(frozen=True, kw_only=True)
class Task:
    """A conversion that is under way."""

    client: Client
    crew: list[Worker]
    store: Store
    manifest: Manifest
    created: str
    plan: Plan
    made: dict[str, bytes]
    unreadable: tuple[Failure, ...]
    skip: bool

    def work(self, tell: Callable[[Progress], None]) -> Conversion:
        """Write what is not written yet."""
        job, names = Job.of(self.plan, self.store, array_metadata(self.plan, self.made)), self.names
        records = self.whole({k: v for k, v in self.manifest.records().items() if k in names})
        progress = self.progress(records.values())
        progress.earlier = progress.nbytes
        earlier = set(records)
        todo = [unit for name, unit in names.items() if name not in records]
        if todo or not is_finished(self.store, self.made):
            put_arrays(self.store, self.plan, self.made, at_once=self.manifest.at_once)

        def done(record: Record) -> None:
            records[record.unit] = record
            progress.add(record, self.path(names[record.unit]))
            tell(progress)

        tell(progress)
        failures = run(self.client, self.crew, job, todo, done)
        rest = self.without_unread(failures) if self.skip else self
        records = {name: records[name] for name in rest.names if name in records}
        rest.finish(records, repaired=bool(todo))
        found, beside = rest.progress(records.values()), bytes_beside(rest.plan, rest.made)
        complete = found.done == found.total and (self.skip or not self.unreadable)
        return Conversion(
            store=str(self.store), units=found.total, earlier=len(earlier & records.keys()), nbytes=found.nbytes,
            empty=found.empty, chunks=found.stored - beside, metadata=beside, has_model=self.plan.model is not None,
            max_error=dict(sorted(found.max_error.items())), failures=(*self.unreadable, *failures),
            complete=complete, seconds=progress.seconds,
        )  # fmt: skip

    @cached_property
    def names(self) -> dict[str, UnitId]:
        """Units by their names in the manifest."""
        return {self.plan.arrays[number].unit_name(place): (number, place) for number, place in self.plan.unit_ids()}

    def progress(self, records: Iterable[Record]) -> Progress:
        """How far the conversion is where units are written."""
        names = self.names
        beside = bytes_beside(self.plan, self.made)
        found = Progress(total=len(names), total_bytes=self.plan.nbytes, stored=beside)
        for record in records:
            found.add(record, self.path(names[record.unit]))
        return found

    def without_unread(self, failures: Sequence[Failure]) -> Task:
        """The task without sources of which parts could not be read; what is written of them is deleted.

        Nothing is left out where that would not complete the store, nor groups that were whole once.
        """
        granules, arrays = self.plan.granules, {array.path: array for array in self.plan.arrays}
        reasons = {granules[arrays[f.path].granule].given: f.reason for f in failures if f.path is not None}
        lost = {number for number, granule in enumerate(granules) if granule.given in reasons}
        tied = any(isinstance(granules[number].source, StackSource | DatasetSource) for number in lost)
        kept = tied or len(lost) == len(granules) or not all(failure.reading for failure in failures)
        if not lost or kept or any(self.was_whole(granules[number].path) for number in lost):
            return self
        plan = self.plan.without(lost)
        missing = {absolute(failure.source): failure.reason for failure in self.unreadable}
        missing |= {absolute(given): reason for given, reason in reasons.items()}
        rest = replace(self, plan=plan, made=layout(plan, self.created, missing))
        self.manifest.begin(note_of(plan, missing, self.created))
        self.manifest.forget(self.names.keys() - rest.names.keys())
        folders = [f"{path}/" for path, array in arrays.items() if array.granule in lost]
        written = {key for folder in folders for key in objects.keys(self.store, folder)}
        for key in (written | self.made.keys()) - rest.made.keys():
            objects.delete(self.store, key)
        return rest

    def was_whole(self, path: str) -> bool:
        """Whether readers can open a group."""
        return any(objects.exists(self.store, f"{path}/{name}".lstrip("/")) for name in ("zarr.json", ".zgroup"))

    def path(self, unit: UnitId) -> str:
        """Path of the array of a unit."""
        return self.plan.arrays[unit[0]].path

    def whole(self, records: dict[str, Record]) -> dict[str, Record]:
        """Records of the units whose objects are what was written; workers read them."""
        names = sorted(records)
        parts = [names[i : i + CHECKED_AT_ONCE] for i in range(0, len(names), CHECKED_AT_ONCE)]
        manifest = self.manifest
        futures = [self.client.submit(check, manifest, [records[name] for name in part], pure=False) for part in parts]
        good = {name for found in self.client.gather(futures) for name in found}  # type: ignore[no-untyped-call]
        for name in names:
            if name not in good:
                logger.warning("Unit %s was damaged after it was written: it is written again.", name)
        return {name: record for name, record in records.items() if name in good}

    def finish(self, records: dict[str, Record], *, repaired: bool) -> None:
        """Make groups that are whole what readers can open; with the last of them, the root."""
        names = self.names
        granules = range(len(self.plan.granules))
        open_ones = {self.plan.arrays[unit[0]].granule for name, unit in names.items() if name not in records}
        whole = {self.plan.granules[number].path for number in granules if number not in open_ones}
        waits = bool(self.unreadable) and not self.skip
        if not open_ones and not waits and (repaired or not is_finished(self.store, self.made)):
            ordered = [records[name] for name in names]
            self.manifest.finish(self.manifest.plan() or {}, ordered, self.plan.zarr_format)
        if repaired or not is_finished(self.store, self.made):
            finish_groups(self.store, self.plan, self.made, whole, root=not waits)
        if not open_ones and not waits:
            objects.sweep(self.store)
            self.manifest.clean()


def check(manifest: Manifest, records: list[Record]) -> list[str]:
    """Names of units that are what was written; runs on a worker."""
    return [record.unit for record in records if manifest.is_whole(record)]
