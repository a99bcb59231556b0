"""Tables of docs/decoders.md, from benchmarks/results/decoders.json."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from tables import table

ORDER = (
    "fitted", "fitted, archive", "network", "wide network", "network, archive", "published, linear", "published",
    "JPEG 2000", "KLT + JPEG 2000", "JPEG XL", "quantise + JPEG XL", "SPERR",
)  # fmt: skip
WORTH = 0.3
"""dB for which a network is said to be worth its bytes and its time."""

LINEAR_OF = {"network": "fitted", "wide network": "fitted", "network, archive": "fitted, archive"}


def decoder_blocks(report: dict[str, Any]) -> dict[str, str]:
    """Texts by the name of their block."""
    return {
        "decoders": _overview(report),
        "verdict": _verdict(report),
        "networks": _networks(report),
        "published": _published(report),
        "training": _training(report),
        "decoding": _decoding(report),
    }


def _overview(report: dict[str, Any]) -> str:
    """Range of gains over chunks with a model of their own."""
    data = report["data"]
    lines = []
    for decoder in ORDER:
        cells = []
        for found in data.values():
            rows = _rows(found, decoder)
            gains = [row["gain"] for row in rows if row["gain"] is not None]
            cells.append(f"{min(gains):+.2f} to {max(gains):+.2f}" if gains else "beyond the curve" if rows else "")
        lines.append([decoder, *cells])
    return table(["decoder", *data], lines)


def _networks(report: dict[str, Any]) -> str:
    """Fitted models and networks, target by target."""
    lines = []
    for name, found in report["data"].items():
        for decoder in ORDER[:5]:
            over = {
                row["setting"]: row for row in found["compared"].get(LINEAR_OF.get(decoder, ""), [])
                if row["decoder"] == decoder
            }  # fmt: skip
            for row in _rows(found, decoder):
                beside = over.get(row["setting"])
                lines.append(
                    [
                        name, decoder, row["setting"], f"{row['bits_per_sample']:.3f}", f"{row['dB']:.2f}",
                        _signed(row["gain"]), _signed(beside["gain"] if beside else None),
                        _kilobytes(row["model_bytes"]), _megabytes(row["pays_from"]),
                        _megabytes(beside["pays_from"]) if beside else "",
                    ]
                )  # fmt: skip
    head = [
        "data", "decoder", "fitted for", "bits per sample", "dB", "gain over self-fitted, dB",
        "gain over the same model without network, dB", "model, kB", "pays from, MB of samples",
        "pays from, beside the same model without network",
    ]  # fmt: skip
    return table(head, lines, texts=3)


def _published(report: dict[str, Any]) -> str:
    """The published architectures, model by model."""
    lines = [
        [
            name, decoder, row["setting"], f"{row['bits_per_sample']:.3f}", f"{row['dB']:.2f}", _signed(row["gain"]),
            _kilobytes(row["model_bytes"]),
        ]
        for name, found in report["data"].items()
        for decoder in ("published, linear", "published")
        for row in _rows(found, decoder)
    ]  # fmt: skip
    head = ["data", "decoder", "setting", "bits per sample", "dB", "gain over self-fitted, dB", "model, kB"]
    return table(head, lines, texts=3)


def _training(report: dict[str, Any]) -> str:
    """What every training came to."""
    lines = []
    for name, found in report["data"].items():
        training = found["training"]
        for row in training["published"]:
            if row["steps"]:
                worth = f"error {10 * math.log10(row['errors'][0]):.1f} to {10 * math.log10(min(row['errors'])):.1f} dB"
                rate = f"{row['rate']:g}"
                setting = f"published, {row['setting']}"
                lines.append(
                    [name, setting, training["device"], f"{row['seconds']:.0f}", str(row["steps"]), rate, worth]
                )
        for row in training["networks"]:
            worth = f"{row['validation_gain']:+.2f} dB over linear, int8 costs {row['int8_loss']:.3f} dB"
            setting = f"{row['decoder']}, {row['weights']} weights"
            lines.append(
                [name, setting, training["device"], f"{row['seconds']:.0f}", str(row["steps"]), "0.001", worth]
            )
    head = ["data", "network", "device", "seconds", "steps", "learning rate", "on validation scenes"]
    return table(head, lines, texts=3)


def _decoding(report: dict[str, Any]) -> str:
    """Time to decode."""
    rows = report["speed"]["rows"]
    own = rows[0]["seconds"]
    lines = [
        [row["decoder"], f"{1e3 * row['seconds']:.1f}", f"{row['ns_per_sample']:.0f}", f"{row['seconds'] / own:.1f}"]
        for row in rows
    ]
    return table(["decoder", "ms for 512 x 512 RGB", "ns per sample", "times as long as self-fitted"], lines)


def _verdict(report: dict[str, Any]) -> str:
    """Whether a network beats the linear decoder on unseen scenes, and by how much on the archive it was trained on."""

    def best(decoders: Iterable[str], pick: Callable[[str], str]) -> dict[str, float]:
        found = {}
        for name, data in report["data"].items():
            gains = [
                row["gain"]
                for decoder in decoders
                for row in data["compared"][pick(decoder)]
                if row["decoder"] == decoder and row["gain"] is not None
            ]
            if gains:
                found[name] = max(gains)
        return found

    unseen = best(("network", "wide network"), LINEAR_OF.__getitem__)
    archive = best(("network, archive",), LINEAR_OF.__getitem__)
    published = best(("published",), lambda _: "self-fitted")
    highest = max(unseen.values())
    said = (
        f"No network trained on other scenes beats the linear decoder by {WORTH} dB, its own weights not even counted."
        if max(highest, *published.values()) < WORTH
        else f"A network trained on other scenes beats the linear decoder by up to {highest:.2f} dB."
    )
    return (
        f"{said} The most that a network of xwalloc gains over the same model without it, at equal bytes of frames: "
        f"{_listed(unseen)} on scenes that it has not seen; {_listed(archive)} where it was trained on three quarters "
        f"of what is stored. The published architecture, beside self-fitted chunks: {_listed(published)}."
    )


def _listed(gains: dict[str, float]) -> str:
    return ", ".join(f"{gain:+.2f} dB ({name})" for name, gain in gains.items())


def _rows(found: dict[str, Any], decoder: str) -> list[dict[str, Any]]:
    return [row for row in found["compared"]["self-fitted"] if row["decoder"] == decoder]


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def _kilobytes(nbytes: float) -> str:
    return f"{nbytes / 1e3:.0f}" if nbytes >= 1e4 else f"{nbytes / 1e3:.1f}"


def _megabytes(nbytes: float | None) -> str:
    return "never" if nbytes is None else f"{nbytes / 1e6:.0f}" if nbytes >= 1e7 else f"{nbytes / 1e6:.1f}"
