"""Learned decoders: networks in exact integer arithmetic that refine what the linear decoder makes of symbols."""

from __future__ import annotations

from xwalloc.models.neural.architecture import Architecture
from xwalloc.models.neural.network import CORRECTION_BITS, Network, refine

__all__ = ["CORRECTION_BITS", "Architecture", "Network", "refine"]
