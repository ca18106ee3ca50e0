"""Mode strengths against the singular values of E[v xᵀ], written out with the joint covariance of data and noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from ssvae.stats.cross_correlation import (
    flow_mode_strengths,
    flow_mode_strengths_over_time,
    vp_mode_strengths,
)

CHANNELS = 5


def correlation() -> np.ndarray:
    root = np.random.default_rng(0).normal(size=(CHANNELS, 3 * CHANNELS)) + 0.7
    return np.asarray(np.corrcoef(root))


def singular_values(sigma: np.ndarray, velocity: tuple[float, float], noisy: tuple[float, float]) -> np.ndarray:
    """Of E[v x_tᵀ], where v and x_t are the given multiples of data and noise, ascending."""
    one, zero = np.eye(CHANNELS), np.zeros((CHANNELS, CHANNELS))
    joint = np.block([[sigma, zero], [zero, one]])
    v, x = (np.hstack([a * one, b * one]) for a, b in (velocity, noisy))
    return np.linalg.svd(v @ joint @ x.T, compute_uv=False)[::-1]


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_flow_matching(t: float) -> None:
    sigma = correlation()
    found = flow_mode_strengths(torch.from_numpy(np.linalg.eigvalsh(sigma)), t)
    np.testing.assert_allclose(found.sort().values.numpy(), singular_values(sigma, (-1, 1), (1 - t, t)), atol=1e-12)


@pytest.mark.parametrize("alpha", [0.1, math.sqrt(0.5), 0.9])
def test_vp_with_v_prediction(alpha: float) -> None:
    sigma, noise = correlation(), math.sqrt(1 - alpha**2)
    found = vp_mode_strengths(torch.from_numpy(np.linalg.eigvalsh(sigma)), alpha)
    expected = singular_values(sigma, (-noise, alpha), (alpha, noise))
    np.testing.assert_allclose(found.sort().values.numpy(), expected, atol=1e-12)


def test_the_mean_over_time_is_the_integral() -> None:
    eigenvalues = torch.tensor([6.0, 1.0, 0.25, 0.0], dtype=torch.float64)
    for index, value in enumerate(eigenvalues.tolist()):
        area, _ = quad(
            lambda t, at=index: float(flow_mode_strengths(eigenvalues, t)[at]), 0, 1, points=[value / (1 + value)]
        )
        assert float(flow_mode_strengths_over_time(eigenvalues)[index]) == pytest.approx(area, abs=1e-9)
    least = math.sqrt(2) - 1
    assert float(flow_mode_strengths_over_time(torch.tensor([least]))) == pytest.approx(least)


def test_equal_modes_have_no_strength_and_few_have_much() -> None:
    equal, few = torch.ones(4), torch.tensor([3.4, 0.2, 0.2, 0.2])
    assert flow_mode_strengths(equal).tolist() == vp_mode_strengths(equal).tolist() == [0.0] * 4
    assert float(flow_mode_strengths(few).max()) == pytest.approx(1.2)
    torch.testing.assert_close(flow_mode_strengths(few), vp_mode_strengths(few))


def test_what_is_no_time_or_no_eigenvalue_is_refused() -> None:
    for bad in (-0.1, 1.1):
        with pytest.raises(ValueError, match="t = "):
            flow_mode_strengths(torch.ones(2), bad)
        with pytest.raises(ValueError, match="alpha = "):
            vp_mode_strengths(torch.ones(2), bad)
    with pytest.raises(ValueError, match="non-negative"):
        flow_mode_strengths_over_time(torch.tensor([-1.0]))
    with pytest.raises(ValueError, match="axes"):
        flow_mode_strengths(torch.ones(2, 2))
