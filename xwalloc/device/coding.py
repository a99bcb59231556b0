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
    "ENCODED",
    "ESCAPED",
    "GEOMETRY",
    "LOOKS",
    "PART",
    "RARE",
    "STREAM",
    "WEIGHTS",
    "count_kernel",
    "decode_kernel",
    "encode_kernel",
    "histogram_kernel",
    "look_kernel",
    "pack_kernel",
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

ENCODED = 5
"""Columns of a group of lanes: its stream, the lanes of that, first lane; where its lookups and its states begin."""

RARE, ESCAPED = 1 << 30, 1 << 29
"""Marks of lookups: symbols that are more than a token with a frequency of its own, and tokens that have none."""

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
_LARGE_FROM = tl.constexpr(2 * contexts.ONE)  # stated magnitudes from which a step of many lanes often has raw bits
_MOST_RAW = tl.constexpr(31)  # of integers of 32 bits
_ENCODED, _RARE, _ESCAPED = tl.constexpr(ENCODED), tl.constexpr(RARE), tl.constexpr(ESCAPED)
_NEUTRAL = tl.constexpr(((1 << tables.PROB_BITS) - 1) << 12)  # a lookup that leaves a state as it is
_MOST_WORDS = tl.constexpr(4)  # that a symbol gives: 31 raw bits, 7 of an escaped token, 12 of the escape itself


@triton.jit
def _float_bits(number):
    """Bits of float32 of integers from 0 to 2^31 - 1, which are exact below 2^24: those from 21 on tell a logarithm."""
    return number.to(tl.float32).to(tl.int32, bitcast=True)


@triton.jit
def _class_of(expected):
    """Class of expected magnitudes, below 2^62."""
    low = (expected & 0x7FFFFFFF).to(tl.int32)
    high = (expected >> 31).to(tl.int32)
    near = (_float_bits(low) >> 21) - (4 * 127 + 4)
    top = tl.where(high > 0, high, low)
    # Of numbers of whose two leading bits one is 0, none is rounded up to a power of two.
    log2 = (_float_bits(top & ~(top >> 1)) >> 23) + tl.where(high > 0, 31 - 127, -127)
    far = tl.minimum(log2 + 50, _CLASSES - 1)
    return tl.where((high > 0) | (low >= (1 << 18)), far, tl.where(low < 4, low, near))


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
def _reciprocal(divisor):
    """What `_divided` multiplies with."""
    return 0xFFFFFFFF // divisor.to(tl.uint32)


@triton.jit
def _divided(number, divisor, reciprocal):
    """Quotients and rests of numbers that are not negative.

    The reciprocal is at most 1 below 2^32 / divisor: its product with a number, over 2^32, is less than 1 too small.
    """
    quotient = tl.umulhi(number.to(tl.uint32), reciprocal).to(tl.int32)
    rest = number - quotient * divisor
    more = rest >= divisor
    return tl.where(more, quotient + 1, quotient), tl.where(more, rest - divisor, rest)


@triton.jit
def _extent(look):
    """Base in the values and in the mask, ny, nx, sz, sy, rows of a plane."""
    ny = tl.load(look + 4).to(tl.int32)
    nx = tl.load(look + 5).to(tl.int32)
    rows = tl.load(look + 3).to(tl.int32) * ny
    sz, sy = tl.load(look + 6).to(tl.int32), tl.load(look + 7).to(tl.int32)
    return tl.load(look + 1), tl.load(look + 2), ny, nx, sz, sy, rows


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
def _weighed(at, weight, inside):
    """Magnitudes of values, times a weight."""
    return tl.abs(tl.load(at, mask=inside, other=0)).to(tl.int64) * weight.to(tl.int64)


