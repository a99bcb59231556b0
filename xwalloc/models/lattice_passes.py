# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""The passes of lattice mode over the planes of a box: predict, quantise, choose tables, code.

Pyramids are complete for all coarser levels and earlier channels when a pass begins, so that rows of predictions and of
tables are known before the first residual of a row is.
"""

from __future__ import annotations

import numpy as np

from xwalloc.bitstream.contexts import ONE
from xwalloc.bitstream.rans import pop
from xwalloc.jit import kernel
from xwalloc.models.lattice_grid import (
    ACTIVE,
    EVEN,
    FULL,
    GROUP,
    NX,
    NY,
    NZ,
    mirror,
    mirror_row,
    row_start,
    spread,
)
from xwalloc.models.lattice_rows import (
    HIGH,
    SIDE,
    activity_of,
    expect,
    guess,
    output,
    residual_of,
    restore,
    sum_taps,
    tables_of,
)
from xwalloc.models.lattice_sequential import visit
from xwalloc.models.lattice_work import ANALYSE, CLASSIFY, DECODE, TILE

__all__ = ["add_magnitudes", "run"]

U = np.uint64


@kernel
def _analyse_row(values, start, source, place, step, holes, sums, sides, count, radius, wide, found, at):
    """Quantise the residuals of a row; put what a decoder will make of them into the pyramid."""
    masked = holes.shape[0] > 0
    for i in range(count):
        prediction = sums[i]
        where = place + i * step
        if masked and holes[where] != 0:
            values[start + i] = prediction
            found[at + i] = 0
            continue
        residual = residual_of(np.int64(source[where]), prediction, radius, wide)
        values[start + i] = restore(prediction, residual, radius, wide)
        found[at + i] = -residual if sides[i] & SIDE else residual


@kernel
def _take(
    activities, first, other, coder, grid, level, odd, z, y, phase, at, count, usual, found, place, taken, table
):  # fmt: skip
    """Put features and magnitudes of a row, in symbols, behind the samples that were taken before."""
    near, far, ring = coder.near, coder.far, coder.ring
    active = grid[level, ACTIVE]
    scale = usual / (ONE * ONE)
    begin, end = coder.near_ranges[8 * active + odd]
    total = 0
    for t in range(begin, end):
        total += near[t, 3]
    count = min(count, table.shape[0] - taken)
    for i in range(count):
        row = table[taken + i]
        row[0] = usual / ONE
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
            a, b = coder.far_ranges[odd]
            for t in range(a, b):
                start = row_start(
                    grid, level, mirror(z + far[t, 0], grid[level, NZ] - 1), mirror(y + far[t, 1], grid[level, NY] - 1),
                    phase + far[t, 2],
                )  # fmt: skip
                row[2] += scale * activities[first + at + start + i]
        if other:
            row[3] = scale * activities[first + other + at + row_start(grid, level, z, y, phase) + i]
            a, b = coder.ring_ranges[active]
            for t in range(a, b):
                start = row_start(
                    grid, level, mirror(z + ring[t, 0], grid[level, NZ] - 1),
                    mirror(y + ring[t, 1], grid[level, NY] - 1), phase + ring[t, 2],
                )  # fmt: skip
                row[4] += scale * activities[first + other + at + start + i]
        row[5] = abs(np.float64(found[place + i]))
    return count


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
def _code_row(
    mode, planes, coder, results, radius, usual, start, place, step, part, at, count, position
):  # fmt: skip
    """Symbols of a row whose tables are known; returns their number so far, and the position in `words`."""
    values, activities, mask, wide = planes.values, planes.activities, planes.mask, planes.wide
    sums, states, words = results.sums, coder.states, coder.words
    masked, tracing = mask.shape[0] > 0, results.expectations.shape[0] > 0
    end, last_lane = U(words.shape[0]), U(states.shape[0] - 1)
    limit = np.int64(np.iinfo(np.int64).max) if wide else np.int64(HIGH)
    for i in range(part):
        if masked and mask[place + i * step] != 0:
            activities[start + i] = 0
            if mode == DECODE:
                values[start + i] = sums[i]
            continue
        if mode == CLASSIFY:
            residual = np.int64(results.residuals[at + i])
            results.symbols[count] = results.residuals[at + i]
            results.contexts[count] = results.row_contexts[i]
            if tracing:
                results.expectations[count] = results.expected[i]
        else:
            lane = U(count) & last_lane
            residual, state, position = pop(
                U(states[lane]), results.row_contexts[i], coder.slots, coder.spans, words, position
            )
            states[lane] = state
            if abs(residual) > limit:
                position = end + U(1)
            signed = -residual if results.row_sides[i] & SIDE else residual
            values[start + i] = restore(sums[i], signed, radius, wide)
        count += 1
        activities[start + i] = activity_of(abs(residual), usual)
    return count, position


@kernel
def _pass(
    mode, planes, taps, predictor, coder, results, sample, level, k, group, radius, usual, first, other, natural, at,
    count, position,
):  # fmt: skip
    """Visit one class of a level; returns how many samples that are, the number of symbols, the position in `words`."""
    values, activities, grid, wide = planes.values, planes.activities, planes.grid, planes.wide
    sums, expected, sides = results.sums, results.expected, results.row_sides
    sz, sy = planes.box[4], planes.box[5]
    begin, stop, bias, shift = predictor
    cz, cy, phase = planes.classes[k]
    odd = 4 * cz + 2 * cy + phase
    which = 1 if other else 0
    length = grid[level, EVEN] if phase == 0 else grid[level, NX] - grid[level, EVEN]
    before = at
    if length == 0:
        return 0, count, position
    for z in range(cz, grid[level, NZ], 2):
        for y in range(cy, grid[level, NY], 2):
            here = first + row_start(grid, level, z, y, phase)
            place = natural + (z << level) * sz + (y << level) * sy + (phase << level)
            for x in range(0, length, TILE):
                part = min(TILE, length - x)
                start, where, step = here + x, place + (x << (level + 1)), 2 << level
                if mode != CLASSIFY:
                    base = sum_taps(values, first, taps, begin, stop, grid, level, z, y, phase, x, part, wide, sums)
                    guess(values, base, bias, shift, radius == 0, wide, part, sums, sides)
                if mode == ANALYSE:
                    _analyse_row(
                        values, start, planes.source, where, step, planes.mask, sums, sides, part, radius, wide,
                        results.residuals, at,
                    )  # fmt: skip
                    for i in range(part):
                        results.sides[at + i] = sides[i]
                elif usual == 0:
                    for i in range(part):
                        activities[start + i] = 0
                        if mode == DECODE:
                            values[start + i] = sums[i]
                else:
                    if mode == CLASSIFY:
                        for i in range(part):
                            sides[i] = results.sides[at + i]
                        sample.wanted[group, which] += part * sample.share[group]
                        if sample.wanted[group, which] > sample.taken[group, which]:
                            sample.taken[group, which] += _take(
                                activities, first, other, coder, grid, level, odd, z, y, phase, x, part, usual,
                                results.residuals, at, sample.taken[group, which], sample.features[group, which],
                            )  # fmt: skip
                    expect(
                        activities, first, other, coder, grid, level, odd, z, y, phase, x, part, usual,
                        coder.interpolated[group], expected,
                    )  # fmt: skip
                    tables_of(expected, sides, part, coder.tables, coder.near_tables, results.row_contexts)
                    count, position = _code_row(
                        mode, planes, coder, results, radius, usual, start, where, step, part, at, count, position
                    )
                at += part
            if mode != CLASSIFY:
                mirror_row(values, first, grid, level, z, y, phase)
            if mode != ANALYSE:
                mirror_row(activities, first, grid, level, z, y, phase)
    return at - before, count, position


@kernel
def _interpolate(
    mode, planes, predictors, coder, results, sample, b, c, seed, first, other, natural, at, count, position
):  # fmt: skip
    """Visit a plane from its coarsest level to the finest; returns number of symbols and position in `words`."""
    values, activities, grid = planes.values, planes.activities, planes.grid
    levels, end = grid.shape[0], U(coder.words.shape[0])
    top = first + row_start(grid, levels - 1, 0, 0, 0)
    if mode != CLASSIFY:
        values[top] = seed
        mirror_row(values, first, grid, levels - 1, 0, 0, 0)
    if mode != ANALYSE:
        activities[top] = 0
        mirror_row(activities, first, grid, levels - 1, 0, 0, 0)
    else:
        results.residuals[at] = 0
        results.sides[at] = 0
    at += 1
    for level in range(levels - 2, -1, -1):
        if mode != CLASSIFY:
            spread(values, first, grid, level + 1)
        if mode != ANALYSE:
            spread(activities, first, grid, level + 1)
        for k in range(planes.classes.shape[0]):
            cz, cy, cx = planes.classes[k]
            group = grid[level, GROUP] + k
            predictor = predictors.means[8 * grid[level, ACTIVE] + 4 * cz + 2 * cy + cx]
            if grid[level, FULL]:
                predictor = predictors.groups[c, group]
            number, count, position = _pass(
                mode, planes, predictors.taps, predictor, coder, results, sample, level, k, group, planes.radii[c],
                coder.usual[b, c, group], first, other, natural, at, count, position,
            )  # fmt: skip
            at += number
        if position > end:
            break
    return count, position


@kernel
def run(mode, planes, predictors, coder, results, sample):
    """Visit all planes of a box (lattice_work.py says what modes do and what the arrays are).

    Returns the number of symbols and the position in `words`: beyond their end, the stream is damaged.
    """
    offset, nz, ny, nx, _, _, stride, batch, item_stride, size = planes.box
    count, position, end = 0, U(0), U(coder.words.shape[0])
    for b in range(batch):
        for rank in range(planes.order.shape[0]):
            c = planes.order[rank]
            first, natural = c * size, b * item_stride + c * stride + offset
            at = (b * planes.order.shape[0] + rank) * nz * ny * nx
            other = (predictors.others[c] - c) * size if predictors.others[c] >= 0 else 0
            seed = restore(0, planes.starts[b, c], planes.radii[c], planes.wide)
            if predictors.sequential[c]:
                count, position = visit(
                    mode, planes, predictors, predictors.groups[c, 0], coder, results, planes.radii[c],
                    coder.usual[b, c, 0], seed, first, other, natural, at, count, position,
                )  # fmt: skip
            else:
                count, position = _interpolate(
                    mode, planes, predictors, coder, results, sample, b, c, seed, first, other, natural, at, count,
                    position,
                )  # fmt: skip
            if position > end:
                return count, position
            if mode != CLASSIFY:
                output(planes, first, natural)
    return count, position
