"""Integer frequency tables of the entropy coder, and their serial form.

A table gives every token a frequency; the frequencies of a table sum to exactly 2^12. Tables are integers from end to
end: one float in them would make a stream undecodable on another machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from xwalloc.errors import FormatError
from xwalloc.types import cached_property

__all__ = ["ESCAPE", "PROB_BITS", "SHIPPED", "TOKENS", "Tables", "from_counts", "shipped", "shipped_id"]

SHIPPED = ("tables-1.bin", "weights-1.json")
PROB_BITS = 12
TOKENS = 128
ESCAPE = 127
"""Token that announces a token without a frequency of its own."""


@dataclass(frozen=True, eq=False)
class Tables:
    """Frequency tables.

    Parameters
    ----------
    frequencies : (table, token) uint16
        Each row sums to 2^12 and gives `ESCAPE` a frequency of 1 or more.
    index : (class,) uint16
        Table of each context class (contexts.py numbers the classes).
    """

    frequencies: NDArray[np.uint16]
    index: NDArray[np.uint16]

    def __post_init__(self) -> None:
        sums = self.frequencies.astype(np.int64).sum(axis=1)
        if (
            self.frequencies.shape[1] != TOKENS
            or np.any(sums != 1 << PROB_BITS)
            or not self.frequencies[:, ESCAPE].all()
        ):
            raise FormatError("Frequency tables must have 128 tokens, sum to 4096 and hold the escape token.")
        if self.index.size and self.index.max() >= len(self.frequencies):
            raise FormatError("A context class names a frequency table that does not exist.")

    @cached_property
    def spans(self) -> NDArray[np.uint32]:
        """Where each token lies among the 2^12 slots, flat (table * 128 + token): frequency * 2^16 + first slot."""
        sums = np.cumsum(self.frequencies, axis=1, dtype=np.int64)
        spans = (self.frequencies.astype(np.int64) << 16) | (sums - self.frequencies)
        return spans.astype(np.uint32).reshape(-1)

    @cached_property
    def symbols(self) -> NDArray[np.uint8]:
        """Token of each slot, flat (table * 2^12 + slot)."""
        tokens = np.arange(TOKENS, dtype=np.uint8)
        return np.concatenate([np.repeat(tokens, row) for row in self.frequencies])

    def to_bytes(self) -> bytes:
        """Serial form: counts of classes and tables, the index, then each table as (token, frequency) pairs."""
        parts = [
            np.array([len(self.index), len(self.frequencies)], "<u2").tobytes(),
            self.index.astype("<u2").tobytes(),
        ]
        for row in self.frequencies:
            used = np.flatnonzero(row)
            parts.append(
                np.uint8(used.size).tobytes() + used.astype("u1").tobytes() + row[used].astype("<u2").tobytes()
            )
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Tables:
        """Inverse of `to_bytes`.

        Raises
        ------
        FormatError
            If the bytes are not tables.
        """
        try:
            classes, count = (int(n) for n in np.frombuffer(data, "<u2", 2))
            index = np.frombuffer(data, "<u2", classes, offset=4)
            frequencies = np.zeros((count, TOKENS), np.uint16)
            at = 4 + 2 * classes
            for row in frequencies:
                used = data[at]
                tokens = np.frombuffer(data, "u1", used, offset=at + 1)
                row[tokens] = np.frombuffer(data, "<u2", used, offset=at + 1 + used)
                at += 1 + 3 * used
        except (ValueError, IndexError) as error:
            raise FormatError(f"The frequency tables are damaged: {error}.") from None
        return cls(frequencies, index.copy())


def from_counts(counts: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Frequencies that sum to 2^12 for token counts (table, token); tokens with too small a share escape."""
    total = 1 << PROB_BITS
    frequencies = np.zeros(counts.shape, np.uint16)
    for row, out in zip(counts, frequencies, strict=True):
        share = row / max(row.sum(), 1e-9) * total
        keep = share >= 0.6
        escaped = max(1.0, share[~keep].sum())
        keep[ESCAPE] = False
        if not keep.any():
            keep[0] = True
        scaled = np.where(keep, share, 0.0)
        scaled *= (total - np.rint(escaped)) / max(scaled.sum(), 1e-9)
        whole = np.where(keep, np.maximum(1, np.rint(scaled)), 0).astype(np.int64)
        whole[ESCAPE] = int(np.rint(escaped))
        for _ in range(abs(excess := int(whole.sum()) - total)):
            whole[np.argmax(whole)] -= np.sign(excess)
        out[:] = whole
    return frequencies


@lru_cache(maxsize=1)
def shipped_id() -> int:
    """CRC-32C of the shipped tables followed by the shipped weights (contexts.py): the id that frames state."""
    folder = resources.files("xwalloc.bitstream")
    return int(google_crc32c.value(b"".join(folder.joinpath(name).read_bytes() for name in SHIPPED)))


@lru_cache(maxsize=1)
def shipped() -> Tables:
    """The tables that ship with xwalloc; a released version never changes them (docs/format.md)."""
    return Tables.from_bytes(resources.files("xwalloc.bitstream").joinpath(SHIPPED[0]).read_bytes())
