"""Training of learned decoders. The only folder that imports torch of itself."""

from __future__ import annotations

from xwalloc.models.neural import Architecture
from xwalloc.training.blocks import Blocks
from xwalloc.training.loop import Options, train_network
from xwalloc.training.result import Progress, Record, TrainingResult, plot_history

__all__ = [
    "Architecture", "Blocks", "Options", "Progress", "Record", "TrainingResult", "plot_history", "train_network",
]  # fmt: skip
