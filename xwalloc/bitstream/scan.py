# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""The scan over integer planes: every symbol in coding order, with the frequency table that its neighbours choose.

docs/format.md, section 7, says what is computed; here is how. What a symbol's table depends on falls into two parts.
Neighbours in other rows and planes are added up for many samples at once. Neighbours in the same row, and the running
mean, make a serial chain from symbol to symbol; kinds of planes whose weights leave them out (`is_serial`) have the
tables of a whole row before its first symbol is read.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream.contexts import CAP, DIRECT_CLASSES, ONE, large_class
from xwalloc.bitstream.rans import LANES, pop
from xwalloc.jit import inline_kernel, kernel

__all__ = ["GROUP", "SPARSE_BELOW", "is_serial", "scan", "scratch"]

GROUP = 8
SPARSE_BELOW = ONE // 8
"""Planes with a mean magnitude below this (in 1/256) are coded in groups."""

MEAN_SHIFT = 4
RATIO_CAP = 64 * ONE
U = np.uint64
_LANE = U(LANES - 1)

SERIAL, SERIAL_FLAG = slice(1, 4), slice(1, 3)
"""Features (contexts.py) that lie in the row of the symbol itself."""


def is_serial(symbol_weights: NDArray[np.int64], flag_weights: NDArray[np.int64]) -> bool:
    """Whether tables depend on symbols of the same row."""
    return bool(symbol_weights[:, SERIAL].any() or flag_weights[:, SERIAL_FLAG].any())


def scratch(planes: NDArray[np.void]) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """Memory for `scan`: expectations of a row, sums of groups of three rows; tables of a row and of its flags."""
    longest = int(planes["nx"].max(initial=1))
    return np.empty((4, longest + 2), np.int64), np.empty((2, longest), np.uint16)


@inline_kernel
def _size(value):
    """Magnitude of a symbol, as far as it counts."""
    return min(abs(np.int64(value)), CAP)


@kernel
def _group_sum(row, first, last):
    total = 0
    for x in range(first, last):
        total += _size(row[x])
    return total


@kernel
def _group_sums(row, sums):
    """Sums of magnitudes of all groups of a row."""
    whole = row.shape[0] // GROUP
    for g in range(whole):
        part = row[GROUP * g : GROUP * (g + 1)]
        bits = part[0]
        for k in range(1, GROUP):
            bits |= part[k]
        sums[g] = _group_sum(part, 0, GROUP) if bits else 0
    if whole * GROUP < row.shape[0]:
        sums[whole] = _group_sum(row, whole * GROUP, row.shape[0])


