"""The C allocator of workers.

Dask's nannies start workers with ``MALLOC_TRIM_THRESHOLD_=65536``, and glibc then gives every freed block of 128 KiB or
more back to the system. Encoding makes and frees many of such; getting zeroed pages each time doubles what it takes.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

__all__ = ["keep_freed_memory"]

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt(3)."""

LARGEST_MMAP_THRESHOLD = 32 << 20
KEPT = 256 << 20
"""Bytes that may stay free at the top of a heap."""


def keep_freed_memory() -> None:
    """Undo the nanny's setting in this process, where there is one and the allocator is that of glibc."""
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        return
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        mallopt(M_TRIM_THRESHOLD, KEPT)
