"""The shape of a refinement network: what a description says, and the tensors that follow from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from xwalloc.errors import ConfigError
from xwalloc.models.neural.arithmetic import TAPS
from xwalloc.models.neural.views import Shape, shape_of
from xwalloc.transform.tree import MAX_LEVELS, Tree

__all__ = ["Architecture"]

MOST_WIDTH, MOST_LAYERS, MOST_INPUTS, MOST_WEIGHTS = 512, 8, 1 << 14, 1 << 23
"""What a description may ask for."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Shape of a network.

    Parameters
    ----------
    kind
        "shared": one network for every spectral component, any number of bands. "fixed": one for `rank` components
        together.
    tree
        Of the wavelet transform.
    dimensions
        Number of signal axes, 1 to 3.
    levels
        Levels of a packet tree. 0 for a dyadic tree, of which a network takes any number.
    rank
        Number of components of a fixed band set; 0 for the shared kind.
    widths
        Outputs of each hidden convolution, 1 to 8 of them.

    Raises
    ------
    ConfigError
        If a value is out of range.
    """

    kind: Literal["shared", "fixed"] = "shared"
    tree: Tree = "dyadic"
    dimensions: int = 2
    levels: int = 0
    rank: int = 0
    widths: tuple[int, ...] = (32, 32)

    def __post_init__(self) -> None:
        def expect(good: bool, what: str, got: object) -> None:
            if not good:
                raise ConfigError(f"Expected {what} of a network. Got {got!r}.")

        def whole(value: object) -> bool:
            return isinstance(value, int) and not isinstance(value, bool)

        given: object = self.widths

        expect(self.kind in ("shared", "fixed"), "kind 'shared' or 'fixed'", self.kind)
        expect(self.tree in ("dyadic", "packet"), "tree 'dyadic' or 'packet'", self.tree)
        expect(whole(self.dimensions) and 1 <= self.dimensions <= 3, "1 to 3 dimensions", self.dimensions)
        levels = (1, MAX_LEVELS) if self.tree == "packet" else (0, 0)
        expect(whole(self.levels) and levels[0] <= self.levels <= levels[1], f"levels from {levels}", self.levels)
        rank = (0, 0) if self.kind == "shared" else (1, MOST_INPUTS)
        expect(whole(self.rank) and rank[0] <= self.rank <= rank[1], f"rank from {rank}", self.rank)
        widths = isinstance(given, tuple) and 1 <= len(given) <= MOST_LAYERS
        expect(widths and all(whole(w) and 1 <= w <= MOST_WIDTH for w in self.widths), "up to 8 widths", self.widths)
        expect(self.planes <= MOST_INPUTS, f"at most {MOST_INPUTS} input planes", self.planes)
        expect(self.weights <= MOST_WEIGHTS, f"at most {MOST_WEIGHTS} weights", self.weights)

    @property
    def shape(self) -> Shape:
        """Planes of its views."""
        return shape_of(self.tree, self.dimensions, self.levels)

    @property
    def planes(self) -> int:
        """Input planes."""
        each = 2 * self.shape.planes + self.shape.lows * self.dimensions
        return each + 2 * self.shape.planes if self.kind == "shared" else each * self.rank

    @property
    def codes(self) -> int:
        """Magnitude codes that it sees."""
        return self.shape.subbands * (3 if self.kind == "shared" else self.rank)

    @property
    def corrected(self) -> int:
        """Planes that it corrects at once."""
        return self.shape.own * max(1, self.rank)

    @property
    def outputs(self) -> int:
        """Outputs of its last layer: two for each plane that it corrects."""
        return 2 * self.corrected

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor of weights, by name; beside them there is a bias and a shift per output."""
        kernel = (TAPS,) * self.dimensions
        sizes = (self.planes, *self.widths)
        hidden = {f"hidden.{i}": (sizes[i + 1], sizes[i], *kernel) for i in range(len(self.widths))}
        return {**hidden, "output": (self.outputs, sizes[-1], *(1,) * self.dimensions)}

    @property
    def weights(self) -> int:
        """Number of weights."""
        return sum(math.prod(shape) for shape in self.shapes().values()) + self.codes * self.widths[0]

    @property
    def multiplications(self) -> float:
        """Multiply-adds per coefficient that is corrected (those of magnitude codes aside, which a plane shares)."""
        return sum(math.prod(shape) for shape in self.shapes().values()) / self.corrected

    @property
    def reach(self) -> int:
        """How many patches to each side a correction depends on."""
        return len(self.widths) + self.shape.lows
