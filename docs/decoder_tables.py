"""Tables of docs/decoders.md, from benchmarks/results/decoders.json."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from tables import table

ORDER = (
    "fitted", "fitted, archive", "network", "wide network", "network, archive", "published, linear", "published",
    "JPEG 2000", "KLT + JPEG 2000", "JPEG XL", "quantise + JPEG XL", "SPERR",
)  # fmt: skip
LINEAR_OF = {"network": "fitted", "wide network": "fitted", "network, archive": "fitted, archive"}
UNSEEN = ("network", "wide network")


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
            cells.append((_range(rows) or "beyond the curve") if rows else "")
        lines.append([decoder, *cells])
    return table(["decoder", *data], lines)


def _networks(report: dict[str, Any]) -> str:
    """Fitted models and networks: what they gain, over all targets, and from which store size on they pay."""
    lines = []
    for name, found in report["data"].items():
        for decoder in ORDER[:5]:
            rows = _rows(found, decoder)
            over = _rows(found, decoder, LINEAR_OF[decoder]) if decoder in LINEAR_OF else []
            sizes = sorted(m["bytes"] for m in found["models"] if m["decoder"] == decoder)
            lines.append(
                [
                    name, decoder, f"{sizes[0] / 1e3:.1f} to {sizes[-1] / 1e3:.1f}", _range(rows),
                    _least(rows, "pays_from"), _range(over), _least(over, "pays_from"), _least(over, "worth_from"),
                ]
            )  # fmt: skip
    head = [
        "data", "decoder", "model, kB", "gain over self-fitted, dB", "pays from, MB",
        "gain over the same model without network, dB", "pays from, MB", f"{report['worth']} dB from, MB",
    ]  # fmt: skip
    return table(head, lines, texts=2)


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
                setting = f"published, {row['setting']}"
                lines.append([name, setting, f"{row['seconds']:.1f}", str(row["steps"]), f"{row['rate']:g}", worth])
            else:
                worth = f"error {10 * math.log10(min(row['errors'])):.1f} dB"
                lines.append([name, f"{row['decoder']}, {row['setting']}", f"{row['seconds']:.1f}", "", "", worth])
        for row in training["networks"]:
            worth = f"{row['validation_gain']:+.2f} dB over linear, int8 costs {row['int8_loss']:.3f} dB"
            setting = f"{row['decoder']}, {row['weights']} weights"
            lines.append([name, setting, f"{row['seconds']:.1f}", str(row["steps"]), "", worth])
    head = ["data", "network", "seconds", "steps", "learning rate", "on validation scenes"]
    times = ", ".join(
        f"{found['training']['seconds']:g} s ({name}, {found['training']['device']})"
        for name, found in report["data"].items()
    )
    return f"Time that each network might take: {times}.\n\n{table(head, lines, texts=2)}"


def _decoding(report: dict[str, Any]) -> str:
    """Time to decode."""
    rows = report["speed"]["rows"]
    own = rows[0]["seconds"]
    lines = [
        [row["decoder"], f"{1e3 * row['seconds']:.1f}", f"{row['ns_per_sample']:.0f}", f"{row['seconds'] / own:.1f}"]
        for row in rows
    ]
    found = table(["decoder", "ms for 512 x 512 RGB", "ns per sample", "times as long as self-fitted"], lines)
    return f"{found}\n\nOther processes ran on the machine: load {report['speed']['load']:.0f}."


def _verdict(report: dict[str, Any]) -> str:
    """Whether a network beats the linear decoder on unseen scenes, and by how much on the archive it was trained on."""
    data, worth = report["data"], report["worth"]
    same = {name: _best(_over(found, UNSEEN)) for name, found in data.items()}
    linear = {name: max(_beyond_linear(found)) for name, found in data.items()}
    archive = {name: _best(_over(found, ("network, archive",))) for name, found in data.items()}
    published = {name: _best(_rows(found, "published")) for name, found in data.items()}
    stores = [
        f"{_least(rows, 'worth_from')} MB of samples on ({name})"
        for name, rows in ((name, _over(found, UNSEEN)) for name, found in data.items())
        if any(row["worth_from"] is not None for row in rows)
    ]
    reached = (
        f"With its weights counted, {worth} dB over that model are reached in stores from {', '.join(stores)}."
        if stores
        else f"No store is large enough for {worth} dB over that model with its weights counted."
    )
    beaten = max(*linear.values(), *published.values()) >= worth
    own, *_, slowest = report["speed"]["rows"]
    lines = [
        f"**{'A' if beaten else 'No'} neural decoder beats the best linear one by {worth} dB on scenes that it has not "
        f"seen.** At equal bytes of frames, weights not even counted, a network of xwalloc gains at most "
        f"{_listed(linear)} over the better of self-fitted and fitted chunks.",
        f"Over the same fitted model without it, a network gains at most {_listed(same)} on such scenes. {reached}",
        f"Trained on three quarters of what is stored, the small network gains up to {_listed(archive)} over the model "
        "fitted to what is stored.",
        f"The published architecture, trained here on the same data, comes at best to {_listed(published)} beside "
        "self-fitted chunks of as many bytes, its weights not counted.",
        f'A linear chunk takes {own["seconds"] * 1e3:.0f} ms to decode where "{slowest["decoder"]}" takes '
        f"{slowest['seconds']:.1f} s: {slowest['seconds'] / own['seconds']:.0f} times as long.",
    ]
    return "\n".join(f"- {line}" for line in lines)


def _beyond_linear(found: dict[str, Any]) -> list[float]:
    """Gains of networks on unseen scenes over the better of self-fitted and fitted chunks, in dB, target by target."""
    fitted = {row["setting"]: row["gain"] for row in _rows(found, "fitted")}
    rows = [row for decoder in UNSEEN for row in _rows(found, decoder) if row["gain"] is not None]
    return [row["gain"] - max(0.0, fitted[row["setting"]]) for row in rows]


def _over(found: dict[str, Any], decoders: Iterable[str]) -> list[dict[str, Any]]:
    """Networks beside their fitted models."""
    return [row for decoder in decoders for row in _rows(found, decoder, LINEAR_OF[decoder])]


def _best(rows: Iterable[dict[str, Any]]) -> float:
    return max(row["gain"] for row in rows if row["gain"] is not None)


def _listed(gains: dict[str, float]) -> str:
    return ", ".join(f"{gain:+.2f} dB ({name})" for name, gain in gains.items())


def _rows(found: dict[str, Any], decoder: str, reference: str = "self-fitted") -> list[dict[str, Any]]:
    return [row for row in found["compared"][reference] if row["decoder"] == decoder]


def _range(rows: Iterable[dict[str, Any]]) -> str:
    """From the least gain to the largest."""
    gains = [row["gain"] for row in rows if row["gain"] is not None]
    return " to ".join(dict.fromkeys(f"{gain:+.2f}" for gain in (min(gains), max(gains)))) if gains else ""


def _least(rows: Sequence[dict[str, Any]], what: str) -> str:
    """The smallest of store sizes, in megabytes."""
    sizes = [row[what] for row in rows if row[what] is not None]
    return _megabytes(min(sizes, default=None)) if rows else ""


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def _kilobytes(nbytes: float) -> str:
    return f"{nbytes / 1e3:.0f}" if nbytes >= 1e4 else f"{nbytes / 1e3:.1f}"


def _megabytes(nbytes: float | None) -> str:
    return "never" if nbytes is None else f"{nbytes / 1e6:.0f}" if nbytes >= 1e7 else f"{nbytes / 1e6:.1f}"
