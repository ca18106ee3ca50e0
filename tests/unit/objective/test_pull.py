"""How hard a term pulls at the encoder: what ``fixed`` and ``grad_ratio`` make of a term's size."""

from __future__ import annotations

from types import MappingProxyType

import pytest
import torch
from torch import Tensor

from ssvae.core.types import StepContext
from ssvae.models.vae import VideoVAE
from ssvae.objective.nll import NegativeLogLikelihood
from ssvae.objective.vae_step import StepInputs, vae_step
from ssvae.objective.weighting import Weight
from ssvae.regularizers.base import Regularizer
from ssvae.regularizers.lcr import LCR


class Louder(LCR):
    """LCR times a factor: the same direction, another size."""

    def __init__(self, factor: float, threshold: float = 0.75) -> None:
        super().__init__(threshold)
        self.factor = factor

    def terms(self, ctx: StepContext) -> dict[str, Tensor]:
        return {"lcr": self.factor * super().terms(ctx)["lcr"]}


def gradient(regularizer: Regularizer | None, weight: Weight) -> Tensor:
    """At the encoder's last weight, after one step from the same start."""
    torch.manual_seed(0)
    vae = VideoVAE(
        channels=4, base_channels=4, multipliers=[1, 2, 2], encoder_blocks=1, decoder_blocks=1,
        temporal_levels=[True, True], initial_logvar=-2.0,
    ).double()  # fmt: skip
    video = torch.rand((2, 3, 9, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2 - 1
    regularizers = MappingProxyType({} if regularizer is None else {"lcr": regularizer})
    # Mappings that cannot be written to: a step takes what it is given and leaves it alone.
    vae_step(
        StepInputs(
            video,
            torch.Generator().manual_seed(2),
            MappingProxyType({name: torch.Generator() for name in regularizers}),
        ),
        vae=vae,
        regularizers=regularizers,
        weights=MappingProxyType({"lcr": weight}),
        nll=NegativeLogLikelihood(initial_logscale=0.0, perceptual=None, perceptual_weight=1.0).double(),
    )
    found = vae.encoder_theta.grad
    assert found is not None
    return found


def pull(regularizer: Regularizer, weight: Weight) -> Tensor:
    return gradient(regularizer, weight) - gradient(None, weight)


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_grad_ratio_does_not_hear_how_large_a_term_is_and_fixed_does(factor: float) -> None:
    for policy, expected in (("grad_ratio", 1.0), ("fixed", factor)):
        weight = Weight(policy, 0.3)  # type: ignore[arg-type]
        plain, louder = pull(Louder(1.0), weight), pull(Louder(factor), weight)
        assert torch.allclose(louder, expected * plain, rtol=1e-2, atol=1e-3 * expected * float(plain.abs().max()))


@pytest.mark.parametrize("policy", ["grad_ratio", "fixed"])
def test_the_hinge_is_a_switch_whatever_its_gap(policy: str) -> None:
    """Its gradient is that of the correlation until the threshold is reached; the gap to go changes nothing."""
    weight = Weight(policy, 0.3)  # type: ignore[arg-type]
    near, far = pull(LCR(threshold=0.5), weight), pull(LCR(threshold=1.0), weight)
    assert float(near.abs().max()) > 0
    assert torch.allclose(near, far, rtol=1e-4, atol=1e-6 * float(near.abs().max()))
    assert not pull(LCR(threshold=-1.0), weight).any()


def test_the_configured_value_is_the_weight_with_no_factor_beside_it() -> None:
    one, ten = (pull(LCR(), Weight("fixed", value)) for value in (1.0, 10.0))
    assert torch.allclose(10 * one, ten, rtol=1e-4, atol=1e-6 * float(ten.abs().max()))
    likelihood = gradient(None, Weight("grad_ratio", 0.0))
    balanced = pull(LCR(), Weight("grad_ratio", 0.25))
    assert float(balanced.norm() / likelihood.norm()) == pytest.approx(0.25, rel=1e-2)
