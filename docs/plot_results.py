"""Draw what the benchmarks measured: rate against bound, speed, cost, decoders. Reads benchmarks/results/*.json.

python docs/plot_results.py      # writes docs/figures/*.svg
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

ROOT = Path(__file__).resolve().parents[1]
RESULTS, FIGURES = ROOT / "benchmarks" / "results", ROOT / "docs" / "figures"
OURS = "xwalloc"
SCENES = ("indian-pines", "abu-urban-1", "samson", "sentinel2", "ecg-100", "eeg", "imu", "audio-safari")
CODECS = (OURS, "SZ3", "SPERR", "zfp", "quantise+JXL", "quantise+J2K", "quantise+pcodec", "quantise+FLAC")


def colour(codec: str) -> str:
    """The same in every figure; xwalloc is black."""
    return "black" if codec == OURS else f"C{CODECS.index(codec) - 1}"


def rates(measurements: list[dict[str, Any]]) -> Figure:
    """Bits per sample against the bound, some scenes."""
    figure = Figure(figsize=(11, 5.5), layout="constrained")
    for axes, scene in zip(figure.subplots(2, 4).flat, SCENES, strict=True):
        for codec in CODECS:
            rows = sorted(
                (m["bound"], m["bits_per_sample"]) for m in measurements if (m["scene"], m["codec"]) == (scene, codec)
            )
            if rows:
                axes.loglog(
                    *zip(*rows, strict=True), "o-", ms=3, lw=2 if codec == OURS else 1, color=colour(codec), label=codec
                )
        axes.set_title(scene, fontsize=9)
        axes.set_xlabel("error bound", fontsize=8)
        axes.set_ylabel("bits per sample", fontsize=8)
        axes.tick_params(labelsize=7, which="both")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.3, which="both", lw=0.4)
    handles = [mpl.lines.Line2D([], [], color=colour(codec), marker="o", ms=3, label=codec) for codec in CODECS]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(CODECS), fontsize=8)
    return figure


def speeds(report: dict[str, Any]) -> Figure:
    """Encoding and decoding speed against size."""
    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, field in zip(figure.subplots(1, 2), ("encode_gb_per_s", "decode_gb_per_s"), strict=True):
        for item in report["timings"]:
            name = item["codec"]
            marker = "o" if item["mosaic"] == "indian-pines" else "s"
            face = colour(name.split(",")[0]) if "one thread" not in name else "none"
            edge = colour(name.split(",")[0])
            axes.loglog(item["bits_per_sample"], item[field], marker, mfc=face, mec=edge, ms=7)
        axes.set_xlabel("bits per sample")
        axes.set_ylabel(field.replace("_gb_per_s", " GB/s of float32 samples"))
        axes.grid(alpha=0.3, which="both", lw=0.4)
    kinds = [
        ("xwalloc", "o", "black"),
        ("xwalloc, one thread", "o", "none"),
        ("zfp", "o", colour("zfp")),
        ("SZ3", "o", colour("SZ3")),
    ]
    handles = [
        mpl.lines.Line2D([], [], ls="", marker=marker, mfc=face, mec="black" if face == "none" else face, label=label)
        for label, marker, face in kinds
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=8)
    return figure


def costs(report: dict[str, Any]) -> Figure:
    """Core hours per terabyte against bands, side of a chunk, and bound."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    labels = {
        "bands": "bands (256 x 256 pixels)",
        "side": "pixels along a side (all bands)",
        "fraction": "bound / range (128 x 128 pixels)",
    }
    for axes, (varied, label) in zip(figure.subplots(1, 3), labels.items(), strict=True):
        _grow(axes, report, varied)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(label)
        axes.set_ylabel("hours per TB (two cores)")
        axes.grid(alpha=0.3, which="both", lw=0.4)
    figure.axes[0].legend(fontsize=8)
    return figure


def _grow(axes: Axes, report: dict[str, Any], varied: str) -> None:
    for number, mosaic in enumerate(dict.fromkeys(row["mosaic"] for row in report["rows"])):
        rows = [row for row in report["rows"] if (row["mosaic"], row["varied"]) == (mosaic, varied)]
        x = np.array([row[varied] for row in rows])
        for direction, style in (("encode", "o-"), ("decode", "s--")):
            hours = np.array([1000 / row[f"{direction}_gb_per_s"] / 3600 for row in rows])
            axes.loglog(x, hours, style, ms=4, color=f"C{number}", label=f"{mosaic}, {direction}")


DECODERS = {
    "self-fitted": ("black", "o-"), "fitted": ("C0", "o-"), "network": ("C0", "s--"), "network, archive": ("C2", "s--"),
    "published": ("C3", "D"), "published, linear": ("C1", "v"), "JPEG 2000": ("C4", ".-"),
    "KLT + JPEG 2000": ("C5", ".-"), "JPEG XL": ("C6", ".-"), "quantise + JPEG XL": ("C7", ".-"), "SPERR": ("C8", ".-"),
}  # fmt: skip


def decoders(report: dict[str, Any]) -> Figure:
    """Distortion against bits per sample, frames alone, all scenes of a data set together."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    for axes, (name, found) in zip(figure.subplots(1, len(report["data"])), report["data"].items(), strict=True):
        samples = {scene: np.prod(shape) for scene, shape in found["scenes"]["test"].items()}
        for decoder, (colour, style) in DECODERS.items():
            points: dict[str, list[dict[str, Any]]] = {}
            for point in found["points"]:
                if point["decoder"] == decoder:
                    points.setdefault(point["setting"], []).append(point)
            curve = sorted(
                (8 * sum(p["bytes"] for p in some) / sum(samples.values()), np.mean([p["dB"] for p in some]))
                for some in points.values()
            )
            if curve:
                axes.semilogx(*zip(*curve, strict=True), style, color=colour, ms=4, lw=1, mfc="none")
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("bits per sample", fontsize=8)
        axes.set_ylabel(f"{found['measure']}, dB", fontsize=8)
        axes.tick_params(labelsize=7, which="both")
        axes.grid(alpha=0.3, which="both", lw=0.4)
    handles = [
        mpl.lines.Line2D([], [], color=colour, marker=style[0], ls=style[1:] or "none", ms=4, mfc="none", label=decoder)
        for decoder, (colour, style) in DECODERS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=6, fontsize=8)
    return figure


def main() -> None:
    """Write the figures."""
    mpl.rcParams["svg.hashsalt"] = "xwalloc"
    FIGURES.mkdir(exist_ok=True)
    read = lambda name: json.loads((RESULTS / f"{name}.json").read_text())  # noqa: E731
    for name, figure in (
        ("rate", rates(read("rate"))),
        ("speed", speeds(read("speed"))),
        ("cost", costs(read("cost"))),
        ("decoders", decoders(read("decoders"))),
    ):
        figure.savefig(FIGURES / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
