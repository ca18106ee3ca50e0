"""Local correlation, forward and backward, against each window's N x N similarity matrix.

Dimension legend: latent (B,C,F,h,w), float32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssvae.bench.naive import local_correlation_naive
from ssvae.bench.pair import Pair, relative_difference
from ssvae.core.seeds import torch_generator
from ssvae.stats.local_corr import local_correlation

SHAPES = {"local_corr": (8, 48, 3, 8, 8), "local_corr_256p": (4, 48, 5, 16, 16)}
"""Latents of the CPU default, and of 17 frames of 256 x 256 pixels at the published compression."""


def pairs() -> list[Pair]:
    """One pair a shape of :data:`SHAPES`."""
    return [correlation_pair(name, shape) for name, shape in SHAPES.items()]


def correlation_pair(name: str, shape: tuple[int, int, int, int, int]) -> Pair:
    """Value and gradient of the local correlation of a random latent (B,C,F,h,w) in windows of (2,2,2)."""
    noise = torch.randn(shape, generator=torch_generator(0, "bench/local_corr"))
    # Neighbours that resemble each other, as in a real latent: the value is then far from 0.
    latent = (noise + noise.mean((3, 4), keepdim=True) * 8).requires_grad_()

    def run(correlation: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        value = correlation(latent)
        (gradient,) = torch.autograd.grad(value, latent)
        return value, gradient

    def fast() -> tuple[Tensor, Tensor]:
        return run(lambda x: local_correlation(x, (2, 2, 2)).mean)

    def naive() -> tuple[Tensor, Tensor]:
        return run(lambda x: local_correlation_naive(x, (2, 2, 2)))

    def difference() -> float:
        return max(relative_difference(ours, theirs) for ours, theirs in zip(fast(), naive(), strict=True))

    return Pair(
        name=name,
        what=f"local correlation and its gradient, latent {'x'.join(map(str, shape))}",
        reference="ssvae.bench.naive.local_correlation_naive",
        fast=fast,
        naive=naive,
        difference=difference,
        tolerance=1e-4,
    )
