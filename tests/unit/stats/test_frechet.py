from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from ssvae.stats.frechet import (
    covariance_factor,
    frechet_distance,
    frechet_from_factors,
    frechet_from_features,
    sample_factor,
)
from ssvae.stats.moments import StreamingMoments


def features(n: int, dim: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64) / dim**0.5
    return scale * torch.randn(n, dim, generator=generator, dtype=torch.float64) @ mixing + seed


def gaussian(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.mean(0), torch.from_numpy(np.cov(x.numpy(), rowvar=False))


def by_sqrtm(a: torch.Tensor, b: torch.Tensor) -> float:
    (mean_a, cov_a), (mean_b, cov_b) = gaussian(a), gaussian(b)
    root = sqrtm(cov_a.numpy() @ cov_b.numpy())
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * np.trace(root).real)


def test_agrees_with_scipy_on_well_conditioned_covariances() -> None:
    a, b = features(400, 24, 0), features(300, 24, 1, 1.5)
    expected = by_sqrtm(a, b)
    assert frechet_distance(*gaussian(a), *gaussian(b)) == pytest.approx(expected, rel=1e-6)
    assert frechet_from_features(a, b) == pytest.approx(expected, rel=1e-6)


def test_closed_form_for_commuting_covariances() -> None:
    a, b = torch.tensor([4.0, 1.0, 0.0]), torch.tensor([1.0, 9.0, 0.25])
    mean = torch.tensor([1.0, -2.0, 0.0])
    # |mean|² + sum (√a - √b)²; one zero eigenvalue sends it down the any-rank way
    expected = 5.0 + 1.0 + 4.0 + 0.25
    assert frechet_distance(mean, a.diag(), torch.zeros(3), b.diag()) == pytest.approx(expected, rel=1e-12)
    full = frechet_distance(mean, (a + 1).diag(), torch.zeros(3), b.diag())
    assert full == pytest.approx(5.0 + float(((a + 1).sqrt() - b.sqrt()).double().square().sum()), rel=1e-6)


@pytest.mark.parametrize("n, m", [(10, 15), (10, 200), (200, 10), (33, 32)])
def test_fewer_samples_than_dimensions_agrees_with_the_covariance_route(n: int, m: int) -> None:
    a, b = features(n, 32, 2), features(m, 32, 3)
    direct = frechet_from_features(a, b)
    assert direct == pytest.approx(frechet_distance(*gaussian(a), *gaussian(b)), rel=1e-9)
    # independent: √ of the eigenvalues of the covariance product, whose noise is eps^1/2 here
    product = np.linalg.eigvals(gaussian(a)[1].numpy() @ gaussian(b)[1].numpy())
    (mean_a, cov_a), (mean_b, cov_b) = gaussian(a), gaussian(b)
    roots = np.sqrt(np.clip(product.real, 0, None)).sum()
    expected = float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace()) - 2 * roots
    assert direct == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("dim", [4, 64, 160])
@pytest.mark.parametrize("offset, scale", [(0.0, 1.0), (3.0, 1.0), (0.0, 1e-3), (0.1, 1e4)])
def test_agrees_with_scipy_over_dimensions_and_scales(dim: int, offset: float, scale: float) -> None:
    a, b = scale * features(4 * dim, dim, 0), scale * (1.2 * features(3 * dim, dim, 1) + offset)
    expected = by_sqrtm(a, b)
    assert frechet_from_features(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(*gaussian(a), *gaussian(b)) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dim, rank", [(6, 2), (64, 20), (300, 40)])
def test_rank_deficient_covariances_at_known_angles(dim: int, rank: int) -> None:
    """Exact for any rank: A = sum a_i u_i u_iᵀ and B = sum b_i v_i v_iᵀ, where u_i and v_j are orthogonal unless i = j,
    have tr((AB)^1/2) = sum √(a_i b_i) |cos θ_i|. They neither commute nor share a range."""
    generator = torch.Generator().manual_seed(dim)
    rotation = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64))[0]
    angle = torch.linspace(0.0, torch.pi / 2, rank, dtype=torch.float64)
    u, w = rotation[:, :rank], rotation[:, rank : 2 * rank]
    v = u * angle.cos() + w * angle.sin()
    a, b = torch.logspace(0, -6, rank, dtype=torch.float64), torch.logspace(-5, 1, rank, dtype=torch.float64)
    mean = torch.randn(dim, generator=generator, dtype=torch.float64)
    zero = torch.zeros(dim, dtype=torch.float64)
    expected = float(mean.square().sum() + a.sum() + b.sum() - 2 * ((a * b).sqrt() * angle.cos()).sum())
    cov_a, cov_b = (u * a) @ u.T, (v * b) @ v.T
    assert frechet_distance(mean, cov_a, zero, cov_b) == pytest.approx(expected, rel=1e-6)
    assert frechet_from_factors(mean, (u * a.sqrt()).T, zero, (v * b.sqrt()).T) == pytest.approx(expected, rel=1e-12)
    # One of full rank beside one that is not: B + I/2 turns the square root into one of a 2-D block for each angle.
    full = cov_b + 0.5 * torch.eye(dim, dtype=torch.float64)
    cross = (a * (b * angle.cos().square() + 0.5)).sqrt().sum()
    expected = float(mean.square().sum() + a.sum() + b.sum() + 0.5 * dim - 2 * cross)
    assert frechet_distance(mean, cov_a, zero, full) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(zero, full, mean, cov_a) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("epsilon", [1e-1, 1e-3])
