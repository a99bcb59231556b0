"""Figures of an array beside its original, gathered block by block: the array need not fit into memory.

With x the original and y the decoded values, n of them where both are valid (finite and not nodata), and d = y - x:

    max error  max |d|, exactly; rounded up to a float64, so that it is above a bound only if some |d| is
    bias       mean(d)
    RMSE       sqrt(mse),  mse = mean(d^2)
    SNR        10 log10(var(x) / mse) dB,  var(x) = mean((x - mean(x))^2)
    PSNR       10 log10((max(x) - min(x))^2 / mse) dB
    angle      of the spectra a and b of a pixel: 2 atan2(|a/|a| - b/|b||, |a/|a| + b/|b||) in degrees, which is
               arccos(a.b / (|a| |b|)) without its loss of digits at small angles (W. Kahan, "How Futile are Mindless
               Assessments of Roundoff in Floating-Point Computation?", section 12)

Means and variances of parts are joined as in Chan, Golub and LeVeque, "Updating Formulae and a Pairwise Algorithm for
Computing Sample Variances" (1979).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from xwalloc.quality.differences import changed, magnitudes, valid
from xwalloc.quality.histogram import Histogram

__all__ = ["Comparison", "Figures", "Place", "angles"]

Array = NDArray[Any]
Floats = NDArray[np.float64]

SLAB = 1 << 18
"""Values that are looked at at once: some ten temporary arrays of this size in float64."""


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Figures of some values; what needs a value is NaN where there is none.

    Parameters
    ----------
    count
        Valid values.
    minimum, maximum, mean, variance
        Of the original.
    max_error, bias, rmse
        In the units of the values; `bias` is that of decoded - original.
    snr, psnr
        In dB: infinite where the values are equal.
    """

    count: int
    minimum: float
    maximum: float
    mean: float
    variance: float
    max_error: float
    bias: float
    rmse: float
    snr: float
    psnr: float


@dataclass(frozen=True, kw_only=True)
class Place:
    """One value and what became of it.

    Parameters
    ----------
    index
        Along every axis of the array.
    original, decoded
        NumPy scalars.
    error
        |decoded - original|, rounded up; NaN where one of them is not valid.
    """

    index: tuple[int, ...]
    original: Any
    decoded: Any
    error: float


class Sums:
    """Sums of channels that figures are made of."""

    def __init__(self, channels: int) -> None:
        self.count = np.zeros(channels, np.int64)
        self.minimum, self.maximum = np.full(channels, np.inf), np.full(channels, -np.inf)
        self.mean, self.spread = np.zeros(channels), np.zeros(channels)
        self.errors, self.squares, self.largest = np.zeros(channels), np.zeros(channels), np.zeros(channels)

    @classmethod
    def of(cls, original: Floats, difference: Floats, error: Floats, mask: NDArray[np.bool_]) -> Sums:
        """Sums over the valid values of (channel, n)."""
        self = cls(len(original))
        self.count = mask.sum(1)
        n = np.maximum(self.count, 1)
        self.minimum = np.where(mask, original, np.inf).min(1, initial=np.inf)
        self.maximum = np.where(mask, original, -np.inf).max(1, initial=-np.inf)
        self.mean = np.where(mask, original, 0).sum(1) / n
        self.spread = (np.where(mask, original - self.mean[:, None], 0) ** 2).sum(1)
        kept = np.where(mask, difference, 0)
        self.errors, self.squares = kept.sum(1), (kept**2).sum(1)
        self.largest = np.where(mask, error, 0).max(1, initial=0)
        return self

    def add(self, other: Sums, rows: slice = slice(None)) -> None:
        """Join the sums of other values of some channels."""
        n, m = self.count[rows], other.count
        total = np.maximum(n + m, 1)
        shift = other.mean - self.mean[rows]
        self.spread[rows] += other.spread + shift**2 * (n * (m / total))
        self.mean[rows] += shift * (m / total)
        self.count[rows] += m
        self.minimum[rows] = np.minimum(self.minimum[rows], other.minimum)
        self.maximum[rows] = np.maximum(self.maximum[rows], other.maximum)
        self.errors[rows] += other.errors
        self.squares[rows] += other.squares
        self.largest[rows] = np.maximum(self.largest[rows], other.largest)

    def figures(self, channel: int) -> Figures:
        """Figures of a channel."""
        n, nan = int(self.count[channel]), float("nan")
        if n == 0:
            return Figures(
                count=0, minimum=nan, maximum=nan, mean=nan, variance=nan, max_error=nan, bias=nan, rmse=nan, snr=nan,
                psnr=nan,
            )  # fmt: skip
        low, high = float(self.minimum[channel]), float(self.maximum[channel])
        variance, mse = float(self.spread[channel]) / n, float(self.squares[channel]) / n
        with np.errstate(over="ignore"):
            power = float(np.float64(high - low) ** 2)
        return Figures(
            count=n,
            minimum=low,
            maximum=high,
            mean=float(self.mean[channel]),
            variance=variance,
            max_error=float(self.largest[channel]),
            bias=float(self.errors[channel]) / n,
            rmse=float(np.sqrt(mse)),
            snr=decibels(variance, mse),
            psnr=decibels(power, mse),
        )


