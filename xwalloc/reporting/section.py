"""What the page says of one variable: texts, tables and pictures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.conversion.pairs import Pair
from xwalloc.conversion.sources.base import Region
from xwalloc.info import Storage
from xwalloc.quality.metrics import Place
from xwalloc.reporting import figures
from xwalloc.reporting.figures import ONE, THREE, TWO, bar, png
from xwalloc.reporting.measure import Axes, Findings, measure
from xwalloc.reporting.words import Scale, composite, coordinate, number, plain, positions, settings

__all__ = ["section"]

ROWS = 512
SEGMENT = 400


def section(pair: Pair) -> dict[str, Any]:
    """Measure a pair; what the template shows of it."""
    scale, axes = Scale(pair.template), Axes.of(pair)
    found = measure(pair, composite(pair.template, axes.channel), scale.offset / scale.factor)
    overall, whole = found.comparison.overall, found.comparison
    ours = pair.configuration is not None
    storage = Storage.of(pair.array)
    stored = ", ".join(f"{name} {bytes_words(count)}" for name, count in storage.parts)
    units = f"{storage.present} of {storage.count}, the others read as the fill value"
    unit = f" {scale.unit}" if scale.unit else ""
    exact = whole.missed == 0 and whole.changed == 0 and overall.count > 0 and overall.max_error == 0
    facts = [
        ("compression ratio", number(storage.ratio, 4)),
        ("stored", stored),
        *([("units of storage", units)] if storage.present < storage.count else []),
        ("bits per sample", number(storage.bits_per_sample, 4)),
        ("bound", bound_words(found, scale, pair.configuration) + unit * (found.bound is not None)),
        ("largest error", number(scale.error(overall.max_error)) + unit),
        ("RMSE", number(scale.error(overall.rmse), 4) + unit),
        ("bias", number(scale.error(overall.bias) * math.copysign(1, scale.factor), 3) + unit),
        ("SNR", number(overall.snr, 4) + " dB"),
        ("PSNR", number(overall.psnr, 4) + " dB"),
    ]
    if math.isfinite(whole.angle[0]):
        facts.append(("spectral angle, mean", number(whole.angle[0], 3) + "°"))
        facts.append(("spectral angle, largest", number(whole.angle[1], 3) + "°"))
    attrs = pair.template.attrs
    title = attrs.get("long_name") or attrs.get("standard_name") or ""
    dims = ", ".join(f"{plain(d, 40)} {n}" for d, n in zip(pair.template.dims, pair.array.shape, strict=True))
    return {
        "path": plain(pair.path), "title": plain(title) if isinstance(title, str) else "", "facts": facts,
        "ratio": number(storage.ratio, 4), "error": number(scale.error(overall.max_error)) + unit,
        "snr": number(overall.snr, 4), "shape": f"{dims}; {pair.array.dtype.name}",
        "bytes": bytes_words(storage.stored), "raw": bytes_words(pair.array.nbytes),
        "good": whole.within, "verdict": verdict(found, pair, exact),
        "invalid": whole.invalid, "pictures": pictures(found, pair, scale) if ours else [],
        "plots": plots(found, pair, scale) if ours else [],
        "bands": bands(found, pair, scale), "worst": table(whole.worst, pair, scale),
        "changed": table(whole.changed_places, pair, scale), "attributes": settings(dict(attrs)),
        "settings": settings({**(pair.configuration or {"codec": "another one, exact"}),
                              "chunks": list(pair.array.chunks), "shards": list(pair.array.shards or ()) or "none",
                              **({"modes of chunks": found.modes} if found.modes else {})}),
    }  # fmt: skip


def verdict(found: Findings, pair: Pair, exact: bool) -> str:
    """One sentence: does it hold what was asked for."""
    whole = found.comparison
    wrong = []
    if whole.missed:
        wrong.append(f"{whole.missed} values differ from the original by more than the bound.")
    if whole.changed:
        wrong.append(f"{whole.changed} missing values (NaN, infinite or nodata) are not what they were.")
    if wrong:
        return " ".join(wrong)
    if exact:
        return "Every value is equal to the original."
    target = (pair.configuration or {}).get("snr")
    if target is not None:
        return f"SNR of at least {number(found.lowest, 4)} dB in every unit of storage; asked for: {number(target)} dB."
    if found.bound is None:
        return "No bound was asked for."
    return "Every value lies within the bound, and missing values are what they were."


def bound_words(found: Findings, scale: Scale, configuration: dict[str, Any] | None) -> str:
    """The bound: one number, or the smallest and the largest of those of channels."""
    if found.bound is None:
        return "none"
    low, high = scale.error(float(found.bound.min())), scale.error(float(found.bound.max()))
    return number(low) if low == high else f"{number(low)} to {number(high)}"


def bytes_words(count: int) -> str:
    """Bytes as people say them."""
    size, unit = float(count), "bytes"
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            break
        size /= 1000
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.3g} {unit}"


def table(places: list[Place], pair: Pair, scale: Scale) -> list[dict[str, str]]:
    """Rows of places."""
    return [
        {
            "index": ", ".join(map(str, place.index)),
            "coordinates": coordinate(pair.template, place.index),
            "original": number(scale.value(place.original), 8),
            "decoded": number(scale.value(place.decoded), 8),
            "error": number(scale.error(place.error), 6),
        }
        for place in places
    ]


def bands(found: Findings, pair: Pair, scale: Scale) -> list[dict[str, str]]:
    """Rows of channels."""
    axis = found.axes.channel
    if axis is None:
        return []
    values, _ = positions(pair.template, axis)
    rows = []
    for index, one in enumerate(found.comparison.per_channel[:ROWS]):
        ends = sorted((float(scale.value(one.minimum)), float(scale.value(one.maximum))))
        rows.append({
            "index": str(index), "at": plain(values[index], 40) if values.dtype.kind == "M" else number(values[index]),
            "low": number(ends[0]), "high": number(ends[1]), "error": number(scale.error(one.max_error), 4),
            "rmse": number(scale.error(one.rmse), 4), "snr": number(one.snr, 4), "psnr": number(one.psnr, 4),
        })  # fmt: skip
    return rows


def plots(found: Findings, pair: Pair, scale: Scale) -> list[dict[str, Any]]:
    """Plots of bands, spectra, segments and histograms."""
    whole, unit = found.comparison, f" ({scale.unit})" if scale.unit else ""
    made: list[dict[str, Any]] = []

    def add(svg: str, title: str, keys: tuple[tuple[str, str], ...] = ()) -> None:
        made.append({"svg": svg, "title": title, "keys": keys})

    axis = found.axes.channel
    if axis is not None and whole.channels > 1:
        at, name = positions(pair.template, axis)
        each = whole.per_channel
        snr, psnr = (np.where(np.isfinite(v), v, np.nan) for v in ([f.snr for f in each], [f.psnr for f in each]))
        add(figures.lines([(at, snr, ONE, "-"), (at, psnr, TWO, "--")], name, "dB"), "SNR and PSNR of each channel",
            (("one", "SNR"), ("two", "PSNR")))  # fmt: skip
        largest, rmse = ([scale.error(e) for e in v] for v in ([f.max_error for f in each], [f.rmse for f in each]))
        drawn: list[figures.Line] = [(at, largest, ONE, "-"), (at, rmse, TWO, "--")]
        level = None
        if found.bound is not None and found.bound.max() > 0:
            level = scale.error(float(found.bound.min())) if found.bound.min() == found.bound.max() else None
            drawn += [] if level is not None else [(at, found.bound * abs(scale.factor), THREE, "-")]
        add(figures.lines(drawn, name, f"error{unit}", level=level, zero=True), "Error of each channel",
            (("one", "largest"), ("two", "RMSE")))  # fmt: skip
        if len(found.axes.shown) == 2:
            add(spectra(found, pair, scale, at, name, unit), "Spectra of four pixels, chosen from dark to bright",
                (("one", "original"), ("two", "decoded")))  # fmt: skip
    if len(found.axes.shown) == 1:
        made += segments(found, pair, scale, unit)
    if whole.errors.counts.sum() and whole.overall.max_error > 0:
        has = found.bound is not None and found.bound.max() > 0
        same = found.bound is None or found.bound.min() == found.bound.max()
        factor = scale.error(float(whole.unit[0])) if same else 1.0
        label = f"decoded \u2212 original{unit}" if same else "decoded \u2212 original, in bounds of its channel"
        edges, counts = steps(found, pair) if has else (whole.errors.edges, whole.errors.counts)
        add(figures.histogram(edges * factor, counts, label, bound=factor if has else None), "Errors")
    if math.isfinite(whole.angle[0]) and whole.angle[1] > 0:
        last = int(np.flatnonzero(whole.angles.counts)[-1]) + 1
        svg = figures.histogram(whole.angles.edges[: last + 1], whole.angles.counts[:last], "degrees")
        add(svg, "Angles between original and decoded spectra")
    return made


def steps(found: Findings, pair: Pair) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Histogram of errors: of integers one bar for each error, where these are few."""
    whole, bound = found.comparison, float(found.comparison.unit[0])
    errors, most = whole.errors, math.floor(whole.errors.reach or 1) * math.floor(bound)
    if pair.array.dtype.kind not in "iu" or bound >= 32 or errors.reach != 1.0 or (whole.unit != bound).any():
        return errors.edges, errors.counts
    at = np.arange(-most, most + 1)
    edges: NDArray[np.float64] = np.asarray((np.arange(-most, most + 2) - 0.5) / bound, np.float64)
    return edges, errors.counts[errors.places(at / bound)]


