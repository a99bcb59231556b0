"""The entropy coder once more, slowly, in plain Python, from the docstrings of rans.py, planes.py and contexts.py."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

import numpy as np

LANES, PROB_BITS, TOKENS, ESCAPE, LOWER = 4, 12, 128, 127, 1 << 16
GROUP, ONE, CAP = 8, 256, 1 << 36


def split(value):
    """Token, number of raw bits, raw bits."""
    size = abs(value)
    if size <= 15:
        return (2 * size - 1 if value > 0 else 2 * size), 0, 0
    e = size.bit_length() - 1
    sign = int(value < 0)
    if e < 16:
        rest = size & ((1 << (e - 2)) - 1)
        return 31 + 4 * (e - 4) + ((size >> (e - 2)) & 3), e - 1, rest << 1 | sign
    return 79 + e - 16, e + 1, (size - (1 << e)) << 1 | sign


def pieces(bits, raw):
    """Raw bits in the order in which a decoder meets them: 16 at a time, lowest first."""
    return [("raw", min(16, bits - at), (raw >> at) & ((1 << min(16, bits - at)) - 1)) for at in range(0, bits, 16)]


def encode(values, contexts, frequencies, lanes=LANES):
    """Bytes of a stream."""
    starts = np.cumsum(frequencies, axis=1, dtype=np.int64) - frequencies
    steps = []
    for i, (value, context) in enumerate(zip(values, contexts, strict=True)):
        token, bits, raw = split(int(value))
        here = [("token", token)]
        if frequencies[context][token] == 0:
            here = [("token", ESCAPE), ("raw", 7, token)]
        steps += [(i % lanes, int(context), *step) for step in here + pieces(bits, raw)]
    states, words = [LOWER] * lanes, []
    for lane, context, kind, *what in reversed(steps):
        state = states[lane]
        if kind == "raw":
            width, bits = what
            if state << width >= 1 << 32:
                words.append(state & 0xFFFF)
                state >>= 16
            states[lane] = state << width | bits
        else:
            f, start = int(frequencies[context][what[0]]), int(starts[context][what[0]])
            if state >= f << (32 - PROB_BITS):
                words.append(state & 0xFFFF)
                state >>= 16
            states[lane] = (state // f << PROB_BITS) + state % f + start
    return struct.pack(f"<B{lanes}I{len(words)}H", lanes.bit_length() - 1, *states, *reversed(words))


def decode(data, contexts, frequencies):
    """Values of a stream; checks that it ends where it should."""
    lanes = 1 << data[0]
    states = list(struct.unpack_from(f"<{lanes}I", data, 1))
    words = list(struct.unpack(f"<{(len(data) - 1) // 2 - 2 * lanes}H", data[1 + 4 * lanes :]))[::-1]
    starts = np.cumsum(frequencies, axis=1, dtype=np.int64) - frequencies

    def settle(lane):
        if states[lane] < LOWER:
            states[lane] = states[lane] << 16 | words.pop()

    def raw(lane, bits):
        value = 0
        for at in range(0, bits, 16):
            width = min(16, bits - at)
            value |= (states[lane] & ((1 << width) - 1)) << at
            states[lane] >>= width
            settle(lane)
        return value

    values = []
    for i, context in enumerate(contexts):
        lane = i % lanes
        slot = states[lane] & ((1 << PROB_BITS) - 1)
        token = max(t for t in range(TOKENS) if starts[context][t] <= slot and frequencies[context][t])
        states[lane] = (
            int(frequencies[context][token]) * (states[lane] >> PROB_BITS) + slot - int(starts[context][token])
        )
        settle(lane)
        if token == ESCAPE:
            token = raw(lane, 7)
        if token < 31:
            values.append((token + 1) // 2 if token % 2 else -(token // 2))
            continue
        e = 4 + (token - 31) // 4 if token < 79 else 16 + token - 79
        bits = raw(lane, e - 1 if token < 79 else e + 1)
        size = (4 | (token - 31) % 4) << (e - 2) | bits >> 1 if token < 79 else 1 << e | bits >> 1
        values.append(-size if bits & 1 else size)
    assert not words
    assert states == [LOWER] * lanes
    return values


def class_of(expected):
    """Class of an expected magnitude in 1/256."""
    if expected < 4:
        return expected
    e = expected.bit_length() - 1
    return 4 * (e - 1) + ((expected >> (e - 2)) & 3) if e < 18 else min(68 + e - 18, 111)


@dataclass
class Scan:
    """Every symbol in coding order: its value, its role (0 dense, 1 grouped, 2 flag), what is expected of it."""

    values: list[int] = field(default_factory=list)
    roles: list[int] = field(default_factory=list)
    expectations: list[int] = field(default_factory=list)

    def add(self, value, role, expected):
        self.values.append(int(value))
        self.roles.append(role)
        self.expectations.append(int(expected))


def scan(buffer, planes, magnitudes, symbol_weights, flag_weights, mask=None, flags_first=False):
    """Visit planes symbol by symbol, looking every neighbour up anew."""
    out = Scan()
    for plane in planes:
        p = {name: int(plane[name]) for name in planes.dtype.names}
        own = int(magnitudes[p["code"]])
        if own:
            found = Scan()
            scan_plane(found, buffer, p, own, magnitudes, symbol_weights, flag_weights, mask)
            symbols = list(zip(found.values, found.roles, found.expectations, strict=True))
            if flags_first:
                symbols.sort(key=lambda symbol: symbol[1] != 2)  # stable
            for symbol in symbols:
                out.add(*symbol)
    return out


def scan_plane(out, buffer, p, own, magnitudes, symbol_weights, flag_weights, mask):
    nz, ny, nx = p["nz"], p["ny"], p["nx"]
    has = {name: p[name] >= 0 for name in ("previous", "parent", "sibling")}
    w = [int(x) for x in symbol_weights[int(has["previous"])]]
    f = [int(x) for x in flag_weights[int(has["previous"])]]

    def ratio(name):
        return min(own * ONE // max(int(magnitudes[p[name + "_code"]]), 1), 64 * ONE)

    def size(base, z, y, x):
        return min(abs(int(buffer[base + z * p["sz"] + y * p["sy"] + x])), CAP) * 256

    def near(z, y, x):
        return size(p["base"], z, y, x) if z >= 0 and y >= 0 and 0 <= x < nx else own

    def hole(z, y, x):
        return mask is not None and mask[p["base"] + z * p["sz"] + y * p["sy"] + x] != 0

    def group(base, z, y, first):
        return sum(size(base, z, y, x) for x in range(first, min(first + GROUP, nx))) // GROUP

    sparse = own < ONE // 8
    mean = own
    for z in range(nz):
        for y in range(ny):
            for first in range(0, nx, GROUP if sparse else nx):
                places = [x for x in range(first, min(first + GROUP, nx) if sparse else nx) if not hole(z, y, x)]
                if not places:
                    continue
                if sparse:
                    above = group(p["base"], z, y - 1, first) if y else own
                    beyond = group(p["base"], z, y - 1, first + GROUP) if y and first + GROUP < nx else above
                    before = group(p["base"], z, y, first - GROUP) if first else own
                    expected = f[0] * own + f[1] * mean + f[2] * before + f[3] * above + f[4] * beyond
                    if has["previous"]:
                        expected += (f[5] * ratio("previous") >> 8) * group(p["previous"], z, y, first)
                    flag = any(size(p["base"], z, y, x) for x in places)
                    out.add(flag, 2, expected >> 8)
                    if not flag:
                        mean -= 3 * mean >> 3
                        continue
                for x in places:
                    expected = w[0] * own + w[1] * mean
                    expected += w[2] * near(z, y, x - 1) + w[3] * (near(z, y, x - 2) if x > 1 else own)
                    expected += w[4] * near(z, y - 1, x) + w[5] * (near(z, y - 1, x - 1) + near(z, y - 1, x + 1))
                    expected += w[6] * near(z, y - 2, x) + w[7] * near(z - 1, y, x)
                    if has["previous"]:
                        ring = [(y, x - 1), (y, x + 1), (y - 1, x), (y + 1, x)]
                        inside = [size(p["previous"], z, j, i) for j, i in ring if 0 <= j < ny and 0 <= i < nx]
                        expected += (w[8] * ratio("previous") >> 8) * size(p["previous"], z, y, x)
                        expected += (w[9] * ratio("previous") >> 8) * sum(inside)
                    if has["parent"]:
                        at = [
                            min(i >> p[f"parent_{a}"], p[f"parent_n{a}"] - 1) for i, a in ((z, "z"), (y, "y"), (x, "x"))
                        ]
                        expected += (w[10] * ratio("parent") >> 8) * size(p["parent"], *at)
                    else:
                        expected += w[10] * own
                    if has["sibling"]:
                        expected += (w[11] * ratio("sibling") >> 8) * size(p["sibling"], z, y, x)
                    else:
                        expected += w[11] * own
                    out.add(buffer[p["base"] + z * p["sz"] + y * p["sy"] + x], int(sparse), expected >> 8)
                    mean += (size(p["base"], z, y, x) - mean) >> 4
