"""Plots as inline SVG whose ink follows the page, light or dark; pictures as PNG in data URIs."""

from __future__ import annotations

import base64
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.ticker import MaxNLocator, ScalarFormatter
from numpy.typing import NDArray

__all__ = ["Line", "bar", "colours", "histogram", "lines", "png", "stretch"]

INKS = {"#010101": "currentColor", "#020202": "var(--rule)", "#030303": "var(--one)", "#040404": "var(--two)",
        "#050505": "var(--three)"}  # fmt: skip
INK, RULE, ONE, TWO, THREE = INKS
"""Colours that stand for those of the style sheet."""

STYLE: Any = {
    "svg.fonttype": "none", "text.parse_math": False, "axes.formatter.use_mathtext": False, "font.size": 9,
    "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": RULE,
    "axes.grid": True, "grid.color": RULE, "grid.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False,
    "xtick.major.size": 0, "ytick.major.size": 0, "axes.axisbelow": True, "lines.linewidth": 1.2,
}  # fmt: skip

Line = tuple[Any, Any, str, str]
"""Places, values, colour and style ("-", "--", ".") of a line."""


@contextmanager
def axes(width: float, height: float, x: str, y: str) -> Iterator[tuple[Any, list[str]]]:
    """Axes to draw on, and where the SVG goes."""
    out: list[str] = []
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # glyphs that the font for measuring lacks: the browser has them
        figure = Figure(figsize=(width, height), layout="constrained")
        FigureCanvasSVG(figure)
        axis = figure.add_subplot()
        axis.set_xlabel(x)
        axis.set_ylabel(y)
        yield axis, out
        for one in (axis.xaxis, axis.yaxis):
            if isinstance(shape := one.get_major_formatter(), ScalarFormatter):
                shape.set_useOffset(False)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    for pattern in (r"<metadata>.*?</metadata>", r"<style[^>]*>.*?</style>", r"<!--.*?-->"):
        svg = re.sub(pattern, "", svg, flags=re.DOTALL)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px var(--sans)", svg)
    for ink, shown in INKS.items():
        svg = svg.replace(ink, shown)
    out.append(svg)


def lines(
    drawn: Sequence[Line],
    x: str,
    y: str,
    *,
    level: float | None = None,
    zero: bool = False,
) -> str:
    """Lines over a common axis, with a level (a bound) if there is one."""
    with axes(6.2, 2.3, x, y) as (axis, out):
        for places, values, colour, style in drawn:
            few = len(places) <= 16
            axis.plot(places, values, color=colour, linestyle="none" if style == "." else style,
                      marker="o" if few or style == "." else None, markersize=3)  # fmt: skip
        if all(np.asarray(places).dtype.kind in "iu" for places, *_ in drawn):
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        if level is not None:
            axis.axhline(level, color=INK, linestyle=(0, (4, 3)), linewidth=1)
            axis.annotate("bound", (1, level), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8)
        if zero:
            highest = max([level or 0.0, *(float(np.nanmax(v, initial=0)) for _, v, _, _ in drawn)])
            axis.set_ylim(0, 1.18 * highest or 1.0)
    return out[0]


def histogram(edges: NDArray[np.float64], counts: NDArray[np.int64], x: str, *, bound: float | None = None) -> str:
    """Bars, on an axis of part of all values, with the bound on both sides if there is one."""
    with axes(6.2, 2.3, x, "share of values, %") as (axis, out):
        axis.stairs(100 * counts / max(counts.sum(), 1), edges, fill=True, color=ONE)
        for at in () if bound is None else (-bound, bound):
            axis.axvline(at, color=INK, linestyle=(0, (4, 3)), linewidth=1)
        axis.grid(axis="x", visible=False)
    return out[0]


def png(values: NDArray[Any], low: float, high: float, colours: str) -> str:
    """A map as a PNG in a data URI; what is not finite is transparent."""
    span = high - low or 1.0
    with np.errstate(invalid="ignore"):
        part = np.clip((values.astype(np.float64) - low) / span, 0, 1)
    rgba = mpl.colormaps[colours](np.nan_to_num(part))
    rgba[~np.isfinite(part)] = 0
    return uri(rgba)


def stretch(values: NDArray[Any], limits: Sequence[tuple[float, float]]) -> str:
    """Three bands, each between its limits, as red, green and blue."""
    parts = [
        np.clip((v.astype(np.float64) - low) / (high - low or 1.0), 0, 1)
        for v, (low, high) in zip(values, limits, strict=True)
    ]
    rgba = np.stack([*parts, np.isfinite(np.sum(parts, 0)).astype(np.float64)], -1)
    return uri(np.nan_to_num(rgba))


def uri(rgba: NDArray[Any]) -> str:
    """A picture as a PNG in a data URI."""
    out = io.BytesIO()
    imsave(out, rgba, format="png")
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def colours(name: str) -> str:
    """A colour map as a gradient of CSS."""
    return ", ".join(mpl.colors.to_hex(mpl.colormaps[name](part)) for part in np.linspace(0, 1, 12))


def bar(name: str, low: str, high: str, title: str) -> dict[str, str]:
    """What the page needs for a bar of colours."""
    return {"colours": colours(name), "low": low, "high": high, "title": title}
