"""Learned mode of a chunk: latents of a published model, which the frame names, and a residual layer over its decoder.

A float network is the same on no two machines. So nothing that is decoded exactly depends on it: the latents are
integers in lattice mode, residuals are coded without regard to the base, and a sample is

    F(x) = cast(clip(round?(offset + scale * x + step * residual)))

with the network's x known within a tolerance. Every step of F is monotone in x. The encoder forms F at both ends of
what decoders may have for x: where both are within the bound, and nodata is not between them, all of them are.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream.contexts import magnitude_code
from xwalloc.bitstream.frame import Section
from xwalloc.bitstream.planes import Order
from xwalloc.codec import lattice_mode, networks
from xwalloc.codec.bound import stored
from xwalloc.codec.examine import Examine
from xwalloc.codec.transform_mode import Target
from xwalloc.codec.transform_sections import Models, decode_residuals, encode_residuals, split_codes
from xwalloc.errors import BudgetError, FormatError
from xwalloc.models.model import KEY_BYTES, PREFIX, Model
from xwalloc.models.published import STABLE, TOLERANCE, Published
from xwalloc.types import Buffer, Region, cached_property

__all__ = ["Draft", "Learned", "decode", "draft", "named_model", "read_latents"]

HEAD = struct.Struct(f"<{KEY_BYTES}sddddBB")
"""Key of the model; offset and scale of the samples; tolerance of x; residual step; whether samples are integers;
profile."""

LATENT_GRID = lattice_mode.for_integers(0)
LARGEST_RESIDUAL = 2**31 - 1
ROOM = 0.25
"""Of a bound, the share that the tolerance may take."""

SPARE = 1 - 2.0**-30
"""For the rounding of the sum of base and residual."""


@dataclass(frozen=True)
class Learned:
    """A chunk in learned mode; `sections`, `missed` and `figure` are those of `transform_mode.Transformed`."""

    sections: dict[Section, bytes]
    missed: NDArray[np.bool_]
    figure: float


@dataclass(frozen=True)
class Draft:
    """A chunk whose latents are coded and decoded, and whose residual layer is not yet.

    Parameters
    ----------
    samples : (batch, channel, z, y, x)
        Samples with holes filled.
    original
        Their type as stored.
    mask
        Not 0 where a sample is not coded; None where all are.
    nodata : (2,) or (0,)
        Nodata and its substitute, in the stored type.
    """

    samples: NDArray[np.generic]
    original: np.dtype[Any]
    mask: NDArray[np.uint8] | None
    nodata: NDArray[np.generic]
    _key: bytes
    _offset: float
    _scale: float
    _x: NDArray[np.float64]
    _dimensions: int
    _order: Order
    _latents: Mapping[Section, bytes]

    @cached_property
    def base(self) -> NDArray[np.float64]:
        """What the network says of the samples."""
        return self._offset + self._scale * self._x

    def encode(self, target: Target, examine: Examine) -> Learned | None:
        """The chunk with the residual layer that a target asks for.

        Parameters
        ----------
        target
            Bound (`step`), or the step of a residual layer without a bound (`quantum`), or neither.
        examine
            As for `transform_mode.encode`; where there is a bound, looks at both ends of what may be decoded.

        Returns
        -------
        Learned or None
            None where the tolerance of the network takes too much of the bound.
        """
        step, whole = target.quantum, self.original.kind in "iu"
        if target.step:
            slack = TOLERANCE * self._scale
            if slack > ROOM * target.step / 2:
                return None
            step, whole = (target.step - 2 * slack) * SPARE, target.integral
        if not _are_possible(self._offset, self._scale, step):
            return None
        residuals = np.zeros(self.samples.shape, np.int32)
        if step:
            with np.errstate(over="ignore"):
                quotient = np.rint((self.samples.astype(np.float64) - self.base) / step)
            residuals[...] = np.clip(quotient, -LARGEST_RESIDUAL, LARGEST_RESIDUAL)
            if self.mask is not None:
                residuals[self.mask != 0] = 0
        head = HEAD.pack(self._key, self._offset, self._scale, TOLERANCE, step, whole, self._order)
        sections = {Section.MODEL: head, **self._latents}
        if residuals.any():
            codes = magnitude_code(np.abs(residuals.astype(np.int64)).mean(axis=(0, 2, 3, 4)))
            streams = encode_residuals(residuals, codes, self.mask, self._dimensions, self._order, None)
            sections[Section.RESIDUAL] = codes.astype("u1").tobytes() + streams
        missed = np.zeros(self.samples.shape, np.bool_)
        finish = _Finish(self._offset, self._scale, step, whole, self.original)
        rows = (-1, self.samples.shape[-1])
        found, figures = [], []
        for x in (self._x - TOLERANCE, self._x + TOLERANCE) if target.step else (self._x,):
            found.append(finish.samples(x, residuals))
            looked_at = _without(found[-1], self.nodata).astype(self.samples.dtype, copy=False)
            figures.append(examine(self.samples.reshape(rows), looked_at.reshape(rows), missed.reshape(rows), 0))
        if target.step:
            if self.nodata.size:
                missed |= (found[0] <= self.nodata[0]) & (self.nodata[0] <= found[1])
        return Learned(sections, missed, examine.join(figures))


@dataclass(frozen=True)
class _Finish:
    """How x becomes samples: the fields of the section MODEL, and the stored type."""

    offset: float
    scale: float
    step: float
    whole: bool
    dtype: np.dtype[Any]

    def samples(self, x: NDArray[np.float64], residuals: NDArray[np.int32] | None) -> NDArray[np.generic]:
        """Samples in the stored type, nodata among them where it happens."""
        with np.errstate(over="ignore"):
            values = self.offset + self.scale * np.clip(x, -0.5, 0.5)
            if residuals is not None:
                values += self.step * residuals
        if self.whole or self.dtype.kind in "iu":
            np.rint(values, out=values)
        working = np.dtype(np.float32) if self.dtype == np.float16 else self.dtype
        info: Any = np.iinfo(working) if working.kind in "iu" else np.finfo(working)
        decoded = np.clip(values, float(info.min), float(info.max), out=values).astype(working)
        return stored(decoded, np.empty(0, self.dtype))


def draft(
    samples: NDArray[np.generic],
    original: np.dtype[Any],
    edges: tuple[float, float],
    mask: NDArray[np.uint8] | None,
    nodata: NDArray[np.generic],
    dimensions: int,
    profile: str,
    model: Model,
) -> Draft | None:
    """Look at a chunk that suits a model, see `Draft`.

    Parameters
    ----------
    samples, original, mask, nodata
        As for `Draft`.
    edges
        Range of the samples.
    dimensions
        Number of signal axes.
    profile
        Contexts: "default" or "parallel".
    model
        What the frame will name.

    Returns
    -------
    Draft or None
        None where a decoder may come to other values than this one, or the latents cannot be coded.
    """
    published = model.published
    offset, scale = published.scaling(original, edges)
    if not _are_possible(offset, scale, 0.0):
        return None
    batch, channels, *signal = samples.shape
    extent = signal[-dimensions:]
    x = np.zeros((batch, channels, *extent))
    if scale:
        with np.errstate(over="ignore"):
            x[...] = (samples.reshape(x.shape).astype(np.float64) - offset) / scale
    shape = _latent_shape(published, samples.shape)

    def see(device: str) -> tuple[NDArray[np.int32], NDArray[np.float64], NDArray[np.float64]]:
        latents = published.encode(x, device)
        exact = published.decode(latents, extent, device=device)
        return latents, exact, published.decode(latents, extent, device=device, single=True)

    latents, x, rough = networks.alone(see)
    deviation = np.abs(rough - x).max()
    if not deviation <= STABLE:  # NaN among them
        return None
    try:
        coded, _ = lattice_mode.draft(LATENT_GRID, latents.reshape(shape), None, latents.dtype, profile).encode()
    except BudgetError:
        return None
    return Draft(
        samples, original, mask, nodata, model.key, offset, scale, x.reshape(samples.shape), dimensions,
        Order.of(profile), coded,
    )  # fmt: skip


def _are_possible(offset: float, scale: float, step: float) -> bool:
    """Whether sums of base and residual stay finite."""
    return min(scale, step) >= 0 and math.isfinite(abs(offset) + scale + step * 2.0**32)


def _latent_shape(published: Published, shape: Sequence[int]) -> tuple[int, int, int, int, int]:
    """Shape of the latents of a chunk (batch, channel, z, y, x), as such a chunk."""
    positions = published.latent_signal(shape[-published.dimensions :])
    z, y, x = (1,) * (3 - len(positions)) + positions
    return shape[0], published.architecture.latent_channels, z, y, x


def _without(samples: NDArray[np.generic], nodata: NDArray[np.generic]) -> NDArray[np.generic]:
    """Samples none of which equals nodata."""
    return np.where(samples == nodata[0], nodata[1], samples) if nodata.size else samples


def named_model(section: Buffer) -> str:
    """What section MODEL says of the model: the beginning of its id."""
    return PREFIX + section[:KEY_BYTES].hex()


@dataclass(frozen=True)
class Contents:
    """What the sections of a chunk in learned mode say: model, latents (batch, latent, *positions), fields of MODEL."""

    published: Published
    latents: NDArray[np.int32]
    offset: float
    scale: float
    step: float
    whole: bool
    order: Order


def read_latents(
    sections: Mapping[Section, Buffer],
    shape: Sequence[int],
    dimensions: int,
    models: Models,
    items: slice = slice(None),
) -> Contents:
    """What the sections say of a chunk of that canonical shape; latents of some of its batch items.

    Raises
    ------
    FormatError
        If the sections are damaged, or ask for too much.
    ModelError
        If `models` does not know the model that the frame names.
    """
    data = sections[Section.MODEL]
    if len(data) != HEAD.size:
        raise FormatError("The model of the frame is cut.")
    key, offset, scale, tolerance, step, whole, order = HEAD.unpack(data)
    if not _are_possible(offset, scale, step) or not 0 <= tolerance <= 1 or whole > 1 or order > max(Order):
        raise FormatError("The model of the frame has impossible units.")
    model = models(key)
    if (model.channels, model.dimensions) != (shape[1], dimensions):
        raise FormatError(
            f"The model of the frame is for {model.channels} channels and {model.dimensions} signal axes. "
            f"The frame has {shape[1]} and {dimensions}."
        )
    published = model.published
    misfit = published.misfit(shape[0], shape[-dimensions:])
    if misfit is not None:
        raise FormatError(f"Expected the frame to hold {misfit}.")
    there = _latent_shape(published, shape)
    parameters = sections[Section.LATTICE]
    if not lattice_mode.is_exact(parameters):
        raise FormatError("Expected latents to be integers on their own lattice. Got others in the frame.")
    part = items, slice(0, there[1]), slice(0, there[2]), slice(0, there[3]), slice(0, there[4])
    none = np.empty(0, np.int32)
    symbols = sections[Section.LATTICE_SYMBOLS]
    latents: NDArray[Any] = lattice_mode.decode(parameters, symbols, there, None, none.dtype, none, part)
    if max(int(latents.max()), -int(latents.min())) > published.largest:
        raise FormatError(f"Expected latents within +-{published.largest}. Got larger ones in the frame.")
    positions = there[-dimensions:]
    return Contents(
        published, latents.reshape(-1, there[1], *positions), offset, scale, step, bool(whole), Order(order)
    )


def decode(
    sections: Mapping[Section, Buffer],
    shape: Sequence[int],
    dimensions: int,
    mask: NDArray[np.uint8] | None,
    nodata: NDArray[np.generic],
    region: Region,
    models: Models,
) -> NDArray[np.generic]:
    """Samples (batch, channel, z, y, x), in the type of `nodata`, of a region of a chunk in learned mode.

    Raises
    ------
    FormatError
        If the sections are damaged.
    ModelError
        If `models` does not know the model that the frame names.
    ConfigError
        If torch is not installed.
    """
    contents = read_latents(sections, shape, dimensions, models, region[0])
    residuals = None
    if Section.RESIDUAL in sections:
        codes, streams = split_codes(sections[Section.RESIDUAL], shape[1])
        found = decode_residuals(streams, codes, shape, mask, dimensions, contents.order, region, None)
        residuals = found[region]
    x = networks.decode_published(contents.published, contents.latents, shape[-dimensions:])
    if not np.isfinite(x).all():
        raise FormatError("The network of the frame's model does not yield numbers for its latents.")
    within = x.reshape(-1, *shape[1:])[:, *region[1:]]
    finish = _Finish(contents.offset, contents.scale, contents.step, contents.whole, nodata.dtype)
    return _without(finish.samples(within, residuals), nodata)
