"""Loss and gradients of one VAE step, chained at the reconstruction and at the encoder's moments.

Dimension legend
    B batch, 3 colours, T frames, H W pixels              video   (B,3,T,H,W), float, [-1, 1]
    C latent channels, F latent frames, h w latent pixels latent  (B,C,F,h,w), float; moments (B,2C,F,h,w)

An adaptive weight needs the reconstruction's gradient at the encoder's last layer. Cutting the graph at the moments
gives it for nothing: the decoder back-propagates once, down to the moments; every term adds its own gradient there;
the encoder back-propagates the sum once. The result equals one backward pass of the weighted total.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ssvae.core.types import Posterior, StepContext
from ssvae.objective.nll import NegativeLogLikelihood
from ssvae.objective.weighting import Weight, gradient_ratio

VERSION = 1
Backward = Callable[..., None]


class LatentRegularizer(Protocol):
    """What a step asks of a regulariser; see regularizers/base.py."""

    def prepare(self, video: Tensor, generator: torch.Generator) -> Tensor: ...

    def transform(self, latent: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]: ...

    def terms(self, ctx: StepContext) -> dict[str, Tensor]: ...

    def stats(self, ctx: StepContext) -> dict[str, Tensor]: ...


class Autoencoder(Protocol):
    """What a step asks of a VAE: the moments, the decoder, and θ (the encoder's last convolution weight)."""

    def encode_moments(self, video: Tensor) -> Tensor: ...

    def decode(self, latent: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class StepOutput:
    """loss: detached weighted total (its value, not its graph). scalars: every unweighted term, weight and part.

    context: for diagnostics, detached from the encoder.
    """

    loss: Tensor
    scalars: dict[str, Tensor]
    context: StepContext


def vae_step(
    video: Tensor,
    *,
    vae: Autoencoder,
    theta: nn.Parameter,
    regularizers: Mapping[str, LatentRegularizer],
    weights: Mapping[str, Weight],
    nll: NegativeLogLikelihood,
    noise: torch.Generator,
    draws: Mapping[str, torch.Generator],
    backward: Backward,
) -> StepOutput:
    """Forward and backward of one batch; gradients accumulate in the parameters.

    video (B,3,T,H,W). regularizers act in their order: ``prepare`` before encoding, ``transform`` between encoder and
    decoder. weights: one for each name that ``terms`` yields. noise: the posterior's draw; draws: one generator a
    regulariser. backward: usually ``accelerator.backward``.
    """
    encoded = video
    for name, regularizer in regularizers.items():
        encoded = regularizer.prepare(encoded, draws[name])
    moments = vae.encode_moments(encoded)
    leaf = moments.detach().requires_grad_()
    posterior = Posterior.from_moments(leaf)
    latent = posterior.sample(noise)
    decoded, target = latent, video
    for name, regularizer in regularizers.items():
        decoded, target = regularizer.transform(decoded, target, draws[name])
    reconstruction = vae.decode(decoded)
    context = StepContext(video, posterior, latent, decoded, reconstruction, target, vae.decode, noise)

    value = nll(reconstruction, target)
    scalars = {"nll": value.nll.detach(), "l1": value.l1.detach(), "logscale": nll.logscale.detach().clone()}
    if value.lpips is not None:
        scalars["lpips"] = value.lpips.detach()
    terms: dict[str, Tensor] = {}
    for regularizer in regularizers.values():
        terms.update(regularizer.terms(context))
    # Terms share the graph between moments and latent (and may decode), so it must outlive the first pass. The peak
    # of memory is the end of the forward pass either way.
    backward(value.nll, retain_graph=any(term.requires_grad for term in terms.values()))
    assert leaf.grad is not None
    reference = leaf.grad.clone()

    total = value.nll.detach()
    weighted: list[Tensor] = []
    for name, term in terms.items():
        weight = _weight(weights[name], term, reference, leaf, moments, theta)
        scalars[name] = term.detach()
        scalars[f"{name}/weight"] = weight
        if term.requires_grad:
            weighted.append(weight * term)
        total = total + weight * term.detach()
    if weighted:
        backward(torch.stack(weighted).sum())
    # <moments, gradient> has exactly that gradient: the encoder's one backward pass.
    backward((moments.float() * leaf.grad.float()).sum())
    return StepOutput(total, scalars, context)


def _weight(
    weight: Weight, term: Tensor, reference: Tensor, leaf: Tensor, moments: Tensor, theta: nn.Parameter
) -> Tensor:
    if weight.policy == "fixed" or weight.value == 0.0:
        return torch.tensor(weight.value, device=term.device)
    # A hinge that is satisfied has no gradient: nothing to balance.
    if not term.requires_grad or float(term.detach()) == 0.0:
        return torch.zeros((), device=term.device)
    (at_leaf,) = torch.autograd.grad(term, leaf, retain_graph=True)
    at_theta = [
        torch.autograd.grad(moments, theta, grad_outputs=gradient.to(moments), retain_graph=True)[0]
        for gradient in (reference, at_leaf)
    ]
    return weight.value * gradient_ratio(at_theta[0], at_theta[1])
