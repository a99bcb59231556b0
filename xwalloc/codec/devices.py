"""On which device chunks of this process are computed, and the thread and batcher of each CUDA device.

torch is imported only where the setting ``device`` allows for CUDA, torch is installed and there is a driver. A CUDA
worker of Dask sees its own device first (CUDA_VISIBLE_DEVICES), so that "cuda" is that one.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from xwalloc.codec.batching import Batcher
from xwalloc.codec.room import Room
from xwalloc.errors import ConfigError
from xwalloc.settings import device_choice

__all__ = ["CPU", "DeviceMemoryError", "Owner", "arithmetic", "device", "device_kind", "fall_back", "is_cupy", "owner"]

CPU = "cpu"

NO_MEMORY = ("out of memory", "ALLOC_FAILED")
"""What errors of CUDA and its libraries say where torch has no error of its own."""

SHARE = 4
"""One call takes this part of the free memory of a device: others are prepared, and results on their way, meanwhile."""


FORKED = "this process was forked from one that had used CUDA: start it with the method 'spawn' or 'forkserver'"
"""Why there is no device in workers of torch's DataLoader, say, once there is a network on the device."""


class DeviceMemoryError(MemoryError):
    """A device has too little memory for a chunk, alone."""


@dataclass(frozen=True)
class Owner:
    """The one thread that uses a device, an executor for what runs alone, a batcher for what may be merged; its memory.

    Parameters
    ----------
    executor, batcher
        What they say.
    room
        Memory for chunks that are under way there, besides what the batcher works on.
    """

    executor: Executor
    batcher: Batcher
    room: Room = field(default_factory=Room)


_lock = threading.Lock()
_network_lock = threading.Lock()
_owners: dict[str, Owner] = {}
_forked = False
"""Whether a parent of this process had threads of CUDA devices, which do not survive a fork."""
_warned = False


def _reset() -> None:
    """Forget the devices of the parent process."""
    global _lock, _network_lock, _owners, _forked
    _forked = _forked or any(name != CPU for name in _owners)
    _lock, _network_lock, _owners = threading.Lock(), threading.Lock(), {}


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)


def device() -> str:
    """Where chunks are computed, as far as a device can: "cpu", "cuda:0", "cuda:1" ...

    Raises
    ------
    ConfigError
        If the setting ``device`` asks for a CUDA device that this process cannot use, or is impossible.
    """
    wanted = device_choice()
    if wanted == CPU:
        return CPU
    count, reason = _cuda_devices()
    if wanted == "auto":
        return "cuda:0" if count else CPU
    number = int(wanted.partition(":")[2] or 0)
    if number >= count:
        raise ConfigError(
            f"Expected a CUDA device for the xwalloc setting 'device' (XWALLOC_DEVICE), {wanted!r}. "
            f"Got none: {reason}. Use a machine that has one, or set the device to 'auto' or 'cpu'."
        )
    return f"cuda:{number}"


def device_kind() -> str:
    """What `device` is, for records: "cpu", or "cuda: " and the name of the GPU.

    Raises
    ------
    ConfigError
        As `device` does.
    """
    name = device()
    if name == CPU:
        return CPU
    import torch

    return f"cuda: {owner(name).executor.submit(torch.cuda.get_device_name, name).result()}"


def owner(name: str) -> Owner:
    """The thread of a device, made when it is first needed."""
    with _lock:
        if name not in _owners:
            executor = ThreadPoolExecutor(1, f"xwalloc-{name}", initializer=_enter, initargs=(name,))
            _owners[name] = Owner(executor, Batcher(executor, executor.submit(_share_of_memory, name).result()))
        return _owners[name]


def _share_of_memory(name: str) -> int:
    """What one call may take of the memory of a device, as long as no setting says it."""
    if not name.startswith("cuda"):
        return 1 << 30
    import torch

    free, _ = torch.cuda.mem_get_info(name)
    return int(free) // SHARE


def _enter(name: str) -> None:
    """What the thread of a device does first."""
    if name.startswith("cuda"):
        import torch

        torch.cuda.set_device(name)


@contextmanager
def arithmetic(networks: bool = False) -> Iterator[None]:
    """Arithmetic as exact as the device has it, the same in every run; torch's errors as Python's.

    Parameters
    ----------
    networks
        Whether networks are run: only they need settings of torch that hold for the whole process.

    Raises
    ------
    DeviceMemoryError
        If the device has too little memory. What torch has put aside there is given back first.
    """
    import torch

    exact: AbstractContextManager[None] = nullcontext()
    if networks:
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
    try:
        with torch.no_grad(), _network_lock if networks else nullcontext(), exact:
            yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not any(text in str(error) for text in NO_MEMORY):
            raise
        # The error holds the frames of the call that failed, and they its tensors.
        traceback.clear_frames(error.__traceback__)
        torch.cuda.empty_cache()
        raise DeviceMemoryError(f"The device has too little memory: {error}") from None


def fall_back(error: MemoryError) -> None:
    """Say, once in a process, that chunks are computed on the CPU because the device is too small for one."""
    global _warned
    with _lock:
        first, _warned = not _warned, True
    if first:
        warnings.warn(
            f"xwalloc computes chunks on the CPU for which the device has too little memory. Choose smaller chunks, or "
            f"let other processes leave the device more: {error}",
            RuntimeWarning,
            stacklevel=2,
        )


def is_cupy(array: Any) -> bool:
    """Whether it is an array of CuPy, which NumPy does not take by itself."""
    return "cupy" in sys.modules and isinstance(array, sys.modules["cupy"].ndarray)


def _cuda_devices() -> tuple[int, str]:
    """How many CUDA devices this process can use, and why not more; imports torch only where there may be some."""
    if _forked:
        return 0, FORKED
    if find_spec("torch") is None:
        return 0, "torch is not installed (pip install 'xwalloc[torch]')"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        return 0, f"CUDA_VISIBLE_DEVICES={visible!r} hides all"
    if not _has_driver():
        return 0, "this machine has no driver of NVIDIA"
    import torch

    if torch.version.cuda is None:
        return 0, "the torch that is installed is one without CUDA"
    if getattr(torch.cuda, "_is_in_bad_fork", bool)():  # torch has no public name for it
        return 0, FORKED
    count = int(torch.cuda.device_count())
    return count, f"this process sees {count} CUDA device{'s' * (count != 1)}"


def _has_driver() -> bool:
    """Whether the library of the CUDA driver is there; to load it starts nothing."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
