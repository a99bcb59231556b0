# mypy: disable-error-code="no-untyped-call"
"""Samples of chunks on a CUDA device -> symbols."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xwalloc.codec.resident.steps import alike
from xwalloc.errors import BudgetError
from xwalloc.models import linear
from xwalloc.models import quantise as q
from xwalloc.models.analysis import ORDINARY, exact_shift, filter_shift, largest_product
from xwalloc.models.samples import Found
from xwalloc.models.spec import LinearModel
from xwalloc.models.trials import boxes_of

if TYPE_CHECKING:
    import torch

    from xwalloc.codec.resident.encode import OnDevice

__all__ = ["Symbols", "ToQuantise", "quantise"]


@dataclass(frozen=True)
class Symbols:
    """Symbols (batch, rank, z, y, x) int32 of a chunk, and what none of them exceeds in magnitude."""

    values: torch.Tensor
    largest: int


@dataclass(frozen=True)
class ToQuantise:
    """Arguments of `Samples.quantise`."""

    place: OnDevice
    model: LinearModel
    per_sample: float | NDArray[np.float64]
    analysis: NDArray[np.float64]
    reach: float
    side: NDArray[np.float64]
    kept: NDArray[np.bool_] | None


def quantise(device: torch.device, items: Sequence[ToQuantise]) -> list[Found | None]:
    """Models and symbols of chunks; None where one is beyond the bit budget.

    Chunks of one shape and grid are worked on together. Waits for the device twice for each of these groups.
    """
    found: list[Found | None] = [None] * len(items)
    for group in alike(items, lambda item: (item.place.samples.shape, item.place.samples.dtype, item.model.grid)):
        shifts = {}
        for index in group:
            with suppress(BudgetError):
                shifts[index] = exact_shift(items[index].analysis, items[index].reach)
        chosen = list(shifts)
        if chosen:
            together = _quantised(device, [items[index] for index in chosen], list(shifts.values()))
            for index, own in zip(chosen, together, strict=True):
                found[index] = own
    return found


def _quantised(device: torch.device, items: Sequence[ToQuantise], shifts: Sequence[int]) -> list[Found | None]:
    """Models and symbols of chunks of one shape and grid, with the fractional bits of their analyses."""
    import torch

    from xwalloc.device import quantiser, wavelet
    from xwalloc.device import samples as kernels
    from xwalloc.device.memory import download, together, upload

    batch, channels = items[0].place.samples.shape[:2]
    grid = items[0].model.grid
    ranks = [len(item.analysis) for item in items]
    most = max(ranks)
    matrices = np.zeros((len(items), most, channels))
    for matrix, item, shift in zip(matrices, items, shifts, strict=True):
        matrix[: len(item.analysis)] = np.rint(np.ldexp(item.analysis, shift))
    per_sample = [np.broadcast_to(np.asarray(item.per_sample, np.float64), channels) for item in items]
    analysis, scales, means, down, quanta = upload(
        device,
        np.repeat(matrices, batch, axis=0),
        np.repeat(np.stack(per_sample), batch, axis=0),
        np.repeat(np.stack([item.model.mean_units for item in items]), batch, axis=0),
        np.repeat(2.0 ** -np.array(shifts, np.float64), batch)[:, None],
        np.repeat(np.array([float(item.model.quantum) for item in items]), batch)[:, None],
    )
    samples = together([item.place.there()[0] for item in items]).view(len(items) * batch, channels, -1)
    latents = torch.bmm(analysis, kernels.to_units(samples, scales, means))
    tops = kernels.round_products(latents, down)
    largest = np.array(
        [largest_product(own, shift, item.reach) for own, shift, item in zip(matrices, shifts, items, strict=True)]
    )
    if (largest >= ORDINARY).any():  # only a look at them can tell
        largest = download(tops)[0].reshape(len(items), -1).max(axis=1) + 1.0
    taps: list[int | None] = [None] * len(items)
    for index, top in enumerate(largest.tolist()):
        with suppress(BudgetError):
            taps[index] = filter_shift(top)
    sets = sorted({tap for tap in taps if tap is not None})
    if not sets:
        return [None] * len(items)
    # What is beyond the budget is transformed like the rest, and nobody looks at it.
    chosen = [sets.index(sets[0] if tap is None else tap) for tap in taps]
    bounds = [max((top for top, tap in zip(largest, taps, strict=True) if tap == own), default=0.0) for own in sets]
    planes = latents.view(-1, *grid.signal)
    try:
        wavelet.forward_exact(
            planes, grid.plan, [grid.filters("analysis", tap) for tap in sets], grid.boundary,
            which=np.repeat(chosen, batch * most), bounds=bounds, out=planes,
        )  # fmt: skip
    except BudgetError:
        if len(items) == 1:
            return [None]
        return [_quantised(device, [item], [shift])[0] for item, shift in zip(items, shifts, strict=True)]
    coefficients = planes.view(len(items) * batch, most, *grid.signal)
    boxes = boxes_of(grid)
    (sums,) = download(quantiser.magnitude_sums(coefficients, boxes.tolist(), quanta, 1.0 - q.TYPICAL_THRESHOLD))
    sizes = batch * np.prod(boxes[:, 1::2] - boxes[:, ::2], axis=1)
    rises = np.empty((len(items), most, len(boxes)))
    for own, rise, item in zip(sums.reshape(len(items), batch, most, -1), rises, items, strict=True):
        q.rises(own, sizes, rise)
        if item.kept is not None:
            rise[: len(item.analysis)][~item.kept] = -np.inf
    (there,) = upload(device, np.repeat(rises, batch, axis=0))
    symbols, cells = quantiser.quantise(coefficients, boxes.tolist(), quanta, there)
    low, high = torch.aminmax(symbols.view(len(items), -1), dim=1)
    held, most_found = download(cells, torch.maximum(-low, high))
    found: list[Found | None] = []
    for index, (item, tap) in enumerate(zip(items, taps, strict=True)):
        part = slice(index * batch, (index + 1) * batch)
        if tap is None:
            found.append(None)
            continue
        model = linear.quantised(item.model, held[part, : ranks[index]].sum(axis=0), batch, tap, item.side)
        found.append((model, Symbols(symbols[part, : model.rank].contiguous(), int(most_found[index]))))
    return found
