"""The adaptive ratio: its value, its guard against small gradients, its clamp."""

from __future__ import annotations

import pytest
import torch

from ssvae.objective.weighting import EPSILON, LARGEST, gradient_ratio


def test_ratio_of_norms() -> None:
    ratio = gradient_ratio(torch.tensor([3.0, 4.0]), torch.tensor([[0.3], [0.4]]))
    assert float(ratio) == pytest.approx(5.0 / (0.5 + EPSILON), rel=1e-6)


def test_a_vanishing_term_is_held_by_epsilon_and_clamp() -> None:
    assert float(gradient_ratio(torch.ones(4), torch.zeros(4))) == pytest.approx(2.0 / EPSILON)
    assert float(gradient_ratio(torch.full((4,), 1e6), torch.zeros(4))) == LARGEST
    assert float(gradient_ratio(torch.zeros(4), torch.ones(4))) == 0.0


def test_result_is_a_detached_float32_scalar_for_any_precision() -> None:
    reference = torch.ones(3, dtype=torch.bfloat16, requires_grad=True)
    ratio = gradient_ratio(reference, torch.ones(3, dtype=torch.float64))
    assert ratio.shape == ()
    assert ratio.dtype == torch.float32
    assert not ratio.requires_grad
