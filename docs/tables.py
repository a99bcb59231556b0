"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

KINDS = {
    "hyperspectral": "hyperspectral, integers",
    "hyperspectral-float": "hyperspectral, floats",
    "multispectral": "multispectral",
    "timeseries": "time series",
}


def table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """Markdown table; the first `texts` columns are left-aligned."""
    lines = [head, ["---"] * texts + ["---:"] * (len(head) - texts), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
