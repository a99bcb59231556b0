"""Quantised blocks as tensors to learn from: grouped by the extent of their grids."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xwalloc.models.neural import Architecture, Network
from xwalloc.models.neural.features import inputs, spectral_codes
from xwalloc.training.blocks import Blocks, Quantised

__all__ = ["Examples", "flipped", "gathered"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Examples:
    """Items of one grid.

    Parameters
    ----------
    planes : (item, plane, *grid) int8
        Input planes.
    codes : (item, code) float32
        Magnitude codes as inputs.
    signs : (item, corrected plane, *grid) int8
        Signs of the symbols.
    errors : (item, corrected plane, *grid) float32
        What is to be learned, in quanta; 0 where there is no coefficient.
    there : (plane of the view, *grid) bool
        Which of a component's corrected planes have a coefficient.
    """

    planes: Tensor
    codes: Tensor
    signs: Tensor
    errors: Tensor
    there: Tensor

    @property
    def places(self) -> int:
        """Places of the grid."""
        return int(np.prod(self.planes.shape[2:]))

    def pick(self, items: Tensor, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Planes, codes, signs and errors of some items, as floats on a device."""
        parts = (self.planes, self.codes, self.signs, self.errors)
        planes, codes, signs, errors = (part[items].to(device, torch.float32) for part in parts)
        return planes, codes, signs, errors


def gathered(
    architecture: Architecture, quantised: Iterable[tuple[Blocks, Quantised]], device: torch.device
) -> list[Examples]:
    """Examples of some blocks: one per grid and arrangement of coefficients.

    Components that hold only zeros in a view are left out: inference does not look at them either.
    """
    groups: dict[tuple[tuple[int, ...], bytes], list[tuple[np.ndarray, ...]]] = {}
    kind, shape = architecture, architecture.shape
    shared = kind.kind == "shared"
    empty = Network.untrained(architecture)
    there = {}
    for blocks, block in quantised:
        rank = len(block.symbols)
        flat, errors = block.symbols.reshape(rank, -1), block.errors.reshape(rank, -1)
        for view in empty.views(blocks.plan):
            planes, signs = (p.swapaxes(0, 1) for p in inputs(flat, view, shape.lows, 0, rank, shared))
            codes = spectral_codes(block.codes[:, list(view.subbands)], 0, rank, shared).T.astype(np.float32)
            own = view.index[shape.context :]
            wanted = np.where(own >= 0, errors[:, np.maximum(own, 0)], 0)
            signs = signs.reshape(rank, shape.planes, *view.grid)[:, shape.context :]
            used = block.codes[:, list(view.subbands[-shape.own_subbands :])].any(axis=1)
            if not shared:
                signs, wanted = (part.reshape(1, -1, *view.grid) for part in (signs, wanted))
                used = used.any(keepdims=True)
            key = (view.grid, (own >= 0).tobytes())
            there[key] = own >= 0
            groups.setdefault(key, []).append((planes[used], codes[used], signs[used], wanted[used]))
    made = []
    for key, parts in groups.items():
        planes, codes, signs, wanted = (np.ascontiguousarray(np.concatenate(p)) for p in zip(*parts, strict=True))
        if len(planes):
            arrays = (planes, codes, signs, wanted.astype(np.float32), there[key])
            names = ("planes", "codes", "signs", "errors", "there")
            made.append(
                Examples(**{n: torch.from_numpy(part).to(device) for n, part in zip(names, arrays, strict=True)})
            )
    return made


def flipped(
    architecture: Architecture, planes: Tensor, signs: Tensor, errors: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """The same with random signs of components: those of basis vectors mean nothing."""
    shape, items, groups = architecture.shape, len(planes), max(1, architecture.rank)
    sign = (torch.randint(0, 2, (items, groups), generator=generator) * 2 - 1).to(planes.device, torch.float32)
    spread = (..., *(None,) * architecture.dimensions)

    def times(part: Tensor, sign: Tensor) -> Tensor:
        grouped = part.reshape(items, groups, -1, *part.shape[2:])
        return (grouped * sign[:, :, None][spread]).reshape(part.shape)

    if architecture.kind == "shared":
        lows = shape.lows * architecture.dimensions
        factors = torch.ones(items, planes.shape[1], device=planes.device)
        factors[:, : shape.planes] = sign
        factors[:, 2 * shape.planes : 2 * shape.planes + lows] = sign
    else:
        # (signed planes, magnitudes, differences) of every component
        each = planes.shape[1] // groups
        factors = sign[:, :, None].repeat(1, 1, each)
        factors[:, :, shape.planes : 2 * shape.planes] = 1
        factors = factors.reshape(items, -1)
    return planes * factors[spread], times(signs, sign), times(errors, sign)
