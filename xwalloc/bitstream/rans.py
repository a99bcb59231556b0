# mypy: disable-error-code="no-untyped-def, no-untyped-call, assignment"
"""Interleaved range asymmetric numeral system (rANS) coder over integer frequency tables.

A signed integer becomes a *token* and, for large magnitudes, raw bits (the split of JPEG XL's hybrid integers):

- |v| <= 15: token 2|v| - 1 for v > 0, 2|v| for v < 0, 0 for 0; no raw bits;
- 2^e <= |v| < 2^(e+1), 4 <= e < 16: token 31 + 4 (e - 4) + the two bits behind the leading one; raw bits: the
  e - 2 remaining bits, then the sign (1 for negative) as lowest bit;
- 16 <= e < 63: token 79 + e - 16; raw bits: the e bits behind the leading one, then the sign.

A token that a table gives no frequency is written as `ESCAPE` followed by the token in 7 raw bits: nothing saturates.

Several states, the *lanes*, take turns, symbol by symbol, over one stream of 16-bit words: four independent chains of
arithmetic keep a core busy; a stream may have up to 2^12 lanes for devices with thousands of them. Each state lives in
[2^16, 2^32).

Source: J. Duda, "Asymmetric numeral systems", arXiv 1311.2540; F. Giesen, "Interleaved entropy coders",
arXiv 1402.3392.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream.tables import ESCAPE, PROB_BITS, Tables
from xwalloc.errors import FormatError
from xwalloc.jit import inline_kernel, kernel
from xwalloc.types import Buffer

__all__ = ["LANES", "MAX_LANES", "decode", "encode", "pack_stream", "room_for", "take_apart", "unpack_stream"]

LANES = 4
"""Lanes of a stream for one core."""

MAX_LANES = 1 << 12
LOWER = 1 << 16
SLOT_MASK = (1 << PROB_BITS) - 1
DIRECT = 15  # largest magnitude with a token of its own
TOKEN_BITS = 7
LAST_TOKEN = 125
FREQUENCY_ONE = 1 << 16


# Kernels count in unsigned 64-bit integers: numba then needs neither checks of signs nor wrap-around of indices.
U = np.uint64
_0, _1, _2, _3, _16, _32 = U(0), U(1), U(2), U(3), U(16), U(32)
_LOWER, _SLOTS, _PROB, _TOKEN, _WORD = U(LOWER), U(SLOT_MASK), U(PROB_BITS), U(TOKEN_BITS), U(0xFFFF)
_CODED, _ESCAPE, _ROOM = U(31), U(ESCAPE), U(32 - PROB_BITS)


@kernel
def split(value):
    """Token, number of raw bits and raw bits of a signed integer above -2^63."""
    magnitude = U(abs(np.int64(value)))
    positive = _1 if value > 0 else _0
    if magnitude <= U(DIRECT):
        return _2 * magnitude - positive, _0, _0
    exponent = U(4)
    while magnitude >> (exponent + _1):
        exponent += _1
    if exponent < _16:
        raw_bits = exponent - _2
        token = _CODED + U(4) * (exponent - U(4)) + ((magnitude >> raw_bits) & _3)
    else:
        raw_bits = exponent
        token = U(79) + exponent - _16
    raw = ((magnitude & ((_1 << raw_bits) - _1)) << _1) | (_1 - positive)
    return token, raw_bits + _1, raw


@kernel
def raw_bits_of(token):
    """Number of raw bits behind a token, sign included."""
    if token < _CODED:
        return _0
    if token < U(79):
        return ((token - _CODED) >> _2) + _3
    return token - U(79) + U(17)


@inline_kernel
def small(token):
    """The signed integer of a token below 31."""
    magnitude = np.int64((token + _1) >> _1)
    sign = np.int64(token & _1) - 1
    return (magnitude ^ sign) - sign


@kernel
def join(token, raw):
    """The signed integer of a token and its raw bits."""
    if token < _CODED:
        return small(token)
    if token < U(79):
        exponent = U(4) + ((token - _CODED) >> _2)
        magnitude = ((U(4) | ((token - _CODED) & _3)) << (exponent - _2)) | (raw >> _1)
    else:
        magnitude = (_1 << (token - U(79) + _16)) | (raw >> _1)
    return -np.int64(magnitude) if raw & _1 else np.int64(magnitude)


@kernel
def _push_raw(state, raw, bits, words, position):
    """Write `bits` raw bits so that the decoder meets the lowest chunk first; returns state and write position."""
    chunks = (bits + U(15)) >> U(4)
    while chunks > _0:
        chunks -= _1
        done = chunks << U(4)
        width = min(_16, bits - done)
        if state >= _1 << (_32 - width):
            position -= _1
            words[position] = state & _WORD
            state >>= _16
        state = (state << width) | ((raw >> done) & ((_1 << width) - _1))
    return state, position


@kernel
def encode_kernel(values, contexts, spans, words, states):
    """Encode backwards into the end of `words`; returns the index of the first word written, or -1 if full."""
    position = U(words.shape[0])
    last = U(states.shape[0] - 1)
    for lane in range(states.shape[0]):
        states[lane] = LOWER
    left = U(values.shape[0])
    while left > _0:
        if position < U(8):
            return -1
        left -= _1
        lane = left & last
        state = U(states[lane])
        value = np.int64(values[left])
        table = U(contexts[left]) << _TOKEN
        magnitude = abs(value)
        if magnitude <= DIRECT:
            token = U(2 * magnitude - (value > 0))
        else:
            token, bits, raw = split(value)
            state, position = _push_raw(state, raw, bits, words, position)
        span = U(spans[table + token])
        if span < U(FREQUENCY_ONE):
            state, position = _push_raw(state, token, _TOKEN, words, position)
            span = U(spans[table + _ESCAPE])
        frequency = span >> _16
        if state >= frequency << _ROOM:
            position -= _1
            words[position] = state & _WORD
            state >>= _16
        quotient = U(np.uint32(state) // np.uint32(frequency))
        states[lane] = (quotient << _PROB) + (state - quotient * frequency) + (span & _WORD)
    return np.int64(position)


@kernel
def pop_raw(state, bits, words, position):
    """Read raw bits; returns them with the new state and position."""
    raw = _0
    done = _0
    end = U(words.shape[0])
    while done < bits:
        width = min(_16, bits - done)
        raw |= (state & ((_1 << width) - _1)) << done
        state >>= width
        if state < _LOWER:
            state = (state << _16) | (U(words[position]) if position < end else _0)
            position += _1
        done += width
    return raw, state, position


@kernel
def pop_large(token, state, words, position):
    """Read what stands behind a token that is not the value itself; returns the value and the new state and position.

    A token that cannot be sets the position beyond the end.
    """
    if token == _ESCAPE:
        token, state, position = pop_raw(state, _TOKEN, words, position)
        if token > U(LAST_TOKEN):
            return np.int64(0), state, U(words.shape[0]) + _1
    raw, state, position = pop_raw(state, raw_bits_of(token), words, position)
    return join(token, raw), state, position


@inline_kernel
def pop(state, context, symbols, spans, words, position):
    """Read one signed integer; returns it with the new state and position.

    Past the end of the stream zeros are read, and the position tells so.
    """
    slot = state & _SLOTS
    table = U(context)
    token = U(symbols[(table << _PROB) | slot])
    span = U(spans[(table << _TOKEN) | token])
    state = (span >> _16) * (state >> _PROB) + slot - (span & _WORD)
    if state < _LOWER:
        state = (state << _16) | (U(words[position]) if position < U(words.shape[0]) else _0)
        position += _1
    if token < _CODED:
        value = small(token)
    else:
        value, state, position = pop_large(token, state, words, position)
    return value, state, position


@kernel
def decode_kernel(contexts, symbols, spans, words, states, values):
    """Decode as many values as there are contexts; returns the number of words read."""
    position = _0
    end, last = U(words.shape[0]), U(states.shape[0] - 1)
    for i in range(contexts.shape[0]):
        lane = U(i) & last
        value, state, position = pop(U(states[lane]), contexts[i], symbols, spans, words, position)
        if position > end:
            break
        values[i] = value
        states[lane] = state
    return np.int64(position)


IMPOSSIBLE = "A stream of the frame has an impossible length, number of lanes or coder state."


def pack_stream(states: NDArray[np.int64], words: NDArray[np.uint16]) -> bytes:
    """Bytes of one stream: the base-2 logarithm of the number of lanes, the first states of the decoder, its words."""
    lanes = len(states).bit_length() - 1
    return b"".join([bytes([lanes]), states.astype("<u4").data, words.astype("<u2", copy=False).data])


def unpack_stream(data: Buffer) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """States and words of one stream.

    Raises
    ------
    FormatError
        If the length is impossible or a state lies outside [2^16, 2^32).
    """
    lanes = 1 << data[0] if data and data[0] < 16 else MAX_LANES + 1
    if not LANES <= lanes <= MAX_LANES or len(data) < 1 + 4 * lanes or len(data) % 2 == 0:
        raise FormatError(IMPOSSIBLE)
    states = np.frombuffer(data, "<u4", lanes, offset=1).astype(np.int64)
    if states.min() < LOWER:
        raise FormatError(IMPOSSIBLE)
    return states, np.frombuffer(data, "<u2", offset=1 + 4 * lanes).astype(np.uint16)


@kernel
def _copy(source, target):
    for i in range(target.shape[0]):
        target[i] = source[i]


@kernel
def _take_apart(data, places, lanes, words, out):
    """Find the lanes and words of streams, put their states in a row, then their words; False if one is impossible."""
    at = 0
    for i in range(places.shape[0]):
        first, length = places[i, 0], places[i, 1] - places[i, 0]
        lanes[i] = 1 << data[first] if length > 0 and data[first] < 16 else MAX_LANES + 1
        if not LANES <= lanes[i] <= MAX_LANES or length < 1 + 4 * lanes[i] or length % 2 == 0:
            return False
        size = 4 * lanes[i]
        _copy(data[first + 1 : first + 1 + size], out[at : at + size])
        for state in range(at, at + size, 4):
            if out[state + 2] == 0 and out[state + 3] == 0:  # below `LOWER`
                return False
        at += size
    for i in range(places.shape[0]):
        first, end = places[i, 0] + 1 + 4 * lanes[i], places[i, 1]
        _copy(data[first:end], out[at : at + end - first])
        at += end - first
        words[i] = (end - first) >> 1
    return True


def room_for(places: Sequence[tuple[int, int]]) -> int:
    """Bytes of the states and words of streams that begin and end at these places.

    Raises
    ------
    FormatError
        If a stream has none.
    """
    if any(start == stop for start, stop in places):
        raise FormatError(IMPOSSIBLE)
    return sum(stop - start - 1 for start, stop in places)


def take_apart(
    data: Buffer, places: Sequence[tuple[int, int]], out: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """`unpack_stream` for streams of a section, whose bytes come out as a device wants them.

    Parameters
    ----------
    data
        Bytes of the section.
    places
        Where each stream begins and ends in them.
    out : (room_for(places),)
        Gets the states of 4 bytes of all streams, one behind the other, and then their words of 2 bytes.

    Returns
    -------
    lanes, words : (stream,)
        Lanes and words of each stream.

    Raises
    ------
    FormatError
        As `unpack_stream` does.
    """
    lanes, words = np.empty((2, len(places)), np.int64)
    edges = np.array(places, np.int64).reshape(-1, 2)
    if not _take_apart(np.frombuffer(data, np.uint8), edges, lanes, words, out):
        raise FormatError(IMPOSSIBLE)
    return lanes, words


def encode(
    values: NDArray[np.signedinteger], contexts: NDArray[np.uint16], tables: Tables, lanes: int = LANES
) -> bytes:
    """Encode integers, each with the table that its context names.

    Parameters
    ----------
    values : (n,) int32 or int64
        Integers above -2^63.
    contexts : (n,) uint16
        Index of the table of each value.
    tables
        Frequency tables.
    lanes
        Number of lanes: a power of two from `LANES` to `MAX_LANES`.
    """
    states = np.empty(lanes, np.int64)
    room = values.shape[0] // 2 + 64
    while True:
        words = np.empty(room, np.uint16)
        first = encode_kernel(values, contexts, tables.spans, words, states)
        if first >= 0:
            return pack_stream(states, words[first:])
        room *= 3


def decode(data: Buffer, contexts: NDArray[np.uint16], tables: Tables) -> NDArray[np.int64]:
    """Inverse of `encode` where all contexts are known beforehand.

    Raises
    ------
    FormatError
        If the stream does not end exactly where it should.
    """
    states, words = unpack_stream(data)
    values = np.empty(contexts.shape[0], np.int64)
    end = decode_kernel(contexts, tables.symbols, tables.spans, words, states, values)
    check_end(end, words, states)
    return values


def check_end(position: int, words: NDArray[np.uint16], states: NDArray[np.int64]) -> None:
    """Check that a decoder has read all words and is back at the encoder's first state.

    Raises
    ------
    FormatError
        If it is not: the stream was made for other contexts or tables, or on purpose.
    """
    if position != words.shape[0] or (states != LOWER).any():
        raise FormatError("A stream of the frame does not decode to its end.")
