"""Causal 3-D convolution: an output frame sees its own frame and the two before it, never a later one.

Dimension legend
    B batch, C channels, T frames, H W pixels; T' = 1 + (T - 1)/s for a temporal stride s
    x (B,C,T,H,W) -> (B,C',T',H',W'), channels-last in memory where that is faster
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KERNEL = 3
"""Taps along time, height and width of every 3-D convolution of the network."""


class CausalConv3d(nn.Module):
    """3x3x3 convolution, zero padding in space, the first frame repeated twice before the clip in time.

    ``stride`` is (time, space). With temporal stride 2, T = 1 + 2k frames become 1 + k and the first frame
    still stands alone; with spatial stride 2 the zeros are one column on the right and one row below, which the
    official weights depend on. Source: official SSVAE code; initialisation is PyTorch's default for convolutions.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: tuple[int, int] = (1, 1), bias: bool = True
    ) -> None:
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, KERNEL, KERNEL, KERNEL))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Uniform within 1/sqrt(fan in), as ``nn.Conv3d`` does."""
        bound = 1.0 / math.sqrt(self.weight[0].numel())
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,T,H,W) -> (B,C',T',H',W')."""
        return self.convolve(repeat_first(x, history(x.shape[2])))

    def convolve(self, padded: Tensor) -> Tensor:
        """As ``forward``, for a clip that already has its ``history(T)`` repeated frames in front."""
        time, space = self.stride
        if space > 1:
            padded = F.pad(padded, (0, 1, 0, 1))
        border = 1 if space == 1 else 0
        if padded.shape[2] == 1:
            # All three taps see the same frame, so their kernels add up to one 2-D kernel (3x fewer operations).
            frame = F.conv2d(padded.squeeze(2), self.weight.sum(2), self.bias, stride=space, padding=border)
            return frame.unsqueeze(2)
        if _conv3d_is_slow(padded) and self.stride == (1, 1):
            return _stacked(padded, self.weight, self.bias)
        return F.conv3d(padded, self.weight, self.bias, stride=(time, space, space), padding=(0, border, border))


def history(frames: int) -> int:
    """Repeats of the first frame that a clip of ``frames`` frames needs in front; a single frame needs none."""
    return KERNEL - 1 if frames > 1 else 0


def repeat_first(x: Tensor, repeats: int) -> Tensor:
    """(B,C,T,H,W) -> (B,C,repeats+T,H,W): the first frame repeated before the clip."""
    return torch.cat([x[:, :, :1]] * repeats + [x], dim=2) if repeats else x


def _conv3d_is_slow(x: Tensor) -> bool:
    """Whether PyTorch would leave its fast CPU kernel at stride 1: one small clip (dispatch rule of torch 2.x)."""
    return x.device.type == "cpu" and x.shape[0] == 1 and x.shape[1] * x.shape[2] * x.shape[3] <= 20480


def _stacked(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The same convolution in two dimensions: the three time taps of an output frame become input channels."""
    frames = x.shape[2] - KERNEL + 1
    taps = [x[:, :, tap : tap + frames] for tap in range(KERNEL)]
    stacked = torch.cat(taps, dim=1).transpose(1, 2).flatten(0, 1)  # (B·T,3C,H,W)
    flat = F.conv2d(stacked, weight.transpose(1, 2).flatten(1, 2), bias, padding=1)
    return flat.unflatten(0, (x.shape[0], frames)).transpose(1, 2)
