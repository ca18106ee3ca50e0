"""The chained gradients of one step against one plain backward pass of the weighted total, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssvae.core.types import Posterior, StepContext
from ssvae.models.vae import VideoVAE
from ssvae.objective.nll import NegativeLogLikelihood
from ssvae.objective.vae_step import StepOutput, vae_step
from ssvae.objective.weighting import Weight
from ssvae.regularizers.base import Regularizer
from ssvae.regularizers.kl import KL
from ssvae.regularizers.lcr import LCR
from ssvae.regularizers.lmr import LMR

CHANNELS = 6
VIDEO = (2, 3, 9, 16, 16)
RATIO = 0.3


class Shift(Regularizer):
    """Uses every hook: moves the clip before encoding, scales latent and target, decodes inside its term."""

    name = "shift"

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def prepare(self, video: Tensor, generator: torch.Generator) -> Tensor:
        return video + 0.1 * torch.rand((), generator=generator, dtype=torch.float64)

    def transform(self, latent: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return latent * self.gain, target * 0.9

    def terms(self, ctx: StepContext) -> dict[str, Tensor]:
        return {"shift": (ctx.decode(ctx.latent * 0.5) - ctx.target).square().mean() * 50}


def make_vae() -> VideoVAE:
    torch.manual_seed(0)
    vae = VideoVAE(
        channels=CHANNELS,
        base_channels=4,
        multipliers=[1, 2, 2],
        encoder_blocks=1,
        decoder_blocks=1,
        temporal_levels=[True, True],
        initial_logvar=-2.0,
    ).double()
    # The last convolution's log-variance half starts at zero weights: give every gradient something to do.
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, dtype=parameter.dtype))
    return vae


def regularizer(name: str) -> Regularizer:
    torch.manual_seed(1)
    makers: dict[str, Callable[[], Regularizer]] = {
        "kl": KL,
        "lcr": lambda: LCR(threshold=0.75),
        "lcr_satisfied": lambda: LCR(threshold=-1.0),
        "lmr": lambda: LMR(CHANNELS, ratios=(0.5,), probabilities=(1.0,)).double(),
        "shift": Shift,
    }
    return makers[name]()


CASES: dict[str, tuple[dict[str, str], dict[str, Weight]]] = {
    "none": ({}, {}),
    "kl": ({"kl": "kl"}, {"kl": Weight("fixed", 0.02)}),
    "lcr, fixed": ({"lcr": "lcr"}, {"lcr": Weight("fixed", 40.0)}),
    "lcr, grad_ratio": ({"lcr": "lcr"}, {"lcr": Weight("grad_ratio", RATIO)}),
    "lcr, satisfied": ({"lcr": "lcr_satisfied"}, {"lcr": Weight("grad_ratio", RATIO)}),
    "lcr, weight 0": ({"lcr": "lcr"}, {"lcr": Weight("grad_ratio", 0.0)}),
    "lmr": ({"lmr": "lmr"}, {}),
    "all": (
        {"kl": "kl", "lcr": "lcr", "lmr": "lmr"},
        {"kl": Weight("fixed", 0.02), "lcr": Weight("grad_ratio", RATIO)},
    ),
    "a term that decodes": (
        {"kl": "kl", "shift": "shift", "lcr": "lcr"},
        {"kl": Weight("fixed", 0.02), "shift": Weight("grad_ratio", 2.0), "lcr": Weight("grad_ratio", RATIO)},
    ),
}


def build(case: str) -> tuple[VideoVAE, dict[str, Regularizer], dict[str, Weight], NegativeLogLikelihood]:
    names, weights = CASES[case]
    nll = NegativeLogLikelihood(initial_logscale=0.2, perceptual=None, perceptual_weight=0.0).double()
    return make_vae(), {name: regularizer(kind) for name, kind in names.items()}, weights, nll


def clip() -> Tensor:
    return torch.rand(VIDEO, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 2 - 1


def draws(regularizers: dict[str, Regularizer]) -> dict[str, torch.Generator]:
    return {name: torch.Generator().manual_seed(10 + place) for place, name in enumerate(regularizers)}


def gradients(*modules: nn.Module) -> list[Tensor]:
    return [
        torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
        for module in modules
        for parameter in module.parameters()
    ]


def naive(case: str) -> tuple[list[Tensor], Tensor, dict[str, float]]:
    """One graph from clip to weighted total, weights from gradients at θ, one backward pass."""
    vae, regularizers, weights, nll = build(case)
    streams = draws(regularizers)
    video = encoded = clip()
    for name, one in regularizers.items():
        encoded = one.prepare(encoded, streams[name])
    posterior = Posterior.from_moments(vae.encode_moments(encoded))
    latent = posterior.sample(torch.Generator().manual_seed(4))
    decoded, target = latent, video
    for name, one in regularizers.items():
        decoded, target = one.transform(decoded, target, streams[name])
    reconstruction = vae.decode(decoded)
    context = StepContext(
        video, posterior, latent, decoded, reconstruction, target, vae.decode, torch.Generator().manual_seed(4)
    )
    total = value = nll(reconstruction, target).nll
    theta = vae.encoder.conv_out.weight
    used: dict[str, float] = {}
    for one in regularizers.values():
        for name, term in one.terms(context).items():
            weight = weights[name].value
            if weights[name].policy == "grad_ratio" and weight:
                (of_nll,) = torch.autograd.grad(value, theta, retain_graph=True)
                (of_term,) = torch.autograd.grad(term, theta, retain_graph=True)
                weight *= float(of_nll.norm() / (of_term.norm() + 1e-4)) if float(of_term.norm()) else 0.0
            used[name] = weight
            total = total + weight * term
    total.backward()
    return gradients(vae, nll, *regularizers.values()), total.detach(), used


def chained(case: str) -> tuple[list[Tensor], StepOutput, VideoVAE]:
    vae, regularizers, weights, nll = build(case)
    out = vae_step(
        clip(),
        vae=vae,
        theta=vae.encoder.conv_out.weight,
        regularizers=regularizers,
        weights=weights,
        nll=nll,
        noise=torch.Generator().manual_seed(4),
        draws=draws(regularizers),
        backward=lambda loss, **options: loss.backward(**options),
    )
    return gradients(vae, nll, *regularizers.values()), out, vae


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_one_backward_pass_of_the_weighted_total(case: str) -> None:
    wanted, total, weights = naive(case)
    found, out, _ = chained(case)
    assert len(wanted) == len(found)
    largest = max(float(gradient.abs().max()) for gradient in wanted)
    assert largest > 0
    for a, b in zip(wanted, found, strict=True):
        # Moments pass through float32 once, as in training; everything else is float64.
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5 * float(a.abs().max()) + 1e-12 * largest)
    assert float(out.loss) == pytest.approx(float(total), rel=1e-5)
    for name, weight in weights.items():
        assert float(out.scalars[f"{name}/weight"]) == pytest.approx(weight, rel=1e-5, abs=1e-12)


def test_every_parameter_of_a_regulariser_and_the_scale_gets_a_gradient() -> None:
    found, _, vae = chained("all")
    sizes = len(list(vae.parameters()))
    logscale, token = found[sizes], found[sizes + 1]
    assert float(logscale.abs()) > 0
    assert token.shape == (1, CHANNELS, 1, 1, 1)
    assert bool((token != 0).all())


def test_grad_ratio_pulls_with_exactly_its_share_of_the_likelihoods_norm_at_theta() -> None:
    """The gradient that LCR adds at θ has RATIO times the norm of the likelihood's own."""

    def at_theta(case: str) -> Tensor:
        _, _, vae = chained(case)
        gradient = vae.encoder.conv_out.weight.grad
        assert gradient is not None
        return gradient

    alone, both = at_theta("none"), at_theta("lcr, grad_ratio")
    assert float((both - alone).norm() / alone.norm()) == pytest.approx(RATIO, rel=1e-3)


