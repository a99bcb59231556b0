"""Tables of docs/examples.md."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from tables import table

__all__ = ["example_blocks"]


def example_blocks(examples: dict[str, Any]) -> dict[str, str]:
    """Text by name of the mark."""
    return {
        "land-cover": land_cover_table(examples["land_cover"]),
        "audio": audio_table(examples["audio"]),
        "biosignals": biosignal_table(examples["biosignals"]),
        "chunks": chunk_table(examples["biosignals"]),
    }


def land_cover_table(rows: Sequence[dict[str, Any]]) -> str:
    """Accuracy of the same classifier on several inputs."""

    def spread(values: Sequence[float]) -> str:
        return f"{fmean(values):.1f} ({min(values):.1f} to {max(values):.1f})"

    lines = [
        [
            row["input"],
            f"{row['numbers']:.1f}",
            f"{row['bytes']:,}" if row["bytes"] else "",
            spread(row["tiles"]),
            spread(row["pixels"]),
            f"{row['tiles_seconds']:.1f}",
        ]
        for row in rows
    ]
    head = ["input", "numbers per pixel", "bytes of the store", "tiles, %", "pixels, %", "seconds to train and test"]
    return table(head, lines)


def audio_table(sounds: dict[str, Sequence[dict[str, Any]]]) -> str:
    """Rates and signal-to-noise ratios of stereo recordings."""
    lines = []
    for rows in zip(*sounds.values(), strict=True):
        figures = [f"{row['kbit_per_s']:.0f}, {row['snr']:.1f}" if row["snr"] else f"{row['kbit_per_s']:.0f}, exact"
                   for row in rows]  # fmt: skip
        lines.append([rows[0]["codec"], rows[0]["setting"], *figures])
    return table(["codec", "setting", *(f"{name}: kbit/s, dB" for name in sounds)], lines, texts=2)


def biosignal_table(recordings: dict[str, dict[str, Any]]) -> str:
    """Sizes at bounds in microvolts, and what survives."""
    names = list(next(iter(recordings.values()))["bounds"][0]["bytes"])
    lines = [
        [name, f"{row['bound']:g}", f"{row['max_error']:.4g}"]
        + [f"{row['raw'] / row['bytes'][codec]:.1f}" for codec in names]
        + [row["survived"]]
        for name, result in recordings.items()
        for row in result["bounds"]
    ]
    return table(["recording", "bound, uV", "largest error, uV", *names, "what survives"], lines)


def chunk_table(recordings: dict[str, dict[str, Any]]) -> str:
    """Bytes of short chunks with a model of the whole recording, by those of chunks that carry their own."""
    lines = [
        [name, str(row["length"]), f"{row['bytes']['own']:,}", f"{row['bytes']['shared']:,}"]
        for name, result in recordings.items()
        for row in result["chunks"]
    ]
    return table(["recording", "samples in a chunk", "bytes", "bytes with a model"], lines)
