"""The wavelet packet transform of published WaLLoC: bior4.4, periodised, natural order, on the last one or two axes.

Each level filters every channel by itself and replaces it by its subbands, so that channels of J levels are counted
(channel, first level, ..., last level): "channel-major, natural order". Subbands of a level come as a, d over one axis
and as a, h, v, d over two (PyWavelets' names: h is high-pass along y, v along x).

Signals are periodic however short they are, so that synthesis inverts analysis always. The published transform wraps
around once only: it is the same where the input of every level has 10 samples or more along each axis, and loses
samples below that.

A convolution is written as a sum of shifted signals: torch's own, of one channel and ten taps, takes two to
ten times as long on a CPU, forwards and backwards.

References
----------
.. [1] Cohen, Daubechies and Feauveau, "Biorthogonal bases of compactly supported wavelets", CPAM 45 (1992).
.. [2] Jacobellis and Yadwadkar, "Learned compression for compressed learning", arXiv 2412.09405 (2024), section 3.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from xwalloc.transform.filters import get_wavelet

__all__ = ["PacketAnalysis", "PacketSynthesis"]

TAPS = 10
Y, X = 2, 3


def _taps(pair: str, band: str) -> Tensor:
    """One filter as PyWavelets lays it out, time-reversed for analysis: ten taps, centres at 4 (analysis lo) or 5."""
    filters = getattr(get_wavelet("bior4.4"), pair)
    taps, origin = getattr(filters, band), getattr(filters, f"{band}_origin")
    centre = 4 if band == "lo" else 5
    values = [0.0] * TAPS
    for index, tap in enumerate(taps):
        values[centre + index - origin] = tap
    return torch.tensor(values, dtype=torch.float32)


def _wrap(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    """Continue `x` periodically, as often as it takes."""
    n = x.shape[axis]
    if n >= max(before, after):
        return torch.cat([x.narrow(axis, n - before, before), x, x.narrow(axis, 0, after)], dim=axis)
    return x.index_select(axis, torch.arange(-before, n + after, device=x.device) % n)


def _weighted(signals: list[Tensor], taps: Tensor) -> Tensor:
    """Sum of signals times taps."""
    total = signals[0] * taps[0]
    for signal, tap in zip(signals[1:], taps[1:], strict=True):
        total.addcmul_(signal, tap)
    return total


def _split(x: Tensor, lo: Tensor, hi: Tensor, axis: int) -> Tensor:
    """Subbands (n, 2, y, x) of x (n, 1, y, x): low, high; half as long along `axis`."""
    half = x.shape[axis] // 2
    even, odd = torch.unflatten(_wrap(x, axis, 4, 4), axis, (half + 4, 2)).unbind(axis + 1)
    if axis == X:
        even, odd = even.contiguous(), odd.contiguous()
    shifted = [(even, odd)[tap % 2].narrow(axis, tap // 2, half) for tap in range(TAPS)]
    return torch.cat([_weighted(shifted, taps.flatten()) for taps in (lo, hi)], dim=1)


def _merge(bands: Tensor, lo: Tensor, hi: Tensor, axis: int) -> Tensor:
    """Inverse of `_split`: (n, 1, y, x) of (n, 2, y, x), even and odd samples apart."""
    size = bands.shape[axis]
    bands = _wrap(bands, axis, 2, 2)
    shifted = [band.narrow(axis, start, size) for band in (bands[:, :1], bands[:, 1:]) for start in range(TAPS // 2)]
    lo, hi = lo.flatten().flip(0), hi.flatten().flip(0)
    phases = [_weighted(shifted, torch.cat([lo[phase::2], hi[phase::2]])) for phase in (1, 0)]
    return torch.stack(phases, dim=axis + 1).flatten(axis, axis + 1)


class _Packet(nn.Module):
    """Levels, axes, and the filters as buffers under their published names."""

    def __init__(self, levels: int, dimensions: int, prefix: str, pair: str) -> None:
        super().__init__()
        self.levels, self.dimensions, self.prefix = levels, dimensions, prefix
        for suffix, shape in (("", (1, 1, TAPS)),) if dimensions == 1 else (
            ("_col", (1, 1, TAPS, 1)),
            ("_row", (1, 1, 1, TAPS)),
        ):  # fmt: skip
            for index, band in enumerate(("lo", "hi")):
                self.register_buffer(f"{prefix}{index}{suffix}", _taps(pair, band).reshape(shape))

    def filters(self, axis: int) -> tuple[Tensor, Tensor]:
        suffix = "" if self.dimensions == 1 else ("_col" if axis == Y else "_row")
        return (
            cast(Tensor, getattr(self, f"{self.prefix}0{suffix}")),
            cast(Tensor, getattr(self, f"{self.prefix}1{suffix}")),
        )

    def extra_repr(self) -> str:
        return f"levels={self.levels}, dimensions={self.dimensions}"


class PacketAnalysis(_Packet):
    """Samples to coefficients: (batch, channel, [y,] x) to (batch, channel * 2^(d J), [y / 2^J,] x / 2^J).

    Parameters
    ----------
    levels
        Depth J of the packet tree. Every signal axis is a multiple of 2^J.
    dimensions
        Number d of signal axes, 1 or 2.
    """

    def __init__(self, levels: int, dimensions: int) -> None:
        super().__init__(levels, dimensions, "h", "analysis")

    def forward(self, x: Tensor) -> Tensor:
        """Coefficients of `x`, differentiable."""
        batch = x.shape[0]
        signal = x.shape[2:] if self.dimensions == 2 else (1, x.shape[2])
        x = x.reshape(-1, 1, *signal)
        for _ in range(self.levels):
            for axis in (X, Y)[: self.dimensions]:
                x = _split(x, *self.filters(axis), axis).flatten(0, 1)[:, None]
        signal = x.shape[4 - self.dimensions :]
        return x.reshape(batch, -1, *signal)


class PacketSynthesis(_Packet):
    """Inverse of `PacketAnalysis`, with the same parameters."""

    def __init__(self, levels: int, dimensions: int) -> None:
        super().__init__(levels, dimensions, "g", "synthesis")

    def forward(self, x: Tensor) -> Tensor:
        """Samples of the coefficients `x`, differentiable."""
        batch = x.shape[0]
        signal = x.shape[2:] if self.dimensions == 2 else (1, x.shape[2])
        x = x.reshape(-1, 1, *signal)
        for _ in range(self.levels):
            for axis in (Y, X)[2 - self.dimensions :]:
                x = _merge(x.reshape(-1, 2, *x.shape[2:]), *self.filters(axis), axis)
        signal = x.shape[4 - self.dimensions :]
        return x.reshape(batch, -1, *signal)
