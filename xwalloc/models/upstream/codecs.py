"""The four published WaLLoC models: wavelet packet analysis, encoder, bottleneck | decoder, synthesis.

Every model has the parameters of the published one under the same names, so that `state_dict()` is interchangeable.

References
----------
.. [1] Jacobellis and Yadwadkar, "Learned compression for compressed learning", arXiv 2412.09405 (2024).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xwalloc.errors import ConfigError
from xwalloc.models.upstream.architecture import Architecture, Kind
from xwalloc.models.upstream.bottleneck import Round, ToNormal, ToUniform
from xwalloc.models.upstream.kl import KLDecoder, KLEncoder
from xwalloc.models.upstream.oobleck import OobleckDecoder, OobleckEncoder
from xwalloc.models.upstream.wavelet import PacketAnalysis, PacketSynthesis

__all__ = ["CLASSES", "Codec", "Codec1D", "Codec2D", "LinearCodec2D", "ResidualCodec2D"]

POST_TAPS = 129
BORDER = {1: 2, 2: 0}
"""Positions that latents have more than coefficients, by number of signal axes."""


class Codec(nn.Module):
    """What the four models have in common.

    Parameters
    ----------
    architecture
        Sizes; its `kind` is the name of the class.

    Raises
    ------
    ConfigError
        If the architecture is that of another class.
    """

    encoder: nn.Sequential
    decoder: nn.Sequential

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        if architecture.kind != type(self).__name__:
            raise ConfigError(
                f"Expected an architecture of kind {type(self).__name__}. Got {architecture.kind}: "
                "use `architecture.build()`, which picks the class."
            )
        self.architecture = architecture
        self.wt = PacketAnalysis(architecture.J, architecture.dimensions)
        self.iwt = PacketSynthesis(architecture.J, architecture.dimensions)
        self.clamp = nn.Hardtanh(-0.5, 0.5)

    @torch.no_grad()
    def encode(self, x: Tensor) -> Tensor:
        """Latents of a batch of signals.

        Parameters
        ----------
        x : (batch, channel, time) or (batch, channel, y, x) float32
            Finite values from -0.5 to 0.5; signal axes are multiples of 2^J.

        Returns
        -------
        latents : int16
            (batch, latent channel, time / 2^J + 2) or (batch, latent channel, y / 2^J, x / 2^J), within
            +-(2^(bits-1) - 1).

        Raises
        ------
        ConfigError
            If `x` does not fit the model.
        """
        self._check_signal(x)
        return self._quantise(self.wt(x)).to(torch.int16)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Signals of a batch of latents.

        Parameters
        ----------
        latents
            What `encode` returned, as any type of numbers: all of it, since networks look at whole images.

        Returns
        -------
        x : (batch, channel, time) or (batch, channel, y, x) float32
            From -0.5 to 0.5.

        Raises
        ------
        ConfigError
            If `latents` do not fit the model.
        """
        self._check_latents(latents)
        return self.clamp(self._finish(self.iwt(self._dequantise(latents.to(self._dtype())))))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Encode and decode, differentiably: in training, noise stands for rounding.

        Parameters
        ----------
        x
            As for `encode`.

        Returns
        -------
        x_hat
            Decoded, from -0.5 to 0.5.
        mse_loss : scalar
            Mean squared error of the signal before it was clamped; summed over stages in a `ResidualCodec2D`.
        tf_loss : scalar, or (stage,)
            Mean squared error of the wavelet coefficients.

        Raises
        ------
        ConfigError
            If `x` does not fit the model.
        """
        self._check_signal(x)
        coefficients = self.wt(x)
        decoded = self.decoder(self.encoder(coefficients))
        x_hat = self._finish(self.iwt(decoded))
        return self.clamp(x_hat), F.mse_loss(x, x_hat), F.mse_loss(coefficients, decoded)

    def _quantise(self, coefficients: Tensor) -> Tensor:
        return torch.round(self.encoder[1](self.encoder[0](coefficients)))

    def _dequantise(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)

    def _finish(self, x: Tensor) -> Tensor:
        return x

    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def _check_signal(self, x: Tensor) -> None:
        a = self.architecture
        axes = "(batch, channel, time)" if a.dimensions == 1 else "(batch, channel, y, x)"
        if x.ndim != 2 + a.dimensions or x.shape[1] != a.channels or x.numel() == 0:
            raise ConfigError(f"Expected a signal {axes} of {a.channels} channels. Got shape {tuple(x.shape)}.")
        if any(size % 2**a.J for size in x.shape[2:]):
            raise ConfigError(
                f"Expected signal axes of a multiple of {2**a.J} samples, for {a.J} levels. Got shape "
                f"{tuple(x.shape)}. Pad the signal (its edge repeated will do) and cut the decoded one."
            )
        if x.dtype != self._dtype():
            raise ConfigError(
                f"Expected a signal of {self._dtype()}. Got {x.dtype}. Convert it, and scale it to -0.5 to 0.5."
            )

    def _check_latents(self, latents: Tensor) -> None:
        a = self.architecture
        axes = "(batch, channel, time)" if a.dimensions == 1 else "(batch, channel, y, x)"
        if latents.ndim != 2 + a.dimensions or latents.shape[1] != a.latent_channels:
            raise ConfigError(
                f"Expected latents {axes} of {a.latent_channels} channels. Got shape {tuple(latents.shape)}."
            )
        if latents.numel() == 0 or min(latents.shape[2:]) <= BORDER[a.dimensions]:
            raise ConfigError(
                f"Expected latents as `encode` returns them. Got shape {tuple(latents.shape)}: too short."
            )
        if latents.is_complex() or latents.dtype == torch.bool:
            raise ConfigError(f"Expected latents to be integers. Got {latents.dtype}.")


class Codec2D(Codec):
    """Images: linear encoder, or that of latent diffusion, and the decoder of latent diffusion."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        a = architecture
        self.encoder = nn.Sequential(
            nn.Conv2d(a.coefficients, a.latent_dim, 1)
            if a.lightweight_encode
            else KLEncoder(a.coefficients, a.encoder_width, a.latent_dim),
            ToUniform(a.latent_bits),
            Round(),
        )
        self.decoder = nn.Sequential(ToNormal(a.latent_bits), KLDecoder(a.latent_dim, a.decoder_width, a.coefficients))


