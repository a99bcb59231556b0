# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Sequential planes of lattice mode: every sample is predicted from those before it, row by row.

What lies in other rows and channels is added up for whole rows; the row itself is a serial chain from sample to sample.
"""

from __future__ import annotations

import numpy as np

from xwalloc.bitstream.contexts import ONE
from xwalloc.bitstream.expectations import table_for
from xwalloc.bitstream.rans import pop
from xwalloc.jit import inline_kernel, kernel
from xwalloc.models.lattice_grid import ACTIVE, NX, NY, NZ, REACHES, gather, mirror, mirror_row, row_start
from xwalloc.models.lattice_rows import (
    BUCKET,
    HIGH,
    LOW,
    SIDE,
    activity_of,
    residual_of,
    restore,
    scaled,
    sum_activities,
)
from xwalloc.models.lattice_work import ANALYSE, CLASSIFY, DECODE, MAX_LAGS, TILE

__all__ = ["FEATURES", "visit"]

FEATURES = ("self", "mean", "w", "ww", "n", "diagonal", "u", "previous", "ring")
"""Order of the weights of a residual: the usual magnitude; the running mean of activities along the row; west,
west-west; north; the sum of north-west and north-east; up; the same place in another channel and its direct neighbours
(the sum)."""

MEAN_SHIFT = 4
U = np.uint64


@kernel
def _before_row(values, first, grid, z, y, seed):
    """Fill the margin before a row with the first sample of the row before it, or of the slice before it, or a seed."""
    value = np.int64(seed)
    if y > 0:
        value = np.int64(values[first + row_start(grid, 0, z, y - 1, 0)])
    elif z > 0:
        value = np.int64(values[first + row_start(grid, 0, z - 1, 0, 0)])
    even, odd = first + row_start(grid, 0, z, y, 0), first + row_start(grid, 0, z, y, 1)
    for j in range(1, grid[0, REACHES] + 1):
        values[even - j] = value
        values[odd - j] = value


@kernel
def _lags_of(taps, begin, end, z, y, lags):
    """Coefficients of the samples before one in its row; taps in rows that there are not look at the last of them."""
    for k in range(MAX_LAGS):
        lags[k] = 0
    for t in range(begin, end):
        if taps[t, 0] == 0:
            if taps[t, 1] == 0 and taps[t, 2] == 0:
                lags[-taps[t, 3] - 1] += taps[t, 4]
            elif z + taps[t, 1] < 0 or y + taps[t, 2] < 0:
                lags[0] += taps[t, 4]
    count = MAX_LAGS
    while count > 0 and lags[count - 1] == 0:
        count -= 1
    return (count + 1) // 2


@kernel
def _sum_rows(values, first, taps, begin, end, grid, z, y, phase, at, count, sums):
    """Sums of the taps that do not look into the row of the sample itself."""
    ny, nz = grid[0, NY], grid[0, NZ]
    for i in range(count):
        sums[i] = 0
    for t in range(begin, end):
        tz, ty = z + taps[t, 1], y + taps[t, 2]
        if taps[t, 0] == 0 and ((taps[t, 1] == 0 and taps[t, 2] == 0) or tz < 0 or ty < 0):
            continue
        if taps[t, 0] == 0:
            ty = min(ty, ny - 1)
        start = first + taps[t, 0] + at
        start += row_start(grid, 0, mirror(tz, nz - 1), mirror(ty, ny - 1), phase + taps[t, 3])
        c = taps[t, 4]
        for i in range(count):
            sums[i] += c * np.int64(values[start + i])


@kernel
def _expect_rows(activities, first, other, coder, grid, z, y, phase, at, count, expected):
    """Weighted activities of neighbours of a row that do not lie in it, in 1/65536."""
    w = coder.sequential[1 if other else 0]
    held = w[0] << 8
    held += 0 if y > 0 else (w[4] + 2 * w[5]) << 8
    held += 0 if z > 0 else w[6] << 8
    for i in range(count):
        expected[i] = held
    if y > 0:
        north = first + at + row_start(grid, 0, z, y - 1, phase)
        west = first + at + row_start(grid, 0, z, y - 1, phase - 1)
        east = first + at + row_start(grid, 0, z, y - 1, phase + 1)
        for i in range(count):
            expected[i] += w[4] * np.int64(activities[north + i])
            expected[i] += w[5] * (np.int64(activities[west + i]) + np.int64(activities[east + i]))
    if z > 0:
        up = first + at + row_start(grid, 0, z - 1, y, phase)
        for i in range(count):
            expected[i] += w[6] * np.int64(activities[up + i])
    if other:
        here = first + other + at + row_start(grid, 0, z, y, phase)
        for i in range(count):
            expected[i] += w[7] * np.int64(activities[here + i])
        begin, end = coder.ring_ranges[grid[0, ACTIVE]]
        if w[8]:
            sum_activities(
                activities, first + other, coder.ring, begin, end, False, grid, 0, z, y, phase, at, count, w[8],
                expected,
            )  # fmt: skip


@inline_kernel
def _predict(values, even, odd, phase, i, depth, lags, total, shift, radius, wide):
    """Guess and side of a sample from the sum of what lies in other rows and the samples before it."""
    one, two = (even + i, odd + i - 1) if phase else (odd + i - 1, even + i - 1)
    for j in range(depth):
        total += lags[2 * j] * np.int64(values[one - j])
        total += lags[2 * j + 1] * np.int64(values[two - j])
    if wide:
        return total, np.int64(0)
    nearest = (total + ((1 << shift) >> 1)) >> shift
    side = np.int64(0)
    if radius == 0:
        rest = total - (nearest << shift)
        side = min((6 * abs(rest)) >> shift, np.int64(2)) + (SIDE if rest < 0 else 0)
    return min(max(nearest, np.int64(LOW)), np.int64(HIGH)), side


@kernel
def visit(
    mode, planes, predictors, predictor, coder, results, radius, usual, seed, first, other, natural, at, count, position
):
    """Visit a plane row by row and sample by sample; returns the number of symbols and the position in `words`."""
    begin, stop, bias, shift = predictor
    values, activities, grid, mask = planes.values, planes.activities, planes.grid, planes.mask
    sums, expected, lags = results.sums, results.expected, results.lags
    states, words = coder.states, coder.words
    sz, sy, wide = planes.box[4], planes.box[5], planes.wide
    nx = grid[0, NX]
    w = coder.sequential[1 if other else 0]
    masked, tracing = mask.shape[0] > 0, results.expectations.shape[0] > 0
    end, last_lane = U(words.shape[0]), U(states.shape[0] - 1)
    limit = np.int64(np.iinfo(np.int64).max) if wide else np.int64(HIGH)
    mean = np.int64(ONE)
    depth = 0
    for z in range(grid[0, NZ]):
        for y in range(grid[0, NY]):
            even, odd = first + row_start(grid, 0, z, y, 0), first + row_start(grid, 0, z, y, 1)
            place = natural + z * sz + y * sy
            if mode != CLASSIFY:
                _before_row(values, first, grid, z, y, seed)
                depth = _lags_of(predictors.taps, begin, stop, z, y, lags)
            if mode != ANALYSE:
                _before_row(activities, first, grid, z, y, ONE)
            for x in range(nx):
                if x % (2 * TILE) == 0:
                    for phase in range(2):
                        part = min(TILE, (nx - x - phase + 1) // 2)
                        if mode != CLASSIFY:
                            _sum_rows(
                                values, first, predictors.taps, begin, stop, grid, z, y, phase, x >> 1, part,
                                sums[phase * TILE :],
                            )  # fmt: skip
                        if mode != ANALYSE and usual > 0:
                            _expect_rows(
                                activities, first, other, coder, grid, z, y, phase, x >> 1, part,
                                expected[phase * TILE :],
                            )  # fmt: skip
                phase, i = x & 1, x >> 1
                here = odd + i if phase else even + i
                ahead = phase * TILE + (i & (TILE - 1))
                prediction, side = np.int64(0), np.int64(0)
                if mode != CLASSIFY:
                    prediction, side = _predict(
                        values, even, odd, phase, i, depth, lags, sums[ahead] + bias, shift, radius, wide
                    )
                start = x == 0 and y == 0 and z == 0
                if start:
                    prediction, side = np.int64(seed), np.int64(0)
                hole = start or (masked and mask[place + x] != 0)
                if mode == ANALYSE:
                    residual = np.int64(0)
                    if not hole:
                        residual = residual_of(np.int64(planes.source[place + x]), prediction, radius, wide)
                    values[here] = restore(prediction, residual, radius, wide)
                    results.residuals[at] = -residual if side & SIDE else residual
                    results.sides[at] = side
                    at += 1
                    continue
                if hole or usual == 0:
                    activities[here] = 0
                    if mode == DECODE:
                        values[here] = prediction
                    at += 1
                    continue
                if mode == CLASSIFY:
                    side = np.int64(results.sides[at])
                west = np.int64(activities[even + i] if phase else activities[odd + i - 1])
                west_west = np.int64(activities[odd + i - 1] if phase else activities[even + i - 1])
                size = scaled(usual, expected[ahead] + w[1] * mean + w[2] * west + w[3] * west_west)
                context = table_for(size, coder.tables[side & BUCKET], coder.near_tables[side & BUCKET])
                if mode == CLASSIFY:
                    residual = np.int64(results.residuals[at])
                    results.symbols[count] = results.residuals[at]
                    results.contexts[count] = context
                    if tracing:
                        results.expectations[count] = size
                else:
                    lane = U(count) & last_lane
                    residual, state, position = pop(U(states[lane]), context, coder.slots, coder.spans, words, position)
                    states[lane] = state
                    if abs(residual) > limit:
                        position = end + U(1)
                    values[here] = restore(prediction, -residual if side & SIDE else residual, radius, wide)
                count += 1
                at += 1
                active = activity_of(abs(residual), usual)
                activities[here] = active
                mean += (active - mean) >> MEAN_SHIFT
            for phase in range(2):
                if mode != CLASSIFY:
                    mirror_row(values, first, grid, 0, z, y, phase)
                if mode != ANALYSE:
                    mirror_row(activities, first, grid, 0, z, y, phase)
        if position > end:
            break
    for level in range(grid.shape[0] - 1):
        if mode != CLASSIFY:
            gather(values, first, grid, level)
        if mode != ANALYSE:
            gather(activities, first, grid, level)
    return count, position
