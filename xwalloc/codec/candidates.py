"""Ways to code a chunk: what has been looked at, and what came of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream.frame import Mode, Section
from xwalloc.codec import lattice_mode
from xwalloc.codec.bound import early_nodata
from xwalloc.codec.engine import map_parallel
from xwalloc.codec.examine import Examine
from xwalloc.codec.lattice_mode import Lattice
from xwalloc.codec.layout import Special, fill_holes
from xwalloc.codec.resident.arrays import DeviceArray, on_host
from xwalloc.codec.survey import Survey
from xwalloc.errors import BudgetError
from xwalloc.types import cached_property

__all__ = [
    "Candidate", "Chunk", "draft_of", "exact_draft", "exactly", "in_lattice_mode", "lossless", "promising", "search",
    "smaller",
]  # fmt: skip

DOUBT = 1.15
"""Where a step is searched for, a mode is left out if it is estimated to take so many times the bits of another."""

SNR_TOLERANCE = 0.05
"""dB by which the search for a step may miss the target."""


@dataclass(frozen=True)
class Candidate:
    """One way to code a chunk.

    Parameters
    ----------
    mode, sections
        What the frame will hold.
    missed : canonical shape, bool, or None
        Samples that its decoder would return beyond the bound; None where there are none.
    figure
        What the examination returned: the largest error of samples within the bound, or the sum of squared errors.
    """

    mode: Mode
    sections: Mapping[Section, bytes]
    missed: NDArray[np.bool_] | None
    figure: float = 0.0

    @property
    def nbytes(self) -> int:
        """Bytes of the sections."""
        return sum(map(len, self.sections.values()))


@dataclass(frozen=True)
class Chunk:
    """A chunk that has been looked at.

    Parameters
    ----------
    there
        Samples in canonical shape, holes filled, float16 widened to float32; where they lie.
    given
        Canonical shape, as given.
    look
        What the survey found.
    special
        What is kept bit for bit.
    nodata : (0,) or (2,)
        Nodata and its substitute, in the stored type.
    """

    there: NDArray[np.generic] | DeviceArray
    given: NDArray[np.generic] | DeviceArray
    look: Survey
    special: Special
    nodata: NDArray[np.generic]

    @cached_property
    def samples(self) -> NDArray[np.generic]:
        """Samples on the host."""
        return on_host(self.there)

    @cached_property
    def original(self) -> NDArray[np.generic]:
        """Samples as given, on the host."""
        return self.samples if self.given is self.there else on_host(self.given)

    @property
    def early_nodata(self) -> NDArray[np.generic]:
        """`nodata` for those who make samples; nothing for float16, whose samples are float32 until `stored`."""
        return early_nodata(self.nodata)

    @property
    def span(self) -> float:
        """Largest magnitude that a lattice of integers must reach; all integer types fit."""
        return max(abs(self.look.low), abs(self.look.high)) if self.there.dtype.kind == "f" else 0.0

    @property
    def mask(self) -> NDArray[np.uint8] | None:
        """Not 0 where a sample is not coded at all."""
        return self.special.labels


def smaller(first: Candidate | None, second: Candidate | None) -> Candidate | None:
    """The one with fewer bytes."""
    if first is None or second is None:
        return first or second
    return first if first.nbytes <= second.nbytes else second


def search(make: Callable[[float], Candidate | None], count: int, step: float, allowed: float) -> Candidate | None:
    """The candidate with the largest error within `allowed` (or a shade above) that a few steps find."""
    shade = 10 ** (SNR_TOLERANCE / 10)
    low, high = 0.0, math.inf
    best = None
    for _ in range(12):
        candidate = make(step) if 0 < step < math.inf else None
        if candidate is None:
            break
        error = candidate.figure / count
        if error <= allowed * shade:
            low, best = step, candidate
            if error >= allowed / shade:
                break
        else:
            high = step
        step *= min(max(math.sqrt(allowed / error), 0.25), 4.0) if error > 0 else 4.0
        if not low < step < high:
            step = math.sqrt(low * high) if low > 0 and high < math.inf else (high / 2 if low == 0 else low * 2)
        if low and high / low < 1.005:
            break
    return best


def draft_of(chunk: Chunk, grid: Lattice, profile: str) -> lattice_mode.Draft | None:
    """A chunk about to be coded in lattice mode; None where that does not suit it."""
    indices, beyond = grid.indices(chunk.samples)
    if beyond is not None and np.count_nonzero(beyond) > beyond.size // 100:
        return None
    try:
        return lattice_mode.draft(grid, indices, chunk.mask, chunk.samples.dtype, profile)
    except BudgetError:
        return None


def in_lattice_mode(chunk: Chunk, draft: lattice_mode.Draft | None, look: Examine) -> Candidate | None:
    """The candidate that a draft becomes; None where there is no draft, or it cannot be coded."""
    if draft is None:
        return None
    try:
        sections, decoded_indices = draft.encode()
    except BudgetError:
        return None
    if chunk.mask is not None:  # what a decoder has there does not count
        decoded_indices = np.where(chunk.mask == 0, decoded_indices, draft.indices)
    missed = np.zeros(chunk.samples.shape, np.bool_)
    rows = (-1, chunk.samples.shape[-1])
    samples, flags, places = chunk.samples.reshape(rows), missed.reshape(rows), decoded_indices.reshape(rows)
    count = max(1, chunk.samples.size >> 18)
    parts = [slice(i * len(samples) // count, (i + 1) * len(samples) // count) for i in range(count)]

    def work(part: slice) -> float:
        decoded = draft.grid.values(places[part], samples.dtype, chunk.early_nodata)
        return look(samples[part], decoded, flags[part], 0)

    figures = map_parallel(work, parts)
    return Candidate(Mode.LATTICE, sections, missed, look.join(figures))


def exact_draft(chunk: Chunk, profile: str) -> lattice_mode.Draft | None:
    """Exact coding: integers (floats that hold integers, too) on their own lattice, other floats by their bits."""
    if chunk.given.dtype.kind in "iu" or chunk.look.integral:
        grid = lattice_mode.for_integers(0, chunk.span)
        samples = chunk.samples
    else:
        grid = lattice_mode.for_bits()
        samples = chunk.original if chunk.look.special is None else fill_holes(chunk.original, chunk.look.special)
    try:
        return lattice_mode.draft(grid, grid.indices(samples)[0], chunk.mask, samples.dtype, profile)
    except BudgetError:
        return None


def exactly(draft: lattice_mode.Draft | None) -> Candidate | None:
    """A lossless candidate."""
    if draft is None:
        return None
    try:
        return Candidate(Mode.LATTICE, draft.encode()[0], None)
    except BudgetError:
        return None


def lossless(chunk: Chunk, profile: str) -> Candidate | None:
    """The candidate that keeps every bit; None where there is none."""
    return exactly(exact_draft(chunk, profile))


def promising(draft: lattice_mode.Draft | None, best: Candidate | None) -> lattice_mode.Draft | None:
    """A draft, unless it is estimated to become larger than the best candidate by more than estimates are wrong."""
    if draft is None or best is None or draft.bits <= DOUBT * 8 * best.nbytes:
        return draft
    return None
