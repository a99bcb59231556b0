"""How a network looks at the coefficients of a tree: as planes over a grid on which it is a plain convolution.

A packet tree is looked at once: one plane per subband, on the grid of patches (patches.py).

A dyadic tree is looked at once per level but the coarsest: subbands of the next coarser level (the parents), one plane
each, and those of the level itself, 2^d planes each, on the grid of the parents. All these views have the same number
of planes, whatever the level, so that one network serves them all and any number of levels. Coefficients of the
coarsest level are too few to be worth correcting.

A plan that splits some signal axis less often than the others has no view of that level: there, nothing is corrected.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from xwalloc.models.patches import patch_grid, places
from xwalloc.transform.tree import Plan, Subband, Tree

__all__ = ["Shape", "View", "shape_of", "views"]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What is the same in all views of a tree.

    Parameters
    ----------
    context, own
        Planes that are only looked at, and planes that are corrected: first the ones, then the others.
    subbands
        Subbands that these planes come from; those of the own planes are the last ones.
    own_subbands
        How many of them are corrected.
    lows
        Planes without any high-pass, the first ones (0 or 1): their differences are looked at, too.
    """

    context: int
    own: int
    subbands: int
    own_subbands: int
    lows: int

    @property
    def planes(self) -> int:
        """All planes."""
        return self.context + self.own


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """Planes of one level.

    Parameters
    ----------
    index : (plane, *grid) int64
        Flat Mallat indices; -1 where there is no coefficient.
    subbands
        Indices in `Plan.subbands` of the subbands of all planes, in their order.
    own
        The subbands that are corrected.
    """

    index: NDArray[np.int64]
    subbands: tuple[int, ...]
    own: tuple[Subband, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        """Extent of the planes."""
        return self.index.shape[1:]


def shape_of(tree: Tree, dimensions: int, levels: int) -> Shape:
    """Counts of planes of the views of a tree over `dimensions` signal axes; `levels` matter for packets only."""
    if tree == "packet":
        planes = 1 << (levels * dimensions)
        return Shape(context=0, own=planes, subbands=planes, own_subbands=planes, lows=1)
    highs = (1 << dimensions) - 1
    own = highs << dimensions
    return Shape(context=highs, own=own, subbands=2 * highs, own_subbands=highs, lows=0)


@lru_cache(maxsize=64)
def views(plan: Plan, dimensions: int, levels: int) -> tuple[View, ...]:
    """Views of a plan whose last `dimensions` axes are its signal axes, coarse to fine.

    Parameters
    ----------
    plan
        Geometry.
    dimensions
        Number of signal axes; axes before them must have extent 1, else there are no views.
    levels
        Levels of a packet tree; a plan with other splits has no views. Of no meaning for a dyadic tree.
    """
    lead = len(plan.shape) - dimensions
    if lead < 0 or any(n != 1 for n in plan.shape[:lead]):
        return ()
    splits = plan.splits[lead:]
    if plan.tree == "packet":
        if set(splits) != {levels}:
            return ()
        grid = patch_grid(plan)
        ones = (1,) * len(plan.shape)
        index = np.concatenate([places(plan, s, ones, grid) for s in plan.subbands])
        own = plan.subbands
        return (_view(index, tuple(range(len(own))), own, lead),)
    found = []
    for level in range(min(splits) - 1, 0, -1):
        grid = tuple(-(-n >> min(level + 1, s)) for n, s in zip(plan.shape, plan.splits, strict=True))
        counts = (1,) * lead + (2,) * dimensions
        levelled = [(i, s) for i, s in enumerate(plan.subbands) if any(s.orientation)]
        parents = [(i, s) for i, s in levelled if s.level == level + 1]
        children = [(i, s) for i, s in levelled if s.level == level]
        parts = [places(plan, s, (1,) * len(plan.shape), grid) for _, s in parents]
        parts += [places(plan, s, counts, grid) for _, s in children]
        numbers = tuple(i for i, _ in parents + children)
        found.append(_view(np.concatenate(parts), numbers, tuple(s for _, s in children), lead))
    return tuple(found)


def _view(index: NDArray[np.int64], subbands: tuple[int, ...], own: tuple[Subband, ...], lead: int) -> View:
    index = np.ascontiguousarray(index.reshape(len(index), *index.shape[1 + lead :]))
    index.flags.writeable = False
    return View(index=index, subbands=subbands, own=own)