class Comparison:
    """Gathers figures of an array from its blocks; parts gathered apart can be merged.

    Parameters
    ----------
    ndim
        Axes of the array.
    channel_axis
        Axis of the channels; None: one channel.
    channels
        Length of that axis.
    bound
        The largest error allowed: one number for each channel, or one for all; None where there is none. The histogram
        of errors is in units of it (of 1 where it is None or 0).
    nodata
        Value that stands for missing data.
    offset
        Added to values before angles are taken of them: in units of the array, what makes it 0 where spectra are 0.
    worst
        How many of the worst places are remembered, and of those that changed.

    Attributes
    ----------
    errors
        Histogram of signed errors, decoded - original, in units of the bound.
    angles
        Histogram of angles in degrees, over pixels all channels of which are valid and not all 0. Channels without any
        valid sample in a block are left out there. Blocks that do not hold all channels are not counted, nor anything
        where there is one channel.
    worst
        Places of the largest errors, largest first; of many equals, some.
    missed
        Values that differ by more than the bound.
    changed
        Values that are not valid in the original or in the decoded array, and that differ by any bit.
    changed_places
        The first of them.
    """

    def __init__(
        self,
        ndim: int,
        *,
        channel_axis: int | None = None,
        channels: int = 1,
        bound: ArrayLike | None = None,
        nodata: float | int | None = None,
        offset: float = 0.0,
        worst: int = 10,
    ) -> None:
        self.ndim, self.channel_axis, self.channels = ndim, channel_axis, channels
        self.bound = None if bound is None else np.broadcast_to(np.asarray(bound, np.float64), (channels,))
        self.unit = np.ones(channels) if self.bound is None else np.where(self.bound > 0, self.bound, 1.0)
        self.nodata, self.offset, self.kept = nodata, offset, worst
        self.errors = Histogram(reach=None if self.bound is None else 1.0)
        self.angles = Histogram(64, signed=False)
        self.worst: list[Place] = []
        self.changed_places: list[Place] = []
        self.missed = self.changed = self.invalid = 0
        self._sums = Sums(channels)
        self._angles = np.zeros(3)  # count, sum, largest

    def update(self, original: Array, decoded: Array, start: Sequence[int] | None = None) -> None:
        """Take in a block.

        Parameters
        ----------
        original, decoded : (...)
            Blocks of one shape and dtype: integers, floats of up to 64 bits, or bool.
        start
            Index of their first value in the array; None: 0 along every axis.

        Raises
        ------
        ValueError
            If their shapes or dtypes differ, or do not fit.
        """
        if original.shape != decoded.shape or original.dtype != decoded.dtype or original.ndim != self.ndim:
            raise ValueError(
                f"Expected two blocks of {self.ndim} axes and of the same shape and dtype. Got {original.shape} of "
                f"{original.dtype} and {decoded.shape} of {decoded.dtype}."
            )
        if original.dtype.kind not in "iufb" or original.dtype.itemsize > 8:
            raise ValueError(f"Expected integers, floats of up to 64 bits or bool. Got {original.dtype}.")
        origin = tuple(start or (0,) * self.ndim)
        shape = (1, *original.shape) if self.channel_axis is None else moved(original, self.channel_axis).shape
        a, b = (self._rows(block, shape) for block in (original, decoded))
        first = 0 if self.channel_axis is None else origin[self.channel_axis]
        whole = len(a) == self.channels > 1
        if first + len(a) > self.channels:
            raise ValueError(f"Expected {self.channels} channels. Got a block that ends with {first + len(a)}.")
        columns = max(SLAB // len(a), 1) if whole else SLAB
        rows = len(a) if whole else max(SLAB // max(a.shape[1], 1), 1)
        for r in range(0, len(a), rows):
            for c in range(0, a.shape[1], columns):
                part = slice(r, r + rows), slice(c, c + columns)
                self._slab(native(a[part]), native(b[part]), first, (r, c), shape, origin)

    def merge(self, other: Comparison) -> None:
        """Take in what another comparison, made with the same arguments, has gathered."""
        self._sums.add(other._sums)
        self.errors.merge(other.errors)
        self.angles.merge(other.angles)
        self.worst = best([*self.worst, *other.worst], self.kept)
        self.changed_places = sorted([*self.changed_places, *other.changed_places], key=by_index)[: self.kept]
        self.missed, self.changed = self.missed + other.missed, self.changed + other.changed
        self.invalid += other.invalid
        self._angles[:2] += other._angles[:2]
        self._angles[2] = max(self._angles[2], other._angles[2])

    @property
    def within(self) -> bool:
        """Whether every valid value lies within the bound, and all others are equal bit for bit."""
        return self.missed == 0 and self.changed == 0

    @property
    def per_channel(self) -> list[Figures]:
        """Figures of every channel."""
        return [self._sums.figures(channel) for channel in range(self.channels)]

    @property
    def overall(self) -> Figures:
        """Figures of all values: for `snr` the variance is that of all channels together."""
        whole = Sums(1)
        for channel in range(self.channels):
            one = Sums(1)
            for name, values in vars(self._sums).items():
                setattr(one, name, values[channel : channel + 1].copy())
            whole.add(one)
        return whole.figures(0)

    @property
    def angle(self) -> tuple[float, float]:
        """Mean and largest angle in degrees; NaN where there are no spectra."""
        count, total, largest = self._angles.tolist()
        return (total / count, largest) if count else (float("nan"), float("nan"))

    def _rows(self, block: Array, shape: tuple[int, ...]) -> Array:
        rows = block if self.channel_axis is None else moved(block, self.channel_axis)
        return rows.reshape(shape[0], -1)

    def _slab(
        self,
        a: Array,
        b: Array,
        first: int,
        corner: tuple[int, int],
        shape: tuple[int, ...],
        origin: tuple[int, ...],
    ) -> None:
        """Take in (channel, n) that begin at `corner` of a block that, channels first, has a shape."""
        sound = valid(a, self.nodata)
        both = sound & valid(b, self.nodata)
        channels = slice(first + corner[0], first + corner[0] + len(a))
        with np.errstate(over="ignore", invalid="ignore"):
            error = magnitudes(a, b)
            original = a.astype(np.float64)
            difference = np.where(b.astype(np.float64) >= original, error, -error)
            self._sums.add(Sums.of(original, difference, error, both), channels)
        self.errors.add((difference / self.unit[channels, None])[both])
        if self.bound is not None:
            self.missed += int((both & ~(error <= self.bound[channels, None])).sum())
        self.invalid += int((~sound).sum())

        def place(at: tuple[int, ...], error: float) -> Place:
            inside = [int(i) for i in np.unravel_index(int(at[1]) + corner[1], shape[1:])] if shape[1:] else []
            if self.channel_axis is not None:
                inside.insert(self.channel_axis, int(at[0]) + corner[0])
            index = tuple(i + o for i, o in zip(inside, origin, strict=True))
            return Place(index=index, original=a[at], decoded=b[at], error=error)

        spoiled = ~both & changed(a, b)
        if spoiled.any():
            self.changed += int(spoiled.sum())
            found = [place(tuple(at), float("nan")) for at in np.argwhere(spoiled)[: self.kept]]
            self.changed_places = sorted([*self.changed_places, *found], key=by_index)[: self.kept]
        self._note_worst(np.where(both, error, 0), place)
        if len(a) == self.channels > 1:
            alive = both.reshape(len(a), -1).any(1)
            x, y = original[alive] + self.offset, b[alive].astype(np.float64) + self.offset
            found_angles = angles(x, y, np.asarray(both[alive].all(0)))
            self.angles.add(found_angles)
            self._angles += len(found_angles), found_angles.sum(), 0
            self._angles[2] = max(self._angles[2], found_angles.max(initial=0))

    def _note_worst(self, error: Floats, place: Any) -> None:
        least = self.worst[-1].error if len(self.worst) >= self.kept else 0.0
        flat = error.reshape(-1)
        places = np.flatnonzero((flat >= least) & (flat > 0))
        if len(places) == 0 or self.kept == 0:
            return
        if len(places) > self.kept:
            limit = np.partition(flat[places], -self.kept)[-self.kept]
            above = places[flat[places] > limit]
            equal = places[flat[places] == limit]
            equal = equal if len(equal) <= 1 << 12 else equal[:: len(equal) >> 12]  # whose order would take long
            places = np.concatenate((above, equal))
        found = [place(np.unravel_index(at, error.shape), float(flat[at])) for at in places]
        self.worst = best([*self.worst, *found], self.kept)


def angles(a: Floats, b: Floats, where: NDArray[np.bool_]) -> Floats:
    """Angles between spectra in degrees.

    Parameters
    ----------
    a, b : (channel, n)
        Spectra.
    where : (n,)
        Which are looked at; of these, a spectrum of zeros has no angle and is left out.

    Returns
    -------
    (m,)
        m <= n angles.
    """
    a, b = a[:, where], b[:, where]
    scales = [np.maximum(np.abs(x).max(0, initial=0), np.finfo(np.float64).tiny) for x in (a, b)]
    units = [x / scale for x, scale in zip((a, b), scales, strict=True)]
    norms = [np.sqrt((x**2).sum(0)) for x in units]
    some = (norms[0] > 0) & (norms[1] > 0)
    a, b = (x[:, some] / norm[some] for x, norm in zip(units, norms, strict=True))
    difference, total = np.sqrt(((a - b) ** 2).sum(0)), np.sqrt(((a + b) ** 2).sum(0))
    found: Floats = np.degrees(2 * np.arctan2(difference, total))
    return found


def decibels(power: float, noise: float) -> float:
    """10 log10(power / noise): infinite where there is no noise."""
    if noise == 0:
        return float("inf")
    with np.errstate(divide="ignore"):
        return float(10 * (np.log10(power) - np.log10(noise)))


def moved(block: Array, axis: int) -> Array:
    """The block with an axis first."""
    return np.moveaxis(block, axis, 0)


def native(block: Array) -> Array:
    """The block in the byte order of this machine."""
    return block.astype(block.dtype.newbyteorder("="), copy=False)


def best(places: list[Place], count: int) -> list[Place]:
    """The worst places of some."""
    return sorted(places, key=lambda place: (-place.error, place.index))[:count]


def by_index(place: Place) -> tuple[int, ...]:
    """Where a place lies."""
    return place.index
