# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Triton kernels of the entropy coder: planes of integers <-> streams, to the byte what bitstream/ does on a CPU.

One program codes one stream, with one lane of the tensor for each lane of the stream: `LANES` symbols at a time. In
the order of frames that this is for (`Order.FLAGS_FIRST`), the tables of all flags, then of all samples of a plane
follow from planes before it, so that nothing but the states makes a chain.

Lanes take their words from one stream, in the order of their symbols. How many words a symbol takes follows from its
token and the high bits of the state, but not from words that are still to be read, except where its token is escaped:
so a prefix sum over the lanes says where each reads. Escaped tokens, which are rare, are looked up one after the other.

Integers are 64 bits wide where they may exceed 31.
"""

from __future__ import annotations

import triton
import triton.language as tl

from xwalloc.bitstream import contexts, expectations, rans, scan, tables

__all__ = [
    "GEOMETRY",
    "LOOKS",
    "PART",
    "STREAM",
    "WEIGHTS",
    "count_kernel",
    "decode_kernel",
    "encode_kernel",
    "histogram_kernel",
    "look_kernel",
    "put_kernel",
]

STREAM = 7
"""Columns of a stream: its first plane among all planes of the call, and how many it has; first word, words, first
state; first of its tables; where its scratch begins."""

PART = 5
"""Columns of a part of a section, one for each stream: its first plane in the geometry, the first of their codes; where
its section begins in the values, and in the mask; its weights."""

LOOKS = 24
"""Columns of a plane as the other kernels want it: stated magnitude, base in the values and in the mask, extent nz, ny,
nx, strides sz, sy; bases of previous plane, parent and sibling; weights of previous plane, ring, parent and sibling,
and what is expected without them; the same two of flags; shifts of the parent, and its last places (z, y, x)."""

GEOMETRY = 15
"""Columns of a plane: base, nz, ny, nx, sz, sy; previous plane, parent and its shifts and extent (z, y, x), sibling.
Planes are named by their place in the stream, -1 for none."""

WEIGHTS = 7
"""Columns of weights: self, previous, ring, parent, sibling of samples; self, previous of flags. Two rows: for planes
without and with a previous plane."""

_STREAM, _PART, _LOOKS = tl.constexpr(STREAM), tl.constexpr(PART), tl.constexpr(LOOKS)
_GEOMETRY, _WEIGHTS = tl.constexpr(GEOMETRY), tl.constexpr(WEIGHTS)
_GROUP, _ONE, _RATIO_CAP = tl.constexpr(scan.GROUP), tl.constexpr(contexts.ONE), tl.constexpr(expectations.RATIO_CAP)
_SPARSE_BELOW = tl.constexpr(scan.SPARSE_BELOW)
_CLASSES, _ROLES = tl.constexpr(contexts.CLASSES), tl.constexpr(len(contexts.Role))
_LOWER = tl.constexpr(rans.LOWER)
_ESCAPE, _LAST_TOKEN, _DIRECT = tl.constexpr(tables.ESCAPE), tl.constexpr(rans.LAST_TOKEN), tl.constexpr(rans.DIRECT)
_TOKEN_BITS, _TOKEN_MASK = tl.constexpr(rans.TOKEN_BITS), tl.constexpr((1 << rans.TOKEN_BITS) - 1)
_DENSE_ROLE, _GROUPED_ROLE = tl.constexpr(int(contexts.Role.DENSE)), tl.constexpr(int(contexts.Role.GROUPED))
_FLAG_ROLE = tl.constexpr(int(contexts.Role.FLAG))
_MOST_RAW = tl.constexpr(31)  # of integers of 32 bits


@triton.jit
def _class_of(expected):
    """Class of expected magnitudes, below 2^62."""
    bits = expected.to(tl.float64).to(tl.int64, bitcast=True)
    log2 = (bits >> 52) - 1023
    log2 -= ((expected >> tl.maximum(log2, 0)) == 0).to(tl.int64)  # beyond 2^53, some are rounded up to a power of two
    near = 4 * log2 - 4 + ((bits >> 50) & 3)
    far = tl.minimum(log2 + 50, _CLASSES - 1)
    return tl.where(expected < 4, expected, tl.where(log2 < 18, near, far)).to(tl.int32)


@triton.jit
def _linked(plane, column: tl.constexpr, first, codes, magnitudes, own):
    """Base of a plane that another one looks at, how much larger that one is, and whether it says anything."""
    index = tl.load(plane + column).to(tl.int64)
    base = index * 0
    larger = own * 0
    there = larger
    if index >= 0:
        magnitude = tl.load(magnitudes + tl.load(codes + index).to(tl.int64))
        base = tl.load(first + index * _GEOMETRY).to(tl.int64)
        if magnitude > 0:
            larger = tl.minimum(own * _ONE // magnitude, _RATIO_CAP)
            there = larger * 0 + 1
    return base, larger, there


@triton.jit
def look_kernel(parts, plane_of, geometry, codes, magnitudes, weights, looks):
    """What the other kernels want to know of a plane; one program for each plane of each stream.

    Parameters
    ----------
    parts : (stream, PART) int64
    plane_of : (plane, 2) int32
        Stream of each plane, and its place there.
    geometry : (plane, GEOMETRY) int32
    codes : (n,) uint8
        Magnitude codes of planes.
    magnitudes : (code,) int64
        What they state.
    weights : (n, 2, WEIGHTS) int64
    looks : (plane, LOOKS) int64
        Gets the planes.
    """
    index = tl.program_id(0).to(tl.int64)
    row = parts + tl.load(plane_of + 2 * index) * _PART
    place = tl.load(plane_of + 2 * index + 1)
    first = geometry + tl.load(row) * _GEOMETRY
    codes += tl.load(row + 1)
    values_at = tl.load(row + 2)
    mask_at = tl.load(row + 3)
    weights += tl.load(row + 4) * (2 * _WEIGHTS)
    plane = first + place * _GEOMETRY
    own = tl.load(magnitudes + tl.load(codes + place).to(tl.int64))
    previous, larger, has_previous = _linked(plane, 6, first, codes, magnitudes, own)
    parent, than_parent, has_parent = _linked(plane, 7, first, codes, magnitudes, own)
    sibling, than_sibling, has_sibling = _linked(plane, 14, first, codes, magnitudes, own)
    w = weights + has_previous * _WEIGHTS
    held = own * (tl.load(w) + (1 - has_parent) * tl.load(w + 3) + (1 - has_sibling) * tl.load(w + 4))
    base = tl.load(plane).to(tl.int64)
    out = looks + index * _LOOKS
    tl.store(out, own)
    tl.store(out + 1, values_at + base)
    tl.store(out + 2, mask_at + base)
    for column in tl.static_range(5):
        tl.store(out + 3 + column, tl.load(plane + 1 + column).to(tl.int64))
    tl.store(out + 8, values_at + previous)
    tl.store(out + 9, values_at + parent)
    tl.store(out + 10, values_at + sibling)
    tl.store(out + 11, tl.load(w + 1) * larger >> 8)
    tl.store(out + 12, tl.load(w + 2) * larger >> 8)
    tl.store(out + 13, tl.load(w + 3) * than_parent >> 8)
    tl.store(out + 14, tl.load(w + 4) * than_sibling >> 8)
    tl.store(out + 15, held >> 8)
    tl.store(out + 16, tl.load(w + 6) * larger >> 8)
    tl.store(out + 17, own * tl.load(w + 5))
    for column in tl.static_range(3):
        tl.store(out + 18 + column, tl.load(plane + 8 + column).to(tl.int64))
        tl.store(out + 21 + column, tl.load(plane + 11 + column).to(tl.int64) - 1)


@triton.jit
def _extent(look):
    """Base in the values and in the mask, ny, nx, sz, sy, rows of a plane."""
    ny = tl.load(look + 4).to(tl.int32)
    nx = tl.load(look + 5).to(tl.int32)
    rows = tl.load(look + 3).to(tl.int32) * ny
    return tl.load(look + 1), tl.load(look + 2), ny, nx, tl.load(look + 6), tl.load(look + 7), rows


@triton.jit
def _others(look):
    """Bases and weights of the planes that a plane looks at, what is expected without them; parent's shifts and ends.

    All weights are below 2^31: a product of two such numbers takes one instruction.
    """
    return (
        tl.load(look + 8), tl.load(look + 9), tl.load(look + 10), tl.load(look + 11).to(tl.int32),
        tl.load(look + 12).to(tl.int32), tl.load(look + 13).to(tl.int32), tl.load(look + 14).to(tl.int32),
        tl.load(look + 15), tl.load(look + 18).to(tl.int32), tl.load(look + 19).to(tl.int32),
        tl.load(look + 20).to(tl.int32), tl.load(look + 21).to(tl.int32), tl.load(look + 22).to(tl.int32),
        tl.load(look + 23).to(tl.int32),
    )  # fmt: skip


@triton.jit
def _weighed(values, place, weight, inside):
    """Magnitudes of values at places, times a weight."""
    return tl.abs(tl.load(values + place, mask=inside, other=0)).to(tl.int64) * weight.to(tl.int64)


@triton.jit
def _expected(values, others, z, y, x, ny, nx, sz, sy, active):
    """Expected magnitudes of samples of a plane."""
    (
        previous, parent, sibling, w_previous, w_ring, w_parent, w_sibling, held, shift_z, shift_y, shift_x, end_z,
        end_y, end_x,
    ) = others  # fmt: skip
    here = z * sz + y * sy + x
    total = here * 0 + held
    if w_previous > 0:
        total += _weighed(values, previous + here, w_previous, active)
    if w_ring > 0:
        at = previous + here
        total += _weighed(values, at - 1, w_ring, active & (x > 0))
        total += _weighed(values, at + 1, w_ring, active & (x < nx - 1))
        total += _weighed(values, at - sy, w_ring, active & (y > 0))
        total += _weighed(values, at + sy, w_ring, active & (y < ny - 1))
    if w_parent > 0:
        at = parent + tl.minimum(z >> shift_z, end_z) * sz + tl.minimum(y >> shift_y, end_y) * sy
        total += _weighed(values, at + tl.minimum(x >> shift_x, end_x), w_parent, active)
    if w_sibling > 0:
        total += _weighed(values, sibling + here, w_sibling, active)
    return total


@triton.jit
def _expected_flags(values, previous, weight, held, place, x, nx, active):
    """Expected magnitudes of the flags of groups that begin at places of a plane."""
    sums = place * 0
    if weight > 0:
        for k in tl.static_range(_GROUP):
            inside = active & (x + k < nx)
            sums += tl.abs(tl.load(values + previous + place + k, mask=inside, other=0)).to(tl.int64)
    return (held + (weight.to(tl.int64) * sums << 5)) >> 8


@triton.jit
def _refilled(words, position, end, state, needed):
    """States that have taken a word where it is needed."""
    word = tl.load(words + position, mask=needed & (position < end), other=0).to(tl.uint16, bitcast=True)
    return tl.where(needed, (state << 16) | word.to(state.dtype), state)


@triton.jit
def _raw_bits(token):
    """Raw bits behind tokens; beyond what integers of 32 bits have, some number above `_MOST_RAW`."""
    large = tl.minimum(token - 62, _MOST_RAW + 1)
    return tl.where(token < 31, 0, tl.where(token < 79, ((token - 31) >> 2) + 3, large))


@triton.jit
def _further_words(high, refilled, bits):
    """Words that raw bits take from states, known before the word of a state that is refilled."""
    first = tl.minimum(bits, 16)
    more = bits - first
    one = tl.where(refilled, high < (1 << first), (high >> first) < _LOWER) & (bits > 0)
    two = (tl.where(refilled, high, high >> 16) < (1 << more)) & (more > 0)
    return one.to(tl.int32) + two.to(tl.int32)


@triton.jit
def _pop_large(words, position, end, state, token, active, lane, LANES: tl.constexpr):
    """Symbols of a round some of which are not their tokens: values, states, position, whether one is impossible."""
    refilled = active & (state < _LOWER)
    before = lane * 0
    escaped = active & (token == _ESCAPE)
    bad = tl.max(before, 0)
    while tl.max(escaped.to(tl.int32), 0) > 0:
        # The place of the first one is known: what stands before it is.
        bits = tl.where(active, _raw_bits(token), 0).to(tl.int64)
        taken = before + refilled.to(tl.int32) + _further_words(state, refilled, bits)
        ends = tl.cumsum(taken, 0)
        one = tl.min(tl.where(escaped, lane, LANES), 0)
        chosen = lane == one
        whole = _refilled(words, position + ends - taken, end, state, chosen & refilled)
        found = (whole & _TOKEN_MASK).to(tl.int32)
        bad |= tl.max((chosen & (found > _LAST_TOKEN)).to(tl.int32), 0)
        before = tl.where(chosen, refilled.to(tl.int32), before)
        state = tl.where(chosen, whole >> _TOKEN_BITS, state)
        refilled = tl.where(chosen, state < _LOWER, refilled)
        token = tl.where(chosen, tl.minimum(found, _LAST_TOKEN), token)
        escaped = escaped & (lane != one)
    bits = tl.where(active, _raw_bits(token), 0).to(tl.int64)
    bad |= tl.max((bits > _MOST_RAW).to(tl.int32), 0)
    taken = before + refilled.to(tl.int32) + _further_words(state, refilled, bits)
    at = position + tl.cumsum(taken, 0) - taken + before
    state = _refilled(words, at, end, state, refilled)
    at += refilled.to(tl.int32)
    first = tl.minimum(bits, 16)
    more = bits - first
    raw = state & ((1 << first) - 1)
    state = state >> first
    needed = (bits > 0) & (state < _LOWER)
    state = _refilled(words, at, end, state, needed)
    at += needed.to(tl.int32)
    raw |= (state & ((1 << more) - 1)) << first
    state = state >> more
    state = _refilled(words, at, end, state, (more > 0) & (state < _LOWER))
    token = token.to(tl.int64)
    magnitude = (token + 1) >> 1
    middle = (4 | ((token - 31) & 3)) << tl.maximum(bits - 1, 0)
    magnitude = tl.where(token >= 31, middle | (raw >> 1), magnitude)
    magnitude = tl.where(token >= 79, (1 << tl.maximum(bits - 1, 0)) | (raw >> 1), magnitude)
    negative = tl.where(token >= 31, raw & 1, 1 - (token & 1))
    # What has no place in 32 bits is none: contexts of other planes count on magnitudes that have.
    value = tl.where(bits > _MOST_RAW, 0, tl.where(negative > 0, -magnitude, magnitude)).to(tl.int32)
    return value, state, position + tl.sum(taken, 0), bad


@triton.jit
def _pop(words, position, end, state, tables, slots, active, lane, LANES: tl.constexpr):
    """One symbol for each active lane: values, states, position, whether one is impossible.

    States are of 32 bits, without sign.
    """
    entry = tl.load(slots + ((tables << 12) | (state & 4095).to(tl.int32)), mask=active, other=0)
    token = entry >> 24
    frequency = (((entry >> 12) & 4095) + 1).to(tl.uint32)
    state = tl.where(active, frequency * (state >> 12) + (entry & 4095).to(tl.uint32), state)
    needed = active & (state < _LOWER)
    bad = tl.max(lane * 0, 0)
    if tl.max(tl.where(active, token, 0), 0) > 30:
        value, large, position, bad = _pop_large(
            words, position, end, state.to(tl.int64), token, active, lane, LANES
        )  # fmt: skip
        state = large.to(tl.uint32)
    else:
        taken = needed.to(tl.int32)
        ends = tl.cumsum(taken, 0)
        state = _refilled(words, position + ends - taken, end, state, needed)
        position += tl.sum(taken, 0)
        magnitude = (token + 1) >> 1
        value = tl.where((token & 1) > 0, magnitude, -magnitude)
    return value, state, position, bad


@triton.jit
def _is_coded(mask, place, inside):
    """Whether samples at places are not masked."""
    return inside & (tl.load(mask + place, mask=inside, other=1) == 0)


@triton.jit
def _list_coded(mask, base, out, n, ny, nx, sz, sy, step: tl.constexpr, WIDE: tl.constexpr):
    """List the samples (step 1) or the groups (step 8) of a plane of which something is coded; returns their number."""
    lane = tl.arange(0, WIDE)
    count = tl.max(lane * 0, 0)
    across = (nx + step - 1) // step
    for start in range(0, n, WIDE):
        i = start + lane
        x = (i % across) * step
        row = i // across
        at = base + (row // ny) * sz + (row % ny) * sy + x
        coded = i < 0
        for k in tl.static_range(step):
            coded |= _is_coded(mask, at + k, (i < n) & (x + k < nx))
        taken = coded.to(tl.int32)
        tl.store(out + count + tl.cumsum(taken, 0) - taken, i, mask=coded)
        count += tl.sum(taken, 0)
    tl.debug_barrier()
    return count


@triton.jit
def decode_kernel(
    streams, looks, words, states, slots, table_of, values, mask, scratch, status,
    MASKED: tl.constexpr, LANES: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Planes of one stream.

    What can be known of many symbols at once, their places and tables, is written down for a whole plane, `WIDE` at a
    time; what then goes from lane to lane has little left to do.

    Parameters
    ----------
    streams : (stream, STREAM) int64
    looks : (plane, LOOKS) int64
        What `look_kernel` found.
    words, states : int16, int32
        Bits of what the streams hold.
    slots : (table, 4096) int32
        Token, frequency - 1 and slot - start, of 7, 12 and 12 bits.
    table_of : (n,) int32
        Tables of classes.
    values : (n,) int32
        All zeros; is filled.
    mask : (n,) uint8
        Not 0 where a sample is not coded, if `MASKED`.
    scratch : (n,) int32
        For each stream four times as many as its largest plane has samples.
    status : (stream,) int32
        Is set to 0 where the stream is sound.
    """
    row = streams + tl.program_id(0).to(tl.int64) * _STREAM
    first = looks + tl.load(row) * _LOOKS
    count = tl.load(row + 1).to(tl.int32)
    words += tl.load(row + 2)
    end = tl.load(row + 3).to(tl.int32)
    states += tl.load(row + 4)
    table_of += tl.load(row + 5)
    scratch += tl.load(row + 6)
    lane = tl.arange(0, LANES)
    wide = tl.arange(0, WIDE)
    state = tl.load(states + lane).to(tl.uint32, bitcast=True)
    position = end * 0
    turn = end * 0
    bad = end * 0
    for p in range(count):
        look = first + (end * 0 + p).to(tl.int64) * _LOOKS
        own = tl.load(look)
        if (own > 0) & (position <= end):  # of a stream that has ended too early the rest is not looked for
            base, mask_base, ny, nx, sz, sy, rows = _extent(look)
            others = _others(look)
            n = rows * nx
            # Lists: samples that are coded, tables of what comes next, where it goes; groups that are coded.
            listed = scratch
            tables = scratch + n
            places = tables + n
            coded_groups = places + n
            sparse = own < _SPARSE_BELOW
            if sparse:
                across = (nx + _GROUP - 1) // _GROUP
                groups = rows * across
                previous = tl.load(look + 8)
                w_flags = tl.load(look + 16).to(tl.int32)
                held_flags = tl.load(look + 17)
                if MASKED:
                    groups = _list_coded(mask, mask_base, coded_groups, groups, ny, nx, sz, sy, _GROUP, WIDE)
                for start in range(0, groups, WIDE):
                    i = start + wide
                    active = i < groups
                    group = i
                    if MASKED:
                        group = tl.load(coded_groups + i, mask=active, other=0)
                    x = (group % across) * _GROUP
                    y = (group // across) % ny
                    z = group // across // ny
                    place = z * sz + y * sy + x
                    expected = _expected_flags(values, previous, w_flags, held_flags, place, x, nx, active)
                    table = tl.load(table_of + _FLAG_ROLE * _CLASSES + _class_of(expected), mask=active, other=0)
                    tl.store(tables + i, table, mask=active)
                tl.debug_barrier()
                for start in range(-turn, groups, LANES):
                    i = start + lane
                    active = (i >= 0) & (i < groups)
                    table = tl.load(tables + i, mask=active, other=0)
                    flag, state, position, wrong = _pop(words, position, end, state, table, slots, active, lane, LANES)
                    bad |= wrong
                    tl.store(places + i, flag, mask=active)
                turn = (turn + groups) % LANES
                tl.debug_barrier()
                n = n * 0
                for start in range(0, groups, WIDE):
                    i = start + wide
                    active = i < groups
                    flagged = active & (tl.load(places + i, mask=active, other=0) != 0)
                    group = i
                    if MASKED:
                        group = tl.load(coded_groups + i, mask=active, other=0)
                    x = (group % across) * _GROUP
                    row_start = (group // across) * nx + x
                    at = mask_base + (group // across // ny) * sz + ((group // across) % ny) * sy + x
                    size = tl.where(flagged, tl.minimum(nx - x, _GROUP), 0)
                    if MASKED:
                        size = wide * 0
                        for k in tl.static_range(_GROUP):
                            size += _is_coded(mask, at + k, flagged & (x + k < nx)).to(tl.int32)
                    to = n + tl.cumsum(size, 0) - size
                    for k in tl.static_range(_GROUP):
                        coded = flagged & (x + k < nx)
                        if MASKED:
                            coded = _is_coded(mask, at + k, coded)
                        tl.store(listed + to, row_start + k, mask=coded)
                        to += coded.to(tl.int32)
                    n += tl.sum(size, 0)
                tl.debug_barrier()
            elif MASKED:
                n = _list_coded(mask, mask_base, listed, n, ny, nx, sz, sy, 1, WIDE)
            role = tl.where(sparse, _GROUPED_ROLE, _DENSE_ROLE)
            for start in range(0, n, WIDE):
                i = start + wide
                active = i < n
                sample = i
                if MASKED or sparse:
                    sample = tl.load(listed + i, mask=active, other=0)
                x = sample % nx
                y = (sample // nx) % ny
                z = sample // nx // ny
                expected = _expected(values, others, z, y, x, ny, nx, sz, sy, active)
                table = tl.load(table_of + role * _CLASSES + _class_of(expected), mask=active, other=0)
                tl.store(tables + i, table, mask=active)
                tl.store(places + i, (z * sz + y * sy + x).to(tl.int32), mask=active)
            tl.debug_barrier()
            for start in range(-turn, n, LANES):
                i = start + lane
                active = (i >= 0) & (i < n)
                table = tl.load(tables + i, mask=active, other=0)
                place = tl.load(places + i, mask=active, other=0)
                value, state, position, wrong = _pop(words, position, end, state, table, slots, active, lane, LANES)
                bad |= wrong
                tl.store(values + base + place, value, mask=active)
            turn = (turn + n) % LANES
            tl.debug_barrier()
    sound = (position == end) & (tl.max((state != _LOWER).to(tl.int32), 0) == 0) & (bad == 0)
    tl.store(status + tl.program_id(0), tl.where(sound, 0, 1))


@triton.jit
def count_kernel(looks, values, mask, flags, samples, MASKED: tl.constexpr, BLOCK: tl.constexpr):
    """How many flags and samples the symbols of each plane are; one program for each plane of each stream.

    Parameters
    ----------
    flags, samples : (plane,) int64
        Get the numbers.

    Others are those of `decode_kernel`.
    """
    index = tl.program_id(0).to(tl.int64)
    look = looks + index * _LOOKS
    own = tl.load(look)
    base, mask_base, ny, nx, sz, sy, rows = _extent(look)
    lane = tl.arange(0, BLOCK)
    n_flags = tl.max(lane * 0, 0)
    n_samples = tl.max(lane * 0, 0)
    if own > 0:
        if own < _SPARSE_BELOW:
            across = (nx + _GROUP - 1) // _GROUP
            for start in range(0, rows * across, BLOCK):
                i = start + lane
                x = (i % across) * _GROUP
                place = (i // across // ny) * sz + ((i // across) % ny) * sy + x
                size = lane * 0
                filled = i < 0
                for k in tl.static_range(_GROUP):
                    coded = (i < rows * across) & (x + k < nx)
                    if MASKED:
                        coded = _is_coded(mask, mask_base + place + k, coded)
                    size += coded.to(tl.int32)
                    filled |= tl.load(values + base + place + k, mask=coded, other=0) != 0
                n_flags += tl.sum((size > 0).to(tl.int32), 0)
                n_samples += tl.sum(tl.where(filled, size, 0), 0)
        elif MASKED:
            for start in range(0, rows * nx, BLOCK):
                i = start + lane
                at = mask_base + (i // nx // ny) * sz + ((i // nx) % ny) * sy + i % nx
                n_samples += tl.sum(_is_coded(mask, at, i < rows * nx).to(tl.int32), 0)
        else:
            n_samples += rows * nx
    tl.store(flags + index, n_flags.to(tl.int64))
    tl.store(samples + index, n_samples.to(tl.int64))


@triton.jit
def put_kernel(
    looks, values, mask, flags, firsts, symbols, classes, MASKED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Symbols of each plane in coding order, and the class of each (role * CLASSES + class).

    Parameters
    ----------
    flags : (plane,) int64
        What `count_kernel` found.
    firsts : (plane,) int64
        Where the symbols of each plane begin.
    symbols, classes : (n,) int32, int16
        Get the symbols.

    Others are those of `count_kernel`.
    """
    index = tl.program_id(0).to(tl.int64)
    look = looks + index * _LOOKS
    own = tl.load(look)
    base, mask_base, ny, nx, sz, sy, rows = _extent(look)
    lane = tl.arange(0, BLOCK)
    flag_at = tl.load(firsts + index)
    sample_at = flag_at + tl.load(flags + index)
    if own > 0:
        others = _others(look)
        if own < _SPARSE_BELOW:
            across = (nx + _GROUP - 1) // _GROUP
            previous = tl.load(look + 8)
            w_flags = tl.load(look + 16).to(tl.int32)
            held_flags = tl.load(look + 17)
            for start in range(0, rows * across, BLOCK):
                i = start + lane
                x = (i % across) * _GROUP
                y = (i // across) % ny
                z = i // across // ny
                place = z * sz + y * sy + x
                size = lane * 0
                filled = i < 0
                for k in tl.static_range(_GROUP):
                    coded = (i < rows * across) & (x + k < nx)
                    if MASKED:
                        coded = _is_coded(mask, mask_base + place + k, coded)
                    size += coded.to(tl.int32)
                    filled |= tl.load(values + base + place + k, mask=coded, other=0) != 0
                flagged = size > 0
                expected = _expected_flags(values, previous, w_flags, held_flags, place, x, nx, flagged)
                taken = flagged.to(tl.int64)
                to = flag_at + tl.cumsum(taken, 0) - taken
                tl.store(symbols + to, filled.to(tl.int32), mask=flagged)
                tl.store(classes + to, (_class_of(expected) + _FLAG_ROLE * _CLASSES).to(tl.int16), mask=flagged)
                flag_at += tl.sum(taken, 0)
                taken = tl.where(filled, size, 0).to(tl.int64)
                to = sample_at + tl.cumsum(taken, 0) - taken
                sample_at += tl.sum(taken, 0)
                if tl.max(filled.to(tl.int32), 0) > 0:
                    for further in range(_GROUP):
                        coded = filled & (x + further < nx)
                        if MASKED:
                            coded = _is_coded(mask, mask_base + place + further, coded)
                        expected = _expected(values, others, z, y, x + further, ny, nx, sz, sy, coded)
                        tl.store(
                            symbols + to, tl.load(values + base + place + further, mask=coded, other=0), mask=coded
                        )
                        class_ = _class_of(expected) + _GROUPED_ROLE * _CLASSES
                        tl.store(classes + to, class_.to(tl.int16), mask=coded)
                        to += coded.to(tl.int64)
        else:
            for start in range(0, rows * nx, BLOCK):
                i = start + lane
                x = i % nx
                y = (i // nx) % ny
                z = i // nx // ny
                place = z * sz + y * sy + x
                coded = i < rows * nx
                if MASKED:
                    coded = _is_coded(mask, mask_base + place, coded)
                expected = _expected(values, others, z, y, x, ny, nx, sz, sy, coded)
                taken = coded.to(tl.int64)
                to = sample_at + tl.cumsum(taken, 0) - taken
                tl.store(symbols + to, tl.load(values + base + place, mask=coded, other=0), mask=coded)
                tl.store(classes + to, (_class_of(expected) + _DENSE_ROLE * _CLASSES).to(tl.int16), mask=coded)
                sample_at += tl.sum(taken, 0)


@triton.jit
def _split(value):
    """Tokens, numbers of raw bits and raw bits of integers of 32 bits above the smallest."""
    magnitude = tl.abs(value)
    positive = (value > 0).to(tl.int64)
    exponent = (magnitude.to(tl.float64).to(tl.int64, bitcast=True) >> 52) - 1023
    below = tl.maximum(tl.where(exponent < 16, exponent - 2, exponent), 0)
    token = tl.where(exponent < 16, 31 + 4 * (exponent - 4) + ((magnitude >> below) & 3), 63 + exponent)
    raw = ((magnitude & ((1 << below) - 1)) << 1) | (1 - positive)
    direct = magnitude <= _DIRECT
    token = tl.where(direct, 2 * magnitude - positive, token)
    return token.to(tl.int32), tl.where(direct, 0, below + 1), tl.where(direct, 0, raw)


@triton.jit
def histogram_kernel(symbols, classes, flags, samples, firsts, chosen, counts, BLOCK: tl.constexpr):
    """Count tokens of some planes, by class; one program for each of them.

    Parameters
    ----------
    symbols, classes, flags, samples, firsts
        What `put_kernel` and `count_kernel` found.
    chosen : (n, 2) int64
        A plane, and which of the counts its symbols are for.
    counts : (n, role * class, 128) int32
        Numbers of tokens are added to it.
    """
    row = chosen + 2 * tl.program_id(0).to(tl.int64)
    plane = tl.load(row)
    counts += tl.load(row + 1) * (_ROLES * _CLASSES << _TOKEN_BITS)
    first = tl.load(firsts + plane)
    n = tl.load(flags + plane) + tl.load(samples + plane)
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        token, _, _ = _split(tl.load(symbols + first + i, mask=i < n, other=0).to(tl.int64))
        class_ = tl.load(classes + first + i, mask=i < n, other=0).to(tl.int32)
        tl.atomic_add(counts + (class_ << _TOKEN_BITS) + token, 1, mask=i < n)


@triton.jit
def _push(state, bits, raw, active):
    """States that have taken raw bits, and the words that they gave for it where they did."""
    gives = active & (bits > 0) & (state >= (1 << (32 - bits)))
    word = state & 0xFFFF
    state = tl.where(gives, state >> 16, state)
    return tl.where(active, (state << bits) | raw, state), word, gives


@triton.jit
def _put_word(words, position, rank, word, gives):
    """Store the words of a step; returns how many each lane has stored."""
    tl.store(words + position - rank, word.to(tl.int16), mask=gives)
    return rank + gives.to(tl.int32)


@triton.jit
def encode_kernel(
    streams, symbols, classes, bounds, spans, table_of, words, rooms, states, positions, LANES: tl.constexpr
):
    """Streams of symbols, coded backwards.

    Parameters
    ----------
    streams : (stream, STREAM) int64
        Of which only the tables count here.
    symbols, classes
        What `put_kernel` found.
    bounds : (stream, 2) int64
        First symbol of each stream, and where they end.
    spans : (table, 128) int32
        Frequency * 2^16 + first slot of each token.
    table_of : (n,) int32
    words : (n,) int16
        Get the words.
    rooms : (stream, 2) int64
        Where the words of each stream may lie; the last one will be at the end.
    states : (stream, LANES) int32
        Get the first states of the decoder.
    positions : (stream,) int64
        Get the places of the first words; what has no room is not written, and the place lies before the room then.
    """
    stream = tl.program_id(0).to(tl.int64)
    table_of += tl.load(streams + stream * _STREAM + 5)
    begin = tl.load(bounds + 2 * stream)
    count = tl.load(bounds + 2 * stream + 1) - begin
    room = tl.load(rooms + 2 * stream)
    position = tl.load(rooms + 2 * stream + 1)
    lane = tl.arange(0, LANES)
    state = (lane * 0 + _LOWER).to(tl.uint32)
    for back in range((count + LANES - 1) // LANES):
        i = ((count + LANES - 1) // LANES - 1 - back) * LANES + lane
        active = i < count
        token, bits, raw = _split(tl.load(symbols + begin + i, mask=active, other=0).to(tl.int64))
        class_ = tl.load(classes + begin + i, mask=active, other=0).to(tl.int32)
        table = tl.load(table_of + class_, mask=active, other=0) << _TOKEN_BITS
        span = tl.load(spans + table + token, mask=active, other=1 << 16)
        escaped = active & (span < (1 << 16))
        rare = tl.max((escaped | (bits > 0)).to(tl.int32), 0) > 0
        word_1, word_2, word_3 = state, state, state
        gives_1, gives_2, gives_3 = i < 0, i < 0, i < 0
        if rare:
            large = state.to(tl.int64)
            first = tl.minimum(bits, 16)
            more = bits - first
            large, given_1, gives_1 = _push(large, more, raw >> first, active & (more > 0))
            large, given_2, gives_2 = _push(large, first, raw & ((1 << first) - 1), active & (bits > 0))
            large, given_3, gives_3 = _push(large, lane.to(tl.int64) * 0 + _TOKEN_BITS, token, escaped)
            word_1, word_2, word_3 = given_1.to(tl.uint32), given_2.to(tl.uint32), given_3.to(tl.uint32)
            state = large.to(tl.uint32)
            span = tl.where(escaped, tl.load(spans + table + _ESCAPE, mask=active, other=1 << 16), span)
        frequency = (span >> 16).to(tl.uint32)
        gives_4 = active & ((state >> 20) >= frequency)
        word_4 = state & 0xFFFF
        state = tl.where(gives_4, state >> 16, state)
        quotient = state // frequency
        coded = (quotient << 12) + (state - quotient * frequency) + (span & 0xFFFF).to(tl.uint32)
        state = tl.where(active, coded, state)
        given = gives_1.to(tl.int32) + gives_2.to(tl.int32) + gives_3.to(tl.int32) + gives_4.to(tl.int32)
        total = tl.sum(given, 0)
        if position - total >= room:
            rank = total - tl.cumsum(given, 0) + 1
            if rare:
                rank = _put_word(words, position, rank, word_1, gives_1)
                rank = _put_word(words, position, rank, word_2, gives_2)
                rank = _put_word(words, position, rank, word_3, gives_3)
            _put_word(words, position, rank, word_4, gives_4)
        position -= total
    tl.store(states + stream * LANES + lane, state.to(tl.int32, bitcast=True))
    tl.store(positions + stream, position)
