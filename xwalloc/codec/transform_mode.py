# mypy: disable-error-code="no-untyped-call"
"""Transform mode of a chunk: a linear model and its symbols, and a residual layer where there is a bound."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream import segments
from xwalloc.bitstream.contexts import MAGNITUDES, Kind, magnitude_code
from xwalloc.bitstream.frame import Section
from xwalloc.bitstream.tables import Tables
from xwalloc.codec.bound import Finish
from xwalloc.codec.engine import map_parallel
from xwalloc.codec.examine import Examine, nothing
from xwalloc.errors import BudgetError, FormatError, UnsupportedFormatError
from xwalloc.models import linear
from xwalloc.models.analysis import Scale, tiles
from xwalloc.models.model import KEY_BYTES, Model
from xwalloc.models.spec import Grid, LinearModel
from xwalloc.types import Region

__all__ = [
    "Contents",
    "Models",
    "Target",
    "Transformed",
    "decode",
    "encode",
    "latent_parts",
    "pad",
    "read",
    "residual_parts",
]

Models = Callable[[bytes], Model]
"""Finds the model that a frame names by its key."""

HEAD = struct.Struct("<BBbdIB")
"""Kind of the model; whether samples are integers; fraction bits; unit; step of the residual layer; profile."""

LINEAR, NAMED = 0, 1
"""Kinds of models: a linear one that the frame holds; one that the frame names."""

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
    bound
        Error bound in samples, where integral channels have bounds of their own; else 1.
    """

    integral: bool
    step: float
    quantum: float
    bound: float = 1.0

    def finish(self) -> tuple[Finish, Scale]:
        """Units for the decoder (without the model's shift and scales) and for the encoder."""
        if self.step and self.integral:
            fraction = max(-20, UNIT_BITS - math.frexp(self.step)[1])
            return Finish(0, fraction, self.bound, int(self.step)), Scale(
                2.0**fraction, self.step * 2.0**fraction, None
            )
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


