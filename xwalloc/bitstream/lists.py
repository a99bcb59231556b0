# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Lists of integers as adaptive Rice codes: what a decoder needs besides symbols.

Lists are written one after the other into one string of bits (first bit in the highest bit of the first byte, filled up
with zeros). A list is coded by itself: with a sum A = 4 and a count n = 1 at its beginning, every integer v >= 0 is
written with the smallest k for which n 2^k >= A: v >> k in unary (so many ones, then a zero), then the k low bits of v;
where v >> k is 20 or more, 20 ones, the number of bits of v less one in 6 bits, and v. Then A grows by
min(v, 16 2^k, 2^32), n by 1, and both are halved (rounding down) when n reaches 16. A signed integer s is written as
2 s for s >= 0 and -2 s - 1 for s < 0, modulo 2^64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from xwalloc.errors import FormatError
from xwalloc.jit import kernel
from xwalloc.types import Buffer

__all__ = ["Reader", "Writer", "is_filled", "read"]

Integers = NDArray[np.int64]

LONGEST_UNARY = 20
A_FIRST, A_MOST, N_MOST = 4, 1 << 32, 16


@kernel
def _length(value):
    """Bits of an unsigned integer, at least 1."""
    bits = 1
    while bits < 64 and value >> np.uint64(bits):
        bits += 1
    return bits


@kernel
def _put(out, at, value, bits):
    for i in range(bits - 1, -1, -1):
        if (value >> np.uint64(i)) & np.uint64(1):
            out[at >> 3] |= 128 >> (at & 7)
        at += 1
    return at


@kernel
def _write(values, out, at):
    """Write a list; returns the position of the next bit."""
    total, count = np.int64(A_FIRST), 1
    for value in values:
        k = 0
        while count << k < total:
            k += 1
        ones = value >> np.uint64(k)
        if ones < np.uint64(LONGEST_UNARY):
            for _ in range(ones):
                at = _put(out, at, np.uint64(1), 1)
            at = _put(out, at, np.uint64(0), 1)
            at = _put(out, at, value, k)
        else:
            at = _put(out, at, np.uint64((1 << LONGEST_UNARY) - 1), LONGEST_UNARY)
            bits = _length(value)
            at = _put(out, at, np.uint64(bits - 1), 6)
            at = _put(out, at, value, bits)
        total += np.int64(min(value, np.uint64(min(16 << k, A_MOST))))
        count += 1
        if count == N_MOST:
            total >>= 1
            count >>= 1
    return at


@kernel
def _get(data, at, bits):
    value = np.uint64(0)
    for _ in range(bits):
        value = (value << np.uint64(1)) | np.uint64((data[at >> 3] >> (7 - (at & 7))) & 1)
        at += 1
    return value


@kernel
def read(data, at, values):
    """Read a list; returns the position of the next bit, or -1 where the data end too early.

    What `Reader` does, for kernels: the list begins at the bit `at`, and fills `values` (uint64).
    """
    end = 8 * data.shape[0]
    total, count = np.int64(A_FIRST), 1
    for i in range(values.shape[0]):
        k = 0
        while count << k < total:
            k += 1
        ones = 0
        while ones < LONGEST_UNARY and at < end and _get(data, at, 1):
            ones += 1
            at += 1
        if ones < LONGEST_UNARY:
            at += 1
            bits = np.int64(k)
        else:
            if at + 6 > end:
                return -1
            bits = np.int64(_get(data, at, 6)) + 1
            at += 6
        if at + bits > end:
            return -1
        value = _get(data, at, bits)
        at += bits
        if ones < LONGEST_UNARY:
            value |= np.uint64(ones) << np.uint64(k)
        values[i] = value
        total += np.int64(min(value, np.uint64(min(16 << k, A_MOST))))
        count += 1
        if count == N_MOST:
            total >>= 1
            count >>= 1
    return at


@kernel
def is_filled(data, at):
    """Whether bytes end with the bit before `at`, but for zeros up to the next byte."""
    spare = 8 * data.shape[0] - at
    return 0 <= spare < 8 and (spare == 0 or data[data.shape[0] - 1] & ((1 << spare) - 1) == 0)


class Writer:
    """Collects lists."""

    def __init__(self) -> None:
        self.lists: list[NDArray[np.uint64]] = []

    def unsigned(self, values: object) -> None:
        """Add a list of integers from 0 on."""
        self.lists.append(np.asarray(values, np.int64).ravel().astype(np.uint64))

    def signed(self, values: object) -> None:
        """Add a list of signed integers."""
        signed = np.asarray(values, np.int64).ravel()
        self.lists.append(((signed << 1) ^ (signed >> 63)).astype(np.uint64))

    def to_bytes(self) -> bytes:
        """All lists."""
        out = np.zeros(12 * sum(map(len, self.lists)) + 8, np.uint8)
        at = 0
        for values in self.lists:
            at = _write(values, out, at)
        return out[: (at + 7) // 8].tobytes()


class Reader:
    """Reads lists in the order in which they were written.

    Its methods raise `FormatError` where the data end too early or hold what they must not.
    """

    def __init__(self, data: Buffer) -> None:
        self.data = np.frombuffer(data, np.uint8)
        self.at = 0

    def raw(self, count: int) -> NDArray[np.uint64]:
        """Integers below 2^64."""
        if count > 8 * len(self.data) - self.at:
            raise FormatError("A list of the frame is cut.")
        values = np.empty(count, np.uint64)
        self.at = int(read(self.data, self.at, values))
        if self.at < 0:
            raise FormatError("A list of the frame is cut.")
        return values

    def unsigned(self, count: int, limit: int) -> Integers:
        """Integers below `limit`."""
        values = self.raw(count)
        if count and values.max() >= np.uint64(limit):
            raise FormatError("A list of the frame holds an impossible value.")
        return values.astype(np.int64)

    def signed(self, count: int) -> Integers:
        """Signed integers of 64 bits."""
        values = self.raw(count)
        return (values >> np.uint64(1)).astype(np.int64) ^ -(values & np.uint64(1)).astype(np.int64)

    def sums(self, count: int, limit: int) -> Integers:
        """Integers from 0 to below `limit`, given as differences from one to the next."""
        values = np.cumsum(self.signed(count))
        if count and not 0 <= values.min() <= values.max() < limit:
            raise FormatError("A list of the frame holds an impossible value.")
        return values

    def end(self) -> None:
        """Check that nothing is left."""
        if not is_filled(self.data, self.at):
            raise FormatError("The lists of the frame do not fill their section.")
