# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""The passes of lattice mode over the planes of a box: predict, quantise, choose tables, code.

docs/format.md, section 9, says what is computed. Values lie in one pyramid per channel (lattice_grid.py), and so do the
*activities*: magnitudes of residuals in units of what is usual for their group. Both are complete for all coarser
levels and earlier channels when a pass begins, so that rows of predictions and of tables are known before the first
residual of a row is.

Overflow. For 32-bit samples |coefficient| < 2^15 and at most `MAX_TAPS` = 128 taps of two samples keep sums below
2^31 2^15 2^8 = 2^54. For 64-bit samples the coefficients of the plain predictors are used, on differences from the
first tap, and arithmetic wraps modulo 2^64 as the residuals do.
"""

from __future__ import annotations

import numpy as np

from xwalloc.bitstream.contexts import DIRECT_CLASSES, ONE
from xwalloc.bitstream.expectations import table_for
from xwalloc.bitstream.rans import pop
from xwalloc.jit import allocating_kernel, inline_kernel, kernel
from xwalloc.models.lattice_grid import (
    ACTIVE,
    EVEN,
    FULL,
    GROUP,
    NX,
    NY,
    NZ,
    REACHES,
    gather,
    mirror,
    mirror_row,
    row_start,
    spread,
)

__all__ = ["ANALYSE", "CLASSIFY", "DECODE", "FEATURES", "MAX_TAPS", "TILE", "add_magnitudes", "fit_weights", "run"]

MAX_TAPS = 128
TILE = 1024
"""Samples of a row that are predicted at a time (8 KiB: first-level cache)."""

FEATURES = ("self", "near", "far", "previous", "ring")
"""Order of the weights of a residual: the usual magnitude of its group; activities of the nearest neighbours that are
known (the mean), of the next ones (the sum); of the same place in another channel and its direct neighbours (the sum)."""

SEQUENTIAL_FEATURES = ("self", "mean", "w", "ww", "n", "diagonal", "u", "previous", "ring")
"""Those of a residual where samples are visited one after the other: the running mean along the row; west, west-west;
north; the sum of north-west and north-east; up; another channel as before."""

MEAN_SHIFT = 4
MAX_LAGS = 32

ACTIVITY_CAP = 1 << 16
MOST_TOTAL = 1 << 26
"""Expected magnitudes are at most 1024 times the usual one: products stay below 2^62."""
SMALL_OWN = 1 << 20
SIDE, BUCKET = 4, 3
"""Bits of a side: residuals count upside down; three shares of how far predictions are from an integer."""

ANALYSE, CLASSIFY, DECODE = range(3)
U = np.uint64


@inline_kernel
def activity_of(magnitude, own):
    """A magnitude in 1/256 of the usual one, `own` / 256."""
    shift = 0
    while own >> shift >= SMALL_OWN:
        shift += 1
    return min((min(magnitude >> shift, 1 << 30) * ((1 << 32) // (own >> shift))) >> 16, ACTIVITY_CAP)


@inline_kernel
def _scaled(own, total):
    """A weighted sum of activities as a magnitude in 1/256."""
    total = min(total, MOST_TOTAL)
    return (own * total) >> 16 if own < 1 << 28 else (own >> 16) * total


@kernel
def _sum_taps(values, first, taps, begin, end, grid, level, z, y, phase, at, count, wide, sums):
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
def _guess(values, base, bias, shift, exact, wide, count, sums, sides):
    """Turn sums into predictions; and, where residuals are exact, on which side of an integer they would lie."""
    if wide:
        for i in range(count):
            sums[i] = np.int64(values[base + i]) + (sums[i] >> shift)
            sides[i] = 0
        return
    half = (1 << shift) >> 1
    low, high = -(1 << 31), (1 << 31) - 1
    if exact:
        for i in range(count):
            total = sums[i] + bias
            guess = (total + half) >> shift
            rest = total - (guess << shift)
            bucket = min((6 * abs(rest)) >> shift, 2)
            sides[i] = bucket + (SIDE if rest < 0 else 0)
            sums[i] = min(max(guess, low), high)
    else:
        for i in range(count):
            sums[i] = min(max((sums[i] + bias + half) >> shift, low), high)
            sides[i] = 0


@inline_kernel
def _restore(guess, residual, radius, wide):
    """The value of a prediction and a residual."""
    if wide:
        return guess + residual
    value = guess + residual * (2 * radius + 1)
    if radius == 0:
        return ((value + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
    return min(max(value, -(1 << 31)), (1 << 31) - 1)


@inline_kernel
def _residual(value, guess, radius, wide):
    """The residual whose value is within the radius."""
    if wide:
        return value - guess
    difference = value - guess
    if radius == 0:
        return ((difference + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
    size = (abs(difference) + radius) // (2 * radius + 1)
    return size if difference >= 0 else -size


@kernel
def _analyse_row(values, start, source, place, step, holes, sums, sides, count, radius, wide, found, at):
    """Quantise the residuals of a row; put what a decoder will make of them into the pyramid."""
    masked = holes.shape[0] > 0
    for i in range(count):
        guess = sums[i]
        where = place + i * step
        if masked and holes[where] != 0:
            values[start + i] = guess
            found[at + i] = 0
            continue
        residual = _residual(np.int64(source[where]), guess, radius, wide)
        values[start + i] = _restore(guess, residual, radius, wide)
        found[at + i] = -residual if sides[i] & SIDE else residual


@kernel
def _sum_activities(activities, first, offsets, begin, end, weighted, grid, level, z, y, phase, at, count, w, expected):
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
def _expect(
    activities, first, other, neighbours, grid, level, odd, z, y, phase, at, count, own, weights, expected
):  # fmt: skip
    """Expected magnitudes of a row in 1/256; `other` is how far the channel that contexts look at is away, or 0."""
    near, near_ranges, far, far_ranges, ring, ring_ranges = neighbours
    active = grid[level, ACTIVE]
    w = weights[1 if other else 0]
    for i in range(count):
        expected[i] = 0
    begin, end = near_ranges[8 * active + odd]
    total = 0
    for t in range(begin, end):
        total += near[t, 3]
    # The weights of a mean sum up to a power of two.
    _sum_activities(
        activities, first, near, begin, end, True, grid, level, z, y, phase, at, count, w[1] * 8 // total, expected
    )  # fmt: skip
    for i in range(count):
        expected[i] >>= 3
    if grid[level, FULL] and w[2]:
        begin, end = far_ranges[odd]
        _sum_activities(
            activities, first, far, begin, end, False, grid, level, z, y, phase, at, count, w[2], expected
        )  # fmt: skip
    if other:
        begin = first + other + row_start(grid, level, z, y, phase) + at
        for i in range(count):
            expected[i] += w[3] * np.int64(activities[begin + i])
        begin, end = ring_ranges[active]
        if w[4]:
            _sum_activities(
                activities, first + other, ring, begin, end, False, grid, level, z, y, phase, at, count, w[4], expected
            )  # fmt: skip
    held = w[0] << 8
    for i in range(count):
        expected[i] = _scaled(own, expected[i] + held)


@kernel
def _take(
    activities, first, other, neighbours, grid, level, odd, z, y, phase, at, count, own, found, place, taken, table
):  # fmt: skip
    """Put features and magnitudes of a row, in symbols, behind the samples that were taken before."""
    near, near_ranges, far, far_ranges, ring, ring_ranges = neighbours
    active = grid[level, ACTIVE]
    scale = own / (ONE * ONE)
    begin, end = near_ranges[8 * active + odd]
    total = 0
    for t in range(begin, end):
        total += near[t, 3]
    count = min(count, table.shape[0] - taken)
    for i in range(count):
        row = table[taken + i]
        row[0] = own / ONE
        value = 0.0
        for t in range(begin, end):
            start = row_start(
                grid, level, mirror(z + near[t, 0], grid[level, NZ] - 1), mirror(y + near[t, 1], grid[level, NY] - 1),
                phase + near[t, 2],
            )  # fmt: skip
            value += near[t, 3] * activities[first + at + start + i]
        row[1] = value * scale / total
        for f in range(2, 5):
            row[f] = 0.0
        if grid[level, FULL]:
            a, b = far_ranges[odd]
            for t in range(a, b):
                start = row_start(
                    grid, level, mirror(z + far[t, 0], grid[level, NZ] - 1), mirror(y + far[t, 1], grid[level, NY] - 1),
                    phase + far[t, 2],
                )  # fmt: skip
                row[2] += scale * activities[first + at + start + i]
        if other:
            row[3] = scale * activities[first + other + at + row_start(grid, level, z, y, phase) + i]
            a, b = ring_ranges[active]
            for t in range(a, b):
                start = row_start(
                    grid, level, mirror(z + ring[t, 0], grid[level, NZ] - 1),
                    mirror(y + ring[t, 1], grid[level, NY] - 1), phase + ring[t, 2],
                )  # fmt: skip
                row[4] += scale * activities[first + other + at + start + i]
        row[5] = abs(np.float64(found[place + i]))
    return count


@allocating_kernel
def fit_weights(table, weights, passes):
    """Improve non-negative weights of features for the code length of geometric magnitudes; returns bits before, after.

    The last column of the table is the magnitude. Each pass multiplies a weight by the ratio of what pulls
    it up to what pulls it down, which keeps it positive.
    """
    n, width = table.shape[0], table.shape[1] - 1
    up, down = np.empty(width), np.empty(width)
    before = after = 0.0
    for step in range(passes + 1):
        up[:] = 0.0
        down[:] = 0.0
        bits = 0.0
        for r in range(n):
            mean = 1e-3
            for f in range(width):
                mean += weights[f] * table[r, f]
            size = table[r, width]
            pull, push = size / (mean * (1.0 + mean)), 1.0 / (1.0 + mean)
            bits += np.log2(1.0 + mean) + size * np.log2((1.0 + mean) / mean)
            for f in range(width):
                up[f] += table[r, f] * pull
                down[f] += table[r, f] * push
        if step == 0:
            before = bits
        after = bits
        if step < passes:
            for f in range(width):
                if down[f] > 0.0:
                    weights[f] *= up[f] / down[f]
    return before, after


@kernel
def _tables(expected, sides, count, tables, near_tables, contexts):
    for i in range(count):
        bucket = sides[i] & BUCKET
        if expected[i] < DIRECT_CLASSES:
            contexts[i] = near_tables[bucket, U(expected[i])]
        else:
            contexts[i] = table_for(expected[i], tables[bucket], near_tables[bucket])


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
def _expect_rows(activities, first, other, ring, ring_ranges, grid, z, y, phase, at, count, weights, expected):
    """Weighted activities of neighbours of a row that do not lie in it, in 1/65536."""
    w = weights[1 if other else 0]
    held = w[0] << 8
    held += 0 if y > 0 else (w[4] + 2 * w[5]) << 8
    held += 0 if z > 0 else w[6] << 8
    for i in range(count):
        expected[i] = held
    if y > 0:
        north = first + at + row_start(grid, 0, z, y - 1, phase)
        west, east = (
            first + at + row_start(grid, 0, z, y - 1, phase - 1),
            first + at + row_start(grid, 0, z, y - 1, phase + 1),
        )
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
        begin, end = ring_ranges[grid[0, ACTIVE]]
        if w[8]:
            _sum_activities(
                activities, first + other, ring, begin, end, False, grid, 0, z, y, phase, at, count, w[8], expected
            )  # fmt: skip


@kernel
def _sequential(
    mode, values, activities, source, mask, natural, sz, sy, first, other, grid, taps, predictor, radius, usual, seed,
    weights, ring, ring_ranges, tables, near_tables, wide, found, found_sides, at, symbols, contexts, expectations,
    count, spans, table_symbols, words, states, position, limit, sums, expected, lags,
):  # fmt: skip
    """Visit a plane row by row and sample by sample; returns the number of symbols and the position in `words`."""
    begin, stop, bias, shift = predictor
    half = (1 << shift) >> 1
    low, high = -(1 << 31), (1 << 31) - 1
    nz, ny, nx = grid[0, NZ], grid[0, NY], grid[0, NX]
    w = weights[1 if other else 0]
    masked, tracing = mask.shape[0] > 0, expectations.shape[0] > 0
    end, last_lane = U(words.shape[0]), U(states.shape[0] - 1)
    mean = np.int64(ONE)
    depth = 0
    for z in range(nz):
        for y in range(ny):
            even, odd = first + row_start(grid, 0, z, y, 0), first + row_start(grid, 0, z, y, 1)
            place = natural + z * sz + y * sy
            if mode != CLASSIFY:
                _before_row(values, first, grid, z, y, seed)
                depth = _lags_of(taps, begin, stop, z, y, lags)
            if mode != ANALYSE:
                _before_row(activities, first, grid, z, y, ONE)
            for x0 in range(0, nx, 2 * TILE):
                for phase in range(2):
                    part = min(TILE, (nx - x0 - phase + 1) // 2)
                    if mode != CLASSIFY:
                        _sum_rows(
                            values, first, taps, begin, stop, grid, z, y, phase, x0 >> 1, part, sums[phase * TILE :]
                        )
                    if mode != ANALYSE and usual > 0:
                        _expect_rows(
                            activities, first, other, ring, ring_ranges, grid, z, y, phase, x0 >> 1, part, weights,
                            expected[phase * TILE :],
                        )  # fmt: skip
                for x in range(x0, min(x0 + 2 * TILE, nx)):
                    phase, i = x & 1, x >> 1
                    here = odd + i if phase else even + i
                    ahead = phase * TILE + ((x - x0) >> 1)
                    guess, side = np.int64(0), np.int64(0)
                    if mode != CLASSIFY:
                        total = sums[ahead] + bias
                        one, two = (even + i, odd + i - 1) if phase else (odd + i - 1, even + i - 1)
                        for j in range(depth):
                            total += lags[2 * j] * np.int64(values[one - j])
                            total += lags[2 * j + 1] * np.int64(values[two - j])
                        if wide:
                            guess = total
                        else:
                            guess = (total + half) >> shift
                            if radius == 0:
                                rest = total - (guess << shift)
                                side = min((6 * abs(rest)) >> shift, 2) + (SIDE if rest < 0 else 0)
                            guess = min(max(guess, np.int64(low)), np.int64(high))
                    if x == 0 and y == 0 and z == 0:
                        if mode != CLASSIFY:
                            values[here] = seed
                        if mode == ANALYSE:
                            found[at] = 0
                            found_sides[at] = 0
                        else:
                            activities[here] = 0
                        at += 1
                        continue
                    hole = masked and mask[place + x] != 0
                    if mode == ANALYSE:
                        residual = np.int64(0)
                        if not hole:
                            residual = _residual(np.int64(source[place + x]), guess, radius, wide)
                        values[here] = _restore(guess, residual, radius, wide)
                        found[at] = -residual if side & SIDE else residual
                        found_sides[at] = side
                        at += 1
                        continue
                    if hole or usual == 0:
                        activities[here] = 0
                        if mode == DECODE:
                            values[here] = guess
                        at += 1
                        continue
                    if mode == CLASSIFY:
                        side = np.int64(found_sides[at])
                    west = np.int64(activities[even + i] if phase else activities[odd + i - 1])
                    west_west = np.int64(activities[odd + i - 1] if phase else activities[even + i - 1])
                    size = _scaled(usual, expected[ahead] + w[1] * mean + w[2] * west + w[3] * west_west)
                    context = table_for(size, tables[side & BUCKET], near_tables[side & BUCKET])
                    if mode == CLASSIFY:
                        residual = np.int64(found[at])
                        symbols[count] = found[at]
                        contexts[count] = context
                        if tracing:
                            expectations[count] = size
                    else:
                        lane = U(count) & last_lane
                        residual, state, position = pop(U(states[lane]), context, table_symbols, spans, words, position)
                        states[lane] = state
                        if abs(residual) > limit:
                            position = end + U(1)
                        signed = -residual if side & SIDE else residual
                        values[here] = _restore(guess, signed, radius, wide)
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


@kernel
def add_magnitudes(found, grid, classes, sequential, caps, totals):
    """Sums of the magnitudes of residuals, each up to a cap, and their numbers, by plane and group."""
    at = 0
    for plane in range(caps.shape[0]):
        if sequential[plane % sequential.shape[0]]:
            cap, total, count = caps[plane, 0], 0.0, grid[0, NZ] * grid[0, NY] * grid[0, NX]
            for i in range(at + 1, at + count):
                total += min(abs(np.float64(found[i])), cap)
            at += count
            totals[plane, 0, 0], totals[plane, 0, 1] = total, count - 1
            continue
        at += 1
        for level in range(grid.shape[0] - 2, -1, -1):
            for k in range(classes.shape[0]):
                cz, cy, phase = classes[k]
                count = (grid[level, NZ] - cz + 1) // 2 * ((grid[level, NY] - cy + 1) // 2)
                count *= grid[level, EVEN] if phase == 0 else grid[level, NX] - grid[level, EVEN]
                group = grid[level, GROUP] + k
                cap, total = caps[plane, group], 0.0
                for i in range(at, at + count):
                    total += min(abs(np.float64(found[i])), cap)
                at += count
                totals[plane, group, 0] += total
                totals[plane, group, 1] += count


@kernel
def _output(values, first, grid, natural, sz, sy, decoded):
    """Copy the finest level of a pyramid to where it belongs."""
    for z in range(grid[0, NZ]):
        for y in range(grid[0, NY]):
            place = natural + z * sz + y * sy
            even, odd = first + row_start(grid, 0, z, y, 0), first + row_start(grid, 0, z, y, 1)
            for i in range(grid[0, EVEN]):
                decoded[place + 2 * i] = values[even + i]
            for i in range(grid[0, NX] - grid[0, EVEN]):
                decoded[place + 2 * i + 1] = values[odd + i]


@kernel
def run(
    mode, values, activities, source, decoded, mask, box, grid, classes, order, sequential, taps, predictors, means, radii,
    starts, others, own, sequential_weights, weights, neighbours, tables, near_tables, wide, found, found_sides, symbols, contexts,
    expectations, spans, table_symbols, words, states, sums, expected, lags, sides, row_contexts, share,
    wanted, taken, features,
):  # fmt: skip
    """All passes over all planes of a box.

    ANALYSE takes samples from `source`, leaves residuals in `found`, sides in `found_sides` (both in the order of the
    passes, plane by plane); CLASSIFY makes symbols with their tables of these;
    DECODE reads them from `words`. ANALYSE and DECODE put what comes out into `decoded`.

    Returns the number of symbols and the position in `words`: beyond their end, the stream is damaged.
    """
    offset, nz, ny, nx, sz, sy, stride, batch, item_stride, size = box
    levels = grid.shape[0]
    plane = nz * ny * nx
    count = 0
    position, end, last_lane = U(0), U(words.shape[0]), U(states.shape[0] - 1)
    tracing = expectations.shape[0] > 0
    masked = mask.shape[0] > 0
    limit = np.int64(np.iinfo(np.int32).max) if not wide else np.int64(np.iinfo(np.int64).max)
    for b in range(batch):
        for rank in range(order.shape[0]):
            c = order[rank]
            first = c * size
            natural = b * item_stride + c * stride + offset
            at = (b * order.shape[0] + rank) * plane
            radius = radii[c]
            other = (others[c] - c) * size if others[c] >= 0 else 0
            if sequential[c]:
                count, position = _sequential(
                    mode, values, activities, source, mask, natural, sz, sy, first, other, grid, taps,
                    predictors[c, 0], radius, own[b, c, 0], _restore(0, starts[b, c], radius, wide), sequential_weights,
                    neighbours[4], neighbours[5], tables, near_tables, wide, found, found_sides, at, symbols, contexts,
                    expectations, count, spans, table_symbols, words, states, position, limit, sums, expected, lags,
                )  # fmt: skip
                if position > end:
                    return count, position
                if mode != CLASSIFY:
                    _output(values, first, grid, natural, sz, sy, decoded)
                continue
            top = first + row_start(grid, levels - 1, 0, 0, 0)
            if mode != CLASSIFY:
                values[top] = _restore(0, starts[b, c], radius, wide)
                mirror_row(values, first, grid, levels - 1, 0, 0, 0)
            if mode == ANALYSE:
                found[at] = 0
                found_sides[at] = 0
            else:
                activities[top] = 0
                mirror_row(activities, first, grid, levels - 1, 0, 0, 0)
            at += 1
            for level in range(levels - 2, -1, -1):
                if mode != CLASSIFY:
                    spread(values, first, grid, level + 1)
                if mode != ANALYSE:
                    spread(activities, first, grid, level + 1)
                for k in range(classes.shape[0]):
                    cz, cy, phase = classes[k]
                    group = grid[level, GROUP] + k
                    odd = 4 * cz + 2 * cy + phase
                    length = grid[level, EVEN] if phase == 0 else grid[level, NX] - grid[level, EVEN]
                    if length == 0:
                        continue
                    usual = own[b, c, group]
                    begin, stop, bias, shift = predictors[c, group]
                    if not grid[level, FULL]:
                        begin, stop, bias, shift = means[8 * grid[level, ACTIVE] + odd]
                    for z in range(cz, grid[level, NZ], 2):
                        for y in range(cy, grid[level, NY], 2):
                            here = first + row_start(grid, level, z, y, phase)
                            place = natural + (z << level) * sz + (y << level) * sy + (phase << level)
                            for x in range(0, length, TILE):
                                part = min(TILE, length - x)
                                start = here + x
                                where = place + (x << (level + 1))
                                if mode != CLASSIFY:
                                    base = _sum_taps(
                                        values, first, taps, begin, stop, grid, level, z, y, phase, x, part, wide, sums
                                    )
                                    _guess(values, base, bias, shift, radius == 0, wide, part, sums, sides)
                                if mode == ANALYSE:
                                    _analyse_row(
                                        values, start, source, where, 2 << level, mask, sums, sides, part, radius,
                                        wide, found, at,
                                    )  # fmt: skip
                                    for i in range(part):
                                        found_sides[at + i] = sides[i]
                                    at += part
                                    continue
                                if usual == 0:
                                    for i in range(part):
                                        activities[start + i] = 0
                                        if mode == DECODE:
                                            values[start + i] = sums[i]
                                    at += part
                                    continue
                                if mode == CLASSIFY:
                                    for i in range(part):
                                        sides[i] = found_sides[at + i]
                                    which = 1 if other else 0
                                    wanted[group, which] += part * share[group]
                                    if wanted[group, which] > taken[group, which]:
                                        taken[group, which] += _take(
                                            activities, first, other, neighbours, grid, level, odd, z, y, phase, x,
                                            part, usual, found, at, taken[group, which], features[group, which],
                                        )  # fmt: skip
                                _expect(
                                    activities, first, other, neighbours, grid, level, odd, z, y, phase, x, part,
                                    usual, weights[group], expected,
                                )  # fmt: skip
                                _tables(expected, sides, part, tables, near_tables, row_contexts)
                                for i in range(part):
                                    if masked and mask[where + i * (2 << level)] != 0:
                                        activities[start + i] = 0
                                        if mode == DECODE:
                                            values[start + i] = sums[i]
                                        continue
                                    if mode == CLASSIFY:
                                        residual = np.int64(found[at + i])
                                        symbols[count] = found[at + i]
                                        contexts[count] = row_contexts[i]
                                        if tracing:
                                            expectations[count] = expected[i]
                                    else:
                                        lane = U(count) & last_lane
                                        residual, state, position = pop(
                                            U(states[lane]), row_contexts[i], table_symbols, spans, words, position
                                        )
                                        states[lane] = state
                                        if abs(residual) > limit:
                                            position = end + U(1)
                                        signed = -residual if sides[i] & SIDE else residual
                                        values[start + i] = _restore(sums[i], signed, radius, wide)
                                    count += 1
                                    activities[start + i] = activity_of(abs(residual), usual)
                                at += part
                            if mode != CLASSIFY:
                                mirror_row(values, first, grid, level, z, y, phase)
                            if mode != ANALYSE:
                                mirror_row(activities, first, grid, level, z, y, phase)
                if position > end:
                    return count, position
            if mode != CLASSIFY:
                _output(values, first, grid, natural, sz, sy, decoded)
    return count, position
