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

from xwalloc.jit import allocating_kernel, inline_kernel, kernel

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


@inline_kernel
def wrap(value, width):
    """A 64-bit integer modulo 2^width, as a signed one."""
    if width == 32:
        return ((value + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
    return value


@kernel
def _border(values, origin, nz, ny, nx, sz, sy, z, y, x, taps, bias, outside, start):
    """Sum of the taps of one sample near the border, see the head of this module; or the start value, and true.

    `outside` says whether any tap of the first sample points outside of the slab.
    """
    if x > 0:
        stand_in = z * sz + y * sy + x - 1
    elif y > 0:
        stand_in = z * sz + (y - 1) * sy
    elif z > 0:
        stand_in = (z - 1) * sz
    elif outside:
        return start, True
    else:
        stand_in = 0  # of no use: all taps are inside
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


@inline_kernel
def _settle(total, half, shift, width):
    """Prediction from a sum of taps, and whether it lies above the sum.

    A sum between two integers makes the nearer one the prediction, and the other one the likelier miss: residuals are
    counted positive in its direction.
    """
    rounded = (total + half) >> shift
    return wrap(rounded, width), rounded << shift > total


@inline_kernel
def _value(prediction, above, residual, width):
    """The sample that a residual stands for."""
    return wrap(prediction - residual if above else prediction + residual, width)


@inline_kernel
def _residual(prediction, above, value, width):
    """The residual of a sample."""
    return wrap(prediction - value if above else value - prediction, width)


@kernel
def _add_taps(values, at, taps, sums):
    """Add what taps contribute to the sums of adjacent samples."""
    for t in range(taps.shape[0]):
        source = values[at + taps[t, 0] : at + taps[t, 0] + sums.shape[0]]
        coefficient = taps[t, 1]
        for i in range(sums.shape[0]):
            sums[i] += coefficient * np.int64(source[i])


@kernel
def _residuals_of(sums, line, half, shift, width, coded):
    """Residuals of adjacent samples from the sums of all their taps."""
    for i in range(sums.shape[0]):
        prediction, above = _settle(sums[i], half, shift, width)
        coded[i] = _residual(prediction, above, np.int64(line[i]), width)


@kernel
def _values_of(sums, line, first, lags, half, shift, width, coded):
    """Samples from `first` on from their residuals, and the sums of their taps but for the lags."""
    one = lags[0] if lags.shape[0] > 0 else 0
    two = lags[1] if lags.shape[0] > 1 else 0
    west = np.int64(line[first - 1]) if lags.shape[0] > 0 else 0
    west_west = np.int64(line[first - 2]) if lags.shape[0] > 1 else 0
    for i in range(sums.shape[0]):
        total = sums[i] + two * west_west
        for lag in range(2, lags.shape[0]):
            total += lags[lag] * np.int64(line[first + i - 1 - lag])
        prediction, above = _settle(total + one * west, half, shift, width)
        value = _value(prediction, above, np.int64(coded[first + i]), width)
        line[first + i] = value
        west_west, west = west, value


@kernel
def _row_taps(taps, z, y, nz, ny, sz, sy, flat, lags):
    """Taps of the samples of a row that are away from its ends, by distance in the flat array; see `_border`.

    Those in the row itself go to `lags` (by distance, from 1), the others to `flat` (distance, coefficient). Returns
    how many of each there are.
    """
    lags[:] = 0
    count = order = 0
    for t in range(taps.shape[0]):
        dz, dy, dx = taps[t, 1], taps[t, 2], taps[t, 3]
        tz = min(max(z + dz, 0), nz - 1)
        ty = min(max(y + dy, 0), ny - 1)
        distance = (tz - z) * sz + (ty - y) * sy + dx
        if dz < 0 or (dz == 0 and (dy < 0 or (dy == 0 and dx < 0))):
            if tz > z or (tz == z and (ty > y or (ty == y and dx >= 0))):
                distance = -1
        if taps[t, 0] == 0 and distance < 0 and (distance == -1 or (tz == z and ty == y)):
            lags[-distance - 1] += taps[t, 4]
            order = max(order, -distance)
        else:
            flat[count, 0] = taps[t, 0] + distance
            flat[count, 1] = taps[t, 4]
            count += 1
    return count, order


@kernel
def _plane(
    values, residuals, mask, origin, nz, ny, nx, sz, sy, taps, bias, shift, start, width, decoding, scratch, flat, lags
):  # fmt: skip
    """Predict one plane."""
    has_mask = mask.shape[0] > 0
    half = (1 << shift) >> 1
    before_x, after_x = 1, 0
    outside = False
    for t in range(taps.shape[0]):
        dz, dy, dx = taps[t, 1], taps[t, 2], taps[t, 3]
        before_x, after_x = max(before_x, -dx), max(after_x, dx)
        outside |= not (0 <= dz < nz and 0 <= dy < ny and 0 <= dx < nx)
    left = min(before_x, nx)
    right = max(nx - after_x, left)
    for z in range(nz):
        for y in range(ny):
            row = origin + z * sz + y * sy
            line = values[row : row + nx]
            coded = residuals[row : row + nx]
            count, order = _row_taps(taps, z, y, nz, ny, sz, sy, flat, lags)
            row_lags = lags[:order]
            if not decoding:
                for lag in range(order):
                    flat[count + lag, 0], flat[count + lag, 1] = -1 - lag, lags[lag]
            x = 0
            while x < nx:
                if left <= x < right:
                    # Away from the ends, many samples at a time.
                    tile = min(TILE, right - x)
                    holes = 0
                    if has_mask:
                        for i in range(row + x, row + x + tile):
                            holes += mask[i] != 0
                    sums = scratch[:tile]
                    for i in range(tile):
                        sums[i] = bias
                    known = not decoding and holes == 0
                    _add_taps(values, row + x, flat[: count + order if known else count], sums)
                    if known:
                        _residuals_of(sums, line[x : x + tile], half, shift, width, coded[x : x + tile])
                    elif holes == 0:
                        _values_of(sums, line, x, row_lags, half, shift, width, coded)
                    else:
                        for i in range(tile):
                            total = sums[i]
                            for lag in range(order):
                                total += row_lags[lag] * np.int64(line[x + i - 1 - lag])
                            prediction, above = _settle(total, half, shift, width)
                            if mask[row + x + i]:
                                line[x + i] = prediction
                            elif decoding:
                                line[x + i] = _value(prediction, above, np.int64(coded[x + i]), width)
                            else:
                                coded[x + i] = _residual(prediction, above, np.int64(line[x + i]), width)
                    x += tile
                    continue
                total, first = _border(values, origin, nz, ny, nx, sz, sy, z, y, x, taps, bias, outside, start)
                prediction, above = _settle(total, half, shift, width)
                if first:
                    prediction, above = total, False
                if has_mask and mask[row + x]:
                    line[x] = prediction
                elif decoding:
                    line[x] = _value(prediction, above, np.int64(coded[x]), width)
                else:
                    coded[x] = _residual(prediction, above, np.int64(line[x]), width)
                x += 1


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
    values, residuals, mask, slab, order, taps, tap_ranges, biases, shifts, starts, magnitudes, width, decoding,
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
    tap_ranges : (channel + 1,) int64
        First tap of each channel.
    starts : (batch, channel) int64
    """
    longest = 1
    for t in range(taps.shape[0]):
        longest = max(longest, -taps[t, 3])
    scratch, lags = np.empty(TILE, np.int64), np.empty(longest, np.int64)
    flat = np.empty((taps.shape[0] + longest, 2), np.int64)
    offset, nz, ny, nx, sz, sy, stride, batch, item_stride = slab
    for b in range(batch):
        for c in order:
            origin = b * item_stride + c * stride + offset
            _plane(
                values, residuals, mask, origin, nz, ny, nx, sz, sy,
                taps[tap_ranges[c] : tap_ranges[c + 1]], biases[c], shifts[c], starts[b, c], width, decoding,
                scratch, flat, lags,
            )  # fmt: skip
            if not decoding:
                magnitudes[b, c] = _magnitude(residuals, mask, origin, nz, ny, nx, sz, sy)
