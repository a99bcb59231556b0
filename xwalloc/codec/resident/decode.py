# mypy: disable-error-code="no-untyped-call"
"""Chunks in transform mode, decoded on a CUDA device: bytes of frames go there and become samples.

The arithmetic is that of transform_mode.py, on all chunks of a batch at once where they are alike: one call of the
entropy coder for all streams, one wavelet transform for all latents of a geometry. Values are the same bits as on a
CPU (see xwalloc/device).

The thread of the device never waits for it: it sends batch after batch there, and whoever asked for a chunk looks, once
its samples are back, whether its streams were sound and its arithmetic certain to be exact (delivery.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from xwalloc.codec.bound import early_nodata
from xwalloc.codec.resident.job import Job
from xwalloc.codec.resident.steps import alike, as_float16, inverse, largest_coefficient, reach_of, torch_type
from xwalloc.errors import FormatError
from xwalloc.models.linear import fits
from xwalloc.models.spec import Grid, LinearModel

if TYPE_CHECKING:
    import torch

    from xwalloc.device.coder import Section

__all__ = ["Batch", "certain", "decode", "restored", "samples_of"]

SMALL = 1 << 20
"""A product of so many samples, or fewer, takes the device less time than a call takes the host."""

DAMAGED = "A stream of the frame does not decode to its end, or holds impossible values."
INEXACT = "The symbols of the frame are impossible: its latents exceed what is exact."


class Batch:
    """Chunks that a device is decoding: their samples, and what says whether they are right.

    Attributes
    ----------
    samples
        Samples of the region of each chunk, in the stored order of axes, on the device. Of a chunk that `verdict` finds
        wrong they are anything.
    numbers : (n,) uint8
        Largest latents, smallest and largest symbols of planes, and results of streams, on the device.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        samples: list[torch.Tensor],
        numbers: torch.Tensor,
        planes: Sequence[slice],
        owners: NDArray[np.int64],
        measured: bool,
    ) -> None:
        self.jobs, self.samples, self.numbers, self._planes, self._owners = jobs, samples, numbers, planes, owners
        self._measured = measured

    def verdict(self, index: int, numbers: NDArray[np.uint8]) -> bool:
        """Whether a chunk is right; if not, it has to be decoded again, measured.

        Parameters
        ----------
        index
            Which chunk.
        numbers
            `numbers`, on the host.

        Raises
        ------
        FormatError
            If its sections are damaged.
        """
        planes, count = self._planes[index], sum(part.stop - part.start for part in self._planes)
        reach, rest = numbers[: 8 * count].view(np.float64), numbers[8 * count :].view(np.int32)
        if rest[2 * count :][self._owners == index].any():
            raise FormatError(DAMAGED)
        model = self.jobs[index].contents.model
        if not self._measured:
            bound = _bound(model, rest[planes], rest[count:][planes])
            if bound > certain(model.grid, model.filter_shift):
                return False
        if not fits(model, reach_of(model, reach[planes])):
            raise FormatError(INEXACT)
        return True


def decode(device: torch.device, jobs: Sequence[Job], measured: bool = False) -> Batch:
    """Decode chunks.

    Parameters
    ----------
    device, jobs
        Where, and the chunks.
    measured
        Whether their symbols are looked at before the wavelet, which waits for the device. If not, nothing here does:
        the wavelet is taken to be exact, as it is for all ordinary chunks, and `Batch.verdict` tells afterwards.

    Raises
    ------
    BudgetError
        If the wavelet is not exact for one of them.
    """
    import torch

    from xwalloc.device.memory import download

    # Latents of equal geometry lie behind each other, and among them those of equal rank.
    groups = alike(jobs, lambda job: job.contents.model.grid)
    groups = [sorted(group, key=lambda index: jobs[index].contents.model.rank) for group in groups]
    order = [index for group in groups for index in group]
    own = [jobs[index] for index in order]
    integers = _integers(device, own)
    symbols = integers.symbols
    latents: list[torch.Tensor] = []
    reaches: list[torch.Tensor] = []
    extremes: list[tuple[torch.Tensor, torch.Tensor]] = []
    at = 0
    for group in groups:
        part = slice(at, at + len(group))
        models = [job.contents.model for job in own[part]]
        extremes.append(_extremes(symbols[part]))
        bounds = [certain(model.grid, model.filter_shift) for model in models]
        if measured:
            edges = np.cumsum([math.prod(job.latent_shape[:2]) for job in own[part]])[:-1]
            parts = zip(*(np.split(found, edges) for found in download(*extremes[-1])), strict=True)
            bounds = [_bound(model, low, high) for model, (low, high) in zip(models, parts, strict=True)]
        found, reach = inverse(models, symbols[part], [job.contents.network for job in own[part]], bounds)
        latents += found
        reaches.append(reach)
        at += len(group)
    samples: dict[int, torch.Tensor] = {}
    for places in alike(own, lambda job: job.kind):
        chunks = [own[place] for place in places]
        made = samples_of(chunks, [latents[place] for place in places], [integers.residuals[place] for place in places])
        for place, box in zip(places, made, strict=True):
            samples[order[place]] = restored(own[place], box, integers.labels[place])
    ends = np.cumsum([0, *(math.prod(job.latent_shape[:2]) for job in own)]).tolist()
    planes = dict(zip(order, map(slice, ends, ends[1:]), strict=False))
    lows, highs = zip(*extremes, strict=True)
    every = range(len(jobs))
    return Batch(
        jobs,
        [samples[index] for index in every],
        torch.cat([numbers.view(torch.uint8) for numbers in (*reaches, *lows, *highs, integers.results)]),
        [planes[index] for index in every],
        np.array(order, np.int64)[integers.owners],
        measured,
    )


