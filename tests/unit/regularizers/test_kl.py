from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ssvae.core.types import Posterior, StepContext
from ssvae.regularizers.kl import KL
from step_context import step_context


def context(mean: torch.Tensor, logvar: torch.Tensor) -> StepContext:
    video = torch.zeros(mean.shape[0], 3, 5, 4, 4)
    return step_context(Posterior(mean, logvar), video)


def test_sum_over_dimensions_mean_over_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, logvar = torch.randn(2, 3, 4, 2, 3, 2, generator=generator, dtype=torch.float64)
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
