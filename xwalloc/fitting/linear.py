# mypy: disable-error-code="no-untyped-call"
"""The closed form: means, Karhunen-Loeve basis, quantum, magnitudes and frequency tables of a sample of blocks.

Means and covariance come from all blocks. What follows from quantisation (the ratio of quantum to bound, the rank, the
expected magnitudes of every subband and band, the tables) is not modelled but measured: blocks are encoded, and what
their frames hold is counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from xwalloc.bitstream import planes as coder
from xwalloc.bitstream.choices import count
from xwalloc.bitstream.contexts import Kind, magnitude_code
from xwalloc.codec import examine, transform_mode, transform_sections
from xwalloc.codec.candidates import Chunk
from xwalloc.codec.chunk import LARGEST_BOUND, ChunkCodec
from xwalloc.codec.config import CodecConfig
from xwalloc.codec.engine import blas_in_one_thread, map_parallel
from xwalloc.codec.transform_mode import Target, Transformed
from xwalloc.codec.transform_sections import Contents
from xwalloc.errors import BudgetError, ConfigError, GuaranteeError
from xwalloc.fitting.sample import Sample, valid_in
from xwalloc.fitting.tables import train
from xwalloc.models import choice
from xwalloc.models.fitted import WAVELET, bookkeeping, places, subband_ids
from xwalloc.models.model import FORMAT, Model
from xwalloc.models.samples import HostSamples
from xwalloc.models.spec import Grid, Tree, padded

__all__ = ["Fit", "Goal", "fit_blocks"]

Quality = Literal["max_error", "snr", "bits", "ratio", "latents"]

SPARE_BITS = 3
"""Fractional bits of basis vectors beyond what a chunk's own have: no frame pays for them, and chunks may turn them."""

RATE_BLOCKS = 8
"""Blocks that are encoded to choose quantum and rank, or again and again while a step is searched for."""

FRAME_BYTES = 90
"""Bytes of a frame besides its sections."""

TRUNCATION = 10.0
"""With a number of latents given, quantisation may add one part in so many to the error."""

NEIGHBOURS = 5
"""Ratios of quantum to bound that are tried."""

