# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""The order in which lattice mode visits the samples of a plane: from a coarse grid to ever finer ones.

Level l of a plane is the grid of the samples whose coordinates are multiples of 2^l. The coarsest level is one sample.
A finer level adds samples in *passes*, one for each *class*: which of the coordinates, in units of the level, are odd.
Classes with more odd coordinates come first. Whatever was visited before is known, on both sides of a sample.

A *pyramid* keeps every level of a plane, each row split by the parity of x: even samples, then odd ones, each with a
margin on either side in which the plane is mirrored. So neighbours of the samples of a pass lie side by side, too, and
a pass over a row is arithmetic on whole runs of memory.
"""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
from numpy.typing import NDArray

from xwalloc.jit import inline_kernel, kernel

__all__ = [
    "CLASSES",
    "FAR",
    "NEAR",
    "OWN",
    "OWN_LEVELS",
    "REACH",
    "REFERENCE",
    "RING",
    "SEQUENTIAL",
    "SEQUENTIAL_REFERENCE",
    "gather",
    "grid_of",
    "groups",
    "mean_taps",
    "mirror",
    "mirror_row",
    "neighbours",
    "row_start",
    "spread",
]

Offset = tuple[int, int, int]
Tap = tuple[Offset, ...]
"""One offset, or two opposite ones that share a coefficient."""

REACH = {1: 16, 2: 2, 3: 2}
"""Width of the margins by number of signal axes; no offset looks further, halved."""

OWN_LEVELS = {1: 4, 2: 1, 3: 1}
"""So many of the finest levels have predictors of their own; all coarser ones share theirs."""

MOST_OWN = {1: 16, 2: 8, 3: 8}

CLASSES: dict[int, tuple[Offset, ...]] = {
    d: tuple(
        sorted(
            ((z, y, x) for z, y, x in np.ndindex(2, 2, 2) if (z, y, x) > (0, 0, 0) and not any((z, y, x)[: 3 - d])),
            key=lambda c: (-sum(c), c),
        )
    )
    for d in (1, 2, 3)
}
"""Classes in the order of their passes."""


def _parity(offset: Offset) -> Offset:
    z, y, x = (component & 1 for component in offset)
    return z, y, x


def _known(d: int, rank: int) -> list[Offset]:
    """Offsets, nearest first, from a sample of a class to those that were visited before."""
    here = CLASSES[d][rank]
    before = {(0, 0, 0), *CLASSES[d][:rank]}
    reach = 2 * REACH[d] - 1
    span = range(-reach, reach + 1)
    axes = [span if axis >= 3 - d else range(1) for axis in range(3)]
    offsets = [
        (z, y, x) for z, y, x in itertools.product(*axes) if _parity((here[0] + z, here[1] + y, here[2] + x)) in before
    ]
    return sorted(offsets, key=lambda o: (sum(c * c for c in o), o))


def _opposite(offset: Offset) -> Offset:
    return -offset[0], -offset[1], -offset[2]


def _pairs(offsets: list[Offset]) -> list[Tap]:
    return [(o, _opposite(o)) for o in offsets if o < (0, 0, 0)]


OWN: dict[int, tuple[tuple[Tap, ...], ...]] = {
    d: tuple(
        tuple([(o,) for o in _known(d, rank)] if d == 1 else _pairs(_known(d, rank)))[: MOST_OWN[d]]
        for rank in range(len(CLASSES[d]))
    )
    for d in (1, 2, 3)
}
"""Taps of fitted predictors in the channel itself, by class; a predictor uses the first so many of them."""

HERE: Offset = (0, 0, 0)
W, WW, WWW = (0, 0, -1), (0, 0, -2), (0, 0, -3)
N, NW, NE, NN = (0, -1, 0), (0, -1, -1), (0, -1, 1), (0, -2, 0)
NWW, NEE, NNW, NNE = (0, -1, -2), (0, -1, 2), (0, -2, -1), (0, -2, 1)
E, S, SW, SE = (0, 0, 1), (0, 1, 0), (0, 1, -1), (0, 1, 1)
U, UW, UE, UN, US, UNW = (-1, 0, 0), (-1, 0, -1), (-1, 0, 1), (-1, -1, 0), (-1, 1, 0), (-1, -1, -1)

SEQUENTIAL: dict[int, tuple[Tap, ...]] = {
    1: tuple(((0, 0, -lag),) for lag in range(1, 33)),
    2: tuple((o,) for o in (W, N, NW, NE, WW, NN, NNE, NNW, NEE, NWW)),
    3: tuple((o,) for o in (U, W, N, NW, NE, UW, UN, UE, US, UNW, WW, NN, (-2, 0, 0))),
}
"""Taps in the channel itself where samples are visited one after the other."""

SEQUENTIAL_REFERENCE: dict[int, tuple[Tap, ...]] = {
    1: tuple((o,) for o in (HERE, W, E, WW, (0, 0, 2))),
    2: tuple((o,) for o in (HERE, W, N, NW, NE, E, S, SW, SE)),
    3: tuple((o,) for o in (HERE, U, W, N, (1, 0, 0), S, E, NW, NE)),
}
"""Taps in a channel that was visited before, likewise."""

REFERENCE: dict[int, tuple[Tap, ...]] = {
    1: ((HERE,), ((0, 0, -1),), ((0, 0, 1),), ((0, 0, -2),), ((0, 0, 2),)),
    2: ((HERE,), *_pairs([(0, 0, -1), (0, -1, 0), (0, -1, -1), (0, -1, 1)])),
    3: ((HERE,), *_pairs([(0, 0, -1), (0, -1, 0), (-1, 0, 0)])),
}
"""Taps in a channel that was visited before, likewise."""


def mean_taps(axes: tuple[int, ...], odd: Offset) -> tuple[list[tuple[Offset, int]], int]:
    """The nearest known neighbours of a class, their weights, and the base-2 logarithm of the sum of those.

    They are the corners along the odd axes, and the direct neighbours along the even ones among `axes`.
    """
    odd_axes = [a for a in axes if odd[a]]
    even_axes = [a for a in axes if not odd[a]]
    corners, direct = [], []
    for signs in itertools.product((-1, 1), repeat=len(odd_axes)):
        offset = [0, 0, 0]
        for axis, sign in zip(odd_axes, signs, strict=True):
            offset[axis] = sign
        corners.append((offset[0], offset[1], offset[2]))
    for axis in even_axes:
        for sign in (-1, 1):
            offset = [0, 0, 0]
            offset[axis] = sign
            direct.append((offset[0], offset[1], offset[2]))
    most = max(len(corners), len(direct))
    taps = [(o, most // len(corners)) for o in corners] + [(o, most // len(direct)) for o in direct]
    return taps, int(np.log2(sum(weight for _, weight in taps)))


def _far(d: int, rank: int) -> list[Offset]:
    """The next nearest known neighbours: all of one distance."""
    if d == 3:
        return []
    near = {o for o, _ in mean_taps(tuple(range(3 - d, 3)), CLASSES[d][rank])[0]}
    rest = [o for o in _known(d, rank) if o not in near]
    return [o for o in rest if sum(c * c for c in o) == sum(c * c for c in rest[0])]


def _packed(lists: list[list[tuple[int, ...]]], width: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows of all lists, and where each list begins and ends."""
    rows = [row for items in lists for row in items]
    edges = np.cumsum([0, *map(len, lists)])
    return np.array(rows, np.int64).reshape(-1, width), np.stack([edges[:-1], edges[1:]], axis=1)


