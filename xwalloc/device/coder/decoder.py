"""Bytes -> sections of many chunks on a device, to the integer what bitstream/planes.py does on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from xwalloc.bitstream import rans, segments
from xwalloc.bitstream.choices import Choice
from xwalloc.bitstream.tables import PROB_BITS, TOKENS, Tables
from xwalloc.device.arithmetic import EXACT
from xwalloc.device.coder.kernels import decoder as kernels
from xwalloc.device.coder.sections import BLOCK, Call, Section, starts
from xwalloc.device.memory import Parcel, side_by_side
from xwalloc.types import Buffer

__all__ = ["Streams", "decode", "unpack"]

WIDE = 1024
"""Symbols whose tables a decoder finds at a time."""


@dataclass(frozen=True)
class Streams:
    """The bytes of a section, taken apart.

    Parameters
    ----------
    choice
        Which tables it has.
    lanes, words : (stream,) int64
        Lanes and words of each part that is wanted.
    bits : (n,) uint8
        States of 4 bytes of all these parts, one behind the other, and then their words of 2 bytes; on the host.
    """

    choice: Choice
    lanes: NDArray[np.int64]
    words: NDArray[np.int64]
    bits: torch.Tensor


def unpack(section: Section, data: Buffer, *, pinned: bool = False) -> Streams:
    """Take the bytes of a section apart.

    Parameters
    ----------
    section, data
        The section, and its bytes.
    pinned
        Whether its streams shall lie in pinned memory, from where a device fetches them.

    Raises
    ------
    FormatError
        If they are no streams of that many parts.
    """
    edges = segments.places(data, section.geometry.parts + 1)
    choice = Choice.from_bytes(data[edges[0] : edges[1]], section.kind, section.tables)
    parts = range(section.geometry.parts) if section.wanted is None else section.wanted
    places = [(edges[part + 1], edges[part + 2]) for part in parts]
    bits = torch.empty(rans.room_for(places), dtype=torch.uint8, pin_memory=pinned)
    lanes, words = rans.take_apart(data, places, bits.numpy())
    return Streams(choice, lanes, words, bits)


def decode(
    sections: Sequence[Section], streams: Sequence[Streams], values: torch.Tensor, mask: torch.Tensor | None = None
) -> tuple[NDArray[np.int64], torch.Tensor]:
    """Decode the streams of sections. Nothing here waits for the device.

    Parameters
    ----------
    sections, streams
        The sections, and their bytes.
    values : (n,) int32
        All zeros where the sections lie, on the device; is filled.
    mask : (n,) uint8
        Not 0 where a sample is not coded; on the device.

    Returns
    -------
    owners, results : (stream,) int64, (stream,) int32
        Number of the section of each stream, and 0 where it is sound (on the device). The values of a section one of
        whose streams is not are anything.
    """
    device = values.device
    call = Call(sections, [found.lanes for found in streams], device)
    # The bytes of each section lie somewhere in a parcel: its states and words are counted from the beginning of that.
    parcel = Parcel([found.bits for found in streams])
    lanes, words = (np.concatenate(own) for own in zip(*((found.lanes, found.words) for found in streams), strict=True))
    counts = np.array([len(found.lanes) for found in streams])
    first = starts(counts)
    states_before, words_before = starts(lanes), starts(words)
    places = np.array(parcel.places)
    words_at = places // 2 + 2 * np.add.reduceat(lanes, first)
    room = 4 * call.largest + BLOCK
    rows = call.rows
    rows[:, 2] = (words_before + np.repeat(words_at - words_before[first], counts))[call.order]
    rows[:, 3] = words[call.order]
    rows[:, 4] = (states_before + np.repeat(places // 4 - states_before[first], counts))[call.order]
    rows[:, 6] = starts(room)
    table_of = np.concatenate([found.choice.tables for found in streams]).astype(np.int32)
    arrays: list[NDArray[Any]] = [rows, table_of, *call.tables()]
    arrays_at = [parcel.add(array) for array in arrays]
    parcel.send(device)
    streams_there, choices, *of_planes = [parcel.view(at, array) for at, array in zip(arrays_at, arrays, strict=True)]
    words_there, states_there = parcel.there.view(torch.int16), parcel.there.view(torch.int32)
    looks = call.look(*of_planes)
    scratch = torch.empty(int(room.sum()), dtype=torch.int32, device=device)
    results = torch.empty(len(rows), dtype=torch.int32, device=device)
    with side_by_side(device) as aside:
        for part, masked, own_lanes, tables in call.launches():
            with aside():
                kernels.decode_kernel[(part.stop - part.start,)](
                    streams_there[part], looks, words_there, states_there, _slots(tables, device), choices, values,
                    values if mask is None else mask, scratch, results[part], MASKED=masked, LANES=own_lanes,
                    WIDE=WIDE, **_decoder_options(own_lanes), **EXACT,
                )  # fmt: skip
    return call.section_of, results


def _decoder_options(lanes: int) -> dict[str, int]:
    """Warps of a program of the decoder, and registers of a thread.

    A multiprocessor has 65,536 registers: it holds four programs of up to 128 lanes, three of up to 512, two of more.
    Compiled for compute capability 9.0, up to 512 lanes nothing is spilled.
    """
    if lanes <= 128:
        return {"num_warps": 4, "maxnreg": 128}
    return {"num_warps": 8, "maxnreg": 80} if lanes <= 512 else {"num_warps": 16, "maxnreg": 64}


@lru_cache(maxsize=32)
def _slots(tables: Tables, device: torch.device) -> torch.Tensor:
    """Token, frequency - 1 and slot - start of every slot of every table: (table, 4096) int32, in 7, 12 and 12 bits."""
    tokens = tables.symbols.reshape(-1, 1 << PROB_BITS).astype(np.int64)
    spans = np.take_along_axis(tables.spans.reshape(-1, TOKENS).astype(np.int64), tokens, axis=1)
    rest = np.arange(1 << PROB_BITS) - (spans & 0xFFFF)
    return torch.from_numpy((tokens << 24 | ((spans >> 16) - 1) << 12 | rest).astype(np.int32)).to(device)
