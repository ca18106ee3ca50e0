"""Euler sampling: exact on straight fields, right moments for Gaussian data, guidance algebra."""

from __future__ import annotations

import pytest
import torch

from ssvae.core.seeds import torch_generator
from ssvae.flow.path import RectifiedFlow
from ssvae.flow.sampler import guide, guided_velocity, sample


@pytest.mark.parametrize(("steps", "shift"), [(1, 1.0), (7, 1.0), (7, 3.0)])
def test_exact_for_constant_velocity(steps: int, shift: float) -> None:
    noise = torch.randn(4, 2, 3, generator=torch_generator(0, "n"), dtype=torch.float64)
    target = torch.randn(4, 2, 3, generator=torch_generator(1, "n"), dtype=torch.float64)
    made = sample(RectifiedFlow(shift=shift), lambda x, t, c: noise - target, noise, steps)
    torch.testing.assert_close(made, target, atol=1e-12, rtol=0)


def test_gaussian_data_with_its_analytic_velocity_gives_its_moments() -> None:
    """x0 ~ N(m, S): E[v | x_t] = -m + (t I - (1-t) S)((1-t)² S + t² I)^-1 (x_t - (1-t) m)."""
    mean = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    root = torch.tensor([[1.5, 0, 0], [0.6, 0.8, 0], [-0.3, 0.2, 0.4]], dtype=torch.float64)
    covariance, eye = root @ root.T, torch.eye(3, dtype=torch.float64)

    def velocity(x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        now = float(t[0])
        gain = (now * eye - (1 - now) * covariance) @ torch.linalg.inv((1 - now) ** 2 * covariance + now**2 * eye)
        return -mean + (x - (1 - now) * mean) @ gain.T

    noise = torch.randn(400, 3, generator=torch_generator(2, "n"), dtype=torch.float64)
    noise = noise - noise.mean(0)
    noise = noise @ torch.linalg.inv(torch.linalg.cholesky(noise.T.cov())).T  # moments exactly 0 and I
    errors = []
    for steps in (200, 400):
        made = sample(RectifiedFlow(), velocity, noise, steps)
        torch.testing.assert_close(made.mean(0), mean, atol=1e-9, rtol=0)
        errors.append(float((made.T.cov() - covariance).abs().max()))
    assert errors[0] < 0.04
    assert 0.4 < errors[1] / errors[0] < 0.6  # Euler is of first order


def test_times_run_from_noise_to_data_and_shift_towards_noise() -> None:
    plain, shifted = RectifiedFlow().sampling_times(10), RectifiedFlow(shift=3.0).sampling_times(10)
    assert plain[0] == shifted[0] == 1
    assert plain[-1] == shifted[-1] == 0
    assert bool((plain.diff() < 0).all() and (shifted.diff() < 0).all())
    assert bool((shifted[1:-1] > plain[1:-1]).all())
    with pytest.raises(ValueError, match="steps"):
        RectifiedFlow().sampling_times(0)


def _field(x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
    assert condition is not None
    return torch.sin(x) * t[:, None] + condition


def test_guidance_algebra() -> None:
    x = torch.randn(5, 2, dtype=torch.float64)
    t = torch.rand(5, dtype=torch.float64)
    condition, null = torch.ones(5, 2, dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    with_condition, without = _field(x, t, condition), _field(x, t, null)
    torch.testing.assert_close(guided_velocity(_field, x, t, 1.0, condition, null), with_condition)
    torch.testing.assert_close(guided_velocity(_field, x, t, 0.0, condition, null), without)
    expected = 3.0 * with_condition - 2.0 * without
    torch.testing.assert_close(guided_velocity(_field, x, t, 3.0, condition, null), expected)
    torch.testing.assert_close(guide(with_condition, with_condition, 7.5), with_condition)


def test_guidance_is_one_call_of_twice_the_batch() -> None:
    sizes = []

    def field(x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        sizes.append((x.shape[0], t.shape[0], None if condition is None else condition.shape[0]))
        return torch.zeros_like(x)

    ids = torch.ones(3, 4, dtype=torch.int64)
    sample(RectifiedFlow(), field, torch.zeros(3, 2), 2, guidance=2.0, condition=ids, null_condition=ids[:1])
    sample(RectifiedFlow(), field, torch.zeros(3, 2), 1, condition=ids)
    sample(RectifiedFlow(), field, torch.zeros(3, 2), 1)
    assert sizes == [(6, 6, 6), (6, 6, 6), (3, 3, 3), (3, 3, None)]


def test_guidance_needs_both_conditions() -> None:
    ids = torch.ones(3, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="guidance=1"):
        sample(RectifiedFlow(), _field, torch.zeros(3, 2), 2, guidance=2.0, condition=ids)
    with pytest.raises(ValueError, match="one row"):
        sample(RectifiedFlow(), _field, torch.zeros(3, 2), 2, guidance=2.0, condition=ids, null_condition=ids[:2])


def test_sampling_keeps_no_graph() -> None:
    gain = torch.ones((), requires_grad=True)
    assert not sample(RectifiedFlow(), lambda x, t, c: gain * x, torch.ones(2, 2), 3).requires_grad
