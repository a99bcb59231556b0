"""Sections of many chunks -> bytes on a device, to the byte what bitstream/planes.py does on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream import rans, segments
from xwalloc.bitstream.choices import ALL, BITS_PER_CHOICE, Choice, costs, usual
from xwalloc.bitstream.tables import ESCAPE, PROB_BITS, TOKENS, Tables
from xwalloc.device.arithmetic import EXACT
from xwalloc.device.coder.kernels import encoder as kernels
from xwalloc.device.coder.sections import BLOCK, Call, Section, starts
from xwalloc.device.memory import download, upload
from xwalloc.types import Buffer

__all__ = ["encode", "reciprocals"]

WARP = 32
"""Lanes of a program of the encoder."""

COMPARED = 32
"""Sections whose tables are compared at a time, which takes 3 MB for each of them."""

PACKED = 2048
"""Symbols whose words a program puts in order."""


def encode(sections: Sequence[Section], values: torch.Tensor, mask: torch.Tensor | None = None) -> list[bytes]:
    """Encode sections: the bytes of each.

    Parameters
    ----------
    sections, mask
        As for `decode`.
    values : (n,) int32
        On the device; above the minimum of the type, and 0 where a sample is not coded.
    """
    device = values.device
    call = Call(sections, [_lanes(section) for section in sections], device)
    found = _classified(call, values, mask)
    choices, states, lengths, words = _coded(call, found, _chosen(call, found))
    streams: list[list[list[Buffer]]] = [[[]] * section.geometry.parts for section in sections]
    ends = np.cumsum(lengths)
    places = zip(call.section_of.tolist(), call.part_of.tolist(), (ends - lengths).tolist(), ends.tolist(), strict=True)
    for own, (number, part, first, end) in zip(states, places, strict=True):
        streams[number][part] = rans.pieces_of(own, words[first:end])
    return [segments.pack_pieces([[choice.to_bytes()], *own]) for choice, own in zip(choices, streams, strict=True)]


def _lanes(section: Section) -> list[int]:
    """Lanes of each part of a section that is encoded."""
    edges = np.append(0, np.cumsum(section.geometry.sizes * coder.BITS_OF_CODE[section.codes]))
    return [coder.lanes_for((int(bits) >> 8) // 8) for bits in np.diff(edges[section.geometry.starts])]


@dataclass(frozen=True)
class _Classified:
    """Symbols of a call on the device, plane by plane, in the order of its streams."""

    flags: torch.Tensor
    samples: torch.Tensor
    edges: torch.Tensor
    keys: torch.Tensor
    further: torch.Tensor


def _classified(call: Call, values: torch.Tensor, mask: torch.Tensor | None) -> _Classified:
    """Put the symbols of all planes in order. Waits for the device, to know how many there are."""
    device, looks = call.device, call.looks
    flags, samples = torch.zeros((2, len(looks)), dtype=torch.int64, device=device)
    masked_from = int(call.rows[~call.masked, 1].sum())  # streams with masks stand behind those without
    both = (slice(0, masked_from), False), (slice(masked_from, len(looks)), True)
    launches = [(part, masked) for part, masked in both if part.stop > part.start]
    for part, masked in launches:
        kernels.count_kernel[(part.stop - part.start,)](
            looks[part], values, values if mask is None else mask, flags[part], samples[part], MASKED=masked,
            BLOCK=BLOCK, **EXACT,
        )  # fmt: skip
    edges = torch.nn.functional.pad(torch.cumsum(flags + samples, 0), (1, 0))
    (total,) = download(edges[-1:])
    room = -(-int(total[0]) // PACKED) * PACKED
    keys = torch.empty(room, dtype=torch.int16, device=device)
    further = torch.empty(room, dtype=torch.int64, device=device)
    scratch = torch.empty(room, dtype=torch.int32, device=device)
    for part, masked in launches:
        kernels.put_kernel[(part.stop - part.start,)](
            looks[part], values, values if mask is None else mask, flags[part], edges[part], keys, further,
            scratch, MASKED=masked, BLOCK=BLOCK, **EXACT,
        )  # fmt: skip
    return _Classified(flags, samples, edges, keys, further)


def _chosen(call: Call, found: _Classified) -> torch.Tensor:
    """Tables of each section, as `choose_for` finds them: (section, role * class) int64, on the device."""
    device = call.device
    streams = zip(call.section_of.tolist(), call.part_of.tolist(), strict=True)
    first_of = dict(zip(streams, call.firsts.tolist(), strict=True))
    chosen = []
    for number, section in enumerate(call.sections):
        planes = np.array(section.geometry.deciding(section.codes), np.int64)
        parts = np.searchsorted(section.geometry.starts, planes, side="right") - 1
        firsts = np.array([first_of[number, part] for part in range(section.geometry.parts)], np.int64)
        places = firsts[parts] + planes - section.geometry.starts[parts]
        chosen.append(np.stack([places, np.full_like(places, number)], axis=1))
    counts = torch.zeros((len(call.sections), ALL, TOKENS), dtype=torch.int32, device=device)
    rows, expected = upload(
        device,
        np.concatenate(chosen),
        np.stack([usual(section.tables, section.kind) for section in call.sections]).astype(np.int64),
    )
    if len(rows):
        kernels.histogram_kernel[(len(rows),)](
            found.keys, found.flags, found.samples, found.edges, rows, counts, BLOCK=BLOCK, **EXACT
        )
    for _, group in groupby(range(len(call.sections)), lambda n: (id(call.sections[n].tables), n // COMPARED)):
        numbers = list(group)
        some = slice(numbers[0], numbers[-1] + 1)
        bits = counts[some].to(torch.float64) @ _costs(call.sections[numbers[0]].tables, device)
        best = bits.argmin(2, keepdim=True)
        gain = bits.gather(2, expected[some, :, None]) - bits.gather(2, best)
        expected[some] = torch.where(gain > BITS_PER_CHOICE, best, expected[some, :, None])[:, :, 0]
    return expected


def _coded(
    call: Call, found: _Classified, tables: torch.Tensor
) -> tuple[list[Choice], list[NDArray[np.uint32]], NDArray[np.int64], NDArray[np.uint16]]:
    """Choices of sections; states and number of words of each stream; all words. Waits for the device, twice."""
    device = call.device
    lanes = call.lanes
    programs = -(-lanes // WARP)
    groups = np.empty((int(programs.sum()), kernels.ENCODED), np.int64)
    stream = groups[:, 0] = np.repeat(np.arange(len(lanes)), programs)
    groups[:, 1] = lanes[stream]
    groups[:, 2] = WARP * (np.arange(len(groups)) - starts(programs)[stream])
    groups[:, 3] = call.section_of[stream] * (ALL * TOKENS)
    groups[:, 4] = starts(lanes)[stream]
    rows, planes = upload(device, groups, np.stack([call.firsts, call.firsts + call.rows[:, 1]], axis=1))
    given = torch.zeros(len(found.keys), dtype=torch.int8, device=device)
    states = torch.empty(int(lanes.sum()), dtype=torch.int32, device=device)
    totals = torch.empty(len(groups), dtype=torch.int32, device=device)
    kernels.encode_kernel[(len(groups),)](
        rows, found.edges[planes], found.keys, found.further, _lookups(call, tables), given, states, totals,
        LANES=WARP, num_warps=1, **EXACT,
    )  # fmt: skip
    sums = given.view(-1, PACKED).sum(1, dtype=torch.int64)
    all_states, numbers, chosen = download(states, totals, tables)
    choices = [
        Choice(section.kind, own.astype(np.uint16), section.tables)
        for section, own in zip(call.sections, chosen, strict=True)
    ]
    lengths = np.add.reduceat(numbers, starts(programs), dtype=np.int64)
    words = torch.empty(int(lengths.sum()), dtype=torch.int16, device=device)
    if len(words):
        kernels.pack_kernel[(len(sums),)](
            given, found.keys, found.further, torch.cumsum(sums, 0) - sums, words, BLOCK=PACKED, **EXACT
        )
    (bits,) = download(words)
    own = [all_states.view(np.uint32)[at : at + count] for at, count in zip(starts(lanes), lanes, strict=True)]
    return choices, own, lengths, bits.view(np.uint16)


def _lookups(call: Call, tables: torch.Tensor) -> torch.Tensor:
    """What encoding takes, by section and key: (section * role * class * token,) int64."""
    codebooks = list(dict.fromkeys(section.tables for section in call.sections))
    entries = [_entries(codebook, call.device) for codebook in codebooks]
    if len(codebooks) == 1:
        return entries[0][tables].view(-1)
    first_of = dict(zip(codebooks, starts([len(own) for own in entries]), strict=True))
    (firsts,) = upload(call.device, np.array([[first_of[section.tables]] for section in call.sections]))
    return torch.cat(entries)[tables + firsts].view(-1)


@lru_cache(maxsize=32)
def _costs(tables: Tables, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(costs(tables)).to(device)


@lru_cache(maxsize=32)
def _entries(tables: Tables, device: torch.device) -> torch.Tensor:
    """What encoding a token with a table takes: (table, token) int64.

    From the lowest bit on: first slot and frequency - 1, of 12 bits each; shift (4) and addend (1) of `reciprocals`;
    `ESCAPED`, with the figures of the token that announces it, and `RARE`; from bit 32 on, the multiplier.
    """
    spans = tables.spans.reshape(-1, TOKENS).astype(np.int64)
    escaped = spans < rans.FREQUENCY_ONE
    spans = np.where(escaped, spans[:, ESCAPE, None], spans)
    multiplier, shift, addend = (table[spans >> 16] for table in reciprocals())
    entries = (multiplier << 32) | (addend << 28) | (shift << 24) | (((spans >> 16) - 1) << 12) | (spans & 0xFFFF)
    entries |= np.where(escaped, kernels.ESCAPED, 0)
    entries |= np.where(escaped | (np.arange(TOKENS) > 2 * rans.DIRECT), kernels.RARE, 0)
    return torch.from_numpy(entries).to(device)


@lru_cache(maxsize=1)
def reciprocals() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Multiplier m < 2^32, shift s and addend c (0 or 1) of each f from 1 to 2^12: x // f = (x + c) m >> (32 + s).

    That holds for x < 2^20 f, and such are the states that take a symbol of the frequency f. With 2^s < f <= 2^(s+1)
    and N = 32 + s, either m = (2^N + e) / f and c = 0: the product is x / f and an excess x e / (f 2^N), which must be
    below 1 / f, and is if f e <= 2^(12+s). Or m = (2^N - d) / f and c = 1: the product is (x + 1) / f less
    (x + 1) d / (f 2^N), which must not exceed 1 / f, and does not if f d <= 2^(12+s). One of them is true, since
    d + e = f <= 2^(s+1) and s <= 11. Of f = 1, where s = 0, m = 2^32 - 1.

    (T. Granlund and P. Montgomery, "Division by invariant integers using multiplication", PLDI 1994.)
    """
    f = np.arange((1 << PROB_BITS) + 1, dtype=np.int64)
    f[0] = 1
    shift = np.array([max(int(n - 1).bit_length() - 1, 0) for n in f])
    whole = np.left_shift(np.int64(1), 32 + shift)
    below = np.minimum(whole // f, (1 << 32) - 1)
    above = -(-whole // f)
    up = (above < 1 << 32) & (f * (above * f - whole) <= np.left_shift(np.int64(1), PROB_BITS + shift))
    return np.where(up, above, below), shift, np.where(up, 0, 1)
