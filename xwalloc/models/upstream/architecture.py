"""What a published WaLLoC model is made of: the configuration file beside its checkpoint, parsed and bounded.

The file is JSON: settings of the training (kept verbatim, among them a Greek phi) and sizes of the model. It does not
name its class; that follows from the keys that are there:

====================================  =================
`num_stages`                          `ResidualCodec2D`
no `Nd`                               `LinearCodec2D`
`Nd`, and `post_filter` or
`audio_length`                        `Codec1D`
`Nd` and neither                      `Codec2D`
====================================  =================
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from xwalloc.errors import ConfigError

if TYPE_CHECKING:
    from xwalloc.models.upstream.codecs import Codec

__all__ = ["Architecture", "Kind"]

Kind = Literal["Codec1D", "Codec2D", "LinearCodec2D", "ResidualCodec2D"]

MOST = {"channels": 4096, "J": 8, "latent_dim": 1 << 16, "Nd": 8192, "Ne": 8192, "num_stages": 64}
LEAST_BITS, MOST_BITS = 2, 16
MAX_COEFFICIENTS = 1 << 20
"""Most channels after the wavelet transform."""
MAX_PARAMETERS = 1 << 29
"""Most weights of a model: 2 GiB in float32; the largest published models have a third of that."""

SIZES = ("channels", "J", "Ne", "Nd", "latent_dim", "latent_bits", "lightweight_encode", "post_filter", "num_stages")
NEEDED = ("channels", "J", "latent_dim", "latent_bits")


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes of a published WaLLoC model, under their published names.

    Parameters
    ----------
    kind
        Name of the published class.
    channels
        Channels of the signal, 1 to 4096.
    J
        Levels of the wavelet packet tree, 1 to 8: every signal axis is cut into 2^J subbands.
    latent_dim
        Channels of the latents (of each stage of a `ResidualCodec2D`).
    latent_bits
        Bits of a latent, 2 to 16.
    Nd
        Width of the decoder network: over (y, x) a multiple of 32, over time `latent_dim` or above. None exactly for
        `LinearCodec2D` and `ResidualCodec2D`, which have no network.
    Ne
        Width of the encoder network, likewise; needed unless `lightweight_encode`.
    lightweight_encode
        Whether the encoder is linear (one matrix product per position) instead of a network.
    post_filter
        Whether a convolution over 129 samples follows the synthesis; `Codec1D` only.
    num_stages
        Stages of a `ResidualCodec2D`, each of which codes what the ones before it left over; None for other kinds.
    training
        Every other key of the configuration file. Kept, not used.

    Raises
    ------
    ConfigError
        If a value is not possible, or beyond what a model may take.

    Examples
    --------
    >>> rgb = Architecture(kind="Codec2D", channels=3, J=3, latent_dim=12, latent_bits=8, Nd=768)
    >>> rgb.coefficients, rgb.latent_channels
    (192, 12)
    >>> Architecture.from_json(rgb.to_json()) == rgb
    True
    """

    kind: Kind
    channels: int
    J: int
    latent_dim: int
    latent_bits: int
    Nd: int | None = None
    Ne: int | None = None
    lightweight_encode: bool = True
    post_filter: bool = False
    num_stages: int | None = None
    training: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ConfigError(f"Expected kind to be one of {', '.join(get_args(Kind))}. Got {_shown(self.kind)}.")
        for name in ("channels", "J", "latent_dim"):
            _check_size(name, getattr(self, name), 1, MOST[name])
        _check_size("latent_bits", self.latent_bits, LEAST_BITS, MOST_BITS)
        for name in ("lightweight_encode", "post_filter"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"Expected {name} to be true or false. Got {_shown(getattr(self, name))}.")
        self._check_networks()
        if self.post_filter and self.kind != "Codec1D":
            raise ConfigError(f"Expected post_filter for Codec1D only. Got it for {self.kind}: remove it.")
        if (self.num_stages is not None) != (self.kind == "ResidualCodec2D"):
            raise ConfigError(
                "Expected num_stages for ResidualCodec2D and for no other kind. "
                f"Got {_shown(self.num_stages)} for {self.kind}."
            )
        if self.num_stages is not None:
            _check_size("num_stages", self.num_stages, 1, MOST["num_stages"])
        if self.coefficients > MAX_COEFFICIENTS:
            raise ConfigError(
                f"Expected at most {MAX_COEFFICIENTS} channels after the wavelet transform. Got {self.coefficients}, "
                f"of {self.channels} channels and J {self.J}. Give fewer levels, or fewer channels."
            )

    def _check_networks(self) -> None:
        linear = self.kind in ("LinearCodec2D", "ResidualCodec2D")
        if linear and (self.Nd is not None or self.Ne is not None or not self.lightweight_encode):
            raise ConfigError(
                f"Expected {self.kind} to be linear. Got Nd {_shown(self.Nd)}, Ne {_shown(self.Ne)} and "
                f"lightweight_encode {self.lightweight_encode}. Leave these out, or take Codec2D."
            )
        for name, needed in (("Nd", not linear), ("Ne", not self.lightweight_encode)):
            width = getattr(self, name)
            if width is None:
                if needed:
                    raise ConfigError(f"Expected {name}, the width of a network of this {self.kind}. Got none.")
                continue
            _check_size(name, width, 1, MOST[name])
            if needed and self.dimensions == 2 and width % 32:
                raise ConfigError(f"Expected {name} to be a multiple of 32, for 32 groups of channels. Got {width}.")
            if needed and self.dimensions == 1 and width < self.latent_dim:
                raise ConfigError(f"Expected {name} to be at least latent_dim, {self.latent_dim}. Got {width}.")

    @property
    def dimensions(self) -> int:
        """Number of signal axes: 1 (time) or 2 (y, x)."""
        return 1 if self.kind == "Codec1D" else 2

    @property
    def coefficients(self) -> int:
        """Channels after the wavelet transform: channels * 2^(dimensions * J)."""
        return self.channels << self.dimensions * self.J

    @property
    def latent_channels(self) -> int:
        """Channels of what `encode` returns."""
        return self.latent_dim * (self.num_stages or 1)

    @property
    def decoder_width(self) -> int:
        """Width of the decoder network; 0 where there is none."""
        return self.Nd or 0

    @property
    def encoder_width(self) -> int:
        """Width of the encoder network; 0 where there is none."""
        return 0 if self.lightweight_encode else self.Ne or 0

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Architecture:
        """Parse the configuration file of a published model.

        Raises
        ------
        ConfigError
            If a key is missing or a value is not possible.
        """
        if not isinstance(data, Mapping):
            raise ConfigError(f"Expected the configuration of a model to be a JSON object. Got {_shown(data)}.")
        for name in NEEDED:
            if data.get(name) is None:
                close = difflib.get_close_matches(name, map(str, data), 1)
                hint = f"Is {close[0]!r} meant?" if close else f"A WaLLoC model has {', '.join(NEEDED)}."
                raise ConfigError(f"Expected {name!r} in the configuration of a model. Got none. {hint}")
        if data.get("num_stages") is not None:
            kind: Kind = "ResidualCodec2D"
        elif data.get("Nd") is None:
            kind = "LinearCodec2D"
        else:
            kind = "Codec1D" if "post_filter" in data or "audio_length" in data else "Codec2D"
        sizes = {name: data[name] for name in SIZES if data.get(name) is not None}
        sizes.setdefault("lightweight_encode", "Ne" not in sizes)
        return cls(kind=kind, **sizes, training={key: value for key, value in data.items() if key not in SIZES})

    def to_json(self) -> dict[str, Any]:
        """The configuration in the published layout: keys of the training first, then sizes."""
        result: dict[str, Any] = {**self.training, "channels": self.channels, "J": self.J}
        if self.Nd is not None:
            result.update(Ne=self.Ne, Nd=self.Nd)
        result.update(latent_dim=self.latent_dim, latent_bits=self.latent_bits)
        if self.Nd is not None:
            result.update(lightweight_encode=self.lightweight_encode)
        if self.kind == "Codec1D":
            result.update(post_filter=self.post_filter)
        if self.num_stages is not None:
            result.update(num_stages=self.num_stages)
        return result

    def build(self, device: str = "cpu") -> Codec:
        """A module of this architecture with fresh weights (from torch's random state), in training mode.

        Raises
        ------
        ConfigError
            If it had more than 2^29 weights.
        """
        import torch

        from xwalloc.models.upstream.codecs import CLASSES

        with torch.device("meta"):
            model = CLASSES[self.kind](self)
        count = sum(weight.numel() for weight in model.parameters())
        if count > MAX_PARAMETERS:
            raise ConfigError(
                f"Expected a model of at most {MAX_PARAMETERS} weights. Got {count}: too large to be a WaLLoC model. "
                "Give smaller values of Nd, Ne, latent_dim or J."
            )
        if device == "meta":
            return model
        with torch.device(device):
            return CLASSES[self.kind](self)


def _shown(value: object) -> str:
    """What was got, in short: values may be hostile, and Python refuses to write integers of many digits."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _check_size(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ConfigError(f"Expected {name} to be an integer from {least} to {most}. Got {_shown(value)}.")
