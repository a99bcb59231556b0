# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Interleaved range asymmetric numeral system (rANS) coder over integer frequency tables.

A signed integer becomes a *token* and, for large magnitudes, raw bits (the split of JPEG XL's hybrid integers):

- |v| <= 15: token 2|v| - 1 for v > 0, 2|v| for v < 0, 0 for 0; no raw bits;
- 2^e <= |v| < 2^(e+1), 4 <= e < 16: token 31 + 4 (e - 4) + the two bits behind the leading one; raw bits: the
  e - 2 remaining bits, then the sign (1 for negative) as lowest bit;
- 16 <= e < 63: token 79 + e - 16; raw bits: the e bits behind the leading one, then the sign.

A token that a table gives no frequency is written as `ESCAPE` followed by the token in 7 raw bits: nothing saturates.

`LANES` states take turns, symbol by symbol, over one stream of 16-bit words: four independent chains of arithmetic
for the processor, one byte stream for the frame. Each state lives in [2^16, 2^32).

Source: J. Duda, "Asymmetric numeral systems", arXiv 1311.2540; F. Giesen, "Interleaved entropy coders",
arXiv 1402.3392.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream.tables import ESCAPE, PROB_BITS, Tables
from xwalloc.errors import FormatError
from xwalloc.jit import kernel

__all__ = ["LANES", "decode", "encode", "pack_stream", "unpack_stream"]

LANES = 4
LOWER = 1 << 16
SLOT_MASK = (1 << PROB_BITS) - 1
DIRECT = 15  # largest magnitude with a token of its own
MAX_RAW_CHUNK = 16
TOKEN_BITS = 7
LAST_TOKEN = 125
FREQUENCY_ONE = 1 << 16


@kernel
def split(value):
    """Token, number of raw bits and raw bits of a signed integer above -2^63."""
    magnitude = abs(value)
    if magnitude <= DIRECT:
        return 2 * magnitude - (1 if value > 0 else 0), 0, 0
    exponent = 4
    while magnitude >> (exponent + 1):
        exponent += 1
    sign = 1 if value < 0 else 0
    if exponent < 16:
        raw_bits = exponent - 2
        token = 31 + 4 * (exponent - 4) + ((magnitude >> raw_bits) & 3)
    else:
        raw_bits = exponent
        token = 79 + exponent - 16
    raw = ((magnitude & ((1 << raw_bits) - 1)) << 1) | sign
    return token, raw_bits + 1, raw


@kernel
def raw_bits_of(token):
    """Number of raw bits behind a token, sign included."""
    if token < 31:
        return 0
    if token < 79:
        return ((token - 31) >> 2) + 3
    return token - 79 + 17


@kernel
def join(token, raw):
    """The signed integer of a token and its raw bits."""
    if token < 31:
        magnitude = (token + 1) >> 1
        return magnitude if token & 1 else -magnitude
    if token < 79:
        exponent = 4 + ((token - 31) >> 2)
        magnitude = ((4 | ((token - 31) & 3)) << (exponent - 2)) | (raw >> 1)
    else:
        magnitude = (1 << (token - 79 + 16)) | (raw >> 1)
    return -magnitude if raw & 1 else magnitude


@kernel
def _push_raw(state, raw, bits, words, position):
    """Write `bits` raw bits so that the decoder meets the lowest chunk first; returns state and write position."""
    chunks = (bits + MAX_RAW_CHUNK - 1) // MAX_RAW_CHUNK
    for c in range(chunks - 1, -1, -1):
        width = min(MAX_RAW_CHUNK, bits - c * MAX_RAW_CHUNK)
        if state >= (1 << (32 - width)):
            position -= 1
            words[position] = state & 0xFFFF
            state >>= 16
        state = (state << width) | ((raw >> (c * MAX_RAW_CHUNK)) & ((1 << width) - 1))
    return state, position


@kernel
def _push_token(state, frequency, start, words, position):
    """Write one token; returns state and write position."""
    if state >= (frequency << (32 - PROB_BITS)):
        position -= 1
        words[position] = state & 0xFFFF
        state >>= 16
    quotient = state // frequency
    return (quotient << PROB_BITS) + (state - quotient * frequency) + start, position


@kernel
def encode_kernel(values, contexts, spans, words, states):
    """Encode backwards into the end of `words`; returns the index of the first word written, or -1 if full."""
    position = words.shape[0]
    for lane in range(LANES):
        states[lane] = LOWER
    for i in range(values.shape[0] - 1, -1, -1):
        if position < 8:
            return -1
        lane = i & (LANES - 1)
        state = states[lane]
        token, bits, raw = split(np.int64(values[i]))
        table = np.int64(contexts[i]) << TOKEN_BITS
        if bits:
            state, position = _push_raw(state, raw, bits, words, position)
        span = np.int64(spans[table + token])
        if span < FREQUENCY_ONE:
            state, position = _push_raw(state, token, TOKEN_BITS, words, position)
            span = np.int64(spans[table + ESCAPE])
        state, position = _push_token(state, span >> 16, span & 0xFFFF, words, position)
        states[lane] = state
    return position


@kernel
def refill(state, words, position):
    """Renormalise a state; past the end of the stream zeros are read and `position` tells so."""
    if state < LOWER:
        word = np.int64(words[position]) if position < words.shape[0] else 0
        state = (state << 16) | word
        position += 1
    return state, position


@kernel
def pop_raw(state, bits, words, position):
    """Read raw bits; returns them with the new state and position."""
    raw = 0
    done = 0
    while done < bits:
        width = min(MAX_RAW_CHUNK, bits - done)
        raw |= (state & ((1 << width) - 1)) << done
        state >>= width
        state, position = refill(state, words, position)
        done += width
    return raw, state, position


@kernel
def pop(state, context, symbols, spans, words, position):
    """Read one signed integer; returns it, its magnitude, and the new state and position."""
    slot = state & SLOT_MASK
    token = np.int64(symbols[np.uint64((np.int64(context) << PROB_BITS) | slot)])
    span = np.int64(spans[np.uint64((np.int64(context) << TOKEN_BITS) | token)])
    state = (span >> 16) * (state >> PROB_BITS) + slot - (span & 0xFFFF)
    state, position = refill(state, words, position)
    if token < 31:
        magnitude = (token + 1) >> 1
        sign = (token & 1) - 1
        return (magnitude ^ sign) - sign, magnitude, state, position
    if token == ESCAPE:
        token, state, position = pop_raw(state, TOKEN_BITS, words, position)
        if token > LAST_TOKEN:
            return 0, 0, state, words.shape[0] + 1
    raw, state, position = pop_raw(state, raw_bits_of(token), words, position)
    value = join(token, raw)
    return value, abs(value), state, position


@kernel
def decode_kernel(contexts, symbols, spans, words, states, values):
    """Decode as many values as there are contexts; returns the number of words read."""
    position = 0
    for i in range(contexts.shape[0]):
        lane = i & (LANES - 1)
        value, _, state, position = pop(states[lane], contexts[i], symbols, spans, words, position)
        if position > words.shape[0]:
            return position
        values[i] = value
        states[lane] = state
    return position


def pack_stream(states: NDArray[np.int64], words: NDArray[np.uint16]) -> bytes:
    """Bytes of one stream: the `LANES` first states of the decoder, then its words."""
    return states.astype("<u4").tobytes() + words.astype("<u2").tobytes()


def unpack_stream(data: bytes) -> tuple[NDArray[np.int64], NDArray[np.uint16]]:
    """States and words of one stream.

    Raises
    ------
    FormatError
        If the length is impossible or a state lies outside [2^16, 2^32).
    """
    if len(data) < 4 * LANES or len(data) % 2:
        raise FormatError(f"Expected a stream of at least {4 * LANES} bytes and even length. Got {len(data)}.")
    states = np.frombuffer(data, "<u4", LANES).astype(np.int64)
    if np.any(states < LOWER):
        raise FormatError("A stream begins with an impossible coder state.")
    return states, np.frombuffer(data, "<u2", offset=4 * LANES).astype(np.uint16)


def encode(values: NDArray[np.signedinteger], contexts: NDArray[np.uint16], tables: Tables) -> bytes:
    """Encode integers, each with the table that its context names.

    Parameters
    ----------
    values : (n,) int32 or int64
        Integers above -2^63.
    contexts : (n,) uint16
        Index of the table of each value.
    tables
        Frequency tables.
    """
    states = np.empty(LANES, np.int64)
    room = values.shape[0] // 2 + 64
    while True:
        words = np.empty(room, np.uint16)
        first = encode_kernel(values, contexts, tables.spans, words, states)
        if first >= 0:
            return pack_stream(states, words[first:])
        room *= 3


def decode(data: bytes, contexts: NDArray[np.uint16], tables: Tables) -> NDArray[np.int64]:
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
    if position != words.shape[0] or np.any(states != LOWER):
        raise FormatError("A stream of the frame does not decode to its end.")
