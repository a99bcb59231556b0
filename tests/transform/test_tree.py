"""Geometry of trees: every coefficient belongs to exactly one subband."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xwalloc.errors import ConfigError
from xwalloc.transform.tree import Plan, fitting_levels, most_subbands, plan, split_count


@pytest.mark.parametrize(("n", "count"), [(1, 0), (3, 0), (4, 1), (6, 1), (7, 2), (8, 2), (12, 2), (13, 3), (1024, 9)])
def test_split_count(n: int, count: int) -> None:
    assert split_count(n) == count


@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple),
    levels=st.integers(0, 8),
    tree=st.sampled_from(["dyadic", "packet"]),
)
def test_subbands_tile_the_array(shape: tuple[int, ...], levels: int, tree: str) -> None:
    p = plan(shape, levels, tree)
    seen = np.zeros(shape, int)
    for band in p.subbands:
        assert seen[band.slices].shape == band.shape
        assert 0 not in band.shape
        seen[band.slices] += 1
    assert (seen == 1).all()
    assert all(s <= levels for s in p.splits)
    for band in p.subbands:
        if band.parent >= 0:
            parent = p.subbands[band.parent]
            assert (parent.level, parent.orientation) == (band.level + 1, band.orientation)
            for a, b, splits in zip(band.shape, parent.shape, p.splits, strict=True):
                assert abs(a - 2 * b) <= 2 if splits > band.level else a == b


def test_dyadic_order() -> None:
    p = plan((16, 20), 2)
    assert [(b.level, b.orientation, b.parent) for b in p.subbands] == [
        (2, (0, 0), -1),
        (2, (0, 1), -1),
        (2, (1, 0), -1),
        (2, (1, 1), -1),
        (1, (0, 1), 1),
        (1, (1, 0), 2),
        (1, (1, 1), 3),
    ]
    assert p.subbands[4].slices == (slice(0, 8), slice(10, 20))


def test_axes_that_cannot_be_split_any_more() -> None:
    p = plan((5, 64), 3)
    assert p.splits == (1, 3)
    assert [(b.level, b.orientation) for b in p.subbands] == [
        (3, (0, 0)), (3, (0, 1)), (2, (0, 1)), (1, (0, 1)), (1, (1, 0)), (1, (1, 1)),
    ]  # fmt: skip
    assert [b.parent for b in p.subbands] == [-1, -1, 1, 2, -1, -1]
    assert [step.axis for step in p.steps] == [1, 0, 1, 1]
    assert plan((3, 2), 4).subbands[0].shape == (3, 2)
    assert plan((3, 2), 4).subbands[0].level == 0


def test_packet_order() -> None:
    p = plan((9, 8), 1, "packet")
    assert [b.orientation for b in p.subbands] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [b.shape for b in p.subbands] == [(5, 4), (5, 4), (4, 4), (4, 4)]
    assert [b.shape for b in plan((15,), 2, "packet").subbands] == [(4,), (4,), (4,), (3,)]


def test_plans_are_cached_and_hashable() -> None:
    assert plan((8, 8), 1) is plan((8, 8), 1)
    assert plan((8, 8), 1) == plan((8, 8), 1, "dyadic")
    assert len({plan((8, 8), 1), plan((8, 8), 1, "packet")}) == 2


@pytest.mark.parametrize(
    "arguments", [((), 1), ((8, 8, 8, 8), 1), ((0, 8), 1), ((8,), 9), ((8,), -1), ((8,), 1, "full")]
)
def test_wrong_arguments(arguments: tuple) -> None:
    with pytest.raises(ConfigError, match="Expected"):
        plan(*arguments)


@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple),
    levels=st.integers(0, 8),
    tree=st.sampled_from(["dyadic", "packet"]),
)
def test_most_subbands(shape: tuple[int, ...], levels: int, tree: str) -> None:
    assert len(plan(shape, levels, tree).subbands) <= most_subbands(shape, levels, tree)


def test_packet_trees_have_a_limit() -> None:
    """No plan of millions of subbands is made, and none of thousands kept."""
    assert fitting_levels((1024, 1024), 8, "packet") == 8
    assert fitting_levels((256, 256, 256), 8, "dyadic") == 8
    assert fitting_levels((256, 256, 256), 8, "packet") == 5
    assert fitting_levels((256, 256, 16), 8, "packet") == 6
    with pytest.raises(ConfigError, match="65536 subbands"):
        Plan(shape=(256, 256, 256), levels=6, tree="packet")
    assert plan((64, 64), 6, "packet") is plan((64, 64), 6, "packet")
    assert plan((256, 256), 7, "packet") is not plan((256, 256), 7, "packet")
