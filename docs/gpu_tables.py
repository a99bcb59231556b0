"""Tables of what a CUDA device does."""

from __future__ import annotations

from statistics import median
from typing import Any

from tables import table

__all__ = ["gpu_peers", "gpu_stages", "gpu_table", "gpu_worker"]

COLUMNS = {
    "decode, transform path": "decode: transform",
    "decode, device-resident": "with entropy coding",
    "decode, host to host": "host to host",
    "decode, host to host, two cores": "two cores",
    "encode, transform path": "encode: transform",
    "encode, device-resident": "with entropy coding",
    "encode, device-resident with fit": "and fit",
    "encode, host to host": "host to host",
    "encode, host to host, two cores": "two cores",
}
"""Heads of whole directions; what has another name is a stage."""
ON_HOST = ("decode, parsing on the host",)
WITHIN = {
    "encode, coding of residuals": "encode, synthesis to residual bytes",
    "encode, entropy coder": "encode, synthesis to bytes",
}
"""Stages that are a part of another."""
COPY = "within the device, read and written"

Case = tuple[int, int, float, int, str]
"""Side, bands, bound, number of chunks, mode."""


def _cases(found: dict[str, Any]) -> dict[Case, dict[str, dict[str, Any]]]:
    """Timings by batch, then by stage."""
    cases: dict[Case, dict[str, dict[str, Any]]] = {}
    for item in found["timings"]:
        key = item["side"], item["bands"], item["fraction"], item["chunks"], item.get("mode", "transform")
        cases.setdefault(key, {})[item["stage"]] = item
    return dict(sorted(cases.items(), key=lambda case: (-case[0][2], case[0][1], case[0][0], case[0][3], case[0][4])))


def _size(case: Case) -> int:
    side, bands, _, chunks, _ = case
    return 4 * side * side * bands * chunks


def gpu_table(found: dict[str, Any]) -> str:
    """Speed of whole directions, in GB/s of float32 samples."""
    cases = _cases(found)
    columns = [stage for stage in COLUMNS if any(stage in stages for stages in cases.values())]
    modes = len({mode for *_, mode in cases}) > 1
    rows = []
    for (side, bands, fraction, chunks, mode), stages in cases.items():
        speeds = (f"{stages[stage]['gb_per_s']:.3g}" if stage in stages else "-" for stage in columns)
        rows.append([
            f"{bands} x {side} x {side}", f"{chunks}", f"{100 * fraction:g} %", *([mode] if modes else []),
            f"{next(iter(stages.values()))['bits_per_sample']:.2f}", *speeds,
        ])  # fmt: skip
    head = [
        "chunk", "chunks", "bound, of the range", *(["mode"] if modes else []), "bits per sample",
        *(COLUMNS[stage] for stage in columns),
    ]  # fmt: skip
    bus = "; ".join(f"{name} {speed:.0f} GB/s" for name, speed in found["copies"].items())
    return (
        f"{found['device']}, torch {found['torch']}, Triton {found['triton']}, {found['threads']} threads of the host. "
        f"Copies: {bus}. GB/s of float32 samples, medians:\n\n" + table(head, rows, texts=0)
    )


def gpu_stages(found: dict[str, Any]) -> str:
    """Milliseconds of the stages of the largest batch, their shares, and what they leave of the device's memory."""
    cases = {case: stages for case, stages in _cases(found).items() if "decode, device-resident" in stages}
    case, stages = max(cases.items(), key=lambda item: (item[0][4] == "transform", _size(item[0]), item[0][2]))
    side, bands, fraction, chunks, _ = case
    times = {name: median(item["seconds"]) for name, item in stages.items()}
    wholes = {
        "decode": "decode, device-resident",
        "encode": next(
            name for name in ("encode, device-resident with fit", "encode, device-resident") if name in times
        ),
    }
    rows = []
    for name in (*(name for name in times if name not in COLUMNS), *wholes.values()):
        total = times[wholes[name.split(",")[0]]]
        speed = _size(case) / times[name] / 1e9
        outer = WITHIN.get(name)
        rows.append([
            f"{name} (a part of {outer.split(', ')[1]})" if outer in times else name,
            f"{1e3 * times[name]:.1f}",
            *(["", "", ""] if name in ON_HOST else [
                f"{times[name] / total:.0%}", f"{speed:.3g}", f"{speed / found['copies'][COPY]:.1%}"
            ]),
        ])  # fmt: skip
    rows.sort(key=lambda row: (row[0][:6], row[0] in wholes.values()))
    return (
        f"{chunks} chunks of {bands} x {side} x {side}, {_size(case) / 1e9:.2f} GB, at {100 * fraction:g} %:\n\n"
        + table(["stage", "ms", "share", "GB/s of float32", "of the bandwidth of memory"], rows, texts=1)
        + "\n\nShares are those of the last line of a direction. The bandwidth of the device's memory is that of a "
        + f"copy within it, {found['copies'][COPY]:.0f} GB/s read and written."
    )


