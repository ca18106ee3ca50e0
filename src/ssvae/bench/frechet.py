"""Fréchet distance from features, against scipy's general matrix square root of the product of covariances.

Dimension legend: n samples, D feature dimensions; features (n,D), float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssvae.bench.naive import frechet_distance_naive
from ssvae.bench.pair import Pair
from ssvae.core.seeds import torch_generator
from ssvae.stats.frechet import frechet_from_features

CASES = {
    "frechet": (1024, 256, 0.5),
    "frechet_ill_conditioned": (1024, 256, 2.0),
    "frechet_few_samples": (100, 256, 0.5),
}
"""Samples, dimensions, and the power with which standard deviations fall over directions: covariances of full rank, of
full rank with variances over nine orders of magnitude, and (fewer samples than dimensions) rank-deficient ones."""


def pairs() -> list[Pair]:
    """One pair a case of :data:`CASES`."""
    return [frechet_pair(name, samples, dim, power) for name, (samples, dim, power) in CASES.items()]


def frechet_pair(name: str, samples: int, dim: int, power: float) -> Pair:
    """From two sets of features to their distance."""
    generator = torch_generator(0, "bench/frechet", samples, dim)
    a = _features(samples, dim, power, generator)
    b = 1.3 * _features(samples, dim, power, generator) + 0.2

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
        # Without (numerically) full rank, eigenvalues that are 0 but for rounding, 1e-16, have square roots of 1e-8.
        tolerance=1e-8 if samples > dim and power < 1 else 1e-4,
    )


def _features(samples: int, dim: int, power: float, generator: torch.Generator) -> Tensor:
    """Samples (n,D) with standard deviation k^-power along the k-th of D random orthogonal directions."""
    directions, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))
    scales = torch.arange(1, dim + 1, dtype=torch.float64) ** -power
    return torch.randn(samples, dim, generator=generator, dtype=torch.float64) * scales @ directions
