# mypy: disable-error-code="no-untyped-call"
"""Chunks in transform mode, decoded on a CUDA device: bytes of frames go there, samples come back, or stay.

The arithmetic is that of transform_mode.py, on all chunks of a batch at once where they are alike: one call of the
entropy coder for all streams, one wavelet transform for all latents of a geometry. Values are the same bits as on a
CPU (see xwalloc/device). Nothing waits for the device but two small transfers: how large coefficients are, and whether
all streams were sound.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream.planes import Order
from xwalloc.bitstream.tables import shipped
from xwalloc.codec import engine
from xwalloc.codec.bound import early_nodata
from xwalloc.codec.devices import arithmetic, owner
from xwalloc.codec.layout import Layout
from xwalloc.codec.resident.sections import latent_section, residual_section
from xwalloc.codec.resident.steps import as_float16, inverse, torch_type
from xwalloc.codec.transform_sections import Contents, pad
from xwalloc.errors import FormatError
from xwalloc.models.linear import fits

if TYPE_CHECKING:
    import torch

    from xwalloc.device.coder import Section, Streams

__all__ = ["Job", "can_decode", "decode", "decoded"]

WORKING_BYTES = 24
"""Memory, about, that a sample takes on the way: symbol, residual, product, result."""

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
        symbols = residuals = None
        if contents.order != Order.FLAGS_FIRST:
            symbols = contents.symbols()
            if contents.residual_codes is not None:
                mask = None if labels is None else pad(labels, contents.model.grid.signal)
                residuals = contents.residuals(mask, layout.box(region))
        return cls(contents, layout, region, nodata, labels, palette, positions, bits, symbols, residuals)

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
        return pixels * (shape[1] * (WORKING_BYTES + 2 * self.nodata.itemsize) + rank * LATENT_BYTES)


def can_decode(contents: Contents) -> bool:
    """Whether a device can decode a chunk: its samples must be counted in 31 bits."""
    return math.prod(contents.shape) < 2**31


@dataclass(frozen=True)
class _Coming:
    """Samples on their way to the host, in pinned memory that is torch's again once nobody has them."""

    samples: torch.Tensor
    arrived: torch.cuda.Event | None

    def wait(self) -> NDArray[Any]:
        """The samples, once they are there."""
        if self.arrived is not None:
            self.arrived.synchronize()
        return self.samples.numpy()


def decoded(job: Job) -> NDArray[Any]:
    """The region of a chunk, decoded on the device of this process, perhaps together with other chunks.

    Raises
    ------
    FormatError
        If the sections of the chunk are damaged.
    MemoryError
        If the device has too little memory for the chunk alone.
    """
    name = engine.device()
    coming: _Coming = engine.wait(owner(name).batcher.submit(_Decode(name), job, nbytes=job.working_bytes))
    return coming.wait()


@dataclass(frozen=True)
class _Decode:
    """Decoding of any chunks on a device, with their samples coming to the host behind what is computed next."""

    device: str

    def __call__(self, jobs: list[Job]) -> list[_Coming]:
        import torch

        device = torch.device(self.device)
        with arithmetic():
            there = decode(device, jobs)
            if device.type != "cuda":
                return [_Coming(samples, None) for samples in there]
            back = _way_back(self.device)
            back.wait_stream(torch.cuda.current_stream(device))
            coming = []
            with torch.cuda.stream(back):
                for samples in there:
                    here = torch.empty(samples.shape, dtype=samples.dtype, pin_memory=True)
                    here.copy_(samples, non_blocking=True)
                    samples.record_stream(back)
                    coming.append(_Coming(here, back.record_event()))
            return coming


@lru_cache(maxsize=16)
def _way_back(device: str) -> torch.cuda.Stream:
    """The stream on which samples come back from a device."""
    import torch

    return torch.cuda.Stream(device)


