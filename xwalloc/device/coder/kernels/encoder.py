# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""Triton kernels of the entropy encoder: planes of integers -> streams, to the byte what bitstream/ does on a CPU.

Symbols are put in coding order first, each as a *key*: the class of what is expected there, and its token. Then each
lane of each stream goes through its own symbols backwards: what a state becomes does not depend on other lanes. The
words that it gives stay with the symbols that gave them, and are put one behind the other at last.
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
    float_bits,
    is_coded,
    list_coded,
    list_filled,
    others_of,
    place_listed,
    raw_bits,
    reciprocal_of,
    whole_groups,
)

__all__ = [
    "ENCODED",
    "ESCAPED",
    "RARE",
    "count_kernel",
    "encode_kernel",
    "histogram_kernel",
    "pack_kernel",
    "put_kernel",
]

ENCODED = 5
"""Columns of a group of lanes: its stream, the lanes of that, first lane; where its lookups and its states begin."""

RARE, ESCAPED = 1 << 30, 1 << 29
"""Marks of lookups: symbols that are more than a token with a frequency of its own, and tokens that have none."""

_LOOKS, _GROUP, _SPARSE_BELOW = tl.constexpr(LOOKS), tl.constexpr(scan.GROUP), tl.constexpr(scan.SPARSE_BELOW)
_CLASSES, _ROLES = tl.constexpr(contexts.CLASSES), tl.constexpr(len(contexts.Role))
_DENSE_ROLE, _GROUPED_ROLE = tl.constexpr(int(contexts.Role.DENSE)), tl.constexpr(int(contexts.Role.GROUPED))
_FLAG_ROLE = tl.constexpr(int(contexts.Role.FLAG))
_LOWER, _DIRECT = tl.constexpr(rans.LOWER), tl.constexpr(rans.DIRECT)
_TOKEN_BITS, _TOKEN_MASK = tl.constexpr(rans.TOKEN_BITS), tl.constexpr((1 << rans.TOKEN_BITS) - 1)
_ENCODED, _RARE, _ESCAPED = tl.constexpr(ENCODED), tl.constexpr(RARE), tl.constexpr(ESCAPED)
_NEUTRAL = tl.constexpr(((1 << tables.PROB_BITS) - 1) << 12)  # a lookup that leaves a state as it is
_MOST_WORDS = tl.constexpr(4)  # that a symbol gives: 31 raw bits, 7 of an escaped token, 12 of the escape itself


@triton.jit
def _looked_at(at, mask_at, x, nx, active, MASKED: tl.constexpr):
    """How many samples of groups are coded, and whether any of them is not 0."""
    size = x * 0
    filled = x < 0
    for k in tl.static_range(_GROUP):
        coded = active & (x + k < nx)
        if MASKED:
            coded = is_coded(mask_at + k, coded)
        size += coded.to(tl.int32)
        filled |= tl.load(at + k, mask=coded, other=0) != 0
    return size, filled