def _bound(model: LinearModel, low: NDArray[np.int32], high: NDArray[np.int32]) -> float:
    """What no coefficient of a chunk exceeds, from the smallest and largest symbols of its planes."""
    return largest_coefficient(model, max(-int(low.min()), int(high.max())))


@lru_cache(maxsize=256)
def certain(grid: Grid, shift: int) -> float:
    """Largest coefficients for which synthesis is exact whatever else they are; 0 where that takes a look at them."""
    low, high = 0, 1 << 53
    while high - low > 1:
        middle = (low + high) // 2
        if math.isfinite(grid.inverse_bound(float(middle), shift)):
            low = middle
        else:
            high = middle
    return float(low)


@dataclass(frozen=True)
class _Integers:
    """Integers of chunks on the device.

    Parameters
    ----------
    symbols : (batch, rank, z, y, x) int32
        Of each chunk, one behind the other in memory.
    residuals : (n,) int32
        Of each chunk, likewise; nothing where there are none.
    labels : (batch, channel, z, y, x) uint8
        Mask of each chunk; None where there is none.
    results, owners : (stream,)
        0 where a stream is sound (int32, on the device), and its chunk.
    """

    symbols: list[torch.Tensor]
    residuals: list[torch.Tensor]
    labels: list[torch.Tensor | None]
    results: torch.Tensor
    owners: NDArray[np.int64]


def _integers(device: torch.device, jobs: Sequence[Job]) -> _Integers:
    """All integers of chunks, decoded or fetched."""
    import torch

    from xwalloc.device import coder

    sizes = [math.prod(job.latent_shape) for job in jobs] + [job.residual_size for job in jobs]
    values = torch.zeros(sum(sizes), dtype=torch.int32, device=device)
    parts = torch.split(values, sizes)
    symbols, residuals = list(parts[: len(jobs)]), list(parts[len(jobs) :])
    mask, labels = _masks(device, jobs)
    starts = (np.cumsum(sizes) - sizes).tolist()
    sections: list[Section] = []
    owners: list[int] = []
    for place, job in enumerate(jobs):
        for found, there in ((job.symbols, symbols[place]), (job.residuals, residuals[place])):
            if found is not None:
                there.copy_(found.view(-1), non_blocking=True)
        own = labels[place]
        ats = (starts[place], None), (starts[len(jobs) + place], None if own is None else int(own.storage_offset()))
        for section, (at, mask_at) in zip(job.sections, ats, strict=False):
            sections.append(section.placed(at, mask_at))
            owners.append(place)
    results, of_streams = values[:0], np.empty(0, np.int64)
    if sections:
        streams = [found for job in jobs for found in job.streams]
        of_sections, results = coder.decode(sections, streams, values, mask)
        of_streams = np.array(owners, np.int64)[of_sections]
    shaped = [own.view(job.latent_shape) for own, job in zip(symbols, jobs, strict=True)]
    return _Integers(shaped, residuals, labels, results, of_streams)


def _masks(device: torch.device, jobs: Sequence[Job]) -> tuple[torch.Tensor | None, list[torch.Tensor | None]]:
    """Masks of chunks on the device, one behind the other, (n,) uint8; and that of each. None where there is none."""
    import torch

    sizes = [0 if job.labels is None else job.labels.numel() for job in jobs]
    if not any(sizes):
        return None, [None] * len(jobs)
    every = torch.empty(sum(sizes), dtype=torch.uint8, device=device)
    found: list[torch.Tensor | None] = []
    for job, own in zip(jobs, torch.split(every, sizes), strict=True):
        there = None if job.labels is None else own.view(job.labels.shape)
        if job.labels is not None and there is not None:
            there.copy_(job.labels, non_blocking=True)
        found.append(there)
    return every, found


