"""Group ``vae``: an architecture, or a finished VAE. Group ``channels`` fills ``vae.channels`` of an architecture."""

from __future__ import annotations

from dataclasses import dataclass, fields

from omegaconf import MISSING


@dataclass
class VaeConfig:
    """A residual causal 3-D autoencoder (SSVAE official code; widths are ours for ``tiny``), or a finished one.

    weights: a VAE that is measured and probed as it is, and not trained: a published name, a folder or a file that
    ``load_vae`` reads. The architecture is then its own, and everything but ``name`` and ``channels`` is null.
    """

    name: str = MISSING
    weights: str | None = MISSING
    channels: int = MISSING  # latent channels C
    base_channels: int | None = MISSING  # width of the first convolution
    multipliers: list[int] | None = MISSING  # width of each level / base_channels
    encoder_blocks: int | None = MISSING  # residual blocks a level
    decoder_blocks: int | None = MISSING
    temporal_levels: list[bool] | None = MISSING  # one a down-sampling: does it halve time too?
    encoder_attention: int | None = MISSING  # attention blocks at the encoder's bottleneck (official: 2)
    decoder_attention: int | None = MISSING  # ... at the decoder's (official: 1)
    initial_logvar: float | None = MISSING  # start of the posterior log-variance; null: as initialised


@dataclass(frozen=True)
class Architecture:
    """What a VAE that is trained here is built from; see :class:`VaeConfig`."""

    base_channels: int
    multipliers: list[int]
    encoder_blocks: int
    decoder_blocks: int
    temporal_levels: list[bool]
    encoder_attention: int
    decoder_attention: int

    @property
    def ratios(self) -> tuple[int, int]:
        """(temporal, spatial) compression."""
        return 2 ** sum(self.temporal_levels), 2 ** (len(self.multipliers) - 1)


def architecture(vae: VaeConfig) -> Architecture:
    """The architecture of a VAE that is trained here. Raises ValueError, naming the keys, where a part is null."""
    parts = {field.name: getattr(vae, field.name) for field in fields(Architecture)}
    if absent := [f"vae.{name}" for name, value in parts.items() if value is None]:
        raise ValueError(f"{', '.join(absent)}: null, which only a finished VAE (vae.weights) may be")
    return Architecture(**parts)
