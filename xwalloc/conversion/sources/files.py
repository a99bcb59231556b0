"""Paths and URLs of sources: where they lie, what they are called, and whether they have changed."""

from __future__ import annotations

import io
import os
import posixpath
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["Files", "RangeFile", "absolute", "filesystem", "head", "identifier", "is_url", "listed", "stamp", "stem"]

_CHANGES = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "created")
"""What file systems call that which changes with a file, best first."""


def is_url(path: str) -> bool:
    """Whether a source lies elsewhere than on a local disk."""
    return "://" in path


def absolute(path: str) -> str:
    """Path or URL of a source, whatever folder it was given from."""
    return path if is_url(path) else os.path.abspath(path)


def stem(path: str) -> str:
    """Name of a file or folder without folders and suffix.

    Examples
    --------
    >>> stem("https://example.org/data/scene.B04.tif?token=1"), stem("/archive/store.zarr/")
    ('scene.B04', 'store')
    """
    if is_url(path):
        path = path.split("?")[0]
    return Path(path.rstrip("/\\")).stem or "source"


def filesystem(url: str) -> tuple[Any, str]:
    """File system of fsspec and the path in it."""
    from fsspec.core import url_to_fs

    files, path = url_to_fs(url)
    return files, str(path)


def head(path: str, count: int = 1024) -> bytes:
    """First bytes of a file.

    Raises
    ------
    OSError
        If it cannot be read.
    """
    if not is_url(path):
        with open(path, "rb") as file:
            return file.read(count)
    files, inside = filesystem(path)
    return bytes(files.cat_file(inside, start=0, end=count))[:count]


def listed(folder: str) -> list[str]:
    """Paths of what lies in a folder, sorted."""
    if not is_url(folder):
        return sorted(str(path) for path in Path(folder).iterdir())
    files, inside = filesystem(folder)
    return sorted(files.unstrip_protocol(path) for path in files.ls(inside, detail=False))


def stamp(path: str) -> dict[str, Any]:
    """Where a file lies, its size in bytes and what changes with it; of JSON types.

    Raises
    ------
    OSError
        If it cannot be found.
    """
    if not is_url(path):
        facts = os.stat(path)
        return {"path": os.path.abspath(path), "size": facts.st_size, "modified": facts.st_mtime_ns}
    files, inside = filesystem(path)
    told: Mapping[str, Any] = files.info(inside)
    changed = next((str(told[key]) for key in _CHANGES if told.get(key) is not None), None)
    return {"path": path, "size": told.get("size"), "modified": changed}


class RangeFile(io.RawIOBase):
    """A file of fsspec, read range by range.

    Some file systems hand out one object for all who open a file: then threads would move each other's position.
    """

    def __init__(self, files: Any, path: str) -> None:
        self.files, self.path, self.size, self.at = files, path, int(files.size(path)), 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Position, in bytes."""
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go somewhere."""
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def readinto(self, buffer: Any) -> int:
        """As many bytes as fit into a buffer."""
        end = min(self.at + len(buffer), self.size)
        if end <= self.at:
            return 0
        found = self.files.cat_file(self.path, start=self.at, end=end)
        buffer[: len(found)] = found
        self.at += len(found)
        return len(found)


class Files:
    """A file system of fsspec as GDAL wants it."""

    def __init__(self, files: Any) -> None:
        self.files = files

    def open(self, path: str, mode: str = "r", **_: Any) -> io.BufferedReader:
        """A file, to be read."""
        return io.BufferedReader(RangeFile(self.files, path), 1 << 16)

    def isfile(self, path: str) -> bool:
        """Whether there is such a file."""
        return bool(self.files.isfile(path))

    def isdir(self, path: str) -> bool:
        """Whether there is such a folder."""
        return bool(self.files.isdir(path))

    def ls(self, path: str) -> list[str]:
        """Names in a folder."""
        return [posixpath.basename(name.rstrip("/")) for name in self.files.ls(path, detail=False)]

    def mtime(self, path: str) -> int:
        """Unknown to many file systems; GDAL does without."""
        return 0

    def size(self, path: str) -> int:
        """Bytes of a file."""
        return int(self.files.size(path))


def identifier(name: str) -> str:
    """A name as an attribute or a coordinate may have it.

    Examples
    --------
    >>> identifier("Cloud cover (%)"), identifier("2 m")
    ('Cloud_cover', '_2_m')
    """
    cleaned = re.sub(r"\W+", "_", name).strip("_") or "tag"
    return cleaned if not cleaned[0].isdigit() else f"_{cleaned}"
