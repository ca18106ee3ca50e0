"""The straight path: conversions invert each other exactly, and times follow the distribution they claim."""

from __future__ import annotations

import math

import pytest
import torch

from ssvae.core.seeds import torch_generator
from ssvae.flow.path import RectifiedFlow, shift_times

SHAPE = (6, 3, 2, 4, 4)


def _draws() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch_generator(0, "test.path")
    clean = torch.randn(SHAPE, generator=rng, dtype=torch.float64)
    noise = torch.randn(SHAPE, generator=rng, dtype=torch.float64)
    return clean, noise, torch.rand(SHAPE[0], generator=rng, dtype=torch.float64) * 0.9 + 0.05


def test_ends_of_the_path_are_data_and_noise() -> None:
    clean, noise, times = _draws()
    assert torch.equal(RectifiedFlow.interpolate(clean, noise, torch.zeros_like(times)), clean)
    assert torch.equal(RectifiedFlow.interpolate(clean, noise, torch.ones_like(times)), noise)


def test_velocity_is_the_derivative_of_the_path() -> None:
    clean, noise, times = _draws()
    step = 1e-6
    ahead = RectifiedFlow.interpolate(clean, noise, times + step)
    behind = RectifiedFlow.interpolate(clean, noise, times - step)
    torch.testing.assert_close((ahead - behind) / (2 * step), RectifiedFlow.velocity(clean, noise), atol=1e-8, rtol=0)


def test_conversions_invert_each_other() -> None:
    clean, noise, times = _draws()
    noisy, velocity = RectifiedFlow.interpolate(clean, noise, times), RectifiedFlow.velocity(clean, noise)
    close = {"atol": 1e-12, "rtol": 0}
    torch.testing.assert_close(RectifiedFlow.clean_from_velocity(noisy, velocity, times), clean, **close)
    torch.testing.assert_close(RectifiedFlow.noise_from_velocity(noisy, velocity, times), noise, **close)
    torch.testing.assert_close(RectifiedFlow.velocity_from_clean(noisy, clean, times), velocity, **close)
    torch.testing.assert_close(RectifiedFlow.velocity_from_noise(noisy, noise, times), velocity, **close)


def test_undefined_conversions_are_refused() -> None:
    clean, noise, _ = _draws()
    with pytest.raises(ValueError, match="above 0"):
        RectifiedFlow.velocity_from_clean(clean, clean, torch.zeros(6))
    with pytest.raises(ValueError, match="below 1"):
        RectifiedFlow.velocity_from_noise(noise, noise, torch.ones(6))
    with pytest.raises(ValueError, match="one per sample"):
        RectifiedFlow.interpolate(clean, noise, torch.zeros(5))


def test_uniform_times_have_uniform_moments() -> None:
    times = RectifiedFlow().sample_times(20_000, torch_generator(0, "t")).double()
    assert abs(times.mean() - 0.5) < 0.01
    assert abs(times.var() - 1 / 12) < 0.003


def test_logit_normal_times_have_normal_logits() -> None:
    flow = RectifiedFlow("logit_normal", logit_mean=0.4, logit_std=1.5)
    logits = torch.logit(flow.sample_times(20_000, torch_generator(0, "t")).double())
    assert abs(logits.mean() - 0.4) < 0.04
    assert abs(logits.std() - 1.5) < 0.04


def test_shift_multiplies_the_odds_of_noise() -> None:
    """s·t/(1+(s-1)t) is exactly: odds t/(1-t) times s."""
    times = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    shifted = shift_times(times, 3.0)
    torch.testing.assert_close(shifted / (1 - shifted), 3.0 * times / (1 - times))
    base, moved = RectifiedFlow(), RectifiedFlow(shift=3.0)
    drawn = base.sample_times(64, torch_generator(1, "t"))
    torch.testing.assert_close(moved.sample_times(64, torch_generator(1, "t")), shift_times(drawn, 3.0))


def test_loss_is_zero_for_the_true_velocity_and_known_for_zero() -> None:
    """Predicting 0 costs the mean square of noise - x0 of each sample, at whatever time."""
    clean, _, times = _draws()
    seen: dict[str, torch.Tensor] = {}

    def truth(noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen["velocity"] = (noisy - clean) / t.reshape(-1, 1, 1, 1, 1)
        return seen["velocity"]

    flow = RectifiedFlow()
    assert flow.loss(truth, clean, torch_generator(2, "l"), times).max() < 1e-20
    zero = flow.loss(lambda noisy, t: torch.zeros_like(noisy), clean, torch_generator(2, "l"), times)
    torch.testing.assert_close(zero, seen["velocity"].square().mean(dim=(1, 2, 3, 4)))
    assert zero.shape == (SHAPE[0],)


def test_optimal_linear_velocity_reaches_the_known_loss() -> None:
    """For x0 ~ N(0, λ) the best velocity is linear; its error is λ/((1-t)²λ + t²) (Gaussian conditioning)."""
    variance, time, n = 2.5, 0.3, 200_000
    clean = math.sqrt(variance) * torch.randn(n, 1, generator=torch_generator(3, "x"), dtype=torch.float64)
    spread = (1 - time) ** 2 * variance + time**2
    gain = (time - (1 - time) * variance) / spread
    times = torch.full((n,), time, dtype=torch.float64)
    loss = RectifiedFlow().loss(lambda x, t: gain * x, clean, torch_generator(3, "n"), times).mean()
    assert abs(float(loss) / (variance / spread) - 1) < 0.01


def test_same_generator_same_loss() -> None:
    clean = _draws()[0]
    flow = RectifiedFlow("logit_normal", shift=2.0)
    first, again, other = (
        flow.loss(lambda x, t: torch.tanh(x), clean, torch_generator(seed, "l")) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"distribution": "cosine"}, "uniform"),
        ({"shift": 0.0}, "shift"),
        ({"logit_std": -1.0}, "logit_std"),
    ],
)
def test_bad_settings_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RectifiedFlow(**arguments)


def test_velocity_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="velocity has shape"):
        RectifiedFlow().loss(lambda x, t: x[:, :1], _draws()[0], torch_generator(0, "l"))
