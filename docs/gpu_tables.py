"""Tables of what a CUDA device does."""

from __future__ import annotations

from statistics import median
from typing import Any

from tables import table

__all__ = ["gpu_stages", "gpu_table"]

PARTS = ("transform path", "device-resident", "host to host", "host to host, two cores")
STAGES = (
    "decode, parsing on the host", "decode, entropy coder", "decode, wavelet", "decode, products and samples",
    "encode, projection to symbols", "encode, coding of latents", "encode, synthesis to residual bytes",
    "encode, coding of residuals",
)  # fmt: skip


def _cases(found: dict[str, Any]) -> dict[tuple[int, int, float, int], dict[str, dict[str, Any]]]:
    """Timings by batch, then by stage."""
    cases: dict[tuple[int, int, float, int], dict[str, dict[str, Any]]] = {}
    for item in found["timings"]:
        key = item["side"], item["bands"], item["fraction"], item["chunks"]
        cases.setdefault(key, {})[item["stage"]] = item
    return cases


def gpu_table(found: dict[str, Any]) -> str:
    """Speed of whole directions, in GB/s of float32 samples."""
    rows = []
    for (side, bands, fraction, chunks), stages in _cases(found).items():

        def speed(stage: str, stages: dict[str, dict[str, Any]] = stages) -> str:
            return f"{stages[stage]['gb_per_s']:.3g}" if stage in stages else "-"

        rows.append([
            f"{bands} x {side} x {side}", f"{chunks}", f"{100 * fraction:g} %",
            f"{next(iter(stages.values()))['bits_per_sample']:.2f}",
            *(speed(f"{direction}, {part}") for direction in ("decode", "encode") for part in PARTS),
        ])  # fmt: skip
    head = [
        "chunk", "chunks", "bound, of the range", "bits per sample", "decode: transform", "with entropy coding",
        "host to host", "two cores", "encode: transform", "with entropy coding", "host to host", "two cores",
    ]  # fmt: skip
    bus = "; ".join(f"{name} {speed:.0f} GB/s" for name, speed in found["copies"].items())
    return (
        f"{found['device']}, torch {found['torch']}, Triton {found['triton']}, {found['threads']} threads of the host. "
        f"Copies: {bus}. GB/s of float32 samples, medians:\n\n" + table(head, rows, texts=0)
    )


def gpu_stages(found: dict[str, Any]) -> str:
    """Milliseconds of the stages of the largest batch."""
    cases = {key: stages for key, stages in _cases(found).items() if "decode, device-resident" in stages}
    (side, bands, _, chunks), stages = max(cases.items(), key=lambda case: case[0][0] ** 2 * case[0][1] * case[0][3])
    rows = [[name, f"{1e3 * median(stages[name]['seconds']):.1f}"] for name in STAGES if name in stages]
    size = 4 * side * side * bands * chunks / 1e9
    return f"{chunks} chunks of {bands} x {side} x {side}, {size:.2f} GB:\n\n" + table(["stage", "ms"], rows, texts=1)
