"""Group ``vae``: the architecture; group ``channels`` fills ``vae.channels``."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class VaeConfig:
    """A residual causal 3-D autoencoder (SSVAE official code; widths are ours for ``tiny``)."""

    name: str = MISSING
    channels: int = MISSING  # latent channels C
    base_channels: int = MISSING  # width of the first convolution
    multipliers: list[int] = MISSING  # width of each level / base_channels
    encoder_blocks: int = MISSING  # residual blocks a level
    decoder_blocks: int = MISSING
    temporal_levels: list[bool] = MISSING  # one a down-sampling: does it halve time too?
    encoder_attention: int = MISSING  # attention blocks at the encoder's bottleneck (official: 2)
    decoder_attention: int = MISSING  # ... at the decoder's (official: 1)
    initial_logvar: float | None = MISSING  # start of the posterior log-variance; null: as initialised
