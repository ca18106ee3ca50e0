"""Gaussian noise on the latent that the decoder receives.

The SSVAE paper (arXiv 2512.05394) names it as an ablation beside LMR: encoder frozen, decoder fine-tuned on latents
with additive noise of variance 0.005. We know it from a third party's summary of the third version only; that the
variance is in units of the raw latent, and not of the normalised one, is our choice.

Dimension legend: latent (B,C,F,h,w).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ssvae.core.types import StepContext
from ssvae.regularizers.base import Regularizer


class Noise(Regularizer):
    """Decoder's latent = z + sqrt(variance)·ε, ε ~ N(0,1), in training only; the clip remains the target.

    variance: >= 0, in units of the raw latent; 0 leaves the latent alone. Raises ValueError for other values.
    """

    name = "noise"

    def __init__(self, variance: float = 0.005) -> None:
        super().__init__()
        if not (math.isfinite(variance) and variance >= 0):
            raise ValueError(f"noise variance must be a number >= 0, got {variance}: 0.005 is the published value")
        self.std = math.sqrt(variance)
        self._applied = 0.0

    def transform(self, latent: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latent (B,C,F,h,w) with fresh noise on every value; target unchanged.

        The noise of all ranks' batches comes from ``generator`` (on its own device), and this rank takes its part.
        Evaluation mode and variance 0 draw nothing and return ``latent`` itself.
        """
        self._applied = self.std if self.training else 0.0
        if self._applied == 0:
            return latent, target
        rank, ranks = self.part
        batch, *rest = latent.shape
        noise = torch.randn(ranks * batch, *rest, generator=generator, device=generator.device)
        return latent + self.std * noise[rank * batch : (rank + 1) * batch].to(latent), target

    @torch.no_grad()
    def stats(self, ctx: StepContext) -> dict[str, Tensor]:
        """``noise_std``: of the latest :meth:`transform`; ``latent_std``: of the sampled latent's values, about 0."""
        return {"noise_std": torch.tensor(self._applied), "latent_std": ctx.latent.float().square().mean().sqrt()}
