"""The entropy bottleneck of published WaLLoC: a normal distribution made uniform, rounded, and made normal again.

With b bits, m = 2^(b-1) - 1/2 - 1/1000 and s = (2^(b-1) - 1) / 1.85, an encoder output y becomes

    z = 2 m (Phi(y / s) - 1/2)

and is rounded (in training: disturbed by uniform noise of the same width); the decoder sees s Phi^-1(z / 2m + 1/2).
Phi is the cumulative distribution function of the standard normal distribution. Rounded values take at most b bits.

References
----------
.. [1] Ballé, Laparra and Simoncelli, "End-to-end optimized image compression", ICLR 2017: noise instead of rounding.
.. [2] Jacobellis and Yadwadkar, "Learned compression for compressed learning", arXiv 2412.09405 (2024), section 3.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

__all__ = ["Round", "ToNormal", "ToUniform"]

LEAST, MOST = 1e-4, 0.9999
"""Probabilities that the decoder distinguishes: Phi^-1 of the outermost levels stays finite."""


def half_range(bits: int) -> float:
    """m: rounded values lie within +-m."""
    return (1 << bits - 1) - 1 + 0.5 - 1e-3


def scale(bits: int) -> float:
    """s: standard deviation of what the encoder is to put out."""
    return ((1 << bits - 1) - 1) / 1.85


class ToUniform(nn.Module):
    """Compand: normal values of standard deviation s to values within +-m."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, y: Tensor) -> Tensor:
        """Elementwise, differentiable."""
        probability = 0.5 * (1.0 + torch.erf(y / scale(self.bits) / math.sqrt(2.0)))
        return 2.0 * half_range(self.bits) * (probability - 0.5)

    def extra_repr(self) -> str:
        """What `repr` says besides the class."""
        return f"bits={self.bits}"


class Round(nn.Module):
    """Round to integers, halves to even; in training add noise, uniform from -1/2 to 1/2, instead."""

    def forward(self, z: Tensor) -> Tensor:
        """Elementwise; the gradient passes in training only."""
        return z + torch.rand_like(z) - 0.5 if self.training else torch.round(z)


class ToNormal(nn.Module):
    """Inverse of `ToUniform`; values beyond the 1e-4 and 0.9999 quantiles come back as these."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits

    def forward(self, z: Tensor) -> Tensor:
        """Elementwise, differentiable."""
        probability = torch.clamp(z / (2.0 * half_range(self.bits)) + 0.5, LEAST, MOST)
        return torch.erfinv(2.0 * probability - 1.0) * math.sqrt(2.0) * scale(self.bits)

    def extra_repr(self) -> str:
        """What `repr` says besides the class."""
        return f"bits={self.bits}"
