# mypy: disable-error-code="no-untyped-call"
"""The samples of chunks that are encoded, on a CUDA device.

A chunk asks for three things, one after the other: symbols, their bytes, and what becomes of them (places.py). Chunks
that ask for the same at the same time are worked on together, so that they wait for the device together and the entropy
coder has streams enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream.planes import Order
from xwalloc.bitstream.tables import Tables, shipped
from xwalloc.codec import engine
from xwalloc.codec.bound import Finish
from xwalloc.codec.devices import arithmetic, owner
from xwalloc.codec.examine import Examine, misses, squares
from xwalloc.codec.places import Attempt, codes_of
from xwalloc.codec.resident.sections import ORDER, has_kernels, latent_section, residual_section
from xwalloc.codec.resident.steps import (
    as_float16,
    inverse,
    largest_coefficient,
    largest_symbols,
    reach_of,
    torch_type,
)
from xwalloc.errors import BudgetError
from xwalloc.models import linear
from xwalloc.models import quantise as q
from xwalloc.models.analysis import exact_shift, filter_shift
from xwalloc.models.choice import boxes_of
from xwalloc.models.spec import LinearModel

if TYPE_CHECKING:
    import torch

    from xwalloc.models.neural import Network

__all__ = ["OnDevice", "can_encode"]

SAMPLE_BYTES = 40
"""Memory, about, that a sample takes: itself, units or product, residual, marks and symbols of the entropy coder."""

T = TypeVar("T")


def can_encode(shape: Sequence[int], order: Order) -> bool:
    """Whether a device can encode a chunk: contexts must be those for devices, samples be counted in 31 bits."""
    return has_kernels() and order == ORDER and math.prod(shape) < 2**31


class OnDevice:
    """The place of a chunk on the device of this process; `OnHost` says what its arguments are.

    Raises
    ------
    DeviceMemoryError
        From any method, if the device has too little memory.
    """

    def __init__(
        self, samples: NDArray[np.generic], blank: NDArray[np.uint8] | None, nodata: NDArray[np.generic]
    ) -> None:
        self.samples, self.blank, self.nodata = samples, blank, nodata
        self.name = engine.device()
        self._there: tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None] | None = None

    def there(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Samples and blank (batch, channel, n), and nodata, on the device."""
        from xwalloc.device.memory import upload

        if self._there is None:
            flat = self.samples.reshape(*self.samples.shape[:2], -1)
            nodata = upload(device, self.nodata)[0] if self.nodata.size else None
            blank = None if self.blank is None else upload(device, self.blank)[0]
            self._there = upload(device, flat)[0], blank, nodata
        return self._there

    def quantise(
        self,
        model: LinearModel,
        per_sample: float | NDArray[np.float64],
        analysis: NDArray[np.float64],
        reach: float,
        side: NDArray[np.float64],
        kept: NDArray[np.bool_] | None = None,
    ) -> linear.Found | None:
        """See `Place`."""
        item = _ToQuantise(self, model, per_sample, analysis, reach, side, kept)
        found: linear.Found | None = self._ask(_Quantise(self.name), item)
        return found

    def encode_latents(self, model: LinearModel, symbols: Any, order: Order, codebook: Tables | None) -> bytes:
        """See `Place`."""
        found: bytes = self._ask(_EncodeLatents(self.name), (model, symbols, codebook))
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
    ) -> Attempt:
        """See `Place`."""
        item = _ToAttempt(self, model, symbols, network, finish, examine, codebook or shipped())
        found: Attempt | BudgetError = self._ask(_Try(self.name), item)
        if isinstance(found, BudgetError):
            raise found
        return found

    def _ask(self, work: Any, item: Any) -> Any:
        nbytes = SAMPLE_BYTES * self.samples.size
        return engine.wait(owner(self.name).batcher.submit(work, item, nbytes=nbytes))


@dataclass(frozen=True)
class _ToQuantise:
    place: OnDevice
    model: LinearModel
    per_sample: float | NDArray[np.float64]
    analysis: NDArray[np.float64]
    reach: float
    side: NDArray[np.float64]
    kept: NDArray[np.bool_] | None


@dataclass(frozen=True)
class _Quantise:
    """`linear.quantise` of chunks."""

    device: str

    def __call__(self, items: list[_ToQuantise]) -> list[linear.Found | None]:
        import torch

        with arithmetic():
            return quantise(torch.device(self.device), items)


def quantise(device: torch.device, items: Sequence[_ToQuantise]) -> list[linear.Found | None]:
    """Models and symbols of chunks; None where one is beyond the bit budget.

    Chunks of one shape and grid are worked on together. Waits for the device three times for each of these groups.
    """
    found: list[linear.Found | None] = [None] * len(items)
    for group in _alike(items, lambda item: (item.place.samples.shape, item.place.samples.dtype, item.model.grid)):
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


