from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ssvae.config.compose import CONF, resolve
from ssvae.core.types import Posterior, StepContext
from ssvae.regularizers.kl import KL, Reduction
from step_context import step_context


def context(mean: torch.Tensor, logvar: torch.Tensor) -> StepContext:
    video = torch.zeros(mean.shape[0], 3, 5, 4, 4)
    return step_context(Posterior(mean, logvar), video)


def moments(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mean, logvar = torch.randn(2, 3, 4, 2, 3, 2, generator=generator, dtype=torch.float64)
    return mean, logvar


def test_sum_over_dimensions_mean_over_batch() -> None:
    mean, logvar = moments()
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0))
    ctx = context(mean, logvar)
    assert KL().terms(ctx)["kl"].item() == pytest.approx(expected.sum().item() / 3)
    stats = KL().stats(ctx)
    assert stats["kl_per_dim"].item() == pytest.approx(expected.mean().item())
    assert stats["posterior_std"].item() == pytest.approx((0.5 * logvar).exp().mean().item())


def test_gradient_is_that_of_the_closed_form() -> None:
    mean, logvar = torch.randn(2, 2, 3, 1, 2, 2, generator=torch.Generator().manual_seed(1)).requires_grad_().unbind()
    mean.retain_grad()
    logvar.retain_grad()
    KL().terms(context(mean, logvar))["kl"].backward()
    torch.testing.assert_close(mean.grad, mean.detach() / 2)
    torch.testing.assert_close(logvar.grad, (logvar.detach().exp() - 1) / 4)


def test_mean_is_nats_a_dimension_once_for_every_value_of_the_clip() -> None:
    mean, logvar = moments()
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0)).mean()
    term = KL("mean").terms(context(mean, logvar))["kl"]
    assert term.item() == pytest.approx(expected.item() * 3 * 5 * 4 * 4)


def test_the_two_betas_convert_as_documented() -> None:
    """beta_sum · D = beta_mean · V makes losses and gradients equal."""
    mean, logvar = moments(1)
    dimensions, values, beta = 4 * 2 * 3 * 2, 3 * 5 * 4 * 4, 5e-4
    losses, gradients = [], []
    betas: list[tuple[Reduction, float]] = [("sum", beta), ("mean", beta * dimensions / values)]
    for reduction, weight in betas:
        pair = [value.clone().requires_grad_() for value in (mean, logvar)]
        loss = weight * KL(reduction).terms(context(pair[0], pair[1]))["kl"]
        loss.backward()
        losses.append(loss.item())
        gradients.append(torch.stack([value.grad for value in pair if value.grad is not None]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    "channels, frames, ratio, official", [(48, 17, 54.4, 9.2e-6), (48, 1, 16, 3.1e-5), (128, 17, 20.4, 2.5e-5)]
)
def test_the_conversion_of_the_official_beta_at_the_papers_sizes(
    channels: int, frames: int, ratio: float, official: float
) -> None:
    """The figures of the docstring, taken from the terms themselves (16x16x4 compression, 256 px)."""
    grid = (1, channels, 1 + (frames - 1) // 4, 16, 16)
    mean, logvar = torch.ones(grid), torch.zeros(grid)
    ctx = step_context(Posterior(mean, logvar), torch.zeros(1).expand(1, 3, frames, 256, 256))
    quotient = (KL("mean").terms(ctx)["kl"] / KL("sum").terms(ctx)["kl"]).item()
    assert quotient == pytest.approx(ratio, rel=1e-3)
    assert 5e-4 / quotient == pytest.approx(official, rel=2e-2)


def test_an_image_counts_its_own_values() -> None:
    mean, logvar = torch.ones(2, 4, 1, 2, 2), torch.zeros(2, 4, 1, 2, 2)
    ctx = step_context(Posterior(mean, logvar), torch.zeros(2, 3, 1, 8, 8))
    assert KL("mean").terms(ctx)["kl"].item() == pytest.approx(0.5 * 3 * 8 * 8)  # half a nat a dimension
    assert KL("sum").terms(ctx)["kl"].item() == pytest.approx(0.5 * 4 * 2 * 2)


def test_another_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match="sum, mean"):
        KL("batchmean")  # type: ignore[arg-type]


def test_the_sweep_parses_on_the_command_line_and_holds_the_published_betas() -> None:
    names = ["kl_0", *(f"kl_1e-{power}" for power in range(7, 0, -1))]
    assert sorted(path.stem for path in (CONF / "reg").glob("kl_*.yaml")) == sorted(names)
    cells = resolve((f"reg={','.join(names)}",))
    found = {}
    for cell in cells:
        terms = cell.cfg.reg.terms
        assert terms.kl is not None and terms.kl.reduction.value == "mean" and terms.kl.weight.policy.value == "fixed"
        found[cell.cfg.reg.name] = terms.kl.weight.value
    assert found == {name: 0.0 if name == "kl_0" else float(name.removeprefix("kl_")) for name in names}
