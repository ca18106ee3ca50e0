"""Fréchet distance between two Gaussians, stable and real for covariances of any rank.

    d² = |mean_a - mean_b|² + tr(A) + tr(B) - 2 tr((AB)^1/2)

The last trace is that of a symmetric matrix, so no complex square root can appear. Two ways, chosen by conditioning:
    well-conditioned   eigenvalues of LᵀBL with the Cholesky factor A = LLᵀ; its square roots sum to the trace
    any rank           singular values of F Gᵀ with factors A = FᵀF and B = GᵀG; nothing is squared on the way, so
                       no digit is lost on eigenvalues near 0. Eigenvectors give factors of a covariance; for fewer
                       samples than dimensions the centred samples are one, and no covariance is made.

The distance is a difference of sums, exact to about 1e-14 of tr(A) + tr(B): 1e-6 of itself as long as it is above 1e-8
of the traces. Equal Gaussians are at distance 0 exactly, by comparison.

Dimension legend: n m samples, D feature dimensions, r s ranks; factor (r,D).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssvae.stats.moments import StreamingMoments

CONDITION = 1e-10
"""Ratio of smallest to largest eigenvalue of the product above which the Cholesky way is taken."""


def frechet_distance(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """Squared 2-Wasserstein distance of N(mean_a, cov_a) and N(mean_b, cov_b) (FID, FVD and FDD report it so).

    mean (D,), cov (D,D), computed in float64. Raises ValueError for shapes that do not match, non-finite
    values, or a covariance that is not symmetric positive semi-definite.
    """
    _check_gaussian("a", mean_a, cov_a)
    _check_gaussian("b", mean_b, cov_b)
    if mean_a.shape != mean_b.shape:
        raise ValueError(f"dimensions differ: {mean_a.shape[0]} and {mean_b.shape[0]}; use one network for both sets")
    mean_a, mean_b, a, b = (value.double() for value in (mean_a, mean_b, cov_a, cov_b))
    if torch.equal(mean_a, mean_b) and torch.equal(a, b):
        return 0.0
    cross = _well_conditioned_cross(a, b)
    if cross is None:
        cross = _factor_cross(covariance_factor(a, "a"), covariance_factor(b, "b"))
    return _assemble(mean_a, mean_b, a.trace() + b.trace(), cross)


def frechet_from_features(a: Tensor, b: Tensor) -> float:
    """Fréchet distance of the Gaussians fitted to features a (n,D) and b (m,D), unbiased covariances, float64.

    Raises ValueError for fewer than 2 samples, different dimensions, or non-finite values.
    """
    for name, features in (("a", a), ("b", b)):
        if features.ndim != 2 or features.shape[0] < 2:
            raise ValueError(f"features {name} must be (n,D) with n >= 2 samples, got shape {tuple(features.shape)}")
        if not torch.isfinite(features).all():
            raise ValueError(f"features {name} contain NaN or infinite values")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"feature dimensions differ: {a.shape[1]} and {b.shape[1]}; use one network for both sets")
    a, b = a.double(), b.double()
    if torch.equal(a, b):
        return 0.0
    dim = a.shape[1]
    if len(a) > dim and len(b) > dim:
        moments_a, moments_b = _moments(a), _moments(b)
        return frechet_distance(moments_a.mean, moments_a.cov, moments_b.mean, moments_b.cov)
    return frechet_from_factors(*_feature_factor(a, "a"), *_feature_factor(b, "b"))


def frechet_from_factors(mean_a: Tensor, factor_a: Tensor, mean_b: Tensor, factor_b: Tensor) -> float:
    """Fréchet distance of N(mean_a, FᵀF) and N(mean_b, GᵀG), float64: no covariance is made, so any rank will do.

    mean (D,), factor_a (r,D), factor_b (s,D), see :func:`covariance_factor` and :func:`sample_factor`. Raises
    ValueError for shapes that do not match or non-finite values.
    """
    for name, mean, factor in (("a", mean_a, factor_a), ("b", mean_b, factor_b)):
        if mean.ndim != 1 or factor.ndim != 2 or factor.shape[1] != mean.shape[0]:
            raise ValueError(
                f"mean_{name} must be (D,) and factor_{name} (r,D), got {tuple(mean.shape)} and {tuple(factor.shape)}"
            )
        if not torch.isfinite(mean).all() or not torch.isfinite(factor).all():
            raise ValueError(f"mean_{name} or factor_{name} contains NaN or infinite values")
    if mean_a.shape != mean_b.shape:
        raise ValueError(f"dimensions differ: {mean_a.shape[0]} and {mean_b.shape[0]}; use one network for both sets")
    mean_a, factor_a, mean_b, factor_b = (value.double() for value in (mean_a, factor_a, mean_b, factor_b))
    if torch.equal(mean_a, mean_b) and torch.equal(factor_a, factor_b):
        return 0.0
    traces = factor_a.square().sum() + factor_b.square().sum()
    return _assemble(mean_a, mean_b, traces, _factor_cross(factor_a, factor_b))


def _assemble(mean_a: Tensor, mean_b: Tensor, traces: Tensor, cross: Tensor) -> float:
    distance = (mean_a - mean_b).square().sum() + traces - 2 * cross
    return max(0.0, float(distance))  # a distance; only rounding can be below 0


def _well_conditioned_cross(cov_a: Tensor, cov_b: Tensor) -> Tensor | None:
    """tr((AB)^1/2) through Cholesky, or None where small eigenvalues would cost digits."""
    root, failed = torch.linalg.cholesky_ex(cov_a)
    if failed:
        return None
    product = root.T @ cov_b @ root
    values = torch.linalg.eigvalsh((product + product.T) / 2)
    # Rounding of a value v is about eps·max, that of its root eps·max / (2 √v): below 1e-8 of the largest root here.
    if values[0] <= CONDITION * values[-1]:
        return None
    return values.sqrt().sum()


def _factor_cross(factor_a: Tensor, factor_b: Tensor) -> Tensor:
    """tr((AB)^1/2) as the sum of the singular values of the product of factors (r,D) and (s,D)."""
    if not len(factor_a) or not len(factor_b):
        return factor_a.new_zeros(())
    return torch.linalg.svdvals(factor_a @ factor_b.T).sum()


def _moments(features: Tensor) -> StreamingMoments:
    moments = StreamingMoments(features.shape[1])
    moments.update(features)
    return moments


def _feature_factor(features: Tensor, name: str) -> tuple[Tensor, Tensor]:
    samples, dim = features.shape
    if samples > dim:
        moments = _moments(features)
        return moments.mean, covariance_factor(moments.cov, name)
    return sample_factor(features)


def sample_factor(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (D,) and factor (n,D) of samples (n,D), n >= 2: factorᵀ factor is their unbiased covariance. On the CPU."""
    values = features.double().cpu()
    mean = values.mean(0)
    return mean, (values - mean) / (values.shape[0] - 1) ** 0.5


