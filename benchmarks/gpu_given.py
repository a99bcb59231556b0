"""What samples become before the codecs of `benchmarks.gpu_peers` get them, and back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch

FEW_BANDS = 16
"""Fewer bands are predicted from the pixel on the left."""
EDGE = 1 - 2.0**-10
"""Steps by twice the bound: room for rounding in float32."""


class Arrangement(Protocol):
    """What samples become before a peer gets them, and back."""

    given: str
    """What the peer gets."""

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """Samples (chunk, band, y, x) as rows (chunk, ...)."""

    def inverse(self, rows: torch.Tensor) -> torch.Tensor:
        """Samples (chunk, band, y, x) of rows."""


@dataclass(frozen=True)
class Values:
    """Samples as they are, their bits called a dtype.

    Parameters
    ----------
    shape
        Of a batch: (chunk, band, y, x).
    dtype
        Of 4 bytes.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    given: str = "float32"

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        return samples.view(self.dtype).view(self.shape[0], -1)

    def inverse(self, rows: torch.Tensor) -> torch.Tensor:
        return rows.view(self.shape).view(torch.float32)


@dataclass(frozen=True)
class Bytes:
    """Samples as bytes by significance."""

    shape: tuple[int, ...]
    given: str = "float32, bytes by significance"

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        return by_significance(samples.view(self.shape[0], -1))

    def inverse(self, rows: torch.Tensor) -> torch.Tensor:
        return from_significance(rows, torch.float32).view(self.shape)


def by_significance(rows: torch.Tensor) -> torch.Tensor:
    """Bytes of rows of values: all first ones, all second ones ..."""
    size = rows.element_size()
    if size == 1:
        return rows.view(torch.uint8)
    return rows.view(torch.uint8).view(len(rows), -1, size).transpose(1, 2).reshape(len(rows), -1)


def from_significance(rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Rows of values of a dtype of rows of bytes by significance."""
    size = dtype.itemsize
    if size == 1:
        return rows.view(dtype)
    return rows.view(len(rows), size, -1).transpose(1, 2).reshape(len(rows), -1).view(dtype)


@dataclass(frozen=True)
class Integers:
    """Samples that are integers from 0 to 65535, as images (chunk and band, y, x)."""

    shape: tuple[int, ...]
    given: str = "integers"

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        return samples.to(torch.int32).to(torch.int16).view(-1, *self.shape[2:])

    def inverse(self, rows: torch.Tensor) -> torch.Tensor:
        return (rows.to(torch.int32) & 0xFFFF).to(torch.float32).view(self.shape)


@dataclass(frozen=True)
class Indices:
    """Samples on a lattice of float32, as images of its indices (chunk and band, y, x).

    Parameters
    ----------
    shape
        Of a batch: (chunk, band, y, x).
    low, span
        Least sample, and largest difference between two.
    bound
        Largest error.
    """

    shape: tuple[int, ...]
    low: float
    span: float
    bound: float
    given: str = "indices"

    def __post_init__(self) -> None:
        if self.most >= 1 << 14:  # differences have a sign
            raise ValueError(
                f"Expected a bound that indices of 16 bits suffice for. Got {self.bound:g} of {self.span:g}."
            )

    @property
    def step(self) -> float:
        return 2 * self.bound * EDGE

    @property
    def most(self) -> int:
        """Largest index."""
        return math.ceil(self.span / self.step)

    def indices(self, samples: torch.Tensor) -> torch.Tensor:
        """Indices (chunk, band, y, x)."""
        return torch.round((samples - self.low) * (1 / self.step)).to(torch.int16)

    def samples(self, indices: torch.Tensor) -> torch.Tensor:
        return indices.to(torch.float32) * self.step + self.low

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        return self.indices(samples).view(-1, *self.shape[2:])

    def inverse(self, rows: torch.Tensor) -> torch.Tensor:
        return self.samples(rows).view(self.shape)


@dataclass(frozen=True)
class Differences(Indices):
    """Indices less those before, the sign in the last bit, in as few bytes as the bound allows.

    Parameters
    ----------
    bytewise
        As bytes by significance.
    """

    bytewise: bool = False
    given: str = "differences of indices"

    @property
    def axis(self) -> int:
        return 1 if self.shape[1] >= FEW_BANDS else 3

    @property
    def dtype(self) -> torch.dtype:
        return torch.uint8 if 2 * self.most < 256 else torch.int16

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        indices = self.indices(samples)
        differences = indices.clone()
        count = indices.shape[self.axis] - 1
        differences.narrow(self.axis, 1, count).sub_(indices.narrow(self.axis, 0, count))
        folded = (differences << 1) ^ (differences >> 15)
        rows = folded.to(self.dtype).view(self.shape[0], -1)
        return by_significance(rows) if self.bytewise else rows

    def inverse(self, rows: torch.Tensor) -> torch.Tensor:
        folded = (from_significance(rows, self.dtype) if self.bytewise else rows).to(torch.int16).view(self.shape)
        differences = (folded >> 1) ^ -(folded & 1)
        return self.samples(torch.cumsum(differences, self.axis, dtype=torch.int16))
