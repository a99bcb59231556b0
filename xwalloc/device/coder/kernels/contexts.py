# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
"""What planes of integers expect of one another, and which of their samples are coded.

The kernels of both halves of the entropy coder share it; the integers are those that bitstream/expectations.py finds on
a CPU. In the order of frames that this is for (`Order.FLAGS_FIRST`), the tables of all flags, then of all samples of a
plane follow from planes before it. Integers are 64 bits wide where they may exceed 31.
"""

from __future__ import annotations

import triton
import triton.language as tl

from xwalloc.bitstream import contexts, expectations, scan

__all__ = [
    "GEOMETRY",
    "LOOKS",
    "PART",
    "WEIGHTS",
    "class_of",
    "divide",
    "expect",
    "expect_flags",
    "extent_of",
    "float_bits",
    "is_coded",
    "list_coded",
    "list_filled",
    "look_kernel",
    "others_of",
    "place_listed",
    "raw_bits",
    "reciprocal_of",
    "whole_groups",
]

PART = 5
"""Columns of a part of a section, one for each stream: its first plane in the geometry, the first of their codes; where
its section begins in the values, and in the mask; its weights."""

LOOKS = 24
"""Columns of a plane as the other kernels want it: stated magnitude, base in the values and in the mask, extent nz, ny,
nx, strides sz, sy; bases of previous plane, parent and sibling; weights of previous plane, ring, parent and sibling,
and what is expected without them; the same two of flags; shifts of the parent, and its last places (z, y, x)."""

GEOMETRY = 15
"""Columns of a plane: base, nz, ny, nx, sz, sy; previous plane, parent and its shifts and extent (z, y, x), sibling.
Planes are named by their place in the stream, -1 for none."""

WEIGHTS = 7
"""Columns of weights: self, previous, ring, parent, sibling of samples; self, previous of flags. Two rows: for planes
without and with a previous plane."""

_PART, _LOOKS = tl.constexpr(PART), tl.constexpr(LOOKS)
_GEOMETRY, _WEIGHTS = tl.constexpr(GEOMETRY), tl.constexpr(WEIGHTS)
_GROUP, _ONE, _RATIO_CAP = tl.constexpr(scan.GROUP), tl.constexpr(contexts.ONE), tl.constexpr(expectations.RATIO_CAP)
_CLASSES = tl.constexpr(contexts.CLASSES)
_MOST_RAW = tl.constexpr(31)  # of integers of 32 bits


@triton.jit
def float_bits(number):
    """Bits of float32 of integers from 0 to 2^31 - 1, which are exact below 2^24: those from 21 on tell a logarithm."""
    return number.to(tl.float32).to(tl.int32, bitcast=True)


@triton.jit
def class_of(expected):
    """Class of expected magnitudes, below 2^62."""
    low = (expected & 0x7FFFFFFF).to(tl.int32)
    high = (expected >> 31).to(tl.int32)
    near = (float_bits(low) >> 21) - (4 * 127 + 4)
    top = tl.where(high > 0, high, low)
    # Of numbers of whose two leading bits one is 0, none is rounded up to a power of two.
    log2 = (float_bits(top & ~(top >> 1)) >> 23) + tl.where(high > 0, 31 - 127, -127)
    far = tl.minimum(log2 + 50, _CLASSES - 1)
    return tl.where((high > 0) | (low >= (1 << 18)), far, tl.where(low < 4, low, near))


