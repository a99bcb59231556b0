"""Seconds from an empty process to the first decoded chunk: with kernels in numba's cache, and with nothing compiled.

python -m benchmarks.start
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.scenes import data_root, indian_pines
from xwalloc.codec.chunk import ChunkCodec
from xwalloc.codec.config import CodecConfig

CODE = """
import sys, time
start = time.perf_counter()
import numcodecs
codec = numcodecs.get_codec({"id": "xwalloc", "channel_axis": 0, "signal_axes": [1, 2], "max_error": 1})
codec.decode(open(sys.argv[1], "rb").read())
print(time.perf_counter() - start)
"""


def seconds(frame: Path, **environment: str) -> float:
    """Seconds that a fresh process takes, imports included."""
    command = [sys.executable, "-W", "ignore", "-c", CODE, str(frame)]
    done = subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True, text=True)
    return float(done.stdout)


def main() -> None:
    cube = np.ascontiguousarray(indian_pines(data_root()))
    for mode, bound in (("lattice", 8.0), ("transform", 64.0)):
        with tempfile.TemporaryDirectory() as folder:
            frame = Path(folder) / "frame"
            config = CodecConfig(channel_axis=0, signal_axes=(1, 2), max_error=bound)
            frame.write_bytes(ChunkCodec(config).encode(cube))
            cold = seconds(frame, NUMBA_CACHE_DIR=str(Path(folder) / "cache"))
            seconds(frame)
            print(f"{mode}: cold {cold:.1f} s, warm {min(seconds(frame) for _ in range(3)):.2f} s")


if __name__ == "__main__":
    main()
