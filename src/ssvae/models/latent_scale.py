"""Per-channel mean and std that travel with a VAE's weights, ours and others' alike.

Dimension legend
    B batch, C latent channels, F latent frames, h w latent pixels    latent (B,C,F,h,w)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from torch import Tensor, nn


class LatentScale(nn.Module):
    """A module with the float32 buffers ``latent_mean`` and ``latent_std`` (C,)."""

    latent_mean: Tensor
    latent_std: Tensor

    def _set_scale(self, mean: Tensor, std: Tensor) -> None:
        self.register_buffer("latent_mean", mean.float())
        self.register_buffer("latent_std", std.float())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves and casts as usual, but latent statistics keep float32: half precision would bias every latent."""
        mean, std = self.latent_mean, self.latent_std
        super()._apply(fn, recurse)
        if not (mean.is_meta or self.latent_mean.is_meta):
            self.latent_mean = mean.to(self.latent_mean.device)
            self.latent_std = std.to(self.latent_std.device)
        return self

    def normalize(self, latent: Tensor) -> Tensor:
        """(latent - mean)/std per channel, (B,C,F,h,w): the space that diffusion trains in."""
        return (latent - _per_channel(self.latent_mean, latent)) / _per_channel(self.latent_std, latent)

    def denormalize(self, latent: Tensor) -> Tensor:
        """Inverse of :meth:`normalize`, (B,C,F,h,w)."""
        return latent * _per_channel(self.latent_std, latent) + _per_channel(self.latent_mean, latent)


def _per_channel(values: Tensor, latent: Tensor) -> Tensor:
    """(C,) -> (C,1,1,1) in the latent's dtype."""
    return values.to(latent.dtype).view(-1, 1, 1, 1)
