# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Choice of the predictor of each channel, on a sample of it.

A fitted predictor minimises the code length that the entropy coder will spend, not the squared error: that one knows
from the context how large a residual to expect, so that a sample costs about log2 |residual|. Weighted least squares
with weights that follow from the residuals of the pass before come close to it (iteratively reweighted least squares).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xwalloc.jit import allocating_kernel, kernel
from xwalloc.models.lattice_parameters import COEFFICIENT_LIMIT, Predictor
from xwalloc.models.lattice_predict import MAX_SHIFT, OWN, PLAIN, REFERENCE, Plain
from xwalloc.models.lattice_solve import (
    code_length,
    gram_of,
    members,
    residuals_of,
    reweight,
    reweighted,
    round_to,
    select,
    solve,
)

__all__ = ["Geometry", "choose", "code_length", "proxy", "references_of"]

Samples = NDArray[np.signedinteger]

RUN = 128
FAR = 16.0
"""Rows with a value beyond so many times the 98th percentile take no part."""
FOLDING = 0.93
"""About what fitted predictions save beyond the code length of their rounded residuals: the side of the rounding."""
FIRST_PASSES, LAST_PASSES = 3, 2
MIN_SHIFT = 5
NEAREST_BELOW = 16
"""Up to so many channels, references are chosen; beyond, they are the channels just before."""
OTHERS = 6
"""Most references."""
MOST_TAPS = {1: (5, 5, 3, 3, 3, 3), 2: (9, 5, 3, 1, 1, 1), 3: (9, 5, 1, 1, 1, 1)}
"""Most taps in each reference, most useful reference first."""
FEWEST_SAMPLES = 96
BITS_PER_COEFFICIENT = 6.0


@dataclass(frozen=True)
class Geometry:
    """Shape of a chunk and how many of its signal axes have an extent.

    Parameters
    ----------
    shape
        (batch, channel, z, y, x).
    """

    shape: tuple[int, int, int, int, int]

    @property
    def dimensions(self) -> int:
        """1, 2 or 3."""
        return 3 if self.shape[2] > 1 else 2 if self.shape[3] > 1 else 1

    @property
    def plane(self) -> int:
        """Samples of a channel of a batch item."""
        return self.shape[2] * self.shape[3] * self.shape[4]

    def flat(self, offset: tuple[int, int, int]) -> int:
        """Distance in the flat array of a position at an offset."""
        return (offset[0] * self.shape[3] + offset[1]) * self.shape[4] + offset[2]


