"""Hypothesis strategies and checks for our tests and those of others (needs the extra ``xwalloc[test]``)."""

from __future__ import annotations

from xwalloc.testing.check import (
    assert_kept,
    assert_size,
    assert_snr,
    assert_specials_kept,
    assert_within_bound,
    special_values,
)
from xwalloc.testing.strategies import AxisLayout, Case, Chunk, cases, chunks, configurations, dtypes, layouts

__all__ = [
    "AxisLayout",
    "Case",
    "Chunk",
    "assert_kept",
    "assert_size",
    "assert_snr",
    "assert_specials_kept",
    "assert_within_bound",
    "cases",
    "chunks",
    "configurations",
    "dtypes",
    "layouts",
    "special_values",
]
