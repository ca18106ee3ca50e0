"""Kullback-Leibler regularisation of the posterior towards N(0,1).

Dimension legend: posterior mean, logvar (B,C,F,h,w), D = C·F·h·w dimensions; video (B,3,T,H,W), V = 3·T·H·W values.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ssvae.core.types import StepContext
from ssvae.regularizers.base import Regularizer
from ssvae.stats.gaussian import kl_per_dimension, kl_sum

Reduction = Literal["sum", "mean"]


class KL(Regularizer):
    """Term ``kl``: KL(posterior ‖ N(0,1)), averaged over the batch, in nats.

    With k = nats a latent dimension (the mean over D), ``reduction`` chooses

    * ``sum``: D·k, the sum over all dimensions. The official SSVAE code, whose beta is 5e-4.
    * ``mean``: V·k. The likelihood is a sum over the clip's V values, so beta weighs nats a dimension against the
      likelihood a value: beta·V·k + nll = V·(beta·k + nll / V).

    The two betas are not comparable: the losses are equal where beta_sum·D = beta_mean·V, and V/D depends on the clip.
    With 48 channels and 16x16x4 compression V/D is 54.4 for 17 frames and 16 for an image, so the official 5e-4 is a
    beta_mean of 9.2e-6 on those clips and of 3.1e-5 on images; with 128 channels V/D is 20.4 and 6.

    ``mean`` is for sweeps such as that of "Improving the Diffusability of Autoencoders" (arXiv 2502.14831; beta from
    0 to 1e-1 beside mean distances). That its KL is a mean over dimensions is our reading: the paper's text does not
    settle it. Its loss has no learned scale either; here the likelihood a value is distance / exp(s) + s, so that beta
    counts exp(s) times as much against the distance as it would there. Raises ValueError for another reduction.
    """

    name = "kl"

    def __init__(self, reduction: Reduction = "sum") -> None:
        super().__init__()
        if reduction not in get_args(Reduction):
            raise ValueError(f"kl reduction must be one of {', '.join(get_args(Reduction))}, got {reduction!r}")
        self.reduction = reduction

    def terms(self, ctx: StepContext) -> dict[str, Tensor]:
        """``kl``: scalar >= 0."""
        mean, logvar = ctx.posterior.mean, ctx.posterior.logvar
        if self.reduction == "sum":
            return {"kl": kl_sum(mean, logvar).mean()}
        return {"kl": kl_per_dimension(mean, logvar).mean() * ctx.video[0].numel()}

    @torch.no_grad()
    def stats(self, ctx: StepContext) -> dict[str, Tensor]:
        """``kl_per_dim``: nats a latent dimension; ``posterior_std``: mean standard deviation of the posterior."""
        mean, logvar = ctx.posterior.mean, ctx.posterior.logvar
        return {
            "kl_per_dim": kl_per_dimension(mean, logvar).mean(),
            "posterior_std": torch.exp(0.5 * logvar).mean(),
        }
