"""v-prediction: a rotation from data to noise, exact where data are known, and the same shift as the flow's."""

from __future__ import annotations

import math

import pytest
import torch

from ssvae.core.seeds import torch_generator
from ssvae.flow.path import shift_times
from ssvae.flow.sampler import sample
from ssvae.flow.vp import QUARTER, VPrediction, shift_angles

SHAPE = (6, 3, 2, 4, 4)


def draws() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch_generator(0, "test.vp")
    clean, noise = (torch.randn(SHAPE, generator=rng, dtype=torch.float64) for _ in range(2))
    return clean, noise, torch.rand(SHAPE[0], generator=rng, dtype=torch.float64)


def test_ends_are_data_and_noise_alone() -> None:
    """At t = 1 the signal-to-noise ratio is zero, up to the rounding of cos(π/2)."""
    clean, noise, times = draws()
    assert torch.equal(VPrediction.interpolate(clean, noise, torch.zeros_like(times)), clean)
    last = VPrediction.interpolate(1e6 * clean, noise, torch.ones_like(times))
    torch.testing.assert_close(last, noise, atol=1e-9, rtol=0)


def test_v_is_the_derivative_by_the_angle() -> None:
    clean, noise, times = draws()
    step = 1e-6
    ahead, behind = (VPrediction.interpolate(clean, noise, times + sign * step) for sign in (1, -1))
    expected = (ahead - behind) / (2 * step * QUARTER)
    torch.testing.assert_close(expected, VPrediction.target(clean, noise, times), atol=1e-8, rtol=0)


def test_x_and_v_give_data_and_noise_back_at_every_time() -> None:
    clean, noise, times = draws()
    for now in (times, torch.zeros_like(times), torch.ones_like(times)):
        noisy, v = VPrediction.interpolate(clean, noise, now), VPrediction.target(clean, noise, now)
        torch.testing.assert_close(VPrediction.clean_from_v(noisy, v, now), clean, atol=1e-12, rtol=0)
        torch.testing.assert_close(VPrediction.noise_from_v(noisy, v, now), noise, atol=1e-12, rtol=0)


def test_a_step_is_ddim_of_the_data_and_noise_that_it_implies() -> None:
    """Independent form: recover both, then mix them again at the other time (DDIM, 2010.02502, eq. 12, σ = 0)."""
    clean, noise, _ = draws()
    now, after = 0.7, 0.45
    times = torch.full((SHAPE[0],), now, dtype=torch.float64)
    noisy, v = VPrediction.interpolate(clean, noise, times), torch.tanh(clean + noise)
    x0, eps = VPrediction.clean_from_v(noisy, v, times), VPrediction.noise_from_v(noisy, v, times)
    again = VPrediction.interpolate(x0, eps, torch.full_like(times, after))
    torch.testing.assert_close(VPrediction.step(noisy, v, now, after), again, atol=1e-12, rtol=0)


