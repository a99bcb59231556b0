"""Wavelet filters: as floats, as integers, and as the rows of the banded matrix that a transform multiplies with.

Everything is said in terms of the *interleaved* signal y[0..n-1] of one level, whose even entries are low-pass and
whose odd entries are high-pass coefficients:

    analysis    y[m] = sum_t h_(m mod 2)[t] x[m + t]
    synthesis   x[i] = sum_m g_(m mod 2)[i - m] y[m]

with h_0, g_0 the low-pass (`lo`) and h_1, g_1 the high-pass (`hi`) filters, and x, y extended beyond their ends as the
boundary mode says. Positions are centred: for the symmetric biorthogonal filters tap t = 0 is the centre of symmetry.
"""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from xwalloc.errors import ConfigError

__all__ = [
    "REFLECTING",
    "Boundary",
    "ExactFilters",
    "FilterPair",
    "Rows",
    "Side",
    "Wavelet",
    "analysis_rows",
    "check_boundary",
    "exact_filters",
    "get_wavelet",
    "synthesis_rows",
]

Boundary = Literal["reflect", "periodization"]
Side = Literal["analysis", "synthesis"]

REFLECTING = tuple(f"{family}{order}" for family in ("bior", "rbio") for order in
                   ("2.2", "2.4", "2.6", "2.8", "4.4", "5.5", "6.8"))  # fmt: skip
"""Wavelets whose filters have odd length and are symmetric, as boundary mode "reflect" wants them."""

MAX_SHIFT = 40

FilterBank = tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...], tuple[float, ...]]
"""dec_lo, dec_hi, rec_lo, rec_hi in the order and with the zero padding of PyWavelets."""


def _cdf97() -> FilterBank:
    # Roots of 1 + 4y + 10y^2 + 20y^3 computed with 60 digits and rounded. PyWavelets' own table is right to 6e-13 only,
    # which would cost perfect reconstruction after a few levels.
    h0, h1, h2 = 0.8526986790094034, 0.37740285561265374, -0.1106244044184234
    h3, h4 = -0.02384946501938, 0.03782845550699546
    g0, g1, g2, g3 = 0.7884856164056644, 0.4180922732222122, -0.04068941760955844, -0.06453888262893843
    return (
        (0.0, h4, h3, h2, h1, h0, h1, h2, h3, h4),
        (0.0, g3, -g2, g1, -g0, g1, -g2, g3, 0.0, 0.0),
        (0.0, g3, g2, g1, g0, g1, g2, g3, 0.0, 0.0),
        (0.0, -h4, h3, -h2, h1, -h0, h1, -h2, h3, -h4),
    )


@dataclass(frozen=True, kw_only=True)
class FilterPair:
    """Low-pass and high-pass filter of one side.

    Parameters
    ----------
    lo, hi
        Taps by ascending position t.
    lo_origin, hi_origin
        Index of the tap at position t = 0: tap j is at t = j - origin (the origin may lie outside the taps).
    """

    lo: tuple[float, ...]
    lo_origin: int
    hi: tuple[float, ...]
    hi_origin: int

    @property
    def symmetric(self) -> bool:
        """Whether both filters are symmetric about position 0 (and so of odd length)."""
        return all(
            len(taps) == 2 * origin + 1 and all(abs(a - b) < 1e-9 for a, b in zip(taps, taps[::-1], strict=True))
            for taps, origin in ((self.lo, self.lo_origin), (self.hi, self.hi_origin))
        )


@dataclass(frozen=True, kw_only=True)
class ExactFilters(FilterPair):
    """A `FilterPair` in integers: taps are multiples of 2^-shift.

    Parameters
    ----------
    lo, hi
        Integer taps by ascending position: rint(2^shift * tap), halves to even.
    shift
        Fractional bits of the taps, 0 to 40.
    """

    lo: tuple[int, ...]
    hi: tuple[int, ...]
    shift: int


