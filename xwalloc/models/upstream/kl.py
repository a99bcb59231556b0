"""Encoder and decoder networks over (y, x): the autoencoder of latent diffusion, of one resolution.

Residual blocks with group normalisation around one block of global self-attention. Names of parameters are those of the
published checkpoints. Attention and group normalisation see the whole image: a decoder has to be given the extent that
was encoded, and two halves of an image do not decode to the halves of the whole.

References
----------
.. [1] Rombach, Blattmann, Lorenz, Esser and Ommer, "High-resolution image synthesis with latent diffusion models",
   CVPR 2022 (arXiv 2112.10752), appendix E.
.. [2] Wu and He, "Group normalization", ECCV 2018. [3] Vaswani et al., "Attention is all you need", NeurIPS 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["GROUPS", "KLDecoder", "KLEncoder"]

GROUPS = 32
EPSILON = 1e-6
KERNEL = 3


class _Norm(nn.GroupNorm):
    """Group normalisation that takes groups of a single value, too: an image may be one patch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


def _norm(width: int) -> nn.GroupNorm:
    return _Norm(GROUPS, width, eps=EPSILON)


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, KERNEL, padding=KERNEL // 2)


class _Residual(nn.Module):
    """x + f(x), f twice normalisation, SiLU and convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = _norm(width)
        self.conv1 = _conv(width, width)
        self.norm2 = _norm(width)
        self.conv2 = _conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(y)))


class _Attention(nn.Module):
    """x + self-attention among all positions, one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.group_norm = _norm(width)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        positions = self.group_norm(x).flatten(2).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(
            self.to_q(positions)[:, None], self.to_k(positions)[:, None], self.to_v(positions)[:, None]
        )
        return x + self.to_out[0](mixed[:, 0]).transpose(1, 2).reshape(x.shape)


class _Blocks(nn.Module):
    """Residual blocks, one after the other."""

    def __init__(self, width: int, count: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([_Residual(width) for _ in range(count)])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resnets:
            x = block(x)
        return x


class _Middle(nn.Module):
    """Attention between two residual blocks."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([_Attention(width)])
        self.resnets = nn.ModuleList([_Residual(width), _Residual(width)])

    def forward(self, x: Tensor) -> Tensor:
        return self.resnets[1](self.attentions[0](self.resnets[0](x)))


class KLEncoder(nn.Module):
    """Coefficients (batch, inputs, y, x) to latents before companding (batch, outputs, y, x).

    Parameters
    ----------
    inputs, outputs
        Numbers of channels.
    width
        Channels between, a multiple of 32.
    """

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.conv_in = _conv(inputs, width)
        self.down_blocks = nn.ModuleList([_Blocks(width, 2)])
        self.mid_block = _Middle(width)
        self.conv_norm_out = _norm(width)
        self.conv_out = _conv(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Of the same extent as `x`."""
        x = self.mid_block(self.down_blocks[0](self.conv_in(x)))
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class KLDecoder(nn.Module):
    """Latents (batch, inputs, y, x) to coefficients (batch, outputs, y, x); parameters as for `KLEncoder`."""

    def __init__(self, inputs: int, width: int, outputs: int) -> None:
        super().__init__()
        self.conv_in = _conv(inputs, width)
        self.up_blocks = nn.ModuleList([_Blocks(width, 3)])
        self.mid_block = _Middle(width)
        self.conv_norm_out = _norm(width)
        self.conv_out = _conv(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Of the same extent as `x`."""
        x = self.up_blocks[0](self.mid_block(self.conv_in(x)))
        return self.conv_out(F.silu(self.conv_norm_out(x)))