def test_shift_multiplies_the_noise_to_signal_ratio_as_the_flows_does() -> None:
    times = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)
    shifted = shift_angles(times, 3.0)
    torch.testing.assert_close((shifted * QUARTER).tan(), 3.0 * (times * QUARTER).tan())
    # The flow's time with the same ratio, shifted by the flow's own formula, has again the same ratio.
    ratio = (times * QUARTER).tan()
    flow = shift_times(ratio / (1 + ratio), 3.0)
    torch.testing.assert_close(flow / (1 - flow), (shifted * QUARTER).tan())
    for dtype in (torch.float32, torch.float64):
        ends = shift_angles(torch.tensor([0.0, 1.0], dtype=dtype), 3.0)
        torch.testing.assert_close(ends, torch.tensor([0.0, 1.0], dtype=dtype))
        assert float(ends.max()) <= 1.0
    assert torch.equal(shift_angles(times, 1.0), times)
    with pytest.raises(ValueError, match="shift"):
        shift_angles(times, 0.0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_sampling_times_fall_from_one_to_zero(shift: float) -> None:
    times = VPrediction(shift=shift).sampling_times(10)
    assert float(times[0]) == 1 and float(times[-1]) == 0 and bool((times.diff() < 0).all())
    with pytest.raises(ValueError, match="steps"):
        VPrediction().sampling_times(0)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_a_data_set_of_one_point_is_recovered_in_any_number_of_steps(steps: int) -> None:
    """The optimal v knows x0, and rotations are exact: after the last step nothing of the noise is left."""
    point = torch.randn(3, 4, dtype=torch.float64, generator=torch_generator(0, "point"))
    noise = torch.randn(5, 3, 4, dtype=torch.float64, generator=torch_generator(1, "noise"))

    def optimal(x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        angle = (t * QUARTER)[:, None, None]
        eps = (x - angle.cos() * point) / angle.sin()
        return angle.cos() * eps - angle.sin() * point

    made = sample(VPrediction(shift=2.0), optimal, noise, steps)
    torch.testing.assert_close(made, point.expand_as(made), atol=1e-12, rtol=0)


def test_gaussian_data_are_sampled_with_their_mean_and_covariance() -> None:
    """The exact v of N(m, S) in eigen-directions; many small rotations bring noise to that Gaussian."""
    rng = torch_generator(4, "gaussian")
    root = torch.tensor([[1.5, 0.0], [0.8, 0.3]], dtype=torch.float64)
    mean, cov = torch.tensor([0.7, -1.2], dtype=torch.float64), root @ root.T

    def optimal(x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None) -> torch.Tensor:
        a, s = math.cos(float(t[0]) * QUARTER), math.sin(float(t[0]) * QUARTER)
        spread = a * a * cov + s * s * torch.eye(2, dtype=torch.float64)
        # E[noise|x] = s·spread⁻¹(x - a·m), E[x0|x] = m + a·cov·spread⁻¹(x - a·m) (Gaussian conditioning).
        whitened = torch.linalg.solve(spread, (x - a * mean).T).T
        return a * (s * whitened) - s * (mean + a * whitened @ cov)

    noise = torch.randn(20_000, 2, dtype=torch.float64, generator=rng)
    noise = (noise - noise.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(noise.T))).T
    made = sample(VPrediction(), optimal, noise, 400)
    torch.testing.assert_close(made.mean(0), mean, atol=2e-3, rtol=0)
    # The probability flow carries white noise linearly onto cov; 400 steps leave an error of first order.
    torch.testing.assert_close(torch.cov(made.T), cov, atol=0.02, rtol=0)
    coarse = sample(VPrediction(), optimal, noise, 100)
    errors = [float((torch.cov(x.T) - cov).abs().max()) for x in (coarse, made)]
    assert 2.5 < errors[0] / errors[1] < 6


def test_the_optimal_prediction_of_gaussian_data_reaches_the_known_loss() -> None:
    """For x0 ~ N(0, λ): var(v) - cov(v,x)²/var(x) = λ/(cos²φ·λ + sin²φ)."""
    variance, time, n = 2.5, 0.3, 200_000
    a, s = math.cos(time * QUARTER), math.sin(time * QUARTER)
    spread = a * a * variance + s * s
    gain = a * s * (1 - variance) / spread
    clean = math.sqrt(variance) * torch.randn(n, 1, generator=torch_generator(3, "x"), dtype=torch.float64)
    times = torch.full((n,), time, dtype=torch.float64)
    loss = VPrediction().loss(lambda x, t: gain * x, clean, torch_generator(3, "n"), times).mean()
    assert abs(float(loss) / (variance / spread) - 1) < 0.01


def test_times_are_drawn_as_the_flows_are_and_then_shifted() -> None:
    logits = torch.logit(VPrediction("logit_normal").sample_times(20_000, torch_generator(0, "t")).double())
    assert abs(logits.mean()) < 0.03 and abs(logits.std() - 1) < 0.03
    plain = VPrediction().sample_times(64, torch_generator(1, "t"))
    moved = VPrediction(shift=3.0).sample_times(64, torch_generator(1, "t"))
    torch.testing.assert_close(moved, shift_angles(plain, 3.0))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"distribution": "cosine"}, "uniform"), ({"shift": 0.0}, "shift"), ({"logit_std": -1.0}, "logit_std")],
)
def test_bad_settings_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VPrediction(**arguments)
