"""The residual block and the middle section that encoder and decoder share.

Dimension legend
    B batch, C C' channels in and out, T frames, H W pixels
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ssvae.models.attention import FrameAttention
from ssvae.models.conv import CausalConv3d, history
from ssvae.models.norm import NormSiLU


class ResidualBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x)))))), with a 1x1x1 convolution on the skip when the width changes.

    checkpointing: keep only the input for the backward pass and compute the rest again there; same numbers.
    """

    checkpointing = False

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm1 = NormSiLU(in_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.norm2 = NormSiLU(out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Conv3d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,T,H,W) -> (B,C',T,H,W)."""
        if self.checkpointing and torch.is_grad_enabled():
            out: Tensor = checkpoint(self._forward, x, use_reentrant=False, preserve_rng_state=False)
            return out
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        hidden = norm_convolve(self.norm1, self.conv1, x)
        return norm_convolve(self.norm2, self.conv2, hidden) + self.shortcut(x)


def norm_convolve(norm: NormSiLU, conv: CausalConv3d, x: Tensor) -> Tensor:
    """conv(norm(x)), (B,C,T,H,W) -> (B,C',T,H,W); the norm writes into the convolution's padded input."""
    return conv.convolve(norm(x, history(x.shape[2])))


def middle(channels: int, attention: Sequence[bool]) -> nn.Sequential:
    """One residual block per entry of ``attention``, followed by a frame attention where the entry is true."""
    layers: list[nn.Module] = []
    for attend in attention:
        layers.append(ResidualBlock(channels, channels))
        if attend:
            layers.append(FrameAttention(channels))
    return nn.Sequential(*layers)
