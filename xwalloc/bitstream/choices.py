# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Which frequency table each class of expected magnitudes has in one chunk.

The shipped tables, or those of a model that outlives the chunk, say what is usual. Where the symbols of a chunk are
distributed otherwise, a choice names, for single classes, another one of these tables that codes them in fewer bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream.contexts import CLASSES, Kind, Role, direct_classes, first_class
from xwalloc.bitstream.lists import Reader, Writer
from xwalloc.bitstream.rans import DIRECT, split
from xwalloc.bitstream.tables import ESCAPE, PROB_BITS, TOKENS, Tables, shipped
from xwalloc.errors import FormatError
from xwalloc.jit import kernel

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

    @classmethod
    def usual(cls, kind: Kind, codebook: Tables | None = None) -> Choice:
        """The tables that were trained for the classes; those that ship, where no codebook is given."""
        codebook = codebook or shipped()
        return cls(kind, usual(codebook, kind), codebook)

    @cached_property
    def lookups(self) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
        """Table of each class, (role, class), and of each small expected magnitude, (role, magnitude)."""
        table_of = self.tables.reshape(len(Role), CLASSES)
        return table_of, table_of[:, direct_classes()]

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
    def from_bytes(cls, data: bytes, kind: Kind, codebook: Tables | None = None) -> Choice:
        """Inverse of `to_bytes`.

        Raises
        ------
        FormatError
            If the bytes name no tables.
        """
        codebook = codebook or shipped()
        reader = Reader(data)
        count = int(reader.unsigned(1, ALL + 1)[0])
        changed = np.cumsum(reader.unsigned(count, ALL) + 1) - 1
        if count and changed[-1] >= ALL:
            raise FormatError("A stream of the frame chooses a table for a class that there is not.")
        tables = usual(codebook, kind).astype(np.int64)
        tables[changed] += reader.signed(count)
        if tables.min() < 0 or tables.max() >= len(codebook.frequencies):
            raise FormatError("A stream of the frame chooses a table that there is not.")
        reader.end()
        return cls(kind, tables.astype(np.uint16), codebook)


def usual(codebook: Tables, kind: Kind) -> NDArray[np.uint16]:
    """Table of each class of a kind: (role * class,)."""
    first = first_class(kind, Role.DENSE)
    return codebook.index[first : first + ALL]


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
