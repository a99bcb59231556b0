"""The order of lattice mode: every sample once, neighbours known before, pyramids that agree with plain indexing."""

import itertools

import numpy as np
import pytest

from xwalloc.models import lattice_grid as g

EXTENTS = [(1, 1, 9), (1, 1, 64), (1, 7, 10), (1, 2, 33), (1, 40, 3), (3, 5, 8), (2, 9, 2), (1, 1, 1)]


def dimensions(extent):
    return 3 if extent[0] > 1 else 2 if extent[1] > 1 else 1


@pytest.mark.parametrize("extent", EXTENTS, ids=str)
def test_every_sample_is_visited_once(extent):
    grid, d = g.grid_of(extent, dimensions(extent)), dimensions(extent)
    seen = {(0, 0, 0)}
    for level in range(len(grid) - 2, -1, -1):
        for cz, cy, cx in g.CLASSES[d]:
            nz, ny, nx = grid[level, : g.NX + 1]
            for place in itertools.product(range(cz, nz, 2), range(cy, ny, 2), range(cx, nx, 2)):
                full = tuple(int(v) << level for v in place)
                assert full not in seen
                seen.add(full)
    assert seen == set(itertools.product(*map(range, extent)))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_taps_look_at_what_is_known(d):
    for rank, here in enumerate(g.CLASSES[d]):
        known = {(0, 0, 0), *g.CLASSES[d][:rank]}
        near, shift = g.mean_taps(tuple(range(3 - d, 3)), here)
        assert sum(weight for _, weight in near) == 1 << shift
        for offset in [o for tap in g.OWN[d][rank] for o in tap] + [o for o, _ in near]:
            assert tuple((a + b) & 1 for a, b in zip(here, offset, strict=True)) in known
            assert max(map(abs, offset)) < 2 * g.REACH[d]


def plane_of(pyramid, grid, level, d):
    """A level of a pyramid as an array, margins and all."""
    nz, ny, nx = (int(n) for n in grid[level, : g.NX + 1])
    reach = g.REACH[d]
    out = np.empty((nz, ny, nx + 4 * reach), int)
    for z, y, x in itertools.product(range(nz), range(ny), range(-2 * reach, nx + 2 * reach)):
        if nx > 1 or x % 2 == 0:
            out[z, y, x + 2 * reach] = pyramid[g.row_start.py_func(grid, level, z, y, x)]
        else:
            out[z, y, x + 2 * reach] = pyramid[g.row_start.py_func(grid, level, z, y, 0)]
    return out


@pytest.mark.parametrize("extent", EXTENTS, ids=str)
def test_pyramids_agree_with_plain_indexing(extent):
    """Gathered from the finest level, margins mirrored; and spread back."""
    d = dimensions(extent)
    grid = g.grid_of(extent, d)
    samples = np.arange(np.prod(extent)).reshape(extent) + 5
    pyramid = np.full(g.size_of_pyramid(grid), -1)
    for z, y, x in np.ndindex(*extent):
        pyramid[g.row_start(grid, 0, z, y, x)] = samples[z, y, x]
    for z, y in np.ndindex(*extent[:2]):
        for phase in range(2):
            g.mirror_row(pyramid, 0, grid, 0, z, y, phase)
    for level in range(len(grid) - 1):
        g.gather(pyramid, 0, grid, level)
    for level in range(len(grid)):
        part = samples[:: 1 << level, :: 1 << level, :: 1 << level]
        last = part.shape[2] - 1
        columns = [g.mirror(x, last) for x in range(-2 * g.REACH[d], last + 1 + 2 * g.REACH[d])]
        np.testing.assert_array_equal(plane_of(pyramid, grid, level, d), part[:, :, columns])
    copy = pyramid.copy()
    for level in range(len(grid) - 1, 0, -1):
        g.spread(copy, 0, grid, level)
    np.testing.assert_array_equal(copy, pyramid)