def _extremes(symbols: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Smallest and largest symbol of each plane of chunks (batch, rank, z, y, x) of one geometry."""
    from xwalloc.device.memory import together

    planes = together(symbols).view(-1, math.prod(symbols[0].shape[2:]))
    return planes.amin(dim=1), planes.amax(dim=1)


def samples_of(
    jobs: Sequence[Job], latents: Sequence[torch.Tensor], residuals: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Samples (batch, channel, z, y, x), in the type that is worked with, of the boxes of chunks.

    Parameters
    ----------
    jobs
        Chunks of one kind.
    latents : (batch, rank, n) float64
        Latents of each.
    residuals : (n,) int32
        Residuals of each, or nothing.
    """
    import torch

    from xwalloc.device import samples
    from xwalloc.device.memory import together, upload

    first, device = jobs[0], latents[0].device
    shape, box = first.contents.shape, first.box
    items, channels, *extents = (part.stop - part.start for part in box)
    nodata = early_nodata(first.nodata)
    runs = _runs(jobs)
    table, avoided, *matrices = upload(
        device, np.concatenate([job.table for job in jobs for _ in range(items)]),
        nodata, *[np.stack([job.matrix for job in jobs[run]]) for run in runs],
    )  # fmt: skip
    size = (len(jobs) * items, channels, math.prod(extents))
    products = torch.empty(size, dtype=torch.float64, device=device)
    whole = (items, *extents) == (shape[0], *shape[2:])
    for run, own_matrices in zip(runs, matrices, strict=True):
        count, _, rank = own_matrices.shape
        own = together(latents[run]).view(count, -1, rank, *shape[2:])
        if not whole:
            own = _within(own, (slice(0, count), box[0], slice(0, rank), *box[2:]))
        own, out = own.reshape(count * items, rank, -1), products[run.start * items : run.stop * items]
        if len(own) == 1:
            torch.mm(own_matrices[0], own[0], out=out[0])
        else:
            repeated = own_matrices[:, None].expand(-1, items, -1, -1).reshape(len(own), channels, rank)
            torch.bmm(repeated, own, out=out)
    layer = None
    if first.contents.residual_codes is not None:
        all_of_them = together(residuals).view(len(jobs), *shape)
        layer = _within(all_of_them, (slice(0, len(jobs)), *box)).reshape(size).contiguous()  # there may be gaps
    out = torch.empty(size, dtype=torch_type(first.working_type), device=device)
    samples.finish(
        products, table.view(*size[:2], -1), layer, avoided if nodata.size else None, out,
        integral=first.contents.finish.fraction is not None,
    )  # fmt: skip
    return [made.view(items, channels, *extents) for made in torch.split(out, items)]


def _runs(jobs: Sequence[Job]) -> list[slice]:
    """Chunks whose products are made by one call: neighbours of equal rank that are small."""

    def what(index: int) -> tuple[int, int]:
        contents = jobs[index].contents
        return contents.model.rank, 0 if math.prod(contents.shape) <= SMALL else index

    runs = [list(run) for _, run in groupby(range(len(jobs)), what)]
    return [slice(run[0], run[-1] + 1) for run in runs]


def _within(tensor: torch.Tensor, box: Sequence[slice]) -> torch.Tensor:
    """A part of a tensor, given as a slice of each axis with start and stop."""
    for axis, part in enumerate(box):
        if (part.start, part.stop) != (0, tensor.shape[axis]):
            tensor = tensor.narrow(axis, part.start, part.stop - part.start)
    return tensor


def restored(job: Job, decoded: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
    """The region as stored: special samples in their places, axes in their order, native byte order.

    Parameters
    ----------
    job
        The chunk.
    decoded : (batch, channel, z, y, x)
        What `samples_of` has made; contiguous.
    labels : (batch, channel, z, y, x) uint8
        Mask of the chunk, on the device; None where there is none.
    """
    from xwalloc.device.memory import upload

    nodata = job.nodata
    if nodata.dtype == np.float16:
        decoded = as_float16(decoded, nodata)
    bits = decoded.view(torch_type(np.dtype(f"i{nodata.itemsize}")))
    if labels is not None:
        within = _within(labels, job.box)
        for label, pattern in enumerate(job.palette, start=1):
            bits.masked_fill_(within == label, _signed(pattern, nodata.itemsize))
    if job.places.size:
        where, patterns = upload(decoded.device, job.places, job.patterns)
        bits.view(-1)[where] = patterns
    way = job.way
    stored = bits.view(way.extents)
    if way.axes is not None:
        stored = stored.permute(way.axes)
    if way.inner is not None:
        stored = stored[way.inner]
    return stored.contiguous().view(decoded.dtype)


def _signed(pattern: int, itemsize: int) -> int:
    """A bit pattern as a signed integer."""
    return pattern - (1 << 8 * itemsize) if pattern >> (8 * itemsize - 1) else pattern
