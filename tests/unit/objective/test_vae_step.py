"""The chained gradients of one step against one plain backward pass of the weighted total, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssvae.core.ranks import Ranks
from ssvae.core.types import Posterior, StepContext
from ssvae.models.vae import VideoVAE
from ssvae.objective.nll import NegativeLogLikelihood
from ssvae.objective.vae_step import StepInputs, StepOutput, reconstruct, vae_step
from ssvae.objective.weighting import Weight, gradient_ratio
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


class Motion(Regularizer):
    """A term on the reconstruction, and one that decodes, both at a fixed weight."""

    name = "motion"

    def terms(self, ctx: StepContext) -> dict[str, Tensor]:
        small = ctx.decode(ctx.latent[..., ::2, ::2])
        return {
            "motion": ctx.unit * (ctx.reconstruction - ctx.target).diff(dim=2).square().mean(),
            "small": ctx.unit * ctx.distance(small, ctx.video[..., ::2, ::2]),
        }


class Critic:
    """A fixed critic with the adversary's two methods."""

    def __init__(self) -> None:
        torch.manual_seed(2)
        self.kernel = 0.3 * torch.randn(2, 3, 1, 3, 3, dtype=torch.float64)

    def generator_loss(self, reconstruction: Tensor) -> Tensor:
        return -torch.nn.functional.conv3d(reconstruction, self.kernel).tanh().mean() * 100

    def adaptive_weight(self, at_reference: Tensor, at_generator: Tensor) -> Tensor:
        return 0.7 * gradient_ratio(at_reference, at_generator)


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
        "motion": Motion,
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
    "critic": ({}, {}),
    "critic, kl": ({"kl": "kl"}, {"kl": Weight("fixed", 0.02)}),
    "critic, lcr": ({"lcr": "lcr"}, {"lcr": Weight("grad_ratio", RATIO)}),
    "motion": ({"motion": "motion"}, {"motion": Weight("fixed", 0.4), "small": Weight("fixed", 0.25)}),
    "critic, motion, lcr": (
        {"motion": "motion", "lcr": "lcr", "lmr": "lmr"},
        {"motion": Weight("fixed", 0.4), "small": Weight("fixed", 0.25), "lcr": Weight("grad_ratio", RATIO)},
    ),
}


def critic_of(case: str) -> Critic | None:
    return Critic() if case.startswith("critic") else None


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
        video, posterior, latent, decoded, reconstruction, target, vae.decode, torch.Generator().manual_seed(4),
        nll.distance, nll.unit(target),
    )  # fmt: skip
    total = value = nll(reconstruction, target).nll
    theta = vae.encoder.conv_out.weight
    used: dict[str, float] = {}
    if (critic := critic_of(case)) is not None:
        loss = critic.generator_loss(reconstruction)
        last = vae.decoder.conv_out.weight
        (of_nll,) = torch.autograd.grad(value, last, retain_graph=True)
        (of_loss,) = torch.autograd.grad(loss, last, retain_graph=True)
        used["generator"] = 0.7 * float(of_nll.norm() / (of_loss.norm() + 1e-4))
        total = total + used["generator"] * loss
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


def inputs(regularizers: dict[str, Regularizer]) -> StepInputs:
    return StepInputs(clip(), torch.Generator().manual_seed(4), draws(regularizers))


def chained(case: str, train_encoder: bool = True) -> tuple[list[Tensor], StepOutput, VideoVAE]:
    vae, regularizers, weights, nll = build(case)
    vae.encoder.requires_grad_(train_encoder)
    out = vae_step(
        inputs(regularizers),
        vae=vae,
        regularizers=regularizers,
        weights=weights,
        nll=nll,
        adversary=critic_of(case),
        train_encoder=train_encoder,
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
        vae_step(inputs(regularizers), vae=vae, regularizers=regularizers, weights=weights, nll=nll)

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
    vae_step(inputs(regularizers), vae=vae, regularizers=regularizers, weights=weights, nll=nll, adversary=Critic())
    assert len(calls) == 1


def test_diagnostics_see_the_step_as_it_was() -> None:
    _, out, _ = chained("all")
    assert out.context.target is out.context.video
    assert not torch.equal(out.context.latent, out.context.decoded_latent), "LMR masked half of it"
    assert set(out.scalars) == {"nll", "l1", "logscale", "kl", "kl/weight", "lcr", "lcr/weight"}
    assert all(not value.requires_grad for value in out.scalars.values())


@pytest.mark.parametrize("case", ["all", "critic, lcr", "critic, motion, lcr"])
def test_a_frozen_encoder_gets_no_gradient_and_the_decoder_the_one_it_would_have_had(case: str) -> None:
    """Terms on the posterior are measured and pull at nothing; what reaches the decoder is the same."""
    wanted, _, _ = chained(case)
    found, out, vae = chained(case, train_encoder=False)
    encoder = len(list(vae.encoder.parameters()))
    assert not any(bool(gradient.any()) for gradient in found[:encoder])
    for a, b in zip(wanted[encoder:], found[encoder:], strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-12)
    assert float(out.scalars["lcr"]) > 0.1 and float(out.scalars["lcr/weight"]) == 0.0


def test_the_decoder_runs_backward_once_unless_two_things_need_it_apart() -> None:
    calls: dict[str, int] = {}
    for case in ("lcr, grad_ratio", "critic, kl", "motion", "critic, lcr"):
        vae, regularizers, weights, nll = build(case)
        seen: list[Any] = []
        vae.decoder.conv_out.bias.register_hook(seen.append)
        vae_step(
            inputs(regularizers), vae=vae, regularizers=regularizers, weights=weights, nll=nll,
            adversary=critic_of(case),
        )  # fmt: skip
        calls[case] = len(seen)
    # "motion" decodes a second latent inside a term, and that decode has its own pass.
    assert calls == {"lcr, grad_ratio": 1, "critic, kl": 1, "motion": 2, "critic, lcr": 2}


def test_the_critics_own_batch_is_made_as_a_training_step_makes_it() -> None:
    _, out, _ = chained("lmr")
    vae, regularizers, _, _ = build("lmr")
    target, fake = reconstruct(inputs(regularizers), vae=vae, regularizers=regularizers)
    assert torch.equal(target, out.context.target) and torch.equal(fake, out.context.reconstruction)
    assert not fake.requires_grad and all(parameter.grad is None for parameter in vae.parameters())


def test_each_rank_draws_its_part_of_the_noise_of_the_whole_batch() -> None:
    vae, _, _, nll = build("none")
    whole = vae_step(inputs({}), vae=vae, regularizers={}, weights={}, nll=nll).context.latent
    for rank in range(2):
        # A world of two whose sums are never asked for: nothing is balanced here.
        part = StepInputs(clip()[rank : rank + 1], torch.Generator().manual_seed(4), {}, Ranks(rank, 2))
        latent = vae_step(part, vae=vae, regularizers={}, weights={}, nll=nll).context.latent
        assert torch.allclose(latent, whole[rank : rank + 1], rtol=1e-12)