class Codec1D(Codec):
    """Series: linear encoder, or that of Stable Audio Open, the decoder of Stable Audio Open, maybe a post filter.

    The linear encoder has a margin of one position on each side, so that latents are as many as the decoder needs.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        a = architecture
        self.encoder = nn.Sequential(
            nn.Conv1d(a.coefficients, a.latent_dim, 1, padding=1)
            if a.lightweight_encode
            else OobleckEncoder(a.coefficients, a.encoder_width, a.latent_dim),
            ToUniform(a.latent_bits),
            Round(),
        )
        self.decoder = nn.Sequential(
            ToNormal(a.latent_bits), OobleckDecoder(a.latent_dim, a.decoder_width, a.coefficients)
        )
        self.post = (
            nn.Conv1d(a.channels, a.channels, POST_TAPS, padding=POST_TAPS // 2) if a.post_filter else nn.Identity()
        )

    def _finish(self, x: Tensor) -> Tensor:
        return self.post(x)


class LinearCodec2D(Codec):
    """Images, with a linear encoder and a linear decoder."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        a = architecture
        self.encoder = nn.Sequential(nn.Conv2d(a.coefficients, a.latent_dim, 1), ToUniform(a.latent_bits), Round())
        self.decoder = nn.Sequential(ToNormal(a.latent_bits), nn.Conv2d(a.latent_dim, a.coefficients, 1))


class ResidualCodec2D(Codec):
    """Images, with linear stages each of which codes the coefficients that the ones before it left over.

    Latents of the stages are channels one after the other.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__(architecture)
        a = architecture
        stages = range(a.num_stages or 0)
        self.to_uniform = ToUniform(a.latent_bits)
        self.round = Round()
        self.to_normal = ToNormal(a.latent_bits)
        self.encoders = nn.ModuleList([nn.Conv2d(a.coefficients, a.latent_dim, 1) for _ in stages])
        self.decoders = nn.ModuleList([nn.Conv2d(a.latent_dim, a.coefficients, 1) for _ in stages])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As for the other models, with losses of every stage."""
        self._check_signal(x)
        coefficients = self.wt(x)
        decoded = torch.zeros_like(coefficients)
        signal, spectral = [], []
        x_hat = torch.zeros_like(x)
        for encode, decode in zip(self.encoders, self.decoders, strict=True):
            latents = self.round(self.to_uniform(encode(coefficients - decoded)))
            decoded = decoded + decode(self.to_normal(latents))
            x_hat = self.iwt(decoded)
            signal.append(F.mse_loss(x, x_hat))
            spectral.append(F.mse_loss(coefficients, decoded))
        return self.clamp(x_hat), torch.stack(signal).sum(), torch.stack(spectral)

    def _quantise(self, coefficients: Tensor) -> Tensor:
        left, stages = coefficients, []
        for encode, decode in zip(self.encoders, self.decoders, strict=True):
            latents = torch.round(self.to_uniform(encode(left)))
            left = left - decode(self.to_normal(latents))
            stages.append(latents)
        return torch.cat(stages, dim=1)

    def _dequantise(self, latents: Tensor) -> Tensor:
        stages = self.to_normal(latents).split(self.architecture.latent_dim, dim=1)
        return torch.stack([decode(stage) for decode, stage in zip(self.decoders, stages, strict=True)]).sum(0)


CLASSES: dict[Kind, type[Codec]] = {
    "Codec1D": Codec1D,
    "Codec2D": Codec2D,
    "LinearCodec2D": LinearCodec2D,
    "ResidualCodec2D": ResidualCodec2D,
}
