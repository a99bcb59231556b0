"""Patches: a bijection of the coefficients of every plan, in the order that `labels` names."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xwalloc.errors import ConfigError
from xwalloc.models.patches import from_patches, labels, patch_grid, to_patches
from xwalloc.transform.tree import Plan, plan

plans = st.builds(
    plan,
    st.one_of(
        st.tuples(st.integers(1, 70)),
        st.tuples(st.integers(1, 40), st.integers(1, 40)),
        st.tuples(st.integers(1, 14), st.integers(1, 14), st.integers(1, 14)),
    ),
    st.integers(0, 4),
    st.sampled_from(["dyadic", "packet"]),
)


def numbered(geometry: Plan, lead: tuple[int, ...] = ()) -> np.ndarray:
    shape = (*lead, *geometry.shape)
    return np.arange(1, math.prod(shape) + 1, dtype=np.int32).reshape(shape)


@settings(max_examples=80, deadline=None)
@given(plans)
def test_round_trip_and_labels(geometry: Plan) -> None:
    coefficients = numbered(geometry, (2,))
    patches = to_patches(coefficients, geometry)
    count = math.prod(2**splits for splits in geometry.splits)
    assert patches.shape == (2, count, *patch_grid(geometry))
    assert patches.dtype == np.int32
    assert np.array_equal(from_patches(patches, geometry), coefficients)
    # Every coefficient once, and zeros elsewhere.
    assert np.array_equal(np.sort(patches[patches != 0]), np.sort(coefficients.reshape(-1)))
    named = labels(geometry)
    assert len(named) == count
    assert [label.subband for label in named] == sorted(label.subband for label in named)
    for label, plane in zip(named, patches[0], strict=True):
        subband = geometry.subbands[label.subband]
        assert (label.level, label.orientation) == (subband.level, subband.orientation)
        per_patch = [1 << (s - min(s, subband.level)) for s in geometry.splits]
        part = coefficients[0][subband.slices][
            tuple(slice(o, None, c) for o, c in zip(label.offset, per_patch, strict=False))
        ]
        assert np.array_equal(plane[tuple(slice(0, n) for n in part.shape)], part)
        assert np.count_nonzero(plane) == part.size


def test_order_of_planes() -> None:
    named = labels(plan((8, 8), 2, "dyadic"))
    assert [label.orientation for label in named] == [(0, 0), (0, 1), (1, 0), (1, 1)] + [
        o for o in ((0, 1), (1, 0), (1, 1)) for _ in range(4)
    ]
    assert [label.offset for label in named[4:8]] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_torch_agrees() -> None:
    torch = pytest.importorskip("torch")
    geometry = plan((1, 13, 22), 3, "dyadic")
    coefficients = numbered(geometry, (2, 3))
    patches = to_patches(torch.from_numpy(coefficients), geometry)
    assert np.array_equal(patches.numpy(), to_patches(coefficients, geometry))
    assert np.array_equal(from_patches(patches, geometry).numpy(), coefficients)


def test_wrong_shapes() -> None:
    geometry = plan((8, 8), 2)
    with pytest.raises(ConfigError, match="Expected coefficients of shape"):
        to_patches(np.zeros((8, 9)), geometry)
    with pytest.raises(ConfigError, match="Expected patches of shape"):
        from_patches(np.zeros((16, 2, 3)), geometry)
