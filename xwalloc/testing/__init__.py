"""Checks and Hypothesis strategies for our tests and those of others; strategies need the extra ``xwalloc[test]``."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from xwalloc.testing.check import (
    assert_kept,
    assert_size,
    assert_snr,
    assert_specials_kept,
    assert_within_bound,
    special_values,
)

if TYPE_CHECKING:
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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("xwalloc.testing.strategies"), name)
