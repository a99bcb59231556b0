# mypy: disable-error-code="no-untyped-call"
"""Transform mode of a chunk: a linear model and its symbols, and a residual layer where there is a bound."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream.frame import Section
from xwalloc.bitstream.planes import Order
from xwalloc.codec import engine, resident
from xwalloc.codec.bound import Finish
from xwalloc.codec.devices import CPU, DeviceMemoryError, fall_back
from xwalloc.codec.engine import map_parallel
from xwalloc.codec.examine import Examine, nothing, squares
from xwalloc.codec.places import NO_RESIDUALS, OnHost, Place, latents_of
from xwalloc.codec.resident.arrays import DeviceArray, on_host
from xwalloc.codec.transform_sections import (
    LINEAR,
    NAMED,
    REFINED,
    ROTATED,
    Contents,
    head,
    inverse,
    pack_codes,
    pack_further,
    pad,
)
from xwalloc.errors import BudgetError, FormatError
from xwalloc.models import linear
from xwalloc.models.analysis import Scale, tiles
from xwalloc.models.model import Model
from xwalloc.models.spec import Grid, LinearModel
from xwalloc.types import Region

__all__ = ["Target", "Transformed", "decode", "encode"]

UNIT_BITS = 7
"""A residual step (integral chunks) or half of one (others) is about 2^7 units."""


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
            return Finish(0, None, unit, units), Scale(inverse(unit), float(units), None)
        units = 1 << UNIT_BITS
        unit = self.quantum / units
        return Finish(0, None, unit, 0), Scale(inverse(unit), 0.0, units)


@dataclass(frozen=True)
class Transformed:
    """A chunk in transform mode.

    Parameters
    ----------
    sections
        What the frame will hold.
    missed : (batch, channel, z, y, x) bool
        Samples that the examination marked; None where it marked none.
    figure
        What the examination returned.
    """

    sections: dict[Section, bytes]
    missed: NDArray[np.bool_] | None
    figure: float


def encode(
    samples: NDArray[np.generic] | DeviceArray,
    edges: tuple[float, float],
    mask: NDArray[np.uint8] | None,
    target: Target,
    grid: Grid,
    profile: str,
    nodata: NDArray[np.generic],
    examine: Examine,
    shared: Model | None = None,
    rotated: bool = False,
) -> Transformed | None:
    """Encode a chunk of finite samples.

    Parameters
    ----------
    samples : (batch, channel, z, y, x)
        Samples with holes filled; those on a device have none.
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
    rotated
        Whether the chunk is fitted a basis of its own within the span of that model.

    Returns
    -------
    Transformed or None
        None where the chunk is beyond the bit budget of exact arithmetic.
    """
    given = edges, mask, target, grid, Order.of(profile), nodata, examine, shared, rotated
    padded = (*samples.shape[:2], *grid.signal)
    if engine.device() != CPU and resident.can_encode(padded, Order.of(profile), samples.dtype):
        try:
            with resident.admitted(padded, samples.dtype):
                return _encode(resident.OnDevice, samples, *given)
        except DeviceMemoryError as error:
            fall_back(error)
    return _encode(OnHost, on_host(samples), *given)


def _encode(
    place_of: Callable[[Any, NDArray[np.uint8] | None, NDArray[np.generic]], Place],
    samples: NDArray[np.generic] | DeviceArray,
    edges: tuple[float, float],
    mask: NDArray[np.uint8] | None,
    target: Target,
    grid: Grid,
    order: Order,
    nodata: NDArray[np.generic],
    examine: Examine,
    shared: Model | None,
    rotated: bool,
) -> Transformed | None:
    """`encode` in a place that is made of samples, blank and nodata."""
    original = samples.shape
    batch, channels = original[:2]
    padded: NDArray[np.generic] | DeviceArray
    if isinstance(samples, DeviceArray):
        padded = samples.padded(grid.signal)
    else:
        padded = pad(samples, grid.signal)
    holes = None if mask is None else pad(mask, grid.signal)
    blank = None if holes is None else holes.reshape(batch, channels, -1)
    if shared is not None and blank is not None:
        padded, edges = _fill_empty(on_host(padded), blank, shared.fitted.means, edges)
    finish, scale = target.finish()
    if not 0 < finish.unit < math.inf or not math.isfinite(scale.per_sample):
        return None
    place = place_of(padded, blank, nodata)
    wide = None
    if shared is None:
        found = linear.fit(place, edges, scale, grid, holes)
    elif rotated:
        found, wide = linear.rotate(shared.fitted, place, edges, scale, grid, holes)
    else:
        found = linear.apply(shared.fitted, place, edges, scale, grid, holes)
    if found is None:
        return None
    model, symbols = found
    codebook = None if shared is None else shared.fitted.codebook
    if shared is None or wide is not None:
        model_bytes = model.to_bytes()
        # From here on with the model that the decoder will read.
        signal = original[2], original[3], original[4]
        entries = channels if wide is None else wide.rank
        model = LinearModel.from_bytes(model_bytes, signal, grid.dimensions, entries, batch)
        if wide is not None:
            model = wide.rotated(model, scale.per_sample)
    elif shared.fitted.scaled:
        finish = replace(finish, scales=shared.fitted.scales)
    network = None if shared is None or rotated else shared.fitted.network
    if network is not None and not finish.step and examine is nothing:  # errors are what the choice goes by
        examine = squares(max(map(abs, edges)) or 1.0, nodata)
    look = None if examine is nothing else examine
    finish = replace(finish, shift=model.shift)
    try:
        kept, kind = place.attempt(model, symbols, None, finish, look, order, codebook, with_latents=True), NAMED
        sections = {Section.LATENTS: kept.latents}
        if network is not None:
            with suppress(BudgetError):
                other = place.attempt(model, symbols, network, finish, look, order, codebook, with_latents=False)
                if other.cost < kept.cost:
                    kept, kind = other, REFINED
    except BudgetError:
        return None
    if shared is None:
        description, codes = head(LINEAR, finish, order) + model_bytes, b""
        if kept.codes is not None:
            codes = kept.codes.astype("u1").tobytes()
    elif wide is not None:
        further = pack_further(wide, shared.fitted.rank)
        description, codes = head(ROTATED, finish, order) + shared.key + further + model_bytes, b""
        if kept.codes is not None:
            codes = pack_codes(kept.codes, shared.fitted.residual_codes)
    else:
        description, codes = head(kind, finish, order) + shared.key + shared.fitted.pack(model, kept.codes), b""
    sections[Section.MODEL] = description
    if kept.codes is not None:
        sections[Section.RESIDUAL] = codes + kept.streams
    missed = None
    if kept.missed is not None:
        missed = kept.missed.reshape(padded.shape)[tuple(slice(0, n) for n in original)]
    return Transformed(sections, missed, kept.figure)


def _fill_empty(
    samples: NDArray[np.generic], blank: NDArray[np.uint8], means: NDArray[np.float64], edges: tuple[float, float]
) -> tuple[NDArray[np.generic], tuple[float, float]]:
    """Samples whose channels without any sample hold the mean that the model expects: they cost nothing then.

    Their range is returned, too, from that of the others.
    """
    empty = (blank != 0).all(axis=2)
    if not empty.any():
        return samples, edges
    filled = samples.copy()
    info: Any = np.iinfo(samples.dtype) if samples.dtype.kind in "iu" else np.finfo(samples.dtype)
    usual = np.clip(np.rint(means) if samples.dtype.kind in "iu" else means, float(info.min), float(info.max))
    for item, channel in np.argwhere(empty):
        filled[item, channel] = usual[channel]
    held = filled.reshape(blank.shape)[:, :, 0][empty]
    return filled, (min(edges[0], float(held.min())), max(edges[1], float(held.max())))


def decode(
    contents: Contents,
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
    model = contents.model
    batch = contents.shape[0]
    signal = model.grid.signal
    try:
        latents = latents_of(model, contents.symbols(), contents.network)
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


def _flat(array: NDArray[Any]) -> NDArray[Any]:
    """Contiguous, with one signal axis."""
    return np.ascontiguousarray(array).reshape(*array.shape[:2], -1)
