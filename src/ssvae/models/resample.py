"""Resampling by two, in space or in space and time, with parameter-free shortcuts (DC-AE, arXiv 2410.10733).

Dimension legend
    B batch, C C' channels in and out, T frames, H W pixels; r = 1 or 2 the factor in time, 2 in space
    down: (B,C,T,H,W) -> (B,C',T',H/2,W/2), T' = 1 + (T-1)/r
    up:   (B,C,T,H,W) -> (B,C',T',2H,2W),   T' = 1 + (T-1)·r
    A "cell" is the r·2·2 fine positions that belong to one coarse position.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssvae.models.conv import KERNEL, CausalConv3d, repeat_first

FACTOR = 2


class Downsample(nn.Module):
    """Stride-2 convolution plus :func:`unshuffle_average`. Spatial only: a 2-D kernel on each frame."""

    def __init__(self, in_channels: int, out_channels: int, *, temporal: bool) -> None:
        super().__init__()
        self.time = FACTOR if temporal else 1
        self.out_channels = out_channels
        self.conv: nn.Module
        if temporal:
            self.conv = CausalConv3d(in_channels, out_channels, stride=(FACTOR, FACTOR))
        else:
            self.conv = nn.Conv2d(in_channels, out_channels, 3, stride=FACTOR)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,T,H,W) -> (B,C',T',H/2,W/2)."""
        shortcut = unshuffle_average(x, self.out_channels, time=self.time)
        if self.time > 1:
            return self.conv(x) + shortcut
        frames = self.conv(F.pad(x.transpose(1, 2).flatten(0, 1), (0, 1, 0, 1)))
        return frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2) + shortcut


