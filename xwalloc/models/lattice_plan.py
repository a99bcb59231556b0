# mypy: disable-error-code="no-untyped-call"
"""A chunk in lattice mode with its predictors: cut into slabs, analysed, classified, restored slab by slab."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream import rans, segments
from xwalloc.bitstream.choices import Choice, identities
from xwalloc.bitstream.contexts import MAGNITUDES, magnitude_code
from xwalloc.bitstream.tables import shipped
from xwalloc.errors import FormatError
from xwalloc.models import lattice_fit as fit
from xwalloc.models import lattice_passes as passes
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
from xwalloc.models.lattice_parameters import Channel, Parameters, Plain, Predictor
from xwalloc.models.lattice_samples import Geometry
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
from xwalloc.types import Buffer, cached_property

__all__ = ["Box", "Found", "Integers", "Mask", "Plan", "fits", "groups_of", "others_of", "slabs_of", "touching"]

Integers = NDArray[np.signedinteger]
Mask = NDArray[np.uint8]

WEIGHT_SAMPLES = 1 << 18
ROOM, ROOM_PER_SAMPLE = 1 << 23, 16
"""Values that the pyramids of a box may have."""
CHANNELS, SAMPLES_PER_CHANNEL = 4096, 64
"""So many channels may have next to no samples; beyond, each needs so many."""
OUTLIER = 8.0
"""Residuals count for at most so many times the mean magnitude of their group."""


@dataclass(frozen=True)
class Box:
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
    def of(cls, geometry: Geometry, begin: Sequence[int], extent: Sequence[int]) -> Box:
        """The slab that begins at a place of the signal axes and has an extent along them."""
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


def slabs_of(geometry: Geometry) -> list[Box]:
    """The slabs that a chunk is cut into."""
    axis, edges = segments.cuts(geometry.shape, 1)
    boxes = []
    for start, stop in edges:
        begin, extent = [0, 0, 0], list(geometry.shape[2:])
        begin[axis], extent[axis] = start, stop - start
        boxes.append(Box.of(geometry, begin, extent))
    return boxes


def touching(geometry: Geometry, shape: Sequence[int], part: Sequence[slice]) -> list[int]:
    """Numbers of the slabs that a part of an array of a shape touches."""
    axis, edges = segments.cuts(geometry.shape, 1)
    long = [some for some, n in zip(part, shape[2:], strict=True) if n > 1]
    return segments.touching(edges, ([slice(0, 1)] * (3 - len(long)) + long)[axis])


def groups_of(geometry: Geometry, boxes: list[Box]) -> int:
    """How many groups of samples the planes of a chunk have at most: those have predictors of their own."""
    d = geometry.dimensions
    return groups(d, max(len(box.grid(d)) for box in boxes))


def fits(geometry: Geometry, boxes: list[Box]) -> bool:
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
class Found:
    """What the analysis of a box leaves: residuals and sides in the order of the passes, plane by plane."""

    residuals: Integers
    sides: NDArray[np.uint8]


@dataclass(frozen=True)
class _Results:
    """Where a kernel finds samples and leaves what it finds."""

    source: Integers
    found: Found
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
class Plan:
    """An array with its predictors, ready to be coded box by box."""

    geometry: Geometry
    mask: Mask
    width: int
    radii: NDArray[np.int64]
    parameters: Parameters
    boxes: list[Box]
    decoded: Integers
    others: NDArray[np.int64]

    @cached_property
    def taps(self) -> _Taps:
        """Predictors for the kernels."""
        return _Taps(self.geometry.dimensions, self.parameters.codes.shape[-1], self.parameters.channels, self.pyramid)

    @property
    def weights(self) -> Weights:
        """Weights of the features of residuals."""
        return weights_of(self.geometry.dimensions, self.parameters.weights)

    def fit_weights(self, found: Found) -> None:
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
        rest = Found(found.residuals[start * box.size :], found.sides[start * box.size :])
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

    def analyse(self, index: int, source: Integers) -> Found:
        """Predict and quantise a box; its magnitude codes are known thereafter."""
        size = self.geometry.shape[0] * len(self.parameters.order) * self.boxes[index].size
        found = Found(np.empty(size, self.decoded.dtype), np.empty(size, np.uint8))
        self._run(ANALYSE, index, _Results(source, found), identities())
        self.parameters.codes[index][:, self.parameters.order] = self._codes(index, found)
        return found

    def _codes(self, index: int, found: Found) -> NDArray[np.int64]:
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
        self, index: int, found: Found, weights: Weights | None = None, lookups: coder.Lookups | None = None
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

    def restore(self, index: int, stream: Buffer, choice: Choice) -> None:
        """Decode a box."""
        states, words = rans.unpack_stream(stream)
        results = _Results(self.decoded, Found(self.decoded[:0], np.empty(0, np.uint8)))
        _, position = self._run(DECODE, index, results, choice.lookups, stream=(words, states))
        if position > len(words):
            raise FormatError("A stream of the frame ends too early or holds impossible values.")
        rans.check_end(position, words, states)


_NO_WORDS = np.empty(0, np.uint16)
_NO_STATES = np.empty(0, np.int64)


def others_of(channels: Sequence[Channel]) -> NDArray[np.int64]:
    """The channel that the contexts of each one look at; -1 for none."""
    return np.array([channel.references[0] if channel.references else -1 for channel in channels], np.int64)
