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

PLACES, MOST_PLACES = 4096, 1 << 18
"""Coefficients (of every channel) in a batch, and of all blocks."""

TRADEOFF = math.log(2) / 6
"""What a bit is worth in squared steps: the slope of a uniform quantiser at high rate."""


class Encoder(nn.Module):
    """Basis and entropy model of the latents.

    Parameters
    ----------
    basis : (rank, channel)
        What to start from.
    scales : (rank, subband)
        Mean magnitudes of the latents, in steps: the Laplace distributions of the factorised entropy model.
    kept : (rank, subband)
        1 for latents that are coded at all, else 0.
    """

    def __init__(self, basis: Tensor, scales: Tensor, kept: Tensor) -> None:
        super().__init__()
        self.kept = nn.Parameter(kept, requires_grad=False)
        self.basis = nn.Parameter(basis.clone())
        self.scales = nn.Parameter(torch.log(scales.clamp(min=1e-3)))

    def analyse(self, coefficients: Tensor) -> Tensor:
        """Latents (rank, n) of channels (channel, n)."""
        solved: Tensor = torch.linalg.solve(self.basis @ self.basis.T, self.basis @ coefficients)
        return solved

    def loss(self, coefficients: Tensor, subbands: Tensor, noise: Tensor, tradeoff: float) -> Tensor:
        """MSE + tradeoff * rate, per latent, of coefficients (channel, n) of the given subbands (n,)."""
        kept = self.kept[:, subbands]
        latents = (self.analyse(coefficients) + noise) * kept
        scale = torch.exp(self.scales)[:, subbands]

        def cumulative(x: Tensor) -> Tensor:
            return 0.5 + 0.5 * torch.sign(x) * -torch.expm1(-x.abs() / scale)

        # Of the side where tails do not cancel.
        size = latents.abs()
        bits = -torch.log2((cumulative(0.5 - size) - cumulative(-0.5 - size)).clamp(min=1e-9))
        wrong = coefficients - self.basis.T @ latents
        return (wrong.square().sum() + tradeoff * (bits * kept).sum()) / latents.numel()

    @classmethod
    def trained(
        cls,
        training: Sequence[Blocks],
        *,
        steps: int,
        seed: int,
        device: torch.device,
        rate: float = 1e-4,
        tradeoff: float = TRADEOFF,
    ) -> NDArray[np.float64]:
        """Basis (rank, channel) after training from the blocks' own.

        Parameters
        ----------
        training
            Blocks of one basis.
        steps, rate
            Steps of the optimiser, and its largest rate, which falls to zero along a cosine.
        seed
            Of all random numbers.
        device
            Of torch.
        tradeoff
            Weight of a bit against a squared step.

        Raises
        ------
        ConfigError
            If the blocks have several bases.
        """
        start = training[0].basis
        if any(not np.array_equal(blocks.basis, start) for blocks in training):
            raise ConfigError("Expected blocks of one basis to train the encoder with. Got several: fit one model.")
        generator = torch.Generator().manual_seed(seed)
        parts, owners = [], []
        coded: dict[tuple[int, tuple[int, ...]], NDArray[np.bool_]] = {}
        most = max(1, MOST_PLACES // sum(len(blocks.samples) for blocks in training))
        for blocks in training:
            owner = np.empty(blocks.plan.shape, np.int64)
            kept = np.ones((len(start), len(blocks.plan.subbands)), np.bool_)
            kept = kept if blocks.kept is None else blocks.kept(blocks.plan)
            for i, subband in enumerate(blocks.plan.subbands):
                name = subband.level, subband.orientation
                coded.setdefault(name, kept[:, i])
                owner[subband.slices] = list(coded).index(name)
            for block in range(len(blocks.samples)):
                flat = blocks.channel_coefficients(block).reshape(len(blocks.means), -1)
                chosen = torch.randperm(flat.shape[1], generator=generator)[:most].numpy()
                parts.append(torch.from_numpy(flat[:, chosen].astype(np.float32)))
                owners.append(torch.from_numpy(owner.reshape(-1)[chosen]))
        everything, subbands = torch.cat(parts, dim=1), torch.cat(owners)
        basis = torch.from_numpy(np.ascontiguousarray(start, np.float32))
        magnitudes = (basis @ everything).abs()
        sums = torch.zeros(len(basis), len(coded)).index_add_(1, subbands, magnitudes)
        scales = sums / torch.bincount(subbands, minlength=len(coded)).clamp(min=1)
        mask = torch.from_numpy(np.stack(list(coded.values()), axis=1).astype(np.float32))
        encoder = cls(basis, scales, mask).to(device)
        optimiser = torch.optim.Adam(
            [{"params": [encoder.basis], "lr": rate}, {"params": [encoder.scales], "lr": 1e-2}]
        )
        for step in range(steps):
            for group, largest in zip(optimiser.param_groups, (rate, 1e-2), strict=True):
                group["lr"] = largest * 0.5 * (1 + math.cos(math.pi * step / steps))
            some = torch.randint(0, everything.shape[1], (min(PLACES, everything.shape[1]),), generator=generator)
            noise = torch.rand((len(start), len(some)), generator=generator) - 0.5
            loss = encoder.loss(everything[:, some].to(device), subbands[some].to(device), noise.to(device), tradeoff)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        return encoder.basis.detach().cpu().numpy().astype(np.float64)
