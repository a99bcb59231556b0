"""What a training returns and reports."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xwalloc.models.neural import Network

__all__ = ["Progress", "Record", "TrainingResult", "plot_history"]


@dataclass(frozen=True, kw_only=True)
class Record:
    """A validation.

    Parameters
    ----------
    step
        Steps before it.
    rate
        Estimated bits per latent.
    distortion
        Mean squared error of latents, in quanta squared.
    """

    step: int
    rate: float
    distortion: float


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a training reports at a validation.

    Parameters
    ----------
    step, steps
        Steps done, and of all.
    rate, distortion
        As in `Record`.
    linear
        Distortion of the linear decoder.
    seconds_left
        Time until the last step at the present speed; infinite before the first.
    """

    step: int
    steps: int
    rate: float
    distortion: float
    linear: float
    seconds_left: float

    @property
    def gain(self) -> float:
        """Gain over the linear decoder so far, in dB; below 0 where the network is worse."""
        return 10 * math.log10(self.linear / self.distortion)


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingResult:
    """A trained network, and what it is worth on the validation blocks.

    Parameters
    ----------
    network
        The best network: it corrects nothing if none beat the linear decoder.
    history
        Validations in their order; the first one is that of the linear decoder.
    linear, distortion, unrounded
        Mean squared errors of the validation latents, in quanta squared: of the linear decoder with three
        reconstruction points per block, of the network in integers, and of the same network if neither weights nor
        activations are rounded.
    """

    network: Network
    history: tuple[Record, ...]
    linear: float
    distortion: float
    unrounded: float

    @property
    def gain(self) -> float:
        """Gain over the linear decoder, in dB, on the latents of the validation blocks."""
        return 10 * math.log10(self.linear / self.distortion)

    @property
    def int8_loss(self) -> float:
        """What rounding weights and activations costs, in dB; below 0 where it helps."""
        return 10 * math.log10(self.distortion / self.unrounded)

    def __str__(self) -> str:
        if self.distortion >= self.linear:
            return "The linear decoder is as good: no network beat it on the validation blocks."
        better = f"{self.gain:.2f} dB better than the linear decoder on the validation blocks"
        return f"{better} (int8 costs {self.int8_loss:.3f} dB)"


def plot_history(result: TrainingResult, path: Path | None = None) -> Any:
    """Curve of a training: gain over the linear decoder, in dB, over steps.

    Parameters
    ----------
    result
        What `train_network` returned.
    path
        Where to write a picture; None for nowhere.

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.add_subplot()
    gains = [10 * math.log10(result.linear / record.distortion) for record in result.history]
    axes.plot([record.step for record in result.history], gains, marker=".", label="network, integers")
    axes.axhline(0, color="grey", linewidth=1, label="linear decoder")
    axes.set(xlabel="step", ylabel="gain on validation blocks (dB)")
    axes.legend(frameon=False)
    if path is not None:
        figure.savefig(path, dpi=120)
    return figure
