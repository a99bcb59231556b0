# mypy: disable-error-code="no-untyped-call"
"""Coding of integer planes: what contexts.py knows about neighbours, over what rans.py does with tables.

A *plane* is a box (z, y, x) of integers inside a flat buffer, scanned with x fastest: one subband of one latent, one
channel of lattice residuals, one channel of the residual layer. Planes are coded in order, and a plane may look at
planes before it: the *previous* one (same shape), its *parent* (a coarser subband: coordinates shifted) and its
*sibling* (same shape, another subband). Where a neighbour does not exist, the plane's own magnitude stands in for it.

Planes of small magnitude are *sparse*: runs of `GROUP` samples along x are announced by a flag, and a group of zeros
costs one flag. Flags stand before the samples of their group, or all of a plane before its first sample (`Order`).

Encoding classifies first (all values are known) and then runs rANS backwards; decoding interleaves both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream import rans, segments
from xwalloc.bitstream.choices import Choice, choose, identities
from xwalloc.bitstream.contexts import MAGNITUDES, ONE, Kind, weights
from xwalloc.bitstream.scan import GROUP, is_serial, scan, scratch
from xwalloc.bitstream.tables import Tables, shipped
from xwalloc.errors import FormatError
from xwalloc.types import Buffer, Parallel

__all__ = [
    "GROUP",
    "NO_PLANE",
    "PLANE_DTYPE",
    "SMALL",
    "Order",
    "classify",
    "deciding",
    "decode",
    "decode_segments",
    "encode",
    "encode_segments",
    "lanes_for",
    "lanes_of",
    "pack_segments",
    "planes_of",
    "sampled",
    "sizes_of",
    "symbols_at_most",
    "symbols_of",
    "unpack_segments",
]

NO_PLANE = -1

DECIDING, DECIDING_SYMBOLS = 2, 1 << 18
"""So many segments decide which tables all of them have, with about so many symbols each."""

SMALL = 1 << 20
"""Sections of fewer symbols classify what decides only once."""


class Order(IntEnum):
    """How planes of latents and residuals are coded: the profile of a chunk, as frames number it."""

    ROWS = 0
    """Contexts for size: neighbours in the same plane count. Flags stand among the samples of their row."""

    FLAGS_AMONG = 1
    """Contexts for devices, but flags among samples; early versions of xwalloc wrote it."""

    FLAGS_FIRST = 2
    """Contexts for devices: nothing depends on the same plane, and all flags of a plane stand before its samples."""

    @classmethod
    def of(cls, profile: str) -> Order:
        """That of the codec's profile, "default" or "parallel"."""
        return cls.FLAGS_FIRST if profile == "parallel" else cls.ROWS

    @property
    def latents(self) -> Kind:
        """Kind of the planes of latents."""
        return Kind.LATENT if self is Order.ROWS else Kind.LATENT_PARALLEL

    @property
    def residuals(self) -> Kind:
        """Kind of the planes of the residual layer."""
        return Kind.RESIDUAL if self is Order.ROWS else Kind.RESIDUAL_PARALLEL


MOST_LANES = 1024
LANE_COST = 0.02
"""Share of a stream that its lanes may take."""

BYTES_PER_LANE = 3
"""What a lane costs: four bytes of state that hold 8 bits of what they replace on average."""


def _bits_of(mean: float) -> float:
    """Bits per sample of a two-sided geometric distribution of a mean magnitude."""
    t = (math.sqrt(1 + mean * mean) - 1) / mean
    return math.log2((1 + t) / (1 - t)) - mean * math.log2(t)


BITS_OF_CODE: NDArray[np.int64] = np.array([0] + [round(256 * _bits_of(m / ONE)) for m in MAGNITUDES[1:].tolist()])
"""Bits, in 1/256, of a sample of a plane with each magnitude code."""

PLANE_DTYPE = np.dtype(
    [
        (name, np.int64)
        for name in (
            *("base", "nz", "ny", "nx", "sz", "sy", "code", "previous", "previous_code"),
            *("parent", "parent_code", "parent_z", "parent_y", "parent_x", "parent_nz", "parent_ny", "parent_nx"),
            *("sibling", "sibling_code"),
        )
    ]
)
"""One plane: offset of its first value in the flat buffer, extent, strides of z and y (x has stride 1; the planes it
looks at share the strides), magnitude code; offset and code of the previous plane; the parent, with the right shift of
each coordinate and its extent; the sibling. `NO_PLANE` as offset where there is none."""


def planes_of(count: int) -> NDArray[np.void]:
    """`count` planes that look at no other plane, to be filled in."""
    planes = np.zeros(count, PLANE_DTYPE)
    planes["nz"] = planes["ny"] = planes["nx"] = 1
    planes["parent_nz"] = planes["parent_ny"] = planes["parent_nx"] = 1
    planes["previous"] = planes["parent"] = planes["sibling"] = NO_PLANE
    return planes


