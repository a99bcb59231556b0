# mypy: disable-error-code="no-untyped-call"
"""The samples of chunks that are encoded, on a CUDA device.

A chunk asks for three things, one after the other: symbols, their bytes, and what becomes of them (places.py). Chunks
that ask for the same at the same time are worked on together, so that they wait for the device together and the entropy
coder has streams enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
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
from xwalloc.codec.resident.sections import ORDER, latent_section, residual_section
from xwalloc.codec.resident.steps import as_float16, inverse, torch_type
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

R = TypeVar("R")


def can_encode(shape: Sequence[int], order: Order) -> bool:
    """Whether a device can encode a chunk: contexts must be those for devices, samples be counted in 31 bits."""
    return order == ORDER and math.prod(shape) < 2**31


class OnDevice:
    """The place of a chunk on the device of this process; `OnHost` says what its arguments are.

    Raises
    ------
    MemoryError
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
    """Models and symbols of chunks; None where one is beyond the bit budget. Waits for the device three times."""
    from xwalloc.device import samples as kernels
    from xwalloc.device import wavelet
    from xwalloc.device.memory import download, upload

    projected = [_projected(device, item) for item in items]
    largest = download(*[own[1] for own in projected if own is not None])
    found: list[linear.Found | None] = [None] * len(items)
    coefficients: dict[int, tuple[torch.Tensor, int, torch.Tensor]] = {}
    tops = iter(largest)
    for index, (item, own) in enumerate(zip(items, projected, strict=True)):
        if own is None:
            continue
        latents, top = own[0], float(next(tops).max()) + 1.0
        grid = item.model.grid
        planes = latents.reshape(-1, *grid.signal)
        try:
            shift = filter_shift(top)
            filters = [grid.filters("analysis", shift)]
            wavelet.forward_exact(planes, grid.plan, filters, grid.boundary, bounds=[top], out=planes)
        except BudgetError:
            continue
        shaped = planes.reshape(*latents.shape[:2], *grid.signal)
        (quanta,) = upload(device, np.full((1, 1), float(item.model.quantum)))
        coefficients[index] = shaped, shift, quanta
    boxes = {index: boxes_of(items[index].model.grid) for index in coefficients}
    sums = download(
        *[
            kernels.magnitude_sums(shaped, boxes[index].tolist(), quanta, 1.0 - q.TYPICAL_THRESHOLD)
            for index, (shaped, _, quanta) in coefficients.items()
        ]
    )
    symbols, cells = {}, []
    for (index, (shaped, _, quanta)), own_sums in zip(coefficients.items(), sums, strict=True):
        sizes = len(shaped) * np.prod(boxes[index][:, 1::2] - boxes[index][:, ::2], axis=1)
        rises = np.empty(own_sums.shape[1:])
        q.rises(own_sums, sizes, rises)
        kept = items[index].kept
        if kept is not None:
            rises[~kept] = -np.inf
        (there,) = upload(device, np.broadcast_to(rises, own_sums.shape))
        symbols[index], found_cells = kernels.quantise(shaped, boxes[index].tolist(), quanta, there)
        cells.append(found_cells)
    for (index, own_symbols), own_cells in zip(symbols.items(), download(*cells), strict=True):
        item, shift = items[index], coefficients[index][1]
        model = linear.quantised(item.model, own_cells.sum(axis=0), len(own_symbols), shift, item.side)
        found[index] = model, own_symbols[:, : model.rank].contiguous()
    return found


