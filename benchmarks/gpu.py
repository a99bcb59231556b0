"""Speed of a CUDA device: transform and entropy coder, device-resident and from host to host, beside the bus.

The cube is AVIRIS Indian Pines, repeated as a mosaic of mirror images, as float32; more than its 200 bands are its
bands again, backwards, and take fewer bits than those of a sensor would. Chunks of a batch are different parts of it.
Samples are counted as bytes of float32. Frames that a device encodes are compared with those of this machine's
processor, and what it decodes, bit for bit, before anything is timed.

Where lattice mode, which a device leaves to the host, takes fewer bytes, it is measured from host to host, and the
device with chunks that had to take transform mode: mode "transform, forced".

Large batches come first, and results are written after each. After ``--minutes`` no other is begun.

.. code-block:: shell

    python -m benchmarks.gpu
    python -m benchmarks.gpu --cases 256x200 --fractions 0.01 --repeats 3
    python -m benchmarks.gpu --cube cube.npy --device cuda:1
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import triton
from numpy.typing import NDArray

from benchmarks.mosaic import mosaic
from xwalloc import settings
from xwalloc.bitstream.frame import DecodeLimits, Frame, Mode
from xwalloc.bitstream.tables import shipped
from xwalloc.codec import chunk as chunk_module
from xwalloc.codec import engine, transform_sections
from xwalloc.codec.chunk import ChunkCodec, decode_frame
from xwalloc.codec.config import CodecConfig
from xwalloc.codec.layout import Layout
from xwalloc.codec.places import codes_of
from xwalloc.codec.resident import decode as decoder
from xwalloc.codec.resident import encode as encoder
from xwalloc.codec.resident import outcome
from xwalloc.codec.resident.job import Job
from xwalloc.codec.resident.sections import latent_section, residual_section
from xwalloc.codec.resident.steps import inverse
from xwalloc.device import coder
from xwalloc.device.memory import download
from xwalloc.models import library

logger = logging.getLogger(__name__)

REPEATS = 7
PATIENCE = 2.0
"""Seconds after which a stage is not repeated again."""
MINUTES = 6.0
FRACTIONS = (0.01, 0.05, 0.001)
"""Bounds, as fractions of the range, the most important first."""
CASES = ((256, 200), (64, 200), (1024, 200), (256, 300), (256, 3), (1024, 3), (256, 32), (64, 3))
"""Side and bands of chunks, the most important first."""
BATCH_BYTES = (1 << 30, 1, 1 << 27)
"""Batches have so many bytes of float32, about, or one chunk."""
MOST_CHUNKS = 64
PROCESSOR_BYTES = 1 << 26
"""Of a batch, so many bytes of float32 are given to the processor, or one chunk."""

MODE_AT = 5
"""Where a frame has its mode."""
TRANSFORM = Mode.TRANSFORM.name.lower()


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Speed of one stage on one batch.

    Parameters
    ----------
    stage : str
    mode : str
        Of the chunks: "transform", "lattice", "stored", several of them, or "transform, forced".
    side, bands, chunks : int
        The batch.
    fraction : float
        Bound, as a fraction of the range.
    bits_per_sample : float
        Rate.
    seconds : list of float
        Every repetition.
    gb_per_s : float
        Bytes of float32 samples over the median time, in 1e9.
    """

    stage: str
    mode: str
    side: int
    bands: int
    chunks: int
    fraction: float
    bits_per_sample: float
    seconds: list[float]
    gb_per_s: float


def span_of(chunks: Sequence[NDArray[Any]]) -> float:
    """Largest difference between samples of some chunks."""
    return float(max(chunk.max() for chunk in chunks)) - float(min(chunk.min() for chunk in chunks))


