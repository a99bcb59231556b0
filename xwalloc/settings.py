"""Runtime choices of this process: never part of a codec's configuration, because Zarr rebuilds codecs from JSON."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

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


class Settings(donfig.Config):  # type: ignore[misc]
    """Runtime choices of this process, in `xwalloc.settings`.

    Set values for a block with ``with xwalloc.settings.set({...}):``, or from now on without ``with``; for a process
    with an environment variable (``XWALLOC_THREADS=1``, ``XWALLOC_DECODE__MAX_BYTES=...``); for a user with a YAML file
    in ``~/.config/xwalloc``. ``xwalloc.settings.get("threads")`` says what holds.

    ====================  ===========  ==============================================================================
    key                   default      meaning
    ====================  ===========  ==============================================================================
    ``threads``           null         kernel threads of this process; null: as many as the process may use
    ``device``            auto         where chunks are computed: "cpu", "cuda" (the first CUDA device that this process
                                       sees), "cuda:1"; "auto": "cuda" where there is one and torch is installed, else
                                       "cpu"; without Triton, only networks are computed there
    ``batch.max_bytes``   null         memory, about, of the chunks that a CUDA device works on at a time, and again of
                                       those that wait there; null: a quarter of what is free when it is first used
    ``decode.max_bytes``  2 GiB        largest array that a frame may claim where the caller does not say the shape
    ``model_path``        none         folders of shared models, separated as in ``PATH``
    ``model_cache``       null         folder of the user's models; null: ``~/.cache/xwalloc/models``
    ====================  ===========  ==============================================================================

    On a Dask cluster, whoever starts a worker for each GPU (dask-cuda does) has CUDA_VISIBLE_DEVICES show a worker its
    own GPU first: it needs no setting.

    Examples
    --------
    >>> import xwalloc
    >>> with xwalloc.settings.set({"threads": 1, "decode.max_bytes": 2**30}):
    ...     xwalloc.settings.get("threads"), xwalloc.settings.get("decode.max_bytes")
    (1, 1073741824)
    """

    def set(self, arg: Mapping[str, Any] | None = None, **values: Any) -> Any:
        """Set values by name, for the block of a ``with`` statement or from now on.

        Parameters
        ----------
        arg
            Values by name, such as ``{"batch.max_bytes": 2**30}``.
        **values
            The same as arguments, with ``__`` for the dot: ``batch__max_bytes=2**30``.

        Raises
        ------
        ConfigError
            If there is no setting of that name. Values are checked when they are used.
        """
        known = list(named(DEFAULTS))
        for name in (*named(arg or {}), *named({key.replace("__", "."): value for key, value in values.items()})):
            if name.replace("-", "_") not in known:
                raise ConfigError(f"Expected the name of an xwalloc setting: {', '.join(known)}. Got {name!r}.")
        return super().set(arg, **values)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in DEFAULTS:
            raise ConfigError(
                f"Expected xwalloc setting {name!r} to be set by name: xwalloc.settings.set({{{name!r}: ...}}). Got an "
                "assignment, which would change nothing."
            )
        super().__setattr__(name, value)


def named(values: Mapping[str, Any]) -> Iterator[str]:
    """Names of nested values, with a dot between levels."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from (f"{key}.{inner}" for inner in named(value))
        else:
            yield key


settings = Settings("xwalloc", defaults=[DEFAULTS])


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
