# mypy: disable-error-code="no-untyped-call"
"""Chunks that a device decodes, as whoever asks for one gets it: batches on their way there, samples on their way back.

Samples of a batch come back behind what is computed next. They are looked at by whoever asked for the chunk.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from xwalloc.codec import engine
from xwalloc.codec.devices import arithmetic, owner
from xwalloc.codec.resident import decode as decoder
from xwalloc.codec.resident.arrays import DeviceArray
from xwalloc.codec.resident.decode import Batch
from xwalloc.codec.resident.job import Job
from xwalloc.errors import BudgetError, FormatError

if TYPE_CHECKING:
    import torch

__all__ = ["decoded", "left_there"]


@dataclass(frozen=True)
class _Coming:
    """A chunk of a batch: samples that stay on the device, or come to the host, and numbers that come.

    What is on the host lies in pinned memory, which is torch's again once nobody has it.
    """

    batch: Batch
    index: int
    samples: torch.Tensor
    numbers: torch.Tensor
    arrived: torch.cuda.Event | None

    def wait(self) -> torch.Tensor | None:
        """The samples, once they are complete; None where the chunk has to be decoded again.

        Raises
        ------
        FormatError
            If its sections are damaged.
        """
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.samples if self.batch.verdict(self.index, self.numbers.numpy()) else None


def decoded(job: Job) -> NDArray[Any]:
    """The region of a chunk, decoded on the device of this process, perhaps together with other chunks.

    Raises
    ------
    FormatError
        If the sections of the chunk are damaged.
    DeviceMemoryError
        If the device has too little memory for the chunk alone.
    """
    return _asked(job, stays=False).numpy()


def left_there(job: Job) -> DeviceArray:
    """`decoded`, with the samples left on the device."""
    return DeviceArray(_asked(job, stays=True), job.nodata.dtype)


def _asked(job: Job, stays: bool) -> torch.Tensor:
    """Samples of a chunk. Those whose arithmetic is not certain to be exact are decoded again, measured."""
    with suppress(BudgetError):
        found = _once(job, stays, measured=False)
        if found is not None:
            return found
    try:
        found = _once(job, stays, measured=True)
    except BudgetError as error:
        raise FormatError(f"The symbols of the frame are impossible: {error}") from None
    assert found is not None, "what is measured is right, or damaged"
    return found


def _once(job: Job, stays: bool, *, measured: bool) -> torch.Tensor | None:
    """Samples of a chunk; None where it has to be decoded again."""
    name = engine.device()
    work = _Decode(name, stays, measured)
    coming: _Coming = engine.wait(owner(name).batcher.submit(work, job, nbytes=job.working_bytes))
    return engine.wait_for(coming.wait)


@dataclass(frozen=True)
class _Decode:
    """Decoding of any chunks on a device; unless samples stay, they come to the host behind what is computed next."""

    device: str
    stays: bool
    measured: bool

    def __call__(self, jobs: list[Job]) -> list[_Coming]:
        import torch

        device = torch.device(self.device)
        with arithmetic(networks=any(job.contents.network is not None for job in jobs)):
            batch = decoder.decode(device, jobs, self.measured)
            if device.type != "cuda":
                return [
                    _Coming(batch, index, samples, batch.numbers, None) for index, samples in enumerate(batch.samples)
                ]
            back = _way_back(self.device)
            back.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(back):
                numbers = _sent(batch.numbers, back)
                return [
                    _Coming(batch, index, samples if self.stays else _sent(samples, back), numbers, _arrival(back))
                    for index, samples in enumerate(batch.samples)
                ]


def _sent(tensor: torch.Tensor, stream: torch.cuda.Stream) -> torch.Tensor:
    """A copy in pinned memory, complete once the stream has come here."""
    import torch

    here = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu", pin_memory=True)
    here.copy_(tensor, non_blocking=True)
    tensor.record_stream(stream)
    return here


def _arrival(stream: torch.cuda.Stream) -> torch.cuda.Event:
    """An event that takes no core of whoever waits for it."""
    import torch

    event = torch.cuda.Event(blocking=True)
    event.record(stream)
    return event


@lru_cache(maxsize=16)
def _way_back(device: str) -> torch.cuda.Stream:
    """The stream on which samples come back from a device."""
    import torch

    return torch.cuda.Stream(device)