def pad(array: NDArray[Any], signal: Sequence[int]) -> NDArray[Any]:
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
    shared: Model | None = None,
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
    shared
        Model of the array, which the frame will name; None: the chunk is fitted a model of its own.

    Returns
    -------
    Transformed or None
        None where the chunk is beyond the bit budget of exact arithmetic.
    """
    original = samples.shape
    samples = pad(samples, grid.signal)
    batch, channels = samples.shape[:2]
    flat = samples.reshape(batch, channels, -1)
    holes = None if mask is None else pad(mask, grid.signal)
    blank = None if holes is None else holes.reshape(flat.shape)
    if shared is not None and blank is not None:
        samples = _fill_empty(samples, blank, shared.fitted.means)
        flat = samples.reshape(batch, channels, -1)
    finish, scale = target.finish()
    if not 0 < finish.unit < math.inf or not math.isfinite(scale.per_sample):
        return None
    if shared is None:
        found = linear.fit(samples, edges, scale, grid, holes, map_parallel)
    else:
        found = linear.apply(shared.fitted, samples, edges, scale, grid, holes, map_parallel)
    if found is None:
        return None
    model, symbols = found
    codebook = None
    if shared is None:
        model_bytes = model.to_bytes()
        # From here on with the model that the decoder will read.
        signal = original[2], original[3], original[4]
        model = LinearModel.from_bytes(model_bytes, signal, grid.dimensions, channels, batch)
    else:
        codebook = shared.fitted.codebook
        if shared.fitted.scaled:
            finish = replace(finish, scales=shared.fitted.scales)
    looked_at = finish.step > 0 or examine is not nothing
    latents = np.empty(0)
    try:
        if looked_at or not _fits(model, np.full(model.rank, linear.reach(model, symbols))):
            latents = _latents(model, symbols)
    except BudgetError:
        return None
    parallel = profile == "parallel"
    sections = {Section.LATENTS: _encode_latents(model, symbols, parallel, codebook)}
    finish = replace(finish, shift=model.shift)
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
    codes = None
    if residuals is not None:
        sums = np.sum([part for _, part in figures], axis=0)
        if sums.any():
            codes = magnitude_code(sums / max(1, residuals[:, 0].size))
            layer = residuals.reshape(samples.shape)
            streams = _encode_residuals(layer, codes, blank, grid.dimensions, parallel, codebook)
            sections[Section.RESIDUAL] = streams if shared else codes.astype("u1").tobytes() + streams
    head = _head(NAMED if shared else LINEAR, finish, profile)
    sections[Section.MODEL] = head + (shared.key + shared.fitted.pack(model, codes) if shared else model_bytes)
    crop = tuple(slice(0, n) for n in original)
    return Transformed(sections, missed.reshape(samples.shape)[crop], math.fsum(figure for figure, _ in figures))


def _fill_empty(
    samples: NDArray[np.generic], blank: NDArray[np.uint8], means: NDArray[np.float64]
) -> NDArray[np.generic]:
    """Samples whose channels without any sample hold the mean that the model expects: they cost nothing then."""
    empty = (blank != 0).all(axis=2)
    if not empty.any():
        return samples
    filled = samples.copy()
    info: Any = np.iinfo(samples.dtype) if samples.dtype.kind in "iu" else np.finfo(samples.dtype)
    usual = np.clip(np.rint(means) if samples.dtype.kind in "iu" else means, float(info.min), float(info.max))
    for item, channel in np.argwhere(empty):
        filled[item, channel] = usual[channel]
    return filled


def _head(kind: int, finish: Finish, profile: str) -> bytes:
    integral = finish.fraction is not None
    return HEAD.pack(kind, integral, finish.fraction or 0, finish.unit, finish.step, profile == "parallel")


def latent_parts(model: LinearModel, batch: int) -> list[NDArray[np.void]]:
    """Planes of the symbols (batch, rank, z, y, x), segment by segment."""
    axis, parts = segments.cuts((batch, model.rank, *model.grid.signal), 1 << model.grid.levels, LATENTS_PER_SEGMENT)
    slabs = [(axis, start, stop) for start, stop in parts]
    return [model.grid.planes(batch, model.codes, slab, last=slab is slabs[-1]) for slab in slabs]


def _encode_latents(model: LinearModel, symbols: NDArray[np.int32], parallel: bool, codebook: Tables | None) -> bytes:
    parts = latent_parts(model, symbols.shape[0])
    buffer = symbols.reshape(-1)
    kind = Kind.LATENT_PARALLEL if parallel else Kind.LATENT
    return coder.encode_segments(
        buffer, parts, kind, model.grid.dimensions, coder.NO_MASK, map_parallel, many_lanes=parallel, codebook=codebook
    )


def _decode_latents(
    model: LinearModel, data: bytes, batch: int, parallel: bool, codebook: Tables | None
) -> NDArray[np.int32]:
    parts = latent_parts(model, batch)
    symbols = np.zeros((batch, model.rank, *model.grid.signal), np.int32)
    buffer = symbols.reshape(-1)
    kind = Kind.LATENT_PARALLEL if parallel else Kind.LATENT
    coder.decode_segments(
        data, buffer, parts, kind, model.grid.dimensions, coder.NO_MASK, map_parallel, codebook=codebook
    )
    return symbols


def residual_parts(shape: Sequence[int], codes: NDArray[np.int64]) -> tuple[int, list[tuple[int, int]], list[Any]]:
    """Planes of residuals (batch, channel, z, y, x), segment by segment: axis that is cut, slabs, planes."""
    axis, parts = segments.cuts(shape, coder.GROUP)
    return axis, parts, [_residual_planes(shape, codes, axis, *part) for part in parts]


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
    codes: NDArray[np.int64],
    mask: NDArray[np.uint8] | None,
    dimensions: int,
    parallel: bool,
    codebook: Tables | None,
) -> bytes:
    """Streams of the residual layer, whose channels have these magnitude codes."""
    _, _, slabs = residual_parts(residuals.shape, codes)
    buffer = residuals.reshape(-1)
    holes = coder.NO_MASK if mask is None else mask.reshape(-1)
    kind = Kind.RESIDUAL_PARALLEL if parallel else Kind.RESIDUAL
    return coder.encode_segments(
        buffer, slabs, kind, dimensions, holes, map_parallel, many_lanes=parallel, codebook=codebook
    )


def _decode_residuals(
    data: bytes,
    codes: NDArray[np.int64],
    shape: Sequence[int],
    mask: NDArray[np.uint8] | None,
    dimensions: int,
    parallel: bool,
    region: Region,
    codebook: Tables | None,
) -> NDArray[np.int32]:
    """Residuals of the slabs that a region touches; zeros elsewhere."""
    axis, parts, slabs = residual_parts(shape, codes)
    residuals = np.zeros(tuple(shape), np.int32)
    buffer = residuals.reshape(-1)
    holes = coder.NO_MASK if mask is None else mask.reshape(-1)
    kind = Kind.RESIDUAL_PARALLEL if parallel else Kind.RESIDUAL
    wanted = segments.touching(parts, region[2 + axis])
    coder.decode_segments(data, buffer, slabs, kind, dimensions, holes, map_parallel, wanted, codebook)
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
    sections: Mapping[Section, bytes],
    shape: Sequence[int],
    dimensions: int,
    mask: NDArray[np.uint8] | None,
    dtype: np.dtype,
    nodata: NDArray[np.generic],
    region: Region,
    models: Models,
) -> NDArray[np.generic]:
    """Samples (batch, channel, z, y, x) of a region of a chunk in transform mode.

    Raises
    ------
    FormatError
        If the sections are damaged.
    ModelError
        If `models` does not know the model that the frame names.
    """
    contents = read(sections, shape, dimensions, models)
    model = contents.model
    batch = shape[0]
    signal = model.grid.signal
    try:
        latents = _latents(model, contents.symbols())
    except BudgetError as error:
        raise FormatError(f"The symbols of the frame are impossible: {error}") from None
    residuals = None
    if contents.residual_codes is not None:
        residuals = _flat(contents.residuals(None if mask is None else pad(mask, signal), region)[region])
    chosen = region[1]
    finish = contents.finish.of(chosen)
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


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What the sections of a chunk in transform mode say.

    Parameters
    ----------
    model
        The chunk's linear model.
    finish
        How products become samples.
    dimensions
        Number of signal axes.
    shape
        (batch, channel, z, y, x), with padding.
    parallel
        Whether the profile is "parallel".
    codebook
        Frequency tables; None for those that ship.
    residual_codes : (channel,) int
        Magnitude codes of the residual layer; None where there is none.
    """

    model: LinearModel
    finish: Finish
    dimensions: int
    shape: tuple[int, ...]
    parallel: bool
    codebook: Tables | None
    residual_codes: NDArray[np.int64] | None
    _latents: bytes
    _residuals: bytes

    def symbols(self) -> NDArray[np.int32]:
        """Symbols of the latents: (batch, rank, z, y, x).

        Raises
        ------
        FormatError
            If their section is damaged.
        """
        return _decode_latents(self.model, self._latents, self.shape[0], self.parallel, self.codebook)

    def residuals(self, mask: NDArray[np.uint8] | None, region: Region) -> NDArray[np.int32]:
        """Residuals (batch, channel, z, y, x) of the slabs that a region touches; zeros elsewhere.

        Raises
        ------
        FormatError
            If their section is damaged.
        """
        if self.residual_codes is None:
            return np.zeros(self.shape, np.int32)
        return _decode_residuals(
            self._residuals,
            self.residual_codes,
            self.shape,
            mask,
            self.dimensions,
            self.parallel,
            region,
            self.codebook,
        )


