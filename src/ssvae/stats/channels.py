"""Channel eigenspectrum of latents: how many channel modes carry the variance.

SSVAE (arXiv 2512.05394) calls a spectrum dominated by few eigenvalues "few-mode bias" and links it to faster
diffusion training; the published plot is the cumulative explained variance. Eigenvalues come from a float64
covariance: float32 shortcuts get the small ones wrong several times over.

Dimension legend: N clips, C channels, any further axes are positions; latent (N,C,...).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssvae.core.shapes import check_ndim
from ssvae.stats.moments import channel_moments


def eigenspectrum(latent: Tensor, normalize: bool = False) -> Tensor:
    """Eigenvalues (C,) of the unbiased channel covariance of (N,C,...), descending, float64, >= 0.

    normalize: of the channel correlation matrix instead, i.e. of per-channel-normalised latents (constant
    channels then contribute 0). Raises ValueError for fewer than 2 positions or non-finite values.
    """
    return covariance_eigenspectrum(channel_moments(latent).cov, normalize)


def covariance_eigenspectrum(cov: Tensor, normalize: bool = False) -> Tensor:
    """Eigenvalues (C,) of a covariance (C,C), descending, float64, rounding below 0 cut off."""
    check_ndim("cov", cov.shape, 2, "(C,C)")
    matrix = cov.double()
    if normalize:
        std = matrix.diagonal().clamp_min(0).sqrt()
        inverse = torch.where(std > 0, 1 / std, torch.zeros_like(std))
        matrix = matrix * inverse[:, None] * inverse[None, :]
    return torch.linalg.eigvalsh(matrix).flip(0).clamp_min(0)


def explained_variance(eigenvalues: Tensor) -> Tensor:
    """Cumulative shares (C,) in [0, 1] of eigenvalues (C,): entry k - 1 is what the first k explain.

    Raises ValueError unless the eigenvalues are finite, non-negative, descending and not all 0.
    """
    values = _checked(eigenvalues)
    if (values[1:] > values[:-1]).any():
        raise ValueError("eigenvalues must be in descending order: sort them with descending=True")
    sums = values.cumsum(0)
    return sums / sums[-1]


def participation_ratio(eigenvalues: Tensor) -> float:
    """Effective number of modes (Σλ)² / Σλ², from 1 (one mode) to C (all equal)."""
    values = _checked(eigenvalues)
    shares = values / values.sum()  # shares first: squares of raw eigenvalues may overflow or vanish
    return float(1 / shares.square().sum())


def _checked(eigenvalues: Tensor) -> Tensor:
    check_ndim("eigenvalues", eigenvalues.shape, 1, "(C,)")
    values = eigenvalues.double()
    if not torch.isfinite(values).all() or (values < 0).any():
        raise ValueError("eigenvalues must be finite and non-negative")
    if values.sum() <= 0:
        raise ValueError("all eigenvalues are 0: the latents are constant, shares of their variance do not exist")
    return values
