"""Encoder and decoder networks over time: "Oobleck", the autoencoder of Stable Audio Open, with two blocks of stride 1.

Weight-normalised convolutions, snake activations and dilated residual units. Names of parameters are those of the
published checkpoints (weight normalisation as `weight_g` and `weight_v`). A block of stride 1 has a kernel of two
samples: the encoder gets one sample longer with each, the decoder one shorter.

References
----------
.. [1] Evans, Parker, Carr, Zukowski, Taylor and Pons, "Stable Audio Open", arXiv 2407.14358 (2024), section 2.
.. [2] Kumar et al., "High-fidelity audio compression with improved RVQGAN", NeurIPS 2023 (arXiv 2306.06546).
.. [3] Ziyin, Hartwig and Ueda, "Neural networks fail to learn periodic functions and how to fix it", NeurIPS 2020.
.. [4] Salimans and Kingma, "Weight normalization", NeurIPS 2016.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["OobleckDecoder", "OobleckEncoder"]

DILATIONS = (1, 3, 9)
WIDE = 7
"""Samples of the wide kernels."""


class _Conv(nn.Module):
    """Convolution whose kernels are w = g v / |v|, one length g for each index of v's first axis.

    Parameters
    ----------
    inputs, outputs
        Numbers of channels.
    kernel, padding, dilation
        In samples.
    bias
        Whether there is one.
    transposed
        Whether it is the transposed convolution; v is then (input, output, kernel).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        *,
        padding: int = 0,
        dilation: int = 1,
        bias: bool = True,
        transposed: bool = False,
    ) -> None:
        super().__init__()
        self.padding, self.dilation, self.transposed = padding, dilation, transposed
        shape = (inputs, outputs, kernel) if transposed else (outputs, inputs, kernel)
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None
        self.weight_g = nn.Parameter(torch.empty(shape[0], 1, 1))
        self.weight_v = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fresh weights, distributed as those of a plain convolution."""
        nn.init.kaiming_uniform_(self.weight_v, a=math.sqrt(5))
        edge = 1.0 / math.sqrt(self.weight_v[0].numel())
        if self.bias is not None:
            nn.init.uniform_(self.bias, -edge, edge)
        with torch.no_grad():
            self.weight_g.copy_(self.lengths())

    def lengths(self) -> Tensor:
        return torch.linalg.vector_norm(self.weight_v, dim=(1, 2), keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight_v * (self.weight_g / self.lengths())
        if self.transposed:
            return F.conv_transpose1d(x, weight, self.bias, padding=self.padding)
        return F.conv1d(x, weight, self.bias, padding=self.padding, dilation=self.dilation)


class _Snake(nn.Module):
    """x + sin^2(a x) / b with a and b learned for each channel, as logarithms."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.zeros(1, width, 1))
        self.beta = nn.Parameter(torch.zeros(1, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sin(torch.exp(self.alpha) * x).square() / (torch.exp(self.beta) + 1e-9)


class _Unit(nn.Module):
    """x + f(x), f a dilated convolution and one of a single sample, each behind an activation."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.snake1 = _Snake(width)
        self.conv1 = _Conv(width, width, WIDE, padding=WIDE // 2 * dilation, dilation=dilation)
        self.snake2 = _Snake(width)
        self.conv2 = _Conv(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(self.snake2(self.conv1(self.snake1(x))))


class _Longer(nn.Module):
    """Three residual units, then a change of width: one sample longer."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.res_unit1, self.res_unit2, self.res_unit3 = (_Unit(inputs, d) for d in DILATIONS)
        self.snake1 = _Snake(inputs)
        self.conv1 = _Conv(inputs, outputs, 2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1(self.snake1(self.res_unit3(self.res_unit2(self.res_unit1(x)))))


class _Shorter(nn.Module):
    """A change of width, then three residual units: one sample shorter."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.snake1 = _Snake(inputs)
        self.conv_t1 = _Conv(inputs, outputs, 2, padding=1, transposed=True)
        self.res_unit1, self.res_unit2, self.res_unit3 = (_Unit(outputs, d) for d in DILATIONS)

    def forward(self, x: Tensor) -> Tensor:
        return self.res_unit3(self.res_unit2(self.res_unit1(self.conv_t1(self.snake1(x)))))


class OobleckEncoder(nn.Module):
    """Coefficients (batch, inputs, time) to latents before companding (batch, outputs, time + 2).

    Parameters
    ----------
    inputs, outputs
        Numbers of channels.
    width
        Channels between; the multiple of `outputs` at or below it is used.
    """

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        wide = outputs * (width // outputs)
        self.conv1 = _Conv(inputs, outputs, WIDE, padding=WIDE // 2)
        self.block = nn.ModuleList([_Longer(outputs, wide), _Longer(wide, wide)])
        self.snake1 = _Snake(wide)
        self.conv2 = _Conv(wide, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Two samples longer than `x`."""
        x = self.conv1(x)
        for block in self.block:
            x = block(x)
        return self.conv2(self.snake1(x))


class OobleckDecoder(nn.Module):
    """Latents (batch, inputs, time + 2) to coefficients (batch, outputs, time).

    Parameters
    ----------
    inputs, outputs
        Numbers of channels.
    width
        Channels between; the multiple of `inputs` at or below it is used.
    """

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        wide = inputs * (width // inputs)
        self.conv1 = _Conv(inputs, wide, WIDE, padding=WIDE // 2)
        self.block = nn.ModuleList([_Shorter(wide, wide), _Shorter(wide, inputs)])
        self.snake1 = _Snake(inputs)
        self.conv2 = _Conv(inputs, outputs, WIDE, padding=WIDE // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Two samples shorter than `x`."""
        x = self.conv1(x)
        for block in self.block:
            x = block(x)
        return self.conv2(self.snake1(x))