def symbols_of(planes: NDArray[np.void]) -> NDArray[np.int64]:
    """No fewer symbols than each plane has if its code is not 0, flags included."""
    symbols: NDArray[np.int64] = planes["nz"] * planes["ny"] * (planes["nx"] + -(-planes["nx"] // GROUP))
    return symbols


def symbols_at_most(planes: NDArray[np.void]) -> int:
    """No fewer symbols than planes have, flags included."""
    return int(np.sum(np.where(planes["code"] > 0, symbols_of(planes), 0)))


Lookups = tuple[NDArray[np.uint16], NDArray[np.uint16]]
Classified = tuple[NDArray[np.signedinteger], NDArray[np.uint16]]

NO_MASK: NDArray[np.uint8] = np.empty(0, np.uint8)
_NO_VALUES = np.empty(0, np.int32)
_NO_CONTEXTS = np.empty(0, np.uint16)
_NO_EXPECTATIONS = np.empty(0, np.int64)
_NO_WORDS = np.empty(0, np.uint16)
_NO_STATES = np.empty(0, np.int64)


LARGEST = {itemsize: int(np.iinfo(f"i{itemsize}").max) for itemsize in (4, 8)}
"""Largest integers of so many bytes."""


@cache
def _weights(kind: Kind, dimensions: int) -> tuple[NDArray[np.int64], NDArray[np.int64], bool]:
    """`contexts.weights`, and whether they make planes serial."""
    chosen = weights(kind, dimensions)
    return *chosen, is_serial(*chosen)


def classify(
    buffer: NDArray[np.signedinteger],
    planes: NDArray[np.void],
    kind: Kind,
    dimensions: int,
    mask: NDArray[np.uint8] = NO_MASK,
    lookups: Lookups | None = None,
    order: Order = Order.ROWS,
) -> Classified:
    """Symbols of the planes in coding order, and the table of each (without `lookups`, the number of its class)."""
    tables = shipped()
    room = symbols_at_most(planes)
    values = np.empty(room, buffer.dtype)
    contexts = np.empty(room, np.uint16)
    count, _ = scan(
        buffer, planes, mask, *_weights(kind, dimensions), order == Order.FLAGS_FIRST, MAGNITUDES,
        *(lookups or identities()), False, 0, values, contexts, _NO_EXPECTATIONS, tables.symbols, tables.spans,
        _NO_WORDS, _NO_STATES, *scratch(planes, order == Order.FLAGS_FIRST),
    )  # fmt: skip
    return values[:count], contexts[:count]


def encode(
    buffer: NDArray[np.signedinteger],
    planes: NDArray[np.void],
    kind: Kind,
    dimensions: int,
    mask: NDArray[np.uint8] = NO_MASK,
) -> bytes:
    """Code planes of integers with the usual tables.

    Parameters
    ----------
    buffer : (n,) int32 or int64
        Flat buffer that holds the planes; values lie above the minimum of the type.
    planes : (planes,) PLANE_DTYPE
        The planes in coding order.
    kind, dimensions
        Which weights and tables to use (contexts.py).
    mask : (n,) uint8, optional
        Samples that are not coded, where it is not 0; they must be 0 in `buffer`.
    """
    return rans.encode(*classify(buffer, planes, kind, dimensions, mask, Choice.usual(kind).lookups), shipped())


def decode(
    data: Buffer,
    buffer: NDArray[np.signedinteger],
    planes: NDArray[np.void],
    kind: Kind,
    dimensions: int,
    mask: NDArray[np.uint8] = NO_MASK,
    choice: Choice | None = None,
    order: Order = Order.ROWS,
) -> None:
    """Inverse of `encode`, or the planes of a segment that was coded with a choice of tables.

    `buffer` must be all zeros where the planes lie, and is filled.

    Raises
    ------
    FormatError
        If the stream does not fit the planes.
    """
    choice = choice or Choice.usual(kind)
    tables = choice.codebook
    states, words = rans.unpack_stream(data)
    _, position = scan(
        buffer, planes, mask, *_weights(kind, dimensions), order == Order.FLAGS_FIRST, MAGNITUDES, *choice.lookups,
        True, LARGEST[buffer.dtype.itemsize], _NO_VALUES, _NO_CONTEXTS, _NO_EXPECTATIONS, tables.symbols, tables.spans,
        words, states, *scratch(planes, order == Order.FLAGS_FIRST),
    )  # fmt: skip
    if position > words.shape[0]:
        raise FormatError("A stream of the frame ends too early or holds impossible values.")
    rans.check_end(position, words, states)


def encode_segments(
    buffer: NDArray[np.signedinteger],
    parts: Sequence[NDArray[np.void]],
    kind: Kind,
    dimensions: int,
    mask: NDArray[np.uint8],
    parallel: Parallel,
    order: Order = Order.ROWS,
    codebook: Tables | None = None,
) -> bytes:
    """Code segments, each a table of planes, with the tables that suit them (see `pack_segments`).

    Streams have lanes for devices unless planes are coded row by row.
    """

    def classified(index: int, lookups: Lookups) -> Classified:
        return classify(buffer, parts[index], kind, dimensions, mask, lookups, order)

    def sample(index: int) -> Classified:
        part = parts[index]
        return classify(buffer, part[sampled(symbols_at_most(part))], kind, dimensions, mask, order=order)

    lanes = None if order == Order.ROWS else [lanes_of(sizes_of(part), part["code"]) for part in parts]

    choice = None
    if sum(map(symbols_at_most, parts)) > SMALL:
        choice = choose(parallel(sample, deciding(len(parts))), kind, codebook)
    return pack_segments(classified, len(parts), kind, parallel, lanes, choice, codebook)


def sampled(symbols: int) -> slice:
    """Planes that stand for all of a segment of so many symbols where tables are chosen."""
    step = symbols // DECIDING_SYMBOLS + 1
    return slice(step // 2, None, step)


def sizes_of(planes: NDArray[np.void]) -> NDArray[np.int64]:
    """Samples of each plane."""
    sizes: NDArray[np.int64] = planes["nz"] * planes["ny"] * planes["nx"]
    return sizes


def lanes_of(sizes: NDArray[np.int64], codes: NDArray[np.integer]) -> int:
    """Lanes of a stream of planes of so many samples, if these are distributed as usual about the means they state."""
    return lanes_for(int(np.sum(sizes * BITS_OF_CODE[codes]) >> 8) // 8)


def deciding(count: int) -> list[int]:
    """Segments that decide which tables all of them have."""
    number = min(count, DECIDING)
    return [(2 * i + 1) * count // (2 * number) for i in range(number)]


def lanes_for(nbytes: int) -> int:
    """Lanes, a power of two, that take about `LANE_COST` of a stream of so many bytes."""
    lanes = rans.LANES
    while lanes < MOST_LANES and 2 * lanes * BYTES_PER_LANE <= LANE_COST * nbytes:
        lanes *= 2
    return lanes


def pack_segments(
    classified: Callable[[int, Lookups], Classified],
    count: int,
    kind: Kind,
    parallel: Parallel,
    lanes: Sequence[int] | None = None,
    choice: Choice | None = None,
    codebook: Tables | None = None,
) -> bytes:
    """Streams of `count` segments behind the choice of tables, which a few segments decide if it is not given.

    `classified` returns the symbols of a segment, and for each what the lookups hold. `lanes` has the number of lanes
    of each stream, if they are many. Tables are those of the codebook, or those that ship.
    """
    some = [] if choice else deciding(count)
    known = dict(zip(some, parallel(lambda index: classified(index, identities()), some), strict=True))
    choice = choice or choose(known.values(), kind, codebook)
    tables = choice.codebook

    def stream(index: int) -> bytes:
        if index in known:
            values, classes = known.pop(index)
            contexts = choice.tables[classes]
        else:
            values, contexts = classified(index, choice.lookups)
        return rans.encode(values, contexts, tables, rans.LANES if lanes is None else lanes[index])

    return segments.pack([choice.to_bytes(), *parallel(stream, range(count))])


def decode_segments(
    data: Buffer,
    buffer: NDArray[np.signedinteger],
    parts: Sequence[NDArray[np.void]],
    kind: Kind,
    dimensions: int,
    mask: NDArray[np.uint8],
    parallel: Parallel,
    wanted: Sequence[int] | None = None,
    order: Order = Order.ROWS,
    codebook: Tables | None = None,
) -> None:
    """Inverse of `encode_segments`; `buffer` must be all zeros where the planes lie, and is filled.

    Only segments that are `wanted` are decoded, if that is given.

    Raises
    ------
    FormatError
        If the streams do not fit the planes.
    """
    choice, streams = unpack_segments(data, len(parts), kind, codebook)

    def restore(index: int) -> None:
        decode(streams[index], buffer, parts[index], kind, dimensions, mask, choice, order)

    parallel(restore, range(len(parts)) if wanted is None else wanted)


def unpack_segments(
    data: Buffer, count: int, kind: Kind, codebook: Tables | None = None
) -> tuple[Choice, list[Buffer]]:
    """The choice of tables, and the streams behind it.

    Raises
    ------
    FormatError
        If there are not exactly `count` streams.
    """
    chosen, *streams = segments.unpack(data, count + 1)
    return Choice.from_bytes(chosen, kind, codebook), streams
