"""Bytes and verified error of one codec on one scene at one bound."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import Codec, Variant
from benchmarks.scenes import Scene

__all__ = ["Measurement", "max_abs_error", "measure"]

SHRINKS = (0.0, 1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
"""By how much the bound given to a peer is tightened until the error that comes back holds."""


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one codec made of one scene.

    Parameters
    ----------
    scene, kind, codec, version, variant : str
        What was measured, and which way to call the codec won.
    bound : float
        The error bound asked for.
    bound_used : float
        The bound given to the codec; below `bound` where it had to be retried.
    bytes : int
        Size of the smallest blob whose error was verified.
    bits_per_sample : float
        ``8 bytes / samples``.
    max_abs_error : float
        Largest absolute error over the valid samples.
    tried : dict
        Bits per sample of every way to call the codec at `bound`, before verification.
    """

    scene: str
    kind: str
    bound: float
    codec: str
    version: str
    variant: str
    bound_used: float
    bytes: int
    bits_per_sample: float
    max_abs_error: float
    tried: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether every sample is inside the bound."""
        return self.max_abs_error <= self.bound


@dataclass(frozen=True, kw_only=True)
class _Trial:
    variant: Variant
    attempt: int
    bound: float
    blob: bytes


def max_abs_error(scene: Scene, decoded: NDArray[np.generic], *, exact_nodata: bool) -> float:
    """Largest absolute error in extended precision; infinite where the form or the nodata are wrong."""
    if decoded.shape != scene.array.shape or decoded.dtype != scene.array.dtype:
        return np.inf
    if exact_nodata and not np.array_equal(decoded[~scene.valid], scene.array[~scene.valid]):
        return np.inf
    wide = np.int64 if scene.array.dtype.kind in "iu" else np.longdouble
    largest = np.max(np.abs(decoded[scene.valid].astype(wide) - scene.array[scene.valid].astype(wide)))
    if np.isnan(largest):
        return np.inf
    return float(largest) if float(largest) >= largest else float(np.nextafter(float(largest), np.inf))


def measure(codec: Codec, scene: Scene, bound: float) -> Measurement | None:
    """Smallest verified result of a codec, or None when it cannot code the scene.

    Every way to call the codec is encoded, then decoded from the smallest on until one holds the bound. A way that
    misses it is tried again at a slightly tighter bound, unless the codec is `strict`.
    """
    array = scene.array if codec.strict else scene.filled
    trials = [
        _Trial(variant=variant, attempt=0, bound=bound, blob=variant.encode(array, bound))
        for variant in codec.variants(scene)
    ]
    tried = {trial.variant.label: _bits(trial.blob, scene) for trial in trials}
    while trials:
        best = min(trials, key=lambda trial: len(trial.blob))
        error = max_abs_error(scene, best.variant.decode(best.blob, best.bound), exact_nodata=codec.strict)
        if error <= bound or codec.strict:
            return Measurement(
                scene=scene.name,
                kind=scene.kind,
                bound=bound,
                codec=codec.name,
                version=codec.version,
                variant=best.variant.label,
                bound_used=best.bound,
                bytes=len(best.blob),
                bits_per_sample=_bits(best.blob, scene),
                max_abs_error=error,
                tried=tried,
            )
        trials.remove(best)
        if best.attempt + 1 < len(SHRINKS):
            tighter = bound * (1 - SHRINKS[best.attempt + 1])
            blob = best.variant.encode(array, tighter)
            trials.append(replace(best, attempt=best.attempt + 1, bound=tighter, blob=blob))
    return None


def _bits(blob: bytes, scene: Scene) -> float:
    return 8 * len(blob) / scene.array.size
