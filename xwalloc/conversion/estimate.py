"""What a conversion would give, from a sample of its units; nothing is written."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Any

from xwalloc.codec import engine
from xwalloc.codec.chunk import ChunkCodec
from xwalloc.codec.config import CodecConfig
from xwalloc.conversion.memory import Projection, project
from xwalloc.conversion.plan import ArrayPlan, Plan
from xwalloc.conversion.workers import Worker
from xwalloc.errors import ConfigError
from xwalloc.models import library

__all__ = ["Estimate", "estimate"]

SAMPLES = 3
"""Chunks of each array that are encoded."""

MOST_ARRAYS = 24
"""Arrays that chunks are encoded of: those of most bytes."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A plan with what it will probably give.

    Parameters
    ----------
    plan, projection
        The plan, and the memory of a worker.
    workers, gpus
        Workers of the cluster, and those that offer GPUs.
    stored
        Bytes of the store, estimated; NaN where nothing was sampled.
    max_error
        Largest error of the sample by path, as stored; None where there is no bound.
    rate
        Bytes of samples that one process encodes in a second.
    sampled
        Chunks that were encoded.
    """

    plan: Plan
    projection: Projection
    workers: int
    gpus: int
    stored: float
    max_error: dict[str, float | None]
    rate: float
    sampled: int

    def facts(self) -> dict[str, Any]:
        """The same in JSON types."""
        return {
            **self.plan.description, "units": self.plan.count, "nbytes": self.plan.nbytes, "stored": self.stored,
            "ratio": self.plan.nbytes / self.stored, "max_error": self.max_error, "sampled": self.sampled,
            "memory_per_worker": self.projection.peak, "workers": self.workers, "gpu_workers": self.gpus,
        }  # fmt: skip

    def rows(self) -> list[tuple[str, str]]:
        """Labels and texts."""
        lines = []
        for array in self.plan.arrays:
            shards = f", shards {array.grid.shards}" if array.grid.shards else ""
            codec = "exact, another codec" if array.config is None else quality(array.config)
            lines.append((array.path, f"{array.dtype} {array.shape}, chunks {array.grid.chunks}{shards}; {codec}"))
        gpus = f", {self.gpus} of them with a GPU" if self.gpus else ""
        seconds = self.plan.nbytes / self.rate if self.rate else float("nan")
        return [
            *lines,
            ("units", f"{self.plan.count} on {self.workers} worker{'s' * (self.workers != 1)}{gpus}"),
            ("memory", f"{self.projection.peak / 1e6:.0f} MB at most on each worker"),
            ("size", f"about {self.stored / 1e6:.3g} MB of {self.plan.nbytes / 1e6:.3g} MB (ratio "
                     f"{self.plan.nbytes / self.stored:.2f}, chunks alone), from {self.sampled} chunks"),
            ("time", f"about {seconds:.0f} s of encoding in one process like this"),
        ]  # fmt: skip


def quality(config: CodecConfig) -> str:
    """What is promised of an array."""
    found = config.to_json()
    key = next(key for key in ("max_error", "snr", "step", "lossless") if found.get(key))
    return "lossless" if key == "lossless" else f"{key} {found[key]:g}, as stored"


def estimate(plan: Plan, workers: list[Worker]) -> Estimate:
    """Encode chunks that are spread over the arrays.

    Raises
    ------
    ConfigError
        If the sources cannot be read, or memory does not suffice.
    """
    gpus = sum(worker.gpus > 0 for worker in workers)
    projection = project(plan, workers, apart=gpus > 0)
    if plan.model is not None:
        library.add(plan.model)
    arrays = sorted((a for a in plan.arrays if a.config is not None), key=lambda a: -a.nbytes)
    raw = stored = seconds = 0.0
    errors: dict[str, float | None] = {}
    count = 0
    for array in arrays[:MOST_ARRAYS]:
        codec = ChunkCodec(array.config)  # type: ignore[arg-type]
        for place in places(array):
            region = tuple(
                slice(p * size, min((p + 1) * size, n))
                for p, size, n in zip(place, array.grid.chunks, array.shape, strict=True)
            )
            source = plan.granules[array.granule].source
            try:
                values = source.read(array.variable, region)
            except Exception as error:
                raise ConfigError(f"Expected to read a sample of {source.name}. Got {error}.") from error
            if not count:
                engine.run(codec.encode_and_measure, values)  # compiles or loads kernels
            began = time.perf_counter()
            frame, error_found = engine.run(codec.encode_and_measure, values)
            seconds += time.perf_counter() - began
            raw += values.nbytes
            stored += len(frame)
            count += 1
            before = errors.get(array.path)
            errors[array.path] = error_found if before is None else max(before, error_found or 0.0)
    return Estimate(
        plan=plan, projection=projection, workers=len(workers), gpus=gpus,
        stored=plan.nbytes * stored / raw if raw else float("nan"), max_error=errors,
        rate=raw / seconds if seconds else 0.0, sampled=count,
    )  # fmt: skip


def places(array: ArrayPlan) -> list[tuple[int, ...]]:
    """Places of some chunks, the same each time."""
    grid = [-(-n // size) for n, size in zip(array.shape, array.grid.chunks, strict=True)]
    chance = random.Random(array.path)
    return sorted({tuple(chance.randrange(n) for n in grid) for _ in range(SAMPLES)}) if all(grid) else []
