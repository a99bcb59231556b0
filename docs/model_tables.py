"""Tables of what models of arrays save, what training gains, and how fast it is."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import geometric_mean
from typing import Any

from tables import KINDS, table

__all__ = ["device_tables", "fitted_table", "neural_table", "trained_table"]


def fitted_table(rows: Sequence[dict[str, Any]]) -> str:
    """Bytes of chunks with a model of the array by those of chunks that carry their own."""
    groups: dict[tuple[str, str, int, int], list[dict[str, Any]]] = {}
    for kind in KINDS:
        some = [row for row in rows if row["kind"] == kind]
        for scene in dict.fromkeys(row["scene"] for row in some):
            bounds = sorted({row["bound"] for row in some if row["scene"] == scene})
            for row in some:
                if row["scene"] == scene:
                    place = bounds.index(row["bound"])
                    groups.setdefault((kind, row["split"], row["side"], place), []).append(row)
    lines = []
    order = list(KINDS)
    for kind, split, side, place in sorted(groups, key=lambda group: (order.index(group[0]), *group[1:])):
        found = groups[kind, split, side, place]
        shares = [row["shared"] / row["own"] for row in found]
        models = sum(row["models"]["shared"] for row in found) / sum(row["chunks"] for row in found)
        lines.append(
            [
                KINDS[kind], split, f"{side} x {side}", ("tight", "middle", "loose")[place], str(len(found)),
                f"{geometric_mean(shares):.3f}", f"{min(shares):.3f} to {max(shares):.3f}", f"{models:.0%}",
            ]
        )  # fmt: skip
    head = [
        "data",
        "other half",
        "chunks",
        "bound",
        "scenes",
        "bytes, shared by own",
        "range",
        "chunks that use the model",
    ]
    return table(head, lines, texts=4)


def neural_table(packet: dict[str, Any], dyadic: dict[str, Any]) -> str:
    """What a network adds to the linear decoder, in dB at equal symbols."""
    rows = []
    for one, two in zip(packet["rows"], dyadic["rows"], strict=True):
        figures = [
            f"{case[key]:{form}}"
            for case in (one, two)
            for key, form in (("bits_per_sample", ".3f"), ("snr", ".1f"), ("gain", "+.3f"))
        ]
        rows.append([one["scene"], f"{one['step']:g}", *figures])
    names = ("bits per sample", "SNR, dB", "gain, dB")
    head = ["scene", "step", *(f"{tree}: {name}" for tree in ("packet", "dyadic") for name in names)]
    return table(head, rows)


def trained_table(found: dict[str, Any]) -> str:
    """What `xwalloc.train` gained, by scene, goal and where the network is from."""
    rows = []
    for item in found["rows"]:
        ((name, value),) = item["goal"].items()
        figures = item["validation"]
        saved = 1 - figures["refined_bytes"] / figures["linear_bytes"]
        bounded = name == "max_error"
        pays = f"{item['weight_bytes'] / saved / 1e6:.1f} MB" if bounded and item["kept"] else ""
        rows.append(
            [
                item["scene"],
                f"{name} {value:g}",
                item["source"],
                f"{item['gain']:+.3f}",
                f"{item['int8_loss']:+.4f}",
                f"{saved:+.2%}" if bounded else "",
                f"{item['weight_bytes'] / 1000:.0f}",
                "yes" if item["kept"] else "no",
                pays,
                f"{item['encoder']['change']:+.2%}" if "encoder" in item else "",
            ]
        )
    head = [
        "scene", "goal", "network of", "gain, dB", "int8 costs, dB", "bytes saved", "weights, kB", "kept", "pays above",
        "encoder trained: cost",
    ]  # fmt: skip
    return table(head, rows, texts=3)


def device_tables(found: dict[str, Any]) -> str:
    """What `benchmarks.train_device` measured: training, and batches of latents, on a CPU and a GPU."""
    machine = found["machine"]
    names = {"cpu": f"CPU, {machine['cpu_threads']} threads", "cuda": machine["cuda"]}
    training = [
        [
            names[item["device"]],
            item["precision"],
            f"{item['places']}",
            f"{item['steps_per_second']:.0f}",
            f"{item['megapixels_per_second']:.0f}",
            f"{item['peak_device_bytes'] / 1e6:.0f}" if item["peak_device_bytes"] else "",
            f"{item['gain_db']:.4f}",
            f"{item['int8_loss_db']:.4f}",
            "the same" if item["same_bits_on"] == ["cpu", "cuda"] else "differ",
        ]
        for item in found["training"]
    ]
    head = [
        "device", "precision", "places in a batch", "steps per second", "megapixels per second",
        "memory of the device, MB", "gain, dB", "int8 costs, dB", "corrections on CPU and GPU",
    ]  # fmt: skip
    loading = [
        [names[item["device"]], f"{item['windows_per_second']:.0f}", f"{item['megabytes_per_second']:.0f}"]
        for item in found["loader"]
    ]
    return (
        f"torch {machine['torch']}, Python {machine['python']}, scene {found['scene']['source']} "
        f"{' x '.join(map(str, found['scene']['shape']))}:\n\n{table(head, training, texts=2)}\n\n"
        f"{table(['LatentLoader to', 'windows per second', 'MB per second'], loading)}"
    )
