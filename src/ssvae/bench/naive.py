"""Readable references that the fast paths are measured against and tested with.

Each function does what its fast twin does, in the plainest way: loops and full matrices, no caching.
Dimension legend: B batch, C channels, F latent frames, H W latent pixels; latent (B,C,F,H,W).
"""

from __future__ import annotations

import torch
from torch import Tensor


def local_correlation_naive(mean: Tensor, window: tuple[int, int, int] = (2, 2, 2)) -> Tensor:
    """Scalar local correlation (first + video)/2 of a posterior mean, through each window's N x N matrix.

    The reference of :func:`ssvae.stats.local_corr.local_correlation`; channel statistics are detached.
    """
    axes = (0, 2, 3, 4)
    detached = mean.detach()
    standard = (mean - detached.mean(axes, keepdim=True)) / (detached.std(axes, keepdim=True) + 1e-6)
    first = _pair_mean(standard[:, :, :1], (1, window[1], window[2]))
    if mean.shape[2] == 1:
        return first
    return (first + _pair_mean(standard[:, :, 1:], window)) / 2


def _pair_mean(latent: Tensor, window: tuple[int, int, int]) -> Tensor:
    batch, channels, frames, height, width = latent.shape
    t, h, w = window
    split = latent.reshape(batch, channels, frames // t, t, height // h, h, width // w, w)
    vectors = split.permute(0, 2, 4, 6, 3, 5, 7, 1).reshape(-1, t * h * w, channels)
    vectors = vectors - vectors.mean(dim=-1, keepdim=True)
    vectors = vectors / (vectors.norm(dim=-1, keepdim=True) + 1e-8)
    similarity = vectors @ vectors.transpose(1, 2)
    rows, columns = torch.triu_indices(t * h * w, t * h * w, offset=1, device=latent.device)
    return similarity[:, rows, columns].mean()


def dct3_naive(x: Tensor) -> Tensor:
    """Orthonormal DCT-II over the last three axes, from the definition, one cosine sum an output."""
    for axis in (-3, -2, -1):
        size = x.shape[axis]
        grid = torch.arange(size, dtype=x.dtype, device=x.device)
        rows = []
        for frequency in range(size):
            scale = (1 / size) ** 0.5 if frequency == 0 else (2 / size) ** 0.5
            cosine = scale * torch.cos(torch.pi * (2 * grid + 1) * frequency / (2 * size))
            rows.append((x.movedim(axis, -1) * cosine).sum(-1))
        x = torch.stack(rows, dim=-1).movedim(-1, axis)
    return x


def frechet_distance_naive(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Fréchet distance of two Gaussians through scipy's general matrix square root (the textbook form)."""
    from scipy.linalg import sqrtm

    a, b = cov_a.double().numpy(), cov_b.double().numpy()
    root = sqrtm(a @ b).real
    difference = (mean_a - mean_b).double()
    return float(difference @ difference) + float(a.trace() + b.trace() - 2 * root.trace())


def eigenspectrum_naive(latent: Tensor) -> Tensor:
    """Channel eigenvalues of (N,C,...) by a full singular value decomposition of all positions, float64."""
    flat = latent.double().movedim(1, -1).reshape(-1, latent.shape[1])
    centred = flat - flat.mean(0)
    return torch.linalg.svdvals(centred).square() / (flat.shape[0] - 1)
