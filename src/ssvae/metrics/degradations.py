"""Four ways to spoil a clip by a known amount: blur, noise, shuffled frames, frozen frames.

The probe distance is trained and tested against them: it must rise strictly with each level.

Dimension legend
    B batch, T frames, H W pixels   video (B,3,T,H,W) in [-1, 1]; levels and counts (B,), one a clip
"""

from __future__ import annotations

import torch
from torch import Tensor

DEGRADATIONS = ("blur", "noise", "shuffle", "freeze")


def blur(video: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur in space; sigma (B,) in pixels, 0 leaves a clip as it is. Kernels are renormalised at borders."""
    sigma = sigma.to(video)
    rows, columns = (_blur_matrix(sigma, size)[:, None, None] for size in video.shape[-2:])
    return rows @ video @ columns.transpose(-1, -2)


def add_noise(video: Tensor, sigma: Tensor, generator: torch.Generator) -> Tensor:
    """White noise of standard deviation sigma (B,), then clamped to [-1, 1]."""
    noise = torch.randn(video.shape, generator=generator, device=generator.device).to(video)
    return (video + sigma.to(video).reshape(-1, 1, 1, 1, 1) * noise).clamp(-1.0, 1.0)


def shuffle_frames(video: Tensor, counts: Tensor, generator: torch.Generator) -> Tensor:
    """Move ``counts`` (B,) random frames of each clip, every one to a place that is not its own; 0 and 1 move none.

    Disorder saturates when about two thirds of the frames have moved: from there on, more is not worse.
    """
    order = torch.arange(video.shape[2]).repeat(video.shape[0], 1)
    for row, count in enumerate(counts.tolist()):
        chosen = torch.randperm(video.shape[2], generator=generator)[: int(count)]
        order[row, chosen] = order[row, chosen.roll(1)]
    return _take_frames(video, order)


def freeze_frames(video: Tensor, counts: Tensor) -> Tensor:
    """The last ``counts`` (B,) frames repeat the frame before them; at most T - 1 can freeze."""
    frames = video.shape[2]
    if int(counts.max()) > frames - 1:
        raise ValueError(f"cannot freeze {int(counts.max())} of {frames} frames; at most {frames - 1}")
    order = torch.arange(frames).repeat(video.shape[0], 1)
    return _take_frames(video, torch.minimum(order, frames - 1 - counts.cpu().long()[:, None]))


def _take_frames(video: Tensor, order: Tensor) -> Tensor:
    """Frame order[b, t] of clip b at time t; order (B,T)."""
    return video[torch.arange(video.shape[0])[:, None], :, order].transpose(1, 2).contiguous()


def _blur_matrix(sigma: Tensor, size: int) -> Tensor:
    """(B,size,size) rows of Gaussian weights that sum to 1; the identity at sigma 0."""
    grid = torch.arange(size, device=sigma.device, dtype=sigma.dtype)
    distance = (grid[:, None] - grid[None, :])[None]
    weights = torch.exp(-0.5 * (distance / sigma.clamp_min(1e-3)[:, None, None]).square())
    return weights / weights.sum(dim=-1, keepdim=True)
