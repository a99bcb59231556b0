"""Tables of what converting archives takes."""

from __future__ import annotations

from typing import Any

from tables import table

__all__ = ["conversion_table", "terabyte_table"]

PRICE = 0.04
"""US dollars for a core and hour, assumed."""


def conversion_table(found: dict[str, Any]) -> str:
    """Conversion on worker processes beside bare encoding."""
    bands, height, width = found["mosaic"]["shape"]
    rows = []
    for bound, one in found["bounds"].items():
        converted = one["converted"]
        rows.append([
            bound, f"{converted['nbytes'] / converted['stored']:.1f}", f"{one['bare']['seconds']:.0f}",
            f"{converted['seconds']:.0f}", f"{one['times as slow']:.2f}", f"{one['times as much CPU']:.2f}",
            f"{100 * converted['share of CPU in encode']:.0f} %", f"{converted['peak memory'] / 1e6:.0f}",
            f"{converted['peak memory planned'] / 1e6:.0f}", f"{one['load']:.1f}",
        ])  # fmt: skip
    head = [
        "bound", "ratio", "bare encoding, s", "conversion, s", "times as slow", "times as much CPU",
        "CPU time in encode",
        "peak memory of a worker, MB", "planned, MB", "load of the machine",
    ]  # fmt: skip
    size = next(iter(found["bounds"].values()))["converted"]["nbytes"]
    kills = found["kills"]
    return (
        f"{found['machine']}. A mosaic of {bands} x {height} x {width} uint16 ({size / 1e9:.1f} GB) in a GeoTIFF, "
        f"chunks of {found['mosaic']['chunk'][1]} pixels in shards of {found['mosaic']['shard'][1]}, two worker "
        "processes of one thread; bare encoding has the same chunks in memory, and two threads:\n\n"
        + table(head, rows, texts=0)
        + f"\n\nA smaller one was killed {kills['kills']} times at random moments and continued: "
        f"{kills['chunks that differ']} chunks differ from those of an uninterrupted run."
    )


def terabyte_table(speed: dict[str, Any], conversion: dict[str, Any]) -> str:
    """Core hours and cost of a terabyte of samples."""
    rows = []
    for item in speed["timings"]:
        if item["codec"] == "xwalloc, one thread":
            name = f"{item['mosaic']}, float32, {100 * item['fraction']:g} % of the range"
            rows.append((name, "encode", item["encode_gb_per_s"]))
            rows.append((name, "decode", item["decode_gb_per_s"]))
    bands = conversion["mosaic"]["shape"][0]
    for bound, one in conversion["bounds"].items():
        rate = one["converted"]["nbytes"] / one["converted"]["seconds"] / 2e9
        rows.append((f"GeoTIFF mosaic, uint16, {bands} bands, bound {bound}", "convert", rate))
    lines = [
        [name, what, f"{1000 * rate:.0f}", f"{1000 / rate / 3600:.1f}", f"{1000 / rate / 3600 * PRICE:.2f}",
         f"{60 * 1000 / rate / 3600 / 64:.0f}"]
        for name, what, rate in rows
    ]  # fmt: skip
    head = ["data", "what", "MB/s for a core", "core hours for 1 TB", "USD for 1 TB", "minutes on 64 cores"]
    return (
        f"Worked out from rates that were measured on one small machine (benchmarks/results), at {PRICE} USD for a "
        "core and hour, storage and network not counted; nothing larger than that machine was tried:\n\n"
        + table(head, lines, texts=2)
    )
