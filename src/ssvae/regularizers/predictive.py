"""Predictive reconstruction of PV-VAE, "Video Generation with Predictive Latents" (arXiv 2605.02134).

The end of the clip is dropped before encoding, and the decoder has to produce the whole clip all the same: latents
must tell how things go on. A second idea of that paper, the motion loss, comes with it: the squared error of frame
differences.

Dimension legend
    video (B,3,T,H,W), T = 1 + r·(F - 1), r = temporal compression        latent (B,C,F,h,w), k of F frames dropped
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ssvae.core.types import StepContext
from ssvae.regularizers.base import Regularizer

Padding = Literal["learned", "gaussian"]


class Predictive(Regularizer):
    """Drops k ~ U{0 .. floor((F - 1)·max_drop)} latent frames' worth of clip before encoding; one k a step, for all.

    channels: C. temporal_ratio: r. max_drop: in [0, 1]; 1, the published value, leaves at least the first frame.
    padding of the latent back to F frames: ``learned``, one token (1,C,1,1,1) for every missing position, or
    ``gaussian``, N(0,1) for every missing value. Images have nothing to drop, and evaluation drops nothing.

    Term ``motion`` = unit · mean (Δreconstruction - Δtarget)², Δ the difference of neighbouring frames, over the
    whole clip; unit (see StepContext) makes it weigh as a mean distance does in the likelihood. The paper has one λ for
    its squared error and this term, hence a weight of 1 here; but its pixel distance is squared, and ours is L1.
    Ours too, since the paper's text does not say: one token rather than one a position, its initial N(0,1) (as
    SSVAE's mask token), and unit variance of the Gaussian padding. Raises ValueError for bad values.
    """

    name = "predictive"

    def __init__(self, channels: int, temporal_ratio: int, max_drop: float = 1.0, padding: Padding = "learned") -> None:
        super().__init__()
        if channels < 1 or temporal_ratio < 1:
            raise ValueError(
                f"predictive channels and temporal_ratio must be at least 1, got {channels} and {temporal_ratio}"
            )
        if not 0 <= max_drop <= 1:
            raise ValueError(f"predictive max_drop must be a share in [0, 1], got {max_drop}")
        if padding not in get_args(Padding):
            raise ValueError(f"predictive padding must be one of {', '.join(get_args(Padding))}, got {padding!r}")
        self.temporal_ratio = temporal_ratio
        self.max_drop = float(max_drop)
        self.padding = padding
        self.token: nn.Parameter | None = None
        if padding == "learned":
            self.token = nn.Parameter(torch.randn(1, channels, 1, 1, 1))
        self._dropped_fraction = 0.0

    def check_grid(self, grid: tuple[int, int, int]) -> None:
        """Raise ValueError where clips of ``grid`` (F,h,w) are too short to ever drop anything."""
        if self.max_drop > 0 and self.most(grid[0]) == 0:
            raise ValueError(
                f"predictive max_drop {self.max_drop:g} drops nothing from clips of {grid[0]} latent frames: raise it "
                f"(at most 1), take longer clips, or set 0 for the motion term alone"
            )

    def most(self, frames: int) -> int:
        """Largest k for clips of ``frames`` latent frames: floor((F - 1)·max_drop), free of float rounding."""
        return math.floor((frames - 1) * self.max_drop + 1e-9)

    def prepare(self, video: Tensor, generator: torch.Generator) -> Tensor:
        """The clip (B,3,T,H,W) without its last r·k frames. Takes one random number, but none where k can only be 0."""
        self._dropped_fraction = 0.0
        frames = self._latent_frames(video)
        most = self.most(frames) if self.training else 0
        if most == 0:
            return video
        dropped = int(torch.randint(most + 1, (), generator=generator, device=generator.device))
        self._dropped_fraction = dropped / frames
        return video[:, :, : video.shape[2] - dropped * self.temporal_ratio]

    def transform(self, latent: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latent (B,C,F-k,h,w) padded at its end to the F frames of ``target`` (B,3,T,·,·), which is unchanged.

        Gaussian padding is drawn for all ranks' batches, and this rank takes its part. With k = 0 nothing is drawn and
        ``latent`` itself comes back.
        """
        missing = self._latent_frames(target) - latent.shape[2]
        assert missing >= 0, "the target is the whole clip, the latent is of a part of it"
        if missing == 0:
            return latent, target
        batch, channels, _, height, width = latent.shape
        if self.token is not None:
            end = self.token.to(latent.dtype).expand(batch, -1, missing, height, width)
        else:
            rank, ranks = self.part
            shape = (ranks * batch, channels, missing, height, width)
            noise = torch.randn(shape, generator=generator, device=generator.device)
            end = noise[rank * batch : (rank + 1) * batch].to(latent)
        return torch.cat([latent, end], dim=2), target

    def terms(self, ctx: StepContext) -> dict[str, Tensor]:
        """``motion``: scalar >= 0 in the likelihood's unit; 0 without gradient for images."""
        if ctx.target.shape[2] == 1:
            return {"motion": torch.zeros((), device=ctx.reconstruction.device)}
        moved = ctx.reconstruction.float().diff(dim=2) - ctx.target.float().diff(dim=2)
        return {"motion": ctx.unit * moved.square().mean()}

    @torch.no_grad()
    def stats(self, ctx: StepContext) -> dict[str, Tensor]:
        """``dropped_fraction``: k / F of the latest :meth:`prepare`, in [0, 1)."""
        return {"dropped_fraction": torch.tensor(self._dropped_fraction)}

    def _latent_frames(self, video: Tensor) -> int:
        later, rest = divmod(video.shape[2] - 1, self.temporal_ratio)
        assert rest == 0, f"{video.shape[2]} frames do not fit a temporal compression of {self.temporal_ratio}"
        return 1 + later