@triton.jit
def _expected(values, others, place, z, y, x, ny, nx, sz, sy, active):
    """Expected magnitudes of samples of a plane."""
    (
        previous, parent, sibling, w_previous, w_ring, w_parent, w_sibling, held, shift_z, shift_y, shift_x, end_z,
        end_y, end_x,
    ) = others  # fmt: skip
    total = place.to(tl.int64) * 0 + held
    none = place * 0
    # What is looked at together waits for memory together.
    if (w_previous > 0) | (w_ring > 0):
        at = values + previous + place
        around = active & (none + w_ring > 0)
        total += _weighed(at, w_previous, active & (none + w_previous > 0))
        total += _weighed(at - 1, w_ring, around & (x > 0))
        total += _weighed(at + 1, w_ring, around & (x < nx - 1))
        total += _weighed(at - sy, w_ring, around & (y > 0))
        total += _weighed(at + sy, w_ring, around & (y < ny - 1))
    if (w_parent > 0) | (w_sibling > 0):
        at = tl.minimum(z >> shift_z, end_z) * sz + tl.minimum(y >> shift_y, end_y) * sy
        at += tl.minimum(x >> shift_x, end_x)
        total += _weighed(values + parent + at, w_parent, active & (none + w_parent > 0))
        total += _weighed(values + sibling + place, w_sibling, active & (none + w_sibling > 0))
    return total


@triton.jit
def _expected_flags(values, previous, weight, held, place, x, nx, active):
    """Expected magnitudes of the flags of groups that begin at places of a plane."""
    sums = place.to(tl.int64) * 0
    if weight > 0:
        at = values + previous + place
        for k in tl.static_range(0, _GROUP, 2):
            one = tl.abs(tl.load(at + k, mask=active & (x + k < nx), other=0))
            two = tl.abs(tl.load(at + (k + 1), mask=active & (x + k + 1 < nx), other=0))
            sums += (one.to(tl.uint32) + two.to(tl.uint32)).to(tl.int64)
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
def _pop_large(words, position, end, state, token, active, bad, lane, LANES: tl.constexpr):
    """Symbols of a round some of which are not their tokens: values, states, position, which were impossible."""
    refilled = active & (state < _LOWER)
    before = lane * 0
    escaped = active & (token == _ESCAPE)
    while tl.max(escaped.to(tl.int32), 0) > 0:
        # The place of the first one is known: what stands before it is.
        bits = tl.where(active, _raw_bits(token), 0)
        taken = before + refilled.to(tl.int32) + _further_words(state, refilled, bits)
        ends = tl.cumsum(taken, 0)
        one = tl.min(tl.where(escaped, lane, LANES), 0)
        chosen = lane == one
        whole = _refilled(words, position + ends - taken, end, state, chosen & refilled)
        found = (whole & _TOKEN_MASK).to(tl.int32)
        bad |= (chosen & (found > _LAST_TOKEN)).to(tl.int32)
        before = tl.where(chosen, refilled.to(tl.int32), before)
        state = tl.where(chosen, whole >> _TOKEN_BITS, state)
        refilled = tl.where(chosen, state < _LOWER, refilled)
        token = tl.where(chosen, tl.minimum(found, _LAST_TOKEN), token)
        escaped = escaped & (lane != one)
    bits = tl.where(active, _raw_bits(token), 0)
    bad |= (bits > _MOST_RAW).to(tl.int32)
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
    below = tl.maximum(bits - 1, 0)
    leading = tl.where(token < 79, 4 | ((token - 31) & 3), 1) << below
    magnitude = tl.where(token >= 31, leading | (raw >> 1).to(tl.int32), (token + 1) >> 1)
    negative = tl.where(token >= 31, (raw & 1).to(tl.int32), 1 - (token & 1))
    # What has no place in 32 bits is none: contexts of other planes count on magnitudes that have.
    value = tl.where(bits > _MOST_RAW, 0, tl.where(negative > 0, -magnitude, magnitude))
    return value, state, position + tl.sum(taken, 0), bad


