# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Serial form of what a lattice decoder needs besides symbols: predictors, start values, magnitude codes.

Everything is lists of integers (bitstream/lists.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream.lists import Reader, Writer
from xwalloc.errors import FormatError
from xwalloc.models.lattice_grid import CLASSES, OWN, REFERENCE, SEQUENTIAL, SEQUENTIAL_REFERENCE
from xwalloc.models.lattice_levels import Levels
from xwalloc.models.lattice_rows import MAX_TAPS
from xwalloc.types import Buffer

__all__ = ["Channel", "Parameters", "Plain", "Predictor", "read", "write"]

Integers = NDArray[np.int64]

_NO_LEVELS: Integers = np.empty(0, np.int64)
MAX_REFERENCES = 8
MAX_SHIFT = 12
COEFFICIENT_LIMIT = 1 << 15
BIAS_LIMIT = 1 << 52
WEIGHT_CODES = 53


class Plain(IntEnum):
    """Predictors without coefficients of their own; `FITTED` stands for one with."""

    MEAN = 0
    PREVIOUS = 1
    REFERENCE = 2
    REFERENCE_MEAN = 3
    INHERITED = 4
    SECOND = 5
    PLANE = 6
    REFERENCE_PREVIOUS = 7
    REFERENCE_PLANE = 8
    FITTED = 9


REFERRING = (Plain.REFERENCE, Plain.REFERENCE_MEAN, Plain.REFERENCE_PREVIOUS, Plain.REFERENCE_PLANE)
INTERPOLATING = (Plain.MEAN, Plain.PREVIOUS, Plain.REFERENCE, Plain.REFERENCE_MEAN)
SEQUENTIAL_KINDS = (
    Plain.PREVIOUS, Plain.SECOND, Plain.PLANE, Plain.REFERENCE, Plain.REFERENCE_PREVIOUS, Plain.REFERENCE_PLANE,
)  # fmt: skip


@dataclass(frozen=True)
class Predictor:
    """How the samples of one group of a channel are predicted.

    Parameters
    ----------
    kind
        A plain predictor or `Plain.FITTED`.
    counts
        Of a fitted predictor: taps in the channel itself, then in each reference.
    coefficients
        Its coefficients, in units of 2^-shift, in that order.
    bias
        What a fitted predictor adds to its sum, in the same units.
    """

    kind: Plain = Plain.MEAN
    counts: tuple[int, ...] = ()
    coefficients: tuple[int, ...] = ()
    shift: int = 0
    bias: int = 0


@dataclass(frozen=True)
class Channel:
    """How a channel is predicted.

    Parameters
    ----------
    references
        Channels visited before this one whose values predictors use, most useful first; contexts look at the first.
    sequential
        Samples are visited one after the other, not from a coarse grid to finer ones.
    predictors
        One per group; of a sequential channel, one.
    """

    references: tuple[int, ...]
    sequential: bool
    predictors: tuple[Predictor, ...]


@dataclass(frozen=True)
class Parameters:
    """Everything but the symbols.

    Parameters
    ----------
    order
        Channels in the order of coding.
    channels
        How each is predicted.
    starts : (slab, batch, channel) int64
        First sample of each plane, in bins.
    codes : (slab, batch, channel, group) int64
        Magnitude codes of residuals; of a sequential channel, only the first counts.
    weights : (group, 2, 5) int64
        Codes of the weights of features, for channels without and with another one to look at; -1 for shipped ones.
    levels
        Values in use of those channels that are coded by rank.
    """

    order: Integers
    channels: list[Channel]
    starts: Integers
    codes: Integers
    weights: Integers
    levels: Levels


def no_weights(count: int) -> Integers:
    """Codes of weights that say that all groups have the shipped ones."""
    return np.full((count, 2, 5), -1, np.int64)


def _bases(order: Integers, channels: list[Channel]) -> Integers:
    """Channel against whose start value that of each channel is written; -1 for none."""
    bases = np.full(len(order), -1, np.int64)
    for position, channel in enumerate(order):
        references = channels[channel].references
        bases[channel] = references[0] if references else order[position - 1] if position else -1
    return bases


def write(parameters: Parameters) -> bytes:
    """Bytes of the section LATTICE."""
    order, levels = parameters.order, parameters.levels
    channels = len(order)
    position = np.empty(channels, np.int64)
    position[order] = np.arange(channels)
    in_order = [parameters.channels[c] for c in order]
    writer = Writer()
    moved = bool(np.any(order != np.arange(channels)))
    writer.unsigned([moved])
    if moved:
        writer.unsigned(order)
    writer.signed(np.diff([len(p.references) for p in in_order], prepend=0))
    distances: list[int] = []
    for channel, p in zip(order, in_order, strict=True):
        behind = [position[channel], *(position[r] for r in p.references)]
        distances += [a - 1 - b for a, b in pairwise(behind)]
    writer.signed(distances)
    writer.unsigned([p.sequential for p in in_order])
    count = parameters.codes.shape[-1]
    by_group = [[p.predictors[g] for p in in_order if g < len(p.predictors)] for g in range(count)]
    for predictors in by_group:
        writer.signed(np.diff([p.kind for p in predictors], prepend=0))
    fitted = [p for predictors in by_group for p in predictors if p.kind == Plain.FITTED]
    writer.unsigned([p.counts[0] for p in fitted])
    writer.unsigned([count for p in fitted for count in p.counts[1:]])
    writer.unsigned([MAX_SHIFT - p.shift for p in fitted])
    writer.signed([p.bias for p in fitted])
    writer.signed([c for p in fitted for c in p.coefficients])
    bases = _bases(order, parameters.channels)
    starts = parameters.starts[..., order]
    with np.errstate(over="ignore"):
        based = np.where(bases[order] < 0, 0, parameters.starts[..., bases[order]])
        writer.signed(starts - based)
    for group in range(count):
        having = order[[group < len(p.predictors) for p in in_order]]
        writer.signed(np.diff(parameters.codes[..., having, group], axis=-1, prepend=0))
    fitted_weights = parameters.weights.reshape(-1, parameters.weights.shape[-1])
    given = fitted_weights[:, 0] >= 0
    writer.unsigned([given.any()])
    if given.any():
        writer.unsigned(given)
        for column in fitted_weights[given].T:
            writer.signed(np.diff(column, prepend=0))
    writer.unsigned([bool(levels)])
    if levels:
        ranked = [levels.get(c, _NO_LEVELS) for c in range(channels)]
        writer.unsigned([len(values) for values in ranked])
        writer.signed([values[0] for values in ranked if len(values)])
        for values in ranked:
            writer.unsigned(np.diff(values) - 1)
    return writer.to_bytes()


def read(
    data: Buffer, slabs: int, batch: int, channels: int, count: int, d: int, width: int, codes: int, samples: int
) -> Parameters:
    """Inverse of `write`, with so many slabs, batch items, channels, groups, dimensions, and samples of a channel.

    Raises
    ------
    FormatError
        If the bytes do not describe predictors that this chunk can have.
    """
    reader = Reader(data)
    order = np.arange(channels)
    if reader.unsigned(1, 2)[0]:
        order = reader.unsigned(channels, channels)
        if len(np.unique(order)) != channels:
            raise FormatError("The channels of a lattice chunk are not coded once each.")
    reference_counts = reader.sums(channels, MAX_REFERENCES + 1)
    distances = iter(reader.signed(int(reference_counts.sum())).tolist())
    references: list[tuple[int, ...]] = []
    for at, number in enumerate(reference_counts):
        positions = list(accumulate((-1 - next(distances) for _ in range(number)), initial=at))[1:]
        if any(not 0 <= p < at for p in positions):
            raise FormatError("A channel of a lattice chunk refers to one that is not decoded yet.")
        references.append(tuple(int(order[p]) for p in positions))
    sequential = reader.unsigned(channels, 2) == 1
    classes = len(CLASSES[d])
    kinds = np.full((count, channels), Plain.MEAN)
    for group in range(count):
        having = ~sequential if group else np.ones(channels, np.bool_)
        kinds[group, having] = reader.sums(int(having.sum()), Plain.FITTED + 1)
    if width == 64 and np.any(kinds == Plain.FITTED):
        raise FormatError("Samples of 64 bits have plain predictors only.")
    allowed = np.isin(kinds, (*INTERPOLATING, Plain.INHERITED, Plain.FITTED))
    allowed[0, sequential] = np.isin(kinds[0, sequential], (*SEQUENTIAL_KINDS, Plain.FITTED))
    allowed[:classes] &= kinds[:classes] != Plain.INHERITED
    if not allowed.all():
        raise FormatError("A channel of a lattice chunk has an impossible predictor.")
    if np.any(np.isin(kinds, REFERRING) & (reference_counts == 0)):
        raise FormatError("A predictor of a lattice chunk lacks its reference.")
    predictors = [[Predictor(Plain(kind)) for kind in row] for row in kinds.tolist()]
    places = np.argwhere(kinds == Plain.FITTED)
    in_turn = sequential[places[:, 1]]
    own = reader.unsigned(len(places), MAX_TAPS)
    most = np.array([len(taps) for taps in OWN[d]])[places[:, 0] % classes]
    if np.any(own > np.where(in_turn, len(SEQUENTIAL[d]), most)):
        raise FormatError("A predictor of a lattice chunk is too large.")
    per_fit = reference_counts[places[:, 1]]
    of_references = reader.unsigned(int(per_fit.sum()), len(SEQUENTIAL_REFERENCE[d]) + 1)
    if np.any(of_references[~np.repeat(in_turn, per_fit)] > len(REFERENCE[d])):
        raise FormatError("A predictor of a lattice chunk is too large.")
    shifts = MAX_SHIFT - reader.unsigned(len(places), MAX_SHIFT + 1)
    biases = reader.signed(len(places))
    edges = np.cumsum([0, *per_fit])
    counts = [(int(own[i]), *of_references[edges[i] : edges[i + 1]].tolist()) for i in range(len(places))]
    if any(sum(c) > MAX_TAPS for c in counts) or np.any(np.abs(biases + 0.5) > BIAS_LIMIT):
        raise FormatError("A predictor of a lattice chunk is too large.")
    coefficients = reader.signed(sum(map(sum, counts)))
    if np.any(np.abs(coefficients + 0.5) > COEFFICIENT_LIMIT):
        raise FormatError("A predictor of a lattice chunk has too large coefficients.")
    first = 0
    for i, (group, at) in enumerate(places.tolist()):
        last = first + sum(counts[i])
        predictors[group][at] = Predictor(
            Plain.FITTED, counts[i], tuple(coefficients[first:last].tolist()), int(shifts[i]), int(biases[i])
        )
        first = last
    known = [Channel((), False, ())] * channels
    for at in range(channels):
        rows = predictors[:1] if sequential[at] else predictors
        known[order[at]] = Channel(references[at], bool(sequential[at]), tuple(r[at] for r in rows))
    starts = np.empty((slabs, batch, channels), np.int64)
    starts[..., order] = reader.signed(starts.size).reshape(starts.shape)
    bases = _bases(order, known)
    for c in order:
        if bases[c] >= 0:
            starts[..., c] += starts[..., bases[c]]
    if width == 32:
        starts = starts.astype(np.int32).astype(np.int64)
    plane_codes = np.zeros((slabs, batch, channels, count), np.int64)
    for group in range(count):
        having = order[~sequential] if group else order
        differences = reader.signed(slabs * batch * len(having)).reshape(slabs, batch, len(having))
        plane_codes[..., having, group] = np.cumsum(differences, axis=-1)
    if plane_codes.size and (plane_codes.min() < 0 or plane_codes.max() >= codes):
        raise FormatError("A plane of a lattice chunk has an impossible magnitude.")
    weights = no_weights(count)
    if reader.unsigned(1, 2)[0]:
        given = reader.unsigned(2 * count, 2) == 1
        flat = weights.reshape(2 * count, -1)
        for feature in range(flat.shape[1]):
            flat[given, feature] = reader.sums(int(given.sum()), WEIGHT_CODES)
    levels: Levels = {}
    if reader.unsigned(1, 2)[0]:
        sizes = reader.unsigned(channels, samples + 1)
        ranked = np.flatnonzero(sizes)
        for channel, low in zip(ranked.tolist(), reader.signed(len(ranked)).tolist(), strict=True):
            gaps = reader.raw(int(sizes[channel]) - 1)
            top = low + sum(gaps.tolist()) + len(gaps)
            if not -(1 << (width - 1)) <= low <= top < 1 << (width - 1):
                raise FormatError("A level of a lattice chunk is out of range.")
            levels[channel] = np.cumsum(np.append(np.int64(low), gaps.astype(np.int64) + 1))
    reader.end()
    return Parameters(order, known, starts, plane_codes, weights, levels)
