"""Arrays on their way to a device and back: pinned memory, one copy for many small arrays; work side by side there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Sent", "download", "send", "side_by_side", "together", "upload"]

ALIGNMENT = 16

WAY_THERE = -1
"""Number of the stream on which samples go to a device; others are those of `side_by_side`."""


def upload(device: torch.device, *arrays: NDArray[np.generic]) -> list[torch.Tensor]:
    """Copies of arrays on a device; nothing waits for them.

    They travel together through pinned memory, which torch keeps until the copy is done and then uses again.
    """
    places, size = [], 0
    for array in arrays:
        places.append(size)
        size += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    packed = torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=device.type == "cuda")
    there = packed.numpy()
    for at, array in zip(places, arrays, strict=True):
        there[at : at + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    moved = packed.to(device, non_blocking=True)
    return [
        moved[at : at + array.nbytes].view(torch.from_numpy(np.empty(0, array.dtype)).dtype).reshape(array.shape)
        for at, array in zip(places, arrays, strict=True)
    ]


@dataclass(frozen=True)
class Sent:
    """Arrays on their way to a device, on a stream of their own."""

    tensors: list[torch.Tensor]
    arrived: torch.cuda.Event | None

    def here(self) -> list[torch.Tensor]:
        """The tensors, for the current stream of the calling thread, which waits for them."""
        if self.arrived is not None:
            stream = torch.cuda.current_stream(self.tensors[0].device)
            stream.wait_event(self.arrived)
            for tensor in self.tensors:
                tensor.record_stream(stream)
        return self.tensors


def send(device: torch.device, *arrays: NDArray[np.generic]) -> Sent:
    """`upload` beside whatever the device computes; in any thread."""
    if device.type != "cuda":
        return Sent(upload(device, *arrays), None)
    stream = _stream(device, WAY_THERE)
    with torch.cuda.stream(stream):
        tensors = upload(device, *arrays)
        return Sent(tensors, stream.record_event())


@contextmanager
def side_by_side(device: torch.device) -> Iterator[Callable[[], AbstractContextManager[object]]]:
    """Let launches not wait for each other: each is made in a context that the function returns.

    What is launched behind the block waits for all of them. On a CPU everything is in turn.
    """
    if device.type != "cuda":
        yield nullcontext
        return
    main = torch.cuda.current_stream(device)
    used: list[torch.cuda.Stream] = []

    def aside() -> AbstractContextManager[object]:
        stream = _stream(device, len(used))
        stream.wait_stream(main)
        used.append(stream)
        return torch.cuda.stream(stream)

    try:
        yield aside
    finally:
        for stream in used:
            main.wait_stream(stream)


@lru_cache(maxsize=128)
def _stream(device: torch.device, number: int) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def download(*tensors: torch.Tensor) -> list[NDArray[Any]]:
    """Copies of tensors on the host; waits for the device once."""
    if not tensors or all(tensor.device.type == "cpu" for tensor in tensors):
        return [tensor.numpy() for tensor in tensors]
    copies = [torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True) for tensor in tensors]
    for copy, tensor in zip(copies, tensors, strict=True):
        copy.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream(tensors[0].device).synchronize()
    return [copy.numpy() for copy in copies]


def together(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Elements of tensors, one behind the other: a view where they lie so in memory, else a copy."""
    if len(tensors) == 1:
        return tensors[0].reshape(-1)
    ends = [own.data_ptr() + own.nbytes for own in tensors[:-1]]
    one = len({own.untyped_storage().data_ptr() for own in tensors}) == 1
    if one and all(own.is_contiguous() for own in tensors) and ends == [own.data_ptr() for own in tensors[1:]]:
        return torch.as_strided(tensors[0], (sum(own.numel() for own in tensors),), (1,))
    return torch.cat([own.reshape(-1) for own in tensors])
