# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Choice of the predictor of each channel, on a sample of it.

A fitted predictor minimises the code length that the entropy coder will spend, not the squared error: that one knows
from the context how large a residual to expect, so that a sample costs about log2 |residual|. Weighted least squares
with weights that follow from the residuals of the pass before come close to it (iteratively reweighted least squares).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from xwalloc.jit import kernel
from xwalloc.models.lattice_grid import (
    CLASSES,
    OWN,
    OWN_LEVELS,
    REFERENCE,
    SEQUENTIAL,
    SEQUENTIAL_REFERENCE,
    Offset,
    Tap,
    mean_taps,
)
from xwalloc.models.lattice_parameters import (
    COEFFICIENT_LIMIT,
    INTERPOLATING,
    MAX_SHIFT,
    REFERRING,
    SEQUENTIAL_KINDS,
    Channel,
    Plain,
    Predictor,
)
from xwalloc.models.lattice_samples import (
    FEWEST_SAMPLES,
    NEAREST_BELOW,
    Geometry,
    Samples,
    Sampling,
    centres_of,
    columns_of,
    noisy,
    rows_of,
    with_target,
)
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

__all__ = ["Effort", "channel_of", "plain_taps", "references_of", "samplings_of"]

Integers = NDArray[np.signedinteger]

FOLDING = 0.93
"""About what fitted predictions save beyond the code length of exact residuals: the side of the rounding."""
FIRST_PASSES, LAST_PASSES = 2, 1
MIN_SHIFT = 5
OTHERS = 6
"""Most references."""
MOST_TAPS = {1: (5, 5, 3, 3, 3, 3), 2: (5, 5, 3, 1, 1, 1), 3: (4, 4, 1, 1, 1, 1)}
"""Most taps in each reference, most useful reference first."""
SEQUENTIAL_MOST_TAPS = {1: (5, 5, 3, 3, 3, 3), 2: (9, 5, 3, 1, 1, 1), 3: (9, 5, 1, 1, 1, 1)}
BITS_PER_COEFFICIENT = 6.0
SEQUENTIAL_FROM = 0.7
"""Bits per sample from which visiting samples one after the other is tried."""
COARSE = {1: 1.08, 2: 1.03, 3: 1.03}
"""How much more than estimated interpolation takes: its coarsest levels are too small to be looked at."""


MOST_OWN_TAPS = 13
_STEPS = np.array([1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 28, 32])
Weighted = tuple[Offset, int]

_PLANES: dict[int, list[Weighted]] = {
    1: [((0, 0, -1), 3), ((0, 0, -2), -3), ((0, 0, -3), 1)],
    2: [((0, 0, -1), 1), ((0, -1, 0), 1), ((0, -1, -1), -1)],
    3: [
        ((-1, 0, 0), 1), ((0, 0, -1), 1), ((0, -1, 0), 1), ((-1, 0, -1), -1), ((-1, -1, 0), -1), ((0, -1, -1), -1),
        ((-1, -1, -1), 1),
    ],
}  # fmt: skip
SEQUENTIAL_PLAIN: dict[int, dict[Plain, tuple[bool, list[Weighted]]]] = {
    d: {
        Plain.PREVIOUS: (False, [((0, 0, -1), 1)]),
        Plain.SECOND: (False, [((0, 0, -1), 2), ((0, 0, -2), -1)]),
        Plain.PLANE: (False, plane),
        Plain.REFERENCE: (True, []),
        Plain.REFERENCE_PREVIOUS: (True, [((0, 0, -1), 1)]),
        Plain.REFERENCE_PLANE: (True, plane),
    }
    for d, plane in _PLANES.items()
}


def references_of(samples: Samples, channel: int, earlier: Sequence[int], sampling: Sampling) -> tuple[int, ...]:
    """The channels among `earlier` that help most to predict a channel, best first."""
    geometry = samples.geometry
    if geometry.shape[1] > NEAREST_BELOW or not sampling.firsts.size:
        return tuple(reversed(earlier[-OTHERS:]))
    sampling = sampling.some(2048)
    own = OWN[geometry.dimensions][sampling.rank or 0][:2]
    columns = columns_of(samples, sampling, [(channel, own), *((c, (((0, 0, 0),),)) for c in earlier)])
    centres = centres_of(samples, sampling, with_target(samples, channel, columns))
    rows, weights = rows_of(samples, sampling, channel, columns, centres)
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


