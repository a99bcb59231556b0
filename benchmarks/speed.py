"""Throughput and memory of xwalloc beside zfp and SZ3 on mosaics of about 50 MB at bounds of 0.5 and 0.05 % of their
range.

All codecs run in one process, in turn, after a warm-up, with the threads they use by default, xwalloc also with one
thread; every error is verified. Memory is measured once per codec in a fresh process.

.. code-block:: shell

    python -m benchmarks.speed --repeats 9
    python -m benchmarks.speed --peers-only
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import zfpy
from numpy.typing import NDArray
from pysz import sz, szConfig, szErrorBoundMode
from threadpoolctl import threadpool_info

from benchmarks.scenes import data_root, indian_pines, matlab_cube, results_folder

__all__ = ["Timing", "main", "markdown", "mosaics"]

logger = logging.getLogger(__name__)

SIDE = 256
RANGE_FRACTIONS = (0.005, 0.0005)
REFERENCES = {"encode": "zfp", "decode": "SZ3"}
"""The codec that the speed of xwalloc is divided by."""

Cube = NDArray[np.float32]
Coder = tuple[Callable[[Cube], Any], Callable[[Any], NDArray[Any]]]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Speed of one codec on one mosaic.

    Parameters
    ----------
    mosaic, codec : str
        What was timed.
    shape : tuple of int
        Shape of the float32 mosaic.
    fraction, bound, max_abs_error : float
        The error bound asked for, as a fraction of the range and in units of the mosaic, and the error found.
    bits_per_sample : float
        Rate at that bound.
    encode_seconds, decode_seconds : list of float
        Every repetition.
    encode_gb_per_s, decode_gb_per_s : float
        Bytes of the mosaic over the median time, in 1e9 bytes per second.
    peak_rss_mb : float or None
        Memory above that of the loaded mosaic in one encode and decode, in 1e6 bytes; None where it cannot be read.
    """

    mosaic: str
    codec: str
    shape: tuple[int, ...]
    fraction: float
    bound: float
    max_abs_error: float
    bits_per_sample: float
    encode_seconds: list[float]
    decode_seconds: list[float]
    encode_gb_per_s: float
    decode_gb_per_s: float
    peak_rss_mb: float | None


