# mypy: disable-error-code="no-untyped-def, no-untyped-call"
"""What the kernels of lattice mode work on: arrays under names, so that kernels pass them on as one."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["ANALYSE", "CLASSIFY", "DECODE", "MAX_LAGS", "TILE", "Coder", "Planes", "Predictors", "Results", "Sample"]

ANALYSE, CLASSIFY, DECODE = range(3)
"""What a kernel does with planes: find residuals and what they decode to; find symbols and their classes; decode."""

MAX_LAGS = 32
"""A sequential plane looks back at most so many samples in its own row."""

TILE = 1024
"""Samples of a row that are predicted at a time (8 KiB: first-level cache)."""


class Planes(NamedTuple):
    """The planes of a box.

    Parameters
    ----------
    box
        Offset in the flat array, extents, strides, number of batch items and the distance of these, size of a pyramid.
    grid
        Levels of a plane (lattice_grid.py).
    classes : (class, 3)
        Classes in the order of their passes.
    order
        Channels in the order of coding.
    radii
        Radius of each channel.
    starts : (batch, channel)
        First sample of each plane, in bins.
    mask
        Not 0 where a sample of the flat array is not coded; empty where all are.
    wide : bool
        Samples have 64 bits.
    source, decoded
        Flat arrays: what is analysed, and what a decoder makes of it.
    values, activities
        Pyramids of all channels.
    """

    box: Any
    grid: Any
    classes: Any
    order: Any
    radii: Any
    starts: Any
    mask: Any
    wide: Any
    source: Any
    decoded: Any
    values: Any
    activities: Any


class Predictors(NamedTuple):
    """How planes are predicted.

    Parameters
    ----------
    sequential : (channel,) bool
        Which channels are visited sample by sample.
    taps : (tap, 6)
        Distance of the pyramid that a tap looks into; offset (z, y, x); coefficient; whether its opposite counts, too.
    groups : (channel, group, 4)
        First tap, end of taps, bias and shift.
    means : (8 active + odd, 4)
        The same for levels that lack an axis.
    others : (channel,)
        Channel whose residuals contexts look at; -1 for none.
    """

    sequential: Any
    taps: Any
    groups: Any
    means: Any
    others: Any


class Coder(NamedTuple):
    """How residuals are coded.

    Parameters
    ----------
    usual : (batch, channel, group)
        Usual magnitudes in 1/256.
    interpolated : (group, 2, 5)
    sequential : (2, 9)
        Weights of features, for channels without and with another one to look at.
    near, near_ranges, far, far_ranges, ring, ring_ranges
        Neighbours (lattice_grid.py).
    tables, near_tables
        Table of each class by role, and of each small expected magnitude.
    spans, slots, words, states
        The entropy decoder's (rans.py).
    """

    usual: Any
    interpolated: Any
    sequential: Any
    near: Any
    near_ranges: Any
    far: Any
    far_ranges: Any
    ring: Any
    ring_ranges: Any
    tables: Any
    near_tables: Any
    spans: Any
    slots: Any
    words: Any
    states: Any


class Results(NamedTuple):
    """What comes out, and memory for a row.

    Parameters
    ----------
    residuals, sides
        Of all samples in the order of the passes, plane by plane: what the analysis finds.
    symbols, contexts, expectations
        Of those that are coded: what the classification finds; no expectations where that array is empty.
    sums, expected : (2 TILE,)
    lags : (MAX_LAGS,)
    row_sides, row_contexts : (TILE,)
        Memory for a row.
    """

    residuals: Any
    sides: Any
    symbols: Any
    contexts: Any
    expectations: Any
    sums: Any
    expected: Any
    lags: Any
    row_sides: Any
    row_contexts: Any


class Sample(NamedTuple):
    """A sample of the features of symbols, for weights that fit a chunk.

    Parameters
    ----------
    share : (group,)
        Share of the symbols that is wanted.
    wanted, taken : (group, 2)
        How many should have been taken by now, and how many were.
    features : (group, 2, n, 6)
        Features, and magnitudes, in symbols.
    """

    share: Any
    wanted: Any
    taken: Any
    features: Any
