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
python -m benchmarks.train_device   # on a machine with a GPU
python -m benchmarks.decoders   # in three parts, one of them on a GPU: docs/decoders.md
python -m benchmarks.examples
python -m benchmarks.convert
python -m benchmarks.gpu   # on a machine with a GPU, and so are the next two
python -m benchmarks.gpu_peers
python -m benchmarks.gpu_convert
python docs/update_results.py   # fill the blocks between the result marks; --check: exit status 1 where one is stale
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from conversion_tables import conversion_table, terabyte_table
from decoder_tables import decoder_blocks
from example_tables import example_blocks
from gpu_tables import gpu_peers, gpu_stages, gpu_table, gpu_worker
from model_tables import device_tables, fitted_table, neural_table, trained_table
from tables import KINDS, table

ROOT = Path(__file__).resolve().parents[1]
OURS = "xwalloc"
SHOWN = ("SZ3", "SPERR", "zfp", "quantise+JXL", "quantise+J2K", "quantise+pcodec", "quantise+FLAC")
"""The peers in the table of README.md; docs/performance.md has all of them."""
NAMES = (
    "rate", "speed", "stages", "equal_snr", "cost", "modes", "fitted", "neural-packet", "neural-dyadic", "trained",
    "train_device", "decoders", "examples", "convert", "gpu",
)  # fmt: skip
"""What is read: JSON of these names."""
OPTIONAL = ("gpu_peers", "gpu_convert")
"""What is read where it is there."""

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


def blocks(results: Path) -> dict[Path, dict[str, str]]:
    """Text by file and by name of the mark."""
    there = [name for name in (*NAMES, *OPTIONAL) if name in NAMES or (results / f"{name}.json").is_file()]
    found = {name: json.loads((results / f"{name}.json").read_text()) for name in there}
    speed, measurements = found["speed"], found["rate"]
    fractions = sorted({item["fraction"] for item in speed["timings"]}, reverse=True)
    return {
        ROOT / "README.md": {"results": f"{rate_summary(measurements)}\n\n{speed_table(speed, fractions[:1])}"},
        ROOT / "docs" / "performance.md": {
            "rate": rate_details(measurements),
            "speed": speed_table(speed, fractions),
            "stages": stage_table(found["stages"]),
            "snr": snr_table(found["equal_snr"]),
            "cost": cost_table(found["cost"]),
            "regions": region_table(found["cost"]["regions"]),
            "modes": mode_table(found["modes"]),
            "device": device_tables(found["train_device"]),
            "conversion": conversion_table(found["convert"]),
            "gpu": gpu_table(found["gpu"]),
            "gpu-stages": gpu_stages(found["gpu"]),
            "gpu-peers": gpu_peers(found.get("gpu_peers"), found["gpu"]),
            "gpu-worker": gpu_worker(found.get("gpu_convert")),
        },
        ROOT / "docs" / "clusters.md": {"terabyte": terabyte_table(speed, found["convert"])},
        ROOT / "docs" / "models.md": {
            "fitted": fitted_table(found["fitted"]),
            "neural": neural_table(found["neural-packet"], found["neural-dyadic"]),
            "trained": trained_table(found["trained"]),
        },
        ROOT / "docs" / "decoders.md": decoder_blocks(found["decoders"]),
        ROOT / "docs" / "examples.md": example_blocks(found["examples"]),
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
