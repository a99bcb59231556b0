"""Training of a refinement network on the symbols of blocks.

The linear encoder is frozen here, and symbols are rounded hard, exactly as the codec would write them. An encoder that
is trained, too, has had its turn before (`training.encoder`): with additive uniform noise in place of rounding.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xwalloc.errors import ConfigError
from xwalloc.models.neural import Architecture, Network
from xwalloc.training.blocks import Blocks, Quantised, quantise, varied
from xwalloc.training.checkpoint import load_checkpoint, save_checkpoint
from xwalloc.training.examples import Examples, flipped, gathered
from xwalloc.training.quantised import Refiner
from xwalloc.training.result import Progress, Record, TrainingResult

__all__ = ["NothingToLearnError", "Options", "train_network"]

WARM_UP = 100
"""Steps in which the learning rate rises: at full rate from the first step on, wide networks died (only zeros)."""


PACE = 20
"""Steps after which the pace of training is first judged."""


class NothingToLearnError(ConfigError):
    """There are no symbols that a network could learn from."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to train.

    Parameters
    ----------
    steps
        Steps of the optimiser, at most; with 0, what training would start from is measured.
    minutes
        Time that training may take, preparation included: there are as many steps as fit in, and the learning rate
        falls to zero over these. None for no limit; a training that stays well below its limit is the same without it.
    places
        About so many places of a grid, times components, make a batch.
    rate
        Largest learning rate; it rises for a while and falls to zero along a cosine. The default suits one hidden
        layer; more of them want a third of it.
    seed
        Of all random numbers.
    validate_every
        Steps between two validations.
    patience
        Training stops after so many validations without a better one.
    variants
        How many variants (flipped, swapped, moved) of every training block there are, itself included: `blocks.varied`.
    mixed
        Whether products of training are bfloat16 on CUDA. Validation and result are exact either way.
    """

    steps: int = 2000
    minutes: float | None = None
    places: int = 8192
    rate: float = 3e-3
    seed: int = 0
    validate_every: int = 100
    patience: int = 8
    variants: int = 8
    mixed: bool = True

    def __post_init__(self) -> None:
        if min(self.steps + 1, self.places, self.validate_every, self.patience, self.variants) < 1:
            raise ConfigError(
                "Expected steps of at least 0; places, validate_every, patience and variants of 1 or more."
            )
        if not min(self.rate, math.inf if self.minutes is None else self.minutes) > 0:
            raise ConfigError("Expected rate and minutes above 0.")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Data:
    """Blocks of one purpose as examples."""

    examples: list[Examples]
    quantised: list[Quantised]

    @classmethod
    def of(cls, architecture: Architecture, blocks: Sequence[Blocks], device: torch.device) -> _Data:
        pairs = [(b, quantise(b, i)) for b in blocks for i in range(len(b.samples))]
        return cls(examples=gathered(architecture, pairs, device), quantised=[block for _, block in pairs])

    @property
    def latents(self) -> int:
        """Number of latents."""
        return sum(block.symbols.size for block in self.quantised)

    @property
    def bits(self) -> float:
        """Estimated bits per latent."""
        return sum(block.bits for block in self.quantised) / self.latents

    @property
    def linear(self) -> float:
        """Mean squared error of latents, in quanta squared, of the linear decoder."""
        return sum(float(np.square(block.errors, dtype=np.float64).sum()) for block in self.quantised) / self.latents


def train_network(
    training: Sequence[Blocks],
    validation: Sequence[Blocks],
    architecture: Architecture,
    *,
    options: Options | None = None,
    start: Network | None = None,
    device: str = "cpu",
    checkpoint: Path | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> TrainingResult:
    """Train a network that refines linear decodes.

    Parameters
    ----------
    training, validation
        Blocks to learn from and blocks of other regions or scenes, which decide when to stop. Several entries may
        differ in scene, number of bands (a "shared" network) and step: a network is good for the steps that it has
        seen.
    architecture
        Shape of the network.
    options
        How to train; None for the defaults.
    start
        A network to start from, such as one of other scenes; None for one that corrects nothing.
    device
        "cpu", "cuda", "cuda:1", ...
    checkpoint
        File to write the state to at every validation, and to go on from if it is there. It goes away with the last
        step.
    progress
        Called at every validation.

    Returns
    -------
    TrainingResult
        The best network of all validations; that of the start (None: the linear decoder) if none beat it.

    Raises
    ------
    NothingToLearnError
        If the blocks have no symbols that the network looks at.
    ConfigError
        If there are no blocks, or the checkpoint belongs to another training.
    """
    options = Options() if options is None else options
    if start is not None and start.architecture != architecture:
        raise ConfigError(f"Expected a network of {architecture} to start from. Got one of {start.architecture}.")
    if not training or not validation:
        raise ConfigError("Expected blocks to train on and blocks to validate with. Got none: give a second region.")
    run = _Run(training, validation, architecture, options, start, torch.device(device), checkpoint, progress)
    with reproducible():
        return run.result()


@contextmanager
def reproducible() -> Iterator[None]:
    """Let cuDNN take kernels that add in the same order every time."""
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before


class _Run:
    """State of a training."""

    def __init__(
        self,
        training: Sequence[Blocks],
        validation: Sequence[Blocks],
        architecture: Architecture,
        options: Options,
        start: Network | None,
        device: torch.device,
        checkpoint: Path | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.training, self.validation = training, validation
        self.architecture, self.options, self.device = architecture, options, device
        self.checkpoint, self.progress = checkpoint, progress
        self.generator = torch.Generator().manual_seed(options.seed)
        self.refiner = Refiner(architecture, self.generator)
        if start is not None:
            self.refiner.start_from(start)
        self.refiner.to(device)
        self.optimiser = torch.optim.Adam(self.refiner.parameters(), lr=options.rate)
        self.history: list[Record] = []
        self.best = {name: tensor.clone() for name, tensor in self.refiner.state_dict().items()}
        self.step, self.steps = 0, options.steps
        self.started = time.monotonic()
        self.first_step = 0
        self.validation_seconds = 0.0

    @property
    def settings(self) -> dict[str, Any]:
        """What a checkpoint must agree with."""
        blocks = [
            [list(b.samples.shape), checksum(b.samples), checksum(b.basis), b.step, b.tree, b.levels]
            for b in (*self.training, *self.validation)
        ]
        options = {name: value for name, value in asdict(self.options).items() if name != "minutes"}
        return {"architecture": asdict(self.architecture), "options": options, "blocks": blocks}

    def result(self) -> TrainingResult:
        """Train, and measure what came out."""
        variants, seed = self.options.variants, self.options.seed
        training = [v for i, blocks in enumerate(self.training) for v in varied(blocks, variants, seed + i)]
        data = _Data.of(self.architecture, training, self.device)
        held = _Data.of(self.architecture, self.validation, self.device)
        if not data.examples or not held.examples:
            raise NothingToLearnError(
                "Expected blocks with symbols that the network looks at. Got none: use a smaller step."
            )
        if self.checkpoint is not None and self.checkpoint.exists():
            self._resume(self.checkpoint)
        stale = 0
        if not self.history:
            self._validate(held)
        best = min(range(len(self.history)), key=lambda i: self.history[i].distortion)
        stale = len(self.history) - 1 - best
        first = time.monotonic()
        while self.step < self.steps and stale < self.options.patience:
            self._learn(data)
            self._keep_to_time(first)
            if self.step % self.options.validate_every == 0 or self.step == self.steps:
                before = min(record.distortion for record in self.history)
                self._validate(held)
                stale = 0 if self.history[-1].distortion < before else stale + 1
                if stale == 0:
                    self.best = {name: tensor.clone() for name, tensor in self.refiner.state_dict().items()}
                if self.checkpoint is not None:
                    self._save(self.checkpoint)
        if self.checkpoint is not None:
            self.checkpoint.unlink(missing_ok=True)
        self.refiner.load_state_dict(self.best)
        with torch.no_grad():
            unrounded = self._distortion(held, rounded=False)
        network = self.refiner.network()
        return TrainingResult(
            network=network,
            history=tuple(self.history),
            linear=held.linear,
            distortion=min(record.distortion for record in self.history),
            unrounded=unrounded,
        )

    def _keep_to_time(self, first: float) -> None:
        """Plan as many steps as fit into the time there is, judged by all since `first` and their validations.

        It is judged again at every step: the first ones on a device are slow.
        """
        done = self.step - self.first_step
        if self.options.minutes is None or done < PACE:
            return
        now = time.monotonic()
        # the last validation, and that of unrounded weights, are to come
        left = self.started + 60 * self.options.minutes - 2 * self.validation_seconds - now
        self.steps = min(self.options.steps, self.step + max(0, int(left / (now - first) * done)))

    def _learn(self, data: _Data) -> None:
        """One step of the optimiser."""
        options = self.options
        for group in self.optimiser.param_groups:
            warm = min(1.0, (self.step + 1) / min(WARM_UP, self.steps))
            group["lr"] = warm * options.rate * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
        weights = torch.tensor([float(len(e.planes) * e.places) for e in data.examples])
        chosen = data.examples[int(torch.multinomial(weights, 1, generator=self.generator))]
        count = max(1, min(len(chosen.planes), options.places // chosen.places))
        items = torch.randint(0, len(chosen.planes), (count,), generator=self.generator).to(self.device)
        planes, codes, signs, errors = chosen.pick(items, self.device)
        planes, signs, errors = flipped(self.architecture, planes, signs, errors, self.generator)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=options.mixed and self.device.type == "cuda"):
            corrections = self.refiner(planes, codes, signs)
        wrong = (errors - corrections.float()) * self._there(chosen)
        loss = wrong.square().sum() / errors.square().sum().clamp(min=1e-9)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.refiner.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1

    def _there(self, examples: Examples) -> Tensor:
        """Mask (corrected plane, *grid) of coefficients."""
        repeats = (max(1, self.architecture.rank), *(1,) * self.architecture.dimensions)
        return examples.there.repeat(repeats).to(torch.float32)

    def _distortion(self, data: _Data, *, rounded: bool) -> float:
        """Mean squared error of latents with corrections, in quanta squared."""
        saved = 0.0
        for examples in data.examples:
            each = max(1, 4 * self.options.places // examples.places)
            there = self._there(examples)
            for items in torch.split(torch.arange(len(examples.planes), device=self.device), each):
                planes, codes, signs, errors = examples.pick(items, self.device)
                wrong = (errors - self.refiner(planes, codes, signs, rounded=rounded)) * there
                saved += float((errors.square() - wrong.square()).sum(dtype=torch.float64))
        return data.linear - saved / data.latents

    def _validate(self, held: _Data) -> None:
        begin = time.monotonic()
        with torch.no_grad():
            distortion = self._distortion(held, rounded=True)
        self.validation_seconds = time.monotonic() - begin
        self.history.append(Record(step=self.step, rate=held.bits, distortion=distortion))
        if self.progress is not None:
            done = self.step - self.first_step
            spent = time.monotonic() - self.started
            left = spent / done * (self.steps - self.step) if done else math.inf
            self.progress(
                Progress(
                    step=self.step,
                    steps=self.steps,
                    rate=held.bits,
                    distortion=distortion,
                    linear=held.linear,
                    seconds_left=left,
                )
            )

    def _save(self, path: Path) -> None:
        tensors = {"generator": self.generator.get_state()}
        tensors |= {"now." + name: tensor for name, tensor in self.refiner.state_dict().items()}
        tensors |= {"best." + name: tensor for name, tensor in self.best.items()}
        for i, parameter in enumerate(self.refiner.parameters()):
            state = self.optimiser.state[parameter]
            tensors |= {f"adam.{i}.{name}": state[name] for name in ("step", "exp_avg", "exp_avg_sq")}
        records = [asdict(record) for record in self.history]
        save_checkpoint(
            path, tensors, {"settings": self.settings, "step": self.step, "steps": self.steps, "history": records}
        )

    def _resume(self, path: Path) -> None:
        tensors, state = load_checkpoint(path)
        # JSON knows no tuples: compare what was written with what would be.
        if state.get("settings") != _as_json(self.settings):
            raise ConfigError(f"Expected a checkpoint of this training in {path}. Got one of another: remove it.")
        parameters = list(self.refiner.parameters())
        self.generator.set_state(tensors["generator"])
        for prefix, target in (("now.", self.refiner.load_state_dict), ("best.", self.best.update)):
            target({n.removeprefix(prefix): t.to(self.device) for n, t in tensors.items() if n.startswith(prefix)})
        for i, parameter in enumerate(parameters):
            names = ("step", "exp_avg", "exp_avg_sq")
            self.optimiser.state[parameter] = {
                n: tensors[f"adam.{i}.{n}"].to("cpu" if n == "step" else self.device) for n in names
            }
        self.step = self.first_step = state["step"]
        self.steps = state["steps"] if self.options.minutes is not None else self.options.steps
        self.history = [Record(**record) for record in state["history"]]


def checksum(array: NDArray[Any]) -> int:
    """CRC-32 of an array."""
    return zlib.crc32(np.ascontiguousarray(array).data)


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_json(entry) for key, entry in value.items()}
    return [_as_json(entry) for entry in value] if isinstance(value, list | tuple) else value
