"""Segments: parts of a chunk that are coded independently, so that several threads can work on one chunk.

A chunk is cut along one signal axis into slabs. Contexts and predictions never cross a cut.
"""

from __future__ import annotations

import itertools
import math
import struct
from collections.abc import Sequence

from xwalloc.errors import FormatError
from xwalloc.types import Buffer

__all__ = ["SAMPLES_PER_SEGMENT", "cuts", "pack", "places", "touching", "unpack"]

SAMPLES_PER_SEGMENT = 1 << 20
MAX_SEGMENTS = 64


def cuts(shape: Sequence[int], align: int, samples: int = SAMPLES_PER_SEGMENT) -> tuple[int, list[tuple[int, int]]]:
    """Signal axis along which a chunk is cut, and the slabs.

    Parameters
    ----------
    shape
        Extent (batch, channel, z, y, x) of the chunk in samples.
    align
        Every slab but the last is a multiple of this along the axis.
    samples
        About how many samples a slab should have.

    Returns
    -------
    axis : int
        0, 1 or 2: the first of the three signal axes that is longer than `align`; x where none is.
    slabs : list of (start, stop)
    """
    signal = shape[2:]
    axis = next((a for a in range(3) if signal[a] > align), 2)
    count = min(MAX_SEGMENTS, max(1, math.prod(shape) // samples), max(1, signal[axis] // align))
    edges = [(i * signal[axis] // count) // align * align for i in range(count)] + [signal[axis]]
    return axis, list(itertools.pairwise(edges))


def touching(slabs: Sequence[tuple[int, int]], part: slice) -> list[int]:
    """Numbers of the slabs that a part of the axis touches."""
    return [i for i, (start, stop) in enumerate(slabs) if start < part.stop and stop > part.start]


def pack(streams: Sequence[bytes]) -> bytes:
    """Bytes of several streams: their number, their lengths, then the streams."""
    return struct.pack(f"<H{len(streams)}I", len(streams), *map(len, streams)) + b"".join(streams)


def places(data: Buffer, count: int) -> list[int]:
    """Where each of the streams that `pack` has put together begins, and where the last one ends.

    Raises
    ------
    FormatError
        If there are not exactly `count` streams that fill the bytes.
    """
    if len(data) < 2 + 4 * count or struct.unpack_from("<H", data)[0] != count:
        raise FormatError(f"Expected {count} streams in a section of the frame.")
    edges = list(itertools.accumulate(struct.unpack_from(f"<{count}I", data, 2), initial=2 + 4 * count))
    if edges[-1] != len(data):
        raise FormatError("The streams of a section do not fill it.")
    return edges


def unpack(data: Buffer, count: int) -> list[Buffer]:
    """Inverse of `pack`.

    Raises
    ------
    FormatError
        As `places` does.
    """
    return [data[start:stop] for start, stop in itertools.pairwise(places(data, count))]
