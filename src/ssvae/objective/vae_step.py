"""Loss and gradients of one VAE step, chained at the reconstruction and at the encoder's moments.

Dimension legend
    B batch, 3 colours, T frames, H W pixels              video   (B,3,T,H,W), float, [-1, 1]
    C latent channels, F latent frames, h w latent pixels latent  (B,C,F,h,w), float; moments (B,2C,F,h,w)

Adaptive weights need gradients at the encoder's and at the decoder's last layer. Cutting the graph at the
reconstruction and at the moments gives them for little: likelihood and critic back-propagate once, down to the
pixels; the decoder takes their sum down to the moments; every term adds its own gradient there; the encoder takes
the sum once. The decoder runs a second time only when a term is balanced against the likelihood alone while
something else also pulls at the pixels. The result equals one backward pass of the weighted total.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ssvae.core.ranks import ALONE, Ranks
from ssvae.core.types import Posterior, StepContext
from ssvae.objective.nll import NegativeLogLikelihood
from ssvae.objective.weighting import Weight, gradient_ratio

VERSION = 2


class LatentRegularizer(Protocol):
    """What a step asks of a regulariser; see regularizers/base.py."""

    def prepare(self, video: Tensor, generator: torch.Generator) -> Tensor: ...

    def transform(self, latent: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]: ...

    def terms(self, ctx: StepContext) -> dict[str, Tensor]: ...

    def stats(self, ctx: StepContext) -> dict[str, Tensor]: ...


class Autoencoder(Protocol):
    """What a step asks of a VAE: the moments, the decoder, and the last weight of each half."""

    @property
    def encoder_theta(self) -> nn.Parameter: ...

    @property
    def decoder_theta(self) -> nn.Parameter: ...

    def encode_moments(self, video: Tensor) -> Tensor: ...

    def decode(self, latent: Tensor) -> Tensor: ...


class Generator(Protocol):
    """What the generator's step asks of the adversary; see objective/adversary.py."""

    def generator_loss(self, reconstruction: Tensor) -> Tensor: ...

    def adaptive_weight(self, at_reference: Tensor, at_generator: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class StepInputs:
    """One batch and its random streams. video (B,3,T,H,W). noise: the posterior's draw; draws: one generator a
    regulariser, all equal on all ranks. ranks: over which batch statistics, gradient norms and draws are shared."""

    video: Tensor
    noise: torch.Generator
    draws: Mapping[str, torch.Generator]
    ranks: Ranks = ALONE


@dataclass(frozen=True, slots=True)
class StepOutput:
    """loss: detached weighted total (its value, not its graph). scalars: every unweighted term, weight and part.

    context: for diagnostics, detached from the encoder and from the decoder.
    """

    loss: Tensor
    scalars: dict[str, Tensor]
    context: StepContext


@dataclass(frozen=True, slots=True)
class _Forward:
    """moments: with the encoder's graph; leaf: the same, cut off. graph: the decoder's output with its graph."""

    moments: Tensor
    leaf: Tensor
    posterior: Posterior
    latent: Tensor
    decoded_latent: Tensor
    graph: Tensor
    target: Tensor


def vae_step(
    inputs: StepInputs,
    *,
    vae: Autoencoder,
    regularizers: Mapping[str, LatentRegularizer],
    weights: Mapping[str, Weight],
    nll: NegativeLogLikelihood,
    adversary: Generator | None = None,
    train_encoder: bool = True,
) -> StepOutput:
    """Forward and backward of one batch for the generator; gradients accumulate in the parameters.

    regularizers act in their order: ``prepare`` before encoding, ``transform`` between encoder and decoder. weights:
    one for each name that ``terms`` yields. adversary: None while it does not act. Without ``train_encoder`` the
    encoder runs without a graph; terms on the posterior are measured and pull at nothing.
    """
    run = _forward(inputs, vae, regularizers, train_encoder)
    reconstruction = run.graph.detach().requires_grad_()
    value = nll(reconstruction, run.target)
    torch.autograd.backward(value.nll)
    of_nll, reconstruction.grad = reconstruction.grad, None
    assert of_nll is not None
    context = StepContext(
        video=inputs.video, posterior=run.posterior, latent=run.latent, decoded_latent=run.decoded_latent,
        reconstruction=reconstruction, target=run.target, decode=vae.decode, generator=inputs.noise,
        distance=nll.distance, unit=nll.unit(run.target),
    )  # fmt: skip
    scalars = {"nll": value.nll.detach(), "l1": value.l1.detach(), "logscale": nll.logscale.detach().clone()}
    if value.lpips is not None:
        scalars["lpips"] = value.lpips.detach()
    total, rest = value.nll.detach(), None
    if adversary is not None:
        term, weight, rest = _adversarial(adversary, reconstruction, of_nll, run.graph, vae.decoder_theta, inputs.ranks)
        scalars.update({"generator": term, "generator/weight": weight})
        total = total + weight * term

    terms: dict[str, Tensor] = {}
    for regularizer in regularizers.values():
        terms.update(regularizer.terms(context))
    balanced = [name for name, term in terms.items() if _is_balanced(weights[name], term, run.leaf, inputs.ranks)]
    lasting = any(term.requires_grad for term in terms.values())
    reference = None
    if balanced:
        # Terms share the graph between moments and latent (and may decode), so it must outlive this pass. The peak
        # of memory is the end of the forward pass either way.
        torch.autograd.backward(run.graph, of_nll, retain_graph=lasting or rest is not None)
        assert run.leaf.grad is not None
        reference = _at_theta(run, vae.encoder_theta, run.leaf.grad, inputs.ranks)
    else:
        rest = of_nll if rest is None else of_nll + rest
    weighted: list[Tensor] = []
    for name, term in terms.items():
        fixed = weights[name].value if weights[name].policy == "fixed" else 0.0
        weight = torch.tensor(fixed, device=term.device)
        if name in balanced:
            assert reference is not None
            (at_leaf,) = torch.autograd.grad(term, run.leaf, retain_graph=True)
            at_theta = _at_theta(run, vae.encoder_theta, at_leaf, inputs.ranks)
            weight = weights[name].value * gradient_ratio(reference, at_theta)
        scalars[name], scalars[f"{name}/weight"] = term.detach(), weight
        if term.requires_grad and (name in balanced or fixed != 0.0):
            weighted.append(weight * term)
            total = total + weight * term.detach()
    if weighted:
        torch.autograd.backward(torch.stack(weighted).sum(), retain_graph=True)
        if reconstruction.grad is not None:
            rest = reconstruction.grad if rest is None else rest + reconstruction.grad
    if rest is not None:
        torch.autograd.backward(run.graph, rest)
    if train_encoder:
        assert run.leaf.grad is not None
        torch.autograd.backward(run.moments, run.leaf.grad.to(run.moments))
    return StepOutput(total, scalars, context)


@torch.no_grad()
def reconstruct(
    inputs: StepInputs, *, vae: Autoencoder, regularizers: Mapping[str, LatentRegularizer]
) -> tuple[Tensor, Tensor]:
    """(target, reconstruction) of one batch as a training step makes them, without gradients: the critic's batch when
    the players alternate."""
    run = _forward(inputs, vae, regularizers, train_encoder=False)
    return run.target, run.graph


def _forward(
    inputs: StepInputs, vae: Autoencoder, regularizers: Mapping[str, LatentRegularizer], train_encoder: bool
) -> _Forward:
    encoded = inputs.video
    for name, regularizer in regularizers.items():
        encoded = regularizer.prepare(encoded, inputs.draws[name])
    with torch.set_grad_enabled(train_encoder and torch.is_grad_enabled()):
        moments = vae.encode_moments(encoded)
    # Terms and their gradients are float32 or wider: LCR's share is smaller than bfloat16's last digit.
    leaf = moments.detach().float() if moments.dtype in (torch.bfloat16, torch.float16) else moments.detach()
    if train_encoder:
        leaf.requires_grad_()
    posterior = Posterior.from_moments(leaf)
    latent = posterior.sample(inputs.noise, (inputs.ranks.rank, inputs.ranks.world))
    decoded, target = latent, inputs.video
    for name, regularizer in regularizers.items():
        decoded, target = regularizer.transform(decoded, target, inputs.draws[name])
    return _Forward(moments, leaf, posterior, latent, decoded, vae.decode(decoded), target)


def _adversarial(
    adversary: Generator, reconstruction: Tensor, of_nll: Tensor, graph: Tensor, theta: nn.Parameter, ranks: Ranks
) -> tuple[Tensor, Tensor, Tensor]:
    """(generator's loss, its weight, weighted gradient at the pixels); norms are taken at the decoder's last layer."""
    loss = adversary.generator_loss(reconstruction)
    (at_pixels,) = torch.autograd.grad(loss, reconstruction)
    of_both = [
        ranks.mean(torch.autograd.grad(graph, theta, gradient.to(graph), retain_graph=True)[0])
        for gradient in (of_nll, at_pixels)
    ]
    weight = adversary.adaptive_weight(of_both[0], of_both[1])
    return loss.detach(), weight, weight * at_pixels


def _is_balanced(weight: Weight, term: Tensor, leaf: Tensor, ranks: Ranks) -> bool:
    """Does this term need gradient norms? A hinge that is satisfied has no gradient: nothing to balance.

    Ranks meet to agree on norms, so among several the answer must not hang on a number that may differ in a digit.
    """
    adaptive = weight.policy == "grad_ratio" and weight.value != 0.0
    needed = adaptive and leaf.requires_grad and term.requires_grad
    return needed and (ranks.world > 1 or float(term.detach()) != 0.0)


def _at_theta(run: _Forward, theta: nn.Parameter, at_leaf: Tensor, ranks: Ranks) -> Tensor:
    """Gradient at the encoder's last weight of what has the gradient ``at_leaf`` at the moments, mean over ranks."""
    return ranks.mean(torch.autograd.grad(run.moments, theta, at_leaf.to(run.moments), retain_graph=True)[0])
