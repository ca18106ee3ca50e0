"""The PatchGAN critic of frames and of clips, after the official SSVAE code (patchgan.py).

Dimension legend
    B batch, 3 colours, T frames, H W pixels              video (B,3,T,H,W), float, [-1, 1]; an image has T = 1
    n levels (halvings of height and width), m of them halve time as well
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from ssvae.models.conv import CausalConv3d

SLOPE = 0.2
WIDEST = 8
"""Channels double at every level up to this multiple of the width."""


class FrameCritic(nn.Module):
    """4x4 convolutions on each frame: n of stride 2, then two of stride 1; all but the last spectrally normalised.

    Only the first and the last convolution have a bias. Official: width 64, n = 4, 6,958,145 parameters.
    """

    def __init__(self, width: int, levels: int) -> None:
        super().__init__()
        widths = [width * min(2**level, WIDEST) for level in range(levels)]
        self.conv_in = spectral_norm(nn.Conv2d(3, width, 4, stride=2, padding=1))
        self.down = nn.ModuleList(
            spectral_norm(nn.Conv2d(fine, coarse, 4, stride=2, padding=1, bias=False))
            for fine, coarse in pairwise(widths)
        )
        self.conv_mid = spectral_norm(nn.Conv2d(widths[-1], widths[-1], 4, padding=1, bias=False))
        self.conv_out = nn.Conv2d(widths[-1], 1, 4, padding=1)

    def forward(self, video: Tensor) -> Tensor:
        """(B,3,T,H,W) -> logits (B,1,T,H/2^n - 2,W/2^n - 2)."""
        x = video.transpose(1, 2).flatten(0, 1)
        for conv in (self.conv_in, *self.down, self.conv_mid):
            x = F.leaky_relu(conv(x), SLOPE)
        return self.conv_out(x).unflatten(0, (video.shape[0], video.shape[2])).transpose(1, 2)


class ClipCritic(nn.Module):
    """3x3x3 causal convolutions: m of stride 2 in space and time, n - m of stride 2 on each frame, two of stride 1.

    All are spectrally normalised; only the first and the last have a bias. The causal ones repeat the first frame
    before the clip. Official: width 64, n = 4, m = 2, 8,792,705 parameters.
    """

    def __init__(self, width: int, levels: int, temporal_levels: int) -> None:
        super().__init__()
        widths = [width * min(2**level, WIDEST) for level in range(levels)]
        self.conv_in = spectral_norm(CausalConv3d(3, width, stride=(2, 2)))
        self.down = nn.ModuleList()
        for level in range(1, levels):
            fine, coarse = widths[level - 1], widths[level]
            conv: nn.Module
            if level < temporal_levels:
                conv = CausalConv3d(fine, coarse, stride=(2, 2), bias=False)
            else:
                conv = nn.Conv2d(fine, coarse, 3, stride=2, padding=1, bias=False)
            self.down.append(spectral_norm(conv))
        self.conv_mid = spectral_norm(CausalConv3d(widths[-1], widths[-1], bias=False))
        self.conv_out = spectral_norm(CausalConv3d(widths[-1], 1))

    def forward(self, video: Tensor) -> Tensor:
        """(B,3,T,H,W), T = 1 + 2^m·k -> logits (B,1,1 + k,H/2^n,W/2^n)."""
        x = F.leaky_relu(self.conv_in(video), SLOPE)
        for conv in self.down:
            x = F.leaky_relu(conv(x) if isinstance(conv, CausalConv3d) else _per_frame(conv, x), SLOPE)
        return self.conv_out(F.leaky_relu(self.conv_mid(x), SLOPE))


def _per_frame(conv: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    frames: Tensor = conv(x.transpose(1, 2).flatten(0, 1))
    return frames.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


class PatchCritic(nn.Module):
    """Both critics on the same clip; images go through the two of them alike.

    width: channels after the first convolution. levels: n >= 1; temporal_levels: 1 <= m <= n. Spectral norms come
    from one power iteration each training forward; evaluation leaves them as they are. Raises ValueError for levels
    that make no network.
    """

    def __init__(self, *, width: int = 64, levels: int = 4, temporal_levels: int = 2) -> None:
        super().__init__()
        if width < 1 or levels < 1 or not 1 <= temporal_levels <= levels:
            raise ValueError(
                f"critic width {width}, levels {levels}, temporal_levels {temporal_levels}: width and levels must be "
                "at least 1, temporal_levels must lie in [1, levels]"
            )
        self.levels, self.temporal_levels = levels, temporal_levels
        self.frames = FrameCritic(width, levels)
        self.clips = ClipCritic(width, levels, temporal_levels)

    @property
    def smallest_size(self) -> int:
        """Pixels a side below which the frame critic has no patch left."""
        return smallest_size(self.levels)

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """(B,3,T,H,W) -> logits of frames (B,1,T,·,·) and of the clip (B,1,T',·,·), float32 or wider.

        Raises ValueError for frames below :attr:`smallest_size`.
        """
        height, width = video.shape[3:]
        if min(height, width) < self.smallest_size:
            raise ValueError(
                f"the critic's {self.levels} levels need {self.smallest_size} pixels a side, "
                f"the clip has {height}x{width}: lower critic.levels, or take larger clips"
            )
        return _wide(self.frames(video)), _wide(self.clips(video))


def smallest_size(levels: int) -> int:
    """Pixels a side that leave the frame critic one patch: its last two convolutions take one row each."""
    return 3 * 2**levels


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


_RENAMES: tuple[tuple[str, str], ...] = (
    (r"^patchgan_2d\.input_layer\.0\.", "frames.conv_in."),
    (r"^patchgan_2d\.blocks\.(\d+)\.0\.", r"frames.down.\1."),
    (r"^patchgan_2d\.out_layer\.0\.", "frames.conv_mid."),
    (r"^patchgan_2d\.out_layer\.2\.", "frames.conv_out."),
    (r"^patchgan_3d\.conv_in\.0\.conv\.", "clips.conv_in."),
    (r"^patchgan_3d\.down_blocks\.(\d+)\.0\.(conv\.)?", r"clips.down.\1."),
    (r"^patchgan_3d\.out\.0\.conv\.", "clips.conv_mid."),
    (r"^patchgan_3d\.out\.2\.conv\.", "clips.conv_out."),
    (r"\.weight_orig$", ".parametrizations.weight.original"),
    (r"\.weight_(u|v)$", r".parametrizations.weight.0._\1"),
)


def official_to_ours(key: str) -> str:
    """Name in :class:`PatchCritic` of a tensor ``loss.discriminator.*`` of an official checkpoint, same shape."""
    key = key.removeprefix("loss.discriminator.")
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key
