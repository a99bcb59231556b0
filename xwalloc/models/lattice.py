# mypy: disable-error-code="no-untyped-call"
"""Lattice mode: lossless coding of integers by prediction in space, time and across channels.

A chunk (batch, channel, z, y, x) is cut into slabs that are predicted and coded independently. Every channel has a
predictor (lattice_predict.py) that is shared by batch items and slabs; the residuals, modulo 2^width, are coded as
planes (bitstream/planes.py) with the residuals of the channel's first reference as previous plane.

Samples under the mask are not coded and take their prediction as value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream import segments
from xwalloc.bitstream.contexts import MAGNITUDES, Kind, magnitude_code
from xwalloc.errors import BudgetError, FormatError
from xwalloc.models import lattice_fit as fit
from xwalloc.models import lattice_parameters as serial
from xwalloc.models.lattice_fit import Geometry
from xwalloc.models.lattice_levels import Levels, from_ranks, levels_of, to_ranks
from xwalloc.models.lattice_parameters import Parameters, Predictor
from xwalloc.models.lattice_predict import OWN, PLAIN, REFERENCE, Plain, run
from xwalloc.types import Parallel, in_turn

__all__ = ["decode", "encode", "estimate", "residual_planes"]

Samples = NDArray[np.signedinteger]
Mask = NDArray[np.uint8]


ESTIMATE_SAMPLES = 60_000
ESTIMATE_WINDOWS = 4
ESTIMATE_ALL_CHANNELS = 16
ESTIMATE_CHANNELS = 10


@dataclass(frozen=True)
class _Box:
    """A slab of all planes of some batch items, as distances in the flat array."""

    offset: int
    nz: int
    ny: int
    nx: int
    sz: int
    sy: int
    stride: int
    items: int
    item_stride: int

    @classmethod
    def of(cls, geometry: Geometry, begin: Sequence[int], extent: Sequence[int]) -> _Box:
        batch, channels, _, ny, nx = geometry.shape
        nz, box_ny, box_nx = extent
        offset = (begin[0] * ny + begin[1]) * nx + begin[2]
        return cls(offset, nz, box_ny, box_nx, ny * nx, nx, geometry.plane, batch, channels * geometry.plane)

    @property
    def size(self) -> int:
        """Samples of a plane."""
        return self.nz * self.ny * self.nx

    def lines(self) -> NDArray[np.int64]:
        """Where the lines of the box begin in a plane."""
        return (self.offset + np.arange(self.nz)[:, None] * self.sz + np.arange(self.ny) * self.sy).reshape(-1)

    def array(self) -> NDArray[np.int64]:
        return np.array(astuple(self), np.int64)

    def planes(
        self, order: NDArray[np.int64], predictors: list[Predictor], codes: NDArray[np.int64]
    ) -> NDArray[np.void]:
        """Planes of the residuals of channels for the entropy coder; a plane of a channel that is left out is none."""
        previous = np.array([p.references[0] if p.references else -1 for p in predictors])[order]
        previous[~np.isin(previous, order)] = -1
        table = coder.planes_of(self.items * len(order))
        rows = table.reshape(self.items, len(order))
        item = np.arange(self.items)[:, None] * self.item_stride + self.offset
        rows["base"] = item + order * self.stride
        rows["nz"], rows["ny"], rows["nx"], rows["sz"], rows["sy"] = self.nz, self.ny, self.nx, self.sz, self.sy
        rows["code"] = codes[:, order]
        rows["previous"] = np.where(previous >= 0, item + previous * self.stride, coder.NO_PLANE)
        rows["previous_code"] = np.where(previous >= 0, codes[:, previous], 0)
        return table


def _slabs(geometry: Geometry) -> list[_Box]:
    axis, edges = segments.cuts(geometry.shape, 1)
    boxes = []
    for start, stop in edges:
        begin, extent = [0, 0, 0], list(geometry.shape[2:])
        begin[axis], extent[axis] = start, stop - start
        boxes.append(_Box.of(geometry, begin, extent))
    return boxes


class _Taps:
    """Predictors as the arrays that the kernel takes."""

    def __init__(self, geometry: Geometry, predictors: list[Predictor]) -> None:
        taps: list[tuple[int, int, int, int, int]] = []
        ranges = [0]
        for channel, predictor in enumerate(predictors):
            own, others = _expand(predictor, geometry.dimensions)
            for reference, reference_taps in zip(predictor.references, others, strict=False):
                distance = (reference - channel) * geometry.plane
                taps += [(distance, *offset, c) for offset, c in reference_taps.items()]
            taps += [(0, *offset, c) for offset, c in own.items()]
            ranges.append(len(taps))
        self.arrays = (
            np.array(taps, np.int64).reshape(-1, 5), np.array(ranges),
            np.array([predictor.bias for predictor in predictors], np.int64),
            np.array([predictor.shift for predictor in predictors], np.int64),
        )  # fmt: skip


Taps = dict[tuple[int, int, int], int]


def _expand(predictor: Predictor, dimensions: int) -> tuple[Taps, list[Taps]]:
    """Taps in the channel itself and in each reference."""
    if predictor.kind != Plain.FITTED:
        _, own, reference = PLAIN[predictor.kind]
        return own, [reference] if reference else []
    coefficients = iter(predictor.coefficients)
    count, *counts = predictor.counts
    own = {offset: next(coefficients) for offset in OWN[dimensions][:count]}
    return own, [{offset: next(coefficients) for offset in REFERENCE[dimensions][:n]} for n in counts]


def _no_mask(mask: Mask | None, size: int) -> Mask:
    if mask is None:
        return coder.NO_MASK
    flat = np.ascontiguousarray(mask, np.uint8).reshape(-1)
    if len(flat) != size:
        raise ValueError(f"Expected a mask of {size} samples. Got {len(flat)}.")
    return flat if flat.any() else coder.NO_MASK


@dataclass(frozen=True)
class _Plan:
    """An array with its predictors, ready to be predicted box by box."""

    geometry: Geometry
    values: Samples
    mask: Mask
    width: int
    order: NDArray[np.int64]
    predictors: list[Predictor]
    boxes: list[_Box]
    starts: NDArray[np.int64]
    codes: NDArray[np.int64]
    residuals: Samples
    taps: _Taps
    levels: Levels

    def predict(self, index: int, decoding: bool) -> None:
        """Residuals and codes of a box, or its values."""
        magnitudes = np.zeros(self.codes.shape[1:])
        run(
            self.values, self.residuals, self.mask, self.boxes[index].array(), self.order, *self.taps.arrays,
            self.starts[index], magnitudes, self.width, decoding,
        )  # fmt: skip
        if not decoding:
            self.codes[index] = magnitude_code(magnitudes)

    @property
    def parameters(self) -> Parameters:
        """What the section LATTICE holds."""
        return Parameters(self.order, self.predictors, self.starts, self.codes, self.levels)

    def planes(self, index: int) -> NDArray[np.void]:
        """Planes of the residuals of a box."""
        return self.boxes[index].planes(self.order, self.predictors, self.codes[index])

    def encoded(self, index: int) -> bytes:
        """Stream of the residuals of a box."""
        return coder.encode(self.residuals, self.planes(index), Kind.LATTICE, self.geometry.dimensions, self.mask)


def _filled(values: Samples, mask: Mask, channels: int) -> Samples:
    """A copy in which samples under the mask repeat the last one before them in their plane (or the first behind)."""
    planes = values.reshape(channels, -1)
    valid = mask.reshape(channels, -1) == 0
    at = np.where(valid, np.arange(planes.shape[1], dtype=np.int32), 0)
    np.maximum.accumulate(at, axis=1, out=at)
    first = valid.argmax(axis=1)
    at = np.maximum(at, first[:, None])
    filled = np.take_along_axis(planes, at, axis=1)
    filled[~valid.any(axis=1)] = 0
    return filled.reshape(-1)


def _prepared(q: Samples, mask: Mask | None, width: int) -> tuple[Samples, Mask, Levels]:
    """Flat samples with sensible values under the mask, by rank where that pays; the mask; the levels."""
    dtype: type[np.signedinteger] = np.int64 if width == 64 else np.int32
    values: Samples = np.ascontiguousarray(q, dtype).reshape(-1)
    flags = _no_mask(mask, q.size)
    if flags.size:
        values = _filled(values, flags, q.shape[0] * q.shape[1])
    planes = (q.shape[0], q.shape[1], -1)
    levels = levels_of(values.reshape(planes), flags.reshape(planes) == 0 if flags.size else None)
    if levels:
        values = values if flags.size else values.copy()
        to_ranks(values.reshape(planes), levels)
    return values, flags, levels


def _plan(
    geometry: Geometry,
    values: Samples,
    flags: Mask,
    levels: Levels,
    width: int,
    parallel: Parallel,
    boxes: list[_Box] | None = None,
    order: NDArray[np.int64] | None = None,
    effort: fit.Effort | None = None,
) -> _Plan:
    """Choose predictors and fill in residuals and codes, for all planes or for some channels and boxes."""
    batch, channels = geometry.shape[:2]
    boxes = _slabs(geometry) if boxes is None else boxes
    order = np.arange(channels) if order is None else order
    effort = effort or fit.Effort.of(geometry)
    firsts, length = fit.runs(geometry, effort.fit)

    def predictor(channel: int) -> Predictor:
        references = fit.references_of(values, flags, geometry, channel, range(channel), firsts, length)
        return fit.choose(values, flags, geometry, channel, references, firsts, length, width, effort.choice)[0]

    predictors = [Predictor()] * channels
    for channel, found in zip(order, parallel(predictor, order.tolist()), strict=True):
        predictors[channel] = found
    starts = np.empty((len(boxes), batch, channels), np.int64)
    for box, start in zip(boxes, starts, strict=True):
        start[:] = values.reshape(batch, channels, -1)[:, :, box.offset]
    plan = _Plan(
        geometry, values, flags, width, order, predictors, boxes, starts, np.zeros_like(starts), np.zeros_like(values),
        _Taps(geometry, predictors), levels,
    )  # fmt: skip
    parallel(lambda index: plan.predict(index, False), range(len(boxes)))
    return plan


def encode(q: Samples, mask: Mask | None, width: int, parallel: Parallel = in_turn) -> tuple[bytes, bytes]:
    """Code integers losslessly.

    Parameters
    ----------
    q : (batch, channel, z, y, x) int32 or int64
        Integers of `width` bits, two's complement.
    mask : same shape, uint8, optional
        Not 0 where `q` holds nothing of interest; such samples are not coded.
    width : {32, 64}
        Residuals are taken modulo 2^width. 64-bit integers have plain predictors only.
    parallel
        ``parallel(fn, items)`` returns ``[fn(item) for item in items]``, perhaps with several threads.

    Returns
    -------
    parameters, symbols : bytes
        The sections LATTICE and LATTICE_SYMBOLS.

    Raises
    ------
    BudgetError
        If a residual is -2^(width - 1), which the entropy coder has no token for; store the chunk in another mode.
    """
    if q.size == 0:
        return b"", b""
    plan = _plan(Geometry(q.shape), *_prepared(q, mask, width), width, parallel)
    if plan.residuals.min() == np.iinfo(plan.residuals.dtype).min:
        raise BudgetError(f"A residual of -2^{width - 1} cannot be coded in lattice mode.")
    streams = parallel(plan.encoded, range(len(plan.boxes)))
    return serial.write(plan.parameters), segments.pack(streams)


def decode(
    parameters: bytes,
    symbols: bytes,
    shape: Sequence[int],
    mask: Mask | None,
    width: int,
    parallel: Parallel = in_turn,
) -> Samples:
    """Inverse of `encode`; `mask` must be the same, and the samples under it have arbitrary values.

    Raises
    ------
    FormatError
        If the bytes do not fit the shape.
    """
    dtype = np.dtype(np.int64 if width == 64 else np.int32)
    geometry = Geometry(tuple(int(n) for n in shape))  # type: ignore[arg-type]
    if math.prod(geometry.shape) == 0:
        if parameters or symbols:
            raise FormatError("An empty chunk has no symbols.")
        return np.zeros(shape, dtype)
    batch, channels = geometry.shape[:2]
    boxes = _slabs(geometry)
    streams = segments.unpack(symbols, len(boxes))
    known = serial.read(parameters, len(boxes), batch, channels, geometry.dimensions, width, len(MAGNITUDES))
    buffer = np.zeros(math.prod(geometry.shape), dtype)
    plan = _Plan(
        geometry, buffer, _no_mask(mask, buffer.size), width, known.order, known.predictors, boxes, known.starts,
        known.codes, buffer, _Taps(geometry, known.predictors), known.levels,
    )  # fmt: skip

    def restore(index: int) -> None:
        coder.decode(streams[index], buffer, plan.planes(index), Kind.LATTICE, geometry.dimensions, plan.mask)
        plan.predict(index, True)

    parallel(restore, range(len(boxes)))
    planes = (batch, channels, -1)
    from_ranks(buffer.reshape(planes), plan.mask.reshape(planes) == 0 if plan.mask.size else None, known.levels)
    return buffer.reshape(shape)


def residual_planes(q: Samples, mask: Mask | None, width: int) -> Iterator[tuple[Samples, NDArray[np.void], Mask, int]]:
    """Buffer, planes, mask and number of signal axes of each slab, as `bitstream.planes.encode` gets them.

    For training the tables and weights of `Kind.LATTICE`.
    """
    if q.size:
        plan = _plan(Geometry(q.shape), *_prepared(q, mask, width), width, in_turn)
        for index in range(len(plan.boxes)):
            yield plan.residuals, plan.planes(index), plan.mask, plan.geometry.dimensions


def estimate(q: Samples, mask: Mask | None, width: int) -> float:
    """Estimated bits of `encode`, from a part of the chunk (all of it where it is small; inf where that fails).

    Of many channels some are looked at, each with the one before it for context, from cheap ones to expensive ones: a
    simple predictor on few samples of every channel tells.
    """
    geometry = Geometry(q.shape)
    batch, channels = geometry.shape[:2]
    if q.size <= 2 * ESTIMATE_SAMPLES or not fit.runs(geometry, 1)[1]:
        # Small, or so thin along an axis that nothing is away from a border.
        try:
            return 8.0 * sum(map(len, encode(q, mask, width)))
        except BudgetError:
            return math.inf
    values, flags, levels = _prepared(q, mask, width)
    wanted = max(ESTIMATE_SAMPLES, q.size // 20)
    counted = order = np.arange(channels)
    typical = 1.0
    if channels > ESTIMATE_ALL_CHANNELS:
        firsts, length = fit.runs(geometry, 512)
        proxies = np.array([fit.proxy(values, flags, geometry, c, firsts, length) for c in range(channels)])
        number = max(ESTIMATE_CHANNELS, min(channels // 4, wanted // (batch * geometry.plane)))
        at = (2 * np.arange(number) + 1) * channels // (2 * number)
        counted = np.sort(np.argsort(proxies, kind="stable")[at])
        order = np.union1d(counted, np.maximum(counted - 1, 0))
        typical = proxies.mean() / proxies[counted].mean()
    context = np.setdiff1d(order, counted)
    boxes = _windows(geometry, wanted // (len(counted) * batch))
    if boxes[0].size < geometry.plane:
        firsts, length = fit.runs(geometry, wanted // len(counted))
        whole = sum(fit.proxy(values, flags, geometry, c, firsts, length) for c in counted.tolist())
        items = np.arange(batch)[:, None] * (channels * geometry.plane)
        lines = (items + np.concatenate([box.lines() for box in boxes])).reshape(-1)
        typical *= whole / sum(fit.proxy(values, flags, geometry, c, lines, boxes[0].nx) for c in counted.tolist())
    plan = _plan(geometry, values, flags, levels, width, in_turn, boxes, order, fit.Effort(2048, 768))
    bits, samples = 0.0, 0
    valid = flags.reshape(batch, channels, -1) == 0 if flags.size else flags
    for index, box in enumerate(boxes):
        bits += 8 * len(plan.encoded(index))
        if context.size:
            table = box.planes(context, plan.predictors, plan.codes[index])
            bits -= 8 * len(coder.encode(plan.residuals, table, Kind.LATTICE, geometry.dimensions, flags))
        if valid.size:
            where = (box.lines()[:, None] + np.arange(box.nx)).reshape(-1)
            samples += int(np.count_nonzero(valid[:, counted[:, None], where]))
        else:
            samples += batch * len(counted) * box.size
    total = int(np.count_nonzero(valid)) if valid.size else q.size
    described = np.mean([12 + 6.5 * (4 + len(plan.predictors[c].coefficients)) for c in counted]) * channels
    return float(bits * typical * total / max(samples, 1) + described + 20.0 * batch * channels * len(_slabs(geometry)))


def _windows(geometry: Geometry, samples: int) -> list[_Box]:
    """A few boxes that hold about so many samples of a plane."""
    signal = geometry.shape[2:]
    d = geometry.dimensions
    if samples >= geometry.plane:
        return [_Box.of(geometry, (0, 0, 0), signal)]
    number = ESTIMATE_WINDOWS
    extent = [1, 1, 1]
    left = samples / number
    for rank, axis in enumerate(sorted(range(3 - d, 3), key=lambda a: signal[a])):
        extent[axis] = max(1, min(signal[axis], round(left ** (1 / (d - rank)))))
        left /= extent[axis]
    boxes = []
    for i in range(number):
        at = [((2 * i + 1) / (2 * number) + 0.5 * a) % 1.0 for a in range(3)]
        begin = [int(f * (n - e)) for f, n, e in zip(at, signal, extent, strict=True)]
        boxes.append(_Box.of(geometry, begin, extent))
    return boxes