@triton.jit
def _pop(words, position, end, state, row, slots, active, bad, lane, LARGE: tl.constexpr, LANES: tl.constexpr):
    """One symbol for each active lane: values, states, position, which were impossible.

    States are of 32 bits, without sign. Where many tokens are `LARGE`, those with up to 14 raw bits go with the others.
    """
    entry = tl.load(slots + (row | (state & 4095).to(tl.int32)), mask=active, other=0)
    token = entry >> 24
    frequency = (((entry >> 12) & 4095) + 1).to(tl.uint32)
    state = tl.where(active, frequency * (state >> 12) + (entry & 4095).to(tl.uint32), state)
    needed = active & (state < _LOWER)
    taken = needed.to(tl.int32)
    magnitude = (token + 1) >> 1
    positive = (token & 1) > 0
    if LARGE:
        plain = token <= 78
        bits = tl.where(token < 31, 0, ((token - 31) >> 2) + 3)
        again = (bits > 0) & tl.where(needed, state < (1 << bits), (state >> bits) < _LOWER)
        taken += again.to(tl.int32)
        at = position + tl.cumsum(taken, 0) - taken
        popped = _refilled(words, at, end, state, needed)
        raw = (popped & ((1 << bits) - 1)).to(tl.int32)
        popped = _refilled(words, at + needed.to(tl.int32), end, popped >> bits, again)
        leading = (4 | ((token - 31) & 3)) << tl.maximum(bits - 1, 0)
        magnitude = tl.where(token < 31, magnitude, leading | (raw >> 1))
        positive = tl.where(token < 31, positive, (raw & 1) == 0)
    else:
        plain = token <= 30
        popped = _refilled(words, position + tl.cumsum(taken, 0) - taken, end, state, needed)
    total = tl.sum(taken + tl.where(plain, 0, 1 << 16), 0)  # words, and symbols that take more
    if total >= (1 << 16):
        value, state, position, bad = _pop_large(words, position, end, state, token, active, bad, lane, LANES)
    else:
        state = popped
        position += total
        value = tl.where(positive, magnitude, -magnitude)
    return value, state, position, bad


@triton.jit
def _ahead(words, position, end, lane):
    """Words that come next. They are asked for before it is known which lane takes which: then they are near."""
    return tl.load(words + position + lane, mask=position + lane < end, other=0)


