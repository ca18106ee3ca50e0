"""Decoder: latent -> clip, the encoder's levels in reverse.

Dimension legend
    B batch, T frames, H W pixels; C latent channels, F latent frames, h w latent pixels
    (B,C,F,h,w) -> (B,3,T,H,W)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssvae.models.blocks import ResidualBlock, middle, norm_convolve
from ssvae.models.conv import CausalConv3d
from ssvae.models.norm import NormSiLU
from ssvae.models.resample import Upsample


class DecoderLevel(nn.Module):
    """Residual blocks at one resolution, then (except at the last level) the upsampling to the next."""

    def __init__(self, width: int, blocks: int, *, next_width: int | None, temporal: bool = False) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualBlock(width, width) for _ in range(blocks)))
        self.upsample: nn.Module = nn.Identity()
        if next_width is not None:
            self.upsample = Upsample(width, next_width, temporal=temporal)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,T,H,W) -> (B,C',T',H',W')."""
        return self.upsample(self.blocks(x))


class Decoder(nn.Module):
    """Convolution in, middle, one level per entry of ``widths`` (coarsest first), norm + SiLU + convolution out.

    ``temporal[i]``: whether the upsampling after level i also doubles time (the mirrored list of the encoder's).
    Source: official SSVAE code.
    """

    def __init__(
        self,
        *,
        latent_channels: int,
        widths: Sequence[int],
        blocks: int,
        temporal: Sequence[bool],
        mid_attention: Sequence[bool],
        out_channels: int,
    ) -> None:
        super().__init__()
        assert len(temporal) == len(widths) - 1
        self.conv_in = CausalConv3d(latent_channels, widths[0])
        self.middle = middle(widths[0], mid_attention)
        levels: list[nn.Module] = []
        for index, width in enumerate(widths):
            last = index == len(widths) - 1
            levels.append(
                DecoderLevel(
                    width,
                    blocks,
                    next_width=None if last else widths[index + 1],
                    temporal=False if last else temporal[index],
                )
            )
        self.levels = nn.Sequential(*levels)
        self.norm_out = NormSiLU(widths[-1])
        self.conv_out = CausalConv3d(widths[-1], out_channels)

    def forward(self, latent: Tensor) -> Tensor:
        """(B,C,F,h,w) -> (B,3,T,H,W)."""
        x = self.conv_in(latent.contiguous(memory_format=torch.channels_last_3d))
        x = self.levels(self.middle(x))
        return norm_convolve(self.norm_out, self.conv_out, x).contiguous()