def named_model(section: bytes) -> str:
    """What section MODEL says of the model: "self-fitted", or the beginning of the id of the one that it names."""
    if section[:1] != bytes([NAMED]):
        return "self-fitted"
    return f"sha256:{section[HEAD.size : HEAD.size + KEY_BYTES].hex()}"


def read(sections: Mapping[Section, bytes], shape: Sequence[int], dimensions: int, models: Models) -> Contents:
    """What the sections say of a chunk of that canonical shape (without padding).

    Raises
    ------
    FormatError, ModelError
        As for `decode`.
    """
    data = sections[Section.MODEL]
    if len(data) < HEAD.size + 3:
        raise FormatError("The model of the frame is cut.")
    kind, integral, fraction, unit, step, parallel = HEAD.unpack_from(data)
    if kind not in (LINEAR, NAMED):
        raise UnsupportedFormatError(
            f"The frame's model is of kind {kind}, which this version of xwalloc does not know: update xwalloc."
        )
    if integral > 1 or parallel > 1 or not 0 < unit < math.inf or abs(fraction) > 60:
        raise FormatError("The model of the frame has impossible units.")
    batch, channels = shape[:2]
    signal = shape[2], shape[3], shape[4]
    finish = Finish(0, fraction if integral else None, unit, step)
    layer = sections.get(Section.RESIDUAL)
    codes: NDArray[np.int64] | None = None
    codebook = None
    if kind == LINEAR:
        model = LinearModel.from_bytes(data[HEAD.size :], signal, dimensions, channels, batch)
        if layer is not None:
            codes, layer = np.frombuffer(layer[:channels], "u1").astype(np.int64), layer[channels:]
            if len(codes) != channels or codes.max(initial=0) >= len(MAGNITUDES):
                raise FormatError("The residual layer of the frame is damaged.")
    else:
        start = HEAD.size + KEY_BYTES
        fitted = models(data[HEAD.size : start]).fitted
        if (fitted.channels, fitted.dimensions) != (channels, dimensions):
            raise FormatError(
                f"The model of the frame is for {fitted.channels} channels and {fitted.dimensions} signal axes. "
                f"The frame has {channels} and {dimensions}."
            )
        per_sample = 2.0**fraction if integral else _inverse(unit)
        residual = layer is not None
        model, found = fitted.unpack(data[start:], signal, per_sample, batch, residual=residual)
        codes, codebook = found if residual else None, fitted.codebook
        if fitted.scaled:
            finish = replace(finish, scales=fitted.scales)
    return Contents(
        model=model, finish=replace(finish, shift=model.shift), dimensions=dimensions,
        shape=(batch, channels, *model.grid.signal), parallel=bool(parallel), codebook=codebook,
        residual_codes=codes, _latents=sections[Section.LATENTS], _residuals=layer or b"",
    )  # fmt: skip


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    """Contiguous, with one signal axis."""
    return np.ascontiguousarray(array).reshape(*array.shape[:2], -1)
