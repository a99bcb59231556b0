# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Serial form of what a lattice decoder needs besides symbols: predictors, start values, magnitude codes.

Everything is lists of integers, written one after the other as adaptive Rice codes into one string of bits (first bit
in the highest bit of the first byte, filled up with zeros). A list is coded by itself: with a sum A = 4 and a count
n = 1 at its beginning, every integer v >= 0 is written with the smallest k for which n 2^k >= A: v >> k in unary (so
many ones, then a zero), then the k low bits of v; where v >> k is 20 or more, 20 ones, the number of bits of v less one
in 6 bits, and v. Then A grows by min(v, 16 2^k, 2^32), n by 1, and both are halved (rounding down) when n reaches 16.
A signed integer s is written as 2 s for s >= 0 and -2 s - 1 for s < 0, modulo 2^64.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from xwalloc.errors import FormatError
from xwalloc.jit import kernel
from xwalloc.models.lattice_levels import Levels
from xwalloc.models.lattice_predict import MAX_REFERENCES, MAX_SHIFT, MAX_TAPS, OWN, PLAIN, REFERENCE, Plain

__all__ = ["Parameters", "Predictor", "read", "write"]

Integers = NDArray[np.int64]

LONGEST_UNARY = 20
A_FIRST, A_MOST, N_MOST = 4, 1 << 32, 16
_NO_LEVELS: Integers = np.empty(0, np.int64)
COEFFICIENT_LIMIT = 1 << 15
BIAS_LIMIT = 1 << 52


@dataclass(frozen=True)
class Predictor:
    """How one channel is predicted.

    Parameters
    ----------
    kind
        A plain predictor or `Plain.FITTED`.
    references
        Channels that were coded before this one, most useful first; contexts look at the first.
    counts
        Of a fitted predictor: taps in the channel itself, then in each reference.
    coefficients
        Its coefficients, in units of 2^-shift, in that order.
    bias
        What a fitted predictor adds to its sum, in the same units.
    """

    kind: Plain = Plain.PREVIOUS
    references: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()
    coefficients: tuple[int, ...] = ()
    shift: int = 0
    bias: int = 0


@dataclass(frozen=True)
class Parameters:
    """Everything but the symbols.

    Parameters
    ----------
    order
        Channels in the order of coding.
    predictors
        One per channel.
    starts, codes : (slab, batch, channel) int64
        Prediction of the first sample, and magnitude code of the residuals, of each plane.
    levels
        Values in use of those channels that are coded by rank.
    """

    order: Integers
    predictors: list[Predictor]
    starts: Integers
    codes: Integers
    levels: Levels


@kernel
def _length(value):
    """Bits of an unsigned integer, at least 1."""
    bits = 1
    while bits < 64 and value >> np.uint64(bits):
        bits += 1
    return bits


@kernel
def _put(out, at, value, bits):
    for i in range(bits - 1, -1, -1):
        if (value >> np.uint64(i)) & np.uint64(1):
            out[at >> 3] |= 128 >> (at & 7)
        at += 1
    return at


@kernel
def _write(values, out, at):
    """Write a list; returns the position of the next bit."""
    total, count = np.int64(A_FIRST), 1
    for value in values:
        k = 0
        while count << k < total:
            k += 1
        ones = value >> np.uint64(k)
        if ones < np.uint64(LONGEST_UNARY):
            for _ in range(ones):
                at = _put(out, at, np.uint64(1), 1)
            at = _put(out, at, np.uint64(0), 1)
            at = _put(out, at, value, k)
        else:
            at = _put(out, at, np.uint64((1 << LONGEST_UNARY) - 1), LONGEST_UNARY)
            bits = _length(value)
            at = _put(out, at, np.uint64(bits - 1), 6)
            at = _put(out, at, value, bits)
        total += np.int64(min(value, np.uint64(min(16 << k, A_MOST))))
        count += 1
        if count == N_MOST:
            total >>= 1
            count >>= 1
    return at


@kernel
def _get(data, at, bits):
    value = np.uint64(0)
    for _ in range(bits):
        value = (value << np.uint64(1)) | np.uint64((data[at >> 3] >> (7 - (at & 7))) & 1)
        at += 1
    return value


@kernel
def _read(data, at, values):
    """Read a list; returns the position of the next bit, or -1 where the data end too early."""
    end = 8 * data.shape[0]
    total, count = np.int64(A_FIRST), 1
    for i in range(values.shape[0]):
        k = 0
        while count << k < total:
            k += 1
        ones = 0
        while ones < LONGEST_UNARY and at < end and _get(data, at, 1):
            ones += 1
            at += 1
        if ones < LONGEST_UNARY:
            at += 1
            bits = np.int64(k)
        else:
            if at + 6 > end:
                return -1
            bits = np.int64(_get(data, at, 6)) + 1
            at += 6
        if at + bits > end:
            return -1
        value = _get(data, at, bits)
        at += bits
        if ones < LONGEST_UNARY:
            value |= np.uint64(ones) << np.uint64(k)
        values[i] = value
        total += np.int64(min(value, np.uint64(min(16 << k, A_MOST))))
        count += 1
        if count == N_MOST:
            total >>= 1
            count >>= 1
    return at


