# mypy: disable-error-code="no-untyped-call"
"""Steps that encoder and decoder of a device share."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from xwalloc.models.spec import LinearModel

if TYPE_CHECKING:
    import torch

    from xwalloc.models.neural import Network

__all__ = ["alike", "as_float16", "inverse", "largest_coefficient", "reach_of", "torch_type"]

T = TypeVar("T")


def alike(items: Sequence[T], key: Callable[[T], Hashable]) -> list[list[int]]:
    """Places of items, those with equal keys together."""
    groups: dict[Hashable, list[int]] = {}
    for index, item in enumerate(items):
        groups.setdefault(key(item), []).append(index)
    return list(groups.values())


def inverse(
    models: Sequence[LinearModel],
    symbols: Sequence[torch.Tensor],
    networks: Sequence[Network | None],
    bounds: Sequence[float] | None = None,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Latents, integers in units, of chunks of one grid: `linear.synthesise`.

    Parameters
    ----------
    models, networks
        The model of each chunk, and the network that refines its latents, if any.
    symbols : (batch, rank, z, y, x) int32
        Symbols of each chunk; those of several lie behind each other in memory, or are copied.
    bounds
        For each chunk a magnitude that no coefficient exceeds; it is trusted. None where it is to be measured, which
        waits for the device.

    Returns
    -------
    latents : (batch, rank, n) float64
        Of each chunk.
    reach : (plane,) float64
        Largest magnitude of each latent of each batch item of each chunk.

    Raises
    ------
    BudgetError
        If a partial sum could reach 2^53, in any of them.
    """
    import torch

    from xwalloc.device import quantiser, wavelet
    from xwalloc.device.memory import together, upload

    grid, device = models[0].grid, symbols[0].device
    planes = [own.shape[0] * own.shape[1] for own in symbols]
    shape = (1, sum(planes), *grid.signal)
    quanta, points = upload(
        device,
        np.repeat([float(model.quantum) for model in models], planes)[None],
        np.repeat(np.array([model.points for model in models], np.float64), planes, axis=0)[None],
    )
    coefficients = quantiser.dequantise(together(symbols).view(shape), quanta, points)[0]
    for model, own, network, part in zip(models, symbols, networks, torch.split(coefficients, planes), strict=True):
        if network is not None:
            network.refined(part.reshape(own.shape), own, grid.plan, model.codes, model.quantum)
    shifts = sorted({model.filter_shift for model in models})
    which = np.repeat([shifts.index(model.filter_shift) for model in models], planes)
    filters = [grid.filters("synthesis", shift) for shift in shifts]
    of_filters = None
    if bounds is not None:
        of_filters = [
            max(bound for bound, model in zip(bounds, models, strict=True) if model.filter_shift == shift)
            for shift in shifts
        ]
    made = wavelet.inverse_exact(
        coefficients, grid.plan, filters, grid.boundary, which=which, bounds=of_filters, out=coefficients
    )
    parts = zip(torch.split(made, planes), symbols, strict=True)
    flat = made.view(len(made), -1)
    reach = torch.maximum(flat.amax(dim=1), -flat.amin(dim=1))
    return [part.reshape(*own.shape[:2], -1) for part, own in parts], reach


def reach_of(model: LinearModel, planes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Largest magnitude of each latent (rank,), from that of each plane (batch * rank,)."""
    largest: NDArray[np.float64] = planes.reshape(-1, model.rank).max(axis=0)
    return largest


def largest_coefficient(model: LinearModel, symbol: int) -> float:
    """What no coefficient of symbols exceeds, whose largest is given; networks move them by less than a quantum."""
    return float((int(symbol) + 1) * model.quantum + max(map(abs, model.points)))


def as_float16(samples: torch.Tensor, nodata: NDArray[np.generic]) -> torch.Tensor:
    """`bound.stored` of float32 samples: within the range of float16, and none of them nodata."""
    import torch

    from xwalloc.device.memory import upload

    info = torch.finfo(torch.float16)
    narrow = samples.clamp(info.min, info.max).to(torch.float16)
    if nodata.size:
        value, other = upload(samples.device, nodata)[0]
        narrow = torch.where(narrow == value, other, narrow)
    return narrow


def torch_type(dtype: np.dtype[Any]) -> torch.dtype:
    """torch's name of a type."""
    import torch

    return torch.from_numpy(np.empty(0, dtype)).dtype
