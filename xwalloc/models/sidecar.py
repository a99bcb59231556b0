"""Models beside the arrays that use them: uint8 arrays ``_xwalloc/<sha256>`` in the group of the array, Zarr v3 only.

Readers look in the groups around an array, from its own to the root of the store, so that groups may share a model.
What is found counts only if its SHA-256 is that of its name.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BytesCodec
from zarr.errors import ContainsArrayError, NodeTypeValidationError
from zarr.storage import StorePath

from xwalloc.errors import FormatError
from xwalloc.models import library
from xwalloc.models.model import PREFIX, Model, ModelReference

__all__ = ["FOLDER", "fetch", "keep", "kept", "size", "wanted", "write"]

FOLDER = "_xwalloc"
DIMENSION = "byte"
ZARR_JSON = "zarr.json"
CHUNK_BYTES = 1 << 23
LARGEST, MOST_CHUNKS = 1 << 29, 1 << 10
"""Bytes of the largest model that is read from a store, which is not trusted, and the number of its chunks."""

logger = logging.getLogger("xwalloc")

DAMAGE = (
    ValueError, TypeError, KeyError, IndexError, AttributeError, ZeroDivisionError, OverflowError, RecursionError,
)  # fmt: skip
"""What Zarr raises where there are no metadata of an array, or impossible ones, or a chunk is cut."""

_lock = threading.Lock()
_kept: set[str] = set()
"""Places where this process has found whole models."""

_warned: set[str] = set()
"""Stores that were warned of."""


def reset() -> None:
    """Forget the lock of the parent process, which a thread may have held at the fork."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=reset)


def wanted(reference: ModelReference | None) -> bool:
    """Whether a configuration names a model that it does not carry, and that this process does not know."""
    return reference is not None and reference.weights is None and library.cached(reference.key) is None


def write(group: zarr.Group, model: Model) -> None:
    """Write a model into a group, unless it is there."""
    with suppress(FormatError):  # what is damaged is written again
        if _read(_place(group.store_path, model.id), model.id) is not None:
            return
    data = np.frombuffer(model.data, "u1")
    group.require_group(FOLDER).create_array(
        model.id.removeprefix(PREFIX), data=data, chunks=(min(len(data), CHUNK_BYTES),), dimension_names=(DIMENSION,),
        compressors=None, filters=None, overwrite=True, attributes={"long_name": "model of xwalloc, as safetensors"},
    )  # fmt: skip


async def kept(place: StorePath, reference: ModelReference) -> bool:
    """Whether this process has seen to it (`keep`) that a store holds a model for a chunk, and it is still there."""
    for group in _groups(place):
        there = _place(group, reference.id)
        if str(there) in _kept and await (there / ZARR_JSON).exists():
            return True
    return False


def keep(place: StorePath, reference: ModelReference) -> None:
    """Have the store hold the model for a chunk that will be written, in a group around it.

    Where an array is the root of its store, what lies around it is out of sight: a warning is logged, once for each
    store. Must not be called on Zarr's event loop.

    Parameters
    ----------
    place
        Where the chunk will be.
    reference
        The model, which this process knows.

    Raises
    ------
    ModelError
        If this process does not know the model.
    """
    with _lock:
        for group in _groups(place):
            with suppress(FormatError):  # what is damaged is written again
                if _read(_place(group, reference.id), reference.id) is not None:
                    _kept.add(str(_place(group, reference.id)))
                    return
        for group in _groups(place):
            with suppress(FileNotFoundError, NodeTypeValidationError, ContainsArrayError):
                write(zarr.open_group(group, mode="r+"), library.resolve(reference))
                _kept.add(str(_place(group, reference.id)))
                return
        if str(place.store) not in _warned:
            _warned.add(str(place.store))
            logger.warning(
                "An array is the root of store %s, so that model %s cannot be seen or written beside it: readers need "
                "it in a group around the array, or its file in a folder that XWALLOC_MODEL_PATH names.",
                place.store,
                reference.id,
            )


def fetch(place: object, reference: ModelReference | None) -> None:
    """Have this process know the model of a configuration that does not carry it, if a store holds it.

    Must not be called on Zarr's event loop.

    Parameters
    ----------
    place
        Where an array or one of its chunks is; only a `StorePath` is looked at (inside shards there is none).
    reference
        What the configuration says.

    Raises
    ------
    FormatError
        If the store holds something else under the model's name.
    """
    with _lock:  # of chunks that want it at once, one reads it
        if not isinstance(place, StorePath) or reference is None or not wanted(reference):
            return
        for group in _groups(place):
            data = _read(_place(group, reference.id), reference.id)
            if data is not None:
                library.add(Model.from_bytes(data))
                return


def size(place: StorePath, reference: ModelReference | None) -> int:
    """Bytes that are stored for the model beside an array; 0 where none is in sight, or the configuration carries it.

    Must not be called on Zarr's event loop.
    """
    if reference is not None and reference.weights is None:
        for group in _groups(place):
            with suppress(FileNotFoundError, *DAMAGE):
                return int(zarr.Array.open(_place(group, reference.id)).nbytes_stored())
    return 0


def _groups(place: StorePath) -> Iterator[StorePath]:
    """The places around a place, up to the root of the store."""
    parts = place.path.split("/")
    for n in range(len(parts) - 1, -1, -1):
        yield StorePath(place.store, "/".join(parts[:n]))


def _place(group: StorePath, name: str) -> StorePath:
    return group / FOLDER / name.removeprefix(PREFIX)


def _read(where: StorePath, name: str) -> bytes | None:
    """Bytes of the model there; None where there is none.

    Raises
    ------
    FormatError
        If something else is there.
    """
    data = b""
    try:
        array: Any = zarr.Array.open(where)
        if (
            array.metadata.zarr_format == 3
            and array.dtype == np.uint8
            and array.ndim == 1
            and 0 < array.size <= LARGEST
            and array.nchunks <= MOST_CHUNKS
            and array.nchunks_initialized == array.nchunks
            and all(isinstance(codec, BytesCodec) for codec in array.metadata.codecs)
        ):
            data = array[:].tobytes()
    except FileNotFoundError:
        return None
    except DAMAGE:
        pass
    if hashlib.sha256(data).hexdigest() != name.removeprefix(PREFIX):
        raise FormatError(
            f"Expected array {where} to hold the model {name}. It holds something else: the store was damaged or only "
            "partly copied. Restore this array from where the store was copied from."
        )
    return data
