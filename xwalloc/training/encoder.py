"""Training of the spectral basis: additive noise in place of rounding, MSE + lambda * rate.

The wavelet transform commutes with the basis and is orthonormal up to a few per cent (bior4.4), so that errors are
measured on the wavelet coefficients of the channels. What encodes is always the least-squares analysis of the basis
that decodes, as in the codec; rows may change their lengths, which is a step of its own for every component.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from xwalloc.errors import ConfigError
from xwalloc.training.blocks import Blocks

__all__ = ["Encoder"]

PLACES = 4096
"""Coefficients (of every channel) in a batch."""


class Encoder(nn.Module):
    """Basis and entropy model of the latents.

    Parameters
    ----------
    basis : (rank, channel)
        What to start from.
    scales : (rank, subband)
        Mean magnitudes of the latents, in steps: the Laplace distributions of the factorised entropy model.
    """

    def __init__(self, basis: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.basis = nn.Parameter(basis.clone())
        self.scales = nn.Parameter(torch.log(scales.clamp(min=1e-3)))

    def analyse(self, coefficients: Tensor) -> Tensor:
        """Latents (rank, n) of channels (channel, n)."""
        solved: Tensor = torch.linalg.solve(self.basis @ self.basis.T, self.basis @ coefficients)
        return solved

    def loss(self, coefficients: Tensor, subbands: Tensor, noise: Tensor, tradeoff: float) -> Tensor:
        """MSE + tradeoff * rate, per latent, of coefficients (channel, n) of the given subbands (n,)."""
        latents = self.analyse(coefficients) + noise
        scale = torch.exp(self.scales)[:, subbands]

        def cumulative(x: Tensor) -> Tensor:
            return 0.5 + 0.5 * torch.sign(x) * -torch.expm1(-x.abs() / scale)

        # Of the side where tails do not cancel.
        size = latents.abs()
        bits = -torch.log2((cumulative(0.5 - size) - cumulative(-0.5 - size)).clamp(min=1e-9))
        wrong = coefficients - self.basis.T @ latents
        return (wrong.square().sum() + tradeoff * bits.sum()) / latents.numel()

    @classmethod
    def trained(
        cls, training: Sequence[Blocks], steps: int, rate: float, tradeoff: float, seed: int, device: torch.device
    ) -> NDArray[np.float64]:
        """Basis (rank, channel) after training from the blocks' own.

        Raises
        ------
        ConfigError
            If the blocks have several bases.
        """
        start = training[0].basis
        if any(not np.array_equal(blocks.basis, start) for blocks in training):
            raise ConfigError(
                "Expected blocks of one basis to train the encoder with. Got several: leave encoder=False."
            )
        generator = torch.Generator().manual_seed(seed)
        parts, owners = [], []
        names: dict[tuple[int, tuple[int, ...]], int] = {}
        for blocks in training:
            owner = np.empty(blocks.plan.shape, np.int64)
            for subband in blocks.plan.subbands:
                owner[subband.slices] = names.setdefault((subband.level, subband.orientation), len(names))
            for block in range(len(blocks.samples)):
                coefficients = blocks.channel_coefficients(block).astype(np.float32)
                parts.append(torch.from_numpy(coefficients.reshape(len(coefficients), -1)))
                owners.append(torch.from_numpy(owner.reshape(-1)))
        everything, subbands = torch.cat(parts, dim=1), torch.cat(owners)
        basis = torch.from_numpy(np.ascontiguousarray(start, np.float32))
        magnitudes = (basis @ everything).abs()
        scales = torch.stack([magnitudes[:, subbands == s].mean(dim=1) for s in range(len(names))], dim=1)
        encoder = cls(basis, scales).to(device)
        optimiser = torch.optim.Adam(
            [{"params": [encoder.basis], "lr": rate}, {"params": [encoder.scales], "lr": 1e-2}]
        )
        for step in range(steps):
            for group, most in zip(optimiser.param_groups, (rate, 1e-2), strict=True):
                group["lr"] = most * 0.5 * (1 + math.cos(math.pi * step / steps))
            some = torch.randint(0, everything.shape[1], (min(PLACES, everything.shape[1]),), generator=generator)
            noise = torch.rand((len(start), len(some)), generator=generator) - 0.5
            loss = encoder.loss(everything[:, some].to(device), subbands[some].to(device), noise.to(device), tradeoff)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return encoder.basis.detach().cpu().numpy().astype(np.float64)
