"""VIV: the closed form against quadrature, the fit against covariances that are separable exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from ssvae.stats.viv import (
    WHOLE_SPACE,
    SeparableCovariance,
    VelocityVariance,
    position_factors,
    velocity_variance,
    velocity_variance_at,
)

CHANNELS, GRID = 3, (2, 2, 2)
SIZES = (3, 2, 4)


def covariance(size: int, seed: int) -> np.ndarray:
    """Positive definite, of mean eigenvalue 1."""
    root = np.random.default_rng(seed).normal(size=(size, size)) + 1.5 * np.eye(size)
    matrix = root @ root.T
    return matrix * size / np.trace(matrix)


def planted() -> tuple[list[np.ndarray], torch.Tensor]:
    """Factors (channel, time, space), and clips whose unbiased sample covariance is their Kronecker product exactly."""
    factors = [covariance(size, seed) for seed, size in enumerate(SIZES)]
    factors[0] = factors[0] / np.sqrt(np.outer(np.diag(factors[0]), np.diag(factors[0])))  # as if normalised already
    whole = np.kron(np.kron(factors[0], factors[1]), factors[2])
    root = np.linalg.cholesky(whole)
    clips = np.concatenate([root.T, -root.T])
    scale = math.sqrt((len(clips) - 1) / 2)
    offset = np.random.default_rng(9).normal(size=len(whole)) * 5  # a mean of its own for every dimension
    return factors, torch.from_numpy(clips * scale + offset).reshape(len(clips), CHANNELS, *GRID)


def fitted(latent: torch.Tensor, std: torch.Tensor | None = None, pieces: int = 1) -> VelocityVariance:
    fit = SeparableCovariance(latent.shape[1], (latent.shape[2], latent.shape[3], latent.shape[4]))
    for part in latent.chunk(pieces):
        fit.update(part)
    for part in latent.chunk(pieces):
        fit.refine(part)
    return fit.compute(std if std is not None else torch.ones(latent.shape[1]))


def converged(latent: torch.Tensor, rounds: int = 30) -> list[np.ndarray]:
    """Flip-flop to its end by dense algebra: (channel, time, space), scale in the first."""
    x = latent.numpy().reshape(len(latent), *SIZES)
    x = x - x.mean(0)
    factors = [np.eye(size) for size in SIZES]
    for _ in range(rounds):
        for axis, size in enumerate(SIZES):
            others = [np.linalg.inv(factor) if place != axis else np.eye(size) for place, factor in enumerate(factors)]
            weighted = np.einsum("nabc,ax,by,cz->nxyz", x, *others, optimize=True)
            left = np.moveaxis(weighted, axis + 1, 0).reshape(size, -1)
            right = np.moveaxis(x, axis + 1, 0).reshape(size, -1)
            factors[axis] = left @ right.T / ((len(x) - 1) * math.prod(SIZES) / size)
    for axis in (1, 2):
        scale = np.trace(factors[axis]) / SIZES[axis]
        factors[axis] = factors[axis] / scale
        factors[0] = factors[0] * scale
    return factors


def test_the_closed_form_is_the_integral_over_time() -> None:
    eigenvalues = torch.tensor([7.0, 2.5, 1.0, 0.3, 1e-3, 0.0])
    area, _ = quad(lambda t: velocity_variance_at(eigenvalues, t), 0, 1, points=[0.9, 0.99], limit=200)
    assert velocity_variance(eigenvalues) == pytest.approx(area, rel=1e-8)
    assert velocity_variance(torch.ones(5)) == pytest.approx(5 * math.pi / 2)


@pytest.mark.parametrize("t", [0.0, 0.2, 0.7, 0.999])
def test_the_integrand_is_what_stays_of_the_velocity_once_its_input_is_known(t: float) -> None:
    factors, _ = planted()
    sigma = np.kron(np.kron(factors[0], factors[1]), factors[2])
    one = np.eye(len(sigma))
    of_input = t**2 * sigma + (1 - t) ** 2 * one
    cross = t * sigma - (1 - t) * one  # Cov(x - ε, t·x + (1-t)·ε)
    open_part = sigma + one - cross @ np.linalg.solve(of_input, cross.T)
    found = velocity_variance_at(torch.from_numpy(np.linalg.eigvalsh(sigma)), t)
    assert found == pytest.approx(np.trace(open_part), rel=1e-9)


def test_flip_flop_recovers_the_factors_of_a_separable_covariance() -> None:
    factors, latent = planted()
    result = fitted(latent)
    assert list(result.factors) == ["channel", "time", "space"] and result.clips == len(latent)
    for found, truth in zip(result.factors.values(), factors, strict=True):
        np.testing.assert_allclose(found.numpy(), np.linalg.eigvalsh(truth)[::-1], atol=1e-10)
    eigenvalues = np.linalg.eigvalsh(np.kron(np.kron(factors[0], factors[1]), factors[2]))
    area, _ = quad(lambda t: float((eigenvalues / ((1 - t) ** 2 + t**2 * eigenvalues)).sum()), 0, 1, limit=200)
    assert result.per_dimension == pytest.approx(area / len(eigenvalues), rel=1e-9)


def test_one_round_is_close_to_flip_flop_run_to_its_end() -> None:
    factors, _ = planted()
    root = np.linalg.cholesky(np.kron(np.kron(factors[0], factors[1]), factors[2]))
    noise = np.random.default_rng(3).normal(size=(600, len(root)))
    latent = torch.from_numpy(noise @ root.T).reshape(600, CHANNELS, *GRID)
    for found, end, truth in zip(fitted(latent).factors.values(), converged(latent), factors, strict=True):
        at_the_end = np.linalg.eigvalsh(end)[::-1]
        np.testing.assert_allclose(found.numpy(), at_the_end, rtol=0.06)
        np.testing.assert_allclose(at_the_end, np.linalg.eigvalsh(truth)[::-1], rtol=0.15)


def test_the_trace_is_the_datas_also_where_the_model_does_not_hold() -> None:
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(300, CHANNELS, *GRID, generator=generator, dtype=torch.float64)
    latent[:, 0] = 0.1 * latent[:, 0] + latent[:, 0].mean((-2, -1), keepdim=True)  # one channel smooth, two white
    latent = latent / (latent - latent.mean(0)).std((0, 2, 3, 4)).view(1, -1, 1, 1, 1)
    mean_of_one_round = math.prod(float(values.mean()) for values in fitted(latent).factors.values())
    mean_at_the_end = math.prod(float(np.trace(factor)) / len(factor) for factor in converged(latent))
    assert mean_of_one_round == pytest.approx(1.0, abs=0.01) and mean_at_the_end > 1.1


def test_batches_ranks_and_states_change_nothing() -> None:
    _, latent = planted()
    latent = latent + 1e3
    std = torch.tensor([2.0, 0.5, 1.0])
    whole = fitted(latent, std)
    halves = [SeparableCovariance(CHANNELS, GRID) for _ in range(2)]
    for half, part in zip(halves, (latent[:5], latent[5:]), strict=True):
        for clip in part.split(1):
            half.update(clip)
    totals = []
    for part in (latent[:5], latent[5:]):
        total = SeparableCovariance(CHANNELS, GRID)
        for half in halves:
            copy = SeparableCovariance(CHANNELS, GRID)
            copy.load_state_dict(half.state_dict())
            total.merge(copy)
        total.refine(part)
        totals.append(total)
    totals[0].merge_refined(totals[1])
    merged = totals[0].compute(std)
    assert merged.per_dimension == pytest.approx(whole.per_dimension, rel=1e-10)
    assert fitted(latent, std, pieces=7).per_dimension == pytest.approx(whole.per_dimension, rel=1e-10)
    for name, values in whole.factors.items():
        torch.testing.assert_close(merged.factors[name], values, rtol=0, atol=1e-9)


def test_scale_of_channels_does_not_matter_and_constant_ones_only_count() -> None:
    _, latent = planted()
    scale = torch.tensor([10.0, 0.01, 3.0], dtype=torch.float64)
    scaled = fitted(latent * scale.view(1, -1, 1, 1, 1), scale)
    assert scaled.per_dimension == pytest.approx(fitted(latent).per_dimension, rel=1e-9)
    padded = torch.cat([latent, torch.full_like(latent[:, :1], 7.0)], dim=1)
    with_constant = fitted(padded, torch.tensor([1.0, 1.0, 1.0, 0.0]))
    assert with_constant.per_dimension == pytest.approx(fitted(latent).per_dimension * 3 / 4, rel=1e-9)


def test_smooth_or_few_mode_latents_are_below_white_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(200, 4, 3, 4, 4, generator=generator, dtype=torch.float64)
    smooth = white.clone()
    smooth[..., 1:] += 0.9 * smooth[..., :-1].clone()
    few = white + 2 * white[:, :1]

    def viv(latent: torch.Tensor) -> float:
        return fitted(latent, latent.std((0, 2, 3, 4))).per_dimension

    assert 1.53 < viv(white) < math.pi / 2
    assert viv(smooth) < viv(white) - 0.05
    assert viv(few) < viv(white) - 0.05


def test_a_large_picture_factors_into_height_and_width() -> None:
    height, width = WHOLE_SPACE // 32 + 1, 32
    assert position_factors((2, 32, 32)) == {"time": 2, "space": WHOLE_SPACE}
    assert position_factors((2, height, width)) == {"time": 2, "height": height, "width": width}
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(4, 2, 2, height, width, generator=generator, dtype=torch.float64)
    latent[..., 1:] += latent[..., :-1].clone()
    result = fitted(latent, latent.std((0, 2, 3, 4)))
    assert list(result.factors) == ["channel", "time", "height", "width"]
    assert all(float(values.mean()) == pytest.approx(1.0, abs=0.02) for values in result.factors.values())
    spread = {name: float(values.std()) for name, values in result.factors.items()}
    assert spread["width"] > 2 * spread["height"]  # the smooth axis


def test_what_cannot_be_fitted_is_refused() -> None:
    _, latent = planted()
    fit = SeparableCovariance(CHANNELS, GRID)
    fit.update(latent[:1])
    with pytest.raises(ValueError, match="at least 2"):
        fit.refine(latent[:1])
    with pytest.raises(ValueError, match="at least 2"):
        fit.compute(torch.ones(CHANNELS))
    fit.update(latent[1:])
    fit.refine(latent[:3])
    with pytest.raises(ValueError, match=r"second \(refine\) 3"):
        fit.compute(torch.ones(CHANNELS))
    twin = SeparableCovariance(CHANNELS, GRID)
    twin.load_state_dict(fit.state_dict())
    twin.merge_refined(fit)
    with pytest.raises(ValueError, match=r"second \(refine\) 6"):
        twin.compute(torch.ones(CHANNELS))
    with pytest.raises(ValueError, match="one grid"):
        fit.update(latent.transpose(2, 4)[..., :1])
    with pytest.raises(ValueError, match="cannot merge"):
        fit.merge(SeparableCovariance(CHANNELS, (2, 4, 1)))
    with pytest.raises(ValueError, match="first sweep"):
        fit.merge_refined(SeparableCovariance(CHANNELS, GRID))
    with pytest.raises(ValueError, match="state holds"):
        fit.load_state_dict(SeparableCovariance(CHANNELS, (2, 4, 4)).state_dict())
    with pytest.raises(ValueError, match="NaN"):
        SeparableCovariance(CHANNELS, GRID).update(torch.full_like(latent, float("nan")))
    for bad in (torch.tensor([-1.0]), torch.tensor([float("nan")])):
        with pytest.raises(ValueError, match="non-negative"):
            velocity_variance(bad)
    with pytest.raises(ValueError, match="time of a path"):
        velocity_variance_at(torch.ones(2), 1.5)