class Upsample(nn.Module):
    """Nearest-neighbour repeat, causal 3x3x3 convolution, plus :func:`add_duplicated`.

    Repeat and convolution are computed as one transposed convolution on the small grid, with 2.25x (space) or
    3.4x (space and time) fewer operations and equal results: on a repeated signal neighbouring taps see the same
    value, so their kernels add up (:func:`merge_taps`).
    """

    def __init__(self, in_channels: int, out_channels: int, *, temporal: bool) -> None:
        super().__init__()
        self.time = FACTOR if temporal else 1
        self.out_channels = out_channels
        self.conv = CausalConv3d(in_channels, out_channels)
        # One repeat on the small grid stands for the two frames before the clip on the large one.
        self.reach = 1 if temporal else KERNEL - 1

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,T,H,W) -> (B,C',T',2H,2W)."""
        padded = repeat_first(x, self.reach if x.shape[2] > 1 else 0)
        # With r = 2 the repeated signal starts one frame early; dropping that one lets the first frame stand alone.
        return self.refine(padded, x)[:, :, self.time - 1 :]

    def refine(self, padded: Tensor, x: Tensor) -> Tensor:
        """(B,C,p+T,H,W), (B,C,T,H,W) -> (B,C',rT,2H,2W); at the start of a clip with r = 2 one frame too many.

        padded: ``x`` behind the p = ``reach`` frames before it, or a single first frame alone.
        """
        return add_duplicated(self._repeat_and_convolve(padded), x, time=self.time)

    def _repeat_and_convolve(self, padded: Tensor) -> Tensor:
        """(B,C,p+T,H,W) -> (B,C',rT,2H,2W)."""
        kernel = merge_taps(merge_taps(self.conv.weight.transpose(0, 1), 3), 4)  # (C,C',3,4,4)
        if padded.shape[2] == 1:
            frame = F.conv_transpose2d(padded.squeeze(2), kernel.sum(2), self.conv.bias, stride=FACTOR, padding=1)
            return frame.unsqueeze(2).expand(-1, -1, self.time, -1, -1)
        if self.time == 1:
            return F.conv_transpose3d(
                padded, kernel.flip(2), self.conv.bias, stride=(1, FACTOR, FACTOR), padding=(2, 1, 1)
            )
        return F.conv_transpose3d(padded, merge_taps(kernel, 2), self.conv.bias, stride=FACTOR, padding=(2, 1, 1))


def merge_taps(kernel: Tensor, axis: int) -> Tensor:
    """3 taps on a signal repeated by two -> 4 taps of the transposed stride-2 convolution along ``axis``.

    Fine position 2i sees coarse i-1, i, i and 2i+1 sees i, i, i+1, hence taps (k2, k1+k2, k0+k1, k0).
    """
    k0, k1, k2 = kernel.unbind(axis)
    return torch.stack((k2, k1 + k2, k0 + k1, k0), axis)


def unshuffle_average(x: Tensor, out_channels: int, *, time: int, start: bool = True) -> Tensor:
    """Shortcut of a downsampling: each cell becomes channels, groups of neighbouring channels are averaged.

    Channel order within a position: (C, r, 2, 2), last fastest. Time is padded in front with *zeros*, while the
    convolution beside it repeats the first frame; the official weights were trained that way. start: whether ``x``
    begins the clip; a later piece of it is not padded and has r·T' frames.
    (B,C,T,H,W) -> (B,C',T',H/2,W/2).
    """
    b, c, t, h, w = x.shape
    group = size = c * time * FACTOR**2 // out_channels
    cells = x.permute(0, 2, 3, 4, 1).reshape(b, t, h // FACTOR, FACTOR, w // FACTOR, FACTOR, c)
    for axis in (5, 3):
        # Groups cover the fastest positions first; summing whole axes keeps channels innermost in memory.
        if group >= FACTOR:
            group //= FACTOR
            cells = cells.sum(axis, keepdim=True)
    if time > 1 and start:
        cells = F.pad(cells, (0, 0) * 5 + (time - 1, 0))
    cells = cells.unflatten(1, (-1, time))  # (B,T',r,H/2,2 or 1,W/2,2 or 1,C)
    if time > 1 and group >= FACTOR:
        group //= FACTOR
        cells = cells.sum(2, keepdim=True)
    cells = cells.permute(0, 1, 3, 5, 7, 2, 4, 6).flatten(4)  # (B,T',H/2,W/2, channels and positions left)
    if group > 1:
        cells = cells.unflatten(4, (out_channels, group)).sum(5)
    return cells.permute(0, 4, 1, 2, 3) / size


def add_duplicated(fine: Tensor, x: Tensor, *, time: int) -> Tensor:
    """Shortcut of an upsampling, added to ``fine``: repeated channels of ``x`` fill each cell as (C', r, 2, 2).

    fine (B,C',rT,2H,2W), x (B,C,T,H,W) -> (B,C',rT,2H,2W). The repeats are broadcast, never written to memory.
    """
    b, out_channels, frames, height, width = fine.shape
    repeats = out_channels * time * FACTOR**2 // x.shape[1]
    shape = [time, FACTOR, FACTOR]
    for axis in (2, 1, 0):
        # Repeats cover the fastest positions first: along those the cell is constant.
        if repeats >= shape[axis] > 1:
            repeats //= shape[axis]
            shape[axis] = 1
    source = x.permute(0, 2, 3, 4, 1)
    if repeats > 1:
        source = source.repeat_interleave(repeats, dim=4)
    source = source.unflatten(4, (out_channels, *shape)).permute(0, 1, 5, 2, 6, 3, 7, 4)
    # Two broadcasts of one axis each: their gradients are two single-axis sums, 6x faster than one sum over both.
    source = source.expand(-1, -1, -1, -1, -1, -1, FACTOR, -1)
    cells = fine.permute(0, 2, 3, 4, 1).unflatten(3, (-1, FACTOR)).unflatten(2, (-1, FACTOR)).unflatten(1, (-1, time))
    total = cells + source  # (B,T,r,H,2,W,2,C')
    return total.reshape(b, frames, height, width, out_channels).permute(0, 4, 1, 2, 3)