@inline_kernel
def _ratio(own, other):
    """How much larger this plane is than another one, in 1/256."""
    return min(own * ONE // max(other, 1), RATIO_CAP)


@inline_kernel
def _table(expected, tables, near_tables):
    """Table of an expected magnitude in 1/256."""
    if expected < DIRECT_CLASSES:
        return near_tables[U(expected)]
    return tables[large_class(expected)]


@inline_kernel
def _expect_flag(own, f, f_previous, mean, y, group, last, west, north, beyond):
    """Expected magnitude of a flag in 1/256; the mean magnitude of a group is its sum times 256 / GROUP."""
    size = f[0] * own + f[1] * mean + ((f_previous * beyond[group]) << 5)
    size += f[2] * ((west << 5) if group > 0 else own)
    if y > 0:
        size += (f[3] * north[group] + f[4] * north[min(group + 1, last)]) << 5
    else:
        size += (f[3] + f[4]) * own
    return size >> 8


@kernel
def _add_rows(expected, held, north, north_north, up, w_n, w_nn, w_u, w_d):
    """Expectations from rows before; `north` begins one sample to the west."""
    for x in range(expected.shape[0]):
        total = w_n * _size(north[x + 1]) + w_nn * _size(north_north[x]) + w_u * _size(up[x])
        total += w_d * (_size(north[x]) + _size(north[x + 2]))
        expected[x] = held + (total << 8)


@kernel
def _add_ring(expected, previous, above, below, w_p, w_r, w_above, w_below):
    """Add what the previous plane says; `previous` begins one sample to the west."""
    for x in range(expected.shape[0]):
        total = w_p * _size(previous[x + 1]) + w_r * (_size(previous[x]) + _size(previous[x + 2]))
        total += w_above * _size(above[x]) + w_below * _size(below[x])
        expected[x] += total << 8


@kernel
def _flag_tables(own, f, f_previous, y, north, beyond, tables, near_tables, contexts):
    """Tables of all flags of a row, where they do not depend on the row itself."""
    last = contexts.shape[0] - 1
    for group in range(last + 1):
        size = _expect_flag(own, f, f_previous, 0, y, group, last, 0, north, beyond)
        contexts[group] = _table(size, tables, near_tables)


@kernel
def _expect(buffer, plane, own, z, y, first, last, w, w_previous, w_ring, w_parent, w_sibling, expected):
    """Expected magnitudes, in 1/65536, of samples [first, last) of a row, but for what lies in the row itself.

    Rows that do not exist have no weight, and the row itself stands in for them, unread.
    """
    nx, sy, sz = plane.nx, plane.sy, plane.sz
    here = z * sz + y * sy
    at = plane.base + here
    row = buffer[at : at + nx]
    north, north_north, up = row, row, row
    w_n, w_d, w_nn, w_u = 0, 0, 0, 0
    if y > 0:
        w_n, w_d = w[4], w[5]
        north = buffer[at - sy : at - sy + nx]
    if y > 1:
        w_nn = w[6]
        north_north = buffer[at - 2 * sy : at - 2 * sy + nx]
    if z > 0:
        w_u = w[7]
        up = buffer[at - sz : at - sz + nx]
    previous, above, below = row, row, row
    w_p, w_r, w_above, w_below = 0, 0, 0, 0
    if plane.previous >= 0:
        w_p, w_r = w_previous, w_ring
        at = plane.previous + here
        previous = buffer[at : at + nx]
        if y > 0:
            w_above = w_ring
            above = buffer[at - sy : at - sy + nx]
        if y < plane.ny - 1:
            w_below = w_ring
            below = buffer[at + sy : at + sy + nx]
    held = own * (w[0] + (w[4] - w_n) + 2 * (w[5] - w_d) + (w[6] - w_nn) + (w[7] - w_u))
    if plane.parent < 0:
        held += w[10] * own
    if plane.sibling < 0:
        held += w[11] * own
    low, high = max(first, 1), min(last, nx - 1)
    if low < high:
        inner = expected[low:high]
        _add_rows(inner, held, north[low - 1 :], north_north[low:], up[low:], w_n, w_nn, w_u, w_d)
        if plane.previous >= 0:
            _add_ring(inner, previous[low - 1 :], above[low:], below[low:], w_p, w_r, w_above, w_below)
    for x in (0, nx - 1):
        if first <= x < last:
            total = w_n * _size(north[x]) + w_nn * _size(north_north[x]) + w_u * _size(up[x])
            total += w_p * _size(previous[x]) + w_above * _size(above[x]) + w_below * _size(below[x])
            outside = 0
            if x > 0:
                total += w_d * _size(north[x - 1]) + w_r * _size(previous[x - 1])
            else:
                outside += w_d * own
            if x < nx - 1:
                total += w_d * _size(north[x + 1]) + w_r * _size(previous[x + 1])
            else:
                outside += w_d * own
            expected[x] = held + outside + (total << 8)
    if plane.sibling >= 0 and w_sibling:
        at = plane.sibling + here
        sibling = buffer[at : at + nx]
        for x in range(first, last):
            expected[x] += (w_sibling * _size(sibling[x])) << 8
    if plane.parent >= 0 and w_parent:
        at = (
            plane.parent
            + min(z >> plane.parent_z, plane.parent_nz - 1) * sz
            + min(y >> plane.parent_y, plane.parent_ny - 1) * sy
        )
        parent = buffer[at : at + plane.parent_nx]
        shift, end = plane.parent_x, plane.parent_nx - 1
        for x in range(first, last):
            expected[x] += (w_parent * _size(parent[min(x >> shift, end)])) << 8


@kernel
def _tables(expected, tables, near_tables, contexts):
    """Tables of samples from their expected magnitudes in 1/65536."""
    far = 0
    for x in range(expected.shape[0]):
        size = expected[x] >> 8
        far += size >= DIRECT_CLASSES
        contexts[x] = near_tables[U(min(size, DIRECT_CLASSES - 1))]
    if far:
        for x in range(expected.shape[0]):
            contexts[x] = _table(expected[x] >> 8, tables, near_tables)


@kernel
def _put(row, values):
    """Put samples."""
    for x in range(row.shape[0]):
        values[x] = row[x]


@kernel
def _put_valid(row, holes, contexts, values, found):
    """Put samples, and their tables, where they are not masked; returns how many that are."""
    count = 0
    for x in range(row.shape[0]):
        if holes[x] == 0:
            values[count] = row[x]
            found[count] = contexts[x]
            count += 1
    return count


@kernel
def _get_row(row, holes, contexts, count, limit, symbols, spans, words, states, position):
    """Read samples whose tables are known; returns the new count and position."""
    masked = holes.shape[0] > 0
    largest = np.int64(0)
    for x in range(row.shape[0]):
        if masked and holes[x] != 0:
            continue
        lane = U(count) & _LANE
        value, state, position = pop(U(states[lane]), contexts[x], symbols, spans, words, position)
        states[lane] = state
        row[x] = value
        largest = max(largest, abs(value))
        count += 1
    if largest > limit:
        position = U(words.shape[0]) + U(1)
    return count, position


@kernel
def _put_serial(
    row, holes, first, last, expected, own, w, mean, tables, near_tables, count, values, found, expectations
):  # fmt: skip
    """`_put_row` where tables depend on the row itself; returns the new count and running mean."""
    masked = holes.shape[0] > 0
    tracing = expectations.shape[0] > 0
    w_mean, w_w, w_ww = w[1], w[2], w[3]
    west = _size(row[first - 1]) << 8 if first > 0 else own
    west_west = _size(row[first - 2]) << 8 if first > 1 else own
    for x in range(first, last):
        if masked and holes[x] != 0:
            west_west, west = west, 0
            continue
        size = (expected[x] + w_mean * mean + w_w * west + w_ww * west_west) >> 8
        values[count] = row[x]
        found[count] = _table(size, tables, near_tables)
        if tracing:
            expectations[count] = size
        count += 1
        west_west, west = west, _size(row[x]) << 8
        mean += (west - mean) >> MEAN_SHIFT
    return count, mean


@kernel
def _get_serial(
    row, holes, first, last, expected, own, w, mean, tables, near_tables, count, limit, symbols, spans, words, states,
    position,
):  # fmt: skip
    """`_get_row` where tables depend on the row itself; returns the new count, position and running mean."""
    masked = holes.shape[0] > 0
    w_mean, w_w, w_ww = w[1], w[2], w[3]
    west = _size(row[first - 1]) << 8 if first > 0 else own
    west_west = _size(row[first - 2]) << 8 if first > 1 else own
    largest = np.int64(0)
    for x in range(first, last):
        if masked and holes[x] != 0:
            west_west, west = west, 0
            continue
        size = (expected[x] + w_mean * mean + w_w * west + w_ww * west_west) >> 8
        lane = U(count) & _LANE
        context = _table(size, tables, near_tables)
        value, state, position = pop(U(states[lane]), context, symbols, spans, words, position)
        states[lane] = state
        row[x] = value
        largest = max(largest, abs(value))
        count += 1
        west_west, west = west, _size(value) << 8
        mean += (west - mean) >> MEAN_SHIFT
    if largest > limit:
        position = U(words.shape[0]) + U(1)
    return count, position, mean


@kernel
def scan(
    buffer, planes, mask, symbol_weights, flag_weights, serial, magnitudes, table_of, near_table_of, decoding, limit,
    values, found, expectations, symbols, spans, words, states, scratch, contexts,
):  # fmt: skip
    """Visit every symbol of every plane in coding order.

    While encoding, its value and table go to `values` and `found` (and what is expected of it to `expectations`,
    unless that is empty, if `serial`); while decoding, it is read from `words`. Returns the number of symbols and the
    position in `words` (beyond its end: the stream is damaged).
    """
    count = 0
    position = U(0)
    end = U(words.shape[0])
    has_mask = mask.shape[0] > 0
    tracing = expectations.shape[0] > 0
    expected, here, north, beyond = scratch[0], scratch[1], scratch[2], scratch[3]
    for plane in planes:
        own = magnitudes[plane.code]
        if own == 0:
            continue
        nx, ny = plane.nx, plane.ny
        following = 1 if plane.previous >= 0 else 0
        w, f = symbol_weights[following], flag_weights[following]
        w_previous, w_ring, w_parent, w_sibling, f_previous = 0, 0, 0, 0, 0
        if plane.previous >= 0:
            ratio = _ratio(own, magnitudes[plane.previous_code])
            w_previous, w_ring, f_previous = w[8] * ratio >> 8, w[9] * ratio >> 8, f[5] * ratio >> 8
        if plane.parent >= 0:
            w_parent = w[10] * _ratio(own, magnitudes[plane.parent_code]) >> 8
        if plane.sibling >= 0:
            w_sibling = w[11] * _ratio(own, magnitudes[plane.sibling_code]) >> 8
        sparse = own < SPARSE_BELOW
        role = 1 if sparse else 0
        step = GROUP if sparse else nx
        groups = -(-nx // GROUP)
        tables, near_tables = table_of[role], near_table_of[role]
        mean = own
        for z in range(plane.nz):
            for y in range(ny):
                at = plane.base + z * plane.sz + y * plane.sy
                row = buffer[at : at + nx]
                holes = mask[at : at + nx] if has_mask else mask
                if sparse:
                    here, north = north, here
                    if f_previous:
                        above = plane.previous + z * plane.sz + y * plane.sy
                        _group_sums(buffer[above : above + nx], beyond)
                    else:
                        for group in range(groups):
                            beyond[group] = 0
                    if not decoding:
                        _group_sums(row, here)
                    if not serial:
                        flags = contexts[1, :groups]
                        _flag_tables(own, f, f_previous, y, north, beyond, table_of[2], near_table_of[2], flags)
                for first in range(0, nx, step):
                    last = min(first + step, nx)
                    if has_mask:
                        valid = 0
                        for x in range(first, last):
                            valid += holes[x] == 0
                        if valid == 0:
                            if sparse:
                                here[first // GROUP] = 0
                            continue
                    if sparse:
                        # The flag of a group: is there anything in it?
                        group = first // GROUP
                        context = contexts[1, group]
                        if serial:
                            west = here[group - 1] if group > 0 else 0
                            size = _expect_flag(own, f, f_previous, mean, y, group, groups - 1, west, north, beyond)
                            context = _table(size, table_of[2], near_table_of[2])
                            if tracing:
                                expectations[count] = size
                        if decoding:
                            lane = U(count) & _LANE
                            flag, state, position = pop(U(states[lane]), context, symbols, spans, words, position)
                            states[lane] = state
                            if position > end:
                                return count, position
                        else:
                            flag = np.int64(1 if here[group] else 0)
                            values[count] = flag
                            found[count] = context
                        count += 1
                        if flag == 0:
                            here[group] = 0
                            mean -= (3 * mean) >> 3
                            continue
                    _expect(
                        buffer, plane, own, z, y, first, last, w, w_previous, w_ring, w_parent, w_sibling, expected
                    )  # fmt: skip
                    if not serial:
                        part = row[first:last]
                        part_holes = holes[first:last] if has_mask else holes
                        if decoding:
                            _tables(expected[first:last], tables, near_tables, contexts[0])
                            count, position = _get_row(
                                part, part_holes, contexts[0], count, limit, symbols, spans, words, states, position
                            )
                        elif has_mask:
                            _tables(expected[first:last], tables, near_tables, contexts[0])
                            count += _put_valid(part, part_holes, contexts[0], values[count:], found[count:])
                        else:
                            _tables(expected[first:last], tables, near_tables, found[count:])
                            _put(part, values[count:])
                            count += last - first
                    elif decoding:
                        count, position, mean = _get_serial(
                            row, holes, first, last, expected, own, w, mean, tables, near_tables, count, limit,
                            symbols, spans, words, states, position,
                        )  # fmt: skip
                    else:
                        count, mean = _put_serial(
                            row, holes, first, last, expected, own, w, mean, tables, near_tables, count, values, found,
                            expectations,
                        )  # fmt: skip
                    if position > end:
                        return count, position
                    if decoding and sparse:
                        here[first // GROUP] = _group_sum(row, first, last)
    return count, position
