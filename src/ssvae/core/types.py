"""The small typed results that the parts of the bench exchange.

Dimension legend
    B batch, 3 colours, T frames, H W pixels              video   (B,3,T,H,W), float, [-1, 1]
    C latent channels, F latent frames, h w latent pixels latent  (B,C,F,h,w), float, unbounded
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

LOGVAR_RANGE = (-30.0, 20.0)
"""Clamp of the posterior log-variance (official SSVAE code)."""


@dataclass(frozen=True, slots=True)
class Posterior:
    """Diagonal Gaussian over latents.

    mean, logvar: (B,C,F,h,w); ``logvar`` is already clamped to :data:`LOGVAR_RANGE`.
    """

    mean: Tensor
    logvar: Tensor

    @classmethod
    def from_moments(cls, moments: Tensor) -> Posterior:
        """Split encoder output (B,2C,F,h,w) = mean ‖ logvar and clamp the log-variance."""
        mean, logvar = moments.chunk(2, dim=1)
        return cls(mean, logvar.clamp(*LOGVAR_RANGE))

    def mode(self) -> Tensor:
        """The posterior mean (B,C,F,h,w): what diffusion trains on."""
        return self.mean

    def sample(self, generator: torch.Generator | None = None, part: tuple[int, int] = (0, 1)) -> Tensor:
        """Draw z = mean + std·ε, (B,C,F,h,w).

        The noise is drawn on the generator's device (CPU by default) and moved, so one seed gives one
        draw on every device. part: (rank, ranks): the noise is this rank's part of the draw for all ranks' batches.
        """
        rank, ranks = part
        batch, *rest = self.mean.shape
        device = generator.device if generator is not None else self.mean.device
        noise = torch.randn(ranks * batch, *rest, generator=generator, device=device, dtype=torch.float32)
        noise = noise[rank * batch : (rank + 1) * batch]
        return self.mean + torch.exp(0.5 * self.logvar) * noise.to(self.mean)


@dataclass(frozen=True, slots=True)
class StepContext:
    """Everything a regulariser's terms may look at in one training step.

    video (B,3,T,H,W): the batch's clip; the encoder saw what ``prepare`` made of it. posterior: over (B,C,F,h,w).
    latent: the sample z before any transform. decoded_latent: what the decoder received. reconstruction, target
    (B,3,T,H,W), both after the transforms; a term on ``reconstruction`` reaches the decoder and the encoder, and takes
    a fixed weight. decode: latent -> video, with gradient. generator: a stream of random numbers that is equal on
    all ranks. distance: (reconstruction, target) of any one shape -> scalar with gradient, the likelihood's own
    distance (L1, and LPIPS where it is on) a value. unit: detached scalar, values of one target over exp(s): a
    distance times ``unit`` weighs as much as it would inside the likelihood.
    """

    video: Tensor
    posterior: Posterior
    latent: Tensor
    decoded_latent: Tensor
    reconstruction: Tensor
    target: Tensor
    decode: Callable[[Tensor], Tensor]
    generator: torch.Generator
    distance: Callable[[Tensor, Tensor], Tensor]
    unit: Tensor


Direction = Literal["up", "down", "none"]


@dataclass(frozen=True, slots=True)
class MetricValue:
    """One measured number with everything needed to read it.

    direction: which way is better ("none": descriptive). n: how many samples it rests on. ci95: 95 %
    interval of the mean over samples, where that makes sense. protocol: "<name>/<version>[;details]";
    a table refuses to mix protocols.
    """

    name: str
    value: float
    unit: str
    direction: Direction
    n: int
    ci95: tuple[float, float] | None
    protocol: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON-ready dictionary, the row format of ``metrics.json``."""
        row = asdict(self)
        row["ci95"] = list(self.ci95) if self.ci95 is not None else None
        return row
