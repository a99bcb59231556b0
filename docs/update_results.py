"""Write what the benchmarks measured into README.md and the pages of docs/, so that no figure is typed by hand.

python -m benchmarks.held_out   # these make benchmarks/results/*.json
python -m benchmarks.equal_snr
python -m benchmarks.speed
python -m benchmarks.stages
python -m benchmarks.cost
python -m benchmarks.modes
python -m benchmarks.fitted
python -m benchmarks.neural
python -m benchmarks.trained
python -m benchmarks.decoders   # in three parts, one of them on a GPU: docs/decoders.md
python -m benchmarks.examples
python docs/update_results.py   # fill the blocks between the result marks; --check: exit status 1 where one is stale
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, geometric_mean
from typing import Any

from decoder_tables import decoder_blocks
from tables import table

ROOT = Path(__file__).resolve().parents[1]
OURS = "xwalloc"
SHOWN = ("SZ3", "SPERR", "zfp", "quantise+JXL", "quantise+J2K", "quantise+pcodec", "quantise+FLAC")
"""The peers in the table of README.md; docs/performance.md has all of them."""
KINDS = {
    "hyperspectral": "hyperspectral, integers",
    "hyperspectral-float": "hyperspectral, floats",
    "multispectral": "multispectral",
    "timeseries": "time series",
}

NAMES = (
    *("rate", "speed", "stages", "equal_snr", "cost", "modes", "fitted", "neural-packet", "neural-dyadic", "trained"),
    "train_device",
    "decoders",
    "examples",
)
"""What is read: JSON of these names."""

Row = dict[str, dict[str, Any]]  # one scene at one bound: measurement by codec


def by_case(measurements: Sequence[dict[str, Any]]) -> dict[str, dict[tuple[str, float], Row]]:
    """Measurements by kind, by scene and bound, by codec."""
    result: dict[str, dict[tuple[str, float], Row]] = {}
    for item in measurements:
        case = result.setdefault(item["kind"], {}).setdefault((item["scene"], item["bound"]), {})
        case[item["codec"]] = item
    return {kind: result[kind] for kind in KINDS if kind in result}


def times(row: Row, name: str) -> float:
    """Bytes of a peer by the bytes of xwalloc."""
    return float(row[name]["bytes"] / row[OURS]["bytes"])


def times_best(row: Row) -> float:
    """Bytes of the best of all peers by the bytes of xwalloc."""
    return min(times(row, name) for name in row if name != OURS)


def peers_of(measurements: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the peers, those of README.md first."""
    names = dict.fromkeys([*SHOWN, *(item["codec"] for item in measurements)])
    return [name for name in names if name != OURS and any(item["codec"] == name for item in measurements)]


def versions(measurements: Sequence[dict[str, Any]]) -> str:
    """What was compared."""
    return ", ".join(dict.fromkeys(item["version"] for item in measurements))


def rate_summary(measurements: Sequence[dict[str, Any]]) -> str:
    """One row per kind of data: how much larger the peers are."""
    peers = [name for name in peers_of(measurements) if name in SHOWN]
    rows = []
    for kind, cases in by_case(measurements).items():
        complete = [row for row in cases.values() if OURS in row]
        if not complete:
            continue
        best = [times_best(row) for row in complete]
        means = []
        for name in peers:
            values = [times(row, name) for row in complete if name in row]
            means.append(f"{geometric_mean(values):.2f}" if values else "")
        scenes = len({scene for scene, _ in cases})
        ends = [f"**{geometric_mean(best):.2f}**", f"{min(best):.2f} to {max(best):.2f}"]
        rows.append([KINDS[kind], f"{scenes} x {len(best) // scenes}", *means, *ends])
    ours = [item for item in measurements if item["codec"] == OURS]
    held = sum(item["max_abs_error"] <= item["bound"] for item in ours)
    return (
        "How many times the bytes of xwalloc others take at the same error bound (geometric means):\n\n"
        + table(
            ["data", "scenes x bounds", *peers, f"best of all {len(peers_of(measurements))}", "range of that"], rows
        )
        + "\n\nEvery decoded array was compared with its original: "
        f"{held} of {len(ours)} results of xwalloc lie within their bound. Measured with {versions(measurements)}. "
        "quantise+ means a uniform quantiser before a lossless codec (JXL is JPEG XL). zfp stays well inside the "
        "tolerance it is given, and is not tuned for that here."
    )


