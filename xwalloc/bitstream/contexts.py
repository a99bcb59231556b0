# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""Which frequency table a symbol uses.

The table follows from the *expected magnitude* of the symbol: a weighted mean of the magnitude that the plane states
for itself, of neighbours that are already decoded, and of the same place in planes that are already decoded. All of
it is integer arithmetic in 1/256 of a symbol, so that every device takes the same decision.

The expectation falls into one of `CLASSES` logarithmic classes (a quarter of an octave each), and a plane's `Kind`
and the symbol's `Role` choose among the tables trained for that class.
"""

from __future__ import annotations

import json
from enum import IntEnum
from functools import cache, lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from xwalloc.jit import kernel

__all__ = [
    "CAP",
    "CLASSES",
    "DIRECT_CLASSES",
    "FEATURES",
    "FLAG_FEATURES",
    "MAGNITUDES",
    "ONE",
    "Kind",
    "Role",
    "class_of",
    "direct_classes",
    "first_class",
    "large_class",
    "lattice_weights",
    "magnitude_code",
    "weights",
]

CLASSES = 112
ONE = 256
"""Magnitudes are counted in 1/256 of a symbol."""

CAP = 1 << 36
"""A neighbour counts for at most this many symbols, so that weighted sums stay below 2^63."""


class Kind(IntEnum):
    """What the symbols of a plane are."""

    LATENT = 0
    LATENT_PARALLEL = 1
    LATTICE = 2
    RESIDUAL = 3
    SIDE = 4
    RESIDUAL_PARALLEL = 5


class Role(IntEnum):
    """What a symbol is within its plane."""

    DENSE = 0
    GROUPED = 1
    FLAG = 2


FEATURES = ("self", "mean", "w", "ww", "n", "diagonal", "nn", "u", "previous", "ring", "parent", "sibling")
"""Order of the weights of a symbol: the plane's own magnitude; the running mean along the scan; west, west-west;
north; the sum of north-west and north-east; north-north; up (one step back on the slowest axis); the same place in the
previous plane and the sum of its four neighbours; the parent; the sibling."""

FLAG_FEATURES = ("self", "mean", "w", "n", "ne", "previous")
"""Order of the weights of a group flag; neighbours are sums over groups here."""

MAGNITUDES: NDArray[np.int64] = np.array([0] + [int(np.rint(2.0 ** (i / 2))) for i in range(104)], np.int64)
"""Mean magnitude, in 1/256, that each magnitude code of a plane stands for: half octaves; 0 for a plane of zeros."""


def magnitude_code(mean: NDArray[np.float64]) -> NDArray[np.int64]:
    """Code in `MAGNITUDES` nearest (in ratio) to a mean magnitude in symbols; 0 only for 0."""
    mean = np.asarray(mean, np.float64)
    code = 1 + np.rint(2 * np.log2(np.maximum(mean * ONE, 1.0)))
    return np.where(mean > 0, np.clip(code, 1, len(MAGNITUDES) - 1), 0).astype(np.int64)


def class_of(expected: int) -> int:
    """Class of an expected magnitude in 1/256: 0 to 3 as they are, quarter octaves up to 2^18, then octaves."""
    if expected < 4:
        return expected
    log2 = expected.bit_length() - 1
    if log2 < 18:
        return 4 + 4 * (log2 - 2) + ((expected >> (log2 - 2)) & 3)
    return min(68 + log2 - 18, CLASSES - 1)


DIRECT_CLASSES = 4096
"""Expected magnitudes below this have their class in a table; others need a logarithm."""


@lru_cache(maxsize=1)
def direct_classes() -> NDArray[np.uint8]:
    """Class of every expected magnitude below `DIRECT_CLASSES`."""
    return np.array([class_of(expected) for expected in range(DIRECT_CLASSES)], np.uint8)


@kernel
def large_class(expected):
    """`class_of` for magnitudes from `DIRECT_CLASSES` on."""
    log2 = 12
    while expected >> (log2 + 1):
        log2 += 1
    if log2 < 18:
        return 4 + 4 * (log2 - 2) + ((expected >> (log2 - 2)) & 3)
    return min(68 + log2 - 18, CLASSES - 1)


def first_class(kind: Kind, role: Role) -> int:
    """Number of the first of the `CLASSES` classes of a kind and role; they index `Tables.index`."""
    return (int(kind) * len(Role) + int(role)) * CLASSES


@lru_cache(maxsize=1)
def _shipped() -> dict[str, dict[str, list[int]]]:
    weights: dict[str, dict[str, list[int]]] = json.loads(
        resources.files("xwalloc.bitstream").joinpath("weights-1.json").read_text()
    )
    return weights


@cache
def lattice_weights(dimensions: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Weights (in 1/256) of what residuals of lattice mode depend on, for planes along 1, 2 or 3 axes.

    Returns
    -------
    interpolated : (class, 2, 5) int64
        By class of the samples; for channels without and with another one to look at.
    sequential : (2, 9) int64
        Of channels that are visited sample by sample, likewise.
    """
    stored = _shipped()["lattice"]
    whiches = ("first", "next")
    interpolated = [[stored[f"{dimensions}d-{k}-{w}"] for w in whiches] for k in range((1 << dimensions) - 1)]
    return np.array(interpolated), np.array([stored[f"{dimensions}d-sequential-{w}"] for w in whiches])


@cache
def weights(kind: Kind, dimensions: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Weights (in 1/256) for planes of a kind that extend along 1, 2 or 3 axes.

    Returns
    -------
    symbols : (2, 12) int64
        Weights of `FEATURES` for planes without and with a previous plane.
    flags : (2, 6) int64
        Weights of `FLAG_FEATURES`, likewise.
    """
    stored = _shipped()
    names = [f"{kind.name.lower()}-{dimensions}d-{which}" for which in ("first", "next")]
    symbols = np.array([stored["symbols"][name] for name in names], np.int64)
    return symbols, np.array([stored["flags"][name] for name in names], np.int64)