def covariance_factor(cov: Tensor, name: str) -> Tensor:
    """Factor (r,D) of a covariance (D,D): rows √λ·u over the eigenpairs above rounding; factorᵀ factor = cov, float64.

    name: of the covariance, for the ValueError where it is not positive semi-definite.
    """
    cov = cov.double()
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    largest = values.abs().max()
    # Rounding of eigh; its square root would be eight digits larger and show up in the singular values.
    noise = largest * cov.shape[0] * torch.finfo(torch.float64).eps
    # Inputs estimated in float32 carry negative eigenvalues of that size; anything larger is a mistake.
    if values[0] < -1e-4 * largest:
        raise ValueError(
            f"covariance {name} is not positive semi-definite: its smallest eigenvalue is {float(values[0]):.3g}"
        )
    keep = values > noise
    return values[keep].sqrt()[:, None] * vectors[:, keep].T


def _check_gaussian(name: str, mean: Tensor, cov: Tensor) -> None:
    if mean.ndim != 1 or cov.shape != (mean.shape[0], mean.shape[0]):
        raise ValueError(
            f"mean_{name} must be (D,) and cov_{name} (D,D), got {tuple(mean.shape)} and {tuple(cov.shape)}"
        )
    if not torch.isfinite(mean).all() or not torch.isfinite(cov).all():
        raise ValueError(
            f"mean_{name} or cov_{name} contains NaN or infinite values; a covariance needs at least 2 samples"
        )
    if not torch.allclose(cov, cov.T, rtol=1e-4, atol=1e-4 * float(cov.abs().max())):
        raise ValueError(f"cov_{name} is not symmetric")