def rate_details(measurements: Sequence[dict[str, Any]]) -> str:
    """Bits per sample of everything, one table per kind."""
    parts = []
    for kind, cases in by_case(measurements).items():
        codecs = [OURS, *peers_of([item for row in cases.values() for item in row.values()])]
        rows = []
        for (scene, bound), row in cases.items():
            bits = [f"{row[name]['bits_per_sample']:.3f}" if name in row else "" for name in codecs]
            rest = [f"{row[OURS]['max_abs_error']:.4g}", f"{times_best(row):.2f}"] if OURS in row else ["", ""]
            rows.append([scene, f"{bound:.4g}", *bits, *rest])
        head = ["scene", "bound", *codecs, "error of xwalloc", "best peer / xwalloc"]
        parts.append(f"**{KINDS[kind].capitalize()}**, bits per sample\n\n{table(head, rows)}")
    return "\n\n".join(parts) + f"\n\nVersions: {versions(measurements)}."


def speed_table(report: dict[str, Any], fractions: Sequence[float]) -> str:
    """Throughput beside zfp and SZ3 at some bounds, with the machine it was measured on."""
    timings = [item for item in report["timings"] if item["fraction"] in fractions]
    ours = {(item["mosaic"], item["fraction"]): item for item in timings if item["codec"] == OURS}

    def speed(item: dict[str, Any], field: str) -> str:
        ratio = ours[item["mosaic"], item["fraction"]][field] / item[field]
        return f"{item[field]:.3f}" + ("" if item["codec"] == OURS else f" ({ratio:.2f})")

    rows = [
        [
            f"{item['mosaic']} {' x '.join(map(str, item['shape']))}",
            f"{100 * item['fraction']:g} %",
            item["codec"],
            f"{item['bits_per_sample']:.3f}",
            speed(item, "encode_gb_per_s"),
            speed(item, "decode_gb_per_s"),
            "" if item["peak_rss_mb"] is None else f"{item['peak_rss_mb']:.0f}",
        ]
        for item in timings
    ]
    machine, repeats = report["machine"], len(timings[0]["encode_seconds"])
    head = ["float32 mosaic", "bound / range", "codec", "bits/sample", "encode GB/s", "decode GB/s", "peak memory MB"]
    return (
        f"{machine['cpus']} cores ({machine['machine']}), Python {machine['python']}, {machine['blas']}, median of "
        f"{repeats}, threads as each codec uses them by default: xwalloc {machine['cpus']}, the others one. In "
        f"brackets, how many times as fast xwalloc is:\n\n{table(head, rows, texts=3)}"
    )


def stage_table(report: dict[str, Any]) -> str:
    """Milliseconds of each stage in one thread, and at the roofline."""
    results = report["chunks"]
    names = list(dict.fromkeys(name for result in results for name in result["seconds"]))
    names.sort(key=["all", "rest"].__contains__)

    def cell(result: dict[str, Any], name: str) -> str:
        if name not in result["seconds"]:
            return ""
        text = f"{1e3 * result['seconds'][name]:.0f}"
        return f"{text} ({1e3 * result['roofline'][name]:.1f})" if name in result["roofline"] else text

    rows = [[name, *(cell(result, name) for result in results)] for name in names]
    head = ["ms in one thread, bound 0.5 % of the range", *(f"{r['mosaic']}, {r['direction']}" for r in results)]
    return (
        f"In brackets, the least that the core needs for a stage (roofline: products of float64 matrices at "
        f"{report['flops_per_second'] / 1e9:.0f} GFLOP/s, memory read and written at "
        f"{report['bytes_per_second'] / 1e9:.1f} GB/s, each byte moved once):\n\n{table(head, rows)}"
    )


def mode_table(report: dict[str, Any]) -> str:
    """How often the choice of a mode is right, and what it costs."""
    rows = [
        [
            KINDS.get(item["kind"], "all"),
            item["size"],
            str(item["chunks"]),
            f"{item['right']:.1%}",
            f"{item['larger']:.2%}",
            f"{item['time'] - 1:.0%}",
            f"{item['parallel']:.1%}, at most {item['most parallel']:.0%}",
        ]
        for item in report["summary"]
    ]
    head = [
        "data", "chunks", "number", "right", "bytes lost", "CPU time beyond that of the better mode alone",
        "profile `parallel`: larger by",
    ]  # fmt: skip
    return table(head, rows, texts=2)


def region_table(rows: Sequence[dict[str, Any]]) -> str:
    """Milliseconds to decode parts of a chunk."""
    regions = list(dict.fromkeys(row["region"] for row in rows))
    lines = []
    for key in dict.fromkeys((row["mosaic"], row["fraction"]) for row in rows):
        times = {row["region"]: row["seconds"] for row in rows if (row["mosaic"], row["fraction"]) == key}
        lines.append([key[0], f"{100 * key[1]:g} %", *(f"{1e3 * times[region]:.0f}" for region in regions)])
    return table(["ms to decode", "bound / range", *regions], lines, texts=2)