@triton.jit
def _linked(plane, column: tl.constexpr, first, codes, magnitudes, own):
    """Base of a plane that another one looks at, how much larger that one is, and whether it says anything."""
    index = tl.load(plane + column).to(tl.int64)
    base = index * 0
    larger = own * 0
    there = larger
    if index >= 0:
        magnitude = tl.load(magnitudes + tl.load(codes + index).to(tl.int64))
        base = tl.load(first + index * _GEOMETRY).to(tl.int64)
        if magnitude > 0:
            larger = tl.minimum(own * _ONE // magnitude, _RATIO_CAP)
            there = larger * 0 + 1
    return base, larger, there


@triton.jit
def look_kernel(parts, plane_of, geometry, codes, magnitudes, weights, looks):
    """What the other kernels want to know of a plane; one program for each plane of each stream.

    Parameters
    ----------
    parts : (stream, PART) int64
    plane_of : (plane, 2) int32
        Stream of each plane, and its place there.
    geometry : (plane, GEOMETRY) int32
    codes : (n,) uint8
        Magnitude codes of planes.
    magnitudes : (code,) int64
        What they state.
    weights : (n, 2, WEIGHTS) int64
    looks : (plane, LOOKS) int64
        Gets the planes.
    """
    index = tl.program_id(0).to(tl.int64)
    row = parts + tl.load(plane_of + 2 * index) * _PART
    place = tl.load(plane_of + 2 * index + 1)
    first = geometry + tl.load(row) * _GEOMETRY
    codes += tl.load(row + 1)
    values_at = tl.load(row + 2)
    mask_at = tl.load(row + 3)
    weights += tl.load(row + 4) * (2 * _WEIGHTS)
    plane = first + place * _GEOMETRY
    own = tl.load(magnitudes + tl.load(codes + place).to(tl.int64))
    previous, larger, has_previous = _linked(plane, 6, first, codes, magnitudes, own)
    parent, than_parent, has_parent = _linked(plane, 7, first, codes, magnitudes, own)
    sibling, than_sibling, has_sibling = _linked(plane, 14, first, codes, magnitudes, own)
    w = weights + has_previous * _WEIGHTS
    held = own * (tl.load(w) + (1 - has_parent) * tl.load(w + 3) + (1 - has_sibling) * tl.load(w + 4))
    base = tl.load(plane).to(tl.int64)
    out = looks + index * _LOOKS
    tl.store(out, own)
    tl.store(out + 1, values_at + base)
    tl.store(out + 2, mask_at + base)
    for column in tl.static_range(5):
        tl.store(out + 3 + column, tl.load(plane + 1 + column).to(tl.int64))
    tl.store(out + 8, values_at + previous)
    tl.store(out + 9, values_at + parent)
    tl.store(out + 10, values_at + sibling)
    tl.store(out + 11, tl.load(w + 1) * larger >> 8)
    tl.store(out + 12, tl.load(w + 2) * larger >> 8)
    tl.store(out + 13, tl.load(w + 3) * than_parent >> 8)
    tl.store(out + 14, tl.load(w + 4) * than_sibling >> 8)
    tl.store(out + 15, held >> 8)
    tl.store(out + 16, tl.load(w + 6) * larger >> 8)
    tl.store(out + 17, own * tl.load(w + 5))
    for column in tl.static_range(3):
        tl.store(out + 18 + column, tl.load(plane + 8 + column).to(tl.int64))
        tl.store(out + 21 + column, tl.load(plane + 11 + column).to(tl.int64) - 1)


@triton.jit
def reciprocal_of(divisor):
    """What `divide` multiplies with."""
    return 0xFFFFFFFF // divisor.to(tl.uint32)


@triton.jit
def divide(number, divisor, reciprocal):
    """Quotients and rests of numbers that are not negative.

    The reciprocal is at most 1 below 2^32 / divisor: its product with a number, over 2^32, is less than 1 too small.
    """
    quotient = tl.umulhi(number.to(tl.uint32), reciprocal).to(tl.int32)
    rest = number - quotient * divisor
    more = rest >= divisor
    return tl.where(more, quotient + 1, quotient), tl.where(more, rest - divisor, rest)


@triton.jit
def extent_of(look):
    """Base in the values and in the mask, ny, nx, sz, sy, rows of a plane."""
    ny = tl.load(look + 4).to(tl.int32)
    nx = tl.load(look + 5).to(tl.int32)
    rows = tl.load(look + 3).to(tl.int32) * ny
    sz, sy = tl.load(look + 6).to(tl.int32), tl.load(look + 7).to(tl.int32)
    return tl.load(look + 1), tl.load(look + 2), ny, nx, sz, sy, rows


@triton.jit
def others_of(look):
    """Bases and weights of the planes that a plane looks at, what is expected without them; parent's shifts and ends.

    All weights are below 2^31: a product of two such numbers takes one instruction.
    """
    return (
        tl.load(look + 8), tl.load(look + 9), tl.load(look + 10), tl.load(look + 11).to(tl.int32),
        tl.load(look + 12).to(tl.int32), tl.load(look + 13).to(tl.int32), tl.load(look + 14).to(tl.int32),
        tl.load(look + 15), tl.load(look + 18).to(tl.int32), tl.load(look + 19).to(tl.int32),
        tl.load(look + 20).to(tl.int32), tl.load(look + 21).to(tl.int32), tl.load(look + 22).to(tl.int32),
        tl.load(look + 23).to(tl.int32),
    )  # fmt: skip


@triton.jit
def _weighed(at, weight, inside):
    """Magnitudes of values, times a weight."""
    return tl.abs(tl.load(at, mask=inside, other=0)).to(tl.int64) * weight.to(tl.int64)


@triton.jit
def expect(values, others, place, z, y, x, ny, nx, sz, sy, active):
    """Expected magnitudes of samples of a plane."""
    (
        previous, parent, sibling, w_previous, w_ring, w_parent, w_sibling, held, shift_z, shift_y, shift_x, end_z,
        end_y, end_x,
    ) = others  # fmt: skip
    total = place.to(tl.int64) * 0 + held
    none = place * 0
    # What is looked at together waits for memory together.
    if (w_previous > 0) | (w_ring > 0):
        at = values + previous + place
        around = active & (none + w_ring > 0)
        total += _weighed(at, w_previous, active & (none + w_previous > 0))
        total += _weighed(at - 1, w_ring, around & (x > 0))
        total += _weighed(at + 1, w_ring, around & (x < nx - 1))
        total += _weighed(at - sy, w_ring, around & (y > 0))
        total += _weighed(at + sy, w_ring, around & (y < ny - 1))
    if (w_parent > 0) | (w_sibling > 0):
        at = tl.minimum(z >> shift_z, end_z) * sz + tl.minimum(y >> shift_y, end_y) * sy
        at += tl.minimum(x >> shift_x, end_x)
        total += _weighed(values + parent + at, w_parent, active & (none + w_parent > 0))
        total += _weighed(values + sibling + place, w_sibling, active & (none + w_sibling > 0))
    return total


@triton.jit
def expect_flags(values, previous, weight, held, place, x, nx, active):
    """Expected magnitudes of the flags of groups that begin at places of a plane."""
    sums = place.to(tl.int64) * 0
    if weight > 0:
        at = values + previous + place
        for k in tl.static_range(0, _GROUP, 2):
            one = tl.abs(tl.load(at + k, mask=active & (x + k < nx), other=0))
            two = tl.abs(tl.load(at + (k + 1), mask=active & (x + k + 1 < nx), other=0))
            sums += (one.to(tl.uint32) + two.to(tl.uint32)).to(tl.int64)
    return (held + (weight.to(tl.int64) * sums << 5)) >> 8


@triton.jit
def raw_bits(token):
    """Raw bits behind tokens; beyond what integers of 32 bits have, some number above `_MOST_RAW`."""
    large = tl.minimum(token - 62, _MOST_RAW + 1)
    return tl.where(token < 31, 0, tl.where(token < 79, ((token - 31) >> 2) + 3, large))


@triton.jit
def is_coded(at, inside):
    """Whether samples are not masked."""
    return inside & (tl.load(at, mask=inside, other=1) == 0)


@triton.jit
def list_coded(mask, base, out, n, ny, nx, sz, sy, step: tl.constexpr, WIDE: tl.constexpr):
    """List the samples (step 1) or the groups (step 8) of a plane of which something is coded; returns their number."""
    lane = tl.arange(0, WIDE)
    count = tl.max(lane * 0, 0)
    across = (nx + step - 1) // step
    by_across, by_ny = reciprocal_of(across), reciprocal_of(ny)
    for start in range(0, n, WIDE):
        i = start + lane
        row, x = divide(i, across, by_across)
        z, y = divide(row, ny, by_ny)
        x *= step
        at = mask + base + (z * sz + y * sy + x)
        coded = i < 0
        for k in tl.static_range(step):
            coded |= is_coded(at + k, (i < n) & (x + k < nx))
        taken = coded.to(tl.int32)
        tl.store(out + count + tl.cumsum(taken, 0) - taken, i, mask=coded)
        count += tl.sum(taken, 0)
    tl.debug_barrier()
    return count


@triton.jit
def list_filled(listed, n, filled, first, x, nx, mask_at, together, MASKED: tl.constexpr):
    """List the samples of groups behind n others, of groups that stay `together` only the first; returns their number.

    Parameters
    ----------
    filled
        Which groups.
    first, x
        Number of the first sample of each group in its plane, and its place in the row.
    together
        3 if all groups have 8 samples, else 0.
    """
    if MASKED:
        size = x * 0
        for k in tl.static_range(_GROUP):
            size += is_coded(mask_at + k, filled & (x + k < nx)).to(tl.int32)
        to = listed + (n + tl.cumsum(size, 0) - size)
        for k in tl.static_range(_GROUP):
            coded = is_coded(mask_at + k, filled & (x + k < nx))
            tl.store(to, first + k, mask=coded)
            to += coded.to(tl.int32)
    else:
        size = tl.where(filled, tl.where(x * 0 + together > 0, 1, tl.minimum(nx - x, _GROUP)), 0)
        to = listed + (n + tl.cumsum(size, 0) - size)
        tl.store(to, first, mask=filled)
        if together == 0:
            for k in tl.static_range(1, _GROUP):
                tl.store(to + k, first + k, mask=filled & (x + k < nx))
    return n + tl.sum(size, 0)


@triton.jit
def place_listed(listed, i, together, active):
    """The i-th samples of a list."""
    return tl.load(listed + (i >> together), mask=active, other=0) + (i & ((1 << together) - 1))


@triton.jit
def whole_groups(nx, MASKED: tl.constexpr):
    """3 if all groups of a plane have 8 samples, else 0."""
    found = nx * 0
    if not MASKED:
        found = tl.where(nx % _GROUP == 0, 3, 0)
    return found
