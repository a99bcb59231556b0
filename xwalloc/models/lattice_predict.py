# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Integer linear prediction of the samples of a channel from samples that are already decoded.

Positions are (z, y, x) inside a *slab* (segments.py), scanned with x fastest. A *tap* is a coefficient on the sample at
an offset from the one that is predicted: in the channel itself (then the offset points backwards in scan order), or in
a *reference*, a channel that was coded before (then it may point anywhere).

Borders. A tap that points outside of the slab is clamped to it, axis by axis. A tap with a backward offset (in the
channel or in a reference) must still point before the sample after clamping; where it does not, it points to the west
neighbour, in the first column to the north, in the first line of a slice to the slice before. The first sample of
a slab has none of them: its prediction is the start value of the plane.

Overflow. For 32-bit samples |coefficient| < 2^15 and at most `MAX_TAPS` = 128 taps keep sums below
2^31 2^15 2^7 = 2^53. For 64-bit samples the coefficients of the plain predictors are used, and arithmetic wraps modulo
2^64 as the residuals do.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from xwalloc.jit import allocating_kernel, kernel

__all__ = ["MAX_REFERENCES", "MAX_SHIFT", "MAX_TAPS", "OWN", "PLAIN", "REFERENCE", "TILE", "Plain", "run"]

MAX_TAPS = 128
MAX_REFERENCES = 8
MAX_SHIFT = 12
TILE = 1024
"""Samples whose sums are accumulated at a time (8 KiB: first-level cache)."""

OUTLIER = 8.0
"""Residuals count for at most so many times the mean magnitude of their plane."""

Offset = tuple[int, int, int]

W, WW, WWW = (0, 0, -1), (0, 0, -2), (0, 0, -3)
N, NW, NE, NN = (0, -1, 0), (0, -1, -1), (0, -1, 1), (0, -2, 0)
NWW, NEE, NNW, NNE = (0, -1, -2), (0, -1, 2), (0, -2, -1), (0, -2, 1)
E, S, SW, SE = (0, 0, 1), (0, 1, 0), (0, 1, -1), (0, 1, 1)
U, UW, UE, UN, US, UNW = (-1, 0, 0), (-1, 0, -1), (-1, 0, 1), (-1, -1, 0), (-1, 1, 0), (-1, -1, -1)
HERE = (0, 0, 0)

OWN: dict[int, tuple[Offset, ...]] = {
    1: tuple((0, 0, -lag) for lag in range(1, 33)),
    2: (W, N, NW, NE, WW, NN, NNE, NNW, NEE, NWW),
    3: (U, W, N, NW, NE, UW, UN, UE, US, UNW, WW, NN, (-2, 0, 0)),
}
"""Offsets in the channel itself by number of signal axes; a fitted predictor uses the first so many of them."""

REFERENCE: dict[int, tuple[Offset, ...]] = {
    1: (HERE, W, E, WW, (0, 0, 2)),
    2: (HERE, W, N, NW, NE, E, S, SW, SE),
    3: (HERE, U, W, N, (1, 0, 0), S, E, NW, NE),
}
"""Offsets in a reference, likewise."""


class Plain(IntEnum):
    """Predictors without coefficients of their own; `FITTED` stands for one with."""

    PREVIOUS = 0
    SECOND = 1
    THIRD = 2
    NORTH = 3
    PLANE = 4
    UP = 5
    CUBE = 6
    REFERENCE = 7
    REFERENCE_PREVIOUS = 8
    REFERENCE_PLANE = 9
    FITTED = 10


PLAIN: dict[Plain, tuple[int, dict[Offset, int], dict[Offset, int]]] = {
    Plain.PREVIOUS: (1, {W: 1}, {}),
    Plain.SECOND: (1, {W: 2, WW: -1}, {}),
    Plain.THIRD: (1, {W: 3, WW: -3, WWW: 1}, {}),
    Plain.NORTH: (2, {N: 1}, {}),
    Plain.PLANE: (2, {W: 1, N: 1, NW: -1}, {}),
    Plain.UP: (3, {U: 1}, {}),
    Plain.CUBE: (3, {U: 1, W: 1, N: 1, UW: -1, UN: -1, NW: -1, UNW: 1}, {}),
    Plain.REFERENCE: (1, {}, {HERE: 1}),
    Plain.REFERENCE_PREVIOUS: (1, {W: 1}, {HERE: 1, W: -1}),
    Plain.REFERENCE_PLANE: (2, {W: 1, N: 1, NW: -1}, {HERE: 1, W: -1, N: -1, NW: 1}),
}
"""The fewest signal axes each makes sense for, and its taps in the channel and in the first reference."""


