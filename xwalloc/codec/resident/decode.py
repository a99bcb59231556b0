# mypy: disable-error-code="no-untyped-call"
"""Chunks in transform mode, decoded on a CUDA device: bytes of frames go there, samples come back, or stay.

The arithmetic is that of transform_mode.py, on all chunks of a batch at once where they are alike: one call of the
entropy coder for all streams, one wavelet transform for all latents of a geometry. Values are the same bits as on a
CPU (see xwalloc/device).

The thread of the device never waits for it: it sends batch after batch there, and whoever asked for a chunk looks, once
its samples are back, whether its streams were sound and its arithmetic certain to be exact.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream.planes import Order
from xwalloc.bitstream.segments import MAX_SEGMENTS as MOST_SEGMENTS
from xwalloc.bitstream.tables import shipped
from xwalloc.codec import engine
from xwalloc.codec.bound import early_nodata
from xwalloc.codec.devices import arithmetic, owner
from xwalloc.codec.layout import Layout
from xwalloc.codec.networks import alone
from xwalloc.codec.resident.arrays import DeviceArray
from xwalloc.codec.resident.sections import has_kernels, latent_section, residual_section
from xwalloc.codec.resident.steps import (
    as_float16,
    certain,
    inverse,
    largest_coefficient,
    largest_symbols,
    reach_of,
    torch_type,
)
from xwalloc.codec.transform_sections import Contents, pad
from xwalloc.errors import BudgetError, FormatError
from xwalloc.models.linear import fits

if TYPE_CHECKING:
    import torch

    from xwalloc.device.coder import Section, Streams

__all__ = ["Batch", "Job", "can_decode", "decode", "decode_alone", "decoded", "left_there"]

MOST_TAPS = 80
"""Filters of more taps, both together, are for CPUs: a frame may state any, and each is compiled anew."""

WORKING_BYTES = 24
"""Memory, about, that a sample takes on the way: symbol, residual, product, result."""

PLANE_BYTES = 260
"""Memory, about, that the entropy coder takes for a plane of a segment."""

LATENT_BYTES = 32
"""Memory, about, that a latent takes on the way: symbol, coefficient, and twice what a wavelet step makes of it."""


@dataclass(frozen=True)
class Job:
    """One chunk that is to be decoded.

    Parameters
    ----------
    contents
        What its sections say.
    layout
        Its axes.
    region
        A slice of each stored axis, with start and stop.
    nodata : (2,) or (0,)
        Nodata and its substitute, in the native stored type.
    labels : (batch, channel, z, y, x) uint8
        Mask, without padding; None where there is none.
    palette
        Bit patterns of the labels from 1 on.
    positions, bits : (n,)
        Exceptions: places in canonical order, bits as unsigned integers of the width of the type.
    symbols, residuals
        What a CPU has decoded already; None where the device is to do it, or where there is no residual layer.
    streams
        Bytes of latents and residuals for the device, taken apart.
    """

    contents: Contents
    layout: Layout
    region: tuple[slice, ...]
    nodata: NDArray[Any]
    labels: NDArray[np.uint8] | None
    palette: tuple[int, ...]
    positions: NDArray[np.int64]
    bits: NDArray[np.unsignedinteger]
    symbols: NDArray[np.int32] | None
    residuals: NDArray[np.int32] | None
    streams: list[Streams]

    @classmethod
    def of(
        cls,
        contents: Contents,
        layout: Layout,
        region: tuple[slice, ...],
        nodata: NDArray[Any],
        labels: NDArray[np.uint8] | None,
        palette: tuple[int, ...],
        positions: NDArray[np.int64],
        bits: NDArray[np.unsignedinteger],
    ) -> Job:
        """A job whose integers are decoded here and now if a device cannot: contexts for size make long chains.

        Raises
        ------
        FormatError
            If their sections are damaged.
        """
        from xwalloc.device import coder

        symbols = residuals = None
        data = (contents.latent_streams, contents.residual_streams)
        streams = [
            coder.unpack(section, own) for section, own in zip(_sections(contents, 0, 0, None), data, strict=False)
        ]
        if contents.order != Order.FLAGS_FIRST:
            symbols = contents.symbols()
            if contents.residual_codes is not None:
                mask = None if labels is None else pad(labels, contents.model.grid.signal)
                residuals = contents.residuals(mask, layout.box(region))
        return cls(contents, layout, region, nodata, labels, palette, positions, bits, symbols, residuals, streams)

    @property
    def latent_shape(self) -> tuple[int, int, int, int, int]:
        """(batch, rank, z, y, x)."""
        z, y, x = self.contents.model.grid.signal
        return self.contents.shape[0], self.contents.model.rank, z, y, x

    @property
    def residual_size(self) -> int:
        """Residuals of the chunk."""
        return 0 if self.contents.residual_codes is None else math.prod(self.contents.shape)

    @property
    def working_type(self) -> np.dtype[Any]:
        """Type of samples until the last step."""
        return np.dtype(np.float32) if self.nodata.dtype == np.float16 else self.nodata.dtype

    @property
    def working_bytes(self) -> int:
        """Memory, about, that it takes on a device."""
        shape, rank = self.contents.shape, self.contents.model.rank
        pixels = shape[0] * math.prod(shape[2:])
        planes = shape[0] * (shape[1] + rank * len(self.contents.model.grid.subbands)) * MOST_SEGMENTS
        samples = pixels * (shape[1] * (WORKING_BYTES + 2 * self.nodata.itemsize) + rank * LATENT_BYTES)
        return samples + PLANE_BYTES * min(planes, pixels * (shape[1] + rank))


def can_decode(contents: Contents) -> bool:
    """Whether a device can decode a chunk: samples are counted in 31 bits, and every length of filters is compiled."""
    if not has_kernels():
        return False
    grid, shift = contents.model.grid, contents.model.filter_shift
    filters = grid.filters("synthesis", shift)
    return math.prod(contents.shape) < 2**31 and len(filters.lo) + len(filters.hi) <= MOST_TAPS


class Batch:
    """Chunks that a device is decoding: their samples, and what says whether they are right.

    Attributes
    ----------
    samples
        Samples of the region of each chunk, in the stored order of axes, on the device. Of a chunk that `verdict` finds
        wrong they are anything.
    numbers
        Results of the streams, largest symbols and largest latents, on the device.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        samples: list[torch.Tensor],
        numbers: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        owners: NDArray[np.int64],
    ) -> None:
        self.jobs, self.samples, self.numbers, self._owners = jobs, samples, numbers, owners
        self._edges = np.cumsum([0, *(math.prod(job.latent_shape[:2]) for job in jobs)])

    def verdict(self, index: int, numbers: Sequence[NDArray[Any]]) -> bool:
        """Whether a chunk is right; if not, it has to be decoded again by `decode_alone`.

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
        results, tops, reach = numbers
        if results[self._owners == index].any():
            raise FormatError("A stream of the frame does not decode to its end, or holds impossible values.")
        model = self.jobs[index].contents.model
        if largest_coefficient(model, tops[index]) > certain(model.grid, model.filter_shift):
            return False
        if not fits(model, reach_of(model, reach[self._edges[index] : self._edges[index + 1]])):
            raise FormatError("The symbols of the frame are impossible: its latents exceed what is exact.")
        return True


def decode(device: torch.device, jobs: Sequence[Job]) -> Batch:
    """Decode chunks. Nothing here waits for the device.

    The wavelet is taken to be exact, as it is for all ordinary chunks; `Batch.verdict` tells afterwards.
    """
    import torch

    from xwalloc.device import coder
    from xwalloc.device.memory import upload

    # Latents of equal geometry lie behind each other.
    grids = list(dict.fromkeys(job.contents.model.grid for job in jobs))
    groups = [[index for index, job in enumerate(jobs) if job.contents.model.grid == grid] for grid in grids]
    order = [index for group in groups for index in group]
    sizes = [math.prod(jobs[index].latent_shape) for index in order] + [jobs[index].residual_size for index in order]
    ends = np.cumsum(sizes)
    starts = ends - sizes
    values = torch.zeros(int(ends[-1]), dtype=torch.int32, device=device)
    parts = [values[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]
    symbols, residuals = (dict(zip(order, own, strict=True)) for own in (parts[: len(order)], parts[len(order) :]))
    mask, masks_at = _masks(device, jobs)
    sections: list[Section] = []
    streams: list[Streams] = []
    owners: list[int] = []
    for place, index in enumerate(order):
        job = jobs[index]
        if job.symbols is not None:
            symbols[index].copy_(upload(device, job.symbols.reshape(-1))[0])
        if job.residuals is not None:
            residuals[index].copy_(upload(device, job.residuals.reshape(-1))[0])
        ats = int(starts[place]), int(starts[len(order) + place])
        for section, found in zip(_sections(job.contents, *ats, masks_at[index]), job.streams, strict=True):
            sections.append(section)
            streams.append(found)
            owners.append(index)
    results, of_streams = values[:0], np.empty(0, np.int64)
    if sections:
        of_sections, results = coder.decode(sections, streams, values, mask)
        of_streams = np.array(owners)[of_sections]
    every = range(len(jobs))
    tops = largest_symbols([symbols[index] for index in every])
    latents_of: dict[int, torch.Tensor] = {}
    reach: dict[int, torch.Tensor] = {}
    for group in groups:
        models = [jobs[index].contents.model for index in group]
        latents, reaches = inverse(
            models,
            [symbols[index].view(jobs[index].latent_shape) for index in group],
            [jobs[index].contents.network for index in group],
            [certain(model.grid, model.filter_shift) for model in models],
        )
        planes = torch.split(reaches, [math.prod(jobs[index].latent_shape[:2]) for index in group])
        latents_of.update(zip(group, latents, strict=True))
        reach.update(zip(group, planes, strict=True))
    samples: dict[int, torch.Tensor] = {}
    for places in _alike([jobs[index] for index in order]):
        group = [order[place] for place in places]
        own = [jobs[index] for index in group]
        made = samples_of(own, [latents_of[index] for index in group], [residuals[index] for index in group])
        samples.update((index, _restored(job, part)) for index, job, part in zip(group, own, made, strict=True))
    numbers = results, tops, torch.cat([reach[index] for index in every])
    return Batch(jobs, [samples[index] for index in every], numbers, of_streams)


def decode_alone(device: torch.device, job: Job) -> torch.Tensor:
    """Samples of one chunk, all of whose steps are checked. Waits for the device.

    Raises
    ------
    FormatError
        If its sections are damaged, or its latents are not exact.
    """
    import torch

    from xwalloc.device import coder
    from xwalloc.device.memory import download, upload

    latent_size = math.prod(job.latent_shape)
    values = torch.zeros(latent_size + job.residual_size, dtype=torch.int32, device=device)
    symbols, residuals = values[:latent_size], values[latent_size:]
    mask, (mask_at,) = _masks(device, [job])
    for own, there in ((job.symbols, symbols), (job.residuals, residuals)):
        if own is not None:
            there.copy_(upload(device, own.reshape(-1))[0])
    sections = list(_sections(job.contents, 0, latent_size, mask_at))
    if sections and download(coder.decode(sections, job.streams, values, mask)[1])[0].any():
        raise FormatError("A stream of the frame does not decode to its end, or holds impossible values.")
    try:
        (latents,), reach = inverse([job.contents.model], [symbols.view(job.latent_shape)], [job.contents.network])
    except BudgetError as error:
        raise FormatError(f"The symbols of the frame are impossible: {error}") from None
    if not fits(job.contents.model, reach_of(job.contents.model, download(reach)[0])):
        raise FormatError("The symbols of the frame are impossible: its latents exceed what is exact.")
    return _restored(job, samples_of([job], [latents], [residuals])[0])


@dataclass(frozen=True)
class _Coming:
    """A chunk of a batch: samples that stay on the device, or come to the host, and numbers that come.

    What is on the host lies in pinned memory, which is torch's again once nobody has it.
    """

    batch: Batch
    index: int
    samples: torch.Tensor
    numbers: list[torch.Tensor]
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
        right = self.batch.verdict(self.index, [numbers.numpy() for numbers in self.numbers])
        return self.samples if right else None


def decoded(job: Job) -> NDArray[Any]:
    """The region of a chunk, decoded on the device of this process, perhaps together with other chunks.

    Raises
    ------
    FormatError
        If the sections of the chunk are damaged.
    DeviceMemoryError
        If the device has too little memory for the chunk alone.
    """
    found = _asked(job, stays=False)
    return alone(lambda device: _alone(device, job).cpu()).numpy() if found is None else found.numpy()


def left_there(job: Job) -> DeviceArray:
    """`decoded`, with the samples left on the device."""
    found = _asked(job, stays=True)
    return DeviceArray(alone(lambda device: _alone(device, job)) if found is None else found, job.nodata.dtype)


def _asked(job: Job, stays: bool) -> torch.Tensor | None:
    """Samples of a chunk; None where it has to be decoded again."""
    name = engine.device()
    try:
        coming: _Coming = engine.wait(owner(name).batcher.submit(_Decode(name, stays), job, nbytes=job.working_bytes))
    except BudgetError:  # step by step, it can be said what is wrong
        return None
    return engine.wait_for(coming.wait)


def _alone(device: str, job: Job) -> torch.Tensor:
    """`decode_alone`, complete when it returns."""
    import torch

    samples = decode_alone(torch.device(device), job)
    if samples.is_cuda:
        torch.cuda.current_stream(samples.device).synchronize()
    return samples


@dataclass(frozen=True)
class _Decode:
    """Decoding of any chunks on a device; unless samples stay, they come to the host behind what is computed next."""

    device: str
    stays: bool

    def __call__(self, jobs: list[Job]) -> list[_Coming]:
        import torch

        device = torch.device(self.device)
        with arithmetic(networks=any(job.contents.network is not None for job in jobs)):
            batch = decode(device, jobs)
            if device.type != "cuda":
                return [
                    _Coming(batch, index, samples, list(batch.numbers), None)
                    for index, samples in enumerate(batch.samples)
                ]
            back = _way_back(self.device)
            back.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(back):
                numbers = [_sent(own, back) for own in batch.numbers]
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


def _sections(contents: Contents, latents_at: int, residuals_at: int, mask_at: int | None) -> Iterator[Section]:
    """What of a chunk the device decodes from bytes: as `Job.streams` has it."""
    if contents.order != Order.FLAGS_FIRST:
        return
    tables, dimensions = contents.codebook or shipped(), contents.dimensions
    model = contents.model
    yield latent_section(model, contents.shape[0], tables, latents_at)
    if contents.residual_codes is not None:
        yield residual_section(contents.shape, contents.residual_codes, dimensions, tables, residuals_at, mask_at)


def _masks(device: torch.device, jobs: Sequence[Job]) -> tuple[torch.Tensor | None, list[int | None]]:
    """What is not coded of the residual layers, and where that of each chunk begins; None where nothing is masked."""
    from xwalloc.device.memory import upload

    padded: list[NDArray[np.uint8]] = []
    places: list[int | None] = []
    at = 0
    for job in jobs:
        if job.labels is None or job.contents.residual_codes is None:
            places.append(None)
            continue
        padded.append(pad(job.labels, job.contents.model.grid.signal).reshape(-1))
        places.append(at)
        at += padded[-1].size
    return (upload(device, np.concatenate(padded))[0] if padded else None), places


def _alike(jobs: Sequence[Job]) -> list[list[int]]:
    """Places of chunks, those together whose samples are made together."""
    groups: dict[Hashable, list[int]] = {}
    for index, job in enumerate(jobs):
        contents = job.contents
        box = tuple((part.start, part.stop) for part in job.layout.box(job.region))
        key = (
            contents.shape, contents.residual_codes is None, contents.finish.fraction is None, job.working_type,
            job.nodata.tobytes(), box,
        )  # fmt: skip
        groups.setdefault(key, []).append(index)
    return list(groups.values())


def samples_of(
    jobs: Sequence[Job], latents: Sequence[torch.Tensor], residuals: Sequence[torch.Tensor]
) -> list[torch.Tensor]:
    """Samples (batch, channel, z, y, x), in the type that is worked with, of the boxes around the regions of chunks.

    Parameters
    ----------
    jobs
        Chunks that are alike.
    latents : (batch, rank, n) float64
        Latents of each.
    residuals : (n,) int32
        Residuals of each, or nothing.
    """
    import torch

    from xwalloc.device import samples
    from xwalloc.device.memory import together, upload

    first, device = jobs[0], latents[0].device
    shape, signal = first.contents.shape, first.contents.model.grid.signal
    box = first.layout.box(first.region)
    items, chosen = box[0].stop - box[0].start, box[1]
    nodata = early_nodata(first.nodata)
    tables = [job.contents.finish.of(chosen).table(job.contents.model.mean_units[chosen]) for job in jobs]
    table, *matrices = upload(
        device, np.repeat(np.stack(tables), items, axis=0), *[job.contents.model.matrix[chosen] for job in jobs],
        *([nodata] if nodata.size else []),
    )  # fmt: skip
    size = (len(jobs) * items, chosen.stop - chosen.start, math.prod(signal))
    products = torch.empty(size, dtype=torch.float64, device=device)
    for index, (matrix, own) in enumerate(zip(matrices, latents, strict=False)):
        torch.matmul(matrix, own[box[0]], out=products[index * items : (index + 1) * items])
    layer = None
    if first.contents.residual_codes is not None:
        whole = together(residuals).view(len(jobs), *shape[:2], -1)
        layer = whole[:, box[0], chosen].reshape(size).contiguous()  # reshape may give a view with gaps
    out = torch.empty(size, dtype=torch_type(first.working_type), device=device)
    samples.finish(
        products, table, layer, matrices[-1] if nodata.size else None, out,
        integral=first.contents.finish.fraction is not None,
    )  # fmt: skip
    return [own.view(items, size[1], *signal)[:, :, box[2], box[3], box[4]] for own in torch.split(out, items)]


def _restored(job: Job, decoded: torch.Tensor) -> torch.Tensor:
    """The region as stored: special samples in their places, axes in their order, native byte order."""

    from xwalloc.device.memory import upload

    device, nodata = decoded.device, job.nodata
    if nodata.dtype == np.float16:
        decoded = as_float16(decoded, nodata)
    decoded = decoded.contiguous()
    bits = decoded.view(torch_type(np.dtype(f"i{nodata.itemsize}")))
    box = job.layout.box(job.region)
    if job.labels is not None:
        (labels,) = upload(device, job.labels[box])
        for label, pattern in enumerate(job.palette, start=1):
            bits.masked_fill_(labels == label, _signed(pattern, nodata.itemsize))
    if job.positions.size:
        places = np.array(np.unravel_index(job.positions, job.layout.canonical))
        first, last = (np.array([getattr(part, edge) for part in box])[:, None] for edge in ("start", "stop"))
        inside = np.all((places >= first) & (places < last), axis=0)
        at = np.ravel_multi_index(tuple((places - first)[:, inside]), bits.shape)
        where, patterns = upload(
            device, at.astype(np.int64), job.bits[inside].astype(f"u{nodata.itemsize}").view(f"i{nodata.itemsize}")
        )
        bits.view(-1)[where] = patterns
    cut, inner = job.layout.cut(job.region)
    moved = bits.reshape([cut.shape[axis] for axis in cut.order]).permute(np.argsort(cut.order).tolist())
    return moved[inner].contiguous().view(decoded.dtype)


def _signed(pattern: int, itemsize: int) -> int:
    """A bit pattern as a signed integer."""
    return pattern - (1 << 8 * itemsize) if pattern >> (8 * itemsize - 1) else pattern
