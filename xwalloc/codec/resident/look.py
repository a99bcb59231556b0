# mypy: disable-error-code="no-untyped-call"
"""A first look at chunks that lie on a CUDA device: whether anything about them is special, and their range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.codec.resident.arrays import DeviceArray, movable
from xwalloc.codec.survey import Survey, found_usual, some_of

if TYPE_CHECKING:
    import torch

__all__ = ["ToLook", "surveys"]


@dataclass(frozen=True, eq=False)
class ToLook:
    """Arguments of `survey.survey`."""

    samples: DeviceArray
    nodata: NDArray[Any]
    outliers: bool


def surveys(device: torch.device, items: Sequence[ToLook]) -> list[Survey | None]:
    """What is found of chunks; None where something is special, which is for the host. Waits for the device once."""
    import torch

    from xwalloc.device.memory import download

    looks, some = [], []
    for item in items:
        samples = item.samples.samples.reshape(-1)
        taken = movable(samples)[some_of(samples.numel())]
        some.append(taken)
        values = samples
        if samples.dtype in (torch.uint16, torch.uint32):
            values = movable(samples).to(torch.int64) & ((1 << 8 * samples.itemsize) - 1)
        lost = torch.zeros((), dtype=torch.bool, device=device)
        if item.nodata.size:
            lost = (values == item.nodata[0].item()).any()
        integral = torch.ones((), dtype=torch.bool, device=device)
        if values.is_floating_point():
            integral = ((values == torch.round(values)) & ~((values == 0) & torch.signbit(values))).all()
        low, high = torch.aminmax(values)
        looks.append(torch.stack([own.to(torch.float64) for own in (low, high, integral, lost)]))
    numbers, *parts = download(torch.stack(looks), *some)
    found: list[Survey | None] = []
    for item, (low, high, integral, lost), part in zip(items, numbers.tolist(), parts, strict=True):
        usual = not lost and np.isfinite(low) and np.isfinite(high)
        own = None
        if usual:
            own = found_usual(
                part.view(item.samples.dtype), item.samples.size, low, high, bool(integral), outliers=item.outliers
            )
        found.append(own)
    return found
