"""Local Correlation Regularisation (LCR) of SSVAE (arXiv 2512.05394), after the official code.

A hinge on the local correlation of the posterior mean: L = relu(threshold - average), threshold 0.75. It pulls
neighbouring latent positions towards each other, which moves latent energy to low spatio-temporal frequencies,
and stops once the threshold is reached. How hard it pulls (there: 0.002 of the reconstruction gradient's norm) is
the weighting's business, not this file's.

Dimension legend: posterior mean (B,C,F,h,w); window (t,h,w); F = 1 for images.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ssvae.core.types import StepContext
from ssvae.regularizers.base import Regularizer
from ssvae.stats.local_corr import (
    LocalCorrelation,
    Window,
    channel_statistics,
    check_window,
    check_window_sides,
    local_correlation,
)

Average = Literal["mean", "frames", "windows"]


class LCR(Regularizer):
    """Term ``lcr`` = relu(threshold - average local correlation) of the posterior mean.

    threshold: in [-1, 1]. window: (t,h,w) positions that are compared; frame 0 uses (h,w).
    average: how the first frame's and the later frames' correlation combine for video: "mean" (each counts
    half, the published choice), "frames" (weighted by latent frames) or "windows" (weighted by windows).
    With ``all_sum`` set, channel statistics and average are those of the global batch, and gradients that the
    ranks average (DDP) equal those of one process with the whole batch. Raises ValueError for bad values.
    """

    name = "lcr"

    def __init__(self, threshold: float = 0.75, window: Window = (2, 2, 2), average: Average = "mean") -> None:
        super().__init__()
        if not -1 <= threshold <= 1:
            raise ValueError(f"lcr threshold must be a correlation in [-1, 1], got {threshold}")
        if average not in get_args(Average):
            raise ValueError(f"lcr average must be one of {', '.join(get_args(Average))}, got {average!r}")
        check_window_sides(window)
        self.window = (int(window[0]), int(window[1]), int(window[2]))
        self.threshold = float(threshold)
        self.average = average

    def check_grid(self, grid: tuple[int, int, int]) -> None:
        """Raise ValueError unless the window tiles latents of ``grid`` (F,h,w); F - 1 must be a multiple of t."""
        check_window(grid, self.window)

    def terms(self, ctx: StepContext) -> dict[str, Tensor]:
        """``lcr``: scalar in [0, threshold + 1]; exactly 0, with zero gradient, once the threshold is reached."""
        average, _ = self._average(ctx.posterior.mean)
        return {"lcr": torch.relu(self.threshold - average)}

    @torch.no_grad()
    def stats(self, ctx: StepContext) -> dict[str, Tensor]:
        """``local_correlation`` (average), ``local_correlation_first``, ``local_correlation_video`` (not for an
        image; these two of this process's batch), ``lcr_gap`` = threshold - average, negative when overfulfilled.
        """
        average, parts = self._average(ctx.posterior.mean)
        values = {
            "local_correlation": average,
            "lcr_gap": self.threshold - average,
            "local_correlation_first": parts.first,
        }
        if parts.video is not None:
            values["local_correlation_video"] = parts.video
        return values

    def _average(self, mean: Tensor) -> tuple[Tensor, LocalCorrelation]:
        latent = mean if mean.dtype == torch.float64 else mean.float()
        statistics = channel_statistics(latent, self.all_sum) if self.all_sum is not None else None
        parts = local_correlation(latent, self.window, statistics)
        average = self._combine(parts, latent.shape[2])
        if self.all_sum is None:
            return average, parts
        # Value of the global batch; gradient scaled so that the mean of all ranks' gradients is the global one.
        weight = float(latent.shape[0])
        packed = torch.stack([average.detach() * weight, average.new_tensor(weight), average.new_ones(())])
        weighted, total, ranks = self.all_sum(packed)
        local = average * (weight * ranks / total)
        return local + (weighted / total - local).detach(), parts

    def _combine(self, parts: LocalCorrelation, frames: int) -> Tensor:
        if parts.video is None or self.average == "mean":
            return parts.mean
        later = frames - 1 if self.average == "frames" else (frames - 1) // self.window[0]
        return (parts.first + later * parts.video) / (1 + later)
