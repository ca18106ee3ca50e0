"""What the bench asks of a video autoencoder, whoever trained it.

Dimension legend
    B batch, 3 colours, T frames, H W pixels              video   (B,3,T,H,W), float, [-1, 1]
    C latent channels, F latent frames, h w latent pixels latent  (B,C,F,h,w), float, unbounded
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from ssvae.core.types import Posterior


@runtime_checkable
class Autoencoder(Protocol):
    """A VAE as metrics, caches and probes use it: :class:`~ssvae.models.vae.VideoVAE` and
    :class:`~ssvae.models.zoo.PublishedVAE`.

    Latents are raw, as the encoder gives them, until :meth:`normalize` brings them to the space that diffusion
    trains in. F = 1 + (T - 1)/r for the temporal compression r.
    """

    @property
    def channels(self) -> int:
        """Latent channels C."""
        ...

    @property
    def spatial_ratio(self) -> int:
        """Pixels per latent pixel along height and along width."""
        ...

    @property
    def temporal_ratio(self) -> int:
        """Frames per latent frame, the first one apart; 1 for an image VAE."""
        ...

    @property
    def latent_mean(self) -> Tensor:
        """(C,) float32."""
        ...

    @property
    def latent_std(self) -> Tensor:
        """(C,) float32, above 0."""
        ...

    def latent_grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """(F, h, w) of a clip; ValueError says the rule that it breaks and the nearest values that fit."""
        ...

    def encode(self, video: Tensor) -> Posterior:
        """(B,3,T,H,W) in [-1,1] -> posterior over (B,C,F,h,w)."""
        ...

    def decode(self, latent: Tensor) -> Tensor:
        """Raw latent (B,C,F,h,w) -> (B,3,T,H,W)."""
        ...

    def normalize(self, latent: Tensor) -> Tensor:
        """(latent - mean)/std per channel, (B,C,F,h,w)."""
        ...

    def denormalize(self, latent: Tensor) -> Tensor:
        """Inverse of :meth:`normalize`, (B,C,F,h,w)."""
        ...

    def parameters(self, recurse: bool = ...) -> Iterator[nn.Parameter]:
        """The weights, as of any ``nn.Module``."""
        ...

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move or cast in place, as any ``nn.Module``; latent mean and std stay float32."""
        ...

    def eval(self) -> Self:
        """Switch to evaluation in place."""
        ...