def _quantised(device: torch.device, items: Sequence[_ToQuantise], shifts: Sequence[int]) -> list[linear.Found | None]:
    """Models and symbols of chunks of one shape and grid, with the fractional bits of their analyses."""
    import torch

    from xwalloc.device import samples as kernels
    from xwalloc.device import wavelet
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
    samples = together([item.place.there(device)[0] for item in items]).view(len(items) * batch, channels, -1)
    latents = torch.bmm(analysis, kernels.to_units(samples, scales, means))
    (tops,) = download(kernels.round_products(latents, down))
    largest = tops.reshape(len(items), -1).max(axis=1) + 1.0
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
    (sums,) = download(kernels.magnitude_sums(coefficients, boxes.tolist(), quanta, 1.0 - q.TYPICAL_THRESHOLD))
    sizes = batch * np.prod(boxes[:, 1::2] - boxes[:, ::2], axis=1)
    rises = np.empty((len(items), most, len(boxes)))
    for own, rise, item in zip(sums.reshape(len(items), batch, most, -1), rises, items, strict=True):
        q.rises(own, sizes, rise)
        if item.kept is not None:
            rise[: len(item.analysis)][~item.kept] = -np.inf
    (there,) = upload(device, np.repeat(rises, batch, axis=0))
    symbols, cells = kernels.quantise(coefficients, boxes.tolist(), quanta, there)
    (held,) = download(cells)
    found: list[linear.Found | None] = []
    for index, (item, tap) in enumerate(zip(items, taps, strict=True)):
        part = slice(index * batch, (index + 1) * batch)
        if tap is None:
            found.append(None)
            continue
        model = linear.quantised(item.model, held[part, : ranks[index]].sum(axis=0), batch, tap, item.side)
        found.append((model, symbols[part, : model.rank].contiguous()))
    return found


