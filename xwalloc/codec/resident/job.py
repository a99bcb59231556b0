# mypy: disable-error-code="no-untyped-call"
"""What of a chunk in transform mode is to be decoded on a device: all that its frame says, as the device wants it.

It is made in the thread of the chunk, so that the one thread of the device has little left to do for each.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream import segments
from xwalloc.bitstream.planes import Order
from xwalloc.bitstream.tables import shipped
from xwalloc.codec import engine
from xwalloc.codec.devices import arithmetic, owner
from xwalloc.codec.layout import Layout
from xwalloc.codec.resident.sections import has_kernels, latent_section, residual_section
from xwalloc.codec.transform_sections import Contents, pad, residual_cuts
from xwalloc.models.spec import Grid
from xwalloc.transform.filters import synthesis_rows
from xwalloc.types import Region

if TYPE_CHECKING:
    import torch

    from xwalloc.device.coder import Section, Streams

__all__ = ["Job", "can_decode"]

MOST_TAPS = 48
"""Filters whose taps span more are for CPUs: a frame may state any, and each is compiled anew."""

MOST_SAMPLES = 1 << 29
"""Chunks of more samples are for CPUs: counters have 31 bits, those of words, too, of which a sample may take four."""

MOST_STEPS = 1 << 20
"""Streams of more samples in a lane are for CPUs, which take a fraction of the time for each."""

WORKING_BYTES = 24
"""Memory, about, that a sample takes on the way: symbol, residual, product, result."""

PLANE_BYTES = 260
"""Memory, about, that the entropy coder takes for a plane of a segment."""

LATENT_BYTES = 32
"""Memory, about, that a latent takes on the way: symbol, coefficient, and twice what a wavelet step makes of it."""


@dataclass(frozen=True)
class Way:
    """How decoded samples of a box become those of a region, as stored.

    Parameters
    ----------
    extents
        Axes of the box as stored, in canonical order.
    axes
        Their places as stored; None where they are in order.
    inner
        Where the region lies then; None where it is all.
    """

    extents: tuple[int, ...]
    axes: tuple[int, ...] | None
    inner: tuple[slice, ...] | None

    @classmethod
    def of(cls, layout: Layout, region: tuple[slice, ...]) -> Way:
        """That of a region of a chunk."""
        cut, inner = layout.cut(region)
        order = cut.order
        axes = tuple(sorted(range(len(order)), key=order.__getitem__))
        return cls(
            tuple(cut.shape[axis] for axis in order),
            None if axes == tuple(range(len(axes))) else axes,
            None if all(part == slice(None) for part in inner) else inner,
        )


@dataclass(frozen=True)
class Job:
    """One chunk that is to be decoded.

    Parameters
    ----------
    contents
        What its sections say.
    box
        What is decoded: the smallest box (batch, channel, z, y, x) around the region.
    way
        How the box becomes the region.
    nodata : (2,) or (0,)
        Nodata and its substitute, in the native stored type.
    labels : (batch, channel, z, y, x) uint8
        Mask, with padding; None where there is none.
    palette
        Bit patterns of the labels from 1 on.
    places, patterns : (n,)
        Exceptions in the box: where they are, and their bits as signed integers of the width of the type.
    symbols, residuals : int32
        What a CPU has decoded already; None where the device is to do it, or where there is no residual layer.
    sections, streams
        Latents and residuals for the device, which begin at 0, and their bytes, taken apart.
    matrix, table
        Basis of the channels of the box, and `Finish.table` of these.
    kind
        Equal for chunks whose samples can be made together.
    """

    contents: Contents
    box: Region
    way: Way
    nodata: NDArray[Any]
    labels: torch.Tensor | None
    palette: tuple[int, ...]
    places: NDArray[np.int64]
    patterns: NDArray[np.signedinteger]
    symbols: torch.Tensor | None
    residuals: torch.Tensor | None
    sections: list[Section]
    streams: list[Streams]
    matrix: NDArray[np.float64]
    table: NDArray[np.float64]
    kind: Hashable

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
        """The job of decoding a region. Integers are decoded here where a device cannot: contexts for size make chains.

        Parameters
        ----------
        contents
            What the sections of the chunk say.
        layout
            Its axes.
        region
            A slice of each stored axis, with start and stop.
        nodata, palette
            As the job has them.
        labels : (batch, channel, z, y, x) uint8
            Mask, without padding; None where there is none.
        positions, bits : (n,)
            Exceptions: places in canonical order, and bits.

        Raises
        ------
        FormatError
            If their sections are damaged.
        DeviceMemoryError
            If there is too little memory that a device can read.
        """
        from xwalloc.device.memory import staged

        name = engine.device()
        owner(name)  # before memory is pinned, which may be in any thread: the context is then that of the device
        pinned = name.startswith("cuda")
        box = layout.box(region)
        symbols = residuals = mask = padded = None
        sections: list[Section] = []
        streams: list[Streams] = []
        with arithmetic():
            if labels is not None:
                mask = pad(labels, contents.model.grid.signal)
                padded = staged(mask, pinned=pinned)
            if contents.order == Order.FLAGS_FIRST:
                sections, streams = _taken_apart(contents, box, pinned)
            if not sections or any(map(_is_long, sections, streams)):
                sections, streams = [], []
                symbols = staged(contents.symbols(), pinned=pinned)
                if contents.residual_codes is not None:
                    residuals = staged(contents.residuals(mask, box), pinned=pinned)
        kind = (
            contents.shape, contents.residual_codes is None, contents.finish.fraction is None, nodata.dtype,
            nodata.tobytes(), tuple((part.start, part.stop) for part in box),
        )  # fmt: skip
        places, patterns = _exceptions(positions, bits, layout.canonical, box, nodata.itemsize)
        channels, model = box[1], contents.model
        return cls(
            contents, box, Way.of(layout, region), nodata, padded, palette, places, patterns, symbols, residuals,
            sections, streams, model.matrix[channels],
            contents.finish.of(channels).table(model.mean_units[channels]), kind,
        )  # fmt: skip

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
        planes = shape[0] * (shape[1] + rank * len(self.contents.model.grid.subbands)) * segments.MAX_SEGMENTS
        samples = pixels * (shape[1] * (WORKING_BYTES + 2 * self.nodata.itemsize) + rank * LATENT_BYTES)
        return samples + PLANE_BYTES * min(planes, pixels * (shape[1] + rank))


def can_decode(contents: Contents) -> bool:
    """Whether a device can decode a chunk: counters of kernels have 31 bits, and every span of filters is compiled."""
    if not has_kernels():
        return False
    few = math.prod(contents.shape) <= MOST_SAMPLES
    return few and _span(contents.model.grid, contents.model.filter_shift) <= MOST_TAPS


@lru_cache(maxsize=256)
def _span(grid: Grid, shift: int) -> int:
    """What a step of the synthesis gathers: from the first to the last tap of both filters."""
    rows = synthesis_rows(grid.filters("synthesis", shift))
    first = min(rows.even_first, rows.odd_first + 1)
    return max(rows.even_first + len(rows.even), rows.odd_first + 1 + len(rows.odd)) - first


def _is_long(section: Section, streams: Streams) -> bool:
    """Whether a stream of a section takes its lanes too many steps."""
    return bool((section.geometry.samples[section.columns[0]] > MOST_STEPS * streams.lanes).any())


def _taken_apart(contents: Contents, box: Region, pinned: bool) -> tuple[list[Section], list[Streams]]:
    """What of a chunk the device decodes from bytes: all latents, and the residual layer where the box touches it."""
    from xwalloc.device import coder

    tables, dimensions = contents.codebook or shipped(), contents.dimensions
    sections = [latent_section(contents.model, contents.shape[0], tables, 0)]
    data = [contents.latent_streams]
    if contents.residual_codes is not None:
        axis, slabs = residual_cuts(contents.shape)
        wanted = segments.touching(slabs, box[2 + axis])
        sections.append(
            residual_section(
                contents.shape, contents.residual_codes, dimensions, tables, 0, None,
                None if len(wanted) == len(slabs) else tuple(wanted),
            )
        )  # fmt: skip
        data.append(contents.residual_streams)
    return sections, [coder.unpack(section, own, pinned=pinned) for section, own in zip(sections, data, strict=True)]


def _exceptions(
    positions: NDArray[np.int64],
    bits: NDArray[np.unsignedinteger],
    shape: tuple[int, ...],
    box: Region,
    itemsize: int,
) -> tuple[NDArray[np.int64], NDArray[np.signedinteger]]:
    """Places of exceptions in a box of a chunk, and their bits, from positions in all of it."""
    if not positions.size:
        return positions, np.empty(0, f"i{itemsize}")
    places = np.array(np.unravel_index(positions, shape))
    first, last = (np.array([getattr(part, edge) for part in box])[:, None] for edge in ("start", "stop"))
    inside = np.all((places >= first) & (places < last), axis=0)
    at = np.ravel_multi_index(tuple((places - first)[:, inside]), tuple((last - first)[:, 0]))
    return at.astype(np.int64), bits[inside].astype(f"u{itemsize}").view(f"i{itemsize}")
