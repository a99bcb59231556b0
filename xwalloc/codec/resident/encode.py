# mypy: disable-error-code="no-untyped-call"
"""The samples of chunks that are encoded, on a CUDA device.

A chunk asks for four things, one after the other: moments of its samples, trials in windows, symbols, and what becomes
of them (places.py). Chunks that ask for the same at the same time are worked on together, so that they
wait for the device together and the entropy coder has streams enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream.planes import Order
from xwalloc.bitstream.tables import Tables, shipped
from xwalloc.codec import engine
from xwalloc.codec.bound import Finish
from xwalloc.codec.devices import arithmetic, owner
from xwalloc.codec.examine import Examine
from xwalloc.codec.places import Attempt
from xwalloc.codec.resident.arrays import DeviceArray, on_host
from xwalloc.codec.resident.fit import ToTry, moments, trials
from xwalloc.codec.resident.look import ToLook, surveys
from xwalloc.codec.resident.outcome import ToAttempt, attempt
from xwalloc.codec.resident.sections import ORDER, has_kernels
from xwalloc.codec.resident.symbols import ToQuantise, quantise
from xwalloc.codec.survey import Survey
from xwalloc.errors import BudgetError
from xwalloc.models.analysis import Scale
from xwalloc.models.samples import Found, HostSamples
from xwalloc.models.spec import LinearModel
from xwalloc.models.trials import Trials, Windows

if TYPE_CHECKING:
    import torch

    from xwalloc.models.neural import Network

__all__ = ["OnDevice", "admitted", "can_encode", "survey"]

TYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")
"""Types of samples that kernels take; float16 is widened before."""

SAMPLE_BYTES = 40
"""Memory, about, that a sample takes: itself, units or product, residual, marks and symbols of the entropy coder."""

SYMBOL_BYTES = 4
"""Memory that a symbol takes; a chunk has at most as many as samples."""


def can_encode(shape: Sequence[int], order: Order, dtype: np.dtype[Any]) -> bool:
    """Whether a device can encode a chunk: contexts must be those for devices, samples be counted in 30 bits."""
    return has_kernels() and order == ORDER and math.prod(shape) < 2**30 and dtype.name in TYPES


@contextmanager
def admitted(shape: Sequence[int], dtype: np.dtype[Any]) -> Iterator[None]:
    """Room on the device of this process for samples of a chunk and their symbols; waits until there is some."""
    own = owner(engine.device())
    nbytes = math.prod(shape) * (dtype.itemsize + SYMBOL_BYTES)
    with own.room.taken(nbytes, limit=own.batcher.limit, wait=engine.wait_for):
        yield


def survey(samples: DeviceArray, nodata: NDArray[Any], *, outliers: bool) -> Survey | None:
    """`survey.survey` of a chunk that lies on the device of this process; None where anything is special about it.

    Raises
    ------
    DeviceMemoryError
        If the device has too little memory.
    """
    found: Survey | None = _ask(engine.device(), surveys, ToLook(samples, nodata, outliers), 16 * samples.size)
    return found


def _ask(device: str, work: Callable[..., Any], item: Any, nbytes: int, networks: bool = False) -> Any:
    """What a device makes of an item, perhaps together with other chunks; `nbytes` is about what that takes."""
    return engine.wait(owner(device).batcher.submit(_Stage(device, work, networks), item, nbytes=nbytes))


@dataclass(frozen=True)
class _Stage:
    """What a device does with all chunks that ask for it.

    Parameters
    ----------
    device
        Its name.
    work
        Called with the device and what the chunks ask with; returns what each gets.
    networks
        Whether networks are run.
    """

    device: str
    work: Callable[[torch.device, list[Any]], list[Any]]
    networks: bool = False

    def __call__(self, items: list[Any]) -> list[Any]:
        import torch

        with arithmetic(self.networks):
            return self.work(torch.device(self.device), items)


class OnDevice:
    """The place of a chunk on the device of this process; `OnHost` says what its arguments are.

    Samples may lie there already. Those that do not are sent there at once, by whoever makes the place.

    Raises
    ------
    DeviceMemoryError
        From any method, if the device has too little memory.
    """

    def __init__(
        self,
        samples: NDArray[np.generic] | DeviceArray,
        blank: NDArray[np.uint8] | None,
        nodata: NDArray[np.generic],
    ) -> None:
        import torch

        from xwalloc.device.memory import send

        self.samples, self.blank, self.nodata, self.name = samples, blank, nodata, engine.device()
        device = torch.device(self.name)
        arrays: list[NDArray[Any]] = [own for own in (blank, nodata if nodata.size else None) if own is not None]
        with arithmetic():
            if isinstance(samples, DeviceArray):
                self._flat = samples.samples.to(device).reshape(*samples.shape[:2], -1)
            else:
                arrays.append(samples.reshape(*samples.shape[:2], -1))
            self._sent = send(device, *arrays)

    def there(self) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Samples and blank (batch, channel, n), and nodata, on the device; in the thread of the device."""
        others = list(self._sent.here())
        samples = self._flat if isinstance(self.samples, DeviceArray) else others.pop()
        nodata = others.pop() if self.nodata.size else None
        return samples, others.pop() if others else None, nodata

    @property
    def shape(self) -> tuple[int, ...]:
        """See `Samples`."""
        return self.samples.shape

    def ranges(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Samples`."""
        return HostSamples(on_host(self.samples), engine.map_parallel).ranges()

    def moments(self, scale: Scale, largest: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See `Samples`."""
        found: tuple[NDArray[np.float64], NDArray[np.float64]] = self._ask(moments, (self, scale.per_sample))
        return found

    def look(self, windows: Windows) -> Trials:
        """See `Samples`."""
        found: Trials | None = None
        if windows.usual_shifts is not None:
            item = ToTry(self, windows)
            found = self._ask(trials, item, nbytes=item.nbytes)
        if found is not None:
            return found
        return HostSamples(on_host(self.samples), engine.map_parallel).look(windows)

    def quantise(
        self,
        model: LinearModel,
        per_sample: float | NDArray[np.float64],
        analysis: NDArray[np.float64],
        reach: float,
        side: NDArray[np.float64],
        kept: NDArray[np.bool_] | None = None,
    ) -> Found | None:
        """See `Samples`."""
        found: Found | None = self._ask(quantise, ToQuantise(self, model, per_sample, analysis, reach, side, kept))
        return found

    def attempt(
        self,
        model: LinearModel,
        symbols: Any,
        network: Network | None,
        finish: Finish,
        examine: Examine | None,
        order: Order,
        codebook: Tables | None,
        with_latents: bool,
    ) -> Attempt:
        """See `Place`."""
        item = ToAttempt(self, model, symbols, network, finish, examine, codebook or shipped(), with_latents)
        found: Attempt | BudgetError = self._ask(attempt, item, networks=network is not None)
        if isinstance(found, BudgetError):
            raise found
        return found

    def _ask(self, work: Callable[..., Any], item: Any, *, networks: bool = False, nbytes: int | None = None) -> Any:
        return _ask(self.name, work, item, SAMPLE_BYTES * self.samples.size if nbytes is None else nbytes, networks)
