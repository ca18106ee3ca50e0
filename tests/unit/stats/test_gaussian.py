from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ssvae.stats.gaussian import kl_elementwise, kl_per_dimension, kl_sum


def test_agrees_with_torch_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(3, 4, 2, 2, 2, generator=generator, dtype=torch.float64)
    logvar = torch.randn(3, 4, 2, 2, 2, generator=generator, dtype=torch.float64) * 3
    expected = kl_divergence(Normal(mean, (0.5 * logvar).exp()), Normal(0.0, 1.0))
    torch.testing.assert_close(kl_elementwise(mean, logvar), expected)
    torch.testing.assert_close(kl_sum(mean, logvar), expected.sum((1, 2, 3, 4)))
    torch.testing.assert_close(kl_per_dimension(mean, logvar), expected.sum((1, 2, 3, 4)) / 32)


def test_keeps_digits_close_to_the_standard_normal() -> None:
    logvar = torch.tensor([[1e-3]])
    # ½(e^v - 1 - v) = v²/4 + v³/12 + ...; float32 exp(v) - 1 - v loses half of its digits here
    assert kl_sum(torch.zeros(1, 1), logvar).item() == pytest.approx(1e-6 / 4 + 1e-9 / 12, rel=1e-3)
    assert kl_sum(torch.zeros(1, 1), torch.zeros(1, 1)).item() == 0.0


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match="same shape"):
        kl_elementwise(torch.zeros(2, 3), torch.zeros(2, 1))
