"""A store that takes the place of another once it is complete."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from zarr.abc.store import Store
from zarr.storage import LocalStore

from xwalloc.conversion import store as objects
from xwalloc.conversion.manifest import Manifest
from xwalloc.errors import ConfigError

__all__ = ["Replacement"]


@dataclass(frozen=True)
class Replacement:
    """A store that is built beside a folder and renamed.

    Parameters
    ----------
    path
        The folder that it will be.
    """

    path: Path

    @classmethod
    def of(cls, store: Store) -> Replacement:
        """What will replace a store.

        Raises
        ------
        ConfigError
            If renaming is not atomic there, or what is there is not a store that `convert` wrote.
        """
        path = objects.local_path(store)
        if path is None:
            raise ConfigError(
                f"Expected overwrite only for folders, which can be renamed at once. Got {store}. Convert to another "
                "URL, and delete the old one afterwards."
            )
        found = cls(path)
        found.recover()
        if path.exists() and not objects.is_empty(store) and Manifest(store).plan() is None:
            raise ConfigError(
                f"Expected to overwrite a store that xwalloc converted. Got {path}, which is something else: data of "
                "others is never deleted. Choose another place."
            )
        return found

    @property
    def building(self) -> Path:
        """Where the new store is built."""
        return self.path.with_name(f".{self.path.name}.new")

    @property
    def old(self) -> Path:
        """Where the old store is while they change places."""
        return self.path.with_name(f".{self.path.name}.old")

    @property
    def store(self) -> LocalStore:
        """The store that is built."""
        return LocalStore(self.building)

    def recover(self) -> None:
        """Undo a change of places that was interrupted between its two steps, or end it where both were done."""
        if self.old.exists() and is_ours(self.old):
            if self.path.exists():
                shutil.rmtree(self.old)
            else:
                self.old.rename(self.path)

    def discard(self) -> bool:
        """Delete what an earlier run began to build here; whether there was something."""
        ours = self.building.exists() and is_ours(self.building)
        if ours:
            shutil.rmtree(self.building)
        return ours

    def swap(self) -> None:
        """Put the new store in its place, and delete the old one."""
        if self.path.exists():
            self.path.rename(self.old)
        self.building.rename(self.path)
        if self.old.exists():
            shutil.rmtree(self.old)


def is_ours(path: Path) -> bool:
    """Whether a folder is a store that `convert` wrote or began."""
    return Manifest(LocalStore(path)).plan() is not None
