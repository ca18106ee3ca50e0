"""A training step's context for tests of regularisers: give what the test is about, the rest is filled in."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ssvae.core.types import Posterior, StepContext


def l1(reconstruction: Tensor, target: Tensor) -> Tensor:
    return (reconstruction - target).abs().mean()


def step_context(
    posterior: Posterior,
    video: Tensor | None = None,
    *,
    latent: Tensor | None = None,
    decoded_latent: Tensor | None = None,
    reconstruction: Tensor | None = None,
    target: Tensor | None = None,
    decode: Callable[[Tensor], Tensor] = lambda z: z,
    generator: torch.Generator | None = None,
    distance: Callable[[Tensor, Tensor], Tensor] = l1,
    unit: float = 1.0,
) -> StepContext:
    """video: zeros (B,3,5,4,4) unless given; latents: the posterior's mean; reconstruction and target: the video."""
    mean = posterior.mean
    clip = torch.zeros(mean.shape[0], 3, 5, 4, 4) if video is None else video
    drawn = mean if latent is None else latent
    return StepContext(
        video=clip,
        posterior=posterior,
        latent=drawn,
        decoded_latent=drawn if decoded_latent is None else decoded_latent,
        reconstruction=clip if reconstruction is None else reconstruction,
        target=clip if target is None else target,
        decode=decode,
        generator=torch.Generator().manual_seed(0) if generator is None else generator,
        distance=distance,
        unit=torch.tensor(unit),
    )
