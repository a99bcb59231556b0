"""Hypothesis strategies and checks for our tests and those of others (needs the extra ``xwalloc[test]``)."""

from __future__ import annotations

from xwalloc.testing.check import assert_kept
from xwalloc.testing.strategies import Case, cases

__all__ = ["Case", "assert_kept", "cases"]
