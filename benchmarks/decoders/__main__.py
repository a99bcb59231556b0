"""Command line of the comparison."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import benchmarks.decoders
from benchmarks.decoders.plan import PLANS

OUT = Path(__file__).resolve().parents[1] / "out" / "decoders"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.decoders", description=(benchmarks.decoders.__doc__ or "").splitlines()[0]
    )
    parser.add_argument("part", choices=("prepare", "train", "evaluate"))
    parser.add_argument("--data", nargs="+", choices=PLANS, default=list(PLANS))
    parser.add_argument("--folder", type=Path, default=OUT, help="of scenes and fitted models")
    parser.add_argument("--output", type=Path, help="of trained networks (default: the same folder)")
    parser.add_argument("--device", default="cpu", help="train: of torch")
    parser.add_argument("--seconds", type=float, default=30.0, help="train: for each network")
    options = parser.parse_args(argv)
    output = options.output or options.folder
    # each part needs other packages
    if options.part == "prepare":
        from benchmarks.decoders.data import prepare

        prepare(options.data, options.folder)
    elif options.part == "train":
        from benchmarks.decoders.training import train_all

        train_all(options.data, options.folder, output, options.device, options.seconds)
    else:
        from benchmarks.decoders.evaluation import evaluate

        evaluate(options.data, options.folder, output)
    return 0


if __name__ == "__main__":
    sys.exit(main())
