"""The residual causal video VAE, one implementation from the CPU default to the published size.

Dimension legend
    B batch, 3 colours, T frames, H W pixels              video   (B,3,T,H,W), float, [-1, 1]
    C latent channels, F latent frames, h w latent pixels latent  (B,C,F,h,w), float, unbounded
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ssvae.core.shapes import check_ndim, latent_grid
from ssvae.core.types import Posterior
from ssvae.models.blocks import ResidualBlock
from ssvae.models.decoder import Decoder
from ssvae.models.encoder import Encoder
from ssvae.models.latent_scale import LatentScale

COLOURS = 3


@dataclass(frozen=True, slots=True)
class VAEConfig:
    """Everything that shapes a :class:`VideoVAE`; what ``config.json`` of a saved VAE holds."""

    channels: int
    base_channels: int
    multipliers: tuple[int, ...]
    encoder_blocks: int
    decoder_blocks: int
    temporal_levels: tuple[bool, ...]
    encoder_mid_attention: tuple[bool, ...]
    decoder_mid_attention: tuple[bool, ...]

    def __post_init__(self) -> None:
        for name in ("channels", "base_channels", "encoder_blocks", "decoder_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"vae.{name} must be at least 1, got {getattr(self, name)}")
        if not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"vae.multipliers must be positive integers, one a level, got {self.multipliers}")
        if len(self.temporal_levels) != len(self.multipliers) - 1:
            raise ValueError(
                f"vae.temporal_levels needs one entry per downsampling ({len(self.multipliers) - 1} for "
                f"{len(self.multipliers)} multipliers), got {self.temporal_levels}"
            )
        self._check_shortcuts()

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, finest first."""
        return tuple(self.base_channels * factor for factor in self.multipliers)

    def _check_shortcuts(self) -> None:
        """The parameter-free shortcuts group or repeat whole channels, so neighbouring widths must divide."""
        for fine, coarse, temporal in zip(self.widths, self.widths[1:], self.temporal_levels, strict=False):
            cell = 8 if temporal else 4
            if fine % coarse and (coarse % fine or cell % (coarse // fine)):
                raise ValueError(
                    f"vae.multipliers {self.multipliers}: the level after one of {fine} channels may have as many, "
                    f"a multiple by a divisor of {cell}, or a whole fraction, not {coarse}"
                )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON-ready dictionary."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


class VideoVAE(LatentScale):
    """Residual causal 3-D VAE (official SSVAE code, after DC-AE, arXiv 2410.10733).

    channels: latent channels C. base_channels x multipliers: widths of the levels, finest first. encoder_blocks,
    decoder_blocks: residual blocks a level. temporal_levels: for each downsampling (one fewer than levels), whether
    it halves time beside height and width; the decoder mirrors it. encoder_mid_attention, decoder_mid_attention:
    one residual block of the middle per entry, followed by a per-frame attention where true; the published model has
    two in the encoder and one in the decoder, an asymmetry of its code that its weights depend on.
    initial_logvar: if given, the posterior's log-variance starts at this value everywhere (its half of the
    encoder's last convolution gets zero weights and this bias); at 0 the noise would drown early training.

    The first frame stands alone: T = 1 + r·k frames give F = 1 + k latent frames, an image is a one-frame clip, and no
    latent frame depends on later frames. Raises ValueError for settings that do not fit together.
    """

    def __init__(
        self,
        *,
        channels: int,
        base_channels: int,
        multipliers: Sequence[int],
        encoder_blocks: int,
        decoder_blocks: int,
        temporal_levels: Sequence[bool],
        encoder_mid_attention: Sequence[bool] = (True, True),
        decoder_mid_attention: Sequence[bool] = (True, False),
        initial_logvar: float | None = None,
    ) -> None:
        super().__init__()
        config = VAEConfig(
            channels=channels,
            base_channels=base_channels,
            multipliers=tuple(multipliers),
            encoder_blocks=encoder_blocks,
            decoder_blocks=decoder_blocks,
            temporal_levels=tuple(temporal_levels),
            encoder_mid_attention=tuple(encoder_mid_attention),
            decoder_mid_attention=tuple(decoder_mid_attention),
        )
        self.config = config
        self.encoder = Encoder(
            in_channels=COLOURS,
            base_channels=base_channels,
            widths=config.widths,
            blocks=encoder_blocks,
            temporal=config.temporal_levels,
            mid_attention=config.encoder_mid_attention,
            moments=2 * channels,
        )
        self.decoder = Decoder(
            latent_channels=channels,
            widths=config.widths[::-1],
            blocks=decoder_blocks,
            temporal=config.temporal_levels[::-1],
            mid_attention=config.decoder_mid_attention,
            out_channels=COLOURS,
        )
        self._set_scale(torch.zeros(channels), torch.ones(channels))
        if initial_logvar is not None:
            self._start_logvar_at(initial_logvar)

    @property
    def channels(self) -> int:
        """Latent channels C."""
        return self.config.channels

    @property
    def encoder_theta(self) -> nn.Parameter:
        """Weight of the encoder's last convolution, (2C,C',3,3,3): where adaptive weights of latent terms look."""
        return self.encoder.conv_out.weight

    @property
    def decoder_theta(self) -> nn.Parameter:
        """Weight of the decoder's last convolution, (3,C',3,3,3): where the critic's adaptive weight looks."""
        return self.decoder.conv_out.weight

    @property
    def spatial_ratio(self) -> int:
        """Pixels per latent pixel along height and along width."""
        return 2 ** len(self.config.temporal_levels)

    @property
    def temporal_ratio(self) -> int:
        """Frames per latent frame, the first one apart."""
        return 2 ** sum(self.config.temporal_levels)

    def latent_grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(F, h, w) of a clip; ValueError names the nearest counts or sizes that fit."""
        return latent_grid(frames, height, width, self.temporal_ratio, self.spatial_ratio)

    def encode_moments(self, video: Tensor) -> Tensor:
        """(B,3,T,H,W) in [-1,1] -> (B,2C,F,h,w) = mean ‖ log-variance, not clamped; ValueError if it does not fit."""
        check_ndim("video", video.shape, 5, "(B,3,T,H,W)")
        if video.shape[1] != COLOURS:
            raise ValueError(f"video must have {COLOURS} colours on axis 1, got shape {tuple(video.shape)}")
        self.latent_grid(*video.shape[2:])
        return self.encoder(video)

    def encode(self, video: Tensor) -> Posterior:
        """(B,3,T,H,W) in [-1,1] -> posterior over (B,C,F,h,w), log-variance clamped."""
        return Posterior.from_moments(self.encode_moments(video))

    def decode(self, latent: Tensor) -> Tensor:
        """Raw latent (B,C,F,h,w) -> (B,3,T,H,W), not clamped; ValueError for a wrong shape."""
        check_ndim("latent", latent.shape, 5, "(B,C,F,h,w)")
        if latent.shape[1] != self.channels:
            raise ValueError(f"latent must have {self.channels} channels on axis 1, got shape {tuple(latent.shape)}")
        return self.decoder(latent)

    def set_gradient_checkpointing(self, enabled: bool) -> None:
        """Keep only the inputs of residual blocks for the backward pass, and compute the rest again; same numbers."""
        for module in self.modules():
            if isinstance(module, ResidualBlock):
                module.checkpointing = enabled

    @torch.no_grad()
    def set_latent_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Store per-channel mean and std, (C,) each, finite, std > 0; ValueError otherwise."""
        for name, value in (("mean", mean), ("std", std)):
            if value.shape != (self.channels,):
                raise ValueError(f"latent {name} must have shape ({self.channels},), got {tuple(value.shape)}")
            if not bool(torch.isfinite(value).all()):
                raise ValueError(f"latent {name} holds non-finite values: {value.tolist()}")
        if not bool((std > 0).all()):
            dead = torch.nonzero(std <= 0).flatten().tolist()
            raise ValueError(f"latent std must be positive; it is not on channels {dead}")
        self.latent_mean.copy_(mean)
        self.latent_std.copy_(std)

    @torch.no_grad()
    def _start_logvar_at(self, value: float) -> None:
        assert self.encoder.conv_out.bias is not None
        self.encoder.conv_out.weight[self.channels :].zero_()
        self.encoder.conv_out.bias[self.channels :].fill_(value)
