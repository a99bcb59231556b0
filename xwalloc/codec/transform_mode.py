# mypy: disable-error-code="no-untyped-call"
"""Transform mode of a chunk: a linear model and its symbols, and a residual layer where there is a bound."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream import segments
from xwalloc.bitstream.contexts import MAGNITUDES, Kind, magnitude_code
from xwalloc.bitstream.frame import Section
from xwalloc.codec.bound import Finish
from xwalloc.codec.engine import map_parallel
from xwalloc.codec.examine import Examine, nothing
from xwalloc.errors import BudgetError, FormatError, UnsupportedFormatError
from xwalloc.models import linear
from xwalloc.models.analysis import Scale, tiles
from xwalloc.models.spec import Grid, LinearModel
from xwalloc.types import Region

__all__ = ["Target", "Transformed", "decode", "encode"]

HEAD = struct.Struct("<BBbdIB")
"""Kind of the model; whether samples are integers; fraction bits; unit; step of the residual layer; profile."""

LINEAR = 0
"""The only kind of model there is yet: a linear one that the frame holds."""

UNIT_BITS = 7
"""A residual step (integral chunks) or half of one (others) is about 2^7 units."""

LATENTS_PER_SEGMENT = 1 << 18
"""Cutting latents costs next to nothing, and there are few of them: smaller segments keep all cores busy."""

NO_RESIDUALS = np.zeros((1, 0), np.int32)
NO_MASK = np.zeros((1, 0), np.uint8)
NO_SUMS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Target:
    """What the transform aims at.

    Parameters
    ----------
    integral
        Whether samples are integers and residuals count in them.
    step
        Residual step in samples (twice the bound; 2 floor(e) + 1 for integral chunks); 0 without bound.
    quantum
        Step of the latents in samples; 0 where it follows from `step`.
    """

    integral: bool
    step: float
    quantum: float

    def finish(self) -> tuple[Finish, Scale]:
        """Units for the decoder (without the model's shift) and for the encoder."""
        if self.step and self.integral:
            fraction = max(-20, UNIT_BITS - math.frexp(self.step)[1])
            return Finish(0, fraction, 1.0, int(self.step)), Scale(2.0**fraction, self.step * 2.0**fraction, None)
        if self.step:
            units = 2 << UNIT_BITS
            unit = self.step / units
            return Finish(0, None, unit, units), Scale(_inverse(unit), float(units), None)
        units = 1 << UNIT_BITS
        unit = self.quantum / units
        return Finish(0, None, unit, 0), Scale(_inverse(unit), 0.0, units)


def _inverse(unit: float) -> float:
    return 1.0 / unit if unit > 0 else math.inf


@dataclass(frozen=True)
class Transformed:
    """A chunk in transform mode.

    Parameters
    ----------
    sections
        What the frame will hold.
    missed : (batch, channel, z, y, x) bool
        Samples that the examination marked.
    figure
        Sum of what the examination returned.
    """

    sections: dict[Section, bytes]
    missed: NDArray[np.bool_]
    figure: float


def _pad(array: NDArray[Any], signal: Sequence[int]) -> NDArray[Any]:
    """The array continued by its last samples."""
    widths = [(0, 0), (0, 0)] + [(0, to - n) for to, n in zip(signal, array.shape[2:], strict=True)]
    return np.pad(array, widths, mode="edge") if any(w for _, w in widths) else array


def encode(
    samples: NDArray[np.generic],
    edges: tuple[float, float],
    mask: NDArray[np.uint8] | None,
    target: Target,
    grid: Grid,
    profile: str,
    nodata: NDArray[np.generic],
    examine: Examine,
) -> Transformed | None:
    """Encode a chunk of finite samples.

    Parameters
    ----------
    samples : (batch, channel, z, y, x)
        Samples with holes filled.
    edges
        Range of the samples.
    mask
        Not 0 where a sample is not coded; None where all are.
    target
        Bound or step.
    grid
        Wavelet and tree over the (padded) signal axes.
    profile
        Contexts: "default" or "parallel".
    nodata : (2,) or (0,)
        Value that no sample may decode to, and its substitute.
    examine
        Called, in any thread, with parts of the samples and exactly what the decoder will return for them.

    Returns
    -------
    Transformed or None
        None where the chunk is beyond the bit budget of exact arithmetic.
    """
    original = samples.shape
    samples = _pad(samples, grid.signal)
    batch, channels = samples.shape[:2]
    flat = samples.reshape(batch, channels, -1)
    holes = None if mask is None else _pad(mask, grid.signal)
    blank = None if holes is None else holes.reshape(flat.shape)
    finish, scale = target.finish()
    if not 0 < finish.unit < math.inf or not math.isfinite(scale.per_sample):
        return None
    fitted = linear.fit(samples, edges, scale, grid, holes, map_parallel)
    if fitted is None:
        return None
    fitted_model, symbols = fitted
    model_bytes = fitted_model.to_bytes()
    # From here on with the model that the decoder will read.
    model = LinearModel.from_bytes(
        model_bytes, (original[2], original[3], original[4]), grid.dimensions, channels, batch
    )
    looked_at = finish.step > 0 or examine is not nothing
    latents = np.empty(0)
    try:
        if looked_at or not _fits(model, np.full(model.rank, linear.reach(model, symbols))):
            latents = _latents(model, symbols)
    except BudgetError:
        return None
    parallel = profile == "parallel"
    sections = {
        Section.MODEL: _head(finish, profile) + model_bytes,
        Section.LATENTS: _encode_latents(model, symbols, parallel),
    }
    finish = Finish(model.shift, finish.fraction, finish.unit, finish.step)
    residuals = np.empty(flat.shape, np.int32) if finish.step else None
    missed = np.zeros(flat.shape, np.bool_)

    def work(tile: tuple[int, slice]) -> tuple[float, NDArray[np.int64]]:
        item, part = tile
        product = linear.products(model, latents, tile)
        decoded = np.empty(product.shape, samples.dtype)
        if residuals is None:
            sums = NO_SUMS
            finish.samples(product, model.mean_units, NO_RESIDUALS, nodata, decoded)
        else:
            sums = finish.residuals(
                flat[item], product, model.mean_units, NO_MASK if blank is None else blank[item], nodata,
                residuals[item], decoded, part.start,
            )  # fmt: skip
        return examine(flat[item], decoded, missed[item], part.start), sums

    figures = map_parallel(work, list(tiles(samples.shape)) if looked_at else [])
    if residuals is not None:
        sums = np.sum([part for _, part in figures], axis=0)
        layer = _encode_residuals(residuals.reshape(samples.shape), sums, blank, grid.dimensions, parallel)
        if layer:
            sections[Section.RESIDUAL] = layer
    crop = tuple(slice(0, n) for n in original)
    return Transformed(sections, missed.reshape(samples.shape)[crop], math.fsum(figure for figure, _ in figures))


def _head(finish: Finish, profile: str) -> bytes:
    integral = finish.fraction is not None
    return HEAD.pack(LINEAR, integral, finish.fraction or 0, finish.unit, finish.step, profile == "parallel")


def _slabs(grid: Grid, batch: int, rank: int) -> list[tuple[int, int, int]]:
    """Segments of the symbols: axis, start and stop in samples."""
    axis, parts = segments.cuts((batch, rank, *grid.signal), 1 << grid.levels, LATENTS_PER_SEGMENT)
    return [(axis, start, stop) for start, stop in parts]


def _encode_latents(model: LinearModel, symbols: NDArray[np.int32], parallel: bool) -> bytes:
    batch, rank = symbols.shape[:2]
    slabs = _slabs(model.grid, batch, rank)
    buffer = symbols.reshape(-1)

    parts = [model.grid.planes(batch, model.codes, slab, last=slab is slabs[-1]) for slab in slabs]
    kind = Kind.LATENT_PARALLEL if parallel else Kind.LATENT
    return coder.encode_segments(
        buffer, parts, kind, model.grid.dimensions, coder.NO_MASK, map_parallel, many_lanes=parallel
    )


def _decode_latents(model: LinearModel, data: bytes, batch: int, parallel: bool) -> NDArray[np.int32]:
    slabs = _slabs(model.grid, batch, model.rank)
    symbols = np.zeros((batch, model.rank, *model.grid.signal), np.int32)
    buffer = symbols.reshape(-1)

    parts = [model.grid.planes(batch, model.codes, slab, last=slab is slabs[-1]) for slab in slabs]
    kind = Kind.LATENT_PARALLEL if parallel else Kind.LATENT
    coder.decode_segments(data, buffer, parts, kind, model.grid.dimensions, coder.NO_MASK, map_parallel)
    return symbols


def _residual_planes(
    shape: Sequence[int], codes: NDArray[np.int64], axis: int, start: int, stop: int
) -> NDArray[np.void]:
    """Planes of the residual layer in a slab: one per batch item and channel."""
    batch, channels, z, y, x = shape
    planes = coder.planes_of(batch * channels)
    strides = (y * x, x, 1)
    size = [z, y, x]
    size[axis] = stop - start
    planes["base"] = np.arange(batch * channels) * (z * y * x) + start * strides[axis]
    planes["nz"], planes["ny"], planes["nx"] = size
    planes["sz"], planes["sy"] = y * x, x
    planes["code"] = np.tile(codes, batch)
    inner = np.arange(batch * channels) % channels > 0
    inner[1:] &= planes["code"][:-1] > 0
    planes["previous"][1:] = np.where(inner[1:], planes["base"][:-1], coder.NO_PLANE)
    planes["previous_code"][1:] = planes["code"][:-1]
    return planes


def _encode_residuals(
    residuals: NDArray[np.int32],
    sums: NDArray[np.int64],
    mask: NDArray[np.uint8] | None,
    dimensions: int,
    parallel: bool,
) -> bytes:
    """Section RESIDUAL: a magnitude code for each channel, then streams; nothing where all residuals are 0.

    `sums` are the sums of magnitudes of each channel.
    """
    shape = residuals.shape
    if not sums.any():
        return b""
    codes = magnitude_code(sums / max(1, residuals[:, 0].size))
    axis, parts = segments.cuts(shape, coder.GROUP)
    buffer = residuals.reshape(-1)
    holes = coder.NO_MASK if mask is None else mask.reshape(-1)

    slabs = [_residual_planes(shape, codes, axis, *part) for part in parts]
    kind = Kind.RESIDUAL_PARALLEL if parallel else Kind.RESIDUAL
    streams = coder.encode_segments(buffer, slabs, kind, dimensions, holes, map_parallel, many_lanes=parallel)
    return codes.astype("u1").tobytes() + streams


def _decode_residuals(
    data: bytes, shape: Sequence[int], mask: NDArray[np.uint8] | None, dimensions: int, parallel: bool, region: Region
) -> NDArray[np.int32]:
    """Residuals of the slabs that a region touches; zeros elsewhere."""
    channels = shape[1]
    codes = np.frombuffer(data[:channels], "u1").astype(np.int64)
    if len(codes) != channels or codes.max(initial=0) >= len(MAGNITUDES):
        raise FormatError("The residual layer of the frame is damaged.")
    axis, parts = segments.cuts(shape, coder.GROUP)
    residuals = np.zeros(tuple(shape), np.int32)
    buffer = residuals.reshape(-1)
    holes = coder.NO_MASK if mask is None else mask.reshape(-1)

    slabs = [_residual_planes(shape, codes, axis, *part) for part in parts]
    kind = Kind.RESIDUAL_PARALLEL if parallel else Kind.RESIDUAL
    wanted = segments.touching(parts, region[2 + axis])
    coder.decode_segments(data[channels:], buffer, slabs, kind, dimensions, holes, map_parallel, wanted)
    return residuals


def _latents(model: LinearModel, symbols: NDArray[np.int32]) -> NDArray[np.float64]:
    """Latents before the basis: (batch, rank, n).

    Raises
    ------
    BudgetError
        If a partial sum of their synthesis, or of what follows, could be inexact.
    """
    latents = linear.synthesise(model, symbols, map_parallel)
    if not _fits(model, np.maximum(latents.max(axis=(0, 2)), -latents.min(axis=(0, 2)))):
        raise BudgetError("The latents of the chunk exceed the bit budget of exact arithmetic.")
    return latents


def _fits(model: LinearModel, reach: NDArray[np.float64]) -> bool:
    """Whether no partial sum of the spectral synthesis reaches 2^53 if no latent (rank,) exceeds `reach`."""
    with np.errstate(invalid="ignore"):
        largest = float((np.abs(model.matrix) @ reach).max(initial=0.0))
    return largest < 2.0**53 and float(np.abs(model.mean_units).max(initial=0.0)) < 2.0**52


def decode(
    sections: dict[Section, bytes],
    shape: Sequence[int],
    dimensions: int,
    mask: NDArray[np.uint8] | None,
    dtype: np.dtype,
    nodata: NDArray[np.generic],
    region: Region,
) -> NDArray[np.generic]:
    """Samples (batch, channel, z, y, x) of a region of a chunk in transform mode.

    Raises
    ------
    FormatError
        If the sections are damaged.
    """
    data = sections[Section.MODEL]
    if len(data) < HEAD.size + 3:
        raise FormatError("The model of the frame is cut.")
    model_kind, integral, fraction, unit, step, parallel = HEAD.unpack_from(data)
    if model_kind != LINEAR:
        raise UnsupportedFormatError(
            f"The frame's model is of kind {model_kind}, which this version of xwalloc does not know: update xwalloc."
        )
    if integral > 1 or parallel > 1 or not 0 < unit < math.inf or abs(fraction) > 60:
        raise FormatError("The model of the frame has impossible units.")
    batch, channels = shape[:2]
    model = LinearModel.from_bytes(data[HEAD.size :], (shape[2], shape[3], shape[4]), dimensions, channels, batch)
    signal = model.grid.signal
    symbols = _decode_latents(model, sections[Section.LATENTS], batch, bool(parallel))
    try:
        latents = _latents(model, symbols)
    except BudgetError as error:
        raise FormatError(f"The symbols of the frame are impossible: {error}") from None
    finish = Finish(model.shift, fraction if integral else None, unit, step)
    whole = (batch, channels, *signal)
    residuals = None
    if Section.RESIDUAL in sections:
        blank = None if mask is None else _pad(mask, signal)
        layer = _decode_residuals(sections[Section.RESIDUAL], whole, blank, dimensions, bool(parallel), region)
        residuals = _flat(layer[region])
    chosen = region[1]
    latents = _flat(latents.reshape(batch, -1, *signal)[region[0], :, *region[2:]])
    size = tuple(part.stop - part.start for part in region)
    decoded = np.empty((size[0], size[1], latents.shape[-1]), dtype)

    def work(tile: tuple[int, slice]) -> None:
        item, part = tile
        product = linear.products(model, latents, tile, chosen)
        rest = NO_RESIDUALS if residuals is None else residuals[item]
        finish.samples(product, model.mean_units[chosen], rest, nodata, decoded[item], part.start)

    map_parallel(work, list(tiles(size)))
    return decoded.reshape(size)


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    """Contiguous, with one signal axis."""
    return np.ascontiguousarray(array).reshape(*array.shape[:2], -1)
