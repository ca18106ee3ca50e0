"""Fréchet distance from features, against scipy's general matrix square root of the product of covariances.

Dimension legend: n samples, D feature dimensions; features (n,D), float64.
"""

from __future__ import annotations

import torch

from ssvae.bench.naive import frechet_distance_naive
from ssvae.bench.pair import Pair
from ssvae.core.seeds import torch_generator
from ssvae.stats.frechet import frechet_from_features

CASES = {"frechet": (1024, 256), "frechet_few_samples": (100, 256)}
"""More samples than dimensions: covariances of full rank; fewer: rank-deficient ones, where the plain way loses digits."""


def pairs() -> list[Pair]:
    """One pair a case of :data:`CASES`."""
    return [frechet_pair(name, samples, dim) for name, (samples, dim) in CASES.items()]


def frechet_pair(name: str, samples: int, dim: int) -> Pair:
    """From two sets of correlated features to their distance."""
    generator = torch_generator(0, "bench/frechet", samples, dim)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64) / dim**0.5
    a, b = (torch.randn(samples, dim, generator=generator, dtype=torch.float64) for _ in range(2))
    a, b = a @ mixing, 1.3 * (b @ mixing.T) + 0.2

    def naive() -> float:
        return frechet_distance_naive(a.mean(0), torch.cov(a.T), b.mean(0), torch.cov(b.T))

    def difference() -> float:
        expected = naive()
        return abs(frechet_from_features(a, b) - expected) / abs(expected)

    return Pair(
        name=name,
        what=f"Fréchet distance of {samples} and {samples} samples in {dim} dimensions",
        reference="ssvae.bench.naive.frechet_distance_naive (scipy.linalg.sqrtm)",
        fast=lambda: frechet_from_features(a, b),
        naive=naive,
        difference=difference,
        # The square roots of eigenvalues that are 0 but for rounding (1e-16) come out as 1e-8 each in the plain way.
        tolerance=1e-8 if samples > dim else 1e-4,
    )
