# mypy: disable-error-code="no-untyped-call"
"""Lattice mode: integers coded by interpolation in space, time and across channels, within a radius.

A chunk (batch, channel, z, y, x) is cut into slabs that are coded independently. In each, every plane is visited from a
coarse grid to ever finer ones (lattice_grid.py). A sample is predicted from decoded samples on all sides of it and from
channels that were visited before, with predictors (lattice_fit.py) that batch items and slabs share; what is left is
rounded to a multiple of 2 radius + 1, so that the decoded sample is within the radius. Radius 0 is lossless.

Samples under the mask are not coded and take their prediction as value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream.contexts import MAGNITUDES, Kind
from xwalloc.errors import BudgetError, FormatError
from xwalloc.models import lattice_fit as fit
from xwalloc.models import lattice_parameters as serial
from xwalloc.models.lattice_levels import Levels, from_ranks, levels_of, to_ranks
from xwalloc.models.lattice_parameters import Channel, Parameters, no_weights
from xwalloc.models.lattice_plan import Integers, Mask, Plan, fits, groups_of, others_of, slabs_of, touching
from xwalloc.models.lattice_samples import NEAREST_BELOW, Geometry, Samples
from xwalloc.types import Buffer, Parallel, in_turn

__all__ = ["Coded", "Draft", "decode", "draft"]

SCOUTS, FARTHEST = 12, 16
"""Of many channels, about so many are looked at in all ways first, not farther apart: those between do as they do."""


def _no_mask(mask: Mask | None, size: int) -> Mask:
    if mask is None:
        return coder.NO_MASK
    flat = np.ascontiguousarray(mask, np.uint8).reshape(-1)
    if len(flat) != size:
        raise ValueError(f"Expected a mask of {size} samples. Got {len(flat)}.")
    return flat if flat.any() else coder.NO_MASK


def _filled(values: Integers, mask: Mask, channels: int) -> Integers:
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


def _prepared(q: Integers, mask: Mask | None, width: int, radius: int) -> tuple[Samples, NDArray[np.int64], Levels]:
    """Flat samples with sensible values under the mask, by rank where that pays; radius of each channel; levels."""
    dtype: type[np.signedinteger] = np.int64 if width == 64 else np.int32
    values: Integers = np.ascontiguousarray(q, dtype).reshape(-1)
    flags = _no_mask(mask, q.size)
    if flags.size:
        values = _filled(values, flags, q.shape[0] * q.shape[1])
    planes = (q.shape[0], q.shape[1], -1)
    levels = levels_of(values.reshape(planes), flags.reshape(planes) == 0 if flags.size else None, radius)
    if levels:
        values = values if flags.size else values.copy()
        to_ranks(values.reshape(planes), levels, radius)
    radii = np.full(q.shape[1], radius, np.int64)
    radii[list(levels)] = 0
    return Samples(values, flags, Geometry.of(q.shape), (2 * radii + 1).astype(np.float64)), radii, levels


@dataclass(frozen=True)
class Coded:
    """A chunk in lattice mode.

    Parameters
    ----------
    parameters, symbols : bytes
        The sections LATTICE and LATTICE_SYMBOLS.
    decoded : like the input
        What a decoder returns.
    """

    parameters: bytes
    symbols: bytes
    decoded: Integers


@dataclass(frozen=True)
class Draft:
    """A chunk of which some channels have been looked at.

    Parameters
    ----------
    bits
        Estimated bits of the chunk.
    """

    bits: float
    _shape: tuple[int, ...]
    _samples: Samples
    _radii: NDArray[np.int64]
    _levels: Levels
    _radius: int
    _width: int
    _look: Callable[[int, Collection[bool]], tuple[Channel, float]]
    _scouts: dict[int, Channel]
    _parallel: Parallel
    _many_lanes: bool

    def encode(self) -> Coded:
        """Code the chunk.

        Raises
        ------
        BudgetError
            If a residual is -2^(width - 1), which the entropy coder has no token for; store the chunk in another mode.
        """
        plan = self._plan()
        parallel = self._parallel
        found = parallel(lambda index: plan.analyse(index, self._samples.values), range(len(plan.boxes)))
        if min(int(f.residuals.min()) for f in found) == np.iinfo(plan.decoded.dtype).min:
            raise BudgetError(f"A residual of -2^{self._width - 1} cannot be coded in lattice mode.")
        plan.fit_weights(found[0])

        def classified(index: int, lookups: coder.Lookups) -> coder.Classified:
            return plan.classified(index, found[index], lookups=lookups)[:2]

        count = len(plan.boxes)
        nbytes = int(min(self.bits / 8, self._samples.values.nbytes))
        lanes = [coder.lanes_for(nbytes // count)] * count if self._many_lanes else None
        streams = coder.pack_segments(classified, count, Kind.LATTICE, parallel, lanes)
        _to_values(plan, self._radius)
        return Coded(serial.write(plan.parameters), streams, plan.decoded.reshape(self._shape))

    def _plan(self) -> Plan:
        """Choose predictors for the other channels, too."""
        samples, radii = self._samples, self._radii
        geometry = samples.geometry
        batch, channels = geometry.shape[:2]
        boxes = slabs_of(geometry)
        others = [c for c in range(channels) if c not in self._scouts]
        stride = _stride(channels)

        def look(channel: int) -> Channel:
            before = channel // stride * stride
            ways = {self._scouts[c].sequential for c in (before, before + stride) if c < channels}
            return self._look(channel, ways)[0]

        found = dict(zip(others, self._parallel(look, others), strict=True)) | self._scouts
        known = [found[c] for c in range(channels)]
        starts = np.empty((len(boxes), batch, channels), np.int64)
        bins = 2 * radii + 1
        for box, start in zip(boxes, starts, strict=True):
            firsts = samples.values.reshape(batch, channels, -1)[:, :, box.offset].astype(np.int64)
            start[:] = np.where(radii == 0, firsts, np.sign(firsts) * ((np.abs(firsts) + radii) // bins))
        count = groups_of(geometry, boxes)
        codes = np.zeros((*starts.shape, count), np.int64)
        parameters = Parameters(np.arange(channels), known, starts, codes, no_weights(count), self._levels)
        return Plan(
            geometry, samples.mask, self._width, radii, parameters, boxes, np.zeros_like(samples.values),
            others_of(known),
        )  # fmt: skip


def _stride(channels: int) -> int:
    """Distance of the channels that are looked at first."""
    return min(max(1, channels // SCOUTS), FARTHEST) if channels > NEAREST_BELOW else 1


def draft(
    q: Integers,
    mask: Mask | None,
    width: int,
    radius: int = 0,
    parallel: Parallel = in_turn,
    *,
    many_lanes: bool = False,
) -> Draft:
    """Look at integers that are to be coded within a radius: enough to know about how many bits they will take.

    Parameters
    ----------
    q : (batch, channel, z, y, x) int32 or int64
        Integers of `width` bits, two's complement; at least one.
    mask : same shape, uint8, optional
        Not 0 where `q` holds nothing of interest; such samples are not coded.
    width : {32, 64}
        Residuals of lossless coding are taken modulo 2^width. 64-bit integers have plain predictors only.
    radius : int
        Largest difference of a decoded integer; 0 is lossless, and all that 64-bit integers have.
    parallel
        ``parallel(fn, items)`` returns ``[fn(item) for item in items]``, perhaps with several threads.
    many_lanes
        For devices with thousands of lanes: no channel is visited sample by sample.

    Raises
    ------
    BudgetError
        If there are very many channels of next to no samples; store the chunk in another mode.
    """
    geometry = Geometry.of(q.shape)
    if not fits(geometry, slabs_of(geometry)):
        raise BudgetError(f"{geometry.shape[1]} channels of {geometry.plane} samples are too many for lattice mode.")
    samples, radii, levels = _prepared(q, mask, width, radius)
    effort = fit.Effort.of(geometry)
    samplings = fit.samplings_of(geometry, groups_of(geometry, slabs_of(geometry)), effort)

    def look(channel: int, ways: Collection[bool]) -> tuple[Channel, float]:
        return fit.channel_of(samples, channel, range(channel), samplings, effort, width, ways)

    channels = geometry.shape[1]
    scouts = range(0, channels, _stride(channels))
    ways = {False} if many_lanes else {False, True}
    found = parallel(lambda channel: look(channel, ways), scouts)
    valid = q.size if not samples.mask.size else q.size - int(np.count_nonzero(samples.mask))
    first, *others = (bits for _, bits in found)  # the first channel has nobody to refer to
    bits = valid / channels * (first + (channels - 1) * float(np.mean(others or [0.0])))
    known = {channel: how for channel, (how, _) in zip(scouts, found, strict=True)}
    return Draft(bits, q.shape, samples, radii, levels, radius, width, look, known, parallel, many_lanes)


def _to_values(plan: Plan, radius: int) -> None:
    planes = (*plan.geometry.shape[:2], -1)
    valid = plan.mask.reshape(planes) == 0 if plan.mask.size else None
    from_ranks(plan.decoded.reshape(planes), valid, plan.parameters.levels, radius)


def decode(
    parameters: Buffer,
    symbols: Buffer,
    shape: Sequence[int],
    mask: Mask | None,
    width: int,
    radius: int = 0,
    parallel: Parallel = in_turn,
    part: Sequence[slice] | None = None,
) -> Integers:
    """What `Draft.encode` calls `decoded`; `mask` must be the same, and the samples under it have arbitrary values.

    With `part`, a slice of each signal axis, samples outside of it may not be decoded.

    Raises
    ------
    FormatError
        If the bytes do not fit the shape.
    """
    dtype = np.dtype(np.int64 if width == 64 else np.int32)
    if math.prod(shape) == 0:
        if parameters or symbols:
            raise FormatError("An empty chunk has no symbols.")
        return np.zeros(shape, dtype)
    geometry = Geometry.of(shape)
    batch, channels = geometry.shape[:2]
    boxes = slabs_of(geometry)
    if not fits(geometry, boxes):
        raise FormatError("A lattice chunk has too many channels for its samples.")
    choice, streams = coder.unpack_segments(symbols, len(boxes), Kind.LATTICE)
    count = groups_of(geometry, boxes)
    known = serial.read(
        parameters,
        len(boxes),
        batch,
        channels,
        count,
        geometry.dimensions,
        width,
        len(MAGNITUDES),
        batch * geometry.plane,
    )
    radii = np.full(channels, radius, np.int64)
    radii[list(known.levels)] = 0
    decoded = np.zeros(math.prod(geometry.shape), dtype)
    others = others_of(known.channels)
    plan = Plan(geometry, _no_mask(mask, decoded.size), width, radii, known, boxes, decoded, others)
    wanted = range(len(boxes)) if part is None else touching(geometry, shape, part)
    parallel(lambda index: plan.restore(index, streams[index], choice), wanted)
    _to_values(plan, radius)
    return decoded.reshape(shape)
