# mypy: disable-error-code="no-untyped-call"
"""What becomes of symbols on a CUDA device: synthesis, residual layers, their bytes, and what an examination says."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from xwalloc.bitstream.tables import Tables
from xwalloc.codec.bound import Finish
from xwalloc.codec.examine import Examine, misses, squares
from xwalloc.codec.places import Attempt, codes_of
from xwalloc.codec.resident.sections import latent_section, residual_section
from xwalloc.codec.resident.steps import (
    alike,
    as_float16,
    inverse,
    largest_coefficient,
    reach_of,
    torch_type,
)
from xwalloc.errors import BudgetError
from xwalloc.models import linear
from xwalloc.models.spec import LinearModel

if TYPE_CHECKING:
    import torch

    from xwalloc.codec.resident.encode import OnDevice
    from xwalloc.codec.resident.symbols import Symbols
    from xwalloc.device.coder import Section
    from xwalloc.models.neural import Network

__all__ = ["ToAttempt", "attempt", "looked_at"]


@dataclass(frozen=True)
class ToAttempt:
    """Arguments of `Place.attempt`."""

    place: OnDevice
    model: LinearModel
    symbols: Symbols
    network: Network | None
    finish: Finish
    examine: Examine | None
    tables: Tables
    with_latents: bool

    @property
    def looked_at(self) -> bool:
        """Whether samples are needed at all."""
        return self.finish.step > 0 or self.examine is not None


@dataclass
class Looked:
    """What the device has made of chunks (item: batch items of all of them).

    `residuals` (item, channel, n), `sums` (item, channel) of their magnitudes, both None without residual layer;
    `missed` (item, channel, n), None if nothing can miss; `figures` (item, channel, ...).
    """

    residuals: torch.Tensor | None
    sums: torch.Tensor | None
    missed: torch.Tensor | None
    figures: torch.Tensor | None


def attempt(device: torch.device, items: Sequence[ToAttempt]) -> list[Attempt | BudgetError]:
    """What becomes of the symbols of chunks; a BudgetError where their synthesis could be inexact.

    Chunks of one shape, grid and target are worked on together. Waits for the device once for each of these groups, and
    for the entropy coder.
    """
    from xwalloc.device import coder
    from xwalloc.device.memory import together

    found: list[Attempt | BudgetError | None] = [None] * len(items)
    layers: dict[int, torch.Tensor] = {}
    for group in alike(items, _target):
        some = [items[index] for index in group]
        for index, (own, layer) in zip(group, _attempts(device, some), strict=True):
            found[index] = own
            if isinstance(own, Attempt) and own.codes is not None and layer is not None:
                layers[index] = layer
    sections: list[Section] = []
    values: list[torch.Tensor] = []
    masks: list[torch.Tensor] = []
    named: list[tuple[int, bool]] = []
    at = mask_at = 0
    for index, item in enumerate(items):
        if item.with_latents and isinstance(found[index], Attempt):
            sections.append(latent_section(item.model, len(item.symbols.values), item.tables, at))
            named.append((index, True))
            values.append(item.symbols.values.reshape(-1))
            at += values[-1].numel()
    for index, layer in layers.items():
        item, made, blank = items[index], found[index], items[index].place.there()[1]
        assert isinstance(made, Attempt)
        assert made.codes is not None
        where = None if blank is None else mask_at
        sections.append(
            residual_section(item.place.shape, made.codes, item.model.grid.dimensions, item.tables, at, where)
        )
        named.append((index, False))
        values.append(layer.reshape(-1))
        at += values[-1].numel()
        if blank is not None:
            masks.append(blank.reshape(-1))
            mask_at += masks[-1].numel()
    if sections:
        coded = coder.encode(sections, together(values), together(masks) if masks else None)
        for (index, of_latents), data in zip(named, coded, strict=True):
            made = found[index]
            assert isinstance(made, Attempt)
            found[index] = replace(made, latents=data) if of_latents else replace(made, streams=data)
    return [own for own in found if own is not None]


def _target(item: ToAttempt) -> Hashable:
    """Chunks with the same have the same kernels."""
    place, examine = item.place, item.examine
    kind = None if examine is None else (type(examine), examine.nodata.dtype, examine.nodata.tobytes())
    return (
        place.samples.shape, place.samples.dtype, item.model.grid, place.blank is None, place.nodata.tobytes(),
        item.finish.step > 0, item.finish.fraction is not None, kind,
    )  # fmt: skip


def _attempts(
    device: torch.device, items: Sequence[ToAttempt]
) -> list[tuple[Attempt | BudgetError, torch.Tensor | None]]:
    """What becomes of the symbols of chunks of one target, but for the streams; residual layers."""
    import torch

    from xwalloc.device.memory import download

    batch, channels = items[0].place.shape[:2]
    models = [item.model for item in items]
    bounds = [largest_coefficient(item.model, item.symbols.largest) for item in items]
    try:
        latents, planes = inverse(
            models, [item.symbols.values for item in items], [item.network for item in items], bounds
        )
    except BudgetError as error:
        if len(items) == 1:
            return [(error, None)]
        return [_attempts(device, [item])[0] for item in items]
    looked = looked_at(device, items, latents) if items[0].looked_at else Looked(None, None, None, None)
    none = torch.zeros(len(items), device=device)
    layers, missed, figures, sums = [
        none if own is None else own.view(len(items), batch, channels, -1)
        for own in (looked.residuals, looked.missed, looked.figures, looked.sums)
    ]
    marks = none if looked.missed is None else missed.flatten(1).any(dim=1)
    reach, magnitudes, numbers, any_missed = download(planes, sums, figures, marks)
    edges = np.cumsum([batch * model.rank for model in models])
    found: list[tuple[Attempt | BudgetError, torch.Tensor | None]] = []
    for index, (item, own) in enumerate(zip(items, np.split(reach, edges[:-1]), strict=True)):
        if not linear.fits(item.model, reach_of(item.model, own)):
            found.append((BudgetError("The latents of the chunk exceed the bit budget of exact arithmetic."), None))
            continue
        codes = None
        if looked.sums is not None:
            codes = codes_of(list(magnitudes[index].reshape(batch, channels)), item.place.samples.size // channels)
        figure = 0.0 if item.examine is None else item.examine.join(numbers[index].reshape(-1).tolist())
        there = download(missed[index])[0] if any_missed[index] else None
        outcome = Attempt(b"", codes, b"", there, figure, item.finish.step > 0)
        found.append((outcome, None if looked.residuals is None else layers[index]))
    return found


def looked_at(device: torch.device, items: Sequence[ToAttempt], latents: Sequence[torch.Tensor]) -> Looked:
    """Residuals of chunks that bring their samples within the bound, and what the examination says."""
    import torch

    from xwalloc.device import samples as kernels
    from xwalloc.device.memory import together, upload

    there = [item.place.there() for item in items]
    batch, channels = items[0].place.samples.shape[:2]
    samples = together([own[0] for own in there]).view(len(items) * batch, channels, -1)
    blanks = [own[1] for own in there if own[1] is not None]
    blank, nodata = together(blanks).view(samples.shape) if blanks else None, there[0][2]
    tables = [item.finish.table(item.model.mean_units) for item in items]
    table, *matrices = upload(
        device, np.repeat(np.stack(tables), batch, axis=0), *[item.model.matrix for item in items]
    )
    products = torch.empty(samples.shape, dtype=torch.float64, device=device)
    for index, (matrix, own) in enumerate(zip(matrices, latents, strict=True)):
        torch.matmul(matrix, own, out=products[index * batch : (index + 1) * batch])
    first = items[0]
    integral, examine = first.finish.fraction is not None, first.examine
    halved = examine is not None and examine.nodata.dtype == np.float16
    rest = sums = None
    if first.finish.step and isinstance(examine, misses) and not halved:
        rest, sums, missed, largest = kernels.bounded_residuals(
            samples, products, table, blank, nodata, _bounds(device, items, batch), integral=integral
        )
        return Looked(rest, sums, missed, largest)
    if first.finish.step:
        rest, decoded, sums = kernels.residuals(samples, products, table, blank, nodata, integral=integral)
    else:
        decoded = torch.empty(products.shape, dtype=torch_type(first.place.samples.dtype), device=device)
        kernels.finish(products, table, None, nodata, decoded, integral=integral)
    if examine is None:
        return Looked(rest, sums, None, None)
    if halved:
        decoded = as_float16(decoded, examine.nodata).to(torch.float32)
    if isinstance(examine, misses):
        missed, largest = kernels.misses(samples, decoded, _bounds(device, items, batch))
        return Looked(rest, sums, missed, largest)
    scales = [[own.examine.scale] for own in items if isinstance(own.examine, squares)]
    (there_scales,) = upload(device, np.repeat(np.array(scales, np.float64), batch, axis=0))
    return Looked(rest, sums, None, kernels.squares(samples, decoded, there_scales))


def _bounds(device: torch.device, items: Sequence[ToAttempt], batch: int) -> torch.Tensor:
    """Bounds (item, channel) of chunks."""
    from xwalloc.device.memory import upload

    channels = items[0].place.samples.shape[1]
    limits = [
        np.broadcast_to(np.asarray(item.examine.limit, np.float64), channels)
        for item in items
        if isinstance(item.examine, misses)
    ]
    return upload(device, np.repeat(np.stack(limits), batch, axis=0))[0]
