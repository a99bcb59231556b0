"""Runtime choices of this process: never part of a codec's configuration, because Zarr rebuilds codecs from JSON.

`settings` is a `donfig.Config`: set values for a block with ``with xwalloc.settings.set({"threads": 1}):``, for a
process with an environment variable (``XWALLOC_THREADS=1``, ``XWALLOC_DECODE__MAX_BYTES=...``) or for a user with a
YAML file in ``~/.config/xwalloc``.

========================  ===========  ==========================================================================
key                       default      meaning
========================  ===========  ==========================================================================
``threads``               null         kernel threads of this process; null: as many as the process may use
``device``                auto         where chunks are computed: "cpu", "cuda" (the first CUDA device that this process
                                       sees), "cuda:1"; "auto": "cuda" where there is one and torch is installed, else
                                       "cpu"; without Triton, only networks are computed there
``batch.max_bytes``       null         memory, about, of the chunks that a CUDA device works on at a time, and again of
                                       those that wait there; null: a quarter of what is free when it is first used
``decode.max_bytes``      2 GiB        largest array that a frame may claim where the caller does not say the shape
``model_path``            none         folders of shared models, separated as in ``PATH``
``model_cache``           null         folder of the user's models; null: ``~/.cache/xwalloc/models``
========================  ===========  ==========================================================================

On a Dask cluster, whoever starts a worker for each GPU (dask-cuda does) has CUDA_VISIBLE_DEVICES show a worker its own
GPU first: it needs no setting.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import donfig

from xwalloc.errors import ConfigError

__all__ = [
    "batch_limit",
    "check_settings",
    "decode_limit",
    "device_choice",
    "model_folders",
    "settings",
    "thread_count",
]

DEFAULTS = {
    "threads": None,
    "device": "auto",
    "batch": {"max_bytes": None},
    "decode": {"max_bytes": 2**31},
    "model_path": "",
    "model_cache": None,
}

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


def device_choice() -> str:
    """Where chunks are to be computed: "auto", "cpu", "cuda", or "cuda:" and a number.

    Raises
    ------
    ConfigError
        If the setting ``device`` is none of these.
    """
    device = settings.get("device")
    if isinstance(device, str) and re.fullmatch("auto|cpu|cuda(:[0-9]{1,3})?", device):
        return device
    raise ConfigError(
        f"Expected xwalloc setting 'device' (XWALLOC_DEVICE) to be 'auto', 'cpu', 'cuda' or 'cuda:1'. Got {device!r}."
    )


def batch_limit(default: int) -> int:
    """Memory in bytes, about, of what a device computes in one call; `default` where the setting leaves it open.

    Raises
    ------
    ConfigError
        If the setting ``batch.max_bytes`` is neither null nor an integer above 0.
    """
    return default if settings.get("batch.max_bytes") is None else _bytes("batch.max_bytes", "1073741824")


def decode_limit() -> int:
    """Largest array, in bytes, that a frame may claim where the caller does not say its shape.

    Raises
    ------
    ConfigError
        If the setting ``decode.max_bytes`` is not an integer above 0.
    """
    return _bytes("decode.max_bytes", "2147483648")


def _bytes(key: str, example: str) -> int:
    limit = settings.get(key)
    if isinstance(limit, int) and not isinstance(limit, bool) and limit > 0:
        return limit
    raise ConfigError(f"Expected xwalloc setting {key!r} to be a number of bytes, such as {example}. Got {limit!r}.")


def model_folders() -> list[Path]:
    """Folders that hold shared models: those of the setting ``model_path``, and the user's cache.

    Raises
    ------
    ConfigError
        If a setting is no text.
    """
    path, cache = settings.get("model_path"), settings.get("model_cache")
    if not isinstance(path, str) or not isinstance(cache, str | None):
        raise ConfigError(
            f"Expected xwalloc settings 'model_path' and 'model_cache' to be names of folders. Got {path!r}, {cache!r}."
        )
    own = cache or os.path.join(os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache"), "xwalloc", "models")
    return [Path(folder).expanduser() for folder in [*path.split(os.pathsep), own] if folder]


def check_settings() -> None:
    """Refuse settings that no process can work with, before work begins.

    Raises
    ------
    ConfigError
        If one has an impossible value.
    """
    thread_count()
    device_choice()
    batch_limit(1)
    decode_limit()
    model_folders()
