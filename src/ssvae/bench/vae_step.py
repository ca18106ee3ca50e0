"""One training step of the default VAE with LCR, against the same equations in plain operators and one graph.

The plain step pads, convolves and normalises one after the other, builds each window's N x N matrix for the local
correlation, and asks autograd twice for the gradient at the encoder's last layer before it goes back through the
whole graph a third time.

Dimension legend
    B batch, 3 colours, T frames, H W pixels              video (B,3,T,H,W), float32, [-1, 1]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ssvae.bench.naive import local_correlation_naive
from ssvae.bench.naive_vae import naive_decode, naive_encode_moments
from ssvae.bench.pair import Pair, relative_difference
from ssvae.build import build_nll, build_regularizers, build_vae
from ssvae.config.compose import resolve
from ssvae.config.reg import TrainedStage, terms_in
from ssvae.core.seeds import seed_everything, torch_generator
from ssvae.core.types import Posterior
from ssvae.data.pixels import to_video
from ssvae.data.synthetic import render
from ssvae.models.vae import VideoVAE
from ssvae.objective.nll import NegativeLogLikelihood
from ssvae.objective.vae_step import StepInputs, vae_step
from ssvae.objective.weighting import Weight
from ssvae.regularizers.base import Regularizer
from ssvae.regularizers.lcr import LCR
from ssvae.stats.local_corr import local_correlation

OVERRIDES = ("reg=lcr",)
TOLERANCE = 1e-4
"""Of gradients in float32, relative to the largest: rounding of sums in another order."""


@dataclass(frozen=True)
class StepCase:
    """A VAE with everything that one step needs, and the batch (B,3,T,H,W)."""

    vae: VideoVAE
    regularizers: dict[str, Regularizer]
    weights: dict[str, Weight]
    nll: NegativeLogLikelihood
    video: Tensor

    @property
    def trained(self) -> list[nn.Parameter]:
        return [*self.vae.parameters(), *self.nll.parameters()]


@dataclass(frozen=True)
class Forward:
    """The three networks and statistics of a step, fast or plain."""

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    correlation: Callable[[Tensor], Tensor]


def pairs() -> list[Pair]:
    """``vae_step``: everything fast against everything plain; ``vae_step_gradient``: the fast networks in both."""
    case = build_case(OVERRIDES)
    update = "forward, backward, clipping and AdamW"
    size = "x".join(map(str, case.video.shape[2:]))
    what = f"{update}, tiny VAE with LCR, batch {len(case.video)} of {size}"
    return [
        step_pair("vae_step", what, "ssvae.bench.naive_vae and ssvae.bench.vae_step.single_graph", case, plain(case)),
        step_pair("vae_step_gradient", what, "ssvae.bench.vae_step.single_graph, fast networks", case, fast(case)),
    ]


def build_case(overrides: tuple[str, ...], batch: int = 8) -> StepCase:
    """The configured default with fresh weights and ``batch`` synthetic clips of its resolution."""
    cfg = resolve(overrides)[0].cfg
    seed_everything(0, "bench/vae_step")
    resolution = cfg.resolution
    frames = [
        render(index, frames=resolution.frames, size=resolution.height, fps=resolution.fps).frames
        for index in range(batch)
    ]
    video = torch.stack([to_video(torch.from_numpy(clip).permute(0, 3, 1, 2)) for clip in frames])
    vae = build_vae(cfg.vae)
    terms = terms_in(cfg.reg.terms, TrainedStage.pretrain)
    regularizers, weights = build_regularizers(terms, vae, resolution)
    return StepCase(vae, regularizers, weights, build_nll(cfg.objective), video)


def plain(case: StepCase) -> Forward:
    """Textbook operators on the weights of ``case``."""
    window = _lcr(case).window
    return Forward(
        partial(naive_encode_moments, case.vae),
        partial(naive_decode, case.vae),
        lambda mean: local_correlation_naive(mean, window),
    )


def fast(case: StepCase) -> Forward:
    """The package's own networks."""
    window = _lcr(case).window
    return Forward(case.vae.encode_moments, case.vae.decode, lambda mean: local_correlation(mean, window).mean)


def chained(case: StepCase) -> Tensor:
    """Gradients of one step by :func:`ssvae.objective.vae_step.vae_step`; returns the loss."""
    draws = {name: torch_generator(0, f"bench/{name}") for name in case.regularizers}
    out = vae_step(
        StepInputs(case.video, _noise(), draws),
        vae=case.vae,
        regularizers=case.regularizers,
        weights=case.weights,
        nll=case.nll,
    )
    return out.loss


def single_graph(case: StepCase, forward: Forward) -> Tensor:
    """The same step as one graph: two gradients at the encoder's last layer, then one pass of the weighted total."""
    moments = forward.encode(case.video)
    posterior = Posterior.from_moments(moments)
    reconstruction = forward.decode(posterior.sample(_noise()))
    scale = case.nll.logscale
    batch = len(case.video)
    nll = ((reconstruction - case.video).abs() / scale.exp() + scale).sum() / batch
    mean, logvar = posterior.mean, posterior.logvar
    kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum() / batch
    lcr = torch.relu(_lcr(case).threshold - forward.correlation(mean))
    theta = case.vae.encoder.conv_out.weight
    (of_nll,) = torch.autograd.grad(nll, theta, retain_graph=True)
    (of_lcr,) = torch.autograd.grad(lcr, theta, retain_graph=True)
    balance = (of_nll.norm() / (of_lcr.norm() + 1e-4)).clamp(0, 1e8)
    total = nll + case.weights["kl"].value * kl + case.weights["lcr"].value * balance * lcr
    total.backward()
    return total.detach()


def gradients(case: StepCase, step: Callable[[], Tensor]) -> Tensor:
    """Loss and all gradients of a step in one vector; the gradients of ``case`` are empty before and after."""
    loss = step()
    parts = [parameter.grad for parameter in case.trained]
    assert all(part is not None for part in parts)
    vector = torch.cat([loss[None], *(part.flatten() for part in parts if part is not None)])
    for parameter in case.trained:
        parameter.grad = None
    return vector


def step_pair(name: str, what: str, reference: str, case: StepCase, forward: Forward) -> Pair:
    """Whole updates. The learning rate is 0, so every update costs the same and all start from the same weights."""
    optimizer = torch.optim.AdamW(case.trained, lr=0.0, weight_decay=0.0, fused=True)

    def update(step: Callable[[], Any]) -> None:
        step()
        torch.nn.utils.clip_grad_norm_(case.trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    ours, theirs = partial(chained, case), partial(single_graph, case, forward)
    return Pair(
        name=name,
        what=what,
        reference=reference,
        fast=partial(update, ours),
        naive=partial(update, theirs),
        difference=lambda: relative_difference(gradients(case, ours), gradients(case, theirs)),
        tolerance=TOLERANCE,
    )


def _lcr(case: StepCase) -> LCR:
    lcr = case.regularizers["lcr"]
    assert isinstance(lcr, LCR)
    return lcr


def _noise() -> torch.Generator:
    return torch_generator(0, "bench/posterior")
