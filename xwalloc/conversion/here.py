"""What stays in this process: it is pickled as a reference, and found again only here.

A store in memory would be pickled with its contents: what workers wrote to their copy would be lost.
"""

from __future__ import annotations

import pickle
import uuid
from typing import Any
from weakref import WeakValueDictionary

from zarr.abc.store import Store
from zarr.storage import MemoryStore, WrapperStore

__all__ = ["Here", "Reference", "held"]

_HERE: WeakValueDictionary[str, Any] = WeakValueDictionary()


def found(token: str, name: str) -> Any:
    """What a token stands for.

    Raises
    ------
    LookupError
        If this is another process.
    """
    try:
        return _HERE[token]
    except KeyError:
        raise LookupError(f"{name} stays in the process that it was made in") from None


class Reference:
    """Stands for a value that the caller keeps alive; unpickled, it is that value."""

    def __init__(self, value: Any) -> None:
        self.value, self.token = value, uuid.uuid4().hex
        _HERE[self.token] = value

    def __reduce__(self) -> Any:
        return found, (self.token, type(self.value).__name__)


class Here(WrapperStore[Store]):
    """A store of this process.

    Attributes
    ----------
    notes
        Where objects go that are neither arrays nor groups: a store in memory for Icechunk, which refuses them, else
        this store. What is written to a session of Icechunk becomes visible at once, when its caller commits it, so
        that they need not outlast the conversion.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.token = uuid.uuid4().hex
        self.notes: Store = MemoryStore() if type(store).__name__ == "IcechunkStore" else self
        _HERE[self.token] = self

    def __reduce__(self) -> Any:
        return found, (self.token, str(self._store))

    def __str__(self) -> str:
        return str(self._store)


def held(store: Store) -> Store:
    """The store, kept in this process where copies of it would not be the same store."""
    if isinstance(store, MemoryStore):
        return Here(store)
    try:
        pickle.dumps(store)
    except Exception:  # of whatever kind: stores of others may refuse for good reasons
        return Here(store)
    return store
