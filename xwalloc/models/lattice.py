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
from dataclasses import astuple, dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream import rans, segments
from xwalloc.bitstream.choices import Choice, identities
from xwalloc.bitstream.contexts import MAGNITUDES, Kind, magnitude_code
from xwalloc.bitstream.tables import shipped
from xwalloc.errors import BudgetError, FormatError
from xwalloc.models import lattice_fit as fit
from xwalloc.models import lattice_parameters as serial
from xwalloc.models import lattice_passes as passes
from xwalloc.models.lattice_fit import Geometry, Samples
from xwalloc.models.lattice_grid import (
    CLASSES,
    NEAR,
    OWN,
    REFERENCE,
    SEQUENTIAL,
    SEQUENTIAL_REFERENCE,
    Tap,
    grid_of,
    groups,
    neighbours,
    size_of_pyramid,
)
from xwalloc.models.lattice_levels import Levels, from_ranks, levels_of, to_ranks
from xwalloc.models.lattice_parameters import Channel, Parameters, Plain, Predictor, no_weights
from xwalloc.models.lattice_weights import PER_GROUP, Weights, better, no_sample, sample_of, weights_of
from xwalloc.models.lattice_work import (
    ANALYSE,
    CLASSIFY,
    DECODE,
    MAX_LAGS,
    TILE,
    Coder,
    Planes,
    Predictors,
    Results,
    Sample,
)
from xwalloc.types import Parallel, in_turn

__all__ = ["Coded", "Draft", "decode", "draft", "encode"]

Integers = NDArray[np.signedinteger]
Mask = NDArray[np.uint8]

SCOUTS = 8
"""With many channels, every so many-th is looked at in all ways first: those between do as their neighbours."""
WEIGHT_SAMPLES = 1 << 18
ROOM, ROOM_PER_SAMPLE = 1 << 23, 16
"""Values that the pyramids of a box may have."""
CHANNELS, SAMPLES_PER_CHANNEL = 4096, 64
"""So many channels may have next to no samples; beyond, each needs so many."""
OUTLIER = 8.0
"""Residuals count for at most so many times the mean magnitude of their group."""


@dataclass(frozen=True)
class _Box:
    """A slab of all planes, as distances in the flat array."""

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

    def grid(self, d: int) -> NDArray[np.int64]:
        """Levels of a plane."""
        return grid_of((self.nz, self.ny, self.nx), d)


def _slabs(geometry: Geometry) -> list[_Box]:
    axis, edges = segments.cuts(geometry.shape, 1)
    boxes = []
    for start, stop in edges:
        begin, extent = [0, 0, 0], list(geometry.shape[2:])
        begin[axis], extent[axis] = start, stop - start
        boxes.append(_Box.of(geometry, begin, extent))
    return boxes


def _touching(geometry: Geometry, shape: Sequence[int], part: Sequence[slice]) -> list[int]:
    """Numbers of the slabs that a part of an array of a shape touches."""
    axis, edges = segments.cuts(geometry.shape, 1)
    long = [some for some, n in zip(part, shape[2:], strict=True) if n > 1]
    return segments.touching(edges, ([slice(0, 1)] * (3 - len(long)) + long)[axis])


def _groups(geometry: Geometry, boxes: list[_Box]) -> int:
    d = geometry.dimensions
    return groups(d, max(len(box.grid(d)) for box in boxes))


def _fits(geometry: Geometry, boxes: list[_Box]) -> bool:
    """Whether pyramids and predictors take time and memory in proportion to the samples: not for many tiny planes."""
    if geometry.shape[1] > CHANNELS + math.prod(geometry.shape) // SAMPLES_PER_CHANNEL:
        return False
    channels, d = geometry.shape[1], geometry.dimensions
    largest = max(boxes, key=lambda box: box.size)
    room = channels * size_of_pyramid(largest.grid(d))
    return room <= ROOM + ROOM_PER_SAMPLE * channels * largest.size


