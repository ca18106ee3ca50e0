"""Encoder: clip -> moments of the latent posterior.

Dimension legend
    B batch, T frames, H W pixels; C latent channels, F latent frames, h w latent pixels
    (B,3,T,H,W) -> (B,2C,F,h,w)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssvae.models.blocks import ResidualBlock, middle, norm_convolve
from ssvae.models.conv import CausalConv3d
from ssvae.models.norm import NormSiLU
from ssvae.models.resample import Downsample


class EncoderLevel(nn.Module):
    """Residual blocks at one resolution, then (except at the last level) the downsampling to the next."""

    def __init__(
        self, in_channels: int, width: int, blocks: int, *, next_width: int | None, temporal: bool = False
    ) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(ResidualBlock(in_channels if i == 0 else width, width) for i in range(blocks)))
        self.downsample: nn.Module = nn.Identity()
        if next_width is not None:
            self.downsample = Downsample(width, next_width, temporal=temporal)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,T,H,W) -> (B,C',T',H',W')."""
        return self.downsample(self.blocks(x))


class Encoder(nn.Module):
    """Convolution in, one level per entry of ``widths``, middle, norm + SiLU + convolution out.

    The downsampling of a level already yields the next level's width; only the first block of level 0 (from
    ``base_channels``) changes the width itself. ``temporal[i]``: whether the downsampling after level i also
    halves time. ``moments``: channels out (twice the latent channels). Source: official SSVAE code.
    """

    def __init__(
        self,
        *,
        in_channels: int,
        base_channels: int,
        widths: Sequence[int],
        blocks: int,
        temporal: Sequence[bool],
        mid_attention: Sequence[bool],
        moments: int,
    ) -> None:
        super().__init__()
        assert len(temporal) == len(widths) - 1
        self.conv_in = CausalConv3d(in_channels, base_channels)
        levels: list[nn.Module] = []
        for index, width in enumerate(widths):
            last = index == len(widths) - 1
            levels.append(
                EncoderLevel(
                    base_channels if index == 0 else width,
                    width,
                    blocks,
                    next_width=None if last else widths[index + 1],
                    temporal=False if last else temporal[index],
                )
            )
        self.levels = nn.Sequential(*levels)
        self.middle = middle(widths[-1], mid_attention)
        self.norm_out = NormSiLU(widths[-1])
        self.conv_out = CausalConv3d(widths[-1], moments)

    def forward(self, video: Tensor) -> Tensor:
        """(B,3,T,H,W) -> (B,2C,F,h,w)."""
        x = self.conv_in(video.contiguous(memory_format=torch.channels_last_3d))
        x = self.middle(self.levels(x))
        return norm_convolve(self.norm_out, self.conv_out, x).contiguous()