@dataclass(frozen=True, kw_only=True)
class Wavelet:
    """A biorthogonal (or orthogonal) wavelet.

    Parameters
    ----------
    name
        PyWavelets' name.
    analysis, synthesis
        Filters of the two sides.
    """

    name: str
    analysis: FilterPair
    synthesis: FilterPair


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The two different rows of a banded matrix: what even and what odd outputs gather from around themselves.

    Parameters
    ----------
    even, odd
        Factors of the inputs first, first + 1, ... relative to the position of the output.
    even_first, odd_first
        Relative position of the first factor.
    """

    even: tuple[float, ...]
    even_first: int
    odd: tuple[float, ...]
    odd_first: int

    @property
    def gain(self) -> float:
        """Largest L1 norm of a row (an int for integer taps): bounds every partial sum per unit of input."""
        return max(sum(abs(v) for v in self.even), sum(abs(v) for v in self.odd))

    @property
    def reach(self) -> tuple[int, int]:
        """Relative positions of the first and the last input that any output needs."""
        return min(self.even_first, self.odd_first), max(
            self.even_first + len(self.even), self.odd_first + len(self.odd)
        ) - 1


@lru_cache(maxsize=64)
def get_wavelet(name: str) -> Wavelet:
    """Filters of a discrete wavelet by PyWavelets' name, e.g. "bior4.4".

    bior4.4 (Cohen-Daubechies-Feauveau 9/7) is built in; the others are read from PyWavelets at the first call. Their
    taps have the precision of its tables (reconstruction within about 1e-11), and "dmey" is an approximation
    by design (within 1e-2).

    Raises
    ------
    ConfigError
        If there is no such wavelet, or PyWavelets is needed and not installed.
    """
    if name == "bior4.4":
        return _from_bank(name, _cdf97())
    try:
        pywt: Any = importlib.import_module("pywt")
    except ImportError as error:
        raise ConfigError(
            f"Expected wavelet 'bior4.4', the only one that is built in. Got {name!r}: "
            "install PyWavelets to use other wavelets."
        ) from error
    names = pywt.wavelist(kind="discrete")
    if name not in names:
        near = difflib.get_close_matches(str(name), names, n=3)
        hint = f"Did you mean {' or '.join(repr(n) for n in near)}?" if near else "See pywt.wavelist(kind='discrete')."
        raise ConfigError(f"Expected the name of a discrete wavelet, such as 'bior4.4'. Got {name!r}. {hint}")
    lo, hi, rec_lo, rec_hi = (tuple(float(v) for v in taps) for taps in pywt.Wavelet(name).filter_bank)
    return _from_bank(name, (lo, hi, rec_lo, rec_hi))


def _from_bank(name: str, bank: FilterBank) -> Wavelet:
    # PyWavelets' periodization is cA[k] = sum_j dec_lo[j] x[2k + F/2 - j], likewise cD[k] with dec_hi, where F is the
    # (even) padded length; entry k of cD is y[2k + 1] here. Its synthesis is the transpose of the dual analysis.
    dec_lo, dec_hi, rec_lo, rec_hi = bank
    half = len(dec_lo) // 2
    lo, lo_origin = _trimmed(dec_lo[::-1], half - 1)
    hi, hi_origin = _trimmed(dec_hi[::-1], half)
    analysis = FilterPair(lo=lo, lo_origin=lo_origin, hi=hi, hi_origin=hi_origin)
    lo, lo_origin = _trimmed(rec_lo, half - 1)
    hi, hi_origin = _trimmed(rec_hi, half)
    return Wavelet(
        name=name,
        analysis=analysis,
        synthesis=FilterPair(lo=lo, lo_origin=lo_origin, hi=hi, hi_origin=hi_origin),
    )


def _trimmed(taps: tuple[float, ...], origin: int) -> tuple[tuple[float, ...], int]:
    """Without the zeros at both ends."""
    used = [j for j, tap in enumerate(taps) if tap != 0.0]
    return tuple(taps[used[0] : used[-1] + 1]), origin - used[0]


@lru_cache(maxsize=256)
def exact_filters(wavelet: Wavelet, side: Side, shift: int) -> ExactFilters:
    """Integer filters of one side of a wavelet at scale 2^shift.

    Parameters
    ----------
    wavelet
        As `get_wavelet` returns it.
    side
        "analysis" or "synthesis".
    shift
        Fractional bits, 0 to 40. Taps are rounded each on its own, halves to even.

    Raises
    ------
    ConfigError
        If `side` or `shift` is out of range.
    """
    if side not in ("analysis", "synthesis"):
        raise ConfigError(f"Expected side 'analysis' or 'synthesis'. Got {side!r}.")
    if not 0 <= shift <= MAX_SHIFT:
        raise ConfigError(f"Expected a wavelet shift from 0 to {MAX_SHIFT}. Got {shift!r}.")
    pair: FilterPair = getattr(wavelet, side)
    lo, hi = (tuple(round(tap * 2.0**shift) for tap in taps) for taps in (pair.lo, pair.hi))
    return ExactFilters(lo=lo, lo_origin=pair.lo_origin, hi=hi, hi_origin=pair.hi_origin, shift=shift)


@lru_cache(maxsize=256)
def analysis_rows(filters: FilterPair) -> Rows:
    """What y[m] gathers from x."""
    return Rows(
        even=tuple(filters.lo), even_first=-filters.lo_origin, odd=tuple(filters.hi), odd_first=-filters.hi_origin
    )


@lru_cache(maxsize=256)
def synthesis_rows(filters: FilterPair) -> Rows:
    """What x[i] gathers from y: factor g_((i + t) mod 2)[-t] for y[i + t]."""
    taps = (
        {j - filters.lo_origin: tap for j, tap in enumerate(filters.lo)},
        {j - filters.hi_origin: tap for j, tap in enumerate(filters.hi)},
    )
    rows = []
    for parity in (0, 1):
        row = {-s: tap for q in (0, 1) for s, tap in taps[q].items() if (parity - s) % 2 == q}
        first, last = min(row), max(row)
        rows.append((tuple(row.get(t, 0) for t in range(first, last + 1)), first))
    (even, even_first), (odd, odd_first) = rows
    return Rows(even=even, even_first=even_first, odd=odd, odd_first=odd_first)


def check_boundary(filters: FilterPair, boundary: str) -> None:
    """Whether these filters reconstruct with this boundary mode.

    Raises
    ------
    ConfigError
        If the mode is unknown, or is "reflect" and the filters are not symmetric of odd length.
    """
    if boundary not in ("reflect", "periodization"):
        raise ConfigError(f"Expected boundary 'reflect' or 'periodization'. Got {boundary!r}.")
    if boundary == "reflect" and not filters.symmetric:
        raise ConfigError(
            "Expected a wavelet with symmetric filters of odd length for boundary 'reflect': "
            f"{', '.join(REFLECTING)}. Got filters of {len(filters.lo)} and {len(filters.hi)} taps. "
            "Use one of those or boundary='periodization'."
        )
