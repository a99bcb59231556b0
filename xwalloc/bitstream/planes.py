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
from numba import njit
from numpy.typing import NDArray

from xwalloc.bitstream import rans
from xwalloc.bitstream.contexts import CAP, CLASSES, MAGNITUDES, ONE, Kind, Role, class_of, first_class, weights
from xwalloc.bitstream.rans import LANES, pop
from xwalloc.bitstream.tables import Tables, shipped
from xwalloc.errors import FormatError

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


@njit(nogil=True, cache=True)
def _magnitude(value):
    return min(abs(np.int64(value)), CAP)


@njit(nogil=True, cache=True)
def _group_sum(buffer, at, count):
    total = 0
    for i in range(at, at + count):
        total += _magnitude(buffer[i])
    return total


@njit(nogil=True, cache=True)
def _ratio(own, other):
    """How much larger this plane is than another one, in 1/256."""
    return min(own * ONE // max(other, 1), RATIO_CAP)


@njit(nogil=True, cache=True)
def _scan(
    buffer, planes, mask, symbol_weights, flag_weights, magnitudes, table_of, decoding, limit,
    values, contexts, expectations, symbols, frequencies, starts, words, states,
):  # fmt: skip
    """Visit every symbol of every plane in coding order.

    While encoding, its value and table go to `values` and `contexts` (and what is expected of it to `expectations`, unless
    that is empty); while decoding, it is read from `words`.
    Returns the number of symbols and the position in `words` (beyond its end: the stream is damaged).
    """
    count = 0
    position = 0
    has_mask = mask.shape[0] > 0
    for plane in planes:
        own = magnitudes[plane.code]
        if own == 0:
            continue
        base, sz, sy, nz, ny, nx = plane.base, plane.sz, plane.sy, plane.nz, plane.ny, plane.nx
        w = symbol_weights[1 if plane.previous >= 0 else 0]
        f = flag_weights[1 if plane.previous >= 0 else 0]
        w_self, w_mean, w_w, w_ww, w_n, w_diagonal, w_nn, w_u = w[0], w[1], w[2], w[3], w[4], w[5], w[6], w[7]
        w_previous = w_ring = f_previous = 0
        if plane.previous >= 0:
            ratio = _ratio(own, magnitudes[plane.previous_code])
            w_previous = w[8] * ratio
            w_ring = w[9] * ratio
            f_previous = f[5] * ratio // GROUP
        w_parent = w[10] * _ratio(own, magnitudes[plane.parent_code]) if plane.parent >= 0 else 0
        w_sibling = w[11] * _ratio(own, magnitudes[plane.sibling_code]) if plane.sibling >= 0 else 0
        standing_in = w_self * own
        if plane.parent < 0:
            standing_in += w[10] * own
        if plane.sibling < 0:
            standing_in += w[11] * own
        sparse = own < SPARSE_BELOW
        mean = own
        for z in range(nz):
            for y in range(ny):
                row = base + z * sz + y * sy
                previous_row = plane.previous + z * sz + y * sy
                sibling_row = plane.sibling + z * sz + y * sy
                parent_row = (
                    plane.parent
                    + min(z >> plane.parent_z, plane.parent_nz - 1) * sz
                    + min(y >> plane.parent_y, plane.parent_ny - 1) * sy
                )
                step = GROUP if sparse else nx
                for first in range(0, nx, step):
                    last = min(first + step, nx)
                    if has_mask:
                        valid = 0
                        for x in range(first, last):
                            valid += mask[row + x] == 0
                        if valid == 0:
                            continue
                    if sparse:
                        # The flag of a group: is there anything in it?
                        size = last - first
                        expected = f[0] * own + f[1] * mean
                        neighbour = own * GROUP if first == 0 else ONE * _group_sum(buffer, row + first - GROUP, GROUP)
                        expected += f[2] * neighbour // GROUP
                        neighbour = own * GROUP if y == 0 else ONE * _group_sum(buffer, row - sy + first, size)
                        expected += f[3] * neighbour // GROUP
                        if y > 0 and last < nx:
                            neighbour = ONE * _group_sum(buffer, row - sy + last, min(GROUP, nx - last))
                        expected += f[4] * neighbour // GROUP
                        if plane.previous >= 0:
                            expected += f_previous * _group_sum(buffer, previous_row + first, size)
                        context = table_of[2, class_of(expected >> 8)]
                        if decoding:
                            lane = count & (LANES - 1)
                            flag, state, position = pop(
                                states[lane], context, symbols, frequencies, starts, words, position
                            )
                            if position > words.shape[0]:
                                return count, position
                            states[lane] = state
                        else:
                            flag = 1 if _group_sum(buffer, row + first, size) else 0
                            values[count] = flag
                            contexts[count] = context
                            if expectations.shape[0]:
                                expectations[count] = expected >> 8
                        count += 1
                        if flag == 0:
                            mean -= (3 * mean) >> 3
                            continue
                    for x in range(first, last):
                        if has_mask and mask[row + x]:
                            continue
                        at = row + x
                        expected = standing_in + w_mean * mean
                        west = ONE * _magnitude(buffer[at - 1]) if x > 0 else own
                        expected += w_w * west
                        expected += w_ww * (ONE * _magnitude(buffer[at - 2]) if x > 1 else own)
                        if y > 0:
                            expected += w_n * ONE * _magnitude(buffer[at - sy])
                            diagonal = _magnitude(buffer[at - sy - 1]) * ONE if x > 0 else own
                            diagonal += _magnitude(buffer[at - sy + 1]) * ONE if x < nx - 1 else own
                            expected += w_diagonal * diagonal
                            expected += w_nn * (ONE * _magnitude(buffer[at - 2 * sy]) if y > 1 else own)
                        else:
                            expected += (w_n + 2 * w_diagonal + w_nn) * own
                        expected += w_u * (ONE * _magnitude(buffer[at - sz]) if z > 0 else own)
                        if w_previous or w_ring:
                            there = previous_row + x
                            expected += w_previous * _magnitude(buffer[there])
                            ring = _magnitude(buffer[there - 1]) if x > 0 else 0
                            ring += _magnitude(buffer[there + 1]) if x < nx - 1 else 0
                            ring += _magnitude(buffer[there - sy]) if y > 0 else 0
                            ring += _magnitude(buffer[there + sy]) if y < ny - 1 else 0
                            expected += w_ring * ring
                        if w_parent:
                            there = parent_row + min(x >> plane.parent_x, plane.parent_nx - 1)
                            expected += w_parent * _magnitude(buffer[there])
                        if w_sibling:
                            expected += w_sibling * _magnitude(buffer[sibling_row + x])
                        context = table_of[1 if sparse else 0, class_of(expected >> 8)]
                        if decoding:
                            lane = count & (LANES - 1)
                            value, state, position = pop(
                                states[lane], context, symbols, frequencies, starts, words, position
                            )
                            if position > words.shape[0] or abs(value) > limit:
                                return count, words.shape[0] + 1
                            states[lane] = state
                            buffer[at] = value
                        else:
                            value = np.int64(buffer[at])
                            values[count] = value
                            contexts[count] = context
                            if expectations.shape[0]:
                                expectations[count] = expected >> 8
                        count += 1
                        mean += ((min(abs(value), CAP) << 8) - mean) >> MEAN_SHIFT
    return count, position


def _symbols_at_most(planes: NDArray[np.void]) -> int:
    rows = planes["nz"] * planes["ny"]
    return int(np.sum(np.where(planes["code"] > 0, rows * (planes["nx"] + -(-planes["nx"] // GROUP)), 0)))


def _table_of(kind: Kind, tables: Tables) -> NDArray[np.uint16]:
    """Table of each class, (role, class)."""
    first = first_class(kind, Role.DENSE)
    return tables.index[first : first + len(Role) * CLASSES].reshape(len(Role), CLASSES)


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
        buffer, planes, mask, *weights(kind, dimensions), MAGNITUDES, _table_of(kind, tables), False, 0,
        values, contexts, _NO_EXPECTATIONS, tables.symbols, tables.frequencies, tables.starts, _NO_WORDS, _NO_STATES,
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
        buffer, planes, mask, *weights(kind, dimensions), MAGNITUDES, _table_of(kind, tables), True, limit,
        _NO_VALUES, _NO_CONTEXTS, _NO_EXPECTATIONS, tables.symbols, tables.frequencies, tables.starts, words, states,
    )  # fmt: skip
    if position > words.shape[0]:
        raise FormatError("A stream of the frame ends too early or holds impossible values.")
    rans.check_end(position, words, states)
