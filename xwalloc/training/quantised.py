"""A network while it is trained: float weights whose forward pass is that of the integers they will become.

Weights, biases and activations are rounded as inference rounds them (`models.neural.arithmetic`), gradients pass the
rounding as if it were not there (straight-through estimator: Bengio, Leonard, Courville, arXiv 1308.3432; Jacob et al.,
arXiv 1712.05877). Every output has its power of two to scale weights with, so that requantisation is a shift.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xwalloc.models.neural import Architecture, Network
from xwalloc.models.neural.arithmetic import EXACT_LIMIT, LARGEST, TAPS, Layer

__all__ = ["Refiner"]

ACTIVATION_BITS = 4
"""Fractional bits of inputs and activations."""

OUTPUT_BITS = 8
"""Fractional bits of corrections, which count in quanta."""

MOST_BITS = 15
"""Fractional bits of weights are at most so many."""

SAFE = EXACT_LIMIT // 4
"""What weights may add up to, times the largest activation, and what biases may be: sums stay below 2^24."""

GAIN = math.sqrt(2.0)
"""He et al., arXiv 1502.01852."""


class Refiner(nn.Module):
    """Trainable form of a `models.neural.Network`.

    Parameters
    ----------
    architecture
        Shape of the network. Weights are random (He) but for those of the last layer, which are zeros.
    generator
        What they are drawn from.
    """

    def __init__(self, architecture: Architecture, generator: torch.Generator) -> None:
        super().__init__()
        self.architecture = architecture
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for name, shape in architecture.shapes().items():
            scale = 0.0 if name == "output" else GAIN / math.sqrt(math.prod(shape[1:]))
            self.weights.append(nn.Parameter(scale * torch.randn(shape, generator=generator)))
            self.biases.append(nn.Parameter(torch.zeros(shape[0])))
        self.codes = nn.Parameter(0.01 * torch.randn(architecture.widths[0], architecture.codes, generator=generator))

    def forward(self, planes: Tensor, codes: Tensor, signs: Tensor, *, rounded: bool = True) -> Tensor:
        """Corrections in quanta.

        Parameters
        ----------
        planes : (item, plane, *grid)
            Companded input (`models.neural.features`) as floats.
        codes : (item, code)
            Magnitude codes as `features.spectral_codes` scales them.
        signs : (item, corrected plane, *grid)
            Signs of the symbols that are corrected.
        rounded
            False leaves all rounding out: what int8 costs is the difference.
        """
        count = len(self.weights)
        convolve = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[self.architecture.dimensions - 1]
        values = planes
        for i in range(count):
            bits, scale = self._scales(i)
            spread = (slice(None), *(None,) * self.architecture.dimensions)
            sums = convolve(
                values, _weights(self.weights[i], scale, rounded), padding=TAPS // 2 if i < count - 1 else 0
            )
            offset = _round(self.biases[i] * torch.exp2(bits + ACTIVATION_BITS), rounded).clamp(-SAFE, SAFE)[None]
            if i == 0:
                offset = offset + codes @ _weights(self.codes, scale, rounded).T
            sums = sums.float() + offset[(slice(None), *spread)]
            # Sums of integers; an algorithm or a precision that is not exact is set right as far as it can be.
            sums = _round(sums, rounded)
            shift = self._shift(i, bits)
            half = torch.where(shift > 0, torch.exp2(shift - 1), 0.0)
            scaled = (sums + (half[spread] if rounded else 0.0)) * torch.exp2(-shift)[spread]
            values = torch.clamp(_floor(scaled, rounded), -LARGEST if i == count - 1 else 0, LARGEST)
        moved, directed = values.chunk(2, dim=1)
        return torch.clamp(moved * signs + directed, -LARGEST, LARGEST) / (1 << OUTPUT_BITS)

    def _scales(self, i: int) -> tuple[Tensor, Tensor]:
        """Fractional bits (output,) of the weights of a layer, and what to multiply them with to make integers of them.

        As many bits as int8 and exact sums admit; weights that are too large even for the fewest are made smaller.
        """
        with torch.no_grad():
            flat = self.weights[i].reshape(len(self.weights[i]), -1)
            if i == 0:
                flat = torch.cat([flat, self.codes], dim=1)
            largest, total = flat.abs().amax(dim=1).clamp(min=1e-9), flat.abs().sum(dim=1).clamp(min=1e-9)
            most = torch.log2(torch.minimum(LARGEST / largest, SAFE / LARGEST / total))
            least = OUTPUT_BITS - ACTIVATION_BITS if i == len(self.weights) - 1 else 0
            bits = torch.clamp(torch.floor(most), least, MOST_BITS)
            # Rounding at most doubles a weight: sums stay below 2 * SAFE.
            return bits, torch.minimum(torch.exp2(bits), SAFE / LARGEST / total)

    def _shift(self, i: int, bits: Tensor) -> Tensor:
        """Bits (output,) to shift sums of a layer by."""
        return bits + ACTIVATION_BITS - OUTPUT_BITS if i == len(self.weights) - 1 else bits

    def start_from(self, network: Network) -> None:
        """Take the weights of a network of the same architecture: `network()` then corrects as it does."""
        with torch.no_grad():
            for i, layer in enumerate(network.layers):
                last = i == len(network.layers) - 1
                bits = layer.shift.astype(np.float64) + (OUTPUT_BITS - ACTIVATION_BITS if last else 0)
                spread = (slice(None), *(None,) * (layer.weight.ndim - 1))
                self.weights[i].copy_(torch.from_numpy(np.ldexp(1.0, -bits.astype(int))[spread] * layer.weight))
                self.biases[i].copy_(torch.from_numpy(np.ldexp(layer.bias, -bits.astype(int) - ACTIVATION_BITS)))
                if i == 0:
                    self.codes.copy_(torch.from_numpy(np.ldexp(1.0, -bits.astype(int))[:, None] * network.codes))

    def network(self) -> Network:
        """The integers that inference takes."""
        layers = []
        with torch.no_grad():
            for i in range(len(self.weights)):
                bits, scale = self._scales(i)
                bias = _round(self.biases[i] * torch.exp2(bits + ACTIVATION_BITS), True).clamp(-SAFE, SAFE)
                layers.append(
                    Layer(
                        weight=_array(_weights(self.weights[i], scale, True), np.int8),
                        bias=_array(bias, np.int32),
                        shift=_array(self._shift(i, bits), np.uint8),
                    )
                )
            codes = _array(_weights(self.codes, self._scales(0)[1], True), np.int8)
        return Network(architecture=self.architecture, layers=tuple(layers), codes=codes)


def _weights(weight: Tensor, scale: Tensor, rounded: bool) -> Tensor:
    """Weights times the scale of each output, within int8."""
    scaled = weight * scale[(slice(None), *(None,) * (weight.ndim - 1))]
    return torch.clamp(_round(scaled, rounded), -LARGEST, LARGEST)


def _round(values: Tensor, rounded: bool) -> Tensor:
    return values + (torch.round(values) - values).detach() if rounded else values


def _floor(values: Tensor, rounded: bool) -> Tensor:
    return values + (torch.floor(values) - values).detach() if rounded else values


def _array(values: Tensor, dtype: Any) -> Any:
    return np.ascontiguousarray(values.detach().cpu().numpy()).astype(dtype)