def runs(geometry: Geometry, count: int) -> tuple[NDArray[np.int64], int]:
    """First positions (in the first channel) of runs along x away from borders, and their length.

    There are about `count` samples in all; none where the chunk is too small.
    """
    batch, channels, nz, ny, nx = geometry.shape
    d = geometry.dimensions
    if d == 1:
        before = np.array([0, 0, min(32, nx // 8)])
    else:
        before = np.array([min(2, nz - 1) if d == 3 else 0, 2, 2])
    after = np.array([1 if d == 3 else 0, 1 if d > 1 else 0, 2])
    inner = np.array([nz, ny, nx]) - before - after
    if inner.min() < 1 or inner[2] < 8 or inner.prod() * batch < FEWEST_SAMPLES:
        return np.empty(0, np.int64), 0
    length = int(min(RUN, inner[2]))
    per_line = int(inner[2]) // length
    total = batch * int(inner[0] * inner[1]) * per_line
    number = max(1, min(total, count // length))
    at = (2 * np.arange(number, dtype=np.int64) + 1) * total // (2 * number)
    line, part = np.divmod(at, per_line)
    line, y = np.divmod(line, inner[1])
    b, z = np.divmod(line, inner[0])
    spare = int(inner[2]) - per_line * length
    x = before[2] + part * length + (np.arange(number) * 40503) % (spare + 1)
    return ((b * channels * nz + z + before[0]) * ny + y + before[1]) * nx + x, length


@allocating_kernel
def _gather(values, mask, firsts, length, columns, target, centres, rows, valid):
    n = 0
    last = columns.shape[0]
    for first in firsts:
        for i in range(first, first + length):
            for k in range(last):
                rows[n, k] = np.float64(values[i + columns[k]]) - np.float64(centres[k])
            rows[n, last] = 1.0
            rows[n, last + 1] = np.float64(values[i + target]) - np.float64(centres[last])
            valid[n] = 0.0 if mask.shape[0] > 0 and mask[i + target] else 1.0
            n += 1
    # Rows that an outlier touches would decide alone.
    largest = np.empty(n)
    for r in range(n):
        top = 0.0
        for k in range(last):
            top = max(top, abs(rows[r, k]))
        largest[r] = max(top, abs(rows[r, last + 1]))
    limit = FAR * np.sort(largest)[n - 1 - n // 50] + 1.0
    for r in range(n):
        if largest[r] > limit:
            valid[r] = 0.0


_STEPS = {
    1: np.array([1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 28, 32]),
    2: np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    3: np.array([1, 2, 3, 4, 5, 7, 9, 11, 13]),
}


def references_of(
    values: Samples,
    mask: NDArray[np.uint8],
    geometry: Geometry,
    channel: int,
    earlier: Sequence[int],
    firsts: NDArray[np.int64],
    length: int,
) -> tuple[int, ...]:
    """The channels among `earlier` that help most to predict a channel, best first."""
    if geometry.shape[1] > NEAREST_BELOW or not firsts.size:
        return tuple(reversed(earlier[-OTHERS:]))
    firsts = firsts[:: max(1, len(firsts) * length // 2048)]
    own = OWN[geometry.dimensions][:3]
    here = channel * geometry.plane
    columns = [here + geometry.flat(o) for o in own] + [c * geometry.plane for c in earlier]
    rows, weights = _rows(
        values, mask, firsts, length, columns, here, _centres(values, firsts, length, [*columns, here])
    )
    gram = gram_of(rows, weights)
    chosen = [len(columns), *range(len(own))]
    found: list[int] = []
    size = len(gram)
    lower, solution = np.empty((size, size)), np.empty(size)
    energy = solve(gram, np.array(chosen), lower, solution)
    for _ in range(min(OTHERS, len(earlier))):
        trials = {
            i: solve(gram, np.array([*chosen, len(own) + i]), lower, solution)
            for i in range(len(earlier))
            if len(own) + i not in chosen
        }
        best = min(trials, key=lambda i: (trials[i], -i))
        if trials[best] > 0.995 * energy and found:
            break
        energy = trials[best]
        chosen.append(len(own) + best)
        found.append(earlier[best])
    return tuple(found)


def _centres(values: Samples, firsts: NDArray[np.int64], length: int, columns: Sequence[int]) -> NDArray[np.int64]:
    """Medians of some of the samples at distances `columns` from the runs."""
    some = (firsts[:, None] + np.arange(0, length, max(1, length // 4)))[:: max(1, len(firsts) // 16)].reshape(-1)
    medians: NDArray[np.int64] = np.sort(values[some[:, None] + np.array(columns)], axis=0)[len(some) // 2].astype(
        np.int64
    )
    return medians


def _rows(
    values: Samples,
    mask: NDArray[np.uint8],
    firsts: NDArray[np.int64],
    length: int,
    columns: Sequence[int],
    target: int,
    centres: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Regressors at distances `columns` from the runs, 1, and the target; and which rows count."""
    rows = np.empty((len(firsts) * length, len(columns) + 2))
    valid = np.empty(len(rows))
    _gather(values, mask, firsts, length, np.array(columns, np.int64), target, centres, rows, valid)
    return rows, valid


@dataclass(frozen=True)
class Effort:
    """How many samples decide.

    Parameters
    ----------
    fit
        Samples that coefficients are fitted to.
    choice
        Samples that decide which coefficients and which predictor.
    """

    fit: int = 6144
    choice: int = 1024

    @classmethod
    def of(cls, geometry: Geometry) -> Effort:
        """Effort of encoding: small planes are not worth the largest samples."""
        return cls(min(6144, max(2048, geometry.shape[0] * geometry.plane // 3)))


def choose(
    values: Samples,
    mask: NDArray[np.uint8],
    geometry: Geometry,
    channel: int,
    references: tuple[int, ...],
    firsts: NDArray[np.int64],
    length: int,
    width: int,
    choice: int,
) -> tuple[Predictor, float]:
    """Predictor of one channel, and the bits per sample that it is expected to take.

    Parameters
    ----------
    values : (n,) int32 or int64
        The chunk, flat, with sensible values under the mask.
    firsts, length
        What `runs` returned.
    choice
        How many samples decide.
    """
    d = geometry.dimensions
    default = Plain.PREVIOUS if not references else Plain.REFERENCE_PREVIOUS
    if not firsts.size:
        return Predictor(default, references[:1]), 8.0
    few = firsts[:: max(1, len(firsts) * length // choice)]
    here = channel * geometry.plane
    residuals, valid = np.empty(len(few) * length), np.ones(len(few) * length)
    best, best_bits, best_residuals = Predictor(default, references[:1]), np.inf, residuals
    for kind, (fewest, own, others) in PLAIN.items():
        if fewest > d or (others and not references):
            continue
        columns = [here + geometry.flat(o) for o in own]
        columns += [references[0] * geometry.plane + geometry.flat(o) for o in others]
        coefficients = [*own.values(), *others.values()]
        _plain_residuals(values, mask, few, length, here, np.array(columns), np.array(coefficients), residuals, valid)
        bits = code_length(residuals, length, valid)
        if bits < best_bits:
            best, best_bits, best_residuals = Predictor(kind, references[:1]), bits, residuals.copy()
    samples = float(valid.sum())
    if width == 32 and samples >= FEWEST_SAMPLES and best_bits >= 0.02 * samples:
        fitted, bits = _fit(values, mask, geometry, channel, references, firsts, few, length, best_residuals, best_bits)
        if bits < best_bits:
            return fitted, bits / samples
    return best, best_bits / max(samples, 1.0)


def proxy(
    values: Samples,
    mask: NDArray[np.uint8],
    geometry: Geometry,
    channel: int,
    firsts: NDArray[np.int64],
    length: int,
) -> float:
    """Bits per sample that a channel would take with the simplest prediction from itself and the channel before it."""
    here = channel * geometry.plane
    before = here - geometry.plane if channel else here
    columns, coefficients = np.array([here - 1, before, before - 1]), np.array([1, 1, -1])
    residuals, valid = np.empty(len(firsts) * length), np.ones(len(firsts) * length)
    _plain_residuals(values, mask, firsts, length, here, columns[: 3 if channel else 1], coefficients, residuals, valid)
    return float(code_length(residuals, length, valid) / max(valid.sum(), 1.0)) + 0.01


@kernel
def _plain_residuals(values, mask, firsts, length, here, columns, coefficients, out, valid):
    n = 0
    for first in firsts:
        for i in range(first, first + length):
            total = np.int64(values[i + here])
            for k in range(columns.shape[0]):
                total -= coefficients[k] * np.int64(values[i + columns[k]])
            out[n] = np.float64(total)
            if mask.shape[0] > 0 and mask[i + here]:
                valid[n] = 0.0
            n += 1


def _fit(
    values: Samples,
    mask: NDArray[np.uint8],
    geometry: Geometry,
    channel: int,
    references: tuple[int, ...],
    firsts: NDArray[np.int64],
    few: NDArray[np.int64],
    length: int,
    residuals: NDArray[np.float64],
    plain_bits: float,
) -> tuple[Predictor, float]:
    """Fitted predictor, and the estimated bits of the samples in `few` including their share of the coefficients."""
    d = geometry.dimensions
    here = channel * geometry.plane
    own = OWN[d] if d > 1 else OWN[d][: min(32, geometry.shape[4] // 8)]
    groups = [[here + geometry.flat(o) for o in own]]
    for rank, r in enumerate(references):
        groups.append([r * geometry.plane + geometry.flat(o) for o in REFERENCE[d][: MOST_TAPS[d][rank]]])
    columns = [c for group in groups for c in group]
    first = np.cumsum([0, *map(len, groups)])
    centres = _centres(values, firsts, length, [*columns, here])
    rows, valid = _rows(values, mask, few, length, columns, here, centres)
    samples = float(valid.sum())
    whole = geometry.shape[0] * geometry.plane
    worth = 0.5 * whole * min(1.0, max(0.1, plain_bits / samples / 1.5))
    size = len(columns) + 1
    lower, solution, weights = np.empty((size, size)), np.empty(size), np.empty(len(rows))
    reweight(residuals, length, valid, weights)
    reweighted(rows, valid, np.arange(size), length, weights, 1, lower, solution, residuals)
    counts = select(gram_of(rows, weights), first, _STEPS[d], worth, BITS_PER_COEFFICIENT + 1.0)
    chosen = members(counts, first, np.empty(size, np.int64))[1:]

    columns, centres = [columns[i] for i in chosen], centres[[*chosen, -1]]
    few_rows, few_valid = np.ascontiguousarray(rows[:, [*chosen, -2, -1]]), valid
    k = len(columns) + 1
    inner = np.array([k - 1, *range(k - 1)])
    lower, solution = np.empty((k, k)), np.empty(k)
    reweighted(few_rows, few_valid, inner, length, weights, FIRST_PASSES, lower, solution, residuals)
    rows, valid = _rows(values, mask, firsts, length, columns, here, centres)
    weights, all_residuals = np.empty(len(rows)), np.empty(len(rows))
    residuals_of(rows, inner, solution, all_residuals)
    reweight(all_residuals, length, valid, weights)
    energy = reweighted(rows, valid, inner, length, weights, LAST_PASSES, lower, solution, all_residuals)

    best_cost, shift = np.inf, -1
    rounded = np.empty(k)
    for s in range(MIN_SHIFT, MAX_SHIFT + 1):
        lost = round_to(lower, solution, 2.0**-s, rounded)
        cost = worth * np.log2(1.0 + lost / energy) + k * s
        if cost < best_cost and np.all(np.abs(rounded[1:]) < COEFFICIENT_LIMIT):
            best_cost, shift = cost, s
    if shift < 0:
        return Predictor(), np.inf
    round_to(lower, solution, 2.0**-shift, rounded)
    residuals_of(few_rows, inner, rounded * 2.0**-shift, residuals)
    bits = FOLDING * code_length(residuals, length, few_valid) + (BITS_PER_COEFFICIENT * k + 12) * samples / whole
    coefficients = [int(c) for c in rounded[1:]]
    bias = int(rounded[0]) + (int(centres[-1]) << shift)
    bias -= sum(c * int(centre) for c, centre in zip(coefficients, centres, strict=False))
    used = max(2, 1 + int(np.flatnonzero(counts)[-1])) if counts.any() else 2
    taps = tuple(int(c) for c in counts[:used])
    return Predictor(Plain.FITTED, references[: used - 1], taps, tuple(coefficients), shift, bias), bits
