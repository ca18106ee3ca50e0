"""VF, the vision-foundation loss of VA-VAE (Yao et al., arXiv 2501.01423), for images and for video.

Latents are drawn towards the features of a frozen vision network. With z' = W z (a learned 1x1 convolution without
bias, latent channels -> feature channels) and f the features at the same place,

    L_mcos = mean over positions i        of relu(1 - m1 - cos(z'_i, f_i))
    L_mdms = mean over pairs i, j of a frame of relu(|cos(z'_i, z'_j) - cos(f_i, f_j)| - m2)
    term   = L_mcos + L_mdms                with margins m1 = 0.5, m2 = 0.25

z is the posterior's sample, what VA-VAE's code projects. Pairs are all N² of one latent frame, i = j among them.
Memory grows with B·F·N²: 1.3 MB a clip and matrix at 17 x 256 x 256 and 16x compression, 21 MB at 512 px.

Video follows FSVideo (arXiv 2602.02092): features a frame; the first frame stands alone as it does in the latent; of
the frames behind one later latent frame the features are averaged. Ours: the features are put on the latent grid
bilinearly, and every latent frame counts the same. A clip of which only the beginning was encoded is compared over
that beginning.

Dimension legend: video (B,3,T,H,W) in [-1,1]; latent (B,C,F,h,w); N = h·w positions; features (n,D,gh,gw) of n frames;
r temporal compression, T = 1 + (F - 1)·r.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssvae.core.types import StepContext
from ssvae.regularizers.base import Regularizer


class Features(Protocol):
    """A frozen vision network: frames (n,3,H,W) in [-1,1] -> features (n,dim,gh,gw)."""

    dim: int

    def __call__(self, frames: Tensor, /) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class _Parts:
    """cosine: mean of cos(z', f), in [-1,1]. mcos, mdms: the two parts of the term. Scalars with gradient."""

    cosine: Tensor
    mcos: Tensor
    mdms: Tensor


class VisionFoundation(Regularizer):
    """Term ``vf`` = L_mcos + L_mdms of the sampled latent against ``features`` of the clip.

    channels: C. features: in eval mode and frozen; neither its weights nor its state are this module's. It runs
    without gradient, under the autocast that is active. temporal_ratio: r of the VAE (any value serves images).
    cos_margin, distance_margin: m1, m2 in [0, 2). The one learned parameter is ``projection.weight`` (D,C,1,1).
    All means run over samples, so averaging over ranks of equal batches is exact. Raises ValueError for bad values.
    """

    name = "vf"

    def __init__(
        self,
        channels: int,
        features: Features,
        temporal_ratio: int,
        cos_margin: float = 0.5,
        distance_margin: float = 0.25,
    ) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"vf channels must be at least 1, got {channels}")
        if temporal_ratio < 1:
            raise ValueError(f"vf temporal_ratio must be at least 1, got {temporal_ratio}")
        for key, margin in (("cos_margin", cos_margin), ("distance_margin", distance_margin)):
            if not 0 <= margin < 2:
                raise ValueError(f"vf {key} must lie in [0, 2), got {margin}: cosines are at most 2 apart")
        self.temporal_ratio = int(temporal_ratio)
        self.cos_margin = float(cos_margin)
        self.distance_margin = float(distance_margin)
        self.projection = nn.Conv2d(channels, features.dim, 1, bias=False)
        # Held in a tuple: frozen weights belong neither to the optimiser nor to a checkpoint.
        self._features = (features,)

    @property
    def features(self) -> Features:
        """The frozen network."""
        return self._features[0]

    def terms(self, ctx: StepContext) -> dict[str, Tensor]:
        """``vf``: scalar in [0, 4 - m1 - m2], with gradient to encoder and projection. ValueError for a short clip."""
        parts = self._parts(ctx)
        return {"vf": parts.mcos + parts.mdms}

    @torch.no_grad()
    def stats(self, ctx: StepContext) -> dict[str, Tensor]:
        """``cosine``: mean cosine of projected latent and feature, in [-1,1]; ``mcos``, ``mdms``: the term's parts.

        Runs the network again, so log it less often than every step.
        """
        parts = self._parts(ctx)
        return {"cosine": parts.cosine, "mcos": parts.mcos, "mdms": parts.mdms}

    def _parts(self, ctx: StepContext) -> _Parts:
        frames, height, width = ctx.latent.shape[2:]
        targets = self._targets(ctx.video, frames, (height, width))
        # Cosines are compared with margins to two digits: not a job for half precision.
        kind = ctx.latent.device.type
        # The meta device, on which costs are counted, knows no autocast.
        with torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext():
            weight = self.projection.weight
            projected = self.projection(ctx.latent.transpose(1, 2).flatten(0, 1).to(weight.dtype))
            ours, theirs = _unit_positions(projected), _unit_positions(targets)
            cosine = (ours * theirs).sum(-1)
            mcos = torch.relu(1 - self.cos_margin - cosine).mean()
            difference = ours @ ours.mT - theirs @ theirs.mT
            mdms = torch.relu(difference.abs() - self.distance_margin).mean()
        return _Parts(cosine.mean(), mcos, mdms)

    @torch.no_grad()
    def _targets(self, video: Tensor, latent_frames: int, size: tuple[int, int]) -> Tensor:
        """Features on the latent grid: (B·F,D,h,w), clip after clip."""
        used = 1 + (latent_frames - 1) * self.temporal_ratio
        if video.shape[2] < used:
            raise ValueError(
                f"vf: {latent_frames} latent frames at temporal compression {self.temporal_ratio} stand for {used} "
                f"frames, but the clip has {video.shape[2]}: give temporal_ratio of the VAE that made the latents"
            )
        if isinstance(self.features, nn.Module):
            self.features.to(video.device)
        maps = self.features(video[:, :, :used].transpose(1, 2).flatten(0, 1))
        assert maps.shape[1] == self.features.dim, (tuple(maps.shape), self.features.dim)
        by_clip = maps.to(self.projection.weight.dtype).unflatten(0, (video.shape[0], used))
        later = by_clip[:, 1:].unflatten(1, (latent_frames - 1, self.temporal_ratio)).mean(2)
        pooled = torch.cat([by_clip[:, :1], later], dim=1).flatten(0, 1)
        return functional.interpolate(pooled, size=size, mode="bilinear", align_corners=False)


def _unit_positions(maps: Tensor) -> Tensor:
    """(n,D,h,w) -> (n,N,D), every position's vector divided by its length; a zero vector stays zero."""
    return functional.normalize(maps.flatten(2).mT, dim=-1)