@cache
def plain_taps(kind: Plain, d: int, rank: int | None) -> tuple[list[Weighted], list[Weighted], int]:
    """Weighted offsets of a plain predictor in the channel itself and in its first reference, and their shift.

    `rank` is the class of the samples; None where they are visited one after the other.
    """
    here = (0, 0, 0)
    if kind == Plain.REFERENCE:
        return [], [(here, 1)], 0
    if rank is None:
        _, own = SEQUENTIAL_PLAIN[d][kind]
        if kind in REFERRING:
            return own, [(here, 1), *((o, -w) for o, w in own)], 0
        return own, [], 0
    odd = CLASSES[d][rank]
    if kind == Plain.PREVIOUS:
        return [((-odd[0], -odd[1], -odd[2]), 1)], [], 0
    near, shift = mean_taps(tuple(range(3 - d, 3)), odd)
    if kind == Plain.MEAN:
        return near, [], shift
    return near, [(here, 1 << shift), *((o, -w) for o, w in near)], shift


@cache
def _plain_columns(
    geometry: Geometry, kind: Plain, level: int, rank: int | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.float64]]:
    """Distances of the samples that a plain predictor looks at, whether they lie in the reference, and weights."""
    own, others, shift = plain_taps(kind, geometry.dimensions, rank)
    taps = [*own, *others]
    distances = np.array([geometry.flat(o) << level for o, _ in taps], np.int64)
    return distances, np.arange(len(taps)) >= len(own), np.array([w * 2.0**-shift for _, w in taps])


@kernel
def _plain_residuals(values, firsts, length, step, target, columns, noise, weights, scale, out):
    """Residuals of a plain predictor, in bins."""
    n = 0
    for first in firsts:
        for j in range(length):
            i = first + j * step
            total = np.float64(values[i + target])
            for k in range(columns.shape[0]):
                total -= weights[k] * noisy(values, i + columns[k], noise[k])
            out[n] = total * scale
            n += 1


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

    fit: int = 4096
    choice: int = 1024

    @classmethod
    def of(cls, geometry: Geometry) -> Effort:
        """Effort of encoding: many channels get less each."""
        return cls(2048, 640) if geometry.shape[1] > NEAREST_BELOW else cls()


def samplings_of(geometry: Geometry, count: int, effort: Effort) -> list[Sampling]:
    """Samples for each of `count` groups of a channel, and some of all."""
    d = geometry.dimensions
    grouped = [
        Sampling.of(geometry, level, rank, effort.fit)
        for level in range(OWN_LEVELS[d] + 1)
        for rank in range(len(CLASSES[d]))
    ]
    return [*grouped[:count], Sampling.of(geometry, 0, None, effort.fit)]


def channel_of(
    samples: Samples,
    channel: int,
    earlier: Sequence[int],
    samplings: Sequence[Sampling],
    effort: Effort,
    width: int,
    ways: Collection[bool],
) -> tuple[Channel, float]:
    """How a channel is predicted, and the bits per sample that it is expected to take.

    `samplings` are those of the groups, and one of all samples. `ways` says what is tried: visiting samples one after
    the other (True), or not (False).
    """
    classes = len(CLASSES[samples.geometry.dimensions])
    references = references_of(samples, channel, earlier, samplings[classes - 1])
    if False not in ways:
        found, bits = _choose(samples, channel, references, samplings[-1], effort, width, None)
        return Channel(references, True, (found,)), bits
    predictors: list[Predictor] = []
    expected = 0.0
    for group, sampling in enumerate(samplings[:-1]):
        finer = predictors[group - classes] if group >= classes else None
        found, bits = _choose(samples, channel, references, sampling, effort, width, finer)
        predictors.append(found)
        expected += bits * _share(samples.geometry, sampling)
    expected /= samples.geometry.shape[0] * samples.geometry.plane
    if expected > SEQUENTIAL_FROM and True in ways:
        found, bits = _choose(samples, channel, references, samplings[-1], effort, width, None)
        if bits < COARSE[samples.geometry.dimensions] * expected:
            return Channel(references, True, (found,)), bits
    return Channel(references, False, tuple(predictors)), expected


def _share(geometry: Geometry, sampling: Sampling) -> float:
    """Samples of a channel that the predictor of a group predicts."""
    d = geometry.dimensions
    if sampling.sequential:
        return float(geometry.shape[0] * geometry.plane)
    level, number = sampling.level, geometry.shape[0] * geometry.plane
    if level >= OWN_LEVELS[d]:
        return number * 2.0 ** (-d * level) / len(CLASSES[d])
    return number * 2.0 ** (-d * (level + 1))


