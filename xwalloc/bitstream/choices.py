# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Which frequency table each class of expected magnitudes has in one chunk.

The shipped tables, or those of a model that outlives the chunk, say what is usual. Where the symbols of a chunk are
distributed otherwise, a choice names, for single classes, another one of these tables that codes them in fewer bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream.contexts import CLASSES, DIRECT_CLASSES, Kind, Role, direct_classes, first_class
from xwalloc.bitstream.lists import Writer, is_filled, read
from xwalloc.bitstream.rans import DIRECT, split
from xwalloc.bitstream.tables import ESCAPE, PROB_BITS, TOKENS, Tables, shipped
from xwalloc.errors import FormatError
from xwalloc.jit import kernel
from xwalloc.types import Buffer, cached_property

__all__ = ["BITS_PER_CHOICE", "CLASS_IDS", "Choice", "choose", "choose_for", "costs", "count", "identities", "usual"]

ALL = len(Role) * CLASSES
CLASS_IDS: NDArray[np.uint16] = np.arange(ALL, dtype=np.uint16).reshape(len(Role), CLASSES)
"""Stands in for tables where classes are wanted: the number of a class among those of all roles."""

BITS_PER_CHOICE = 22.0
"""What naming a table for a class takes, about."""


@cache
def identities() -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """What `Choice.lookups` returns, with numbers of classes for tables."""
    return CLASS_IDS, CLASS_IDS[:, direct_classes()]


@dataclass(frozen=True)
class Choice:
    """Table of each class of a kind.

    Parameters
    ----------
    kind
        What the symbols are.
    tables : (role * class,) uint16
        Numbers of tables of the codebook.
    codebook
        The tables there are, and which of them is usual for each class.
    """

    kind: Kind
    tables: NDArray[np.uint16]
    codebook: Tables

    @staticmethod
    def usual(kind: Kind, codebook: Tables | None = None) -> Choice:
        """The tables that were trained for the classes; those that ship, where no codebook is given."""
        return _usual_choice(kind, codebook or shipped())

    @cached_property
    def lookups(self) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """Table of each class, (role, class), and of each small expected magnitude, (role, magnitude)."""
        near = np.empty((len(Role), DIRECT_CLASSES), np.uint16)
        table_of = self.tables.reshape(len(Role), CLASSES)
        _look_up(table_of, direct_classes(), near)
        return table_of, near

    def to_bytes(self) -> bytes:
        """Lists of the classes that are not as usual, as distances, and of the differences of their tables."""
        expected = usual(self.codebook, self.kind).astype(np.int64)
        changed = np.flatnonzero(self.tables != expected)
        writer = Writer()
        writer.unsigned([len(changed)])
        writer.unsigned(np.diff(changed, prepend=-1) - 1)
        writer.signed(self.tables[changed] - expected[changed])
        return writer.to_bytes()

    @classmethod
    def from_bytes(cls, data: Buffer, kind: Kind, codebook: Tables | None = None) -> Choice:
        """Inverse of `to_bytes`.

        Raises
        ------
        FormatError
            If the bytes name no tables.
        """
        codebook = codebook or shipped()
        tables = usual(codebook, kind).copy()
        fault = _read_changes(
            np.frombuffer(data, np.uint8), len(codebook.frequencies), np.empty((2, ALL + 1), np.uint64), tables
        )
        if fault:
            raise FormatError(f"The choice of tables in the frame {FAULTS[fault]}.")
        return cls(kind, tables, codebook)


def usual(codebook: Tables, kind: Kind) -> NDArray[np.uint16]:
    """Table of each class of a kind: (role * class,)."""
    first = first_class(kind, Role.DENSE)
    return codebook.index[first : first + ALL]


@lru_cache(maxsize=16)
def _usual_choice(kind: Kind, codebook: Tables) -> Choice:
    """With its lookups, since what is coded by itself has these tables."""
    return Choice(kind, usual(codebook, kind), codebook)