def _alike(items: Sequence[T], key: Callable[[T], Hashable]) -> list[list[int]]:
    """Places of items, those with equal keys together."""
    groups: dict[Hashable, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(key(item), []).append(index)
    return list(groups.values())


@dataclass(frozen=True)
class _EncodeLatents:
    """Sections LATENTS of chunks: items are models, symbols and codebooks."""

    device: str

    def __call__(self, items: list[tuple[LinearModel, torch.Tensor, Tables | None]]) -> list[bytes]:

        from xwalloc.device import coder
        from xwalloc.device.memory import together

        with arithmetic():
            sizes = [symbols.numel() for _, symbols, _ in items]
            sections = [
                latent_section(model, len(symbols), codebook or shipped(), sum(sizes[:index]))
                for index, (model, symbols, codebook) in enumerate(items)
            ]
            return coder.encode(sections, together([symbols for _, symbols, _ in items]))


@dataclass(frozen=True)
class _ToAttempt:
    place: OnDevice
    model: LinearModel
    symbols: torch.Tensor
    network: Network | None
    finish: Finish
    examine: Examine | None
    tables: Tables

    @property
    def looked_at(self) -> bool:
        """Whether samples are needed at all."""
        return self.finish.step > 0 or self.examine is not None


@dataclass(frozen=True)
class _Try:
    """What becomes of the symbols of chunks; a BudgetError in the place of what is not exact."""

    device: str

    def __call__(self, items: list[_ToAttempt]) -> list[Attempt | BudgetError]:
        import torch

        with arithmetic(networks=any(item.network is not None for item in items)):
            return attempt(torch.device(self.device), items)


@dataclass
class _Looked:
    """What the device has made of chunks (item: batch items of all of them).

    `residuals` (item, channel, n), `sums` (item, channel) of their magnitudes, both None without residual layer;
    `missed` (item, channel, n), None if nothing can miss; `figures` (item, channel, ...).
    """

    residuals: torch.Tensor | None
    sums: torch.Tensor | None
    missed: torch.Tensor | None
    figures: torch.Tensor | None


def attempt(device: torch.device, items: Sequence[_ToAttempt]) -> list[Attempt | BudgetError]:
    """What becomes of the symbols of chunks.

    Chunks of one shape, grid and target are worked on together. Waits for the device three times for each of these
    groups, and for the entropy coder.
    """
    from xwalloc.device import coder
    from xwalloc.device.memory import together

    found: list[Attempt | BudgetError | None] = [None] * len(items)
    sections, layers, masks = [], [], []
    coded: list[int] = []
    at = mask_at = 0
    for group in _alike(items, _target):
        some = [items[index] for index in group]
        for index, (own, layer) in zip(group, _attempts(device, some), strict=True):
            found[index] = own
            if isinstance(own, BudgetError) or own.codes is None or layer is None:
                continue
            item = items[index]
            blank = item.place.there(device)[1]
            sections.append(
                residual_section(
                    item.place.samples.shape, own.codes, item.model.grid.dimensions, item.tables, at,
                    None if blank is None else mask_at,
                )
            )  # fmt: skip
            coded.append(index)
            layers.append(layer.reshape(-1))
            at += layers[-1].numel()
            if blank is not None:
                masks.append(blank.reshape(-1))
                mask_at += masks[-1].numel()
    if sections:
        streams = coder.encode(sections, together(layers), together(masks) if masks else None)
        for index, own_streams in zip(coded, streams, strict=True):
            made = found[index]
            assert isinstance(made, Attempt)
            found[index] = replace(made, streams=own_streams)
    return [own for own in found if own is not None]


def _target(item: _ToAttempt) -> Hashable:
    """Chunks with the same have the same kernels."""
    place, examine = item.place, item.examine
    kind = None if examine is None else (type(examine), examine.nodata.dtype, examine.nodata.tobytes())
    return (
        place.samples.shape, place.samples.dtype, item.model.grid, place.blank is None, place.nodata.tobytes(),
        item.finish.step > 0, item.finish.fraction is not None, kind,
    )  # fmt: skip


def _attempts(
    device: torch.device, items: Sequence[_ToAttempt]
) -> list[tuple[Attempt | BudgetError, torch.Tensor | None]]:
    """What becomes of the symbols of chunks of one target, but for the streams; residual layers."""
    import torch

    from xwalloc.device.memory import download

    batch, channels = items[0].place.samples.shape[:2]
    models = [item.model for item in items]
    symbols = [item.symbols for item in items]
    (tops,) = download(largest_symbols(symbols))
    bounds = [largest_coefficient(model, top) for model, top in zip(models, tops.tolist(), strict=True)]
    try:
        latents, planes = inverse(models, symbols, [item.network for item in items], bounds)
    except BudgetError as error:
        if len(items) == 1:
            return [(error, None)]
        return [_attempts(device, [item])[0] for item in items]
    (reach,) = download(planes)
    edges = np.cumsum([batch * model.rank for model in models])
    found: list[tuple[Attempt | BudgetError, torch.Tensor | None]] = []
    right = []
    for index, (model, own) in enumerate(zip(models, np.split(reach, edges[:-1]), strict=True)):
        if linear.fits(model, reach_of(model, own)):
            right.append(index)
            found.append((Attempt(None, b"", None, 0.0, items[index].finish.step > 0), None))
        else:
            found.append((BudgetError("The latents of the chunk exceed the bit budget of exact arithmetic."), None))
    if not right or not items[0].looked_at:
        return found
    looked = _looked_at(device, [items[index] for index in right], [latents[index] for index in right])
    shaped = {
        name: None if own is None else own.view(len(right), batch, channels, -1)
        for name, own in (("residuals", looked.residuals), ("missed", looked.missed), ("figures", looked.figures))
    }
    none = torch.zeros(0, device=device)
    missed, figures = shaped["missed"], shaped["figures"]
    sums, numbers, marks = download(
        none if looked.sums is None else looked.sums.view(len(right), batch, channels),
        none if figures is None else figures,
        none if missed is None else missed.flatten(1).any(dim=1),
    )
    for place, index in enumerate(right):
        item = items[index]
        codes = codes_of(list(sums[place]), item.place.samples[:, 0].size) if looked.sums is not None else None
        figure = 0.0 if item.examine is None else item.examine.join(numbers[place].reshape(-1).tolist())
        there = download(missed[place])[0] if missed is not None and marks[place] else None
        layer = shaped["residuals"]
        found[index] = (
            Attempt(codes, b"", there, figure, item.finish.step > 0), None if layer is None else layer[place]
        )  # fmt: skip
    return found


def _looked_at(device: torch.device, items: Sequence[_ToAttempt], latents: Sequence[torch.Tensor]) -> _Looked:
    """Residuals of chunks that bring their samples within the bound, and what the examination says."""
    import torch

    from xwalloc.device import samples as kernels
    from xwalloc.device.memory import together, upload

    there = [item.place.there(device) for item in items]
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
        return _Looked(rest, sums, missed, largest)
    if first.finish.step:
        rest, decoded, sums = kernels.residuals(samples, products, table, blank, nodata, integral=integral)
    else:
        decoded = torch.empty(products.shape, dtype=torch_type(first.place.samples.dtype), device=device)
        kernels.finish(products, table, None, nodata, decoded, integral=integral)
    if examine is None:
        return _Looked(rest, sums, None, None)
    if halved:
        decoded = as_float16(decoded, examine.nodata).to(torch.float32)
    if isinstance(examine, misses):
        missed, largest = kernels.misses(samples, decoded, _bounds(device, items, batch))
        return _Looked(rest, sums, missed, largest)
    scales = [[own.examine.scale] for own in items if isinstance(own.examine, squares)]
    (there_scales,) = upload(device, np.repeat(np.array(scales, np.float64), batch, axis=0))
    return _Looked(rest, sums, None, kernels.squares(samples, decoded, there_scales))


def _bounds(device: torch.device, items: Sequence[_ToAttempt], batch: int) -> torch.Tensor:
    """Bounds (item, channel) of chunks."""
    from xwalloc.device.memory import upload

    channels = items[0].place.samples.shape[1]
    limits = [
        np.broadcast_to(np.asarray(item.examine.limit, np.float64), channels)
        for item in items
        if isinstance(item.examine, misses)
    ]
    return upload(device, np.repeat(np.stack(limits), batch, axis=0))[0]
