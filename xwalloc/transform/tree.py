"""Which axes are split at which level, and where every subband lies.

All coefficients of a transform live in one array of the shape of its input. Splitting an axis segment of n entries puts
its ceil(n / 2) low-pass coefficients first and its floor(n / 2) high-pass coefficients behind them (Mallat layout).

An axis is split as often as its low-pass part has at least `MIN_LENGTH` entries, and at most `levels` times.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from xwalloc.errors import ConfigError
from xwalloc.types import cached_property

__all__ = [
    "KEPT_SUBBANDS", "MAX_LEVELS", "MIN_LENGTH", "Plan", "Step", "Subband", "Tree", "fitting_levels", "most_subbands",
    "plan", "split_count",
]  # fmt: skip

Tree = Literal["dyadic", "packet"]

MAX_LEVELS = 8

MIN_LENGTH = 4
"""An axis with fewer entries is not split."""

MOST_SUBBANDS = 1 << 16
"""Packet trees of three axes could have millions, each an object; two axes never have more than this."""

KEPT_SUBBANDS = 1 << 12
"""Plans of more subbands are made anew each time: they would fill the memory."""


@dataclass(frozen=True, kw_only=True)
class Subband:
    """A rectangle of coefficients.

    Parameters
    ----------
    level
        1 for the finest; that of the coarsest subbands for the low-pass (0 if nothing is split).
    orientation
        Dyadic: one bit per axis, 1 for high-pass. Packet: one path per axis, from 0 to 2^splits - 1, whose most
        significant bit is the first split (natural order), 1 for high-pass.
    slices
        Where it lies, one slice per signal axis.
    shape
        Its extent per signal axis.
    parent
        Dyadic: index in `Plan.subbands` of the same orientation one level coarser. -1 where there is none.
    """

    level: int
    orientation: tuple[int, ...]
    slices: tuple[slice, ...]
    shape: tuple[int, ...]
    parent: int


@dataclass(frozen=True, kw_only=True)
class Step:
    """One axis filtered once.

    Parameters
    ----------
    axis
        Signal axis, 0 for the first.
    segments
        Lengths of adjacent segments, from entry 0 of the axis on; each is split on its own.
    extents
        The block [0, extent) per signal axis that the step works on; along `axis` the sum of `segments`.
    """

    axis: int
    segments: tuple[int, ...]
    extents: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Geometry of a transform: see `plan`, which makes and caches them.

    Parameters
    ----------
    shape
        Lengths of the 1 to 3 signal axes.
    levels
        Splits asked for, 0 to 8.
    tree
        "dyadic" or "packet".
    """

    shape: tuple[int, ...]
    levels: int
    tree: Tree = "dyadic"

    def __post_init__(self) -> None:
        if not 1 <= len(self.shape) <= 3 or min(self.shape) < 1:
            raise ConfigError(f"Expected 1 to 3 signal axes of at least one sample. Got shape {self.shape}.")
        if not 0 <= self.levels <= MAX_LEVELS:
            raise ConfigError(f"Expected levels from 0 to {MAX_LEVELS}. Got {self.levels!r}.")
        if self.tree not in ("dyadic", "packet"):
            raise ConfigError(f"Expected tree 'dyadic' or 'packet'. Got {self.tree!r}.")
        subbands = most_subbands(self.shape, self.levels, self.tree)
        if subbands > MOST_SUBBANDS:
            raise ConfigError(f"Expected at most {MOST_SUBBANDS} subbands. Got {subbands}: take fewer levels.")

    @cached_property
    def splits(self) -> tuple[int, ...]:
        """How often each axis is split."""
        return tuple(min(self.levels, split_count(n)) for n in self.shape)

    @property
    def depth(self) -> int:
        """Number of levels: the largest of `splits`."""
        return max(self.splits)

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """Order of a forward transform: levels from fine (1) to coarse, in a level axes from last to first.

        An inverse transform takes them in exactly the reverse order.
        """
        steps = []
        for level in range(1, self.depth + 1):
            extents = self.shape if self.tree == "packet" else tuple(_lows(self, level - 1))
            for axis in reversed(range(len(self.shape))):
                if self.splits[axis] >= level:
                    segments = _segments(self.shape[axis], level - 1) if self.tree == "packet" else (extents[axis],)
                    steps.append(Step(axis=axis, segments=segments, extents=extents))
        return tuple(steps)

    @cached_property
    def subbands(self) -> tuple[Subband, ...]:
        """Coarse to fine; empty ones are left out.

        Dyadic: the low-pass, then level after level; in a level by ascending orientation, the last axis being the
        lowest bit. Packet: by ascending orientation, the last axis running fastest.
        """
        return tuple(_packet_subbands(self) if self.tree == "packet" else _dyadic_subbands(self))


