"""`rate` with tables that have never seen the scene: trained on one half of the scenes, measured on the other.

The two folds keep scenes of one place together. A copy of the package gets the tables of the fold, so that what runs is
what ships but for those two files.

    python -m benchmarks.held_out                    # results/rate.json and the table of `rate`
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Measurement
from benchmarks.rate import HERE, markdown
from benchmarks.scenes import data_root, load_scenes

FIRST_FOLD = (
    "indian-pines", "abu-airport-1", "abu-airport-2", "abu-airport-3", "abu-urban-4", "abu-urban-5", "samson",
    "ledaps-1999", "ledaps-2002", "ecg-100", "eeg", "audio-safari",
)  # fmt: skip


def measure_fold(names: list[str], root: Path, folder: Path) -> list[dict[str, object]]:
    """Train without some scenes in a copy of the package, then measure those."""
    for package in ("xwalloc", "benchmarks"):
        shutil.copytree(
            HERE.parent / package, folder / package, ignore=shutil.ignore_patterns("__pycache__", "results")
        )
    environment = {"XWALLOC_BENCH_DATA": str(root), "PATH": str(Path(sys.executable).parent)}
    output = folder / "rate.json"
    for command in (
        ["benchmarks.train_tables", "--without", *names],
        ["benchmarks.rate", "--cache", str(HERE / ".cache"), "--output", str(output), "--scene", *names],
    ):
        subprocess.run([sys.executable, "-W", "ignore", "-m", *command], cwd=folder, env=environment, check=True,
                       stdout=subprocess.DEVNULL)  # fmt: skip
    return [row for row in json.loads(output.read_text()) if row["scene"] in names]


def main() -> int:
    """Run the command line; the exit status is 1 when any error bound was violated."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.held_out", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE / "results" / "rate.json")
    options = parser.parse_args()
    root = data_root()
    if root is None:
        parser.error("the scenes are not here: set XWALLOC_BENCH_DATA to their folder")
    names = [scene.name for scene in load_scenes(root)]
    results: dict[str, list[dict[str, object]]] = {name: [] for name in names}
    for fold in (list(FIRST_FOLD), [name for name in names if name not in FIRST_FOLD]):
        with tempfile.TemporaryDirectory() as folder:
            for row in measure_fold(fold, root.resolve(), Path(folder)):
                results[str(row["scene"])].append(row)
    rows = [row for name in names for row in results[name]]
    options.output.write_text(json.dumps(rows, indent=1) + "\n")
    found = [Measurement(**row) for row in rows]  # type: ignore[arg-type]
    print(markdown(found))
    return 0 if all(result.holds for result in found) else 1


if __name__ == "__main__":
    sys.exit(main())
