# mypy: disable-error-code="no-untyped-call"
"""Frequency tables of a model, where they save more than they cost (minimum description length)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream.choices import costs, usual
from xwalloc.bitstream.contexts import Kind, Role, first_class
from xwalloc.bitstream.tables import Tables, from_counts, shipped

__all__ = ["train"]

PRIOR = 24.0
"""Tokens that a shipped table counts for where a table is trained."""

OWN_TABLE, OTHER_TABLE = 20.0, 40.0
"""Bits that a table of its own costs for every token, and that another table costs for a class."""


def train(counts: Mapping[Kind, NDArray[np.int64]]) -> Tables:
    """A codebook for token counts (role * class, token) of some kinds, where others than the usual tables pay."""
    base = shipped()
    index = base.index.copy()
    own: list[NDArray[np.uint16]] = []
    prices = costs(base)
    for kind, found in counts.items():
        expected = usual(base, kind)
        first = first_class(kind, Role.DENSE)
        for place in np.flatnonzero(found.any(axis=1)):
            tokens = found[place].astype(np.float64)
            bits = tokens @ prices
            best = int(bits.argmin())
            prior = base.frequencies[best] / base.frequencies[best].sum()
            table = from_counts((tokens + PRIOR * prior)[None])
            known = np.count_nonzero(table)
            usual_bits = bits[expected[place]]
            other_bits = bits[best] + OTHER_TABLE
            own_bits = tokens @ costs(Tables(table, np.zeros(0, np.uint16)))[:, 0] + OTHER_TABLE + OWN_TABLE * known
            if own_bits < min(usual_bits, other_bits):
                index[first + place] = len(base.frequencies) + len(own)
                own.append(table[0])
            elif other_bits < usual_bits:
                index[first + place] = best
    frequencies = np.concatenate([base.frequencies, np.array(own, np.uint16).reshape(-1, base.frequencies.shape[1])])
    return Tables(frequencies, index)