def spectra(found: Findings, pair: Pair, scale: Scale, at: Any, name: str, unit: str) -> str:
    """Spectra of pixels from dark to bright."""
    view = found.original.astype(np.float64).mean(0)
    order = np.argsort(np.where(np.isfinite(view), view, np.inf), axis=None)
    order = order[: int(np.isfinite(view).sum())]
    drawn: list[figures.Line] = []
    for part in (0.05, 0.35, 0.65, 0.95) if len(order) else ():
        cell = np.unravel_index(order[int(part * (len(order) - 1))], view.shape)
        for values, colour, style in zip(pixel(found, pair, cell), (ONE, TWO), ("-", "--"), strict=True):
            drawn.append((at, np.where(np.isfinite(values), scale.value(values), np.nan), colour, style))
    return figures.lines(drawn, name, f"value{unit}")


def pixel(found: Findings, pair: Pair, cell: Any) -> list[NDArray[np.float64]]:
    """Original and decoded values of all channels of a pixel; NaN where they are missing."""
    region: list[slice] = [slice(n // 2, n // 2 + 1) for n in pair.array.shape]
    for axis, step, i in zip(found.axes.shown, found.step, cell, strict=True):
        region[axis] = slice(int(i) * step, int(i) * step + 1)
    if found.axes.channel is not None:
        region[found.axes.channel] = slice(0, pair.array.shape[found.axes.channel])
    nodata = found.comparison.nodata
    both = [np.ravel(block).astype(np.float64) for block in pair.read(tuple(region))]
    return [values if nodata is None else np.where(values == nodata, np.nan, values) for values in both]


def segments(found: Findings, pair: Pair, scale: Scale, unit: str) -> list[dict[str, Any]]:
    """Parts of a series: its middle, and around its largest error."""
    (axis,), worst = found.axes.shown, found.comparison.worst
    at, name = positions(pair.template, axis)
    n = pair.array.shape[axis]
    cells = np.arange(len(found.error)) * found.step[0]
    factor = scale.error(float(found.comparison.unit[0]))
    has = found.bound is not None and found.bound.max() > 0
    svg = figures.lines([(at[cells], found.error * factor, ONE, "-")], name, f"error{unit}",
                        level=factor if has else None, zero=True)  # fmt: skip
    made: list[dict[str, Any]] = [{"svg": svg, "title": "Largest error along the series", "keys": ()}]
    for title, index in [("Middle of the series", None)] + (
        [("Around the largest error", worst[0].index)] if worst else []
    ):
        middle = [size // 2 for size in pair.array.shape] if index is None else list(index)
        start = max(min(middle[axis] - SEGMENT // 2, n - SEGMENT), 0)
        region: Region = tuple(slice(i, i + 1) for i in middle)
        region = (*region[:axis], slice(start, min(start + SEGMENT, n)), *region[axis + 1 :])
        values = [np.ravel(block).astype(np.float64) for block in pair.read(region)]
        nodata = found.comparison.nodata
        values = [np.where(np.isfinite(v) & (v != nodata), scale.value(v), np.nan) for v in values]
        places = at[region[axis]]
        svg = figures.lines([(places, values[0], ONE, "-"), (places, values[1], TWO, "--")], name, f"value{unit}")
        made.append({"svg": svg, "title": title, "keys": (("one", "original"), ("two", "decoded"))})
    return made


def pictures(found: Findings, pair: Pair, scale: Scale) -> list[dict[str, Any]]:
    """Original, decoded and difference; map of errors, and of ratios of chunks."""
    if len(found.axes.shown) != 2 or not found.original.size:
        return []
    nodata, flip = found.comparison.nodata, upside_down(pair, found.axes.shown[0])
    views = []
    for view in (found.original, found.decoded):
        missing = ~np.isfinite(view) if nodata is None else ~np.isfinite(view) | (view == nodata)
        views.append(np.where(missing, np.nan, np.asarray(scale.value(view), np.float64)))
    limits = []
    for v in views[0]:
        some = v[np.isfinite(v)]
        low, high = np.percentile(some, (2, 98)) if some.size else (0.0, 1.0)
        limits.append((float(low), float(high if high > low else low + 1)))
    made: list[dict[str, Any]] = []
    bits = [v[:, ::-1] if flip else v for v in views]
    at = ", ".join(map(str, found.channels))
    for title, view in zip(("original", "decoded"), bits, strict=True):
        if len(found.channels) == 3:
            made.append({"src": figures.stretch(view, limits), "title": f"{title}: channels {at} as red, green, blue"})
        else:
            title = title if found.axes.channel is None else f"{title}, channel {at}"
            (low, high), src = limits[0], png(view[0], *limits[0], "viridis")
            made.append(
                {"src": src, "title": title, "bar": bar("viridis", number(low, 4), number(high, 4), scale.unit)}
            )
    difference = bits[1] - bits[0]
    pick = np.abs(np.nan_to_num(difference)).argmax(0)[None]
    signed = np.take_along_axis(difference, pick, 0)[0]
    factor = scale.error(float(found.comparison.unit.max()))
    has = found.bound is not None and found.bound.max() > 0
    top = factor if has else float(np.abs(np.nan_to_num(signed)).max()) or 1.0
    title = "decoded \u2212 original" + (", the largest of the three" if len(found.channels) == 3 else "")
    made.append({"src": png(signed, -top, top, "RdBu_r"), "title": title,
                 "bar": bar("RdBu_r", number(-top, 4), number(top, 4), scale.unit)})  # fmt: skip
    for values, kind in ((found.error, "largest error"), (found.rmse, "RMSE")):
        most = 1.0 if has and kind != "RMSE" else float(np.nanmax(values, initial=0)) or 1.0
        words = f"{kind} of each pixel, over all else" + (", in units of the bound" if has else "")
        shown = number(most, 3) if has else number(scale.error(most), 4)
        src = png(values[::-1] if flip else values, 0, most, "cividis")
        made.append({"src": src, "title": words, "bar": bar("cividis", "0", shown, "" if has else scale.unit)})
    if found.sizes is not None and found.sizes.size > 1:
        sizes = found.sizes[::-1] if flip else found.sizes
        low, high = float(np.nanmin(sizes)), float(np.nanmax(sizes))
        made.append({"src": png(sizes, low, high, "viridis"), "title": "compression ratio of chunks",
                     "bar": bar("viridis", number(low, 3), number(high, 3), "")})  # fmt: skip
    return made


def upside_down(pair: Pair, axis: int) -> bool:
    """Whether the first row of a map is its south."""
    dim = pair.template.dims[axis]
    if str(dim).lower() not in ("y", "lat", "latitude", "northing") or dim not in pair.template.coords:
        return False
    values = pair.template.coords[dim].values
    return bool(values.dtype.kind in "iuf" and len(values) > 1 and values[-1] > values[0])
