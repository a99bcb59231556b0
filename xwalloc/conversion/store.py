"""Keys and bytes of a Zarr store, from synchronous code; and a store that remembers what is written to it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import google_crc32c
from zarr.abc.store import Store
from zarr.core.buffer import Buffer, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore, WrapperStore

from xwalloc.errors import ConfigError

__all__ = [
    "Recorder", "checksum", "delete", "exists", "get", "is_absent", "is_empty", "keys", "local_path", "open_store",
    "place", "put", "sweep",
]  # fmt: skip


def open_store(store: Any, storage_options: dict[str, Any] | None = None) -> Store:
    """The store of a path, of a URL that fsspec knows, or of a store."""
    if isinstance(store, Store):
        return store
    if isinstance(store, Path) or (isinstance(store, str) and "://" not in store and "::" not in store):
        return LocalStore(os.path.abspath(os.path.expanduser(store)))
    if isinstance(store, str):
        return FsspecStore.from_url(store, storage_options=storage_options)
    raise ConfigError(f"Expected the path, the URL or a Zarr store to write to. Got {type(store).__name__}.")


def place(store: Any) -> str | None:
    """Path or URL of a store, to compare it with that of sources; None where it has none."""
    if isinstance(store, LocalStore | Path) or (isinstance(store, str) and "://" not in store):
        path = store.root if isinstance(store, LocalStore) else os.path.expanduser(store)
        return os.path.realpath(path)
    return store.rstrip("/") if isinstance(store, str) else None


def local_path(store: Store) -> Path | None:
    """Folder of a store on a file system of this machine; None for others."""
    return Path(store.root) if isinstance(store, LocalStore) else None


def is_absent(store: Store) -> bool:
    """Whether a store is a folder that is not there: Zarr makes it as soon as it looks into it."""
    folder = local_path(store)
    return folder is not None and not folder.exists()


def get(store: Store, key: str) -> bytes | None:
    """Bytes of an object; None where there is none."""
    if is_absent(store):
        return None
    found = sync(store.get(key, default_buffer_prototype()))
    return None if found is None else found.to_bytes()


def put(store: Store, key: str, data: bytes) -> None:
    """Write an object."""
    sync(store.set(key, default_buffer_prototype().buffer.from_bytes(data)))


def exists(store: Store, key: str) -> bool:
    """Whether there is an object."""
    return not is_absent(store) and sync(store.exists(key))


def delete(store: Store, key: str) -> None:
    """Delete an object, if it is there."""
    with suppress(FileNotFoundError):
        sync(store.delete(key))


def keys(store: Store, prefix: str) -> list[str]:
    """Keys of all objects below a prefix."""
    if is_absent(store):
        return []

    async def collect() -> list[str]:
        return [key async for key in store.list_prefix(prefix)]

    with suppress(FileNotFoundError):
        return sync(collect())
    return []


def is_empty(store: Store) -> bool:
    """Whether there is nothing in a store, or no store."""
    if is_absent(store):
        return True

    async def first() -> bool:
        async for _ in store.list():
            return False
        return True

    try:
        return sync(first())
    except FileNotFoundError:
        return True


def checksum(data: bytes | memoryview) -> int:
    """CRC-32C."""
    return int(google_crc32c.value(bytes(data)))


def sweep(store: Store) -> None:
    """Delete what killed writers left in a folder: files that were never renamed to what they were meant to be."""
    folder = local_path(store)
    for path in () if folder is None else folder.rglob("*.partial"):
        path.unlink(missing_ok=True)


class Recorder(WrapperStore[Store]):
    """A store that remembers length and checksum of what is written through it.

    Attributes
    ----------
    written
        ``(bytes, CRC-32C)`` by key.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.written: dict[str, tuple[int, int]] = {}

    async def set(self, key: str, value: Buffer) -> None:
        """Write, and remember."""
        data = value.to_bytes()
        await self._store.set(key, value)
        self.written[key] = len(data), checksum(data)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Not what a writer of whole units does."""
        raise NotImplementedError

    def objects(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """What was written, by key."""
        yield from sorted(self.written.items())
