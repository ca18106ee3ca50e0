"""Covariance penalty: pulls latents towards few channel modes.

SSVAE (arXiv 2512.05394) reports that penalising the channel covariance to force "few-mode bias" lowers the diffusion
loss, but the loss itself is not published. The three forms here are this project's own; a number made with
them is no reproduction of that experiment.

With R the channel correlation matrix of the posterior mean over all positions (B,F,h,w) of the batch, and λ its
eigenvalues (their sum is C), a form falls as fewer modes carry the variance:

    participation   (Σλ)² / Σλ² / C            in [1/C, 1]; equals C / ‖R‖², needs no eigenvalues
    top_share       1 - (K largest λ) / Σλ     in [0, 1 - K/C]
    entropy         H(λ / Σλ) / log C          in [0, 1]

The gradient goes through the standardisation: a term that held means and deviations constant would pay for merely
scaling a channel up, while R does not change when channels are scaled or shifted. A constant channel counts as
an eigenvalue 0 and gets no gradient. Everything is float64: C x C matrices cost nothing beside a VAE.

Where λ_K = λ_(K+1), top_share has a kink: which of the equal modes counts is the solver's choice, any choice is a
subgradient, and it is finite because only eigenvalues are differentiated, never eigenvectors. Estimates need many more
positions than channels; few positions look like few modes. Unlike LCR's hinge no form has a threshold: balanced by
gradient norms, the term keeps pulling until one mode is left, so watch ``effective_modes``.

Dimension legend: posterior mean (B,C,F,h,w), F = 1 for images; n = B·F·h·w positions; R (C,C); K = modes.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from ssvae.core.types import StepContext
from ssvae.regularizers.base import Regularizer
from ssvae.stats.local_corr import AllSum

Form = Literal["participation", "top_share", "entropy"]

CONSTANT = 1e-12
"""A channel whose variance is below this share of its mean square is rounding around a constant."""
LEAST_SHARE = 1e-12
"""Floor of λ / Σλ under the entropy's logarithm, whose slope is infinite at 0."""


class Covariance(Regularizer):
    """Term ``cov``: one of three measures of how many channel modes the posterior mean uses (see the file's head).

    channels: C >= 2. modes: K in [1, C - 1], used by ``top_share`` and in the statistics. With ``all_sum`` set, R is
    that of the global batch, and gradients that the ranks average (DDP) equal those of one process with the
    whole batch. Raises ValueError for bad values.
    """

    name = "cov"

    def __init__(self, channels: int, form: Form = "participation", modes: int = 4) -> None:
        super().__init__()
        if channels < 2:
            raise ValueError(f"cov channels must be at least 2, got {channels}: one channel has one mode")
        if form not in get_args(Form):
            raise ValueError(f"cov form must be one of {', '.join(get_args(Form))}, got {form!r}")
        if not 1 <= modes < channels:
            raise ValueError(f"cov modes must lie in [1, {channels - 1}] for {channels} channels, got {modes}")
        self.channels = int(channels)
        self.form = form
        self.modes = int(modes)

    def terms(self, ctx: StepContext) -> dict[str, Tensor]:
        """``cov``: scalar in [0, 1], float32 unless the posterior is float64. Non-finite latents give NaN."""
        mean = ctx.posterior.mean
        correlation = _correlation(mean, self.all_sum)
        if self.form == "participation":
            value = _effective_modes(correlation) / self.channels
        elif self.form == "top_share":
            value = 1 - _top_share(_shares(correlation), self.modes)
        else:
            value = _entropy(_shares(correlation))
        return {"cov": value.to(torch.float64 if mean.dtype == torch.float64 else torch.float32)}

    @torch.no_grad()
    def stats(self, ctx: StepContext) -> dict[str, Tensor]:
        """``effective_modes``: participation ratio, in [1, C]; ``top_share``: share of the variance that the first
        K modes carry; ``mode_entropy``: in [0, 1]. All of the global batch, whichever form is trained.
        """
        correlation = _correlation(ctx.posterior.mean, self.all_sum)
        shares = _shares(correlation)
        return {
            "effective_modes": _effective_modes(correlation),
            "top_share": _top_share(shares, self.modes),
            "mode_entropy": _entropy(shares),
        }


def _correlation(mean: Tensor, all_sum: AllSum | None) -> Tensor:
    """R (C,C) of (B,C,F,h,w), float64, with gradient; over the batches of all ranks if ``all_sum`` is given."""
    values = mean.movedim(1, -1).reshape(-1, mean.shape[1]).double()
    fixed = values.detach()
    sums = torch.cat([fixed.sum(0), fixed.square().sum(0), fixed.new_tensor([float(len(fixed)), 1.0])])
    if all_sum is not None:
        sums = all_sum(sums)
    (total, squares), count, ranks = sums[:-2].chunk(2), sums[-2], sums[-1]
    # Holding the centre constant is exact: deviations from it sum to zero, so its own gradient vanishes.
    centred = values - total / count
    scatter = centred.T @ centred
    if all_sum is not None:
        # Value of the global batch; gradient scaled so that the mean of all ranks' gradients is the global one.
        local = ranks * scatter
        scatter = local + (all_sum(scatter.detach()) - local.detach())
    spread = scatter.diagonal()
    varies = ~(spread.detach() <= CONSTANT * squares)  # true for NaN, which must come through
    inverse = torch.where(varies, spread, torch.ones_like(spread)).rsqrt() * varies
    return scatter * inverse[:, None] * inverse[None, :]


def _effective_modes(correlation: Tensor) -> Tensor:
    """(Σλ)² / Σλ² of R (C,C): the squared trace over the squared Frobenius norm."""
    return correlation.trace().square() / correlation.square().sum().clamp_min(1.0)


def _shares(correlation: Tensor) -> Tensor:
    """λ / Σλ of R (C,C), ascending, (C,); NaN if R is not finite, where the solver would raise instead."""
    if not torch.isfinite(correlation).all():
        return correlation.sum(0) * torch.nan
    return torch.linalg.eigvalsh(correlation) / correlation.trace().clamp_min(1.0)


def _top_share(shares: Tensor, modes: int) -> Tensor:
    return shares[-modes:].sum()


def _entropy(shares: Tensor) -> Tensor:
    """Entropy of shares (C,) over its largest value log C."""
    return torch.special.entr(shares.clamp_min(LEAST_SHARE)).sum() / math.log(len(shares))