@kernel
def wrap(value, width):
    """A 64-bit integer modulo 2^width, as a signed one."""
    if width == 32:
        return ((value + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
    return value


@kernel
def _border(values, origin, nz, ny, nx, sz, sy, z, y, x, taps, bias, start):
    """Sum of the taps of one sample near the border; see the head of this module."""
    if x > 0:
        stand_in = z * sz + y * sy + x - 1
    elif y > 0:
        stand_in = z * sz + (y - 1) * sy
    elif z > 0:
        stand_in = (z - 1) * sz
    else:
        return start, True
    total = bias
    for t in range(taps.shape[0]):
        dz, dy, dx = taps[t, 1], taps[t, 2], taps[t, 3]
        tz = min(max(z + dz, 0), nz - 1)
        ty = min(max(y + dy, 0), ny - 1)
        tx = min(max(x + dx, 0), nx - 1)
        at = tz * sz + ty * sy + tx
        if dz < 0 or (dz == 0 and (dy < 0 or (dy == 0 and dx < 0))):
            if tz > z or (tz == z and (ty > y or (ty == y and tx >= x))):
                at = stand_in
        total += taps[t, 4] * np.int64(values[origin + taps[t, 0] + at])
    return total, False


@kernel
def _plane(
    values, residuals, mask, origin, nz, ny, nx, sz, sy, taps, lags, bias, shift, start, width, decoding, sums
):  # fmt: skip
    """Predict one plane; the taps include the lags (in-line taps of the channel itself), which come last."""
    has_mask = mask.shape[0] > 0
    half = (1 << shift) >> 1
    order = lags.shape[0]
    others = taps[: taps.shape[0] - order]
    before_z = before_y = after_z = after_y = after_x = 0
    before_x = order
    for t in range(others.shape[0]):
        before_z, after_z = max(before_z, -others[t, 1]), max(after_z, others[t, 1])
        before_y, after_y = max(before_y, -others[t, 2]), max(after_y, others[t, 2])
        before_x, after_x = max(before_x, -others[t, 3]), max(after_x, others[t, 3])
    for z in range(nz):
        for y in range(ny):
            row = origin + z * sz + y * sy
            line = values[row : row + nx]
            coded = residuals[row : row + nx]
            inside = z >= before_z and z < nz - after_z and y >= before_y and y < ny - after_y
            left = min(before_x, nx) if inside else nx
            right = max(nx - after_x, left)
            tile = 0
            for x in range(nx):
                first = False
                if x < left or x >= right:
                    total_here, first = _border(values, origin, nz, ny, nx, sz, sy, z, y, x, taps, bias, start)
                else:
                    slot = (x - left) & (TILE - 1)
                    if slot == 0:
                        tile = min(TILE, right - x)
                        part = sums[:tile]
                        part[:] = bias
                        for t in range(others.shape[0]):
                            at = row + x + others[t, 0] + others[t, 1] * sz + others[t, 2] * sy + others[t, 3]
                            source = values[at : at + tile]
                            coefficient = others[t, 4]
                            for i in range(tile):
                                part[i] += coefficient * np.int64(source[i])
                    total_here = sums[slot]
                    for lag in range(order):
                        total_here += lags[lag] * np.int64(line[x - 1 - lag])
                # A sum between two integers makes the nearer one the prediction, and the other one the likelier miss:
                # residuals are counted positive in its direction.
                below = False
                if not first:
                    rounded = (total_here + half) >> shift
                    below = rounded << shift > total_here
                    total_here = wrap(rounded, width)
                if has_mask and mask[row + x]:
                    line[x] = total_here
                elif decoding:
                    residual = np.int64(coded[x])
                    line[x] = wrap(total_here - residual if below else total_here + residual, width)
                else:
                    residual = np.int64(line[x])
                    coded[x] = wrap(total_here - residual if below else residual - total_here, width)


@kernel
def _magnitude(residuals, mask, origin, nz, ny, nx, sz, sy):
    """Mean magnitude of a plane; a few outliers are clipped, lest they stand for all."""
    has_mask = mask.shape[0] > 0
    limit = np.inf
    for _ in range(3):
        total = 0.0
        count = 0
        for z in range(nz):
            for y in range(ny):
                row = origin + z * sz + y * sy
                for x in range(row, row + nx):
                    if not has_mask or mask[x] == 0:
                        total += min(abs(np.float64(residuals[x])), limit)
                        count += 1
        mean = total / max(count, 1)
        limit = OUTLIER * mean + 1.0
    return mean


@allocating_kernel
def run(
    values, residuals, mask, slab, order, taps, tap_ranges, lags, lag_ranges, biases, shifts,
    starts, magnitudes, width, decoding,
):  # fmt: skip
    """Predict all planes of a slab.

    Encoding: `values` are the samples (those under the mask are replaced by their predictions), `residuals` are filled
    and `magnitudes` gets their means. Decoding: `residuals` are turned into `values`, which may be the same array.

    Parameters
    ----------
    values, residuals : (n,) int32 or int64
        The whole chunk, flat.
    mask : (n,) uint8, or empty
    slab : (9,) int64
        Offset of the slab in a plane, its extent nz, ny, nx, strides sz and sy, stride of a channel, number of batch
        items and stride from one to the next.
    order : (channel,) int64
        Channels in the order of coding.
    taps : (taps, 5) int64
        Distance to the reference in the flat array (0 for the channel itself), dz, dy, dx, coefficient.
    tap_ranges, lag_ranges : (channel + 1,) int64
        First tap and first lag of each channel; its last taps are its lags, again, by distance from 1.
    starts : (batch, channel) int64
    """
    sums = np.empty(TILE, np.int64)
    offset, nz, ny, nx, sz, sy, stride, batch, item_stride = slab
    for b in range(batch):
        for c in order:
            origin = b * item_stride + c * stride + offset
            _plane(
                values, residuals, mask, origin, nz, ny, nx, sz, sy,
                taps[tap_ranges[c] : tap_ranges[c + 1]], lags[lag_ranges[c] : lag_ranges[c + 1]],
                biases[c], shifts[c], starts[b, c], width, decoding, sums,
            )  # fmt: skip
            if not decoding:
                magnitudes[b, c] = _magnitude(residuals, mask, origin, nz, ny, nx, sz, sy)