def test_a_small_distance_between_large_covariances_keeps_its_digits(epsilon: float) -> None:
    mean, cov = gaussian(features(400, 48, 3, 50.0))
    expected = epsilon**2 * float(cov.trace())  # (1 + ε)² cov against cov
    assert frechet_distance(mean, (1 + epsilon) ** 2 * cov, mean, cov) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("n", [5, 32, 500])
def test_identical_sets_are_at_distance_zero(n: int) -> None:
    a = features(n, 32, 4, 100.0)
    assert frechet_from_features(a, a.clone()) == 0.0
    assert frechet_distance(*gaussian(a), *gaussian(a)) == 0.0
    assert frechet_from_factors(*sample_factor(a), *sample_factor(a)) == 0.0
    # In another order they are equal but for rounding.
    assert frechet_from_features(a, a.flip(0)) <= 1e-11 * float(gaussian(a)[1].trace())


def test_dtypes_may_differ() -> None:
    a, b = features(30, 4, 1).float(), features(30, 4, 2)
    expected = frechet_from_features(a.double(), b)
    assert frechet_from_features(a, b) == expected
    assert frechet_distance(*gaussian(a.double()), *(x.float() for x in gaussian(b))) == pytest.approx(
        expected, rel=1e-4
    )


def test_factors_are_factors() -> None:
    mean, factor = sample_factor(features(7, 12, 5))
    expected_mean, cov = gaussian(features(7, 12, 5))
    torch.testing.assert_close(mean, expected_mean)
    torch.testing.assert_close(factor.T @ factor, cov)
    back = covariance_factor(cov, "c")
    assert back.shape == (6, 12)  # 7 samples span 6 directions around their mean
    torch.testing.assert_close(back.T @ back, cov)


def test_bad_factors_are_refused() -> None:
    mean, factor = torch.zeros(3), torch.eye(3)
    for a, b, words in (
        ((mean, torch.eye(4)), (mean, factor), r"factor_a \(r,D\)"),
        ((mean, factor), (mean, factor * float("nan")), "factor_b contains NaN"),
        ((mean, factor), (torch.zeros(2), torch.eye(2)), "dimensions differ"),
    ):
        with pytest.raises(ValueError, match=words):
            frechet_from_factors(*a, *b)


@pytest.mark.parametrize("smallest", [-7, -14])
def test_ill_conditioned_covariances_keep_their_digits(smallest: int) -> None:
    """Eigenvalues from 1 down to where the product of the two matrices drowns them in rounding."""
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64))[0]
    values = torch.logspace(0, smallest, 16, dtype=torch.float64)
    small = rotation @ values.diag() @ rotation.T
    mean = torch.zeros(16, dtype=torch.float64)
    expected = float(values.sum())  # sum of (2√v - √v)²
    assert frechet_distance(mean, small, mean, 4 * small) == pytest.approx(expected, rel=1e-11)


def test_zero_covariance_leaves_means_and_one_trace() -> None:
    zero, eye = torch.zeros(3, 3), torch.eye(3)
    assert frechet_distance(torch.ones(3), zero, torch.zeros(3), eye) == pytest.approx(6.0)
    assert frechet_distance(torch.ones(3), zero, torch.ones(3), zero) == 0.0


def test_symmetric_and_invariant_under_rotation() -> None:
    a, b = features(100, 8, 6), features(90, 8, 7)
    rotation = torch.linalg.qr(features(8, 8, 8))[0]
    forward = frechet_from_features(a, b)
    assert frechet_from_features(b, a) == pytest.approx(forward, rel=1e-10)
    assert frechet_from_features(a @ rotation, b @ rotation) == pytest.approx(forward, rel=1e-9)


def test_streamed_moments_give_the_same_distance() -> None:
    a, b = features(101, 8, 9), features(90, 8, 10)
    moments = StreamingMoments(8)
    for part in a.split(7):
        moments.update(part)
    assert frechet_distance(moments.mean, moments.cov, *gaussian(b)) == pytest.approx(
        frechet_from_features(a, b), rel=1e-9
    )


@pytest.mark.parametrize(
    "a, b, words",
    [
        (torch.zeros(1, 3), torch.zeros(5, 3), "n >= 2"),
        (torch.zeros(5, 3), torch.zeros(5, 4), "dimensions differ"),
        (torch.zeros(5, 3), torch.full((5, 3), float("nan")), "NaN"),
        (torch.zeros(5), torch.zeros(5, 3), "n,D"),
    ],
)
def test_bad_features_are_refused(a: torch.Tensor, b: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        frechet_from_features(a, b)


@pytest.mark.parametrize(
    "mean, cov, words",
    [
        (torch.zeros(4), torch.eye(4), "dimensions differ"),
        (torch.zeros(3), torch.eye(4), "D,D"),
        (torch.zeros(3), torch.eye(3) * float("inf"), "NaN or infinite"),
        (torch.zeros(3), torch.ones(3, 3).triu(), "symmetric"),
        (torch.zeros(3), -torch.eye(3), "positive semi-definite"),
    ],
)
def test_bad_gaussians_are_refused(mean: torch.Tensor, cov: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        frechet_distance(mean, cov, torch.zeros(3), torch.eye(3))