class _Taps:
    """Predictors as the arrays that the kernel takes: taps; and begin, end, bias and shift of each group."""

    def __init__(self, d: int, count: int, channels: Sequence[Channel], size: int) -> None:
        taps: list[tuple[int, ...]] = []
        self.groups = np.zeros((len(channels), count, 4), np.int64)
        for c, channel in enumerate(channels):
            for group, found in enumerate(channel.predictors):
                rank = group % len(CLASSES[d])
                predictor = _resolved(channel, group, len(CLASSES[d])) if found.kind == Plain.INHERITED else found
                begin = len(taps)
                expanded, shift = _expand(predictor, channel, c, d, rank)
                for source, tap, coefficient in expanded:
                    taps.append(((source - c) * size, *tap[0], coefficient, len(tap) - 1))
                self.groups[c, group] = begin, len(taps), predictor.bias, shift
        near, ranges = NEAR
        self.means = np.zeros((len(ranges), 4), np.int64)
        for at, (begin, end) in enumerate(ranges):
            weight = int(near[begin:end, 3].sum())
            self.means[at] = len(taps) + begin, len(taps) + end, 0, max(weight, 1).bit_length() - 1
        taps += [(0, *row, 0) for row in near.tolist()]
        self.taps = np.array(taps, np.int64).reshape(-1, 6)


def _resolved(channel: Channel, group: int, classes: int) -> Predictor:
    """The predictor of a group, inherited or not."""
    while channel.predictors[group].kind == Plain.INHERITED:
        group -= classes
    return channel.predictors[group]


def _expand(
    predictor: Predictor, channel: Channel, number: int, d: int, rank: int
) -> tuple[list[tuple[int, Tap, int]], int]:
    """Channels, taps and coefficients; and the shift."""
    if predictor.kind != Plain.FITTED:
        own, others, shift = fit.plain_taps(predictor.kind, d, None if channel.sequential else rank)
        taps: list[tuple[int, Tap, int]] = [(channel.references[0], (o,), w) for o, w in others] if others else []
        return taps + [(number, (o,), w) for o, w in own], shift
    coefficients = iter(predictor.coefficients)
    count, *counts = predictor.counts
    own_taps, reference_taps = (
        (SEQUENTIAL[d], SEQUENTIAL_REFERENCE[d]) if channel.sequential else (OWN[d][rank], REFERENCE[d])
    )
    taps = [(number, tap, next(coefficients)) for tap in own_taps[:count]]
    for reference, n in zip(channel.references, counts, strict=True):
        taps += [(reference, tap, next(coefficients)) for tap in reference_taps[:n]]
    return taps, predictor.shift


@dataclass(frozen=True)
class _Found:
    """What the analysis of a box leaves: residuals and sides in the order of the passes, plane by plane."""

    residuals: Integers
    sides: NDArray[np.uint8]


@dataclass(frozen=True)
class _Results:
    """Where a kernel finds samples and leaves what it finds."""

    source: Integers
    found: _Found
    symbols: Integers | None = None
    contexts: NDArray[np.uint16] | None = None
    expectations: NDArray[np.int64] | None = None

    def arrays(self) -> Results:
        """As the kernel takes them, with memory for a row."""
        return Results(
            self.found.residuals, self.found.sides,
            self.found.residuals[:0] if self.symbols is None else self.symbols,
            np.empty(0, np.uint16) if self.contexts is None else self.contexts,
            np.empty(0, np.int64) if self.expectations is None else self.expectations,
            np.empty(2 * TILE, np.int64), np.empty(2 * TILE, np.int64), np.empty(MAX_LAGS, np.int64),
            np.empty(TILE, np.uint8), np.empty(TILE, np.uint16),
        )  # fmt: skip


