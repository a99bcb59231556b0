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
        """The same memory as an array of CuPy (DLPack), for the current stream of the calling thread.

        It is torch's again once the array is gone and that stream has done what was asked of it until then.
        """
        import cupy

        if self.samples.is_cuda:
            import torch

            device = self.samples.device
            with cupy.cuda.Device(device.index):
                pointer = cupy.cuda.get_current_stream().ptr
            # An external stream of pointer 0 would be one of torch's own.
            stream = torch.cuda.ExternalStream(pointer, device) if pointer else torch.cuda.default_stream(device)
            self.samples.record_stream(stream)
        return cupy.from_dlpack(self.samples)
