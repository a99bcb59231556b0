"""What the examples find on real recordings, for docs/examples.md.

python -m benchmarks.examples     # results/examples.json; some minutes
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from benchmarks.scenes import data_root, results_folder
from examples import audio, biosignals, land_cover

SEEDS = 3
SOUNDS = ("guit_em9", "loop_garzul", "ambi_haunted_hum")
RECORDINGS = {"ECG": "100.hea", "EEG": "EEG_Eye_State_Classification.csv"}


def finite(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows that JSON can hold: None for the SNR of what is exact."""
    return [row | {"snr": row["snr"] if math.isfinite(row["snr"]) else None} for row in rows]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the recordings; without one, the examples make their own")
    root = data_root(parser.parse_args(argv).data)
    sounds = {name: root / "audio" / f"{name}.flac" for name in SOUNDS} if root else {"synthetic chord": None}
    recordings = {name: root / "timeseries" / file for name, file in RECORDINGS.items()} if root else {"ECG": None}
    results = {
        "audio": {name: finite(audio.measure(path)) for name, path in sounds.items()},
        "biosignals": {name: biosignals.measure(path) for name, path in recordings.items()},
        "land_cover": land_cover.measure(seeds=SEEDS),
    }
    (results_folder(root) / "examples.json").write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
