"""Where the time of one chunk goes: seconds of the stages of encoding and decoding, in one thread.

Beside them, the least that the same core needs for a stage's arithmetic on matrices and for moving its data through
memory once (the roofline): products at the speed of a large matrix product, bytes at that of a large copy.

.. code-block:: shell

    python -m benchmarks.stages    # results/stages.json and a table
"""

from __future__ import annotations

import functools
import json
import time
import timeit
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks.scenes import data_root, results_folder
from benchmarks.speed import RANGE_FRACTIONS, mosaics
from xwalloc.codec import bound, chunk, places, transform_sections
from xwalloc.codec.chunk import ChunkCodec
from xwalloc.codec.config import CodecConfig
from xwalloc.models import linear
from xwalloc.models import samples as chunk_samples
from xwalloc.models.samples import HostSamples
from xwalloc.models.spec import Grid
from xwalloc.settings import settings

REPEATS = 5
KLT_FLOPS = 9
"""Operations of an eigendecomposition with vectors, in cubes of the number of channels."""
STAGES: dict[str, tuple[tuple[Any, str], ...]] = {
    "survey": ((chunk, "survey"),),
    "covariance and KLT": ((HostSamples, "moments"), (linear.spectral, "klt")),
    "choice of quantum and rank": ((linear, "choose"),),
    "projection": ((chunk_samples, "project"),),
    "wavelet": ((Grid, "forward"), (Grid, "inverse")),
    "quantiser": ((HostSamples, "_symbols"), (linear.q, "dequantise")),
    "products with the basis": ((linear, "products"),),
    "residuals and samples": ((bound.Finish, "residuals"), (bound.Finish, "samples"), (bound, "misses")),
    "coding of latents": ((places, "encode_latents"), (transform_sections, "_decode_latents")),
    "coding of residuals": ((places, "encode_residuals"), (transform_sections, "decode_residuals")),
}


def work(cube: NDArray[np.float32], rank: int, direction: str) -> dict[str, tuple[float, float]]:
    """Operations on matrices, and bytes that have to be read or written, of the stages of a chunk of float32."""
    samples, channels, pixels = cube.size, len(cube), cube[0].size
    latents, product = rank * pixels, 2.0 * samples * rank
    coding = {  # residuals are read or written; symbols and their contexts pass through memory once more in encoding
        "encode": (0.0, 4.0 * samples + 2 * 6.0 * samples),
        "decode": (0.0, 4.0 * samples),
    }
    common = {
        "products with the basis": (product, 8.0 * latents),
        "coding of residuals": coding[direction],
        "residuals and samples": (0.0, 8.0 * samples),
    }
    if direction == "decode":
        return common | {"wavelet": (0.0, 4 * 8.0 * latents), "quantiser": (0.0, 12.0 * latents)}
    # Half of COVARIANCE_SAMPLES pixels are taken of a chunk this large.
    covariance = float(channels * channels * chunk_samples.COVARIANCE_SAMPLES) + KLT_FLOPS * float(channels) ** 3
    return common | {
        "survey": (0.0, 4.0 * samples),
        "covariance and KLT": (covariance, 2.0 * channels * chunk_samples.COVARIANCE_SAMPLES),
        "projection": (product, 4.0 * samples + 8.0 * latents),
        "wavelet": (0.0, 2 * 4 * 8.0 * latents),  # and once more, back, for what the decoder will have
        "quantiser": (0.0, 2 * 12.0 * latents),
    }


def core() -> tuple[float, float]:
    """Operations per second of a product of float64 matrices, and bytes per second that a copy reads and writes."""
    left, right, out = np.ones((200, 200)), np.ones((200, 65536)), np.empty((200, 65536))
    product = min(timeit.repeat(lambda: np.matmul(left, right, out=out), number=1, repeat=REPEATS))
    copied = min(timeit.repeat(lambda: np.copyto(out, right), number=1, repeat=REPEATS))
    return 2 * left.size * right.shape[1] / product, 2 * right.nbytes / copied


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


def rank_of(codec: ChunkCodec, cube: NDArray[np.float32]) -> int:
    """Latents of a chunk."""
    ranks: list[int] = []
    products = linear.products
    with patch.object(linear, "products", lambda model, *rest: ranks.append(model.rank) or products(model, *rest)):
        codec.encode(cube)
    return ranks[0]


def main() -> None:
    results = []
    with settings.set(threads=1), threadpool_limits(1, "blas"):
        flops_per_second, bytes_per_second = core()
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
                least = {
                    stage: flops / flops_per_second + moved / bytes_per_second
                    for stage, (flops, moved) in work(cube, rank_of(codec, cube), direction).items()
                }
                seconds = measure(run)
                results.append({"mosaic": name, "direction": direction, "seconds": seconds, "roofline": least})
                print(name, direction)
                for stage, value in seconds.items():
                    print(f"  {stage:30} {1e3 * value:6.1f} ms, at least {1e3 * least.get(stage, 0):5.1f}")
    report = {"flops_per_second": flops_per_second, "bytes_per_second": bytes_per_second, "chunks": results}
    (results_folder(data_root()) / "stages.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
