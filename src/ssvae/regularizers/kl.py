"""Kullback-Leibler regularisation of the posterior towards N(0,1).

Summed over all latent dimensions and divided by the batch size, in nats: the scale of the official SSVAE code,
whose weight is 5e-4. Dimension legend: posterior mean, logvar (B,C,F,h,w).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ssvae.core.types import StepContext
from ssvae.regularizers.base import Regularizer
from ssvae.stats.gaussian import kl_per_dimension, kl_sum


class KL(Regularizer):
    """Term ``kl``: KL(posterior ‖ N(0,1)) summed over dimensions, averaged over the batch, in nats."""

    name = "kl"

    def terms(self, ctx: StepContext) -> dict[str, Tensor]:
        """``kl``: scalar >= 0."""
        return {"kl": kl_sum(ctx.posterior.mean, ctx.posterior.logvar).mean()}

    @torch.no_grad()
    def stats(self, ctx: StepContext) -> dict[str, Tensor]:
        """``kl_per_dim``: nats a latent dimension; ``posterior_std``: mean standard deviation of the posterior."""
        mean, logvar = ctx.posterior.mean, ctx.posterior.logvar
        return {
            "kl_per_dim": kl_per_dimension(mean, logvar).mean(),
            "posterior_std": torch.exp(0.5 * logvar).mean(),
        }
