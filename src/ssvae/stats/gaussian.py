"""Kullback-Leibler divergence of diagonal Gaussians to the standard normal, in nats.

Dimension legend: B batch, C channels, F latent frames, h w latent pixels; mean, logvar (B,C,F,h,w) or any (B,...).
"""

from __future__ import annotations

import torch
from torch import Tensor


def kl_elementwise(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mean, exp(logvar)) ‖ N(0,1)) of every element, same shape, nats, >= 0 up to rounding."""
    if mean.shape != logvar.shape:
        raise ValueError(f"mean {tuple(mean.shape)} and logvar {tuple(logvar.shape)} must have the same shape")
    # expm1(v) - v keeps its digits where the variance is close to 1; exp(v) - 1 - v does not.
    return 0.5 * (mean.square() + torch.expm1(logvar) - logvar)


def kl_sum(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL per sample (B,), summed over all other axes; the official SSVAE loss is its mean over B."""
    return kl_elementwise(mean, logvar).flatten(1).sum(1)


def kl_per_dimension(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL per sample and latent dimension (B,): :func:`kl_sum` divided by the number of dimensions, in nats."""
    return kl_elementwise(mean, logvar).flatten(1).mean(1)