def _projected(device: torch.device, item: _ToQuantise) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Latents (batch, rank, n) before the wavelet, and their largest magnitudes; None beyond the budget."""
    import torch

    from xwalloc.device import samples as kernels
    from xwalloc.device.memory import upload

    try:
        shift = exact_shift(item.analysis, item.reach)
    except BudgetError:
        return None
    per_sample = np.atleast_1d(np.asarray(item.per_sample, np.float64))[None]
    matrix, scales, means, down = upload(
        device, np.rint(np.ldexp(item.analysis, shift)), per_sample, item.model.mean_units[None],
        np.full((1, 1), 2.0**-shift),
    )  # fmt: skip
    units = kernels.to_units(item.place.there(device)[0], scales, means)
    latents = torch.matmul(matrix, units)
    return latents, kernels.round_products(latents, down)


@dataclass(frozen=True)
class _EncodeLatents:
    """Sections LATENTS of chunks: items are models, symbols and codebooks."""

    device: str

    def __call__(self, items: list[tuple[LinearModel, torch.Tensor, Tables | None]]) -> list[bytes]:
        import torch

        from xwalloc.device import coder

        with arithmetic():
            sizes = [symbols.numel() for _, symbols, _ in items]
            sections = [
                latent_section(model, len(symbols), codebook or shipped(), sum(sizes[:index]))
                for index, (model, symbols, codebook) in enumerate(items)
            ]
            return coder.encode(sections, torch.cat([symbols.reshape(-1) for _, symbols, _ in items]))


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

        with arithmetic():
            return attempt(torch.device(self.device), items)


@dataclass
class _Looked:
    """What the device has made of a chunk: sums (batch, channel), marks, figures, whether anything is marked."""

    residuals: torch.Tensor | None
    sums: torch.Tensor
    missed: torch.Tensor | None
    figures: torch.Tensor
    any_missed: torch.Tensor


def attempt(device: torch.device, items: Sequence[_ToAttempt]) -> list[Attempt | BudgetError]:
    """What becomes of the symbols of chunks. Waits for the device twice, and for the entropy coder."""
    import torch

    from xwalloc.device import coder
    from xwalloc.device.memory import download

    found: list[Attempt | BudgetError | None] = [None] * len(items)
    latents: dict[int, torch.Tensor] = {}
    for index, item in enumerate(items):
        try:
            (latents[index],) = inverse([item.model], [item.symbols], [item.network])
        except BudgetError as error:
            found[index] = error
    extremes = download(*[own.abs().amax(dim=(0, 2)) for own in latents.values()])
    looked: dict[int, _Looked] = {}
    for index, extreme in zip(list(latents), extremes, strict=True):
        item = items[index]
        own_latents = latents.pop(index)
        if not linear.fits(item.model, extreme):
            found[index] = BudgetError("The latents of the chunk exceed the bit budget of exact arithmetic.")
        elif item.looked_at:
            looked[index] = _looked_at(device, item, own_latents)
        else:
            found[index] = Attempt(None, b"", None, 0.0, False)
        del own_latents
    numbers = iter(download(*[part for own in looked.values() for part in (own.sums, own.figures, own.any_missed)]))
    sections, layers, masks = [], [], []
    coded: dict[int, int] = {}
    at = mask_at = 0
    for index, own in looked.items():
        item = items[index]
        sums, figures, any_missed = next(numbers), next(numbers), next(numbers)
        figure = 0.0 if item.examine is None else item.examine.join(figures.reshape(-1).tolist())
        missed = download(own.missed)[0] if own.missed is not None and any_missed else None
        codes = None
        if own.residuals is not None:
            codes = codes_of(list(sums), item.place.samples[:, 0].size)
        if codes is not None and own.residuals is not None:
            blank = item.place.there(device)[1]
            sections.append(
                residual_section(
                    item.place.samples.shape, codes, item.model.grid.dimensions, item.tables, at,
                    None if blank is None else mask_at,
                )
            )  # fmt: skip
            layers.append(own.residuals.reshape(-1))
            at += layers[-1].numel()
            if blank is not None:
                masks.append(blank.reshape(-1))
                mask_at += masks[-1].numel()
            coded[index] = len(coded)
        found[index] = Attempt(codes, b"", missed, figure, item.finish.step > 0)
    if sections:
        streams = coder.encode(sections, torch.cat(layers), torch.cat(masks) if masks else None)
        for index, place in coded.items():
            own_found = found[index]
            assert isinstance(own_found, Attempt)
            found[index] = Attempt(
                own_found.codes, streams[place], own_found.missed, own_found.figure, own_found.bounded
            )
    return [own_found for own_found in found if own_found is not None]


def _looked_at(device: torch.device, item: _ToAttempt, latents: torch.Tensor) -> _Looked:
    """Residuals of a chunk that bring its samples within the bound, and what the examination says."""
    import torch

    from xwalloc.device import samples as kernels
    from xwalloc.device.memory import upload

    samples, blank, nodata = item.place.there(device)
    numbers = item.finish.table(item.model.mean_units)[None]
    matrix, table = upload(device, item.model.matrix, numbers)
    products = torch.matmul(matrix, latents)
    integral, examine = item.finish.fraction is not None, item.examine
    halved = examine is not None and examine.nodata.dtype == np.float16
    none = torch.zeros(0, dtype=torch.int64, device=device)
    rest, sums = None, none
    if item.finish.step and isinstance(examine, misses) and not halved:
        bounds = _bounds(device, examine)
        rest, sums, missed, largest = kernels.bounded_residuals(
            samples, products, table, blank, nodata, bounds, integral=integral
        )
        return _Looked(rest, sums, missed, largest, missed.any())
    if item.finish.step:
        rest, decoded, sums = kernels.residuals(samples, products, table, blank, nodata, integral=integral)
    else:
        decoded = torch.empty(products.shape, dtype=torch_type(item.place.samples.dtype), device=device)
        kernels.finish(products, table, None, nodata, decoded, integral=integral)
    if examine is None:
        return _Looked(rest, sums, None, none, none)
    if halved:
        decoded = as_float16(decoded, examine.nodata).to(torch.float32)
    if isinstance(examine, misses):
        missed, largest = kernels.misses(samples, decoded, _bounds(device, examine))
        return _Looked(rest, sums, missed, largest, missed.any())
    assert isinstance(examine, squares)
    (scale,) = upload(device, np.array([[examine.scale]], np.float64))
    return _Looked(rest, sums, None, kernels.squares(samples, decoded, scale), none)


def _bounds(device: torch.device, examine: misses) -> torch.Tensor:
    from xwalloc.device.memory import upload

    return upload(device, np.atleast_1d(np.asarray(examine.limit, np.float64))[None])[0]
