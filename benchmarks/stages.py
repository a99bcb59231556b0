"""Where the time of one chunk goes: CPU seconds of the stages of encoding and decoding, in one thread.

.. code-block:: shell

    python -m benchmarks.stages    # results/stages.json and a table
"""

from __future__ import annotations

import functools
import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks.scenes import data_root, results_folder
from benchmarks.speed import RANGE_FRACTIONS, mosaics
from xwalloc.codec import bound, chunk, transform_mode
from xwalloc.codec.chunk import ChunkCodec
from xwalloc.codec.config import CodecConfig
from xwalloc.models import linear
from xwalloc.models.spec import Grid
from xwalloc.settings import settings

REPEATS = 5
STAGES: dict[str, tuple[tuple[Any, str], ...]] = {
    "survey": ((chunk, "survey"),),
    "covariance and KLT": ((linear, "_means_and_covariance"), (linear.spectral, "klt")),
    "choice of quantum and rank": ((linear, "choose"),),
    "projection": ((linear, "project"),),
    "wavelet": ((Grid, "forward"), (Grid, "inverse")),
    "quantiser": ((linear, "_quantise"), (linear.q, "dequantise")),
    "products with the basis": ((linear, "products"),),
    "residuals and samples": ((bound.Finish, "residuals"), (bound.Finish, "samples"), (bound, "misses")),
    "coding of latents": ((transform_mode, "_encode_latents"), (transform_mode, "_decode_latents")),
    "coding of residuals": ((transform_mode, "_encode_residuals"), (transform_mode, "_decode_residuals")),
}


@contextmanager
def watched() -> Iterator[dict[str, float]]:
    """Seconds by stage of what is called inside; what a stage calls of another one counts for the outer one only."""
    seconds: dict[str, float] = defaultdict(float)
    inside: list[str] = []
    originals = []

    def wrap(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            inside.append(stage)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                inside.pop()
                if not inside:
                    seconds[stage] += time.perf_counter() - start

        return timed

    for stage, functions in STAGES.items():
        for owner, name in functions:
            originals.append((owner, name, getattr(owner, name)))
            setattr(owner, name, wrap(stage, getattr(owner, name)))
    try:
        yield seconds
    finally:
        for owner, name, function in originals:
            setattr(owner, name, function)


def measure(run: Callable[[], Any]) -> dict[str, float]:
    """Seconds by stage, and of all, of the fastest of some runs."""
    run()
    found = []
    for _ in range(REPEATS):
        with watched() as seconds:
            start = time.perf_counter()
            run()
            whole = time.perf_counter() - start
        found.append({**seconds, "rest": whole - sum(seconds.values()), "all": whole})
    return min(found, key=lambda seconds: seconds["all"])


def main() -> None:
    results = []
    with settings.set(threads=1):
        for name, cube in mosaics(data_root()):
            config = CodecConfig(
                channel_axis=0, signal_axes=(1, 2), max_error=RANGE_FRACTIONS[0] * float(cube.max() - cube.min())
            )
            codec = ChunkCodec(config)
            frame = codec.encode(cube)
            for direction, run in (
                ("encode", functools.partial(codec.encode, cube)),
                ("decode", functools.partial(codec.decode, frame)),
            ):
                results.append({"mosaic": name, "direction": direction, "seconds": measure(run)})
    (results_folder(data_root()) / "stages.json").write_text(json.dumps(results, indent=1) + "\n")
    for result in results:
        print(result["mosaic"], result["direction"], {k: round(1e3 * v, 1) for k, v in result["seconds"].items()})


if __name__ == "__main__":
    main()