@kernel
def _look_up(table_of, classes, near):
    for role in range(near.shape[0]):
        for expected in range(near.shape[1]):
            near[role, expected] = table_of[role, classes[expected]]


CUT, NO_CLASS, NO_TABLE, NOT_FILLED = range(1, 5)
FAULTS = ("", "is cut", "names a class that there is not", "names a table that there is not", "does not fill its bytes")
"""What can be wrong with the bytes of a choice."""


@kernel
def _read_changes(data, count, scratch, tables):
    """Change tables, of which there are `count`, as the bytes of a choice say; returns what is wrong with these."""
    gaps, differences = scratch[0], scratch[1]
    at = read(data, np.int64(0), gaps[:1])
    if at < 0:
        return CUT
    changes = gaps[0]
    if changes > np.uint64(tables.shape[0]):
        return NO_CLASS
    at = read(data, at, gaps[: np.int64(changes)])
    if at < 0:
        return CUT
    at = read(data, at, differences[: np.int64(changes)])
    if at < 0:
        return CUT
    place = np.int64(-1)
    for i in range(np.int64(changes)):
        if gaps[i] >= np.uint64(tables.shape[0]):
            return NO_CLASS
        place += np.int64(gaps[i]) + 1
        if place >= tables.shape[0]:
            return NO_CLASS
        difference = np.int64(differences[i] >> np.uint64(1)) ^ -np.int64(differences[i] & np.uint64(1))
        if not -count < difference < count or not 0 <= np.int64(tables[place]) + difference < count:
            return NO_TABLE
        tables[place] = np.int64(tables[place]) + difference
    return 0 if is_filled(data, at) else NOT_FILLED


@kernel
def _count(values, classes, counts):
    for i in range(values.shape[0]):
        value = np.int64(values[i])
        magnitude = abs(value)
        if magnitude <= DIRECT:
            token = 2 * magnitude - (value > 0)
        else:
            token = np.int64(split(value)[0])
        counts[classes[i], token] += 1


@lru_cache(maxsize=16)
def costs(codebook: Tables) -> NDArray[np.float64]:
    """Bits of each token (besides its raw bits) in each table, (token, table); an escaped token takes 7 more.

    They are multiples of 2^-16, so that sums of up to 2^37 bits are exact: every device makes the same choice.
    """
    frequencies = codebook.frequencies.astype(np.float64)
    bits = PROB_BITS - np.log2(np.maximum(frequencies, 1.0))
    bits = np.where(frequencies > 0, bits, bits[:, ESCAPE, None] + 7)
    return np.ascontiguousarray(np.rint(bits.T * 2.0**16) / 2.0**16)


Part = tuple[NDArray[np.signedinteger], NDArray[np.uint16]]
"""Symbols, and the number of the class of each."""


def count(parts: Iterable[Part]) -> NDArray[np.int64]:
    """How often each token occurs in each class: (role * class, token)."""
    counts = np.zeros((ALL, TOKENS), np.int64)
    for values, classes in parts:
        _count(values, classes, counts)
    return counts


def choose(parts: Iterable[Part], kind: Kind, codebook: Tables | None = None) -> Choice:
    """The best tables for symbols and the numbers of their classes, part by part."""
    return choose_for(count(parts), kind, codebook)


def choose_for(counts: NDArray[np.int64], kind: Kind, codebook: Tables | None = None) -> Choice:
    """The best tables for symbols whose tokens occur so often in each class: (role * class, token)."""
    codebook = codebook or shipped()
    expected = usual(codebook, kind)
    used = np.flatnonzero(counts.any(axis=1))
    bits = counts[used].astype(np.float64) @ costs(codebook)
    best = bits.argmin(axis=1)
    gain = bits[np.arange(len(used)), expected[used]] - bits[np.arange(len(used)), best]
    tables = expected.copy()
    pays = gain > BITS_PER_CHOICE
    tables[used[pays]] = best[pays]
    return Choice(kind, tables, codebook)