SEARCH = 14
"""Steps that are tried at most."""


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What a model is wanted for: one quality target, in units of the stored samples.

    Parameters
    ----------
    quality, value
        "max_error" (bound), "snr" (dB over the sample), "bits" (per sample), "ratio" (raw by stored bytes) or
        "latents" (latents for each patch of 2^levels samples along every signal axis).
    scales : (channel,)
        Bound of each channel by the smallest; None where all have the same.
    """

    quality: Quality
    value: float
    scales: NDArray[np.float64] | None = None


def fit_blocks(
    blocks: Sequence[NDArray[np.generic]],
    goal: Goal,
    *,
    dimensions: int,
    nodata: float | None,
    levels: int,
    tree: Tree,
    about: Mapping[str, Any],
) -> Model:
    """Fit a linear model to blocks of an array.

    Parameters
    ----------
    blocks
        Samples as they are stored, each (batch, channel, z, y, x); axes that do not exist have length 1.
    goal
        What the model is wanted for.
    dimensions
        Number of signal axes.
    nodata
        Value that stands for missing data.
    levels, tree
        Wavelet transform.
    about
        Further entries of the description, such as names of dimensions.

    Raises
    ------
    ConfigError
        If there is nothing to fit a model to, or the goal cannot be reached.
    """
    with blas_in_one_thread():
        try:
            return Fit(blocks, goal, dimensions, nodata, levels, tree).run(about)
        except BudgetError as error:
            raise ConfigError(
                f"Expected a target that exact arithmetic reaches. Got {goal.quality} {goal.value:g} ({error}). Ask "
                "for less, or store the data lossless, which needs no model."
            ) from None


class _Errors(examine.Examine):
    """Examination that adds up squared errors, and remembers the largest errors of its calls."""

    def __init__(self) -> None:
        self.largest = [0.0]

    def __call__(self, samples: Any, decoded: Any, missed: Any, first: int) -> float:
        error = samples[:, first : first + decoded.shape[1]].astype(np.float64) - decoded
        self.largest.append(float(np.abs(error).max(initial=0.0)))
        return float((error * error).sum())


class Fit:
    """A model while it is fitted."""

    def __init__(
        self,
        blocks: Sequence[NDArray[np.generic]],
        goal: Goal,
        dimensions: int,
        nodata: float | None,
        levels: int,
        tree: Tree,
    ) -> None:
        axes = tuple(range(5 - dimensions, 5))
        self.config = CodecConfig(channel_axis=1, signal_axes=axes, step=1.0, nodata=nodata)
        look = ChunkCodec(self.config).look
        chunks = [chunk for chunk in map(look, blocks) if chunk.look.valid]
        if not chunks:
            raise ConfigError(
                f"Expected blocks with valid samples to fit a model to. Got {len(blocks)} blocks without any: all is "
                "NaN or nodata. Check nodata, or give data that have values."
            )
        self.goal = goal
        self.dimensions, self.levels, self.tree = dimensions, levels, tree
        channels = chunks[0].samples.shape[1]
        self.sample = Sample(chunks, np.ones(channels) if goal.scales is None else goal.scales)
        self.ids = subband_ids(levels, tree, dimensions)
        self.arrays: dict[str, NDArray[Any]] = {
            "means": self.sample.means,
            "scales": self.sample.scales,
            "residual_codes": np.full(channels, 17, np.uint8),
        }
        self.ratio = 3.0

    def run(self, about: Mapping[str, Any]) -> Model:
        """The model, and what it was measured to do."""
        goal, chunks = self.goal, self.sample.chunks
        some = chunks[:: -(-len(chunks) // RATE_BLOCKS)]
        largest = float(np.sqrt(self.sample.variances.sum())) or 1.0
        if goal.quality == "max_error":
            target = {"max_error": goal.value}
            self.use_basis(*self.quantum_and_rank(goal.value, some))
            self.ratio = self.best_ratio(some, goal.value)
        else:
            step = self.step_for_latents() if goal.quality == "latents" else self.search(some, largest)
            target = {"step": step}
            if goal.quality != "latents":
                self.use_basis(step, self.rank_for(step))
        return self.finished({**about, "target": target, "wanted": {goal.quality: goal.value}})

    def finished(self, about: Mapping[str, Any]) -> Model:
        """The model, once its basis is chosen: what follows from quantisation is counted, and the model measured."""
        chunks = self.sample.chunks
        (value,) = about["target"].values()
        self.count(chunks, value)
        bits, error, largest_error = self.measure(chunks, value)
        fit = {
            "samples": self.sample.size,
            "blocks": len(chunks),
            "bits_per_sample": bits,
            "rmse": math.sqrt(error),
            "largest_error": largest_error,
        }
        variance = self.variance()
        if error > 0 and variance > 0:
            fit["snr"] = 10 * math.log10(variance / error)
        return self.model({**about, "fit": fit})

    def model(self, more: Mapping[str, Any]) -> Model:
        """The model as it stands."""
        description = {
            "format": FORMAT, "kind": "linear", "channels": len(self.sample.means), "dimensions": self.dimensions,
            "levels": self.levels, "tree": self.tree, "boundary": "reflect", "wavelet": WAVELET, "ratio": self.ratio,
            **more,
        }  # fmt: skip
        return Model(description=description, arrays=self.arrays)

    def use_basis(self, quantum: float, rank: int) -> None:
        """Take the first vectors of the basis, as exact as a quantum (in samples) needs them."""
        channels = len(self.sample.means)
        variances = self.sample.variances[:rank] / quantum**2
        precisions = choice.precisions_of(variances, 1, channels)
        precisions = np.minimum(precisions + SPARE_BITS, precisions[0])
        if channels == 1:
            vectors = np.ones((1, 1))
        else:
            vectors = np.rint(np.ldexp(self.sample.basis[:rank], precisions[:, None]))
        self.arrays |= {
            "vectors": vectors.astype(np.int32),
            "precisions": precisions.astype(np.uint8),
            "kept": np.ones((rank, len(self.ids)), np.bool_),
            "codes": np.full((rank, len(self.ids)), 17, np.uint8),
        }

    def quantum_and_rank(self, bound: float, chunks: list[Chunk]) -> tuple[float, int]:
        """Quantum in samples, and rank, that suit a bound; sets the ratio of quantum to bound."""
        found = []
        for chunk in chunks:
            _, scale = self.target(chunk, bound).finish()
            samples = self.in_scales(chunk)
            units = self.sample.means / self.sample.scales * scale.per_sample
            edge = max(float(samples.max()), -float(samples.min())) * scale.per_sample
            variances = self.sample.variances * scale.per_sample**2
            quantum, rank = choice.choose(
                HostSamples(samples, map_parallel).look, samples.shape, scale, self.grid(chunk),
                np.rint(units), edge + float(np.abs(units).max()) + 1.0, variances, self.sample.basis, chunk.mask,
                entries=0,
            )  # fmt: skip
            found.append((2 * quantum / scale.step, quantum / scale.per_sample, rank))
        self.ratio = float(np.median([ratio for ratio, _, _ in found]))
        usual = float(np.median([quantum for _, quantum, _ in found]))
        # Chunks that are not in the sample may need more than those that are; vectors that nobody uses cost once.
        return usual, max(self.rank_for(usual), *(rank for _, _, rank in found))

    def best_ratio(self, chunks: list[Chunk], bound: float) -> float:
        """The ratio of quantum to bound that makes the smallest frames of some blocks, near the estimated one."""
        found: dict[float, float] = {}
        for ratio in sorted(choice.RATIOS, key=lambda ratio: abs(math.log(ratio / self.ratio)))[:NEIGHBOURS]:
            self.ratio = ratio
            found[ratio] = self.measure(chunks, bound)[0]
        return min(found, key=lambda ratio: found[ratio])

    def in_scales(self, chunk: Chunk) -> NDArray[Any]:
        """Samples by the bounds of their channels."""
        if (self.sample.scales == 1).all():
            return chunk.samples
        scaled: NDArray[np.float64] = chunk.samples.astype(np.float64) / self.sample.scales[:, None, None, None]
        return scaled

    def rank_for(self, step: float) -> int:
        """Vectors that may carry anything at a step: wavelets concentrate energy, so deviations below it count."""
        worth = choice.CONCENTRATION[0] * self.sample.variances > (0.5 * step) ** 2
        return max(1, int(np.count_nonzero(worth)))

    def variance(self) -> float:
        """Variance of the valid samples."""
        values = [chunk.samples[valid_in(chunk)].astype(np.float64) for chunk in self.sample.chunks]
        count = sum(map(len, values))
        mean = sum(float(v.sum()) for v in values) / count
        return sum(float(((v - mean) ** 2).sum()) for v in values) / count

    def search(self, chunks: list[Chunk], largest: float) -> float:
        """The step at which the goal is met on some blocks, by bisection of its logarithm."""
        goal = self.goal
        variance = self.variance()
        if not variance > 0:
            raise ConfigError(
                f"Expected data that vary to reach {goal.quality} {goal.value:g}. Got constant samples, which take "
                "next to no bits whatever the step. Give max_error instead."
            )

        def fine_enough(step: float) -> bool:
            self.use_basis(step, self.rank_for(step))
            try:
                bits, error, _ = self.measure(chunks, step)
            except BudgetError:
                return True
            if goal.quality == "snr":
                return error * 10 ** (goal.value / 10) <= variance
            itemsize = chunks[0].original.dtype.itemsize
            allowed = goal.value if goal.quality == "bits" else 8 * itemsize / goal.value
            return bits >= allowed  # the finest step is wanted that is not above the rate

        low, high = largest * 2.0**-20, largest * 4.0
        if goal.quality != "snr" and fine_enough(high):
            bits, _, _ = self.measure(chunks, high)
            raise ConfigError(
                f"Expected {goal.quality} {goal.value:g} to be possible. Got {bits:.4f} bits per sample at the "
                "coarsest step, which is what frames of this size take at least. Ask for less, or use larger chunks."
            )
        if not fine_enough(low):
            if goal.quality == "snr":
                raise ConfigError(
                    f"Expected snr {goal.value:g} to be possible. Got less at the finest step. "
                    "Use max_error or lossless."
                )
            return low
        for _ in range(SEARCH):
            middle = math.sqrt(low * high)
            if fine_enough(middle):
                low = middle
            else:
                high = middle
            if high / low < 1.01:
                break
        return low if goal.quality == "snr" else high

    def step_for_latents(self) -> float:
        """Keep as many latents of each patch as are wanted, those of most energy; the step that suits them."""
        channels, count = len(self.sample.means), round(self.goal.value)
        patch = 2 ** (self.levels * self.dimensions)
        if not 1 <= count <= channels * patch:
            raise ConfigError(
                f"Expected latents to be from 1 to {channels * patch}, the samples of a patch of {2**self.levels} "
                f"along each of {self.dimensions} signal axes in {channels} channels. Got {self.goal.value:g}."
            )
        fine = float(np.sqrt(self.sample.variances.sum()) or 1.0) * 2.0**-12
        self.use_basis(fine, self.rank_for(fine))
        energy = self.energies(fine)
        sizes = np.array([self.latents_per_patch(key) for key in self.ids])
        kept = np.zeros(energy.shape, np.bool_)
        left = count
        for place in np.argsort(-energy, axis=None, kind="stable"):
            k, s = np.unravel_index(place, energy.shape)
            if sizes[s] <= left and energy[k, s] > 0:
                kept[k, s] = True
                left -= int(sizes[s])
        if not kept.any():
            raise ConfigError("Expected data that vary, to choose latents of. Got constant samples.")
        rank = int(np.flatnonzero(kept.any(axis=1))[-1]) + 1
        lost = float((energy * ~kept * sizes).sum()) / patch  # squared error of a pixel
        noise = max(lost / TRUNCATION, float((energy * kept * sizes).sum()) / patch * 1e-6)
        step = math.sqrt(12 * noise * patch / float((kept * sizes).sum()))
        self.use_basis(step, rank)
        self.arrays["kept"] = kept[:rank]
        return step

    def latents_per_patch(self, key: tuple[int, ...]) -> int:
        """How many latents of a subband lie in a patch."""
        level = key[0] if self.tree == "dyadic" else self.levels
        return int(2 ** ((self.levels - level) * self.dimensions))

    def target(self, chunk: Chunk, value: float) -> Target:
        """What the transform aims at in a block."""
        if self.goal.quality != "max_error":
            return Target(integral=False, step=0.0, quantum=value)
        if chunk.look.integral:
            bound = value if (self.sample.scales > 1).any() else 1.0
            return Target(integral=True, step=2.0 * math.floor(min(value, LARGEST_BOUND)) + 1, quantum=0.0, bound=bound)
        return Target(integral=False, step=2 * value, quantum=0.0)

    def grid(self, chunk: Chunk) -> Grid:
        """The transform over a block."""
        z, y, x = chunk.samples.shape[2:]
        return Grid(
            signal=padded((z, y, x), self.levels, self.tree, "reflect"), dimensions=self.dimensions, levels=self.levels,
            tree=self.tree, boundary="reflect", wavelet=WAVELET,
        )  # fmt: skip

    def encode(self, model: Model, chunk: Chunk, value: float, look: examine.Examine) -> Transformed:
        """A block, encoded with a model."""
        edges = chunk.look.low, chunk.look.high
        coded = transform_mode.encode(
            chunk.samples, edges, chunk.mask, self.target(chunk, value), self.grid(chunk),
            "default", chunk.early_nodata, look, model,
        )  # fmt: skip
        if coded is None:
            raise BudgetError("The range of the data over the step is too large for exact arithmetic.")
        return coded

    def measure(self, chunks: list[Chunk], value: float) -> tuple[float, float, float]:
        """Bits per sample, mean squared error and largest error over blocks."""
        model = self.model({})
        total, squares, valid, largest = 0, 0.0, 0, 0.0
        for chunk in chunks:
            look = _Errors()
            coded = self.encode(model, chunk, value, look)
            total += FRAME_BYTES + sum(map(len, coded.sections.values()))
            squares += coded.figure
            valid += chunk.samples.size
            largest = max(largest, *look.largest)
        return 8 * total / valid, squares / valid, largest

    def contents(self, model: Model, chunk: Chunk, value: float) -> Contents:
        """What the frame of a block holds."""
        coded = self.encode(model, chunk, value, examine.nothing)

        def find(key: bytes) -> Model:
            if key != model.key:
                raise GuaranteeError("A frame names another model than that it was encoded with.")
            return model

        return transform_sections.read(coded.sections, chunk.samples.shape, self.dimensions, find)

    def energies(self, value: float) -> NDArray[np.float64]:
        """Mean squares of dequantised latents, in samples: (rank, subband)."""
        rank = len(self.arrays["vectors"])
        squares, sizes = np.zeros((rank, len(self.ids))), np.zeros((rank, len(self.ids)))
        model = self.model({})
        for chunk in self.sample.chunks:
            contents = self.contents(model, chunk, value)
            symbols = contents.symbols()
            grid = contents.model.grid
            for place, subband in zip(self.places(grid), grid.subbands, strict=True):
                part = symbols[:, :, *subband.slices].astype(np.float64)
                squares[: part.shape[1], place] += (part * part).sum(axis=(0, 2, 3, 4)) * value**2
                sizes[:, place] += part[:, :1].size
        return squares / np.maximum(sizes, 1)

    def places(self, grid: Grid) -> NDArray[np.int64]:
        """Number of every subband of a grid among those of the model."""
        return places(grid.plan, self.levels, self.dimensions)

    def count(self, chunks: list[Chunk], value: float) -> None:
        """Expected magnitudes and tables, from what the frames of the blocks hold."""
        model = self.model({})
        rank, channels = len(self.arrays["vectors"]), len(self.sample.means)
        totals, sizes = np.zeros((rank, len(self.ids))), np.zeros((rank, len(self.ids)))
        rests, coded = np.zeros(channels), np.zeros(channels)
        parts: dict[Kind, list[coder.Classified]] = {}
        for chunk in chunks:
            contents = self.contents(model, chunk, value)
            symbols, grid = contents.symbols(), contents.model.grid
            for place, subband in zip(self.places(grid), grid.subbands, strict=True):
                part = np.abs(symbols[:, :, *subband.slices].astype(np.int64))
                totals[: part.shape[1], place] += part.sum(axis=(0, 2, 3, 4))
                sizes[:, place] += part[:, :1].size
            latents = transform_sections.latent_parts(contents.model, symbols.shape[0])
            for kind in (Kind.LATENT, Kind.LATENT_PARALLEL):
                flat = symbols.reshape(-1)
                parts.setdefault(kind, []).extend(
                    coder.classify(flat, planes, kind, self.dimensions) for planes in latents
                )
            whole = tuple(slice(0, n) for n in contents.shape)
            if contents.residual_codes is not None:
                mask = None if chunk.mask is None else transform_sections.pad(chunk.mask, grid.signal)
                residuals = contents.residuals(mask, whole)  # type: ignore[arg-type]
                rests += np.abs(residuals.astype(np.int64)).sum(axis=(0, 2, 3, 4))
                holes = coder.NO_MASK if mask is None else mask.reshape(-1)
                slabs = transform_sections.residual_parts(contents.shape, contents.residual_codes)[2]
                for kind in (Kind.RESIDUAL, Kind.RESIDUAL_PARALLEL):
                    parts.setdefault(kind, []).extend(
                        coder.classify(residuals.reshape(-1), planes, kind, self.dimensions, holes) for planes in slabs
                    )
            coded += contents.shape[0] * math.prod(grid.signal)
        self.arrays = {
            **self.arrays,
            "codes": magnitude_code(totals / np.maximum(sizes, 1)).astype(np.uint8),
            "residual_codes": magnitude_code(rests / np.maximum(coded, 1)).astype(np.uint8),
            **bookkeeping(train({kind: count(found) for kind, found in parts.items()})),
        }