@triton.jit(do_not_specialize_on_alignment=["looks", "flags", "samples"])
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
    base, mask_base, ny, nx, sz, sy, rows = extent_of(look)
    lane = tl.arange(0, BLOCK)
    n_flags = tl.max(lane * 0, 0)
    n_samples = tl.max(lane * 0, 0)
    if own > 0:
        by_ny = reciprocal_of(ny)
        if own < _SPARSE_BELOW:
            across = (nx + _GROUP - 1) // _GROUP
            by_across = reciprocal_of(across)
            for start in range(0, rows * across, BLOCK):
                i = start + lane
                row, x = divide(i, across, by_across)
                z, y = divide(row, ny, by_ny)
                x *= _GROUP
                place = z * sz + y * sy + x
                size, filled = _looked_at(
                    values + base + place, mask + mask_base + place, x, nx, i < rows * across, MASKED
                )
                n_flags += tl.sum((size > 0).to(tl.int32), 0)
                n_samples += tl.sum(tl.where(filled, size, 0), 0)
        elif MASKED:
            by_nx = reciprocal_of(nx)
            for start in range(0, rows * nx, BLOCK):
                i = start + lane
                row, x = divide(i, nx, by_nx)
                z, y = divide(row, ny, by_ny)
                at = mask + mask_base + (z * sz + y * sy + x)
                n_samples += tl.sum(is_coded(at, i < rows * nx).to(tl.int32), 0)
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
        bits = float_bits(magnitude)
        near = (bits >> 21) - (4 * 127 - 15)
        far = (float_bits(magnitude & ~(magnitude >> 1)) >> 23) - (127 - 63)
        token = tl.where(large, tl.where(magnitude < (1 << 16), near, far), token)
        tl.store(further + at, value.to(tl.int64), mask=large)
    tl.store(keys + at, ((class_ << _TOKEN_BITS) + token).to(tl.int16), mask=coded)


@triton.jit(do_not_specialize_on_alignment=["looks", "flags", "firsts"])
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
    base, mask_base, ny, nx, sz, sy, rows = extent_of(look)
    lane = tl.arange(0, BLOCK)
    first = tl.load(firsts + index)
    n_flags = tl.load(flags + index)
    n = rows * nx
    if own > 0:
        others = others_of(look)
        by_nx, by_ny = reciprocal_of(nx), reciprocal_of(ny)
        sparse = own < _SPARSE_BELOW
        together = tl.where(sparse, whole_groups(nx, MASKED), 0)
        flag_at = keys + first
        listed = scratch + first
        if sparse:
            across = (nx + _GROUP - 1) // _GROUP
            by_across = reciprocal_of(across)
            previous = tl.load(look + 8)
            w_flags = tl.load(look + 16).to(tl.int32)
            held_flags = tl.load(look + 17)
            n = n * 0
            flag = n
            for start in range(0, rows * across, BLOCK):
                i = start + lane
                row, x = divide(i, across, by_across)
                z, y = divide(row, ny, by_ny)
                x *= _GROUP
                place = z * sz + y * sy + x
                mask_at = mask + mask_base + place
                size, filled = _looked_at(values + base + place, mask_at, x, nx, i < rows * across, MASKED)
                flagged = size > 0
                expected = expect_flags(values, previous, w_flags, held_flags, place, x, nx, flagged)
                key = ((class_of(expected) + _FLAG_ROLE * _CLASSES) << _TOKEN_BITS) + filled.to(tl.int32)
                to = i
                if MASKED:
                    taken = flagged.to(tl.int32)
                    to = flag + tl.cumsum(taken, 0) - taken
                    flag += tl.sum(taken, 0)
                tl.store(flag_at + to, key.to(tl.int16), mask=flagged)
                n = list_filled(listed, n, filled, row * nx + x, x, nx, mask_at, together, MASKED)
            n <<= together
            tl.debug_barrier()
        elif MASKED:
            n = list_coded(mask, mask_base, listed, n, ny, nx, sz, sy, 1, BLOCK)
        role = tl.where(sparse, _GROUPED_ROLE, _DENSE_ROLE)
        for start in range(0, n, BLOCK):
            i = start + lane
            active = i < n
            sample = i
            if MASKED or sparse:
                sample = place_listed(listed, i, together, active)
            row, x = divide(sample, nx, by_nx)
            z, y = divide(row, ny, by_ny)
            place = z * sz + y * sy + x
            value = tl.load(values + base + place, mask=active, other=0)
            expected = expect(values, others, place, z, y, x, ny, nx, sz, sy, active)
            _put(keys + first, further + first, n_flags + i, value, role * _CLASSES + class_of(expected), active)


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
        bits = tl.where(low >= _RARE, raw_bits(token), 0).to(tl.int64)
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
        By key, what encoding takes (`_entries` of coder/encoder.py).
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