def mosaics(root: Path | None) -> Iterator[tuple[str, Cube]]:
    """(band, y, x) cubes of 256 x 256 pixels from real scenes.

    ``indian-pines`` has 200 bands, its 145 x 145 pixels are continued by mirror reflection. ``abu`` puts four scenes in
    the four corners, each cropped or mirrored to 128 x 128, with the first 188 bands of each (the scenes keep 188 to
    205 bands, so 200 common ones do not exist).
    """
    yield "indian-pines", _fit(indian_pines(root), SIDE)
    if root is not None:
        bands, folder = 188, root / "hyperspectral"
        corners = [
            [_fit(matlab_cube(folder / f"abu-{site}.mat")[:bands], SIDE // 2) for site in row]
            for row in (("airport-1", "beach-1"), ("urban-1", "urban-4"))
        ]
        yield "abu", np.concatenate([np.concatenate(row, axis=2) for row in corners], axis=1)


def _fit(cube: NDArray[Any], side: int) -> Cube:
    missing = [max(side - length, 0) for length in cube.shape[1:]]
    padded = np.pad(cube, ((0, 0), *((0, width) for width in missing)), mode="reflect")
    return np.ascontiguousarray(padded[:, :side, :side], np.float32)


def _zfp(shape: tuple[int, ...], bound: float) -> Coder:
    return lambda cube: zfpy.compress_numpy(cube, tolerance=bound), zfpy.decompress_numpy


def _sz3(shape: tuple[int, ...], bound: float) -> Coder:
    config = szConfig(shape)
    config.errorBoundMode, config.absErrorBound = szErrorBoundMode.ABS, bound
    return lambda cube: sz.compress(cube, config)[0], lambda blob: sz.decompress(blob, np.float32, shape)[0]


def _xwalloc(shape: tuple[int, ...], bound: float) -> Coder:
    from xwalloc.codec.chunk import ChunkCodec
    from xwalloc.codec.config import CodecConfig

    codec = ChunkCodec(CodecConfig(channel_axis=0, signal_axes=(1, 2), max_error=bound))
    return codec.encode, codec.decode


def _xwalloc_in_one_thread(shape: tuple[int, ...], bound: float) -> Coder:
    from xwalloc.settings import settings

    encode, decode = _xwalloc(shape, bound)

    def in_one_thread(coder: Callable[[Any], Any], argument: Any) -> Any:
        with settings.set(threads=1):
            return coder(argument)

    return partial(in_one_thread, encode), partial(in_one_thread, decode)


CODERS: dict[str, Callable[[tuple[int, ...], float], Coder]] = {
    "xwalloc": _xwalloc,
    "xwalloc, one thread": _xwalloc_in_one_thread,
    "zfp": _zfp,
    "SZ3": _sz3,
}


def time_mosaic(name: str, cube: Cube, fraction: float, codecs: Sequence[str], repeats: int) -> list[Timing]:
    """Time every codec on a mosaic, one after the other within each repetition."""
    bound = fraction * float(np.ptp(cube))
    coders = {codec: CODERS[codec](cube.shape, bound) for codec in codecs}
    seconds: dict[str, list[tuple[float, float]]] = {codec: [] for codec in codecs}
    bits, errors = {}, {}
    for codec, (encode, decode) in coders.items():
        blob = encode(cube)
        bits[codec] = 8 * len(blob) / cube.size
        errors[codec] = float(np.max(np.abs(decode(blob).astype(np.float64) - cube)))
    for repeat in range(repeats):
        logger.info("%s at %g, repetition %d of %d", name, fraction, repeat + 1, repeats)
        for codec, (encode, decode) in coders.items():
            start = time.perf_counter()
            blob = encode(cube)
            middle = time.perf_counter()
            decode(blob)
            seconds[codec].append((middle - start, time.perf_counter() - middle))
    return [
        Timing(
            mosaic=name,
            codec=codec,
            shape=cube.shape,
            fraction=fraction,
            bound=bound,
            max_abs_error=errors[codec],
            bits_per_sample=bits[codec],
            encode_seconds=[encode for encode, _ in seconds[codec]],
            decode_seconds=[decode for _, decode in seconds[codec]],
            encode_gb_per_s=cube.nbytes / 1e9 / statistics.median(encode for encode, _ in seconds[codec]),
            decode_gb_per_s=cube.nbytes / 1e9 / statistics.median(decode for _, decode in seconds[codec]),
            peak_rss_mb=peak_rss(codec, cube, bound),
        )
        for codec in codecs
    ]


def peak_rss(codec: str, cube: Cube, bound: float) -> float | None:
    """Memory that one encode and decode add in a fresh process, in 1e6 bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cube.npy"
        np.save(path, cube)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return pool.submit(_peak_rss_here, codec, path, bound).result()


def _peak_rss_here(codec: str, path: Path, bound: float) -> float | None:
    cube = np.load(path)
    corner = np.ascontiguousarray(cube[:, :64, :64])
    encode, decode = CODERS[codec](corner.shape, bound)
    decode(encode(corner))
    encode, decode = CODERS[codec](cube.shape, bound)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of imports and compilation
    before = _status_mb("VmRSS")
    decoded = decode(encode(cube))
    peak = _status_mb("VmHWM")
    del decoded
    return None if before is None or peak is None else peak - before


def _blas() -> str:
    """The BLAS of NumPy and the kernels that it chose for this processor."""
    found = [entry for entry in threadpool_info() if entry["user_api"] == "blas"]
    return ", ".join(sorted({f"{entry['internal_api']} {entry.get('architecture', '')}".strip() for entry in found}))


def _status_mb(field: str) -> float | None:
    with suppress(OSError):
        match = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        return int(match[1]) * 1024 / 1e6 if match else None
    return None


def markdown(timings: Sequence[Timing]) -> str:
    """One row per mosaic and codec; the ratios are speeds over zfp (encode) and SZ3 (decode)."""
    lines = [
        "| mosaic | bound/range | codec | bits/sample | encode GB/s | decode GB/s | encode/zfp | decode/SZ3 | RSS MB |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for timing in timings:
        beside = {
            other.codec: other
            for other in timings
            if (other.mosaic, other.fraction) == (timing.mosaic, timing.fraction)
        }
        encode = _ratio(timing.encode_gb_per_s, beside.get(REFERENCES["encode"]), "encode_gb_per_s")
        decode = _ratio(timing.decode_gb_per_s, beside.get(REFERENCES["decode"]), "decode_gb_per_s")
        bits = f"{timing.bits_per_sample:.3f}" + ("" if timing.max_abs_error <= timing.bound else " VIOLATED")
        memory = "" if timing.peak_rss_mb is None else f"{timing.peak_rss_mb:.0f}"
        speeds = f"{timing.encode_gb_per_s:.3f} | {timing.decode_gb_per_s:.3f}"
        where = f"{timing.mosaic} | {timing.fraction:g}"
        lines.append(f"| {where} | {timing.codec} | {bits} | {speeds} | {encode} | {decode} | {memory} |")
    return "\n".join(lines)


def _ratio(speed: float, reference: Timing | None, field: str) -> str:
    return "" if reference is None else f"{speed / getattr(reference, field):.2f}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; the exit status is 1 when any error bound was violated."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speed", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder of the data (default: $XWALLOC_BENCH_DATA or ../shared/data)")
    parser.add_argument("--repeats", type=int, default=7, help="timed repetitions after the warm-up")
    parser.add_argument("--peers-only", action="store_true", help="leave xwalloc out")
    parser.add_argument("--output", type=Path, help="default: speed.json in benchmarks/results, or in benchmarks/out")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)

    codecs = [codec for codec in CODERS if not (options.peers_only and codec.startswith("xwalloc"))]
    root = data_root(options.data)
    output = options.output or results_folder(None if options.peers_only else root) / "speed.json"
    timings = [
        timing
        for name, cube in mosaics(root)
        for fraction in RANGE_FRACTIONS
        for timing in time_mosaic(name, cube, fraction, codecs, options.repeats)
    ]
    machine = {
        "cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version(), "blas": _blas(),
    }  # fmt: skip
    report = {"machine": machine, "timings": [asdict(timing) for timing in timings]}
    output.write_text(json.dumps(report, indent=1) + "\n")
    print(markdown(timings))
    return 0 if all(timing.max_abs_error <= timing.bound for timing in timings) else 1


if __name__ == "__main__":
    sys.exit(main())
