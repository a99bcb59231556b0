# mypy: disable-error-code="no-untyped-call"
"""The cluster of a conversion: its own or the caller's, looked at before work is given to it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
from distributed import Client, LocalCluster
from distributed.comm.addressing import parse_address, parse_host_port
from distributed.comm.registry import get_backend
from zarr.abc.store import Store

from xwalloc.codec import engine
from xwalloc.conversion.here import Here
from xwalloc.conversion.manifest import Manifest
from xwalloc.errors import ConfigError
from xwalloc.settings import check_settings, device_choice, thread_count
from xwalloc.version import __version__

__all__ = ["Worker", "cluster", "look", "refuse_unseen"]

logger = logging.getLogger("xwalloc")

PATIENCE = 60
"""Seconds to wait for the first worker."""


@dataclass(frozen=True, kw_only=True)
class Worker:
    """What a worker says of itself.

    Parameters
    ----------
    address
        Of the worker.
    threads
        Tasks that it runs at once.
    gpus
        Of the resource ``GPU``, what it offers.
    memory_limit
        Bytes that it may use; 0 where there is no limit.
    resident
        Bytes that its process takes before the conversion.
    version
        Of xwalloc.
    plan
        Fingerprint of the conversion that it finds in the store; None where it finds none.
    trouble
        Why it cannot encode with its settings; None where it can.
    """

    address: str
    threads: int
    gpus: float
    memory_limit: int
    resident: int
    version: str
    plan: str | None
    trouble: str | None = None


def _check_address(address: str) -> None:
    """Refuse what is no address: a client that does is not stopped, and the next one may wait for it in vain.

    Raises
    ------
    ValueError
        If no scheduler can be there.
    """
    scheme, location = parse_address(address)
    get_backend(scheme)
    if scheme in ("tcp", "tls"):
        parse_host_port(location)


@contextmanager
def cluster(client: Client | None, scheduler: str | None, workers: int | None) -> Iterator[Client]:
    """The client that is given, or one of a scheduler, or of a cluster on this machine.

    Parameters
    ----------
    client
        Is used, and left alone.
    scheduler
        Address of a scheduler.
    workers
        Worker processes on this machine that share its cores; None: threads of this process.
    """
    if sum(value is not None for value in (client, scheduler, workers)) > 1:
        raise ConfigError("Expected one of client, scheduler and workers. Got several. Leave out all but one.")
    check_settings()
    if client is not None:
        yield client
        return
    if scheduler is not None:
        try:
            _check_address(scheduler)
            remote = Client(scheduler, timeout=PATIENCE)
        except (OSError, TimeoutError, ValueError) as error:  # ValueError: it is no address
            raise ConfigError(
                f"Expected a Dask scheduler at {scheduler}. Got none ({error}). Check the address and that it runs."
            ) from None
        with remote:
            yield remote
        return
    cores = thread_count()
    if workers is not None and workers < 1:
        raise ConfigError(f"Expected workers to be 1 or more. Got {workers}.")
    count = workers or 1
    options = {"processes": workers is not None, "dashboard_address": ":0", "silence_logs": logging.CRITICAL}
    with (
        LocalCluster(n_workers=count, threads_per_worker=max(1, cores // count), **options) as local,
        Client(local) as own,
    ):
        yield own


def look(client: Client, manifest: Manifest | None = None) -> list[Worker]:
    """What every worker says of itself, before it gets work.

    Raises
    ------
    ConfigError
        If there is no worker, or xwalloc is missing or another version on one, or one does not see the store, or one
        that will encode cannot do so with its settings.
    """
    try:
        client.wait_for_workers(1, timeout=PATIENCE)
    except TimeoutError:
        raise ConfigError(
            f"Expected a worker on the cluster of {client} within {PATIENCE} s. Got none: start "
            "workers, or scale the cluster, and run this again."
        ) from None
    info = client.scheduler_info(n_workers=-1)["workers"]
    try:
        found = client.run(probe, manifest, on_error="return")
    except Exception as error:
        raise unsuitable("some worker", error) from error
    workers = []
    for address, answer in found.items():
        if isinstance(answer, BaseException):
            raise unsuitable(f"worker {address}", answer)
        facts = info[address]
        workers.append(
            Worker(
                address=address,
                threads=facts["nthreads"],
                gpus=float(facts.get("resources", {}).get("GPU", 0)),
                memory_limit=int(facts.get("memory_limit") or 0),
                **answer,
            )
        )
    check(workers, manifest)
    return workers


def refuse_unseen(store: Store, workers: list[Worker]) -> None:
    """Refuse a store of this process where workers are other processes, which would not see it."""
    apart = [worker for worker in workers if not worker.address.startswith("inproc://")]
    if apart and isinstance(store, Here):
        raise unseen(store, apart[0])


def unseen(store: Store, worker: Worker) -> ConfigError:
    """An error that says that a worker does not see a store."""
    return ConfigError(
        f"Expected every worker to see the store {store}. {worker.address} does not. Use a URL or a folder that all "
        "machines share; a store in memory, or one that cannot be pickled, only goes without worker processes."
    )


def probe(manifest: Manifest | None) -> dict[str, Any]:
    """What `look` asks of a worker; runs there."""
    import zarr

    from xwalloc.codec.chunk import ChunkCodec
    from xwalloc.conversion.plan import Plan
    from xwalloc.zarr import Walloc

    del ChunkCodec, Plan  # what encodes can be imported
    if zarr.registry.get_codec_class("xwalloc") is not Walloc:
        raise ConfigError("Expected Zarr's codec 'xwalloc' to be that of this package. Install xwalloc anew.")
    plan = None if manifest is None else manifest.plan()
    return {
        "resident": psutil.Process(os.getpid()).memory_info().rss,
        "version": __version__,
        "plan": None if plan is None else plan.get("fingerprint"),
        "trouble": trouble(),
    }


def trouble() -> str | None:
    """Why this process cannot encode with its settings; None where it can."""
    try:
        check_settings()
        if device_choice() != "auto":  # which need not be looked for yet
            engine.device()
    except ConfigError as error:
        return str(error)
    return None


def check(workers: list[Worker], manifest: Manifest | None) -> None:
    """Refuse workers of another version, and such that cannot encode or do not see the store."""
    others = [worker for worker in workers if worker.version != __version__]
    if others:
        raise ConfigError(
            f"Expected xwalloc {__version__} on all workers, as here. Got {others[0].version} on {others[0].address}. "
            "Install the same version everywhere."
        )
    apart = any(worker.gpus for worker in workers)
    for worker in workers:
        if worker.trouble is not None and (worker.gpus or not apart):
            where = "" if worker.address.startswith("inproc://") else f" (worker {worker.address})"
            raise ConfigError(f"{worker.trouble}{where}")
    plan = None if manifest is None else (manifest.plan() or {}).get("fingerprint")
    blind = [worker for worker in workers if worker.plan != plan]
    if blind and manifest is not None:
        raise unseen(manifest.store, blind[0])


def unsuitable(who: str, error: BaseException) -> ConfigError:
    """An error that says what a worker lacks."""
    if isinstance(error, ModuleNotFoundError):
        return ConfigError(
            f"Expected {error.name} to be installed on all workers. It is missing on {who}. Install xwalloc[convert] "
            "there, in the same version as here."
        )
    return ConfigError(f"Expected all workers to be able to convert. {who} is not: {type(error).__name__}: {error}")
