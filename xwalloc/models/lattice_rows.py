# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Rows of a plane in lattice mode: guesses, residuals, activities, expected magnitudes.

docs/format.md, section 9, says what is computed. Rows lie in pyramids (lattice_grid.py): those of the values, and those
of the *activities*, magnitudes of residuals in units of what is usual for their group.

Overflow. For 32-bit samples |coefficient| < 2^15 and at most `MAX_TAPS` = 128 taps of two samples keep sums below
2^31 2^15 2^8 = 2^54. For 64-bit samples the coefficients of the plain predictors are used, on differences from the
first tap, and arithmetic wraps modulo 2^64 as the residuals do.
"""

from __future__ import annotations

import numpy as np

from xwalloc.bitstream.contexts import DIRECT_CLASSES
from xwalloc.bitstream.expectations import table_for
from xwalloc.jit import inline_kernel, kernel
from xwalloc.models.lattice_grid import ACTIVE, FULL, NX, NY, NZ, mirror, row_start

__all__ = [
    "BUCKET",
    "FEATURES",
    "MAX_TAPS",
    "SIDE",
    "activity_of",
    "expect",
    "guess",
    "output",
    "residual_of",
    "restore",
    "scaled",
    "sum_activities",
    "sum_taps",
    "tables_of",
]

MAX_TAPS = 128

FEATURES = ("self", "near", "far", "previous", "ring")
"""Order of the weights of a residual: the usual magnitude of its group; activities of the nearest neighbours that are
known (the mean), of the next ones (the sum); of the same place in another channel and of its direct neighbours (the
sum)."""

ACTIVITY_CAP = 1 << 16
MOST_TOTAL = 1 << 26
"""Expected magnitudes are at most 1024 times the usual one: products stay below 2^62."""

SMALL_OWN = 1 << 20
SIDE, BUCKET = 4, 3
"""Bits of a side: residuals count upside down; three shares of how far predictions are from an integer."""

LOW, HIGH = -(1 << 31), (1 << 31) - 1
U = np.uint64


@inline_kernel
def activity_of(magnitude, own):
    """A magnitude in 1/256 of the usual one, `own` / 256."""
    shift = 0
    while own >> shift >= SMALL_OWN:
        shift += 1
    return min((min(magnitude >> shift, 1 << 30) * ((1 << 32) // (own >> shift))) >> 16, ACTIVITY_CAP)


@inline_kernel
def scaled(own, total):
    """A weighted sum of activities as a magnitude in 1/256."""
    total = min(total, MOST_TOTAL)
    return (own * total) >> 16 if own < 1 << 28 else (own >> 16) * total


@kernel
def sum_taps(values, first, taps, begin, end, grid, level, z, y, phase, at, count, wide, sums):
    """Sums of taps for samples `at` and on of the phase of a row; for 64-bit values of differences from the first tap.

    Returns where the samples of the first tap begin.
    """
    nz, ny = grid[level, NZ], grid[level, NY]
    for i in range(count):
        sums[i] = 0
    base = 0
    for t in range(begin, end):
        dz, dy, dx = taps[t, 1], taps[t, 2], taps[t, 3]
        c = taps[t, 4]
        start = first + taps[t, 0] + at
        start += row_start(grid, level, mirror(z + dz, nz - 1), mirror(y + dy, ny - 1), phase + dx)
        if t == begin:
            base = start
        if wide:
            for i in range(count):
                sums[i] += c * (np.int64(values[start + i]) - np.int64(values[base + i]))
        elif taps[t, 5]:
            other = first + taps[t, 0] + at
            other += row_start(grid, level, mirror(z - dz, nz - 1), mirror(y - dy, ny - 1), phase - dx)
            for i in range(count):
                sums[i] += c * (np.int64(values[start + i]) + np.int64(values[other + i]))
        else:
            for i in range(count):
                sums[i] += c * np.int64(values[start + i])
    return base


@kernel
def guess(values, base, bias, shift, exact, wide, count, sums, sides):
    """Turn sums into predictions; and, where residuals are exact, on which side of an integer they would lie."""
    if wide:
        for i in range(count):
            sums[i] = np.int64(values[base + i]) + (sums[i] >> shift)
            sides[i] = 0
        return
    half = (1 << shift) >> 1
    if exact:
        for i in range(count):
            total = sums[i] + bias
            nearest = (total + half) >> shift
            rest = total - (nearest << shift)
            bucket = min((6 * abs(rest)) >> shift, 2)
            sides[i] = bucket + (SIDE if rest < 0 else 0)
            sums[i] = min(max(nearest, LOW), HIGH)
    else:
        for i in range(count):
            sums[i] = min(max((sums[i] + bias + half) >> shift, LOW), HIGH)
            sides[i] = 0


@inline_kernel
def restore(prediction, residual, radius, wide):
    """The value of a prediction and a residual."""
    if wide:
        return prediction + residual
    value = prediction + residual * (2 * radius + 1)
    if radius == 0:
        return ((value + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
    return min(max(value, LOW), HIGH)


@inline_kernel
def residual_of(value, prediction, radius, wide):
    """The residual whose value is within the radius."""
    if wide:
        return value - prediction
    difference = value - prediction
    if radius == 0:
        return ((difference + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
    size = (abs(difference) + radius) // (2 * radius + 1)
    return size if difference >= 0 else -size


@kernel
def sum_activities(activities, first, offsets, begin, end, weighted, grid, level, z, y, phase, at, count, w, expected):
    """Add weighted sums of activities of neighbours."""
    nz, ny = grid[level, NZ], grid[level, NY]
    for t in range(begin, end):
        factor = w * offsets[t, 3] if weighted else w
        start = first + at + row_start(
            grid, level, mirror(z + offsets[t, 0], nz - 1), mirror(y + offsets[t, 1], ny - 1), phase + offsets[t, 2]
        )  # fmt: skip
        for i in range(count):
            expected[i] += factor * np.int64(activities[start + i])


@kernel
def expect(activities, first, other, coder, grid, level, odd, z, y, phase, at, count, usual, weights, expected):
    """Expected magnitudes of a row in 1/256; `other` is how far the channel that contexts look at is away, or 0."""
    active = grid[level, ACTIVE]
    w = weights[1 if other else 0]
    for i in range(count):
        expected[i] = 0
    begin, end = coder.near_ranges[8 * active + odd]
    total = 0
    for t in range(begin, end):
        total += coder.near[t, 3]
    # The weights of a mean sum up to a power of two.
    sum_activities(
        activities, first, coder.near, begin, end, True, grid, level, z, y, phase, at, count, w[1] * 8 // total,
        expected,
    )  # fmt: skip
    for i in range(count):
        expected[i] >>= 3
    if grid[level, FULL] and w[2]:
        begin, end = coder.far_ranges[odd]
        sum_activities(
            activities, first, coder.far, begin, end, False, grid, level, z, y, phase, at, count, w[2], expected
        )  # fmt: skip
    if other:
        begin = first + other + row_start(grid, level, z, y, phase) + at
        for i in range(count):
            expected[i] += w[3] * np.int64(activities[begin + i])
        begin, end = coder.ring_ranges[active]
        if w[4]:
            sum_activities(
                activities, first + other, coder.ring, begin, end, False, grid, level, z, y, phase, at, count, w[4],
                expected,
            )  # fmt: skip
    held = w[0] << 8
    for i in range(count):
        expected[i] = scaled(usual, expected[i] + held)


@kernel
def tables_of(expected, sides, count, tables, near_tables, contexts):
    """Tables of a row."""
    for i in range(count):
        bucket = sides[i] & BUCKET
        if expected[i] < DIRECT_CLASSES:
            contexts[i] = near_tables[bucket, U(expected[i])]
        else:
            contexts[i] = table_for(expected[i], tables[bucket], near_tables[bucket])


@kernel
def output(planes, first, natural):
    """Copy the finest level of a pyramid to where it belongs."""
    grid = planes.grid
    sz, sy = planes.box[4], planes.box[5]
    for z in range(grid[0, NZ]):
        for y in range(grid[0, NY]):
            place = natural + z * sz + y * sy
            even, odd = first + row_start(grid, 0, z, y, 0), first + row_start(grid, 0, z, y, 1)
            for i in range((grid[0, NX] + 1) // 2):
                planes.decoded[place + 2 * i] = planes.values[even + i]
            for i in range(grid[0, NX] // 2):
                planes.decoded[place + 2 * i + 1] = planes.values[odd + i]
