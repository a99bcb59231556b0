# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Expected magnitudes of symbols and of group flags, and the frequency tables that they choose.

docs/format.md, sections 7.3 and 7.4, says what is computed. Everything here is integer arithmetic, for many samples at
a time: what lies in the row of a symbol itself is added by those who scan it (scan.py).
"""

from __future__ import annotations

import numpy as np

from xwalloc.bitstream.contexts import CAP, DIRECT_CLASSES, ONE, large_class
from xwalloc.jit import inline_kernel, kernel

__all__ = [
    "GROUP",
    "expect",
    "expect_flag",
    "flag_tables",
    "group_sum",
    "group_sums",
    "ratio",
    "size_of",
    "table_for",
    "tables_for",
]

GROUP = 8
RATIO_CAP = 64 * ONE


@inline_kernel
def size_of(value):
    """Magnitude of a symbol, as far as it counts."""
    return min(abs(np.int64(value)), CAP)


@kernel
def group_sum(row, first, last):
    """Sum of magnitudes of samples [first, last) of a row."""
    total = 0
    for x in range(first, last):
        total += size_of(row[x])
    return total


@kernel
def group_sums(row, sums):
    """Sums of magnitudes of all groups of a row."""
    whole = row.shape[0] // GROUP
    for g in range(whole):
        part = row[GROUP * g : GROUP * (g + 1)]
        bits = part[0]
        for k in range(1, GROUP):
            bits |= part[k]
        sums[g] = group_sum(part, 0, GROUP) if bits else 0
    if whole * GROUP < row.shape[0]:
        sums[whole] = group_sum(row, whole * GROUP, row.shape[0])


@inline_kernel
def ratio(own, other):
    """How much larger this plane is than another one, in 1/256."""
    return min(own * ONE // max(other, 1), RATIO_CAP)


@inline_kernel
def table_for(expected, tables, near_tables):
    """Table of an expected magnitude in 1/256."""
    if expected < DIRECT_CLASSES:
        return near_tables[np.uint64(expected)]
    return tables[large_class(expected)]


@inline_kernel
def expect_flag(own, f, f_previous, mean, y, group, last, west, north, beyond):
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
        total = w_n * size_of(north[x + 1]) + w_nn * size_of(north_north[x]) + w_u * size_of(up[x])
        total += w_d * (size_of(north[x]) + size_of(north[x + 2]))
        expected[x] = held + (total << 8)


@kernel
def _add_ring(expected, previous, above, below, w_p, w_r, w_above, w_below):
    """Add what the previous plane says; `previous` begins one sample to the west."""
    for x in range(expected.shape[0]):
        total = w_p * size_of(previous[x + 1]) + w_r * (size_of(previous[x]) + size_of(previous[x + 2]))
        total += w_above * size_of(above[x]) + w_below * size_of(below[x])
        expected[x] += total << 8


@kernel
def flag_tables(own, f, f_previous, y, north, beyond, tables, near_tables, contexts):
    """Tables of all flags of a row, where they do not depend on the row itself."""
    last = contexts.shape[0] - 1
    for group in range(last + 1):
        size = expect_flag(own, f, f_previous, 0, y, group, last, 0, north, beyond)
        contexts[group] = table_for(size, tables, near_tables)


@kernel
def expect(buffer, plane, own, z, y, first, last, w, w_previous, w_ring, w_parent, w_sibling, expected):
    """Expected magnitudes, in 1/65536, of samples [first, last) of a row, but for what lies in the row itself.

    Rows that do not exist have no weight; the row itself stands in for them.
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
            total = w_n * size_of(north[x]) + w_nn * size_of(north_north[x]) + w_u * size_of(up[x])
            total += w_p * size_of(previous[x]) + w_above * size_of(above[x]) + w_below * size_of(below[x])
            outside = 0
            if x > 0:
                total += w_d * size_of(north[x - 1]) + w_r * size_of(previous[x - 1])
            else:
                outside += w_d * own
            if x < nx - 1:
                total += w_d * size_of(north[x + 1]) + w_r * size_of(previous[x + 1])
            else:
                outside += w_d * own
            expected[x] = held + outside + (total << 8)
    if plane.sibling >= 0 and w_sibling:
        at = plane.sibling + here
        sibling = buffer[at : at + nx]
        for x in range(first, last):
            expected[x] += (w_sibling * size_of(sibling[x])) << 8
    if plane.parent >= 0 and w_parent:
        at = (
            plane.parent
            + min(z >> plane.parent_z, plane.parent_nz - 1) * sz
            + min(y >> plane.parent_y, plane.parent_ny - 1) * sy
        )
        parent = buffer[at : at + plane.parent_nx]
        shift, end = plane.parent_x, plane.parent_nx - 1
        for x in range(first, last):
            expected[x] += (w_parent * size_of(parent[min(x >> shift, end)])) << 8


@kernel
def tables_for(expected, tables, near_tables, contexts):
    """Tables of samples from their expected magnitudes in 1/65536."""
    far = 0
    for x in range(expected.shape[0]):
        size = expected[x] >> 8
        far += size >= DIRECT_CLASSES
        contexts[x] = near_tables[np.uint64(min(size, DIRECT_CLASSES - 1))]
    if far:
        for x in range(expected.shape[0]):
            contexts[x] = table_for(expected[x] >> 8, tables, near_tables)