def count_of(nbytes: int, side: int, bands: int) -> int:
    """Chunks of a batch of so many bytes of float32, about."""
    return max(1, min(MOST_CHUNKS, nbytes // (4 * side * side * bands)))


def timed(work: Callable[[], object], repeats: int, *, warm: bool = True) -> list[float]:
    """Seconds of each of some calls, after one that does not count; the device is waited for.

    Fewer than asked for, but one, where they take long.
    """
    found: list[float] = []
    for index in range(repeats + warm):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        if index >= warm:
            found.append(time.perf_counter() - start)
            if sum(found) > PATIENCE:
                break
    return found


@contextmanager
def transform_mode_only() -> Iterator[None]:
    """Have chunks take transform mode, whether that is best or not."""
    original = chunk_module.draft_of
    chunk_module.draft_of = lambda *_: None
    try:
        yield
    finally:
        chunk_module.draft_of = original


class Batch:
    """Chunks (band, y, x) of one shape, and what their stages need."""

    def __init__(self, chunks: Sequence[NDArray[np.float32]], fraction: float, threads: int) -> None:
        self.chunks, self.fraction = chunks, fraction
        self.bands, self.side, _ = chunks[0].shape
        self.config = CodecConfig(
            channel_axis=0, signal_axes=(1, 2), max_error=fraction * span_of(chunks), profile="parallel"
        )
        self.codec = ChunkCodec(self.config)
        with ThreadPoolExecutor(threads) as pool:
            self.frames = list(pool.map(self.codec.encode, self.chunks))
        self.nbytes = sum(chunk.nbytes for chunk in self.chunks)
        self.bits = 8 * sum(map(len, self.frames)) / (self.nbytes // 4)
        self.device = torch.device(engine.device())
        self.mode = " and ".join(sorted({Mode(frame[MODE_AT]).name.lower() for frame in self.frames}))

    def jobs(self) -> list[Job]:
        """Frames, taken apart."""
        found = []
        for frame in self.frames:
            parsed = Frame.parse(frame, DecodeLimits(max_bytes=2**34))
            layout = Layout(parsed.header.shape, parsed.header.roles)
            contents = transform_sections.read(
                parsed.sections, layout.canonical, layout.dimensions, partial(library.find, reference=None)
            )
            whole = tuple(slice(0, n) for n in parsed.header.shape)
            none = np.empty(0, np.int64)
            job = Job.of(contents, layout, whole, np.empty(0, np.float32), None, (), none, none.astype("u4"))
            found.append(job)
        return found

    def timing(self, stage: str, seconds: list[float]) -> Timing:
        """The result of a stage."""
        speed = self.nbytes / statistics.median(seconds) / 1e9
        logger.info("%-34s %4d x %3d, %3d chunks, %.3f, %s: %7.2f GB/s", stage, self.side, self.bands,
                    len(self.chunks), self.fraction, self.mode, speed)  # fmt: skip
        return Timing(
            stage=stage, mode=self.mode, side=self.side, bands=self.bands, chunks=len(self.chunks),
            fraction=self.fraction, bits_per_sample=self.bits, seconds=seconds, gb_per_s=speed,
        )  # fmt: skip


def check(batch: Batch) -> None:
    """Bytes and values are those of a CPU."""
    with settings.set({"device": "cpu"}):
        expected = batch.codec.encode(batch.chunks[0])
        values = decode_frame(batch.frames[-1])
    if batch.frames[0] != expected:
        raise SystemExit("The device and the processor encode different bytes.")
    if decode_frame(batch.frames[-1]).tobytes() != values.tobytes():
        raise SystemExit("The device and the processor decode different values.")


def decoding(batch: Batch, repeats: int) -> Iterator[Timing]:
    """Stages of decoding."""
    device, jobs = batch.device, batch.jobs()
    yield batch.timing("decode, parsing on the host", timed(batch.jobs, repeats))

    def whole_batch() -> None:
        made = decoder.decode(device, jobs)
        (numbers,) = download(made.numbers)
        if not all(made.verdict(index, numbers) for index in range(len(jobs))):
            raise SystemExit("A chunk has to be decoded alone.")

    yield batch.timing("decode, device-resident", timed(whole_batch, repeats))
    sizes = [np.prod(job.latent_shape) for job in jobs] + [job.residual_size for job in jobs]
    starts = np.cumsum([0, *sizes])
    values = torch.zeros(int(starts[-1]), dtype=torch.int32, device=device)
    sections = [
        section.placed(int(at), None)
        for index, job in enumerate(jobs)
        for section, at in zip(job.sections, (starts[index], starts[len(jobs) + index]), strict=False)
    ]
    streams = [found for job in jobs for found in job.streams]
    yield batch.timing("decode, entropy coder", timed(lambda: coder.decode(sections, streams, values), repeats))
    symbols = [values[a:b].view(job.latent_shape) for a, b, job in zip(starts, starts[1:], jobs, strict=False)]
    models, none = [job.contents.model for job in jobs], [None] * len(jobs)
    bounds = [decoder.certain(model.grid, model.filter_shift) for model in models]
    yield batch.timing("decode, wavelet", timed(lambda: inverse(models, symbols, none, bounds), repeats))
    latents, _ = inverse(models, symbols, none)
    rest = [values[a:b] for a, b in zip(starts[len(jobs) :], starts[len(jobs) + 1 :], strict=False)]

    def to_samples() -> None:
        for job, made in zip(jobs, decoder.samples_of(jobs, latents, rest), strict=True):
            decoder.restored(job, made, None)

    yield batch.timing("decode, products and samples", timed(to_samples, repeats))

    def transform() -> None:
        found, _ = inverse(models, symbols, none, bounds)
        for job, made in zip(jobs, decoder.samples_of(jobs, found, rest), strict=True):
            decoder.restored(job, made, None)

    yield batch.timing("decode, transform path", timed(transform, repeats))


def encoding(batch: Batch, repeats: int) -> Iterator[Timing]:
    """Stages of encoding, each with what the one before it made; samples are on the device beforehand."""
    device = batch.device
    works = {name: getattr(encoder, name) for name in ("moments", "trials", "quantise", "attempt")}
    asked: dict[str, list[Any]] = {name: [] for name in works}

    def watched(name: str, device: torch.device, items: list[Any]) -> Any:
        asked[name] += items
        return works[name](device, items)

    try:
        for name in works:
            setattr(encoder, name, partial(watched, name))
        for chunk in batch.chunks:
            batch.codec.encode(chunk)
    finally:
        for name, work in works.items():
            setattr(encoder, name, work)
    stages = {name: partial(work, device, asked[name]) for name, work in works.items()}
    tried = asked["attempt"]
    yield batch.timing("encode, moments", timed(stages["moments"], repeats))
    yield batch.timing("encode, trials in windows", timed(stages["trials"], repeats))
    yield batch.timing("encode, projection to symbols", timed(stages["quantise"], repeats))
    yield batch.timing("encode, synthesis to bytes", timed(stages["attempt"], repeats))
    latents_of, _ = inverse(
        [item.model for item in tried], [item.symbols.values for item in tried], [None] * len(tried)
    )
    looked = outcome.looked_at(device, tried, latents_of)
    values = [item.symbols.values.reshape(-1) for item in tried]
    starts = np.cumsum([0, *map(len, values)]).tolist()
    sections = [
        latent_section(item.model, len(item.symbols.values), shipped(), at)
        for item, at in zip(tried, starts, strict=False)
    ]
    if looked.residuals is not None and looked.sums is not None:
        values.append(looked.residuals.view(-1))
        size = tried[0].place.samples.size
        for index, (item, sums) in enumerate(zip(tried, looked.sums.cpu().numpy(), strict=True)):
            codes = codes_of([sums], item.place.samples[:, 0].size)
            if codes is not None:
                sections.append(
                    residual_section(item.place.shape, codes, 2, shipped(), starts[-1] + index * size, None)
                )
    flat = torch.cat(values)
    yield batch.timing("encode, entropy coder", timed(lambda: coder.encode(sections, flat), repeats))

    def coding() -> None:
        for name in ("quantise", "attempt"):
            stages[name]()

    yield batch.timing("encode, device-resident", timed(coding, repeats))

    def with_fit() -> None:
        stages["moments"]()
        stages["trials"]()
        coding()

    yield batch.timing("encode, device-resident with fit", timed(with_fit, repeats))

    def transform() -> None:
        stages["quantise"]()
        found, _ = inverse([item.model for item in tried], [item.symbols.values for item in tried], [None] * len(tried))
        outcome.looked_at(device, tried, found)

    yield batch.timing("encode, transform path", timed(transform, repeats))


def whole(batch: Batch, repeats: int, threads: int) -> Iterator[Timing]:
    """From host memory to host memory, several chunks at a time; with the device, and with two cores instead.

    Everything has been encoded before, and one chunk by the processor.
    """
    for stage, work, items, warm in (
        ("encode, host to host", batch.codec.encode, batch.chunks, False),
        ("decode, host to host", decode_frame, batch.frames, True),
    ):
        with ThreadPoolExecutor(threads) as pool:
            yield batch.timing(stage, timed(partial(_all, pool, work, items), repeats, warm=warm))
        few = items[: max(1, PROCESSOR_BYTES // batch.chunks[0].nbytes)]
        with ThreadPoolExecutor(2) as pool, settings.set({"device": "cpu", "threads": 2}):
            seconds = timed(partial(_all, pool, work, few), 1, warm=False)
        yield batch.timing(f"{stage}, two cores", [one * len(items) / len(few) for one in seconds])


def _all(pool: ThreadPoolExecutor, work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return list(pool.map(work, items))


def copies(device: torch.device) -> dict[str, float]:
    """What bus and memory move, in GB/s."""
    here = torch.empty(1 << 29, dtype=torch.uint8, pin_memory=True)
    there = torch.empty(1 << 29, dtype=torch.uint8, device=device)
    other = torch.empty_like(there)
    found = {
        "host to device": lambda: there.copy_(here, non_blocking=True),
        "device to host": lambda: here.copy_(there, non_blocking=True),
        "within the device, read and written": lambda: other.copy_(there),
    }
    factors = {"within the device, read and written": 2}
    return {
        name: factors.get(name, 1) * here.numel() / statistics.median(timed(work, 9)) / 1e9
        for name, work in found.items()
    }


def plan_of(cases: Sequence[tuple[int, int]], fractions: Sequence[float]) -> list[tuple[tuple[int, int], float, int]]:
    """Case, bound and number of chunks of every batch, the most important first."""
    plan = [
        (case, fraction, count_of(nbytes, *case)) for nbytes in BATCH_BYTES for fraction in fractions for case in cases
    ]
    return list(dict.fromkeys(plan))


def measured(batch: Batch, repeats: int, threads: int) -> Iterator[Timing]:
    """All stages of a batch."""
    check(batch)
    yield from whole(batch, repeats, threads)
    if batch.mode == TRANSFORM:
        yield from decoding(batch, repeats)
        yield from encoding(batch, repeats)
        return
    with transform_mode_only():
        forced = Batch(batch.chunks, batch.fraction, threads)
        if forced.mode != TRANSFORM:
            logger.info("Some chunks of %d x %d x %d cannot take transform mode.", batch.bands, batch.side, batch.side)
            return
        check(forced)
        forced.mode = f"{TRANSFORM}, forced"
        yield from decoding(forced, repeats)
        yield from encoding(forced, repeats)


def run(
    cube: NDArray[Any], cases: Sequence[tuple[int, int]], fractions: Sequence[float], repeats: int, threads: int,
    minutes: float = MINUTES,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """All timings so far, after each batch."""
    start = time.monotonic()
    device = torch.device(engine.device())
    timings: list[Timing] = []
    failed: list[dict[str, Any]] = []
    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device), "torch": torch.__version__, "triton": triton.__version__,
        "threads": threads, "copies": copies(device),
    }  # fmt: skip
    for name, speed in found["copies"].items():
        logger.info("%s: %.1f GB/s", name, speed)
    plan = plan_of(cases, fractions)
    for index, ((side, bands), fraction, chunks) in enumerate(plan):
        if time.monotonic() - start > 60 * minutes:
            logger.warning("%d of %d batches were not begun within %g minutes.", len(plan) - index, len(plan), minutes)
            return
        try:
            batch = Batch(list(mosaic(cube, side, bands, chunks)), fraction, threads)
            timings.extend(measured(batch, repeats, threads))
        except Exception as error:  # too little memory, say: the others are measured all the same
            logger.exception("%d chunks of %d x %d x %d at %g failed.", chunks, bands, side, side, fraction)
            failed.append({"side": side, "bands": bands, "chunks": chunks, "fraction": fraction, "error": repr(error)})
        yield {**found, "timings": [asdict(timing) for timing in timings], "failed": failed}


def parse_case(text: str) -> tuple[int, int]:
    side, bands = (int(part) for part in text.split("x"))
    return side, bands


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cube", type=Path, help=".npy file (band, y, x) instead of Indian Pines")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cases", nargs="+", default=CASES, type=parse_case, metavar="256x200", help="side x bands")
    parser.add_argument("--fractions", nargs="+", default=FRACTIONS, type=float, help="bounds by the range")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--minutes", type=float, default=MINUTES, help="after which no other batch is begun")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "gpu.json")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.cube:
        cube = np.load(options.cube)
    else:
        from benchmarks.scenes import indian_pines

        cube = indian_pines(None)
    with settings.set({"device": options.device}):
        for found in run(cube, options.cases, options.fractions, options.repeats, options.threads, options.minutes):
            options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
