# mypy: disable-error-code="no-untyped-call"
"""What a fit wants to know of the samples of chunks on a CUDA device: moments, and trials in windows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.codec.resident.arrays import movable
from xwalloc.codec.resident.steps import alike
from xwalloc.errors import BudgetError
from xwalloc.models import quantise as q
from xwalloc.models.samples import COVARIANCE_BITS, some_pixels
from xwalloc.models.trials import Trial, Windows, sum_of
from xwalloc.transform import spectral

if TYPE_CHECKING:
    import torch

    from xwalloc.codec.resident.encode import OnDevice

__all__ = ["DeviceTrials", "ToTry", "moments", "trials"]

Floats = NDArray[np.float64]


def moments(device: torch.device, items: Sequence[tuple[OnDevice, float]]) -> list[tuple[Floats, Floats]]:
    """Means and covariances of chunks, given with their units per unit of the samples.

    Chunks of one shape are worked on together. Waits for the device once for each of these groups.
    """
    found: list[tuple[Floats, Floats] | None] = [None] * len(items)
    for group in alike(items, lambda item: (item[0].samples.shape, item[0].samples.dtype)):
        for index, own in zip(group, _moments(device, [items[index] for index in group]), strict=True):
            found[index] = own
    return [own for own in found if own is not None]


def _moments(device: torch.device, items: Sequence[tuple[OnDevice, float]]) -> list[tuple[Floats, Floats]]:
    """`moments` of chunks of one shape and type; `HostSamples.moments` says what is done."""
    import torch

    from xwalloc.device import samples as kernels
    from xwalloc.device.memory import download, upload

    shape = items[0][0].shape
    some = [some_pixels(movable(place.there()[0]).view(shape)) for place, _ in items]
    pixels = torch.stack([own.transpose(0, 1).reshape(shape[1], -1) for own in some])
    count = pixels.shape[2]
    per_sample, powers, number = upload(
        device, np.array([[own] for _, own in items]), np.ldexp(1.0, -np.arange(64)), np.array(float(count))
    )
    zero = torch.zeros((1, 1), dtype=torch.float64, device=device)
    units = kernels.to_units(pixels.view(items[0][0].there()[0].dtype), per_sample, zero)
    # A tensor on the device: numbers of the host are divided by as a multiplication there, which rounds otherwise.
    means = torch.round(units.sum(dim=2, dtype=torch.int64).to(torch.float64) / number)
    units -= means[:, :, None]
    _, bits = torch.frexp(torch.linalg.vector_norm(units, math.inf, dim=(1, 2)))
    dropped = (bits - COVARIANCE_BITS).clamp(min=0)
    kernels.round_products(units, powers[dropped][:, None])
    products = torch.bmm(units, units.transpose(1, 2))
    found = []
    for own_means, own_products, sums, shift in zip(*download(means, products, units.sum(dim=2), dropped), strict=True):
        whole = spectral.from_sums(own_products.astype(np.int64), sums.astype(np.int64), count)
        found.append((own_means, whole.covariance * 4.0 ** int(shift)))
    return found


@dataclass(frozen=True)
class ToTry:
    """A chunk, and what is to be tried with it."""

    place: OnDevice
    windows: Windows

    @property
    def nbytes(self) -> int:
        """Memory, about, that it takes on a device."""
        windows = self.windows
        latents = len(windows.basis) * (1 + 2 * len(windows.quanta))
        return 8 * sum(windows.pixels) * (2 * len(windows.means) + latents)


@dataclass(frozen=True, eq=False)
class DeviceTrials:
    """`Trials` that a device has made of all candidates.

    Parameters
    ----------
    windows
        What was looked at.
    sums : (window, quantum, latent, subband, 3) int64
        Of `quantise.try_quantum`.
    residuals : (window, quantum, rank, channel) int64
        Sums of magnitudes of residuals; nothing where there is no residual layer.
    """

    windows: Windows
    sums: NDArray[np.int64]
    residuals: NDArray[np.int64]

    def quantise(self, quantum: int, limit: int) -> Trial:
        """See `Trials`."""
        candidate = self.windows.quanta.index(quantum)
        found = self.sums[:, candidate, :limit]
        bits = sum_of([self.windows.latent_bits(sums[:, :, 0], window) for window, sums in enumerate(found)])
        saved = sum_of([q.saved_by(sums.sum(axis=1), quantum) for sums in found])

        def residual_bits(ranks: Sequence[int]) -> Floats:
            found = self.residuals[:, candidate, [self.windows.ranks.index(rank) for rank in ranks]]
            return sum_of([self.windows.residual_bits(sums, window) for window, sums in enumerate(found)])

        return Trial(bits, saved, residual_bits)


def trials(device: torch.device, items: Sequence[ToTry]) -> list[DeviceTrials | None]:
    """Trials with chunks; None where their arithmetic is not exact.

    Chunks whose windows lie in the same places are worked on together. Waits for the device twice for each of these
    groups.
    """
    found: list[DeviceTrials | None] = [None] * len(items)
    for group in alike(items, _geometry):
        for index, own in zip(group, _trials(device, [items[index] for index in group]), strict=True):
            found[index] = own
    return found


def _geometry(item: ToTry) -> Any:
    windows = item.windows
    edges = tuple((part.start, part.stop) for box in windows.boxes for part in box)
    return (
        item.place.shape, item.place.samples.dtype, windows.grid, edges, len(windows.quanta), windows.holes is None,
        windows.step > 0,
    )  # fmt: skip


def _trials(device: torch.device, items: Sequence[ToTry]) -> list[DeviceTrials | None]:
    """`trials` with chunks whose windows lie in the same places; `HostTrials` says what is done."""
    import torch

    from xwalloc.device import samples as kernels
    from xwalloc.device import trials as candidates
    from xwalloc.device import wavelet
    from xwalloc.device.memory import download, upload

    first, windows = items[0].place, [item.windows for item in items]
    boxes, count = windows[0].boxes, len(windows[0].boxes)  # of one extent
    extent = tuple(part.stop - part.start for part in boxes[0])
    grid = windows[0].grid.cropped(extent)
    ranks = [len(own.basis) for own in windows]
    shifts = [own.usual_shifts or (0, 0) for own in windows]
    channels, most = first.shape[1], max(ranks)
    analyses, bases = (np.zeros((len(items), most, len(own))) for own in (windows[0].means, windows[0].chosen_means))
    for matrix, rounded, own, (_, shift) in zip(analyses, bases, windows, shifts, strict=True):
        matrix[: len(own.basis)] = np.rint(np.ldexp(own.analysis, own.analysis_shift))
        rounded[: len(own.basis)] = np.rint(np.ldexp(own.basis[:, own.some], shift))
    many = max(len(own.ranks) for own in windows)
    chosen = [[*own.ranks, *own.ranks[-1:] * (many - len(own.ranks))] for own in windows]
    scales = [[2.0**shift, 2.0**-shift / (own.step or 1.0)] for own, (_, shift) in zip(windows, shifts, strict=True)]
    holes = [] if windows[0].holes is None else [np.stack([own.holes for own in windows if own.holes is not None])]
    per_sample, means, downs, quanta, analysis, basis, of_ranks, of_steps, rise, *masks = upload(
        device,
        _each(np.stack([own.per_sample for own in windows]), count),
        _each(np.stack([own.means for own in windows]), count),
        _each(np.array([[2.0**-own.analysis_shift] for own in windows]), count),
        _each(np.array([own.quanta for own in windows], np.float64), count),
        _each(analyses, count),
        _each(bases, count),
        _each(np.array(chosen, np.int32), count),
        _each(np.array(scales), count),
        np.array([1.0 - q.TYPICAL_THRESHOLD]),
        *holes,
    )
    crops = [
        movable(item.place.there()[0]).view(first.shape)[0, :, z, y, x].reshape(channels, -1)
        for item in items
        for z, y, x in boxes
    ]
    units = kernels.to_units(torch.stack(crops).view(first.there()[0].dtype), per_sample, means)
    latents = torch.bmm(analysis, units)
    kernels.round_products(latents, downs)
    sets = sorted({shift for shift, _ in shifts})
    which = np.repeat([sets.index(shift) for shift, _ in shifts], count * most)
    largest = [max(own.largest for own, (shift, _) in zip(windows, shifts, strict=True) if shift == s) for s in sets]
    planes = latents.view(-1, *extent)
    try:
        wavelet.forward_exact(
            planes, grid.plan, [grid.filters("analysis", shift) for shift in sets], grid.boundary, which=which,
            bounds=largest, out=planes,
        )  # fmt: skip
    except BudgetError:
        return [None] if len(items) == 1 else [_trials(device, [item])[0] for item in items]
    subbands = windows[0].boxes_of[0].tolist()
    quantised, sums = candidates.try_quanta(latents.view(-1, most, *extent), subbands, quanta, rise)
    residuals = sums[:, :0]
    if many:
        (tops,) = download(torch.linalg.vector_norm(latents.view(len(items), -1), math.inf, dim=1))
        reach = [top + max(own.quanta) for top, own in zip(tops.tolist(), windows, strict=True)]
        limits = [max(top for top, (shift, _) in zip(reach, shifts, strict=True) if shift == s) for s in sets]
        flat = quantised.view(-1, *extent)
        try:
            wavelet.inverse_exact(
                flat, grid.plan, [grid.filters("synthesis", shift) for shift in sets], grid.boundary,
                which=np.repeat(which, quanta.shape[1]), bounds=limits, out=flat,
            )  # fmt: skip
        except BudgetError:
            return [None] if len(items) == 1 else [_trials(device, [item])[0] for item in items]
        some = units[:, windows[0].some]
        residuals = candidates.residual_sums(
            some, quantised.view(*quantised.shape[:3], -1), basis, of_ranks, of_steps,
            masks[0].view(some.shape) if masks else None,
        )  # fmt: skip
    own_sums, own_residuals = download(sums, residuals)
    return [
        DeviceTrials(own, own_sums[part, :, :rank], own_residuals[part])
        for own, rank, part in zip(windows, ranks, _slices(len(items), count), strict=True)
    ]


def _slices(items: int, count: int) -> list[slice]:
    """Where the windows of each item are."""
    return [slice(index * count, (index + 1) * count) for index in range(items)]


def _each(array: NDArray[Any], count: int) -> NDArray[Any]:
    """Rows of chunks, once for each of their windows."""
    return np.repeat(array, count, axis=0)
