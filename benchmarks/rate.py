"""Bits per sample of xwalloc beside its peers, every error verified.

.. code-block:: shell

    python -m benchmarks.rate                        # everything: out/rate.json and a table
    python -m benchmarks.rate --peers-only
    python -m benchmarks.rate --scene abu eeg        # scenes with one of these texts in their name
    python -m benchmarks.rate --kind timeseries
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import geometric_mean
from typing import Any

from benchmarks.measure import Measurement, measure
from benchmarks.ours import xwalloc_codec
from benchmarks.peers import PEERS, Codec
from benchmarks.scenes import KINDS, Scene, data_root, load_scenes

__all__ = ["Cache", "main", "markdown"]

logger = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent
OURS = "xwalloc"


class Cache:
    """Results of peers in one JSON file, by codec, version, scene and bound.

    Parameters
    ----------
    folder : Path
        Where ``peers.json`` is kept; created on the first result.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "peers.json"
        self.entries: dict[str, dict[str, Any]] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def measure(self, codec: Codec, scene: Scene, bound: float) -> Measurement | None:
        """`measure`, or what it returned when it last ran with the same ways to call the codec."""
        key = f"{codec.name} | {codec.version} | {scene.name} | {bound:.9g}"
        variants = {variant.label for variant in codec.variants(scene)}
        if key not in self.entries or variants != set(self.entries[key].get("tried", ())):
            result = measure(codec, scene, bound)
            self.entries[key] = asdict(result) if result else {}
            self._save()
        entry = self.entries[key]
        return Measurement(**entry) if entry else None

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        draft = self.path.with_suffix(".part")
        draft.write_text(json.dumps(self.entries, indent=1))
        draft.replace(self.path)


def markdown(results: Sequence[Measurement]) -> str:
    """Bits per sample as one markdown table per kind, with the ratios to xwalloc and their geometric mean.

    ``best/xw`` is the smallest of all peers over xwalloc.
    """
    groups = {kind: [result for result in results if result.kind == kind] for kind in KINDS}
    return "\n\n".join(_table(kind, group) for kind, group in groups.items() if group)


def _table(kind: str, results: Sequence[Measurement]) -> str:
    cells: dict[tuple[str, float], dict[str, Measurement]] = {}
    for result in results:
        cells.setdefault((result.scene, result.bound), {})[result.codec] = result
    codecs = list(dict.fromkeys(result.codec for result in results))
    lines = [
        f"**{kind}**, bits per sample\n",
        " | ".join(["| scene", "bound", *codecs, "best peer", "best/xw |"]),
        "|---|" + "---:|" * (1 + len(codecs)) + "---|---:|",
    ]
    ratios = []
    for (scene, bound), row in cells.items():
        peers = {name: cell.bytes for name, cell in row.items() if name != OURS}
        winner = min(peers, key=peers.__getitem__, default="")
        text = ""
        if OURS in row and peers:
            ratios.append(peers[winner] / row[OURS].bytes)
            text = f"{ratios[-1]:.2f}"
        bits = [_bits(row.get(name)) for name in codecs]
        lines.append("| " + " | ".join([scene, f"{bound:.4g}", *bits, winner, text]) + " |")
    if ratios:
        lines.append(
            "| "
            + " | ".join(["geometric mean", "", *[""] * len(codecs), "", f"**{geometric_mean(ratios):.2f}**"])
            + " |"
        )
    return "\n".join(lines)


def _bits(result: Measurement | None) -> str:
    if result is None:
        return ""
    return f"{result.bits_per_sample:.3f}" if result.holds else f"**{result.bits_per_sample:.3f} VIOLATED**"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 1 when any error bound was violated."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rate", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the data (default: $XWALLOC_BENCH_DATA or ../shared/data)")
    parser.add_argument("--scene", nargs="+", help="only scenes with one of these texts in their name")
    parser.add_argument("--kind", nargs="+", choices=KINDS, help="only scenes of these kinds")
    parser.add_argument("--peers-only", action="store_true", help="leave xwalloc out")
    parser.add_argument(
        "--cache", type=Path, default=HERE / ".cache", help="folder that keeps the results of the peers"
    )
    parser.add_argument("--output", type=Path, default=HERE / "out" / "rate.json")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    cache = Cache(options.cache)
    results: list[Measurement | None] = []
    for scene in load_scenes(data_root(options.data), options.scene, options.kind):
        for bound in scene.bounds:
            logger.info("%s at %.4g", scene.name, bound)
            results += [cache.measure(peer, scene, bound) for peer in PEERS]
            if not options.peers_only:
                results.append(measure(xwalloc_codec(scene, bound), scene, bound))
    if not results:
        parser.error(f"no such scene in {data_root(options.data) or 'what tensorly ships: indian-pines'}")
    found = [result for result in results if result is not None]
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps([asdict(result) for result in found], indent=1) + "\n")
    print(markdown(found))
    return 0 if all(result.holds for result in found) else 1


if __name__ == "__main__":
    sys.exit(main())