def _choose(
    samples: Samples,
    channel: int,
    references: tuple[int, ...],
    sampling: Sampling,
    effort: Effort,
    width: int,
    finer: Predictor | None,
) -> tuple[Predictor, float]:
    """Predictor of one group of a channel."""
    sequential = sampling.sequential
    default = (Plain.PREVIOUS if sequential else Plain.MEAN) if finer is None else Plain.INHERITED
    if not sampling.firsts.size:
        return Predictor(default if finer or sequential or not references else Plain.REFERENCE_MEAN), 8.0
    exact = samples.bins[channel] == 1.0
    few = sampling.some(effort.choice)
    here = channel * samples.geometry.plane
    at = (few.firsts[:, None] + np.arange(few.length) * few.step).reshape(-1) + here
    valid = np.ones(len(at)) if not samples.mask.size else (samples.mask[at] == 0).astype(np.float64)
    best, best_bits, best_residuals = Predictor(default), np.inf, np.zeros(len(at))
    for kind in SEQUENTIAL_KINDS if sequential else INTERPOLATING:
        if kind in REFERRING and not references:
            continue
        distances, refers, weights = _plain_columns(samples.geometry, kind, few.level, few.rank)
        other = references[0] if references else channel
        columns = distances + np.where(refers, other, channel) * samples.geometry.plane
        noise = np.where(refers, samples.noise(other, few), samples.noise(channel, few))
        residuals = np.empty(len(at))
        _plain_residuals(
            samples.values, few.firsts, few.length, few.step, here, columns, noise, weights,
            1.0 / samples.bins[channel], residuals,
        )  # fmt: skip
        bits = code_length(residuals if exact else np.rint(residuals), few.length, valid)
        if bits < best_bits:
            best, best_bits, best_residuals = Predictor(kind), bits, residuals
    number = float(valid.sum())
    if width == 32 and number >= FEWEST_SAMPLES and best_bits >= 0.02 * number:
        fitted, bits = _fit(samples, channel, references, sampling, few, best_residuals, best_bits)
        if bits < best_bits:
            return fitted, bits / number
    return best, best_bits / max(number, 1.0)


def _fit(
    samples: Samples,
    channel: int,
    references: tuple[int, ...],
    sampling: Sampling,
    few: Sampling,
    residuals: NDArray[np.float64],
    plain_bits: float,
) -> tuple[Predictor, float]:
    """Fitted predictor, and the estimated bits of the samples in `few` including their share of the coefficients."""
    geometry = samples.geometry
    d, length = geometry.dimensions, sampling.length
    exact = samples.bins[channel] == 1.0
    own, others, most = OWN[d][sampling.rank or 0], REFERENCE[d], MOST_TAPS[d]
    if sampling.sequential:
        own, others, most = SEQUENTIAL[d], SEQUENTIAL_REFERENCE[d], SEQUENTIAL_MOST_TAPS[d]
    lists = [(channel, _within(own, sampling.margin))]
    lists += [(r, _within(others[:n], sampling.margin)) for r, n in zip(references, most, strict=False)]
    columns = columns_of(samples, sampling, lists)
    first = np.cumsum([0, *(len(taps) for _, taps in lists)])
    centres = centres_of(samples, sampling, with_target(samples, channel, columns))
    rows, valid = rows_of(samples, few, channel, columns, centres)
    number = float(valid.sum())
    whole = _share(geometry, sampling)
    worth = 0.5 * whole * min(1.0, max(0.1, plain_bits / number / 1.5))
    size = len(columns) + 1
    lower, solution, weights = np.empty((size, size)), np.empty(size), np.empty(len(rows))
    reweight(residuals, length, valid, weights)
    reweighted(rows, valid, np.arange(size), length, weights, 1, lower, solution, residuals)
    steps = np.arange(1, 1 + MOST_OWN_TAPS) if d > 1 else _STEPS
    counts = select(gram_of(rows, weights), first, steps, worth, BITS_PER_COEFFICIENT + 1.0)
    chosen = members(counts, first, np.empty(size, np.int64))[1:]

    columns, centres = columns[chosen], centres[[*chosen, -1]]
    few_rows, few_valid = np.ascontiguousarray(rows[:, [*chosen, -2, -1]]), valid
    k = len(columns) + 1
    inner = np.array([k - 1, *range(k - 1)])
    lower, solution = np.empty((k, k)), np.empty(k)
    reweighted(few_rows, few_valid, inner, length, weights, FIRST_PASSES, lower, solution, residuals)
    rows, valid = rows_of(samples, sampling, channel, columns, centres)
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
    bits = code_length(residuals if exact else np.rint(residuals), length, few_valid) * (FOLDING if exact else 1.0)
    bits += (BITS_PER_COEFFICIENT * k + 12) * number / whole
    coefficients = [int(c) for c in rounded[1:]]
    bias = (
        rounded[0] * samples.bins[channel]
        + (centres[-1] - np.dot(coefficients, centres[:-1]) * 2.0**-shift) * 2.0**shift
    )
    taps = [int(c) for c in counts][: 1 + len(references)]
    return Predictor(Plain.FITTED, tuple(taps), tuple(coefficients), shift, int(np.rint(bias))), bits


@cache
def _within(taps: tuple[Tap, ...], margin: Offset) -> tuple[Tap, ...]:
    """The first taps that look no further than a margin."""
    fits = (all(abs(c) <= m for o in tap for c, m in zip(o, margin, strict=True)) for tap in taps)
    return taps[: next((i for i, fit in enumerate(fits) if not fit), len(taps))]