def plan(shape: tuple[int, ...], levels: int, tree: Tree = "dyadic") -> Plan:
    """Geometry of a wavelet transform; kept for the next call unless it is large.

    Parameters
    ----------
    shape
        Lengths of the 1 to 3 signal axes.
    levels
        How often each axis is split at most, 0 to 8; short axes are split less often (see `split_count`).
    tree
        "dyadic": a level splits every axis that still can be split, and only the all-low subband goes on.
        "packet": every segment of every axis is split (full separable wavelet packet tree).

    Raises
    ------
    ConfigError
        If an argument is out of range, or there were more than 2^16 subbands.
    """
    kept = most_subbands(shape, levels, tree) <= KEPT_SUBBANDS
    return (_kept_plan if kept else _plan)(tuple(shape), levels, tree)


def _plan(shape: tuple[int, ...], levels: int, tree: Tree) -> Plan:
    return Plan(shape=shape, levels=levels, tree=tree)


_kept_plan = lru_cache(maxsize=256)(_plan)


def most_subbands(shape: Sequence[int], levels: int, tree: Tree) -> int:
    """How many subbands there are, at most."""
    splits = [min(levels, split_count(n)) for n in shape]
    return 1 << sum(splits) if tree == "packet" else 1 + max(splits, default=0) * ((1 << len(splits)) - 1)


def fitting_levels(shape: Sequence[int], levels: int, tree: Tree) -> int:
    """As many of these levels as there may be."""
    while most_subbands(shape, levels, tree) > MOST_SUBBANDS:
        levels -= 1
    return levels


def split_count(length: int) -> int:
    """How often an axis of this length can be split: while its low-pass part has at least 4 entries."""
    count = 0
    while length >= MIN_LENGTH:
        length, count = (length + 1) // 2, count + 1
    return count


def _lows(plan: Plan, level: int) -> list[int]:
    """Extent of the low-pass subband after `level` levels: ceil(n / 2^splits)."""
    return [-(-n >> min(level, splits)) for n, splits in zip(plan.shape, plan.splits, strict=True)]


def _segments(length: int, depth: int) -> tuple[int, ...]:
    """Lengths of the segments of an axis after `depth` uniform splits."""
    segments: tuple[int, ...] = (length,)
    for _ in range(depth):
        segments = tuple(part for n in segments for part in ((n + 1) // 2, n // 2))
    return segments


def _dyadic_subbands(plan: Plan) -> list[Subband]:
    rank = len(plan.shape)
    low = tuple(_lows(plan, plan.depth))
    slices = tuple(slice(0, n) for n in low)
    found = [Subband(level=plan.depth, orientation=(0,) * rank, slices=slices, shape=low, parent=-1)]
    index: dict[tuple[int, tuple[int, ...]], int] = {}
    for level in range(plan.depth, 0, -1):
        whole, low = tuple(_lows(plan, level - 1)), tuple(_lows(plan, level))
        for bits in itertools.product((0, 1), repeat=rank):
            if not any(bits) or any(bit and splits < level for bit, splits in zip(bits, plan.splits, strict=True)):
                continue
            slices = tuple(slice(k, n) if bit else slice(0, k) for bit, k, n in zip(bits, low, whole, strict=True))
            shape = tuple(s.stop - s.start for s in slices)
            if 0 in shape:
                continue
            index[level, bits] = len(found)
            parent = index.get((level + 1, bits), -1)
            found.append(Subband(level=level, orientation=bits, slices=slices, shape=shape, parent=parent))
    return found


def _packet_subbands(plan: Plan) -> list[Subband]:
    axes = []
    for n, splits in zip(plan.shape, plan.splits, strict=True):
        ends = list(itertools.accumulate(_segments(n, splits)))
        axes.append([slice(a, b) for a, b in zip([0, *ends], ends, strict=False)])
    found = []
    for path in itertools.product(*(range(len(axis)) for axis in axes)):
        slices = tuple(axis[k] for axis, k in zip(axes, path, strict=True))
        shape = tuple(s.stop - s.start for s in slices)
        if 0 not in shape:
            found.append(Subband(level=plan.depth, orientation=path, slices=slices, shape=shape, parent=-1))
    return found
