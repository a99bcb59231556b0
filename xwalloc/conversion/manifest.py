"""What of a conversion is done: one small object for each unit, since object stores cannot append.

While a conversion runs, its objects lie below ``_xwalloc/conversion`` in the store:

- ``plan.json``: what is converted, how; its fingerprint tells whether a later run may go on;
- ``units/<unit>.json``: a `Record`, written once a unit is.

When all is done, they become one array of Zarr, ``_xwalloc/conversion``, so that readers that list the store meet
nothing that they do not know.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.storage import MemoryStore

from xwalloc.conversion import store as objects
from xwalloc.conversion.here import Here
from xwalloc.errors import ConfigError

__all__ = ["FOLDER", "Manifest", "Record", "is_metadata", "refuse_unfinished"]

FOLDER = "_xwalloc/conversion"
PLAN, UNITS = f"{FOLDER}/plan.json", f"{FOLDER}/units/"
VERSION = 1
READERS = 16


def is_metadata(key: str) -> bool:
    """Whether a key is that of metadata of Zarr."""
    return key.rpartition("/")[2] in ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")


def refuse_unfinished(place: Any) -> None:
    """Refuse what cannot be opened because a conversion to it, or to a store around it, was not finished.

    Parameters
    ----------
    place
        Path, URL or store.

    Raises
    ------
    ConfigError
        If that is so.
    """
    around: list[Any] = [place] if isinstance(place, Store | str) else []
    if isinstance(place, str | os.PathLike) and "://" not in os.fspath(place):
        path = Path(os.path.abspath(os.path.expanduser(place)))
        around = [path, *path.parents]
    for each in around:
        store, begun = objects.open_store(each), False
        with suppress(OSError):  # of folders around that cannot be looked into
            begun = objects.exists(Manifest(store).notes, PLAN)
        if begun:
            raise ConfigError(
                f"Expected a store that is whole. The conversion to {store} was not finished: run the same command "
                "again."
            )


@dataclass(frozen=True, kw_only=True)
class Record:
    """A unit that is written.

    Parameters
    ----------
    unit
        Its name: path of the array, and place in the grid of units.
    objects
        ``(bytes, CRC-32C)`` of the objects that hold it, by key. A chunk that is all fill value has none.
    nbytes
        Bytes of its samples.
    max_error
        Largest error of its finite valid samples, as stored; None where no bound was asked for.
    device
        Kind of the device that encoded it.
    """

    unit: str
    objects: dict[str, tuple[int, int]]
    nbytes: int
    max_error: float | None
    device: str

    @property
    def stored(self) -> int:
        """Bytes of its objects."""
        return sum(size for size, _ in self.objects.values())

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        """From what `asdict` made."""
        return cls(**{**data, "objects": {key: (int(n), int(crc)) for key, (n, crc) in data["objects"].items()}})


@dataclass(frozen=True)
class Manifest:
    """The record of a conversion in its store."""

    store: Store

    @property
    def notes(self) -> Store:
        """Where single objects are."""
        return self.store.notes if isinstance(self.store, Here) else self.store

    @property
    def at_once(self) -> bool:
        """Whether readers see nothing before they see all: then samples come after their array, else before."""
        return self.notes is not self.store

    def plan(self) -> dict[str, Any] | None:
        """The plan of the conversion that is under way or complete; None where there was none.

        Raises
        ------
        ConfigError
            If a later version of xwalloc wrote it, or it is damaged.
        """
        data = objects.get(self.notes, PLAN)
        if data is not None:
            return self._parse(data)
        compact = self._compact()
        return None if compact is None else dict(compact["plan"])

    def begin(self, plan: dict[str, Any]) -> None:
        """Write the plan."""
        objects.put(self.notes, PLAN, json.dumps({"version": VERSION, **plan}, indent=1).encode())

    def forget(self, units: Iterable[str]) -> None:
        """Have units count as not written."""
        for unit in units:
            objects.delete(self.notes, f"{UNITS}{unit}.json")

    def withdraw(self) -> None:
        """Delete the plan."""
        objects.delete(self.notes, PLAN)

    def write(self, record: Record) -> None:
        """Note that a unit is written; comes after its objects."""
        objects.put(self.notes, f"{UNITS}{record.unit}.json", json.dumps(asdict(record)).encode())

    def records(self) -> dict[str, Record]:
        """Units that are written, by name; what was cut while it was written does not count."""
        found = {record["unit"]: Record.from_json(record) for record in (self._compact() or {}).get("units", ())}
        with ThreadPoolExecutor(READERS) as pool:
            for data in pool.map(lambda key: objects.get(self.notes, key), objects.keys(self.notes, UNITS)):
                try:
                    record = Record.from_json(json.loads(data or b""))
                except (ValueError, TypeError, KeyError):
                    continue
                found[record.unit] = record
        return found

    def is_whole(self, record: Record) -> bool:
        """Whether the objects of a unit are what was written."""
        for key, (size, crc) in record.objects.items():
            data = objects.get(self.store, key)
            if data is None or len(data) != size or objects.checksum(data) != crc:
                return False
        return True

    def finish(self, plan: dict[str, Any], records: Iterable[Record], zarr_format: int) -> None:
        """Put all records into one array; the single ones go in `clean`."""
        compact = {"plan": {"version": VERSION, **plan}, "units": [asdict(record) for record in records]}
        data = np.frombuffer(json.dumps(compact).encode(), "u1")
        memory = MemoryStore()
        root: Any = zarr.create_group(memory, zarr_format=zarr_format)  # type: ignore[arg-type]
        names: dict[str, Any] = {} if zarr_format == 2 else {"dimension_names": ("byte",)}
        text = "record of the conversion that wrote this store, as JSON"
        root.create_array(FOLDER, data=data, chunks=(len(data),), attributes={"long_name": text}, **names)
        inner = objects.keys(memory, FOLDER.partition("/")[0] + "/")
        for key in sorted(inner, key=is_metadata, reverse=self.at_once):
            objects.put(self.store, key, objects.get(memory, key) or b"")

    def clean(self) -> None:
        """Delete the single records, once they are together."""
        if self._compact() is None:
            return
        for key in [PLAN, *objects.keys(self.notes, UNITS)]:
            objects.delete(self.notes, key)

    def _compact(self) -> dict[str, Any] | None:
        if objects.is_absent(self.store):
            return None
        try:
            array = zarr.open_array(self.store, path=FOLDER, mode="r")
        except (FileNotFoundError, ValueError, KeyError):
            return None
        found = self._parse(np.asarray(array[:]).tobytes())
        return found if found.get("plan") is not None else None

    def _parse(self, data: bytes) -> dict[str, Any]:
        try:
            found = json.loads(data)
            version = found.get("version", found.get("plan", {}).get("version"))
        except (ValueError, AttributeError):
            raise ConfigError(
                f"Expected the record of a conversion in {self.store}, at {FOLDER}. It is damaged. Convert into "
                "another store, or again with overwrite=True."
            ) from None
        if version != VERSION:
            raise ConfigError(
                f"Expected a conversion of version {VERSION} in {self.store}. Got {version}: it was begun by another "
                "version of xwalloc. Go on with that."
            )
        return dict(found)
