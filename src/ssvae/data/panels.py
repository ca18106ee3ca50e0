"""Pictures of how far a reconstruction is off, and pictures side by side.

Dimension legend
    t frames, 3 colours, H W pixels    video, recon (1,3,t,H,W) in [-1, 1]; frames, panels (t,3,H,W) uint8
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ssvae.data.pixels import to_uint8

FULL_ERROR = 0.25
"""Absolute difference on the scale [0, 1], mean over colours, that is shown white; a fixed one compares clips."""
ERROR_MAP = "mean over colours of |reconstruction - original|: black 0, red 1/12, yellow 1/6, white 1/4 and more of 1"


def to_frames(video: Tensor) -> Tensor:
    """(1,3,t,H,W) in [-1, 1], clamped, of any float type -> (t,3,H,W) uint8 on the CPU."""
    return to_uint8(video[0].float().clamp(-1, 1)).transpose(0, 1).cpu()


def error_frames(recon: Tensor, video: Tensor) -> Tensor:
    """Error of every pixel as a colour between black, red, yellow and white, (t,3,H,W) uint8; recon is clamped.

    See :data:`ERROR_MAP`.
    """
    off = (recon.clamp(-1, 1).float() - video.to(recon.device).float()).abs().mean(1)[0] / 2  # (t,H,W) in [0, 1]
    heat = 3 * (off / FULL_ERROR).clamp_max(1)
    return torch.stack([(heat - colour).clamp(0, 1) for colour in range(3)], dim=1).mul(255).round().byte().cpu()


def side_by_side(panels: Sequence[Tensor]) -> Tensor:
    """Panels (t,3,H,W) of one size, left to right -> (t,3,H,n·W)."""
    return torch.cat(list(panels), dim=3)