@pytest.mark.parametrize("case", ["lcr, satisfied", "lcr, weight 0"])
def test_a_satisfied_hinge_and_a_zero_weight_change_nothing(case: str) -> None:
    wanted, _, _ = chained("none")
    found, out, _ = chained(case)
    assert float(out.scalars["lcr/weight"]) == 0.0
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


def test_a_term_at_weight_zero_is_still_reported() -> None:
    _, out, _ = chained("lcr, weight 0")
    assert float(out.scalars["lcr"]) > 0.1


def test_gradients_add_up_over_steps_like_any_backward_pass() -> None:
    vae, regularizers, weights, nll = build("all")

    def step() -> None:
        vae_step(
            clip(), vae=vae, theta=vae.encoder.conv_out.weight, regularizers=regularizers, weights=weights, nll=nll,
            noise=torch.Generator().manual_seed(4), draws=draws(regularizers),
            backward=lambda loss, **options: loss.backward(**options),
        )  # fmt: skip

    step()
    once = gradients(vae, nll)
    step()
    assert all(torch.allclose(2 * a, b, rtol=1e-12) for a, b in zip(once, gradients(vae, nll), strict=True))


def test_the_encoder_runs_backward_once_whatever_the_number_of_terms() -> None:
    """Counting calls of the encoder's first convolution's gradient: the point of the chaining."""
    vae, regularizers, weights, nll = build("all")
    calls: list[Any] = []
    first = next(iter(vae.encoder.parameters()))
    first.register_hook(lambda gradient: calls.append(gradient))
    vae_step(
        clip(), vae=vae, theta=vae.encoder.conv_out.weight, regularizers=regularizers, weights=weights, nll=nll,
        noise=torch.Generator().manual_seed(4), draws=draws(regularizers),
        backward=lambda loss, **options: loss.backward(**options),
    )  # fmt: skip
    assert len(calls) == 1


def test_diagnostics_see_the_step_as_it_was() -> None:
    _, out, _ = chained("all")
    assert out.context.target is out.context.video
    assert not torch.equal(out.context.latent, out.context.decoded_latent), "LMR masked half of it"
    assert set(out.scalars) == {"nll", "l1", "logscale", "kl", "kl/weight", "lcr", "lcr/weight"}
    assert all(not value.requires_grad for value in out.scalars.values())