def decode(device: torch.device, jobs: Sequence[Job]) -> list[torch.Tensor]:
    """Samples of the regions of chunks, in the stored order of axes, on the device.

    Raises
    ------
    FormatError
        If the sections of a chunk are damaged; which one is not said.
    BudgetError
        If coefficients of one exceed what is exact.
    """
    import torch

    from xwalloc.device import coder
    from xwalloc.device.memory import download, upload

    # Latents of equal geometry lie behind each other.
    grids = list(dict.fromkeys(job.contents.model.grid for job in jobs))
    groups = [[job for job in jobs if job.contents.model.grid == grid] for grid in grids]
    ordered = [job for group in groups for job in group]
    sizes = [math.prod(job.latent_shape) for job in ordered] + [job.residual_size for job in ordered]
    ends = np.cumsum(sizes)
    values = torch.zeros(int(ends[-1]), dtype=torch.int32, device=device)
    parts = [values[end - size : end] for end, size in zip(ends.tolist(), sizes, strict=True)]
    symbols, residuals = parts[: len(ordered)], parts[len(ordered) :]
    mask, masks_at = _masks(device, ordered)
    sections: list[Section] = []
    streams: list[Streams] = []
    for index, job in enumerate(ordered):
        if job.symbols is not None:
            symbols[index].copy_(upload(device, job.symbols.reshape(-1))[0])
        if job.residuals is not None:
            residuals[index].copy_(upload(device, job.residuals.reshape(-1))[0])
        starts = ends - sizes
        ats = int(starts[index]), int(starts[len(ordered) + index])
        for section, data in _sections(job.contents, *ats, masks_at[index]):
            sections.append(section)
            streams.append(coder.unpack(section, data))
    results = coder.decode(sections, streams, values, mask)[1] if sections else values[:0]
    decoded: dict[int, torch.Tensor] = {}
    extremes = []
    first = 0
    for group in groups:
        models, networks = [job.contents.model for job in group], [job.contents.network for job in group]
        own_symbols = [part.view(job.latent_shape) for job, part in zip(group, symbols[first:], strict=False)]
        latents = inverse(models, own_symbols, networks)
        for job, own, rest in zip(group, latents, residuals[first:], strict=False):
            extremes.append(own.abs().amax(dim=(0, 2)))
            decoded[id(job)] = _restored(job, _samples(job, own, rest))
        first += len(group)
    wrong, reach = download(results, torch.cat(extremes))
    if wrong.any():
        raise FormatError("A stream of the frame does not decode to its end, or holds impossible values.")
    edges = np.cumsum([job.contents.model.rank for job in ordered])
    for job, largest in zip(ordered, np.split(reach, edges), strict=False):
        if not fits(job.contents.model, largest):
            raise FormatError("The symbols of the frame are impossible: its latents exceed what is exact.")
    return [decoded[id(job)] for job in jobs]


def _sections(
    contents: Contents, latents_at: int, residuals_at: int, mask_at: int | None
) -> Iterator[tuple[Section, bytes]]:
    """What of a chunk the device decodes from bytes, and the bytes."""
    if contents.order != Order.FLAGS_FIRST:
        return
    tables, dimensions = contents.codebook or shipped(), contents.dimensions
    model = contents.model
    yield latent_section(model, contents.shape[0], tables, latents_at), contents.latent_streams
    if contents.residual_codes is not None:
        section = residual_section(contents.shape, contents.residual_codes, dimensions, tables, residuals_at, mask_at)
        yield section, contents.residual_streams


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


def _samples(job: Job, latents: torch.Tensor, residuals: torch.Tensor) -> torch.Tensor:
    """Samples (batch, channel, z, y, x), in the type that is worked with, of the box around a chunk's region."""
    import torch

    from xwalloc.device import samples
    from xwalloc.device.memory import upload

    contents, device = job.contents, latents.device
    box = job.layout.box(job.region)
    chosen, signal = box[1], contents.model.grid.signal
    nodata = early_nodata(job.nodata)
    numbers = contents.finish.of(chosen).table(contents.model.mean_units[chosen])
    matrix, table, *rest = upload(
        device, contents.model.matrix[chosen], numbers[None], *([nodata] if nodata.size else [])
    )  # fmt: skip
    products = torch.matmul(matrix, latents[box[0]])
    layer = None
    if contents.residual_codes is not None:
        layer = residuals.view(*contents.shape[:2], -1)[box[0], chosen].contiguous()
    out = torch.empty(products.shape, dtype=torch_type(job.working_type), device=device)
    samples.finish(
        products, table, layer, rest[0] if rest else None, out, integral=contents.finish.fraction is not None
    )  # fmt: skip
    return out.view(*products.shape[:2], *signal)[:, :, box[2], box[3], box[4]]


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
