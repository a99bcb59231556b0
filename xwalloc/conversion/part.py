"""A hidden folder beside a file that will be written: it goes when all is done, or when its process has died."""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows: nothing tells whether a process has died
    fcntl = None  # type: ignore[assignment]

__all__ = ["BEFORE", "part_of"]

BEFORE = "before"
"""Name, in the folder, of what was there before."""

LOCK = "lock"
"""Name of a file that holds the name of the machine, and is locked as long as the process lives."""


@contextmanager
def part_of(path: Path) -> Iterator[Path]:
    """Make a folder beside a path, and remove it in the end; first, remove those that killed processes left there."""
    remove_dead(path)
    folder = Path(tempfile.mkdtemp(prefix=prefix(path), suffix=".part", dir=path.parent))
    try:
        with open(folder / f"{LOCK}.new", "w", encoding="utf-8") as file:
            if fcntl is not None:
                with suppress(OSError):  # of file systems that know no locks
                    file.write(socket.gethostname())
                    file.flush()
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.replace(folder / f"{LOCK}.new", folder / LOCK)  # others see it locked or not at all
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def prefix(path: Path) -> str:
    """How the names of folders for a path begin."""
    return f".{path.name[:100]}-"


def remove_dead(path: Path) -> None:
    """Remove what processes of this machine left beside a path when they were killed.

    What was there before stays where nothing has taken its place.
    """
    name = re.compile(re.escape(prefix(path)) + r"[a-z0-9_]{8}\.part")
    for folder in path.parent.iterdir():
        if (
            name.fullmatch(folder.name)
            and is_dead(folder)
            and (os.path.lexists(path) or not (folder / BEFORE).exists())
        ):
            shutil.rmtree(folder, ignore_errors=True)


def is_dead(folder: Path) -> bool:
    """Whether the process that made a folder ran on this machine and has died. False where that cannot be told."""
    if fcntl is None:
        return False
    try:
        with open(folder / LOCK, "r+", encoding="utf-8") as file:
            if file.read() != socket.gethostname():
                return False
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False
