"""Chunks of any size from a scene, for benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def mosaic(cube: NDArray[Any], side: int, bands: int, chunks: int) -> Iterator[NDArray[np.float32]]:
    """Chunks (band, y, x) of a cube (band, y, x) repeated as mirror images."""
    rng = np.random.default_rng(0)
    rows, columns = cube.shape[1:]
    if bands <= len(cube):
        chosen = np.linspace(0, len(cube) - 1, bands).round().astype(int)
    else:
        chosen = mirrored(np.arange(bands), len(cube))
    some = cube[chosen].astype(np.float32)
    for _ in range(chunks):
        first, left = (int(n) for n in rng.integers(0, 1000, 2))
        y, x = (np.arange(start, start + side) for start in (first, left))
        yield np.ascontiguousarray(some[:, mirrored(y, rows)][:, :, mirrored(x, columns)])


def mirrored(places: NDArray[Any], size: int) -> NDArray[Any]:
    """Places of an axis of some size that goes on as mirror images of itself."""
    places = places % (2 * size)
    return np.minimum(places, 2 * size - 1 - places)
