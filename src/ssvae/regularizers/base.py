"""What a regulariser of the latent space may do, and where.

A regulariser acts in up to three places of a training step: on the clip before encoding (``prepare``), between
encoder and decoder (``transform``), and in the loss (``terms``). Each has a do-nothing default, so one idea stays
one small class. How strongly a term pulls is not decided here: terms are unweighted.

Dimension legend: video (B,3,T,H,W) in [-1,1]; latent (B,C,F,h,w); grid = (F,h,w).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ssvae.core.types import StepContext
from ssvae.stats.local_corr import AllSum


class Regularizer(nn.Module):
    """Base of all regularisers; learned parameters (a mask token, a projection) are ordinary module parameters.

    name: key of its terms and its config entry. version: raised by one whenever the numbers it makes change;
    part of a stage's identity. all_sum: sums a tensor over ranks, set by a training loop that wants batch
    statistics over the global batch; None = this process's batch alone. part: (rank, ranks); a draw for every
    sample is made for all ranks' batches, and this rank takes its part (as core.types.Posterior.sample does).
    """

    name: str = ""
    version: int = 1
    all_sum: AllSum | None = None
    part: tuple[int, int] = (0, 1)

    def check_grid(self, grid: tuple[int, int, int]) -> None:
        """Raise ValueError, before any training, when this regulariser cannot work on latents of ``grid`` (F,h,w)."""

    def prepare(self, video: Tensor, generator: torch.Generator) -> Tensor:
        """The clip to encode in place of ``video`` (B,3,T,H,W); default: the clip itself."""
        return video

    def transform(self, latent: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """What the decoder receives and has to reconstruct, (latent, target); default: both unchanged."""
        return latent, target

    def terms(self, ctx: StepContext) -> dict[str, Tensor]:
        """Named unweighted scalars with gradient, to be minimised; default: none."""
        return {}

    def stats(self, ctx: StepContext) -> dict[str, Tensor]:
        """Named detached scalars for the log, meaningful also when the term has weight 0; default: none."""
        return {}
