# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Triton kernel of the entropy decoder: streams -> planes of integers, to the symbol what bitstream/ does on a CPU.

One program decodes one stream, with one lane of the tensor for each lane of the stream: `LANES` symbols at a time.
Since the tables of a whole plane are known beforehand, nothing but the states makes a chain.

Lanes take their words from one stream, in the order of their symbols. How many words a symbol takes follows from its
token and the high bits of the state, but not from words that are still to be read, except where its token is escaped:
so a prefix sum over the lanes says where each reads. Escaped tokens, which are rare, are looked up one after the other.
"""

from __future__ import annotations

import triton
import triton.language as tl

from xwalloc.bitstream import contexts, rans, scan, tables
from xwalloc.device.coder.kernels.contexts import (
    LOOKS,
    class_of,
    divide,
    expect,
    expect_flags,
    extent_of,
    list_coded,
    list_filled,
    others_of,
    place_listed,
    raw_bits,
    reciprocal_of,
    whole_groups,
)

__all__ = ["STREAM", "decode_kernel"]

STREAM = 7
"""Columns of a stream: its first plane among all planes of the call, and how many it has; first word, words, first
state; first of its tables; where its scratch begins."""

_STREAM, _LOOKS = tl.constexpr(STREAM), tl.constexpr(LOOKS)
_GROUP, _SPARSE_BELOW = tl.constexpr(scan.GROUP), tl.constexpr(scan.SPARSE_BELOW)
_CLASSES, _FLAG_ROLE = tl.constexpr(contexts.CLASSES), tl.constexpr(int(contexts.Role.FLAG))
_DENSE_ROLE, _GROUPED_ROLE = tl.constexpr(int(contexts.Role.DENSE)), tl.constexpr(int(contexts.Role.GROUPED))
_LOWER, _ESCAPE, _LAST_TOKEN = tl.constexpr(rans.LOWER), tl.constexpr(tables.ESCAPE), tl.constexpr(rans.LAST_TOKEN)
_TOKEN_BITS, _TOKEN_MASK = tl.constexpr(rans.TOKEN_BITS), tl.constexpr((1 << rans.TOKEN_BITS) - 1)
_LARGE_FROM = tl.constexpr(2 * contexts.ONE)  # stated magnitudes from which a step of many lanes often has raw bits
_MOST_RAW = tl.constexpr(31)  # of integers of 32 bits


@triton.jit
def _refilled(words, position, end, state, needed):
    """States that have taken a word where it is needed."""
    word = tl.load(words + position, mask=needed & (position < end), other=0).to(tl.uint16, bitcast=True)
    return tl.where(needed, (state << 16) | word.to(state.dtype), state)


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
        bits = tl.where(active, raw_bits(token), 0)
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
    bits = tl.where(active, raw_bits(token), 0)
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


@triton.jit(do_not_specialize_on_alignment=["streams", "status"])  # one variant wherever a launch begins
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
    own = tl.load(first)
    for p in range(count):
        look = first + (end * 0 + p).to(tl.int64) * _LOOKS
        next_own = tl.load(look + _LOOKS, mask=p + 1 < count, other=0)
        if (own > 0) & (position <= end):  # of a stream that has ended too early the rest is not looked for
            base, mask_base, ny, nx, sz, sy, rows = extent_of(look)
            others = others_of(look)
            by_nx, by_ny = reciprocal_of(nx), reciprocal_of(ny)
            n = rows * nx
            # Lists: samples that are coded, slots of what comes next, where it goes; groups that are coded.
            listed = scratch
            tables = scratch + n
            places = tables + n
            coded_groups = places + n
            sparse = own < _SPARSE_BELOW
            together = tl.where(sparse, whole_groups(nx, MASKED), 0)
            if sparse:
                across = (nx + _GROUP - 1) // _GROUP
                by_across = reciprocal_of(across)
                groups = rows * across
                previous = tl.load(look + 8)
                w_flags = tl.load(look + 16).to(tl.int32)
                held_flags = tl.load(look + 17)
                if MASKED:
                    groups = list_coded(mask, mask_base, coded_groups, groups, ny, nx, sz, sy, _GROUP, WIDE)
                for start in range(0, groups, WIDE):
                    i = start + wide
                    active = i < groups
                    group = i
                    if MASKED:
                        group = tl.load(coded_groups + i, mask=active, other=0)
                    row, x = divide(group, across, by_across)
                    z, y = divide(row, ny, by_ny)
                    x *= _GROUP
                    place = z * sz + y * sy + x
                    expected = expect_flags(values, previous, w_flags, held_flags, place, x, nx, active)
                    table = tl.load(table_of + _FLAG_ROLE * _CLASSES + class_of(expected), mask=active, other=0)
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
                    row, x = divide(group, across, by_across)
                    z, y = divide(row, ny, by_ny)
                    x *= _GROUP
                    mask_at = mask + mask_base + (z * sz + y * sy + x)
                    n = list_filled(listed, n, filled, row * nx + x, x, nx, mask_at, together, MASKED)
                n <<= together
                tl.debug_barrier()
            elif MASKED:
                n = list_coded(mask, mask_base, listed, n, ny, nx, sz, sy, 1, WIDE)
            role = tl.where(sparse, _GROUPED_ROLE, _DENSE_ROLE)
            for start in range(0, n, WIDE):
                i = start + wide
                active = i < n
                sample = i
                if MASKED or sparse:
                    sample = place_listed(listed, i, together, active)
                row, x = divide(sample, nx, by_nx)
                z, y = divide(row, ny, by_ny)
                place = z * sz + y * sy + x
                expected = expect(values, others, place, z, y, x, ny, nx, sz, sy, active)
                table = tl.load(table_of + role * _CLASSES + class_of(expected), mask=active, other=0)
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
        own = next_own
    sound = (position == end) & (tl.max(((state != _LOWER) | (bad > 0)).to(tl.int32), 0) == 0)
    # Words that were only asked for ahead must count for something, or a compiler would not ask for them.
    tl.store(status + tl.program_id(0), tl.where(sound, 0, tl.max(seen.to(tl.int32), 0) | 1))
