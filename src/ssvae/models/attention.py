"""Self-attention among the pixels of one frame.

Dimension legend
    B batch, C channels, T frames, H W pixels, N = H·W tokens of a frame
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ssvae.models.norm import ChannelRMSNorm

FUSED_ABOVE = 1024
"""Tokens above which memory counts for more, on a CPU, than the last digit: a latent frame of 512 x 512 pixels."""


class FrameAttention(nn.Module):
    """Single-head attention within each frame, added to its input.

    Frames never see each other here, so temporal causality rests on the convolutions alone. The output
    projection starts at zero: the block begins as the identity. Source: official SSVAE code.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelRMSNorm(channels, axes=2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.proj.weight)
        assert self.proj.bias is not None
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,T,H,W) -> (B,C,T,H,W)."""
        b, c, t, h, w = x.shape
        frames = x.transpose(1, 2).reshape(b * t, c, h, w)
        qkv = self.to_qkv(self.norm(frames))
        query, key, value = qkv.flatten(2).transpose(1, 2).chunk(3, dim=-1)  # each (B·T,N,C)
        if x.is_cuda or h * w > FUSED_ABOVE:
            # Fused kernels, which never hold N x N numbers, want an axis of heads.
            query, key, value = query.unsqueeze(1), key.unsqueeze(1), value.unsqueeze(1)
        mixed = F.scaled_dot_product_attention(query, key, value)
        mixed = mixed.view(b * t, h * w, c).transpose(1, 2).reshape(b * t, c, h, w)
        return x + self.proj(mixed).reshape(b, t, c, h, w).transpose(1, 2)
