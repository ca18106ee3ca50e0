"""Latents as tokens of a diffusion transformer, and where each token lies.

Dimension legend
    B batch, C latent channels, F h w latent frames, height, width; (p_t,p_h,p_w) patch; N tokens = F/p_t·h/p_h·w/p_w
    P = C·p_t·p_h·p_w values of a patch, D width
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

Triple = tuple[int, int, int]


def patchify(x: Tensor, patch: Triple) -> Tensor:
    """(B,C,F,h,w) -> tokens (B,N,P); N runs over frames, then rows, then columns."""
    b, c, f, h, w = x.shape
    pt, ph, pw = patch
    blocks = x.reshape(b, c, f // pt, pt, h // ph, ph, w // pw, pw)
    return blocks.permute(0, 2, 4, 6, 1, 3, 5, 7).reshape(b, -1, c * pt * ph * pw)


def unpatchify(tokens: Tensor, grid: Triple, patch: Triple) -> Tensor:
    """Inverse of :func:`patchify`: tokens (B,N,P) -> (B,C,F,h,w) with (F,h,w) = ``grid``."""
    (f, h, w), (pt, ph, pw) = grid, patch
    b, c = tokens.shape[0], tokens.shape[2] // (pt * ph * pw)
    blocks = tokens.reshape(b, f // pt, h // ph, w // pw, c, pt, ph, pw)
    return blocks.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(b, c, f, h, w)


def sine_features(values: Tensor, features: int, max_period: float = 10_000.0) -> Tensor:
    """values (n,) -> (n, features): cosines then sines at geometric frequencies from 1 to 1/max_period."""
    half = features // 2
    frequencies = torch.exp(-math.log(max_period) * torch.arange(half, device=values.device) / max(half, 1))
    angles = values.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def position_features(counts: Triple, width: int, trained: Triple | None = None) -> Tensor:
    """(N, width): a share of the width for each of time, height, width, so that each axis has sines of its own.

    trained: tokens an axis of the grid that the weights were trained on. The coordinate i of an axis with n tokens
    becomes i·n_trained/n, so that a larger grid spans the range that the network knows (position interpolation, as
    PixArt-α does for higher resolutions, 2310.00426). None: plain coordinates 0, 1, 2, ...
    """
    share = width // 6 * 2
    shares = (width - 2 * share, share, share)
    axes = []
    for axis, (count, features) in enumerate(zip(counts, shares, strict=True)):
        places = torch.arange(count, dtype=torch.float32)
        if trained is not None:
            places = places * (trained[axis] / count)
        shape = [1, 1, 1, features]
        shape[axis] = count
        axes.append(sine_features(places, features).reshape(shape).expand(*counts, features))
    return torch.cat(axes, dim=-1).reshape(-1, width)


def triple(name: str, values: Sequence[int]) -> Triple:
    """Three positive counts, or ValueError."""
    if len(values) != 3 or min(values) < 1:
        raise ValueError(f"{name} must be three positive counts (frames, height, width), got {tuple(values)}")
    return int(values[0]), int(values[1]), int(values[2])


def join(values: Sequence[int], separator: str = "x") -> str:
    return separator.join(str(value) for value in values)


def token_counts(grid: Triple, patch: Triple, name: str = "latent grid") -> Triple:
    """Tokens an axis. Raises ValueError, naming a patch that fits, unless ``patch`` divides ``grid``."""
    if any(size % step for size, step in zip(grid, patch, strict=True)):
        fits = tuple(math.gcd(size, step) for size, step in zip(grid, patch, strict=True))
        raise ValueError(
            f"{name} {join(grid)} is not divisible by patch {join(patch)}; "
            f"a patch of {join(fits)} fits, or change the clip's size"
        )
    return grid[0] // patch[0], grid[1] // patch[1], grid[2] // patch[2]
