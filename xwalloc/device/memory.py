"""Arrays on their way to a device and back: pinned memory, one copy for many small arrays; work side by side there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Parcel", "Sent", "download", "send", "side_by_side", "staged", "together", "upload"]

ALIGNMENT = 16

LARGE = 1 << 17
"""Tensors of more bytes travel by themselves: putting them together would cost more than another transfer."""

WAY_THERE = -1
"""Number of the stream on which samples go to a device; others are those of `side_by_side`."""


class Parcel:
    """Arrays that travel to a device together, through pinned memory, which torch keeps until the copy is done.

    Parameters
    ----------
    tensors : (n,) uint8
        What lies in pinned memory already.

    Attributes
    ----------
    places
        First bytes of these tensors among all bytes.
    there : (n,) uint8
        All bytes on the device, once they are sent.
    """

    def __init__(self, tensors: Sequence[torch.Tensor] = ()) -> None:
        self._size = 0
        self._arrays: list[tuple[int, NDArray[np.generic]]] = []
        places = {number: self._room(own.nbytes) for number, own in enumerate(tensors) if own.nbytes > LARGE}
        self._large = [(at, tensors[number]) for number, at in places.items()]
        self._packed_at = self._size
        self.places = [places[n] if n in places else self.add(own.numpy()) for n, own in enumerate(tensors)]
        self.there = torch.empty(0, dtype=torch.uint8)

    def _room(self, nbytes: int) -> int:
        at = self._size
        self._size += -(-nbytes // ALIGNMENT) * ALIGNMENT
        return at

    def add(self, array: NDArray[np.generic]) -> int:
        """Put an array in; returns the place of its first byte. What it holds is looked at when the parcel is sent."""
        at = self._room(array.nbytes)
        self._arrays.append((at, array))
        return at

    def send(self, device: torch.device) -> None:
        """Copy everything to a device; nothing waits for that."""
        size = self._size - self._packed_at
        packed = torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=device.type == "cuda")
        there = packed.numpy()
        for at, array in self._arrays:
            first = at - self._packed_at
            there[first : first + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if not self._large:
            self.there = packed.to(device, non_blocking=True)
            return
        self.there = torch.empty(self._size, dtype=torch.uint8, device=device)
        self.there[self._packed_at :].copy_(packed, non_blocking=True)
        for at, tensor in self._large:
            self.there[at : at + tensor.nbytes].copy_(tensor, non_blocking=True)

    def view(self, at: int, array: NDArray[np.generic]) -> torch.Tensor:
        """An array that has been sent, on the device."""
        return self.there[at : at + array.nbytes].view(_torch_type(array.dtype)).view(array.shape)


def staged(array: NDArray[Any], *, pinned: bool) -> torch.Tensor:
    """An array as a tensor of the host: a copy in pinned memory, which a device reads, or the array itself."""
    if not pinned:
        return torch.from_numpy(array)
    copy = torch.empty(array.shape, dtype=_torch_type(array.dtype), pin_memory=True)
    copy.numpy()[...] = array
    return copy


def upload(device: torch.device, *arrays: NDArray[np.generic]) -> list[torch.Tensor]:
    """Copies of arrays on a device, which travel together; nothing waits for them."""
    parcel = Parcel()
    places = [parcel.add(array) for array in arrays]
    parcel.send(device)
    return [parcel.view(at, array) for at, array in zip(places, arrays, strict=True)]


@cache
def _torch_type(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


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
    if not arrays:
        return Sent([], None)
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
