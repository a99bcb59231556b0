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

from xwalloc.bitstream.contexts import ONE
from xwalloc.bitstream.expectations import (
    GROUP,
    expect,
    expect_flag,
    flag_tables,
    group_sum,
    group_sums,
    ratio,
    size_of,
    table_for,
    tables_for,
)
from xwalloc.bitstream.rans import pop
from xwalloc.jit import kernel

__all__ = ["GROUP", "SPARSE_BELOW", "is_serial", "scan", "scratch"]

SPARSE_BELOW = ONE // 8
"""Planes with a mean magnitude below this (in 1/256) are coded in groups."""

MEAN_SHIFT = 4
U = np.uint64

SERIAL, SERIAL_FLAG = slice(1, 4), slice(1, 3)
"""Features (contexts.py) that lie in the row of the symbol itself."""


def is_serial(symbol_weights: NDArray[np.int64], flag_weights: NDArray[np.int64]) -> bool:
    """Whether tables depend on symbols of the same row."""
    return bool(symbol_weights[:, SERIAL].any() or flag_weights[:, SERIAL_FLAG].any())


def scratch(
    planes: NDArray[np.void], flags_first: bool
) -> tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.bool_]]:
    """Memory for `scan`.

    Returns
    -------
    expectations of a row, sums of groups of three rows; tables of a row and of its flags; flags of a plane, if they
    stand before its samples.
    """
    longest = int(planes["nx"].max(initial=1))
    groups = 0
    if flags_first:
        groups = int((planes["nz"] * planes["ny"] * -(-planes["nx"] // GROUP)).max(initial=0))
    flags = np.empty(groups, np.bool_)
    return np.empty((4, longest + 2), np.int64), np.empty((2, longest), np.uint16), flags


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
    last_lane = U(states.shape[0] - 1)
    largest = np.int64(0)
    for x in range(row.shape[0]):
        if masked and holes[x] != 0:
            continue
        lane = U(count) & last_lane
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
    """`_put_valid` where tables depend on the row itself; returns the new count and running mean."""
    masked = holes.shape[0] > 0
    tracing = expectations.shape[0] > 0
    w_mean, w_w, w_ww = w[1], w[2], w[3]
    west = size_of(row[first - 1]) << 8 if first > 0 else own
    west_west = size_of(row[first - 2]) << 8 if first > 1 else own
    for x in range(first, last):
        if masked and holes[x] != 0:
            west_west, west = west, 0
            continue
        size = (expected[x] + w_mean * mean + w_w * west + w_ww * west_west) >> 8
        values[count] = row[x]
        found[count] = table_for(size, tables, near_tables)
        if tracing:
            expectations[count] = size
        count += 1
        west_west, west = west, size_of(row[x]) << 8
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
    west = size_of(row[first - 1]) << 8 if first > 0 else own
    west_west = size_of(row[first - 2]) << 8 if first > 1 else own
    last_lane = U(states.shape[0] - 1)
    largest = np.int64(0)
    for x in range(first, last):
        if masked and holes[x] != 0:
            west_west, west = west, 0
            continue
        size = (expected[x] + w_mean * mean + w_w * west + w_ww * west_west) >> 8
        lane = U(count) & last_lane
        context = table_for(size, tables, near_tables)
        value, state, position = pop(U(states[lane]), context, symbols, spans, words, position)
        states[lane] = state
        row[x] = value
        largest = max(largest, abs(value))
        count += 1
        west_west, west = west, size_of(value) << 8
        mean += (west - mean) >> MEAN_SHIFT
    if largest > limit:
        position = U(words.shape[0]) + U(1)
    return count, position, mean


@kernel
def scan(
    buffer, planes, mask, symbol_weights, flag_weights, serial, flags_first, magnitudes, table_of, near_table_of,
    decoding, limit, values, found, expectations, symbols, spans, words, states, scratch, contexts, flags,
):  # fmt: skip
    """Visit every symbol of every plane in coding order.

    While encoding, its value and table go to `values` and `found` (and what is expected of it to `expectations`,
    unless that is empty, if `serial`); while decoding, it is read from `words`. With `flags_first`, which is for planes
    that are not serial and whose flags have no weight on the same plane, sparse planes are visited twice. Returns the
    number of symbols and the position in `words` (beyond its end: the stream is damaged).
    """
    count = 0
    position = U(0)
    end, last_lane = U(words.shape[0]), U(states.shape[0] - 1)
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
            larger = ratio(own, magnitudes[plane.previous_code])
            w_previous, w_ring, f_previous = w[8] * larger >> 8, w[9] * larger >> 8, f[5] * larger >> 8
        if plane.parent >= 0:
            w_parent = w[10] * ratio(own, magnitudes[plane.parent_code]) >> 8
        if plane.sibling >= 0:
            w_sibling = w[11] * ratio(own, magnitudes[plane.sibling_code]) >> 8
        sparse = own < SPARSE_BELOW
        role = 1 if sparse else 0
        step = GROUP if sparse else nx
        groups = -(-nx // GROUP)
        tables, near_tables = table_of[role], near_table_of[role]
        mean = own
        visits = 2 if sparse and flags_first else 1
        for visit in range(visits):
            for row_index in range(plane.nz * ny):
                z, y = row_index // ny, row_index % ny
                at = plane.base + z * plane.sz + y * plane.sy
                row = buffer[at : at + nx]
                holes = mask[at : at + nx] if has_mask else mask
                if sparse and visit == 0:
                    here, north = north, here
                    if f_previous:
                        above = plane.previous + z * plane.sz + y * plane.sy
                        group_sums(buffer[above : above + nx], beyond)
                    else:
                        for group in range(groups):
                            beyond[group] = 0
                    if not decoding:
                        group_sums(row, here)
                    if not serial:
                        flag_tables(
                            own, f, f_previous, y, north, beyond, table_of[2], near_table_of[2], contexts[1, :groups]
                        )  # fmt: skip
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
                    group = first // GROUP
                    if visit == 1 and not flags[row_index * groups + group]:
                        continue
                    if sparse and visit == 0:
                        # The flag of a group: is there anything in it?
                        context = contexts[1, group]
                        if serial:
                            west = here[group - 1] if group > 0 else 0
                            size = expect_flag(own, f, f_previous, mean, y, group, groups - 1, west, north, beyond)
                            context = table_for(size, table_of[2], near_table_of[2])
                            if tracing:
                                expectations[count] = size
                        if decoding:
                            lane = U(count) & last_lane
                            flag, state, position = pop(U(states[lane]), context, symbols, spans, words, position)
                            states[lane] = state
                            if position > end:
                                return count, position
                        else:
                            flag = np.int64(1 if here[group] else 0)
                            values[count] = flag
                            found[count] = context
                        count += 1
                        if flags_first:
                            flags[row_index * groups + group] = flag != 0
                            continue
                        if flag == 0:
                            here[group] = 0
                            mean -= (3 * mean) >> 3
                            continue
                    expect(
                        buffer, plane, own, z, y, first, last, w, w_previous, w_ring, w_parent, w_sibling, expected
                    )  # fmt: skip
                    if not serial:
                        part = row[first:last]
                        part_holes = holes[first:last] if has_mask else holes
                        if decoding:
                            tables_for(expected[first:last], tables, near_tables, contexts[0])
                            count, position = _get_row(
                                part, part_holes, contexts[0], count, limit, symbols, spans, words, states, position
                            )
                        elif has_mask:
                            tables_for(expected[first:last], tables, near_tables, contexts[0])
                            count += _put_valid(part, part_holes, contexts[0], values[count:], found[count:])
                        else:
                            tables_for(expected[first:last], tables, near_tables, found[count:])
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
                        here[first // GROUP] = group_sum(row, first, last)
    return count, position