def _number(bits: Offset) -> int:
    return 4 * bits[0] + 2 * bits[1] + bits[2]


def _near_lists() -> list[list[tuple[int, ...]]]:
    lists: list[list[tuple[int, ...]]] = []
    for active in np.ndindex(2, 2, 2):
        axes = tuple(a for a in range(3) if active[a])
        for z, y, x in np.ndindex(2, 2, 2):
            odd = (z, y, x)
            if any(odd) and not any(o and not a for o, a in zip(odd, active, strict=True)):
                lists.append([(*o, weight) for o, weight in mean_taps(axes, odd)[0]])
            else:
                lists.append([])
    return lists


NEAR = _packed(_near_lists(), 4)
"""Offsets and weights of `mean_taps`; the range of those of a class is at 8 times the number of the axes that the level
extends along plus that of the class, where z counts 4, y 2, x 1."""


def _far_lists(d: int) -> list[list[tuple[int, ...]]]:
    return [
        list(_far(d, CLASSES[d].index((z, y, x)))) if (z, y, x) in CLASSES[d] else [] for z, y, x in np.ndindex(2, 2, 2)
    ]


FAR = {d: _packed(_far_lists(d), 3) for d in (1, 2, 3)}
"""Next nearest neighbours, by the number of the class; none are looked at where a level lacks an axis of the plane."""


def _ring_lists() -> list[list[tuple[int, ...]]]:
    steps = np.eye(3, dtype=int)
    return [
        [tuple(sign * steps[a]) for a in range(3) if active[a] for sign in (-1, 1)] for active in np.ndindex(2, 2, 2)
    ]


RING = _packed(_ring_lists(), 3)
"""Direct neighbours, by the number of the axes that the level extends along."""


