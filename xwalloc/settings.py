"""Runtime choices of this process: never part of a codec's configuration, because Zarr rebuilds codecs from JSON.

`settings` is a `donfig.Config`: set values for a block with ``with xwalloc.settings.set({"threads": 1}):``, for a
process with an environment variable (``XWALLOC_THREADS=1``, ``XWALLOC_DECODE__MAX_BYTES=...``) or for a user with a
YAML file in ``~/.config/xwalloc``.

========================  ===========  ==========================================================================
key                       default      meaning
========================  ===========  ==========================================================================
``threads``               null         kernel threads of this process; null: as many as the process may use
``decode.max_bytes``      2 GiB        largest array that a frame may claim where the caller does not say the shape
========================  ===========  ==========================================================================
"""

from __future__ import annotations

import os

import donfig

from xwalloc.errors import ConfigError

__all__ = ["decode_limit", "settings", "thread_count"]

DEFAULTS = {"threads": None, "decode": {"max_bytes": 2**31}}

settings = donfig.Config("xwalloc", defaults=[DEFAULTS])


def thread_count() -> int:
    """Number of threads that xwalloc may keep busy in this process.

    Raises
    ------
    ConfigError
        If the setting ``threads`` is neither null nor a positive integer.
    """
    threads = settings.get("threads")
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if isinstance(threads, int) and not isinstance(threads, bool) and threads >= 1:
        return threads
    raise ConfigError(f"Expected xwalloc setting 'threads' to be null or a positive integer. Got {threads!r}.")


def decode_limit() -> int:
    """Largest array, in bytes, that a frame may claim where the caller does not say its shape.

    Raises
    ------
    ConfigError
        If the setting ``decode.max_bytes`` is not an integer above 0.
    """
    limit = settings.get("decode.max_bytes")
    if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0:
        return limit
    raise ConfigError(
        f"Expected xwalloc setting 'decode.max_bytes' to be a number of bytes, such as 2147483648. Got {limit!r}."
    )