@dataclass(frozen=True)
class _Plan:
    """An array with its predictors, ready to be coded box by box."""

    geometry: Geometry
    mask: Mask
    width: int
    radii: NDArray[np.int64]
    parameters: Parameters
    boxes: list[_Box]
    decoded: Integers
    others: NDArray[np.int64]

    @cached_property
    def taps(self) -> _Taps:
        return _Taps(self.geometry.dimensions, self.parameters.codes.shape[-1], self.parameters.channels, self.pyramid)

    @property
    def weights(self) -> Weights:
        """Weights of the features of residuals."""
        return weights_of(self.geometry.dimensions, self.parameters.weights)

    def fit_weights(self, found: _Found) -> None:
        """Find better weights than the shipped ones for this chunk, from a part of its first box."""
        d, box, order = self.geometry.dimensions, self.boxes[0], self.parameters.order
        number = min(len(order), max(1, WEIGHT_SAMPLES // box.size))
        start = (len(order) - number) // 2
        some = order[start : start + number]
        visited = np.count_nonzero(~self.sequential[some])
        if not visited:
            return
        classes, count = len(CLASSES[d]), len(self.parameters.weights)
        sizes = np.zeros(count)
        for level in range(len(box.grid(d)) - 1):
            group = min(level * classes, count - classes)
            sizes[group : group + classes] += box.size * 2.0 ** (-d * (level + 1))
        sample = sample_of(np.minimum(1.0, PER_GROUP / np.maximum(sizes * visited, 1.0)))
        part = replace(
            self,
            parameters=replace(self.parameters, order=some),
            boxes=[replace(box, items=1)],
            others=np.where(np.isin(self.others, some), self.others, -1),
        )
        rest = _Found(found.residuals[start * box.size :], found.sides[start * box.size :])
        room = number * box.size
        symbols, contexts = np.empty(room, self.decoded.dtype), np.empty(room, np.uint16)
        part._run(CLASSIFY, 0, _Results(self.decoded, rest, symbols, contexts), identities(), sample=sample)
        chunk = self.geometry.shape[0] * len(self.boxes)
        sharing = np.count_nonzero(self.others[order] < 0), np.count_nonzero(self.others[order] >= 0)
        for group in range(count):
            for which in range(2):
                table = sample.features[group, which, : sample.taken[group, which]]
                codes = better(table, self.weights[0][group, which], sizes[group] * chunk * sharing[which])
                if codes is not None:
                    self.parameters.weights[group, which] = codes

    @cached_property
    def sequential(self) -> NDArray[np.bool_]:
        """Which channels are visited sample by sample."""
        return np.array([channel.sequential for channel in self.parameters.channels])

    @property
    def pyramid(self) -> int:
        """Room for the pyramid of a plane of the largest box."""
        return max(size_of_pyramid(box.grid(self.geometry.dimensions)) for box in self.boxes)

    def _run(
        self,
        mode: int,
        index: int,
        results: _Results,
        lookups: tuple[NDArray[np.uint16], NDArray[np.uint16]],
        weights: Weights | None = None,
        stream: tuple[NDArray[np.uint16], NDArray[np.int64]] | None = None,
        sample: Sample | None = None,
    ) -> tuple[int, int]:
        d, box, tables = self.geometry.dimensions, self.boxes[index], shipped()
        room = self.geometry.shape[1] * self.pyramid
        known = self.parameters
        planes = Planes(
            np.array([*astuple(box), self.pyramid], np.int64), box.grid(d), np.array(CLASSES[d]), known.order,
            self.radii, known.starts[index], self.mask, self.width == 64, results.source, self.decoded,
            np.empty(room if mode != CLASSIFY else 0, self.decoded.dtype),
            np.empty(room if mode != ANALYSE else 0, np.int32),
        )  # fmt: skip
        predictors = Predictors(self.sequential, self.taps.taps, self.taps.groups, self.taps.means, self.others)
        interpolated, sequential = weights or self.weights
        words, states = stream or (_NO_WORDS, _NO_STATES)
        tables_of, near_tables_of = lookups
        near, near_ranges, far, far_ranges, ring, ring_ranges = neighbours(d)
        coder = Coder(
            MAGNITUDES[known.codes[index]], interpolated, sequential, near, near_ranges, far, far_ranges, ring,
            ring_ranges, tables_of, near_tables_of, tables.spans, tables.symbols, words, states,
        )  # fmt: skip
        count, position = passes.run(
            mode, planes, predictors, coder, results.arrays(), sample or no_sample(len(known.weights))
        )
        return int(count), int(position)

    def analyse(self, index: int, source: Integers) -> _Found:
        """Predict and quantise a box; its magnitude codes are known thereafter."""
        size = self.geometry.shape[0] * len(self.parameters.order) * self.boxes[index].size
        found = _Found(np.empty(size, self.decoded.dtype), np.empty(size, np.uint8))
        self._run(ANALYSE, index, _Results(source, found), identities())
        self.parameters.codes[index][:, self.parameters.order] = self._codes(index, found)
        return found

    def _codes(self, index: int, found: _Found) -> NDArray[np.int64]:
        """Magnitude codes of the groups of planes that were visited; outliers count for little."""
        d = self.geometry.dimensions
        planes = self.geometry.shape[0], len(self.parameters.order)
        means = np.full((math.prod(planes), self.parameters.codes.shape[-1]), np.inf)
        sequential = self.sequential[self.parameters.order]
        for factor in (1.0, OUTLIER):
            totals = np.zeros((*means.shape, 2))
            passes.add_magnitudes(
                found.residuals, self.boxes[index].grid(d), np.array(CLASSES[d]), sequential, means * factor, totals
            )
            means = totals[..., 0] / np.maximum(totals[..., 1], 1)
        return magnitude_code(means).reshape(*planes, -1)

    def classified(
        self, index: int, found: _Found, weights: Weights | None = None, lookups: coder.Lookups | None = None
    ) -> tuple[Integers, NDArray[np.uint16], NDArray[np.int64]]:
        """Symbols of a box, the numbers of their classes (or what the lookups hold), and what is expected of them.

        There are expectations only under given weights.
        """
        size = len(found.residuals)
        symbols, contexts = np.empty(size, self.decoded.dtype), np.empty(size, np.uint16)
        expectations = np.empty(0 if weights is None else size, np.int64)
        results = _Results(self.decoded, found, symbols, contexts, expectations)
        count, _ = self._run(CLASSIFY, index, results, lookups or identities(), weights)
        return symbols[:count], contexts[:count], expectations[:count]

    def restore(self, index: int, stream: bytes, choice: Choice) -> None:
        """Decode a box."""
        states, words = rans.unpack_stream(stream)
        results = _Results(self.decoded, _Found(self.decoded[:0], np.empty(0, np.uint8)))
        _, position = self._run(DECODE, index, results, choice.lookups, stream=(words, states))
        if position > len(words):
            raise FormatError("A stream of the frame ends too early or holds impossible values.")
        rans.check_end(position, words, states)


_NO_WORDS = np.empty(0, np.uint16)
_NO_STATES = np.empty(0, np.int64)


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

        streams = coder.pack_segments(classified, len(plan.boxes), Kind.LATTICE, parallel, self._many_lanes)
        _to_values(plan, self._radius)
        return Coded(serial.write(plan.parameters), streams, plan.decoded.reshape(self._shape))

    def _plan(self) -> _Plan:
        """Choose predictors for the other channels, too."""
        samples, radii = self._samples, self._radii
        geometry = samples.geometry
        batch, channels = geometry.shape[:2]
        boxes = _slabs(geometry)
        others = [c for c in range(channels) if c not in self._scouts]

        def look(channel: int) -> Channel:
            near = [c for c in (channel // SCOUTS * SCOUTS, channel // SCOUTS * SCOUTS + SCOUTS) if c < channels]
            ways = {self._scouts[c].sequential for c in near}
            return self._look(channel, ways)[0]

        found = dict(zip(others, self._parallel(look, others), strict=True)) | self._scouts
        known = [found[c] for c in range(channels)]
        starts = np.empty((len(boxes), batch, channels), np.int64)
        bins = 2 * radii + 1
        for box, start in zip(boxes, starts, strict=True):
            firsts = samples.values.reshape(batch, channels, -1)[:, :, box.offset].astype(np.int64)
            start[:] = np.where(radii == 0, firsts, np.sign(firsts) * ((np.abs(firsts) + radii) // bins))
        count = _groups(geometry, boxes)
        codes = np.zeros((*starts.shape, count), np.int64)
        parameters = Parameters(np.arange(channels), known, starts, codes, no_weights(count), self._levels)
        return _Plan(
            geometry, samples.mask, self._width, radii, parameters, boxes, np.zeros_like(samples.values),
            _others(known),
        )  # fmt: skip


def _others(channels: Sequence[Channel]) -> NDArray[np.int64]:
    """The channel that the contexts of each one look at; -1 for none."""
    return np.array([channel.references[0] if channel.references else -1 for channel in channels], np.int64)


def draft(
    q: Integers,
    mask: Mask | None,
    width: int,
    radius: int = 0,
    parallel: Parallel = in_turn,
    *,
    many_lanes: bool = False,
) -> Draft:
    """Look at a chunk: what `encode` begins with, and enough to know about how many bits it will take.

    Raises
    ------
    BudgetError
        If there are very many channels of next to no samples; store the chunk in another mode.
    """
    geometry = Geometry.of(q.shape)
    if not _fits(geometry, _slabs(geometry)):
        raise BudgetError(f"{geometry.shape[1]} channels of {geometry.plane} samples are too many for lattice mode.")
    samples, radii, levels = _prepared(q, mask, width, radius)
    effort = fit.Effort.of(geometry)
    samplings = fit.samplings_of(geometry, _groups(geometry, _slabs(geometry)), effort)

    def look(channel: int, ways: Collection[bool]) -> tuple[Channel, float]:
        return fit.channel_of(samples, channel, range(channel), samplings, effort, width, ways)

    channels = geometry.shape[1]
    scouts = range(0, channels, SCOUTS if channels > fit.NEAREST_BELOW else 1)
    ways = {False} if many_lanes else {False, True}
    found = parallel(lambda channel: look(channel, ways), scouts)
    valid = q.size if not samples.mask.size else q.size - int(np.count_nonzero(samples.mask))
    first, *others = (bits for _, bits in found)  # the first channel has nobody to refer to
    bits = valid / channels * (first + (channels - 1) * float(np.mean(others or [0.0])))
    known = {channel: how for channel, (how, _) in zip(scouts, found, strict=True)}
    return Draft(bits, q.shape, samples, radii, levels, radius, width, look, known, parallel, many_lanes)


def encode(
    q: Integers,
    mask: Mask | None,
    width: int,
    radius: int = 0,
    parallel: Parallel = in_turn,
    *,
    many_lanes: bool = False,
) -> Coded:
    """Code integers within a radius.

    Parameters
    ----------
    q : (batch, channel, z, y, x) int32 or int64
        Integers of `width` bits, two's complement.
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
        If a residual is -2^(width - 1), which the entropy coder has no token for, or if there are very many channels of
        next to no samples; store the chunk in another mode.
    """
    if q.size == 0:
        return Coded(b"", b"", q)
    return draft(q, mask, width, radius, parallel, many_lanes=many_lanes).encode()


def _to_values(plan: _Plan, radius: int) -> None:
    planes = (*plan.geometry.shape[:2], -1)
    valid = plan.mask.reshape(planes) == 0 if plan.mask.size else None
    from_ranks(plan.decoded.reshape(planes), valid, plan.parameters.levels, radius)


def decode(
    parameters: bytes,
    symbols: bytes,
    shape: Sequence[int],
    mask: Mask | None,
    width: int,
    radius: int = 0,
    parallel: Parallel = in_turn,
    part: Sequence[slice] | None = None,
) -> Integers:
    """What `encode` calls `decoded`; `mask` must be the same, and the samples under it have arbitrary values.

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
    boxes = _slabs(geometry)
    if not _fits(geometry, boxes):
        raise FormatError("A lattice chunk has too many channels for its samples.")
    choice, streams = coder.unpack_segments(symbols, len(boxes), Kind.LATTICE)
    count = _groups(geometry, boxes)
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
    others = _others(known.channels)
    plan = _Plan(geometry, _no_mask(mask, decoded.size), width, radii, known, boxes, decoded, others)
    wanted = range(len(boxes)) if part is None else _touching(geometry, shape, part)
    parallel(lambda index: plan.restore(index, streams[index], choice), wanted)
    _to_values(plan, radius)
    return decoded.reshape(shape)