class _Writer:
    def __init__(self) -> None:
        self.lists: list[NDArray[np.uint64]] = []

    def unsigned(self, values: object) -> None:
        self.lists.append(np.asarray(values, np.int64).ravel().astype(np.uint64))

    def signed(self, values: object) -> None:
        signed = np.asarray(values, np.int64).ravel()
        self.lists.append(((signed << 1) ^ (signed >> 63)).astype(np.uint64))

    def to_bytes(self) -> bytes:
        out = np.zeros(12 * sum(map(len, self.lists)) + 8, np.uint8)
        at = 0
        for values in self.lists:
            at = _write(values, out, at)
        return out[: (at + 7) // 8].tobytes()


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = np.frombuffer(data, np.uint8)
        self.at = 0

    def raw(self, count: int) -> NDArray[np.uint64]:
        """Integers below 2^64."""
        if count > 8 * len(self.data) - self.at:
            raise FormatError("The predictors of a lattice chunk are cut.")
        values = np.empty(count, np.uint64)
        self.at = int(_read(self.data, self.at, values))
        if self.at < 0:
            raise FormatError("The predictors of a lattice chunk are cut.")
        return values

    def unsigned(self, count: int, limit: int) -> Integers:
        """Integers below `limit`."""
        values = self.raw(count)
        if count and values.max() >= np.uint64(limit):
            raise FormatError("The predictors of a lattice chunk hold an impossible value.")
        return values.astype(np.int64)

    def signed(self, count: int) -> Integers:
        values = self.raw(count)
        return (values >> np.uint64(1)).astype(np.int64) ^ -(values & np.uint64(1)).astype(np.int64)

    def sums(self, count: int, limit: int) -> Integers:
        """Integers from 0 to below `limit`, given as differences from one to the next."""
        values = np.cumsum(self.signed(count))
        if count and not 0 <= values.min() <= values.max() < limit:
            raise FormatError("The predictors of a lattice chunk hold an impossible value.")
        return values

    def end(self) -> None:
        if len(self.data) != (self.at + 7) // 8:
            raise FormatError("The predictors of a lattice chunk do not fill their section.")


def _bases(order: Integers, predictors: list[Predictor]) -> Integers:
    """Channel against whose start value that of each channel is written; -1 for none."""
    bases = np.full(len(order), -1, np.int64)
    for position, channel in enumerate(order):
        references = predictors[channel].references
        bases[channel] = references[0] if references else order[position - 1] if position else -1
    return bases


def write(parameters: Parameters) -> bytes:
    """Bytes of the section LATTICE."""
    order, predictors = parameters.order, parameters.predictors
    channels = len(order)
    position = np.empty(channels, np.int64)
    position[order] = np.arange(channels)
    in_order = [predictors[c] for c in order]
    fitted = [p for p in in_order if p.kind == Plain.FITTED]
    writer = _Writer()
    moved = bool(np.any(order != np.arange(channels)))
    writer.unsigned([moved])
    if moved:
        writer.unsigned(order)
    writer.signed(np.diff([p.kind for p in in_order], prepend=0))
    writer.signed(np.diff([len(p.references) for p in in_order], prepend=0))
    distances: list[int] = []
    for channel, p in zip(order, in_order, strict=True):
        behind = [position[channel], *(position[r] for r in p.references)]
        distances += [a - 1 - b for a, b in pairwise(behind)]
    writer.signed(distances)
    writer.unsigned([p.counts[0] for p in fitted])
    writer.unsigned([count for p in fitted for count in p.counts[1:]])
    writer.unsigned([MAX_SHIFT - p.shift for p in fitted])
    writer.signed([p.bias for p in fitted])
    writer.signed([c for p in fitted for c in p.coefficients])
    bases = _bases(order, predictors)
    starts = parameters.starts[..., order]
    with np.errstate(over="ignore"):
        based = np.where(bases[order] < 0, 0, parameters.starts[..., bases[order]])
        writer.signed(starts - based)
    writer.signed(np.diff(parameters.codes[..., order], axis=-1, prepend=0))
    writer.unsigned([bool(parameters.levels)])
    if parameters.levels:
        ranked = [parameters.levels.get(c, _NO_LEVELS) for c in range(channels)]
        writer.unsigned([len(values) for values in ranked])
        writer.signed([values[0] for values in ranked if len(values)])
        for values in ranked:
            writer.unsigned(np.diff(values) - 1)
    return writer.to_bytes()


def read(data: bytes, slabs: int, batch: int, channels: int, dimensions: int, width: int, codes: int) -> Parameters:
    """Inverse of `write`.

    Raises
    ------
    FormatError
        If the bytes do not describe predictors that this chunk can have.
    """
    reader = _Reader(data)
    order = np.arange(channels)
    if reader.unsigned(1, 2)[0]:
        order = reader.unsigned(channels, channels)
        if len(np.unique(order)) != channels:
            raise FormatError("The channels of a lattice chunk are not coded once each.")
    kinds = reader.sums(channels, Plain.FITTED + 1)
    if width == 64 and np.any(kinds == Plain.FITTED):
        raise FormatError("Samples of 64 bits have plain predictors only.")
    reference_counts = reader.sums(channels, MAX_REFERENCES + 1)
    distances = iter(reader.signed(int(reference_counts.sum())).tolist())
    references: list[tuple[int, ...]] = []
    for at, count in enumerate(reference_counts):
        positions = list(accumulate((-1 - next(distances) for _ in range(count)), initial=at))[1:]
        if any(not 0 <= p < at for p in positions):
            raise FormatError("A channel of a lattice chunk refers to one that is not decoded yet.")
        references.append(tuple(int(order[p]) for p in positions))
    for kind, refers in zip(kinds, references, strict=True):
        if kind != Plain.FITTED and PLAIN[Plain(kind)][2] and not refers:
            raise FormatError("A predictor of a lattice chunk lacks its reference.")
    fitted = np.flatnonzero(kinds == Plain.FITTED)
    own = reader.unsigned(len(fitted), len(OWN[dimensions]) + 1)
    of_references = iter(reader.unsigned(int(reference_counts[fitted].sum()), len(REFERENCE[dimensions]) + 1).tolist())
    shifts = MAX_SHIFT - reader.unsigned(len(fitted), MAX_SHIFT + 1)
    biases = reader.signed(len(fitted))
    counts = [(int(own[i]), *(next(of_references) for _ in range(reference_counts[at]))) for i, at in enumerate(fitted)]
    if any(sum(c) > MAX_TAPS for c in counts) or np.any(np.abs(biases + 0.5) > BIAS_LIMIT):
        raise FormatError("A predictor of a lattice chunk is too large.")
    coefficients = reader.signed(sum(map(sum, counts)))
    if np.any(np.abs(coefficients + 0.5) > COEFFICIENT_LIMIT):
        raise FormatError("A predictor of a lattice chunk has too large coefficients.")
    predictors = [Predictor()] * channels
    for at in range(channels):
        predictors[order[at]] = Predictor(Plain(int(kinds[at])), references[at])
    first = 0
    for i, at in enumerate(fitted.tolist()):
        last = first + sum(counts[i])
        predictors[order[at]] = Predictor(
            Plain.FITTED,
            references[at],
            counts[i],
            tuple(coefficients[first:last].tolist()),
            int(shifts[i]),
            int(biases[i]),
        )
        first = last
    starts = np.empty((slabs, batch, channels), np.int64)
    starts[..., order] = reader.signed(starts.size).reshape(starts.shape)
    bases = _bases(order, predictors)
    for c in order:
        if bases[c] >= 0:
            starts[..., c] += starts[..., bases[c]]
    if width == 32:
        starts = starts.astype(np.int32).astype(np.int64)
    plane_codes = np.empty((slabs, batch, channels), np.int64)
    plane_codes[..., order] = np.cumsum(reader.signed(starts.size).reshape(starts.shape), axis=-1)
    if plane_codes.size and (plane_codes.min() < 0 or plane_codes.max() >= codes):
        raise FormatError("A plane of a lattice chunk has an impossible magnitude.")
    levels: Levels = {}
    if reader.unsigned(1, 2)[0]:
        sizes = reader.unsigned(channels, 1 << 31)
        ranked = np.flatnonzero(sizes)
        for channel, low in zip(ranked.tolist(), reader.signed(len(ranked)).tolist(), strict=True):
            gaps = reader.raw(int(sizes[channel]) - 1)
            top = low + sum(gaps.tolist()) + len(gaps)
            if not -(1 << (width - 1)) <= low <= top < 1 << (width - 1):
                raise FormatError("A level of a lattice chunk is out of range.")
            levels[channel] = np.cumsum(np.append(np.int64(low), gaps.astype(np.int64) + 1))
    reader.end()
    return Parameters(order, predictors, starts, plane_codes, levels)
