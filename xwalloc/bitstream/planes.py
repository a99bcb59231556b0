# mypy: disable-error-code="no-untyped-call"
"""Coding of integer planes: what contexts.py knows about neighbours, over what rans.py does with tables.

A *plane* is a box (z, y, x) of integers inside a flat buffer, scanned with x fastest: one subband of one latent, one
channel of lattice residuals, one channel of the residual layer. Planes are coded in order, and a plane may look at
planes before it: the *previous* one (same shape), its *parent* (a coarser subband: coordinates shifted) and its
*sibling* (same shape, another subband). Where a neighbour does not exist, the plane's own magnitude stands in for it.

Planes of small magnitude are *sparse*: runs of `GROUP` samples along x are announced by a flag, and a group of zeros
costs one flag.

Encoding classifies first (all values are known) and then runs rANS backwards; decoding interleaves both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream import rans, segments
from xwalloc.bitstream.choices import Choice, choose, identities
from xwalloc.bitstream.contexts import MAGNITUDES, Kind, weights
from xwalloc.bitstream.scan import GROUP, is_serial, scan, scratch
from xwalloc.bitstream.tables import Tables, shipped
from xwalloc.errors import FormatError
from xwalloc.types import Parallel

__all__ = [
    "GROUP",
    "NO_PLANE",
    "PLANE_DTYPE",
    "classify",
    "decode",
    "decode_segments",
    "encode",
    "encode_segments",
    "pack_segments",
    "planes_of",
    "unpack_segments",
]

NO_PLANE = -1

DECIDING, DECIDING_SYMBOLS = 2, 1 << 18
"""So many segments decide which tables all of them have, with about so many symbols each."""

SMALL = 1 << 20
"""Sections of fewer symbols classify what decides only once."""

MOST_LANES = 1024
LANE_COST = 0.005
BYTES_PER_LANE = 3
"""What a lane costs: four bytes of state that hold 8 bits of what they replace on average."""

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


def _symbols_at_most(planes: NDArray[np.void]) -> int:
    rows = planes["nz"] * planes["ny"]
    return int(np.sum(np.where(planes["code"] > 0, rows * (planes["nx"] + -(-planes["nx"] // GROUP)), 0)))


Lookups = tuple[NDArray[np.uint16], NDArray[np.uint16]]
Classified = tuple[NDArray[np.signedinteger], NDArray[np.uint16]]

NO_MASK: NDArray[np.uint8] = np.empty(0, np.uint8)
_NO_VALUES = np.empty(0, np.int32)
_NO_CONTEXTS = np.empty(0, np.uint16)
_NO_EXPECTATIONS = np.empty(0, np.int64)
_NO_WORDS = np.empty(0, np.uint16)
_NO_STATES = np.empty(0, np.int64)


def classify(
    buffer: NDArray[np.signedinteger],
    planes: NDArray[np.void],
    kind: Kind,
    dimensions: int,
    mask: NDArray[np.uint8] = NO_MASK,
    lookups: Lookups | None = None,
) -> Classified:
    """Symbols of the planes in coding order, and the table of each (without `lookups`, the number of its class)."""
    tables = shipped()
    room = _symbols_at_most(planes)
    values = np.empty(room, buffer.dtype)
    contexts = np.empty(room, np.uint16)
    chosen = weights(kind, dimensions)
    count, _ = scan(
        buffer, planes, mask, *chosen, is_serial(*chosen), MAGNITUDES, *(lookups or identities()), False, 0,
        values, contexts, _NO_EXPECTATIONS, tables.symbols, tables.spans, _NO_WORDS, _NO_STATES, *scratch(planes),
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
    data: bytes,
    buffer: NDArray[np.signedinteger],
    planes: NDArray[np.void],
    kind: Kind,
    dimensions: int,
    mask: NDArray[np.uint8] = NO_MASK,
    choice: Choice | None = None,
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
    limit = int(np.iinfo(buffer.dtype).max)
    chosen = weights(kind, dimensions)
    _, position = scan(
        buffer, planes, mask, *chosen, is_serial(*chosen), MAGNITUDES, *choice.lookups, True,
        limit, _NO_VALUES, _NO_CONTEXTS, _NO_EXPECTATIONS, tables.symbols, tables.spans, words, states,
        *scratch(planes),
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
    many_lanes: bool = False,
    codebook: Tables | None = None,
) -> bytes:
    """Code segments, each a table of planes, with the tables that suit them (see `pack_segments`)."""

    def classified(index: int, lookups: Lookups) -> Classified:
        return classify(buffer, parts[index], kind, dimensions, mask, lookups)

    def sample(index: int) -> Classified:
        step = _symbols_at_most(parts[index]) // DECIDING_SYMBOLS + 1
        return classify(buffer, parts[index][step // 2 :: step], kind, dimensions, mask)

    choice = None
    if sum(map(_symbols_at_most, parts)) > SMALL:
        choice = choose(parallel(sample, _deciding(len(parts))), kind, codebook)
    return pack_segments(classified, len(parts), kind, parallel, many_lanes, choice, codebook)


def _deciding(count: int) -> list[int]:
    """Segments that decide which tables all of them have."""
    number = min(count, DECIDING)
    return [(2 * i + 1) * count // (2 * number) for i in range(number)]


def lanes_for(nbytes: int) -> int:
    """Lanes of a stream of so many bytes: a power of two."""
    lanes = rans.LANES
    while lanes < MOST_LANES and 2 * lanes * BYTES_PER_LANE <= LANE_COST * nbytes:
        lanes *= 2
    return lanes


def pack_segments(
    classified: Callable[[int, Lookups], Classified],
    count: int,
    kind: Kind,
    parallel: Parallel,
    many_lanes: bool,
    choice: Choice | None = None,
    codebook: Tables | None = None,
) -> bytes:
    """Streams of `count` segments behind the choice of tables, which a few segments decide if it is not given.

    `classified` returns the symbols of a segment, and for each what the lookups hold. With `many_lanes`, a stream has
    as many lanes as take `LANE_COST` of it, up to `MOST_LANES`. Tables are those of the codebook, or those that ship.
    """
    some = [] if choice else _deciding(count)
    known = dict(zip(some, parallel(lambda index: classified(index, identities()), some), strict=True))
    choice = choice or choose(known.values(), kind, codebook)
    tables = choice.codebook

    def stream(index: int) -> bytes:
        if index in known:
            values, classes = known.pop(index)
            contexts = choice.tables[classes]
        else:
            values, contexts = classified(index, choice.lookups)
        coded = rans.encode(values, contexts, tables)
        lanes = lanes_for(len(coded)) if many_lanes else rans.LANES
        return coded if lanes == rans.LANES else rans.encode(values, contexts, tables, lanes)

    return segments.pack([choice.to_bytes(), *parallel(stream, range(count))])


def decode_segments(
    data: bytes,
    buffer: NDArray[np.signedinteger],
    parts: Sequence[NDArray[np.void]],
    kind: Kind,
    dimensions: int,
    mask: NDArray[np.uint8],
    parallel: Parallel,
    wanted: Sequence[int] | None = None,
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
        decode(streams[index], buffer, parts[index], kind, dimensions, mask, choice)

    parallel(restore, range(len(parts)) if wanted is None else wanted)


def unpack_segments(data: bytes, count: int, kind: Kind, codebook: Tables | None = None) -> tuple[Choice, list[bytes]]:
    """The choice of tables, and the streams behind it.

    Raises
    ------
    FormatError
        If there are not exactly `count` streams.
    """
    chosen, *streams = segments.unpack(data, count + 1)
    return Choice.from_bytes(chosen, kind, codebook), streams
