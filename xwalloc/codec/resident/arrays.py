# mypy: disable-error-code="no-untyped-call"
"""Samples on a device, that a chunk was given as or decoded to, for whoever computes with CuPy there."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.codec import engine
from xwalloc.codec.devices import CPU, arithmetic, fall_back

if TYPE_CHECKING:
    import torch

__all__ = ["DeviceArray", "from_cupy", "movable", "on_host"]


CUDA = 2
"""What DLPack calls devices of CUDA."""


@dataclass(frozen=True)
class DeviceArray:
    """Samples on a device, complete: any stream may use them.

    Parameters
    ----------
    samples
        Where they are; any shape.
    dtype
        Type of the samples, as NumPy has it, in native byte order.
    """

    samples: torch.Tensor
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, array: Any) -> DeviceArray:
        """An array of CuPy: its memory (DLPack), or a copy on the device of this process.

        The default stream of torch, on which chunks are computed, waits for what CuPy computes there.

        Raises
        ------
        MemoryError
            If the device has too little memory: a `DeviceMemoryError`, or CuPy's own.
        """
        import torch
        from torch.utils.dlpack import from_dlpack

        if min(array.strides, default=0) < 0:  # which torch does not know
            array = array.copy(order="C")
        kind, number = array.__dlpack_device__()
        of_cuda = int(kind) == CUDA
        with arithmetic(), torch.cuda.stream(torch.cuda.default_stream(number)) if of_cuda else nullcontext():
            return cls(from_dlpack(array).to(engine.device()), np.dtype(array.dtype))

    @property
    def shape(self) -> tuple[int, ...]:
        """Its axes."""
        return tuple(self.samples.shape)

    @property
    def ndim(self) -> int:
        """Number of its axes."""
        return self.samples.ndim

    @property
    def size(self) -> int:
        """Number of its samples."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its samples."""
        return self.size * self.dtype.itemsize

    def on_host(self) -> NDArray[Any]:
        """A copy on the host."""
        return movable(self.samples).cpu().numpy().view(self.dtype)

    def arranged(self, order: Sequence[int], shape: Sequence[int]) -> DeviceArray:
        """The same with axes in another order, as a contiguous array of another shape; copied only if need be."""
        with arithmetic():
            moved = movable(self.samples).permute(tuple(order)).reshape(tuple(shape)).contiguous()
        return DeviceArray(moved.view(self.samples.dtype), self.dtype)

    def padded(self, signal: Sequence[int]) -> DeviceArray:
        """The array (batch, channel, z, y, x) continued by its last samples."""
        import torch

        moved = movable(self.samples)
        with arithmetic():
            for axis, to in enumerate(signal, start=2):
                n = moved.shape[axis]
                if to > n:
                    moved = moved.index_select(axis, torch.arange(to, device=moved.device).clamp(max=n - 1))
        return DeviceArray(moved.view(self.samples.dtype), self.dtype)

    def as_cupy(self) -> Any:
        """An array of CuPy, for the current stream of the calling thread.

        On CuPy's default stream, which is that of torch, it is the same memory (DLPack). On other streams it is a copy:
        torch could use the memory again before such a stream is done with it.
        """
        import cupy

        array = cupy.from_dlpack(self.samples)
        if self.samples.is_cuda:
            stream = cupy.cuda.get_current_stream()
            if stream.ptr:
                array = array.copy()
                stream.synchronize()
        return array


def from_cupy(array: Any) -> NDArray[Any] | DeviceArray:
    """An array of CuPy as it is, if this process computes chunks on a device; else a copy on the host."""
    if engine.device() != CPU:
        try:
            return DeviceArray.of(array)
        except MemoryError as error:  # of torch, as `DeviceMemoryError`, or of CuPy
            fall_back(error)
    return np.asarray(sys.modules["cupy"].asnumpy(array))


def on_host(samples: NDArray[Any] | DeviceArray) -> NDArray[Any]:
    """Samples on the host: a copy of those on a device."""
    return samples.on_host() if isinstance(samples, DeviceArray) else samples


def movable(samples: torch.Tensor) -> torch.Tensor:
    """Samples as a type that torch can move about: it hardly knows integers of 16 bits and more without sign."""
    import torch

    signed = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}
    return samples.view(signed.get(samples.dtype, samples.dtype))