@triton.jit
def _popped(
    out, places, rows, n, turn, words, end, slots, state, position, bad, seen, LISTED: tl.constexpr,
    LARGE: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Store n symbols at places, or one behind the other: states, position, whether one was impossible, words seen."""
    lane = tl.arange(0, LANES)
    i = lane - turn
    row = tl.load(rows + i, mask=(i >= 0) & (i < n), other=0)
    place = i
    if LISTED:
        place = tl.load(places + i, mask=(i >= 0) & (i < n), other=0)
    ahead = _ahead(words, position, end, lane)
    for start in range(-turn, n, LANES):
        i = start + lane
        active = (i >= 0) & (i < n)
        further = i + LANES
        next_row = tl.load(rows + further, mask=further < n, other=0)
        next_place = further
        if LISTED:
            next_place = tl.load(places + further, mask=further < n, other=0)
        seen |= ahead
        value, state, position, bad = _pop(words, position, end, state, row, slots, active, bad, lane, LARGE, LANES)
        tl.store(out + place, value, mask=active)
        ahead = _ahead(words, position, end, lane)
        row, place = next_row, next_place
    return state, position, bad, seen | ahead


@triton.jit
def _is_coded(at, inside):
    """Whether samples are not masked."""
    return inside & (tl.load(at, mask=inside, other=1) == 0)


@triton.jit
def _list_coded(mask, base, out, n, ny, nx, sz, sy, step: tl.constexpr, WIDE: tl.constexpr):
    """List the samples (step 1) or the groups (step 8) of a plane of which something is coded; returns their number."""
    lane = tl.arange(0, WIDE)
    count = tl.max(lane * 0, 0)
    across = (nx + step - 1) // step
    by_across, by_ny = _reciprocal(across), _reciprocal(ny)
    for start in range(0, n, WIDE):
        i = start + lane
        row, x = _divided(i, across, by_across)
        z, y = _divided(row, ny, by_ny)
        x *= step
        at = mask + base + (z * sz + y * sy + x)
        coded = i < 0
        for k in tl.static_range(step):
            coded |= _is_coded(at + k, (i < n) & (x + k < nx))
        taken = coded.to(tl.int32)
        tl.store(out + count + tl.cumsum(taken, 0) - taken, i, mask=coded)
        count += tl.sum(taken, 0)
    tl.debug_barrier()
    return count


@triton.jit
def _list_filled(listed, n, filled, first, x, nx, mask_at, together, MASKED: tl.constexpr):
    """List the samples of groups behind n others, of groups that stay `together` only the first; returns their number.

    Parameters
    ----------
    filled
        Which groups.
    first, x
        Number of the first sample of each group in its plane, and its place in the row.
    together
        3 if all groups have 8 samples, else 0.
    """
    if MASKED:
        size = x * 0
        for k in tl.static_range(_GROUP):
            size += _is_coded(mask_at + k, filled & (x + k < nx)).to(tl.int32)
        to = listed + (n + tl.cumsum(size, 0) - size)
        for k in tl.static_range(_GROUP):
            coded = _is_coded(mask_at + k, filled & (x + k < nx))
            tl.store(to, first + k, mask=coded)
            to += coded.to(tl.int32)
    else:
        size = tl.where(filled, tl.where(x * 0 + together > 0, 1, tl.minimum(nx - x, _GROUP)), 0)
        to = listed + (n + tl.cumsum(size, 0) - size)
        tl.store(to, first, mask=filled)
        if together == 0:
            for k in tl.static_range(1, _GROUP):
                tl.store(to + k, first + k, mask=filled & (x + k < nx))
    return n + tl.sum(size, 0)


@triton.jit
def _listed(listed, i, together, active):
    """The i-th samples of a list."""
    return tl.load(listed + (i >> together), mask=active, other=0) + (i & ((1 << together) - 1))


@triton.jit
def _together(nx, MASKED: tl.constexpr):
    """3 if all groups of a plane have 8 samples, else 0."""
    found = nx * 0
    if not MASKED:
        found = tl.where(nx % _GROUP == 0, 3, 0)
    return found


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
        Is set to 0 where the stream is sound, else to another number.
    """
    stream = streams + tl.program_id(0).to(tl.int64) * _STREAM
    first = looks + tl.load(stream) * _LOOKS
    count = tl.load(stream + 1).to(tl.int32)
    words += tl.load(stream + 2)
    end = tl.load(stream + 3).to(tl.int32)
    states += tl.load(stream + 4)
    table_of += tl.load(stream + 5)
    scratch += tl.load(stream + 6)
    lane = tl.arange(0, LANES)
    wide = tl.arange(0, WIDE)
    state = tl.load(states + lane).to(tl.uint32, bitcast=True)
    position = end * 0
    turn = end * 0
    bad = lane * 0
    seen = bad.to(tl.int16)
    for p in range(count):
        look = first + (end * 0 + p).to(tl.int64) * _LOOKS
        own = tl.load(look)
        if (own > 0) & (position <= end):  # of a stream that has ended too early the rest is not looked for
            base, mask_base, ny, nx, sz, sy, rows = _extent(look)
            others = _others(look)
            by_nx, by_ny = _reciprocal(nx), _reciprocal(ny)
            n = rows * nx
            # Lists: samples that are coded, slots of what comes next, where it goes; groups that are coded.
            listed = scratch
            tables = scratch + n
            places = tables + n
            coded_groups = places + n
            sparse = own < _SPARSE_BELOW
            together = tl.where(sparse, _together(nx, MASKED), 0)
            if sparse:
                across = (nx + _GROUP - 1) // _GROUP
                by_across = _reciprocal(across)
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
                    row, x = _divided(group, across, by_across)
                    z, y = _divided(row, ny, by_ny)
                    x *= _GROUP
                    place = z * sz + y * sy + x
                    expected = _expected_flags(values, previous, w_flags, held_flags, place, x, nx, active)
                    table = tl.load(table_of + _FLAG_ROLE * _CLASSES + _class_of(expected), mask=active, other=0)
                    tl.store(tables + i, table << 12, mask=active)
                tl.debug_barrier()
                state, position, bad, seen = _popped(
                    places, places, tables, groups, turn, words, end, slots, state, position, bad, seen, False, False,
                    LANES,
                )  # fmt: skip
                turn = (turn + groups) % LANES
                tl.debug_barrier()
                n = n * 0
                for start in range(0, groups, WIDE):
                    i = start + wide
                    active = i < groups
                    filled = active & (tl.load(places + i, mask=active, other=0) != 0)
                    group = i
                    if MASKED:
                        group = tl.load(coded_groups + i, mask=active, other=0)
                    row, x = _divided(group, across, by_across)
                    z, y = _divided(row, ny, by_ny)
                    x *= _GROUP
                    mask_at = mask + mask_base + (z * sz + y * sy + x)
                    n = _list_filled(listed, n, filled, row * nx + x, x, nx, mask_at, together, MASKED)
                n <<= together
                tl.debug_barrier()
            elif MASKED:
                n = _list_coded(mask, mask_base, listed, n, ny, nx, sz, sy, 1, WIDE)
            role = tl.where(sparse, _GROUPED_ROLE, _DENSE_ROLE)
            for start in range(0, n, WIDE):
                i = start + wide
                active = i < n
                sample = i
                if MASKED or sparse:
                    sample = _listed(listed, i, together, active)
                row, x = _divided(sample, nx, by_nx)
                z, y = _divided(row, ny, by_ny)
                place = z * sz + y * sy + x
                expected = _expected(values, others, place, z, y, x, ny, nx, sz, sy, active)
                table = tl.load(table_of + role * _CLASSES + _class_of(expected), mask=active, other=0)
                tl.store(tables + i, table << 12, mask=active)
                tl.store(places + i, place, mask=active)
            tl.debug_barrier()
            if own < _LARGE_FROM:
                state, position, bad, seen = _popped(
                    values + base, places, tables, n, turn, words, end, slots, state, position, bad, seen, True, False,
                    LANES,
                )  # fmt: skip
            else:
                state, position, bad, seen = _popped(
                    values + base, places, tables, n, turn, words, end, slots, state, position, bad, seen, True, True,
                    LANES,
                )  # fmt: skip
            turn = (turn + n) % LANES
            tl.debug_barrier()
    sound = (position == end) & (tl.max(((state != _LOWER) | (bad > 0)).to(tl.int32), 0) == 0)
    # Words that were only asked for ahead must count for something, or a compiler would not ask for them.
    tl.store(status + tl.program_id(0), tl.where(sound, 0, tl.max(seen.to(tl.int32), 0) | 1))


@triton.jit
def _looked_at(at, mask_at, x, nx, active, MASKED: tl.constexpr):
    """How many samples of groups are coded, and whether any of them is not 0."""
    size = x * 0
    filled = x < 0
    for k in tl.static_range(_GROUP):
        coded = active & (x + k < nx)
        if MASKED:
            coded = _is_coded(mask_at + k, coded)
        size += coded.to(tl.int32)
        filled |= tl.load(at + k, mask=coded, other=0) != 0
    return size, filled


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
        by_ny = _reciprocal(ny)
        if own < _SPARSE_BELOW:
            across = (nx + _GROUP - 1) // _GROUP
            by_across = _reciprocal(across)
            for start in range(0, rows * across, BLOCK):
                i = start + lane
                row, x = _divided(i, across, by_across)
                z, y = _divided(row, ny, by_ny)
                x *= _GROUP
                place = z * sz + y * sy + x
                size, filled = _looked_at(
                    values + base + place, mask + mask_base + place, x, nx, i < rows * across, MASKED
                )
                n_flags += tl.sum((size > 0).to(tl.int32), 0)
                n_samples += tl.sum(tl.where(filled, size, 0), 0)
        elif MASKED:
            by_nx = _reciprocal(nx)
            for start in range(0, rows * nx, BLOCK):
                i = start + lane
                row, x = _divided(i, nx, by_nx)
                z, y = _divided(row, ny, by_ny)
                at = mask + mask_base + (z * sz + y * sy + x)
                n_samples += tl.sum(_is_coded(at, i < rows * nx).to(tl.int32), 0)
        else:
            n_samples += rows * nx
    tl.store(flags + index, n_flags.to(tl.int64))
    tl.store(samples + index, n_samples.to(tl.int64))


@triton.jit
def _put(keys, further, at, value, class_, coded):
    """Store keys of values of these classes, and values that are more than their tokens."""
    magnitude = tl.abs(value)
    token = 2 * magnitude - (value > 0).to(tl.int32)
    large = coded & (magnitude > _DIRECT)
    if tl.max(large.to(tl.int32), 0) > 0:
        bits = _float_bits(magnitude)
        near = (bits >> 21) - (4 * 127 - 15)
        far = (_float_bits(magnitude & ~(magnitude >> 1)) >> 23) - (127 - 63)
        token = tl.where(large, tl.where(magnitude < (1 << 16), near, far), token)
        tl.store(further + at, value.to(tl.int64), mask=large)
    tl.store(keys + at, ((class_ << _TOKEN_BITS) + token).to(tl.int16), mask=coded)


@triton.jit
def put_kernel(
    looks, values, mask, flags, firsts, keys, further, scratch, MASKED: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Keys of the symbols of each plane in coding order: (role * CLASSES + class) * 2^7 + token.

    Parameters
    ----------
    flags : (plane,) int64
        What `count_kernel` found.
    firsts : (plane,) int64
        Where the symbols of each plane begin.
    keys : (n,) int16
        Gets the keys.
    further : (n,) int64
        Gets those integers that have raw bits besides; others are anything.
    scratch : (n,) int32

    Others are those of `count_kernel`.
    """
    index = tl.program_id(0).to(tl.int64)
    look = looks + index * _LOOKS
    own = tl.load(look)
    base, mask_base, ny, nx, sz, sy, rows = _extent(look)
    lane = tl.arange(0, BLOCK)
    first = tl.load(firsts + index)
    n_flags = tl.load(flags + index)
    n = rows * nx
    if own > 0:
        others = _others(look)
        by_nx, by_ny = _reciprocal(nx), _reciprocal(ny)
        sparse = own < _SPARSE_BELOW
        together = tl.where(sparse, _together(nx, MASKED), 0)
        flag_at = keys + first
        listed = scratch + first
        if sparse:
            across = (nx + _GROUP - 1) // _GROUP
            by_across = _reciprocal(across)
            previous = tl.load(look + 8)
            w_flags = tl.load(look + 16).to(tl.int32)
            held_flags = tl.load(look + 17)
            n = n * 0
            flag = n
            for start in range(0, rows * across, BLOCK):
                i = start + lane
                row, x = _divided(i, across, by_across)
                z, y = _divided(row, ny, by_ny)
                x *= _GROUP
                place = z * sz + y * sy + x
                mask_at = mask + mask_base + place
                size, filled = _looked_at(values + base + place, mask_at, x, nx, i < rows * across, MASKED)
                flagged = size > 0
                expected = _expected_flags(values, previous, w_flags, held_flags, place, x, nx, flagged)
                key = ((_class_of(expected) + _FLAG_ROLE * _CLASSES) << _TOKEN_BITS) + filled.to(tl.int32)
                to = i
                if MASKED:
                    taken = flagged.to(tl.int32)
                    to = flag + tl.cumsum(taken, 0) - taken
                    flag += tl.sum(taken, 0)
                tl.store(flag_at + to, key.to(tl.int16), mask=flagged)
                n = _list_filled(listed, n, filled, row * nx + x, x, nx, mask_at, together, MASKED)
            n <<= together
            tl.debug_barrier()
        elif MASKED:
            n = _list_coded(mask, mask_base, listed, n, ny, nx, sz, sy, 1, BLOCK)
        role = tl.where(sparse, _GROUPED_ROLE, _DENSE_ROLE)
        for start in range(0, n, BLOCK):
            i = start + lane
            active = i < n
            sample = i
            if MASKED or sparse:
                sample = _listed(listed, i, together, active)
            row, x = _divided(sample, nx, by_nx)
            z, y = _divided(row, ny, by_ny)
            place = z * sz + y * sy + x
            value = tl.load(values + base + place, mask=active, other=0)
            expected = _expected(values, others, place, z, y, x, ny, nx, sz, sy, active)
            _put(keys + first, further + first, n_flags + i, value, role * _CLASSES + _class_of(expected), active)


@triton.jit
def histogram_kernel(keys, flags, samples, firsts, chosen, counts, BLOCK: tl.constexpr):
    """Count tokens of some planes, by class; one program for each of them.

    Parameters
    ----------
    keys, flags, samples, firsts
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
        key = tl.load(keys + first + i, mask=i < n, other=0).to(tl.int32) & 0xFFFF
        tl.atomic_add(counts + key, 1, mask=i < n, sem="relaxed")


@triton.jit
def _push(state, bits, raw, active, given, count):
    """Let states take raw bits; words that they give for it are put in front of those that they have given."""
    gives = active & (bits > 0) & (state >= (1 << (32 - bits)))
    given = tl.where(gives, (given << 16) | (state & 0xFFFF), given)
    state = tl.where(gives, state >> 16, state)
    return tl.where(active, (state << bits) | raw, state), given, count + gives.to(tl.int32)


@triton.jit
def _key(keys, i, count, inside):
    """Keys of symbols; -1, which is none, where there is no symbol."""
    return tl.load(keys + i, mask=inside & (i >= 0) & (i < count), other=-1)


@triton.jit
def _keys(keys, i, lanes, count, inside):
    """Keys of the symbols of four steps, backwards."""
    return (
        _key(keys, i, count, inside), _key(keys, i - lanes, count, inside),
        _key(keys, i - 2 * lanes, count, inside), _key(keys, i - 3 * lanes, count, inside),
    )  # fmt: skip


@triton.jit
def _entry(lookups, key):
    """What encoding symbols with keys takes."""
    return tl.load(lookups + (key.to(tl.int32) & 0xFFFF), mask=key != -1, other=_NEUTRAL)


@triton.jit
def _entries(lookups, some):
    """What encoding the symbols of four steps takes."""
    return _entry(lookups, some[0]), _entry(lookups, some[1]), _entry(lookups, some[2]), _entry(lookups, some[3])


@triton.jit
def _encoded(state, key, entry, keys, further, given, i):
    """States of lanes that have taken one symbol more, and how many words each has given."""
    low = entry.to(tl.int32)
    count = low * 0
    words = state.to(tl.int64)
    rare = tl.max(low, 0) >= _RARE
    if rare:
        token = key.to(tl.int32) & _TOKEN_MASK
        bits = tl.where(low >= _RARE, _raw_bits(token), 0).to(tl.int64)
        value = tl.load(further + i, mask=bits > 0, other=0)
        below = tl.maximum(bits - 1, 0)
        raw = ((tl.abs(value) & ((1 << below) - 1)) << 1) | (value < 0).to(tl.int64)
        first = tl.minimum(bits, 16)
        more = bits - first
        large = state.to(tl.int64)
        large, words, count = _push(large, more, raw >> first, more > 0, words, count)
        large, words, count = _push(large, first, raw & ((1 << first) - 1), bits > 0, words, count)
        escaped = (low & _ESCAPED) != 0
        large, words, count = _push(large, bits * 0 + _TOKEN_BITS, token, escaped, words, count)
        state = large.to(tl.uint32)
    fields = low.to(tl.uint32, bitcast=True)
    gives = state > (((fields & 0xFFF000) << 8) | 0xFFFFF)
    word = state & 0xFFFF
    if rare:
        count += gives.to(tl.int32)
        words = tl.where(gives, (words << 16) | word.to(tl.int64), words)
        tl.store(further + i, words, mask=count > 1)
        word = words.to(tl.uint32) & 0xFFFF
    else:
        count = gives.to(tl.int32)
    tl.store(keys + i, word.to(tl.int16), mask=count > 0)
    tl.store(given + i, count.to(tl.int8), mask=key != -1)
    state = tl.where(gives, state >> 16, state)
    multiplier = (entry >> 32).to(tl.uint32)
    quotient = tl.umulhi(state + ((fields >> 28) & 1), multiplier) >> ((fields >> 24) & 15)
    return state + (fields & 4095) + quotient * (4095 - ((fields >> 12) & 4095)), count


@triton.jit
def encode_kernel(groups, bounds, keys, further, lookups, given, states, totals, LANES: tl.constexpr):
    """Symbols of some lanes of a stream, coded backwards; one program for each group of lanes.

    What a lane does follows from its own symbols alone. Words stay with the symbols that gave them.

    Parameters
    ----------
    groups : (group, ENCODED) int64
    bounds : (stream, 2) int64
        First symbol of each stream, and where they end.
    keys, further
        What `put_kernel` found. Are overwritten by the words that each symbol gives, as a decoder meets them: the
        first one, and all of them if they are more.
    lookups : (n,) int64
        By key, what encoding takes (`_entries` of coder.py).
    given : (n,) int8
        Gets the number of words of each symbol.
    states : (n,) int32
        Get the first states of the decoder.
    totals : (group,) int32
        Get the numbers of words.
    """
    row = groups + tl.program_id(0).to(tl.int64) * _ENCODED
    stream = tl.load(row)
    lanes = tl.load(row + 1).to(tl.int32)
    lane = tl.load(row + 2).to(tl.int32) + tl.arange(0, LANES)
    lookups += tl.load(row + 3)
    states += tl.load(row + 4)
    begin = tl.load(bounds + 2 * stream)
    count = (tl.load(bounds + 2 * stream + 1) - begin).to(tl.int32)
    keys += begin
    further += begin
    given += begin
    state = (lane * 0 + _LOWER).to(tl.uint32)
    total = lane * 0
    steps = (count + lanes - 1) // lanes
    # Four steps at a time: their lookups were asked for four steps before, their keys four steps before that.
    i = (steps - 1) * lanes + lane
    now = _keys(keys, i, lanes, count, lane < lanes)
    entries = _entries(lookups, now)
    after = _keys(keys, i - 4 * lanes, lanes, count, lane < lanes)
    for _ in range((steps + 3) // 4):
        coming = _entries(lookups, after)
        later = _keys(keys, i - 8 * lanes, lanes, count, lane < lanes)
        for step in tl.static_range(4):
            state, own = _encoded(state, now[step], entries[step], keys, further, given, i)
            total += own
            i -= lanes
        now, entries, after = after, coming, later
    tl.store(states + lane, state.to(tl.int32, bitcast=True), mask=lane < lanes)
    tl.store(totals + tl.program_id(0), tl.sum(total, 0))


@triton.jit
def pack_kernel(given, keys, further, firsts, words, BLOCK: tl.constexpr):
    """Words of all symbols, one behind the other.

    Parameters
    ----------
    given, keys, further
        What `encode_kernel` made.
    firsts : (n / BLOCK,) int64
        Place of the first word of each block of symbols.
    words : (n,) int16
        Get the words.
    """
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    count = tl.load(given + i).to(tl.int32)
    words += tl.load(firsts + tl.program_id(0)) + tl.cumsum(count, 0) - count
    tl.store(words, tl.load(keys + i, mask=count > 0, other=0), mask=count > 0)
    if tl.max(count, 0) > 1:
        all_words = tl.load(further + i, mask=count > 1, other=0)
        for further_word in tl.static_range(1, _MOST_WORDS):
            tl.store(words + further_word, (all_words >> (16 * further_word)).to(tl.int16), mask=count > further_word)