def snr_table(rows: Sequence[dict[str, Any]]) -> str:
    """Bits per sample at equal signal-to-noise ratio beside JPEG 2000 after a Karhunen-Loeve transform."""
    lines = [
        [
            row["scene"],
            f"{row['snr']:.1f}",
            f"{row['bits']:.4f}",
            f"{row['peer_bits']:.4f}",
            f"{1 - row['bits'] / row['peer_bits']:.0%}",
        ]
        for row in rows
    ]
    least = min(1 - row["bits"] / row["peer_bits"] for row in rows)
    mean = 1 - geometric_mean(row["bits"] / row["peer_bits"] for row in rows)
    head = ["scene", "SNR dB", "xwalloc, bits/sample", "KLT + JPEG 2000, bits/sample", "fewer bits"]
    return f"{mean:.0%} fewer bits (geometric mean), at least {least:.0%}:\n\n{table(head, lines)}"


def cost_table(report: dict[str, Any]) -> str:
    """Hours per terabyte, and what the machine can do."""
    machine = report["machine"]
    rows = []
    for row in report["rows"]:
        hours = [f"{1000 / row[f'{direction}_gb_per_s'] / 3600:.2f}" for direction in ("encode", "decode")]
        speeds = [f"{row[f'{direction}_gb_per_s']:.3f}" for direction in ("encode", "decode")]
        size = f"{row['bands']} x {row['side']} x {row['side']}"
        quality = "step" if row["varied"] == "step" else f"{100 * row['fraction']:g} %"
        rows.append([row["mosaic"], size, quality, f"{row['bits_per_sample']:.3f}", *speeds, *hours])
    head = [
        "mosaic", "chunk", "bound / range", "bits/sample", "encode GB/s", "decode GB/s", "hours to encode 1 TB",
        "hours to decode 1 TB",
    ]  # fmt: skip
    steps = [row for row in report["rows"] if row["varied"] == "step"]
    shares = ", ".join(f"{row['encode_gb_per_s'] / machine['copy_gb_per_s']:.2f} ({row['mosaic']})" for row in steps)
    return (
        f"This machine copies memory at {machine['copy_gb_per_s']:.1f} GB/s into memory that is there, at "
        f"{machine['fresh_copy_gb_per_s']:.1f} GB/s into fresh memory, and multiplies matrices of float64 at "
        f"{machine['gflop_per_s']:.0f} GFLOP/s. Encoding with `step` runs at these shares of the first: {shares}.\n\n"
        + table(head, rows, texts=3)
    )


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


def blocks(results: Path) -> dict[Path, dict[str, str]]:
    """Text by file and by name of the mark."""
    found = (json.loads((results / f"{name}.json").read_text()) for name in NAMES)
    (
        measurements,
        report,
        stages,
        equal_snr,
        cost,
        modes,
        fitted,
        packet,
        dyadic,
        trained,
        device,
        decoders,
        examples,
    ) = found
    fractions = sorted({item["fraction"] for item in report["timings"]}, reverse=True)
    return {
        ROOT / "README.md": {"results": f"{rate_summary(measurements)}\n\n{speed_table(report, fractions[:1])}"},
        ROOT / "docs" / "performance.md": {
            "rate": rate_details(measurements),
            "speed": speed_table(report, fractions),
            "stages": stage_table(stages),
            "snr": snr_table(equal_snr),
            "cost": cost_table(cost),
            "regions": region_table(cost["regions"]),
            "modes": mode_table(modes),
            "device": device_tables(device),
        },
        ROOT / "docs" / "models.md": {
            "fitted": fitted_table(fitted),
            "neural": neural_table(packet, dyadic),
            "trained": trained_table(trained),
        },
        ROOT / "docs" / "decoders.md": decoder_blocks(decoders),
        ROOT / "docs" / "examples.md": {
            "land-cover": land_cover_table(examples["land_cover"]),
            "audio": audio_table(examples["audio"]),
            "biosignals": biosignal_table(examples["biosignals"]),
            "chunks": chunk_table(examples["biosignals"]),
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the figures")
    parser.add_argument("--check", action="store_true", help="change nothing; exit status 1 if a block is out of date")
    options = parser.parse_args(argv)
    missing = [name for name in NAMES if not (options.results / f"{name}.json").is_file()]
    if missing:
        parser.error(f"no results of {' and '.join(missing)} in {options.results}: run these benchmarks first")
    stale = []
    for path, texts in blocks(options.results).items():
        before = after = path.read_text()
        for name, text in texts.items():
            begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
            if (after.count(begin), after.count(end)) != (1, 1):
                parser.error(f"expected one block {begin.strip()} ... {end} in {path}")
            after = after[: after.index(begin)] + begin + text + "\n" + after[after.index(end) :]
        if after != before:
            stale.append(str(path.relative_to(ROOT)))
            if not options.check:
                path.write_text(after)
    print(f"{'Out of date' if options.check else 'Updated'}: {', '.join(stale) or 'nothing'}")  # noqa: T201
    return int(options.check and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
