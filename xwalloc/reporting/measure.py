"""One pass over a pair: figures, and what the pictures show, in memory that does not grow with the array."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.conversion.pairs import Pair
from xwalloc.conversion.sources.base import Region
from xwalloc.frames import watch
from xwalloc.models import library
from xwalloc.models.model import parse_reference
from xwalloc.quality.differences import magnitudes, valid
from xwalloc.quality.metrics import Comparison

__all__ = ["Axes", "Findings", "bounds", "measure"]

SIDE, CELLS, CHUNKS = 480, 48, 4096
Array = NDArray[Any]


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Roles of the axes: `channel`, and the one or two axes that pictures show."""

    channel: int | None
    shown: tuple[int, ...]
    rest: tuple[int, ...]

    @classmethod
    def of(cls, pair: Pair) -> Axes:
        """Roles that the codec gives them; without our codec, pictures show the last axes."""
        ndim, config = pair.array.ndim, pair.configuration or {}
        channel = config.get("channel_axis")
        signal = config.get("signal_axes") or [axis for axis in range(ndim) if axis != channel]
        shown = tuple(sorted(signal)[-2:])
        return cls(channel=channel, shown=shown, rest=tuple(a for a in range(ndim) if a not in (*shown, channel)))


@dataclass(kw_only=True)
class Findings:
    """What one pass found.

    Attributes
    ----------
    axes, comparison
        Roles of the axes, and figures.
    bound : (channel,) or None
        What the errors must not exceed.
    lowest
        The lowest SNR of any unit of storage.
    channels
        Which channels the pictures show: three for a composite.
    step
        Every how many samples the pictures show one, along each shown axis.
    original, decoded : (channel, *shown)
        Every step-th sample, in the middle of the other axes.
    error : (*shown)
        Largest error of each cell, over everything else, in units of the bound.
    rmse : (*shown)
        Root of the mean squared error of each cell, likewise; NaN where a cell has no valid value.
    sizes : (*cells)
        Bytes of the chunks over each cell of a coarse grid of the shown axes, by bytes decoded; None if not looked at.
    """

    axes: Axes
    comparison: Comparison
    bound: NDArray[np.float64] | None
    lowest: float
    channels: tuple[int, ...]
    step: tuple[int, ...]
    original: Array
    decoded: Array
    error: NDArray[np.float64]
    rmse: NDArray[np.float64]
    sizes: NDArray[np.float64] | None
    modes: dict[str, int]


def bounds(pair: Pair, channels: int) -> NDArray[np.float64] | None:
    """The largest error allowed in each channel, in stored units; None for other targets."""
    config = pair.configuration
    if config is None or config.get("lossless"):
        return np.zeros(channels)
    if config.get("max_error") is None:
        return None
    scales: Any = 1.0
    if config.get("model"):
        reference = parse_reference(config["model"])
        model = None if reference is None else library.cached(reference.key)
        if model is not None and model.scaled:
            scales = model.arrays["scales"]
    return np.broadcast_to(np.float64(config["max_error"]) * scales, (channels,))


