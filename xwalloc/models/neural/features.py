"""What a network sees of symbols and magnitude codes: integers of magnitude 127 or less.

Symbols are companded: 8 to a symbol up to 4, then 12 to an octave, linear within it; 127 from about 950 on. The
networks shared by spectral components see a component with its signs, and of its neighbours only the magnitudes: the
signs of basis vectors are arbitrary, so that those of two components have no relation that another scene would share.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from array_api_compat import array_namespace, device
from numpy.typing import NDArray

from xwalloc.models.neural.arithmetic import LARGEST
from xwalloc.models.neural.views import View
from xwalloc.models.patches import gather

__all__ = ["CODE_ONE", "companded", "inputs", "spectral_codes"]

CAP = 1023
"""Symbols beyond this magnitude look like this one."""

WIDE = 1 << 22
"""Low-pass symbols are clipped here before their differences are taken."""

PER_SYMBOL, LINEAR, PER_OCTAVE = 8, 4, 12

CODE_ONE = 17
"""Magnitude code of a mean magnitude of 1."""


def _table() -> NDArray[np.int8]:
    size = np.arange(CAP + 1)
    octave = np.array([max(0, int(n).bit_length() - 3) for n in size])
    start = LINEAR << octave
    companded = LINEAR * PER_SYMBOL + PER_OCTAVE * octave + PER_OCTAVE * (size - start) // start
    return np.minimum(np.where(size <= LINEAR, PER_SYMBOL * size, companded), LARGEST).astype(np.int8)


TABLE = _table()


def companded(symbols: Any) -> Any:
    """Companded symbols, int8, signs kept, of an integer array of any array-API library."""
    xp = array_namespace(symbols)
    clipped = xp.clip(symbols, -CAP, CAP)
    table = xp.asarray(TABLE, device=device(symbols))
    flat = xp.reshape(xp.abs(clipped), (-1,))
    sizes = xp.reshape(xp.take(table, xp.astype(flat, xp.int64), axis=0), clipped.shape)
    return sizes * xp.astype(xp.sign(clipped), xp.int8)


def inputs(symbols: Any, view: View, lows: int, first: int, last: int, shared: bool) -> tuple[Any, Any]:
    """Input planes of a network.

    Parameters
    ----------
    symbols : (component, n) int32
        Symbols of a batch item, flat Mallat layout.
    view
        What to look at.
    lows
        How many of its first planes have no high-pass.
    first, last
        Range of components; all of them for a network of a fixed band set.
    shared
        Whether the network is shared by components.

    Returns
    -------
    planes : (plane, item, *grid) int8
        Shared, an item being a component: its companded planes, their magnitudes, differences of low planes to the
        place before along every axis, magnitudes of the component before and of the one behind (zeros if there is
        none). Fixed band set, a single item: the first three of these for every component.
    signs : (plane, item, *grid) int8
        Signs of the component's (or all components') symbols.
    """
    xp = array_namespace(symbols)
    count = symbols.shape[0]
    low, high = (max(0, first - 1), min(count, last + 1)) if shared else (first, last)
    seen = gather(companded(symbols[low:high, :]), view.index)
    sizes = xp.abs(seen)
    own = slice(first - low, last - low)
    parts = [seen[own, ...], sizes[own, ...]]
    if lows:
        parts.append(_differences(symbols[first:last, :], view, lows))
    if shared:
        nothing = xp.zeros((1, *seen.shape[1:]), dtype=seen.dtype, device=device(seen))
        around = xp.concat([nothing] * (first == 0) + [sizes] + [nothing] * (last == count), axis=0)
        parts += [around[: last - first, ...], around[2 : 2 + last - first, ...]]
    planes = xp.concat(parts, axis=1)
    signs = xp.sign(seen[own, ...])
    if shared:
        return xp.moveaxis(planes, 1, 0), xp.moveaxis(signs, 1, 0)
    grid = view.grid
    return xp.reshape(planes, (-1, 1, *grid)), xp.reshape(signs, (-1, 1, *grid))


def _differences(symbols: Any, view: View, lows: int) -> Any:
    """Companded differences (component, axis * low, *grid) of low planes to the place before; 0 at the first place."""
    xp = array_namespace(symbols)
    planes = xp.clip(gather(symbols, view.index[:lows]), -WIDE, WIDE)
    found = []
    for axis in range(2, planes.ndim):
        behind = (*(slice(None),) * axis, slice(1, None))
        before = (*(slice(None),) * axis, slice(None, -1))
        steps = companded(planes[behind] - planes[before])
        shape = list(steps.shape)
        shape[axis] = 1
        found.append(xp.concat([xp.zeros(shape, dtype=steps.dtype, device=device(steps)), steps], axis=axis))
    return xp.concat(found, axis=1)


def spectral_codes(codes: NDArray[np.int64], first: int, last: int, shared: bool) -> NDArray[np.int64]:
    """Magnitude codes (component, subband of a view) as inputs: (input, item), four to an octave, 0 for a mean of 1.

    Shared: of the component, the one before and the one behind (as if all zero if there is none). Fixed: of all.
    """
    scaled: NDArray[np.int64] = np.clip(2 * (codes.astype(np.int64) - CODE_ONE), -LARGEST, LARGEST)
    if not shared:
        return scaled[first:last].reshape(-1, 1)
    around = np.pad(scaled, ((1, 1), (0, 0)), constant_values=-2 * CODE_ONE)
    rows = [around[1 + first : 1 + last], around[first:last], around[2 + first : 2 + last]]
    return np.concatenate(rows, axis=1).T
