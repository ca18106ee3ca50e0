"""FVD, the Fréchet video distance (Unterthiner et al., arXiv 1812.01717), by StyleGAN-V's protocol (arXiv 2112.14683).

8 bits a colour, scaled and resized inside the I3D file, its 400 outputs before the softmax, covariance divided by n (as
in the StyleGAN family's code). StyleGAN-V compares 2048 clips with 2048 clips of 16 consecutive frames; take these
counts for a number beside published ones, and equal counts in any case: the bias depends on them. ``rfvd`` is the same
distance between clips and their reconstructions.

Dimension legend: B clips, T frames, H W pixels, k frames taken, D features; videos (B,3,T,H,W), float, [-1,1].
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from ssvae.metrics.feature_set import Denominator
from ssvae.metrics.frechet_metric import as_pictures
from ssvae.models.i3d import LEAST_FRAMES, I3DFeatures, load_i3d

FVD_PROTOCOL = "fvd/1"
FVD_FRAMES = 16


class FVDNetwork:
    """I3D as FVD's feature network.

    frames: k, the first frames of each clip that are looked at, 16 in StyleGAN-V and at least 9, which I3D needs. A
    shorter clip is refused, never repeated or padded: for clips of 9 to 15 frames lower ``frames``; the protocol says
    so, and such numbers share no table with those of 16. Raises ValueError for fewer than 9.
    """

    metric = "fvd"
    denominator: Denominator = "n"

    def __init__(self, i3d: I3DFeatures, frames: int = FVD_FRAMES) -> None:
        if frames < LEAST_FRAMES:
            raise ValueError(f"FVD frames must be at least {LEAST_FRAMES}, which I3D needs, got {frames}")
        self.network = i3d
        self.frames = frames
        self.dim = i3d.dim
        self.weights = i3d.sha256
        self.preprocessing = f"{FVD_PROTOCOL};net=i3d_styleganv;input=uint8;resize=in_network;frames={frames}"

    def features_a_clip(self, frames: int) -> int:
        """1; ValueError for a clip of fewer frames than are looked at."""
        if frames < self.frames:
            raise ValueError(
                f"FVD looks at {self.frames} frames, the clip has {frames}: take longer clips, or lower FVD's frames "
                f"(at least {LEAST_FRAMES})"
            )
        return 1

    @torch.no_grad()
    def features(self, videos: Tensor) -> Tensor:
        """Clips (B,3,T,H,W) in [-1,1] -> (B,D), float64 on the CPU. Raises ValueError for other axes, non-finite
        values or clips that are too short."""
        pictures = as_pictures(videos)
        self.features_a_clip(videos.shape[2])
        return self.network(pictures[:, :, : self.frames].float()).double().cpu()


def load_fvd(path: str | os.PathLike[str], frames: int = FVD_FRAMES, device: torch.device | str = "cpu") -> FVDNetwork:
    """FVD's network from StyleGAN-V's I3D file. Errors as :func:`~ssvae.models.i3d.load_i3d`."""
    return FVDNetwork(load_i3d(path, device), frames)
