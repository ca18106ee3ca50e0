"""The likelihood against its formula written out, and the scale's optimum."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ssvae.objective.nll import NegativeLogLikelihood

SHAPE = (2, 3, 5, 4, 6)


def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """A stand-in for LPIPS: one number a frame, (B,1,T,1,1)."""
    return (a - b).square().mean(dim=(1, 3, 4), keepdim=True)


@pytest.mark.parametrize("scale", [0.0, -1.5, 0.7])
@pytest.mark.parametrize("weight", [None, 0.3])
def test_value_equals_the_formula(scale: float, weight: float | None) -> None:
    a, b = pair()
    nll = NegativeLogLikelihood(
        initial_logscale=scale, perceptual=None if weight is None else distance, perceptual_weight=weight or 0.0
    )
    value = nll(a, b)
    total = 0.0
    for i in range(2):
        for t in range(5):
            extra = 0.0 if weight is None else weight * float((a[i, :, t] - b[i, :, t]).square().mean())
            error = (a[i, :, t] - b[i, :, t]).abs().double()
            total += float(((error + extra) / math.exp(scale) + scale).sum())
    assert float(value.nll.detach()) == pytest.approx(total / 2, rel=1e-5)
    assert float(value.l1) == pytest.approx(float((a - b).abs().mean()), rel=1e-6)
    assert (value.lpips is None) == (weight is None)


def test_the_best_scale_is_the_log_of_the_mean_error() -> None:
    a, b = pair()
    nll = NegativeLogLikelihood(
        initial_logscale=float((a - b).abs().mean().log()), perceptual=None, perceptual_weight=0.0
    )
    nll(a, b).nll.backward()
    assert nll.logscale.grad is not None
    # The gradient of each of 2·360 values is 1 - |error|/exp(s): zero on the mean.
    assert float(nll.logscale.grad) == pytest.approx(0.0, abs=1e-3)


def test_a_frozen_distance_belongs_to_neither_optimiser_nor_checkpoint() -> None:
    network = torch.nn.Linear(2, 2)
    nll = NegativeLogLikelihood(initial_logscale=0.0, perceptual=network, perceptual_weight=1.0)
    assert [name for name, _ in nll.named_parameters()] == ["logscale"]
    assert list(nll.state_dict()) == ["logscale"]
    assert nll.perceptual is network


def test_shapes_must_agree() -> None:
    nll = NegativeLogLikelihood(initial_logscale=0.0, perceptual=None, perceptual_weight=0.0)
    with pytest.raises(ValueError, match="differ"):
        nll(torch.zeros(1, 3, 5, 4, 4), torch.zeros(1, 3, 1, 4, 4))
