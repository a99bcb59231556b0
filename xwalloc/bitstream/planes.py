# mypy: disable-error-code="no-untyped-def, no-untyped-call, operator"
"""Coding of integer planes: what contexts.py knows about neighbours, over what rans.py does with tables.

A *plane* is a box (z, y, x) of integers inside a flat buffer, scanned with x fastest: one subband of one latent, one
channel of lattice residuals, one channel of the residual layer. Planes are coded in order, and a plane may look at
planes before it: the *previous* one (same shape), its *parent* (a coarser subband: coordinates shifted) and its
*sibling* (same shape, another subband). Where a neighbour does not exist, the plane's own magnitude stands in for it.

Planes of small magnitude are *sparse*: runs of `GROUP` samples along x are announced by a flag, and a group of zeros
costs one flag.

Encoding classifies first (all values are known) and then runs rANS backwards; decoding interleaves both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream import rans
from xwalloc.bitstream.contexts import (
    CAP,
    CLASSES,
    DIRECT_CLASSES,
    MAGNITUDES,
    ONE,
    Kind,
    Role,
    direct_classes,
    first_class,
    large_class,
    weights,
)
from xwalloc.bitstream.rans import LANES, pop
from xwalloc.bitstream.tables import Tables, shipped
from xwalloc.errors import FormatError
from xwalloc.jit import allocating_kernel, kernel

__all__ = ["GROUP", "NO_PLANE", "PLANE_DTYPE", "decode", "encode", "planes_of"]

GROUP = 8
SPARSE_BELOW = ONE // 8
"""Planes with a mean magnitude below this (in 1/256) are coded in groups."""

MEAN_SHIFT = 4
RATIO_CAP = 64 * ONE
NO_PLANE = -1

PLANE_DTYPE = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("base", "nz", "ny", "nx", "sz", "sy", "code", "previous", "previous_code"),
            *("parent", "parent_code", "parent_z", "parent_y", "parent_x", "parent_nz", "parent_ny", "parent_nx"),
            *("sibling", "sibling_code"),
        )
    ]
)
"""One plane: offset of its first value in the flat buffer, extent, strides of z and y (x has stride 1; the planes it
looks at share the strides), magnitude code; offset and code of the previous plane; the parent, with the right shift of
each coordinate and its extent; the sibling. `NO_PLANE` as offset where there is none."""


def planes_of(count: int) -> NDArray[np.void]:
    """`count` planes that look at no other plane, to be filled in."""
    planes = np.zeros(count, PLANE_DTYPE)
    planes["nz"] = planes["ny"] = planes["nx"] = 1
    planes["parent_nz"] = planes["parent_ny"] = planes["parent_nx"] = 1
    planes["previous"] = planes["parent"] = planes["sibling"] = NO_PLANE
    return planes


@kernel
def _magnitude(value):
    """Magnitude of a symbol in 1/256."""
    return min(abs(np.int64(value)), CAP) << 8


@kernel
def _group_mean(row, first, last):
    """Mean magnitude of a group, in 1/256, as if it were whole."""
    total = 0
    if last - first == GROUP:
        for k in range(GROUP):
            total += min(abs(np.int64(row[first + k])), CAP)
    else:
        for x in range(first, last):
            total += min(abs(np.int64(row[x])), CAP)
    return total * (ONE // GROUP)


@kernel
def _add(static, weight, row):
    """Add weighted magnitudes of a whole row."""
    for x in range(static.shape[0]):
        static[x] += weight * _magnitude(row[x])


@kernel
def _ratio(own, other):
    """How much larger this plane is than another one, in 1/256."""
    return min(own * ONE // max(other, 1), RATIO_CAP)


@allocating_kernel
def _scan(
    buffer, planes, mask, symbol_weights, flag_weights, magnitudes, table_of, near_table_of, decoding, limit,
    values, contexts, expectations, symbols, spans, words, states,
):  # fmt: skip
    """Visit every symbol of every plane in coding order.

    While encoding, its value and table go to `values` and `contexts` (and what is expected of it to `expectations`,
    unless that is empty); while decoding, it is read from `words`. Returns the number of symbols and the position in
    `words` (beyond its end: the stream is damaged).
    """
    count = 0
    position = np.uint64(0)
    has_mask = mask.shape[0] > 0
    tracing = expectations.shape[0] > 0
    longest = 1
    for plane in planes:
        longest = max(longest, plane.nx)
    known = np.empty(longest, np.int64)
    # Means of the groups of this row and of the one to the north.
    here, there_north = np.zeros(longest // GROUP + 2, np.int64), np.zeros(longest // GROUP + 2, np.int64)
    end = np.uint64(words.shape[0])
    for plane in planes:
        own = magnitudes[plane.code]
        if own == 0:
            continue
        base, sz, sy, nz, ny, nx = plane.base, plane.sz, plane.sy, plane.nz, plane.ny, plane.nx
        w = symbol_weights[1 if plane.previous >= 0 else 0]
        f = flag_weights[1 if plane.previous >= 0 else 0]
        w_mean, w_w, w_ww = w[1], w[2], w[3]
        w_previous = w_ring = f_previous = 0
        if plane.previous >= 0:
            ratio = _ratio(own, magnitudes[plane.previous_code])
            w_previous, w_ring, f_previous = w[8] * ratio >> 8, w[9] * ratio >> 8, f[5] * ratio >> 8
        w_parent = w[10] * _ratio(own, magnitudes[plane.parent_code]) >> 8 if plane.parent >= 0 else 0
        w_sibling = w[11] * _ratio(own, magnitudes[plane.sibling_code]) >> 8 if plane.sibling >= 0 else 0
        standing_in = w[0] * own
        if plane.parent < 0:
            standing_in += w[10] * own
        if plane.sibling < 0:
            standing_in += w[11] * own
        sparse = own < SPARSE_BELOW
        role = 1 if sparse else 0
        step = GROUP if sparse else nx
        tables, near_tables = table_of[role], near_table_of[role]
        mean = own
        for z in range(nz):
            for y in range(ny):
                # Rows that are looked at; where one does not exist, its weight goes to the plane's own magnitude and
                # the row itself stands in, unread.
                at = base + z * sz + y * sy
                row = buffer[at : at + nx]
                north = buffer[at - sy : at - sy + nx] if y > 0 else row
                holes = mask[at : at + nx] if has_mask else mask
                above = plane.previous + z * sz + y * sy
                previous = buffer[above : above + nx] if plane.previous >= 0 else row
                filled = False
                here, there_north = there_north, here
                group = -1
                for first in range(0, nx, step):
                    last = min(first + step, nx)
                    group += 1
                    if has_mask:
                        valid = 0
                        for x in range(first, last):
                            valid += holes[x] == 0
                        if valid == 0:
                            here[group] = 0
                            continue
                    if sparse:
                        # The flag of a group: is there anything in it?
                        before = here[group - 1] if first > 0 else own
                        above_group = there_north[group] if y > 0 else own
                        beyond = there_north[group + 1] if y > 0 and last < nx else above_group
                        expected = f[0] * own + f[1] * mean + f[2] * before + f[3] * above_group + f[4] * beyond
                        if f_previous:
                            expected += f_previous * _group_mean(previous, first, last)
                        expected >>= 8
                        if expected < DIRECT_CLASSES:
                            context = near_table_of[2, expected]
                        else:
                            context = table_of[2, large_class(expected)]
                        if decoding:
                            lane = np.uint64(count) & np.uint64(LANES - 1)
                            flag, state, position = pop(
                                np.uint64(states[lane]), context, symbols, spans, words, position
                            )
                            if position > end:
                                return count, position
                            states[lane] = state
                        else:
                            here[group] = _group_mean(row, first, last)
                            flag = 1 if here[group] else 0
                            values[count] = flag
                            contexts[count] = context
                            if tracing:
                                expectations[count] = expected
                        count += 1
                        if flag == 0:
                            here[group] = 0
                            mean -= (3 * mean) >> 3
                            continue
                    if not filled:
                        # What does not depend on this row, for all of it at once.
                        filled = True
                        static = known[:nx]
                        w_n, w_d, w_nn, w_u = 0, 0, 0, 0
                        if y > 0:
                            w_n, w_d = w[4], w[5]
                        if y > 1:
                            w_nn = w[6]
                        if z > 0:
                            w_u = w[7]
                        held = standing_in + ((w[4] - w_n) + 2 * (w[5] - w_d) + (w[6] - w_nn) + (w[7] - w_u)) * own
                        for x in range(nx):
                            static[x] = held
                        if w_n:
                            for x in range(nx):
                                static[x] += w_n * _magnitude(north[x])
                        if w_d:
                            for x in range(1, nx):
                                static[x] += w_d * _magnitude(north[x - 1])
                            for x in range(nx - 1):
                                static[x] += w_d * _magnitude(north[x + 1])
                            static[0] += w_d * own
                            static[nx - 1] += w_d * own
                        if w_nn:
                            _add(static, w_nn, buffer[at - 2 * sy : at - 2 * sy + nx])
                        if w_u:
                            _add(static, w_u, buffer[at - sz : at - sz + nx])
                        if w_previous:
                            _add(static, w_previous, previous)
                        if w_ring:
                            for x in range(1, nx):
                                static[x] += w_ring * _magnitude(previous[x - 1])
                            for x in range(nx - 1):
                                static[x] += w_ring * _magnitude(previous[x + 1])
                            if y > 0:
                                _add(static, w_ring, buffer[above - sy : above - sy + nx])
                            if y < ny - 1:
                                _add(static, w_ring, buffer[above + sy : above + sy + nx])
                        if w_sibling:
                            there = plane.sibling + z * sz + y * sy
                            _add(static, w_sibling, buffer[there : there + nx])
                        if w_parent:
                            there = (
                                plane.parent
                                + min(z >> plane.parent_z, plane.parent_nz - 1) * sz
                                + min(y >> plane.parent_y, plane.parent_ny - 1) * sy
                            )
                            parent = buffer[there : there + plane.parent_nx]
                            parent_x, parent_last = plane.parent_x, plane.parent_nx - 1
                            for x in range(nx):
                                static[x] += w_parent * _magnitude(parent[min(x >> parent_x, parent_last)])
                    west = _magnitude(row[first - 1]) if first > 0 else own
                    west_west = _magnitude(row[first - 2]) if first > 1 else own
                    for x in range(first, last):
                        if has_mask and holes[x]:
                            west_west, west = west, 0
                            continue
                        expected = (static[x] + w_mean * mean + w_w * west + w_ww * west_west) >> 8
                        if expected < DIRECT_CLASSES:
                            context = near_tables[np.uint64(expected)]
                        else:
                            context = tables[large_class(expected)]
                        if decoding:
                            lane = np.uint64(count) & np.uint64(LANES - 1)
                            value, state, position = pop(
                                np.uint64(states[lane]), context, symbols, spans, words, position
                            )
                            size = abs(value)
                            if position > end or size > limit:
                                return count, end + np.uint64(1)
                            states[lane] = state
                            row[x] = value
                        else:
                            value = np.int64(row[x])
                            size = abs(value)
                            values[count] = value
                            contexts[count] = context
                            if tracing:
                                expectations[count] = expected
                        count += 1
                        west_west, west = west, min(size, CAP) << 8
                        mean += (west - mean) >> MEAN_SHIFT
                    if decoding and sparse:
                        here[group] = _group_mean(row, first, last)
    return count, position


def _symbols_at_most(planes: NDArray[np.void]) -> int:
    rows = planes["nz"] * planes["ny"]
    return int(np.sum(np.where(planes["code"] > 0, rows * (planes["nx"] + -(-planes["nx"] // GROUP)), 0)))


def _table_of(kind: Kind, tables: Tables) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """Table of each class, (role, class), and of each small expected magnitude, (role, magnitude)."""
    first = first_class(kind, Role.DENSE)
    table_of = tables.index[first : first + len(Role) * CLASSES].reshape(len(Role), CLASSES)
    return table_of, table_of[:, direct_classes()]


NO_MASK: NDArray[np.uint8] = np.empty(0, np.uint8)
_NO_VALUES = np.empty(0, np.int32)
_NO_CONTEXTS = np.empty(0, np.uint16)
_NO_EXPECTATIONS = np.empty(0, np.int64)
_NO_WORDS = np.empty(0, np.uint16)
_NO_STATES = np.empty(0, np.int64)


def classify(
    buffer: NDArray[np.signedinteger],
    planes: NDArray[np.void],
    kind: Kind,
    dimensions: int,
    mask: NDArray[np.uint8] = NO_MASK,
    tables: Tables | None = None,
) -> tuple[NDArray[np.signedinteger], NDArray[np.uint16]]:
    """Symbols of the planes in coding order, and the table of each."""
    tables = tables or shipped()
    room = _symbols_at_most(planes)
    values = np.empty(room, buffer.dtype)
    contexts = np.empty(room, np.uint16)
    count, _ = _scan(
        buffer, planes, mask, *weights(kind, dimensions), MAGNITUDES, *_table_of(kind, tables), False, 0,
        values, contexts, _NO_EXPECTATIONS, tables.symbols, tables.spans, _NO_WORDS, _NO_STATES,
    )  # fmt: skip
    return values[:count], contexts[:count]


def encode(
    buffer: NDArray[np.signedinteger],
    planes: NDArray[np.void],
    kind: Kind,
    dimensions: int,
    mask: NDArray[np.uint8] = NO_MASK,
) -> bytes:
    """Code planes of integers.

    Parameters
    ----------
    buffer : (n,) int32 or int64
        Flat buffer that holds the planes; values lie above the minimum of the type.
    planes : (planes,) PLANE_DTYPE
        The planes in coding order.
    kind, dimensions
        Which weights and tables to use (contexts.py).
    mask : (n,) uint8, optional
        Samples that are not coded, where it is not 0; they must be 0 in `buffer`.
    """
    tables = shipped()
    return rans.encode(*classify(buffer, planes, kind, dimensions, mask, tables), tables)


def decode(
    data: bytes,
    buffer: NDArray[np.signedinteger],
    planes: NDArray[np.void],
    kind: Kind,
    dimensions: int,
    mask: NDArray[np.uint8] = NO_MASK,
) -> None:
    """Inverse of `encode`; `buffer` must be all zeros where the planes lie, and is filled.

    Raises
    ------
    FormatError
        If the stream does not fit the planes.
    """
    tables = shipped()
    states, words = rans.unpack_stream(data)
    limit = int(np.iinfo(buffer.dtype).max)
    _, position = _scan(
        buffer, planes, mask, *weights(kind, dimensions), MAGNITUDES, *_table_of(kind, tables), True, limit,
        _NO_VALUES, _NO_CONTEXTS, _NO_EXPECTATIONS, tables.symbols, tables.spans, words, states,
    )  # fmt: skip
    if position > words.shape[0]:
        raise FormatError("A stream of the frame ends too early or holds impossible values.")
    rans.check_end(position, words, states)
