"""Published WaLLoC models as models of the codec: a `Model` of kind "published" holds a configuration and its weights.

The only module that imports `models.upstream`, and that only when a network is built or run: whoever has no torch can
open and pass on such models, but not decode with them.

Networks work on x from -1/2 to 1/2; samples are ``offset + scale * x``. The decoder runs in float64 and its result
counts as known within `TOLERANCE` only: what order sums are taken in is nobody's promise. The encoder makes sure, by
decoding in float32 as well, that a network is no amplifier of rounding errors (`STABLE`).
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from xwalloc.errors import ConfigError, FormatError
from xwalloc.models.model import FORMAT, PUBLISHED, Model
from xwalloc.types import cached_property

if TYPE_CHECKING:
    from xwalloc.models.upstream import Architecture, Codec

__all__ = ["STABLE", "TOLERANCE", "Published", "as_model", "import_checkpoint", "module_of"]

TOLERANCE = 2.0**-20
"""How far apart the x of two decoders may be."""

STABLE = 2.0**-10
"""How far the x of float32 arithmetic may be from that of float64 in chunks that a network is used for."""

MOST_POSITIONS = 1 << 14
"""Positions of latents that a network of images may see at once: its attention compares all with all."""

MOST_VALUES = 1 << 24
"""Values of the widest layer, for one batch item."""

MOST_MULTIPLICATIONS = 1 << 42
"""Multiply-adds that the latents of a chunk may ask of a decoder, about."""

MOST_LATENTS = 1 << 22
"""Latents that a chunk may have more than samples."""

MOST_ITEMS = 1 << 12
"""Batch items of a chunk."""

BORDER = {1: 2, 2: 0}
"""Positions that latents have more than patches, by number of signal axes."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Published:
    """A published model, ready for use: what `models.fitted.Fitted` is to a linear one.

    Parameters
    ----------
    architecture
        Its sizes.
    limits
        Samples that -1/2 and 1/2 stand for; None: that is each chunk's own affair.
    weights
        Its tensors by their published names, float32.
    """

    architecture: Architecture
    limits: tuple[float, float] | None
    weights: Mapping[str, NDArray[np.float32]]

    @classmethod
    def of(cls, description: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Published:
        """From what a `Model` holds, which is not trusted.

        Raises
        ------
        FormatError
            If it makes no published model.
        ConfigError
            If torch is not installed.
        """
        upstream = _upstream()
        try:
            architecture = upstream.Architecture.from_json(description["architecture"])
            limits = description.get("range")
            span = None if limits is None else (float(limits[0]), float(limits[1]))
            expected = {name: tuple(value.shape) for name, value in architecture.build("meta").state_dict().items()}
            sizes = (description["channels"], description["dimensions"], description["levels"])
        except (ConfigError, KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
            raise FormatError(f"The model is no published WaLLoC model: {error}.") from None
        if sizes != (architecture.channels, architecture.dimensions, architecture.J):
            raise FormatError("The model has other channels, signal axes or levels than its architecture.")
        if span is not None and not 0 < span[1] - span[0] < math.inf:
            raise FormatError(f"Expected a range from a lower to a higher number in the model. Got {span}.")
        if {name: (array.dtype, array.shape) for name, array in arrays.items()} != {
            name: (np.dtype(np.float32), shape) for name, shape in expected.items()
        }:
            raise FormatError("The arrays of the model are not those of its architecture.")
        if not all(np.isfinite(array).all() for array in arrays.values()):
            raise FormatError("The model has weights that are not finite.")
        return cls(architecture=architecture, limits=span, weights=arrays)

    def module(self, dtype: str, device: str = "cpu") -> Codec:
        """The module in "float32" or "float64", on a device of torch; made once for each."""
        import torch

        if (dtype, device) not in self._modules:
            module = self.architecture.build("meta").to(getattr(torch, dtype)).to_empty(device=device)
            module.load_state_dict({name: torch.tensor(array) for name, array in self.weights.items()})
            self._modules[dtype, device] = module.eval()
        return self._modules[dtype, device]

    @cached_property
    def _modules(self) -> dict[tuple[str, str], Codec]:
        return {}

    @cached_property
    def size(self) -> int:
        """Number of weights."""
        return sum(array.size for array in self.weights.values())

    @property
    def dimensions(self) -> int:
        """Number of signal axes."""
        return self.architecture.dimensions

    @property
    def patch(self) -> int:
        """Samples of a patch along every signal axis."""
        return 1 << self.architecture.J

    @property
    def largest(self) -> int:
        """Largest magnitude of a latent."""
        return (1 << self.architecture.latent_bits - 1) - 1

    def latent_signal(self, signal: Sequence[int]) -> tuple[int, ...]:
        """Positions of the latents of a chunk along its signal axes."""
        border = BORDER[self.dimensions]
        return tuple(-(-n // self.patch) + border for n in signal)

    @property
    def side(self) -> int:
        """Samples along every signal axis of chunks that suit the model: 2^k patches, of images at most 64."""
        side = self.patch
        while self.misfit(1, (2 * side,) * self.dimensions) is None and (
            self.dimensions == 1 or side < 64 * self.patch
        ):
            side *= 2
        return side

    def misfit(self, batch: int, signal: Sequence[int]) -> str | None:
        """Why chunks of that extent are too much for the model; None where they are not."""
        a = self.architecture
        positions = math.prod(self.latent_signal(signal))
        samples = batch * a.channels * math.prod(signal)
        network = max(a.decoder_width, a.encoder_width)
        widest = max(a.coefficients, a.latent_channels, network)
        limits = [
            ("values of the widest layer of their model", positions * widest, MOST_VALUES),
            ("batch items", batch, MOST_ITEMS),
            ("latents", batch * a.latent_channels * positions, MOST_LATENTS + samples),
            ("multiplications", batch * positions * self.size, MOST_MULTIPLICATIONS),
        ]
        if network and a.dimensions == 2:
            limits.append(("patches, all of which their model compares with all", positions, MOST_POSITIONS))
        return next((f"at most {most} {what}. Got {found}" for what, found, most in limits if found > most), None)

    def scaling(self, dtype: np.dtype[Any], edges: tuple[float, float]) -> tuple[float, float]:
        """Offset and scale of the samples of a chunk: of the model, of an 8-bit type, or of what occurs (`edges`)."""
        low, high = self.limits or edges
        if self.limits is None and dtype.kind in "iu" and dtype.itemsize == 1:
            low, high = float(np.iinfo(dtype).min), float(np.iinfo(dtype).max)
        return low / 2 + high / 2, high - low

    def working_bytes(self, signal: Sequence[int]) -> int:
        """Memory, about, that decoding a batch item takes: a few of the widest layers, and its attention."""
        a = self.architecture
        positions = math.prod(self.latent_signal(signal))
        layers = 6 * positions * max(a.coefficients, a.latent_channels, a.decoder_width)
        return 8 * (layers + (2 * positions**2 if a.decoder_width and a.dimensions == 2 else 0))

    def encode(self, x: NDArray[np.float64], device: str = "cpu") -> NDArray[np.int32]:
        """Latents (batch, latent, *positions) of x (batch, channel, *signal); the last samples are continued.

        Values beyond -1/2 and 1/2 count as these. `device` is one of torch.
        """
        import torch

        widths = [(0, 0), (0, 0), *((0, -n % self.patch) for n in x.shape[2:])]
        padded = np.pad(np.clip(x, -0.5, 0.5).astype(np.float32), widths, mode="edge")
        module = self.module("float32", device)
        items = [module.encode(torch.from_numpy(item[None]).to(device)).cpu().numpy() for item in padded]
        return np.concatenate(items).astype(np.int32)

    def decode(
        self,
        latents: NDArray[Any],
        signal: Sequence[int],
        *,
        single: bool = False,
        device: str = "cpu",
        at_once: int = 1,
    ) -> NDArray[np.float64]:
        """x (batch, channel, *signal) of latents (batch, latent, *positions).

        Parameters
        ----------
        latents
            Real numbers.
        signal
            Extent of the signal axes.
        single
            Whether to compute in float32.
        device
            Of torch.
        at_once
            Batch items that the network sees together, each as a whole: memory is that of so many.
        """
        import torch

        module = self.module("float32" if single else "float64", device)
        crop = tuple(slice(n) for n in signal)
        x = np.empty((len(latents), self.architecture.channels, *signal))
        for start in range(0, len(latents), at_once):
            part = torch.from_numpy(np.ascontiguousarray(latents[start : start + at_once])).to(device)
            x[start : start + at_once] = module.decode(part).cpu().numpy()[:, :, *crop]
        return x

    def latents_of(self, samples: NDArray[Any]) -> NDArray[np.int32]:
        """Latents (batch, latent, *positions) of samples (batch, channel, *signal) in the range of the model.

        Where the model has no range, samples are x, from -1/2 to 1/2.

        Raises
        ------
        ConfigError
            If samples are not finite, beyond the range, of other channels or too many at once.
        """
        if samples.shape[1] != self.architecture.channels or samples.size == 0:
            raise ConfigError(
                f"Expected samples of {self.architecture.channels} channels, for which the model was made. "
                f"Got {samples.shape[1]} in shape {samples.shape}."
            )
        self._check_extent(samples.shape[2:])
        low, high = self.limits or (-0.5, 0.5)
        values = samples.astype(np.float64)
        if not ((values >= low) & (values <= high)).all():
            raise ConfigError(
                f"Expected finite samples from {low:g} to {high:g}, the range of the model. Got others. Scale or clip "
                "them, or import the model with the range that they have."
            )
        return self.encode((values - (low + high) / 2) / (high - low))

    def samples_of(self, latents: NDArray[Any], signal: Sequence[int]) -> NDArray[np.float64]:
        """Samples (batch, channel, *signal) of latents (batch, latent, *positions), in the range of the model.

        Raises
        ------
        ConfigError
            If the latents do not suit the model and the extent.
        """
        expected = (self.architecture.latent_channels, *self.latent_signal(signal))
        if latents.shape[1:] != expected or latents.size == 0 or min(signal) < 1:
            raise ConfigError(
                f"Expected latents of shape (batch, {', '.join(map(str, expected))}) for samples of extent "
                f"{tuple(signal)}. Got {latents.shape}."
            )
        self._check_extent(signal)
        low, high = self.limits or (-0.5, 0.5)
        return (low + high) / 2 + (high - low) * self.decode(latents, signal)

    def _check_extent(self, signal: Sequence[int]) -> None:
        misfit = self.misfit(1, signal)
        if misfit is not None:
            raise ConfigError(f"Expected arrays of {misfit}, of extent {tuple(signal)}. Cut them into smaller ones.")

    def normal(self, latents: NDArray[Any]) -> NDArray[np.float64]:
        """What latents stand for before the decoder: values of a normal distribution, in units of x."""
        import torch

        from xwalloc.models.upstream.bottleneck import ToNormal

        values = ToNormal(self.architecture.latent_bits)(torch.from_numpy(latents.astype(np.float64)))
        result: NDArray[np.float64] = values.numpy()
        return result


def as_model(module: Codec, *, value_range: tuple[float, float] | None = None) -> Model:
    """A published model as a model of the codec.

    Parameters
    ----------
    module
        What `models.upstream.load` returned, or a module that was trained.
    value_range
        Samples that -1/2 and 1/2 of the network stand for, in stored units. None: the range of the type for 8-bit
        integers, and that of each chunk for others; latents can be compared from chunk to chunk only where these agree.

    Raises
    ------
    ConfigError
        If it is no such module, a weight is not finite, or the range is not from a lower to a higher number.
    """
    upstream = _upstream()
    if not isinstance(module, upstream.Codec):
        raise ConfigError(f"Expected a module of xwalloc.models.upstream. Got {type(module).__name__}.")
    if value_range is not None and not 0 < value_range[1] - value_range[0] < math.inf:
        raise ConfigError(f"Expected value_range to be a lower and a higher number. Got {value_range}.")
    arrays = {name: value.detach().cpu().float().numpy() for name, value in module.state_dict().items()}
    bad = [name for name, array in arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise ConfigError(
            f"Expected finite weights. Got NaN or infinities in {bad[0]!r}: the training of this checkpoint failed. "
            "Take an earlier one."
        )
    a = module.architecture
    description = {
        "format": FORMAT,
        "kind": PUBLISHED,
        "channels": a.channels,
        "dimensions": a.dimensions,
        "levels": a.J,
        "architecture": _plain(a.to_json()),
        "range": None if value_range is None else [float(value) for value in value_range],
        "target": {"step": 1},
    }
    return Model(description=description, arrays=arrays)


def module_of(model: Model) -> Codec:
    """The module of a model of kind "published", on the CPU, in eval mode: inverse of `as_model`.

    Raises
    ------
    ConfigError
        If it is a model of another kind, or torch is not installed.
    FormatError
        If the model is damaged.
    """
    if model.kind != PUBLISHED:
        raise ConfigError(f"Expected a model of kind {PUBLISHED!r}. Got one of kind {model.kind!r}.")
    return copy.deepcopy(model.published.module("float32"))


def import_checkpoint(
    config_path: str | os.PathLike[str],
    checkpoint_path: str | os.PathLike[str],
    *,
    value_range: tuple[float, float] | None = None,
    allow_pickle: bool = False,
) -> Model:
    """Read the files of a published model; parameters are those of `as_model` and `models.upstream.load`.

    Raises
    ------
    ConfigError, FormatError
        As these do.
    """
    module = _upstream().load(os.fspath(config_path), os.fspath(checkpoint_path), allow_pickle=allow_pickle)
    return as_model(module, value_range=value_range)


def _upstream() -> Any:
    """The architectures.

    Raises
    ------
    ConfigError
        If torch is not installed.
    """
    try:
        from xwalloc.models import upstream
    except ModuleNotFoundError as error:
        raise ConfigError(str(error)) from error
    return upstream


def _plain(value: Any) -> Any:
    """JSON without the NaN and infinities that Python's reader admits: they become text."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
