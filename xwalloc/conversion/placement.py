"""Where tasks run on a Dask cluster that has workers with GPUs: those that offer the resource "GPU"."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from xwalloc.errors import ConfigError
from xwalloc.extras import explaining

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["GPU", "gpu_workers", "persist"]

logger = logging.getLogger(__name__)

GPU = {"GPU": 1}
"""What a task asks of a worker that decodes on a GPU; a worker runs as many of them at once as it offers."""

T = TypeVar("T")


def gpu_workers(client: Client) -> list[str]:
    """Addresses of the workers that offer a GPU, sorted: those started with ``--resources GPU=1``, or more.

    Parameters
    ----------
    client
        Client of a cluster.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"]
    return sorted(at for at, worker in workers.items() if (worker.get("resources") or {}).get("GPU", 0) >= GPU["GPU"])


@explaining("xwalloc.persist")
def persist(obj: T, *, client: Client | None = None) -> T:
    """Read and decode an array on workers with GPUs, into the memory of the cluster.

    All that the array has been through so far runs there. What is computed from the result is free to run anywhere:
    persist first, then analyse. Where no worker offers a GPU, any worker decodes.

    Parameters
    ----------
    obj
        xarray Dataset or DataArray, or an array of Dask, that was opened lazily; variables in memory stay there.
    client
        Client of the cluster; None: the current one.

    Returns
    -------
    The same kind of object, backed by futures.

    Raises
    ------
    ConfigError
        If there is no client, or nothing in the object is lazy.
    """
    import distributed
    from dask.base import is_dask_collection

    if not is_dask_collection(obj):
        raise ConfigError(
            f"Expected an object with Dask arrays to persist. Got {type(obj).__name__} without any. Open the store "
            "with `xarray.open_zarr(store)`, or give `open_dataset` the argument `chunks={}`."
        )
    if client is None:
        try:
            client = distributed.get_client()
        except ValueError:
            raise ConfigError(
                "Expected a Dask cluster. Got no client. Make one with `distributed.Client(...)`, or pass `client`."
            ) from None
    workers = gpu_workers(client)
    logger.info("decoding on %s", f"{len(workers)} workers with GPUs" if workers else "any worker: none offers a GPU")
    # Given here instead of by dask.annotate: annotations of layers are lost when tasks fuse.
    persisted: T = client.persist(obj, resources=GPU if workers else None)  # type: ignore[no-untyped-call]
    return persisted
