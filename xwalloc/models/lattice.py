"""Lattice mode: lossless coding of integers by prediction in space, time and across channels.

A chunk (batch, channel, z, y, x) is cut into slabs that are predicted and coded independently. Every channel has a
predictor (lattice_predict.py) that is shared by batch items and slabs; the residuals, modulo 2^width, are coded as
planes (bitstream/planes.py) with the residuals of the channel's first reference as previous plane.

Samples under the mask are not coded and take their prediction as value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream import segments
from xwalloc.bitstream.contexts import MAGNITUDES, Kind, magnitude_code
from xwalloc.errors import BudgetError, FormatError
from xwalloc.models import lattice_fit as fit
from xwalloc.models import lattice_parameters as serial
from xwalloc.models.lattice_fit import Geometry
from xwalloc.models.lattice_parameters import Parameters, Predictor
from xwalloc.models.lattice_predict import OWN, PLAIN, REFERENCE, Plain, run

__all__ = ["decode", "encode", "estimate", "residual_planes"]

Samples = NDArray[np.signedinteger]
Mask = NDArray[np.uint8]
Parallel = Callable[[Callable[[Any], Any], Iterable[Any]], list[Any]]


def _plain_loop(fn: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    return [fn(item) for item in items]


@dataclass(frozen=True)
class _Slabs:
    """How a chunk is cut."""

    geometry: Geometry
    axis: int
    edges: list[tuple[int, int]]

    @classmethod
    def of(cls, geometry: Geometry) -> _Slabs:
        axis, edges = segments.cuts(geometry.shape, 1)
        return cls(geometry, axis, edges)

    def box(self, slab: int) -> tuple[int, int, int, int, int, int, int, int]:
        """Offset in a plane, extent nz, ny, nx, strides sz and sy, stride of a channel, batch items."""
        batch, _, nz, ny, nx = self.geometry.shape
        start, stop = self.edges[slab]
        extent = [nz, ny, nx]
        extent[self.axis] = stop - start
        return (start * (ny * nx, nx, 1)[self.axis], *extent, ny * nx, nx, self.geometry.plane, batch)  # type: ignore[return-value]

    def planes(self, slab: int, parameters: Parameters) -> NDArray[np.void]:
        """Planes of the residuals of a slab for the entropy coder."""
        batch, channels = self.geometry.shape[:2]
        order, codes = parameters.order, parameters.codes[slab]
        offset, nz, ny, nx, sz, sy, stride, _ = self.box(slab)
        previous = np.array([p.references[0] if p.references else -1 for p in parameters.predictors])[order]
        table = coder.planes_of(batch * channels)
        rows = table.reshape(batch, channels)
        item = np.arange(batch)[:, None] * (channels * stride) + offset
        rows["base"] = item + order * stride
        rows["nz"], rows["ny"], rows["nx"], rows["sz"], rows["sy"] = nz, ny, nx, sz, sy
        rows["code"] = codes[:, order]
        rows["previous"] = np.where(previous >= 0, item + previous * stride, coder.NO_PLANE)
        rows["previous_code"] = np.where(previous >= 0, codes[:, previous], 0)
        return table


class _Taps:
    """Predictors as the arrays that the kernel takes."""

    def __init__(self, geometry: Geometry, parameters: Parameters) -> None:
        taps: list[tuple[int, int, int, int, int]] = []
        lags: list[int] = []
        ranges, lag_ranges, biases, shifts = [0], [0], [], []
        for channel, predictor in enumerate(parameters.predictors):
            own, others = _expand(predictor, geometry.dimensions)
            for reference, reference_taps in zip(predictor.references, others, strict=False):
                distance = (reference - channel) * geometry.plane
                taps += [(distance, *offset, c) for offset, c in reference_taps.items()]
            taps += [(0, *offset, c) for offset, c in own.items() if offset[:2] != (0, 0)]
            in_line = {-offset[2]: c for offset, c in own.items() if offset[:2] == (0, 0)}
            line = [in_line.get(lag, 0) for lag in range(1, max(in_line, default=0) + 1)]
            taps += [(0, 0, 0, -lag, c) for lag, c in enumerate(line, 1)]
            lags += line
            ranges.append(len(taps))
            lag_ranges.append(len(lags))
            biases.append(predictor.bias)
            shifts.append(predictor.shift)
        self.arrays = (
            np.array(taps, np.int64).reshape(-1, 5), np.array(ranges), np.array(lags, np.int64), np.array(lag_ranges),
            np.array(biases, np.int64), np.array(shifts, np.int64),
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
    """An array with its predictors, ready to be predicted slab by slab."""

    values: Samples
    mask: Mask
    width: int
    slabs: _Slabs
    parameters: Parameters
    residuals: Samples

    def predict(self, slab: int, decoding: bool) -> None:
        geometry, parameters = self.slabs.geometry, self.parameters
        magnitudes = np.zeros(geometry.shape[:2])
        taps, ranges, lags, lag_ranges, biases, shifts = _Taps(geometry, parameters).arrays
        run(
            self.values, self.residuals, self.mask, np.array(self.slabs.box(slab)), geometry.shape[1],
            parameters.order, taps, ranges, lags, lag_ranges, biases, shifts, parameters.starts[slab], magnitudes,
            self.width, decoding,
        )  # fmt: skip
        if not decoding:
            parameters.codes[slab] = magnitude_code(magnitudes)


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


def _plan(q: Samples, mask: Mask | None, width: int, parallel: Parallel) -> _Plan:
    """Choose predictors and fill in residuals and codes."""
    geometry = Geometry(tuple(q.shape))  # type: ignore[arg-type]
    batch, channels = geometry.shape[:2]
    values = np.ascontiguousarray(q, np.int64 if width == 64 else np.int32).reshape(-1)
    flags = _no_mask(mask, q.size)
    if flags.size:
        values = _filled(values, flags, batch * channels)
    slabs = _Slabs.of(geometry)
    firsts, length = fit.runs(geometry, fit.FIT_SAMPLES)
    order = np.arange(channels)

    def predictor(channel: int) -> Predictor:
        references = fit.references_of(values, flags, geometry, channel, range(channel), firsts, length)
        return fit.choose(values, flags, geometry, channel, references, firsts, length, width)[0]

    predictors = parallel(predictor, range(channels))
    count = len(slabs.edges)
    parameters = Parameters(
        order, predictors, np.zeros((count, batch, channels), np.int64), np.zeros((count, batch, channels), np.int64)
    )
    for slab in range(count):
        parameters.starts[slab] = values.reshape(batch, channels, -1)[:, :, slabs.box(slab)[0]]
    plan = _Plan(values, flags, width, slabs, parameters, np.zeros_like(values))
    parallel(lambda slab: plan.predict(slab, False), range(count))
    if plan.residuals.size and plan.residuals.min() == np.iinfo(plan.residuals.dtype).min:
        raise BudgetError(f"A residual of -2^{width - 1} cannot be coded in lattice mode.")
    return plan


def encode(q: Samples, mask: Mask | None, width: int, parallel: Parallel = _plain_loop) -> tuple[bytes, bytes]:
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
    plan = _plan(q, mask, width, parallel)
    slabs = plan.slabs

    def code(slab: int) -> bytes:
        table = slabs.planes(slab, plan.parameters)
        return coder.encode(plan.residuals, table, Kind.LATTICE, slabs.geometry.dimensions, plan.mask)

    streams = parallel(code, range(len(slabs.edges)))
    return serial.write(plan.parameters), segments.pack(streams)


def decode(
    parameters: bytes,
    symbols: bytes,
    shape: Sequence[int],
    mask: Mask | None,
    width: int,
    parallel: Parallel = _plain_loop,
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
    slabs = _Slabs.of(geometry)
    count = len(slabs.edges)
    streams = segments.unpack(symbols, count)
    known = serial.read(parameters, count, batch, channels, geometry.dimensions, width, len(MAGNITUDES))
    buffer = np.zeros(math.prod(geometry.shape), dtype)
    plan = _Plan(buffer, _no_mask(mask, buffer.size), width, slabs, known, buffer)

    def restore(slab: int) -> None:
        table = slabs.planes(slab, known)
        coder.decode(streams[slab], buffer, table, Kind.LATTICE, geometry.dimensions, plan.mask)
        plan.predict(slab, True)

    parallel(restore, range(count))
    return buffer.reshape(shape)


def residual_planes(
    q: Samples, mask: Mask | None, width: int
) -> Iterator[tuple[Samples, NDArray[np.void], Mask, int]]:
    """Buffer, planes, mask and number of signal axes of each slab, as `bitstream.planes.encode` gets them.

    For training the tables and weights of `Kind.LATTICE`.
    """
    if q.size:
        plan = _plan(q, mask, width, _plain_loop)
        for slab in range(len(plan.slabs.edges)):
            yield plan.residuals, plan.slabs.planes(slab, plan.parameters), plan.mask, plan.slabs.geometry.dimensions


def estimate(q: Samples, mask: Mask | None, width: int) -> float:
    """Estimated bits of `encode`."""
    parameters, symbols = encode(q, mask, width)
    return 8.0 * (len(parameters) + len(symbols))