def _ours(stages: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Where samples and frames are, rate, and speed of both directions."""
    rows = []
    for part in ("device-resident", "host to host"):
        both = [stages.get(f"{direction}, {part}") for direction in ("encode", "decode")]
        if all(both):
            speeds = [f"{item['gb_per_s']:.3g}" for item in both if item]
            rows.append([f"float32, {part}", f"{both[0]['bits_per_sample']:.3f}", *speeds])
    return rows


def gpu_peers(found: dict[str, Any] | None, ours: dict[str, Any]) -> str:
    """Other codecs on the device, beside xwalloc with the same chunks, where the same device measured it."""
    if found is None:
        return "Not measured yet: `python -m benchmarks.gpu_peers`."
    parts = []
    keys = dict.fromkeys((item["side"], item["bands"], item["chunks"]) for item in found["measurements"])
    for side, bands, chunks in keys:
        rows = []
        here = [i for i in found["measurements"] if (i["side"], i["bands"], i["chunks"]) == (side, bands, chunks)]
        for fraction in dict.fromkeys(item["fraction"] for item in here):
            bound = "lossless" if fraction is None else f"{100 * fraction:g} %"
            for (*case, mode), stages in _cases(ours).items():
                if case == [side, bands, fraction, chunks] and ours["device"] == found["device"]:
                    rows += [[bound, f"**xwalloc**, {mode} mode", *row] for row in _ours(stages)]
            rows += [
                [bound, item["peer"], item["given"], f"{item['bits_per_sample']:.3f}",
                 f"{item['encode_gb_per_s']:.3g}", f"{item['decode_gb_per_s']:.3g}"]
                for item in here if item["fraction"] == fraction
            ]  # fmt: skip
        head = ["bound, of the range", "codec", "what it gets", "bits per sample", "encode GB/s", "decode GB/s"]
        parts.append(f"{chunks} chunks of {bands} x {side} x {side}:\n\n{table(head, rows, texts=3)}")
    failed = "; ".join(dict.fromkeys(f"{item['peer']}: {item['error']}" for item in found["failed"]))
    wheels = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    return (
        f"{found['device']}, torch {found['torch']}, {wheels}. GB/s of float32 samples, medians.\n\n"
        + "\n\n".join(parts)
        + (f"\n\nNot measured: {failed}." if failed else "")
    )


def gpu_worker(found: dict[str, Any] | None) -> str:
    """`xwalloc.convert` on a GPU worker and on a worker with two cores."""
    if found is None:
        return "Not measured yet: `python -m benchmarks.gpu_convert`."
    rows = [
        [name, f"{threads}", f"{median(found[key]['seconds']):.1f}", f"{found[key]['gb_per_s']:.3g}"]
        for key, name, threads in (("gpu", found.get("device", found["worker"]), found["threads"]), ("cpu", "CPU", 2))
    ]
    size, stored = found["cpu"]["nbytes"], found["cpu"]["stored"]
    bands, height, width = found["shape"]
    return (
        f"{found['machine']}. A plain store of {bands} x {height} x {width} float32 ({size / 1e9:.1f} GB), chunks of "
        f"{' x '.join(map(str, found['chunk']))}, at {100 * found['fraction']:g} % of the range, "
        f"{size / stored:.0f} times smaller afterwards. The GPU worker is {found['times as fast']:.1f} times as fast; "
        f"{found['chunks that differ']} of {found['chunks']} chunks differ:\n\n"
        + table(["worker", "threads", "seconds", "GB/s of samples"], rows, texts=1)
    )