def groups(d: int, levels: int) -> int:
    """How many predictors, and magnitudes, an interpolated channel with so many levels has."""
    return min(OWN_LEVELS[d] + 1, max(levels - 1, 1)) * len(CLASSES[d])


NZ, NY, NX, EVEN, ROW, BASE, ACTIVE, FULL, GROUP, REACHES = range(10)
"""Columns of a grid."""


@cache
def grid_of(extent: tuple[int, int, int], d: int) -> NDArray[np.int64]:
    """Levels of a plane, finest first, as rows: extent; even samples of a row, length of a row and offset in the
    pyramid; number of the axes that the level extends along; whether these are all `d`; its first group; reach.

    The pyramid has ``grid[-1, BASE] + grid[-1, ROW]`` values.
    """
    rows = []
    base, level, shape = 0, 0, list(extent)
    while True:
        active = _number((int(shape[0] > 1), int(shape[1] > 1), int(shape[2] > 1)))
        length = shape[2] + 4 * REACH[d]
        first = min(level, OWN_LEVELS[d]) * len(CLASSES[d])
        rows.append((*shape, (shape[2] + 1) // 2, length, base, active, active == (1 << d) - 1, first, REACH[d]))
        base += shape[0] * shape[1] * length
        if active == 0:
            grid = np.array(rows, np.int64)
            grid.flags.writeable = False
            return grid
        level, shape = level + 1, [(n + 1) // 2 for n in shape]


def size_of_pyramid(grid: NDArray[np.int64]) -> int:
    """Values of a pyramid."""
    return int(grid[-1, BASE] + grid[-1, ROW])


@inline_kernel
def mirror(position, last):
    """A coordinate from outside of [0, last] mirrored into it; its parity stays."""
    if last == 0:
        return 0
    while position < 0 or position > last:
        position = -position if position < 0 else 2 * last - position
    return position


@inline_kernel
def row_start(grid, level, z, y, x):
    """Where in a pyramid the samples x, x + 2, ... of a row of a level begin; x may lie in the margin."""
    phase = x & 1
    reach = grid[level, REACHES]
    start = grid[level, BASE] + (z * grid[level, NY] + y) * grid[level, ROW] + reach + ((x - phase) >> 1)
    return start + (grid[level, EVEN] + 2 * reach if phase else 0)


@kernel
def mirror_row(pyramid, first, grid, level, z, y, phase):
    """Fill the margins of one half of a row."""
    reach = grid[level, REACHES]
    last = grid[level, NX] - 1
    count = grid[level, EVEN] if phase == 0 else grid[level, NX] - grid[level, EVEN]
    if count == 0:
        return
    start = first + row_start(grid, level, z, y, phase)
    for j in range(1, reach + 1):
        pyramid[start - j] = pyramid[start + (mirror(phase - 2 * j, last) >> 1)]
        after = count - 1 + j
        pyramid[start + after] = pyramid[start + (mirror(2 * after + phase, last) >> 1)]


@kernel
def gather(pyramid, first, grid, level):
    """Copy the samples with even coordinates of a level into the next coarser one: the inverse of `spread`."""
    coarse = level + 1
    for z in range(grid[coarse, NZ]):
        for y in range(grid[coarse, NY]):
            source = first + row_start(grid, level, 2 * z, 2 * y, 0)
            for phase in range(2):
                target = first + row_start(grid, coarse, z, y, phase)
                count = grid[coarse, EVEN] if phase == 0 else grid[coarse, NX] - grid[coarse, EVEN]
                for i in range(count):
                    pyramid[target + i] = pyramid[source + 2 * i + phase]
                mirror_row(pyramid, first, grid, coarse, z, y, phase)


@kernel
def spread(pyramid, first, grid, level):
    """Copy a level into the samples with even coordinates of the next finer one."""
    fine = level - 1
    for z in range(grid[level, NZ]):
        for y in range(grid[level, NY]):
            target = first + row_start(grid, fine, 2 * z, 2 * y, 0)
            even, odd = first + row_start(grid, level, z, y, 0), first + row_start(grid, level, z, y, 1)
            for i in range(grid[level, EVEN]):
                pyramid[target + 2 * i] = pyramid[even + i]
            for i in range(grid[level, NX] - grid[level, EVEN]):
                pyramid[target + 2 * i + 1] = pyramid[odd + i]
            mirror_row(pyramid, first, grid, fine, 2 * z, 2 * y, 0)


def neighbours(d: int) -> tuple[NDArray[np.int64], ...]:
    """What kernels take to find neighbours: rows and ranges of `NEAR`, `FAR` and `RING`."""
    return (*NEAR, *FAR[d], *RING)
