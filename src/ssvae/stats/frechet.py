"""Fréchet distance between two Gaussians, stable and real for covariances of any rank.

    d² = |mean_a - mean_b|² + tr(A) + tr(B) - 2 tr((AB)^1/2)

The last trace is that of a symmetric matrix, so no complex square root can appear. Two ways, chosen by conditioning:
    well-conditioned   eigenvalues of LᵀBL with the Cholesky factor A = LLᵀ; its square roots sum to the trace
    any rank           singular values of F Gᵀ with factors A = FᵀF and B = GᵀG; nothing is squared on the way, so
                       no digit is lost on eigenvalues near 0. Eigenvectors give factors of a covariance; for fewer
                       samples than dimensions the centred samples are one, and no covariance is made.

Dimension legend: n m samples, D feature dimensions, r rank; factor (r,D).
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
    a, b = cov_a.double(), cov_b.double()
    cross = _well_conditioned_cross(a, b)
    if cross is None:
        cross = _factor_cross(_factor(a, "a"), _factor(b, "b"))
    return _assemble(mean_a.double(), mean_b.double(), a.trace() + b.trace(), cross)


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
    dim = a.shape[1]
    if len(a) > dim and len(b) > dim:
        moments_a, moments_b = _moments(a), _moments(b)
        return frechet_distance(moments_a.mean, moments_a.cov, moments_b.mean, moments_b.cov)
    mean_a, factor_a = _feature_factor(a, "a")
    mean_b, factor_b = _feature_factor(b, "b")
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
        return moments.mean, _factor(moments.cov, name)
    values = features.double().cpu()
    mean = values.mean(0)
    return mean, (values - mean) / (samples - 1) ** 0.5


def _factor(cov: Tensor, name: str) -> Tensor:
    """Rows √λ·u over the eigenpairs above rounding, (r,D): factorᵀ factor = cov."""
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
