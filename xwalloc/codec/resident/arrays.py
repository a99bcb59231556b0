# mypy: disable-error-code="no-untyped-call"
"""Decoded samples that stay on the device, for whoever computes with CuPy there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

__all__ = ["DeviceArray"]


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