def measure(pair: Pair, channels: tuple[int, ...], offset: float) -> Findings:
    """Read every unit of storage once, original and decoded.

    Parameters
    ----------
    channels
        Which channels the pictures show.
    offset
        Added to stored values before angles are taken.
    """
    axes, shape = Axes.of(pair), pair.array.shape
    count = 1 if axes.channel is None else shape[axes.channel]
    bound, nodata = bounds(pair, count), (pair.configuration or {}).get("nodata")
    arguments: dict[str, Any] = {
        "channel_axis": axes.channel, "channels": count, "bound": bound, "nodata": nodata, "offset": offset,
    }  # fmt: skip
    whole = Comparison(len(shape), **arguments)
    side = SIDE if len(axes.shown) == 2 else 4 * SIDE
    step = tuple(max(-(-shape[axis] // side), 1) for axis in axes.shown)
    small = tuple(-(-shape[axis] // s) for axis, s in zip(axes.shown, step, strict=True))
    views = [np.zeros((len(channels), *small), pair.array.dtype.newbyteorder("=")) for _ in range(2)]
    error, squares, counts = (np.zeros(small) for _ in range(3))
    lowest = math.inf
    for region in pair.regions():
        original, decoded = pair.read(region)
        part = Comparison(len(shape), **arguments)
        part.update(original, decoded, [r.start for r in region])
        if part.overall.count and part.overall.variance > 0:
            lowest = min(lowest, part.overall.snr)
        whole.merge(part)
        for view, block in zip(views, (original, decoded), strict=True):
            show(view, block, region, axes, shape, channels, step)
        widen(error, squares, counts, original, decoded, region, axes, whole, step)
    rmse = np.sqrt(np.divide(squares, counts, out=np.full(small, np.nan), where=counts > 0))
    sizes, modes = chunk_sizes(pair, axes)
    return Findings(
        axes=axes, comparison=whole, bound=bound, lowest=lowest, channels=channels, step=step, original=views[0],
        decoded=views[1], error=error, rmse=rmse, sizes=sizes, modes=modes,
    )  # fmt: skip


def show(
    view: Array,
    block: Array,
    region: Region,
    axes: Axes,
    shape: tuple[int, ...],
    channels: tuple[int, ...],
    step: tuple[int, ...],
) -> None:
    """Put every step-th sample of a block where it belongs in a picture."""
    key: list[Any] = [slice(None)] * block.ndim
    for axis in axes.rest:
        inside = shape[axis] // 2 - region[axis].start
        if not 0 <= inside < block.shape[axis]:
            return
        key[axis] = slice(inside, inside + 1)
    where = []
    for axis, s in zip(axes.shown, step, strict=True):
        first = -region[axis].start % s
        key[axis] = slice(first, None, s)
        where.append(slice((region[axis].start + first) // s, None))
    small = np.moveaxis(block[tuple(key)], (*(() if axes.channel is None else (axes.channel,)), *axes.shown), range(
        block.ndim - len(axes.rest)
    ))  # fmt: skip
    small = small.reshape(small.shape[: small.ndim - len(axes.rest)]) if axes.rest else small
    small = small[None] if axes.channel is None else small
    first = 0 if axes.channel is None else region[axes.channel].start
    for i, channel in enumerate(channels):
        if first <= channel < first + len(small):
            piece = small[channel - first]
            place: tuple[Any, ...] = (
                i,
                *(slice(w.start, w.start + n) for w, n in zip(where, piece.shape, strict=True)),
            )
            view[place] = piece


def widen(
    error: NDArray[np.float64],
    squares: NDArray[np.float64],
    counts: NDArray[np.float64],
    original: Array,
    decoded: Array,
    region: Region,
    axes: Axes,
    whole: Comparison,
    step: tuple[int, ...],
) -> None:
    """Raise the largest errors of cells to those of a block; add to their sums of squares and counts."""
    cells = [np.arange(region[a].start, region[a].stop) // s for a, s in zip(axes.shown, step, strict=True)]
    others = tuple(axis for axis in range(original.ndim) if axis not in axes.shown)
    outer = range(original.shape[axes.channel]) if axes.channel is not None else range(1)
    for c in outer:  # one channel after the other: memory
        key: list[Any] = [slice(None)] * original.ndim
        unit = whole.unit[0]
        if axes.channel is not None:
            key[axes.channel], unit = slice(c, c + 1), whole.unit[region[axes.channel].start + c]
        a, b = (block[tuple(key)].astype(block.dtype.newbyteorder("="), copy=False) for block in (original, decoded))
        both = valid(a, whole.nodata) & valid(b, whole.nodata)
        found = np.where(both, magnitudes(a, b), 0) / unit
        where = np.ix_(*cells)
        np.maximum.at(error, where, found.max(axis=others, initial=0))
        with np.errstate(over="ignore"):  # of errors without a bound
            np.add.at(squares, where, np.square(found).sum(axis=others))
        np.add.at(counts, where, both.sum(axis=others))


def chunk_sizes(pair: Pair, axes: Axes) -> tuple[NDArray[np.float64] | None, dict[str, int]]:
    """Ratio over a coarse grid of the shown axes, and how many chunks are coded in which mode."""
    from xwalloc.codec.inspect import inspect

    frames: list[bytes] = []
    watched = watch(pair.array, frames.append)
    grid = [-(-n // size) for n, size in zip(pair.array.shape, pair.array.chunks, strict=True)]
    if watched is None or math.prod(grid) > CHUNKS:
        return None, {}
    step = [max(-(-grid[axis] // CELLS), 1) for axis in axes.shown]
    small = tuple(-(-grid[axis] // s) for axis, s in zip(axes.shown, step, strict=True))
    stored, raw = np.zeros(small), np.zeros(small)
    modes: dict[str, int] = {}
    for place in np.ndindex(*grid):
        box = tuple(
            slice(p * c, min((p + 1) * c, n))
            for p, c, n in zip(place, pair.array.chunks, pair.array.shape, strict=True)
        )
        frames.clear()
        watched[box]
        cell = tuple(place[axis] // s for axis, s in zip(axes.shown, step, strict=True))
        stored[cell] += sum(map(len, frames))
        raw[cell] += math.prod(s.stop - s.start for s in box) * pair.array.dtype.itemsize
        for frame in frames:
            mode = inspect(frame).mode
            modes[mode] = modes.get(mode, 0) + 1
    with np.errstate(divide="ignore"):
        return np.where(stored > 0, raw / np.maximum(stored, 1), np.nan), modes
