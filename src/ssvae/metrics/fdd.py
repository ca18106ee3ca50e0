"""FDD, the Fréchet DINO distance (Stein et al., arXiv 2306.04675), on frames of videos.

As dgm-eval reads pictures: 8 bits a colour, resized by Pillow's bicubic filter to 224 x 224 whatever the aspect,
ImageNet's mean and deviation, CLS token of DINOv2 after its final norm, covariance divided by n - 1. Frames do not see
each other: FDD says how frames look, not how they move (that is FVD's part).

Dimension legend
    B clips, T frames, H W pixels, k frames taken of each clip, S size of the network's input, D feature dimension
    videos (B,3,T,H,W), float, [-1,1]
"""

from __future__ import annotations

import os

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssvae.metrics.feature_set import Denominator
from ssvae.metrics.frechet_metric import as_pictures, weights_hash
from ssvae.models.dinov2 import DinoV2Features, load_dinov2

FDD_PROTOCOL = "fdd/1"
FDD_SIZE = 224
_NAMES = {384: "vits", 768: "vitb", 1024: "vitl", 1536: "vitg"}


class FDDNetwork:
    """A DINOv2 as FDD's feature network.

    frames: k, how many frames of each clip are looked at, spread evenly (1: the middle one, so that features are
    independent as those of a set of pictures are; None: all). Raises ValueError for fewer than 1.
    """

    metric = "fdd"
    denominator: Denominator = "n-1"

    def __init__(self, dinov2: DinoV2Features, frames: int | None = 1) -> None:
        if frames is not None and frames < 1:
            raise ValueError(f"FDD frames must be at least 1 a clip, or None for all, got {frames}")
        self.network = dinov2
        self.frames = frames
        self.dim = dinov2.dim
        self.weights = weights_hash(dinov2.network)
        name = f"{_NAMES.get(self.dim, f'd{self.dim}-')}{dinov2.size // dinov2.grid}"
        taken = "all" if frames is None else str(frames)
        self.preprocessing = f"{FDD_PROTOCOL};net=dinov2_{name};input=uint8;resize=pil_bicubic_{dinov2.size};" + (
            f"feature=cls;frames={taken}"
        )

    def features_a_clip(self, frames: int) -> int:
        """k; ValueError for a clip of fewer frames."""
        if self.frames is not None and frames < self.frames:
            raise ValueError(f"FDD looks at {self.frames} frames a clip, the clip has {frames}: take fewer")
        return frames if self.frames is None else self.frames

    @torch.no_grad()
    def features(self, videos: Tensor) -> Tensor:
        """Clips (B,3,T,H,W) in [-1,1] -> CLS features (B·k,D), float64 on the CPU, clip by clip.

        Raises ValueError for other axes, non-finite values, or clips of fewer than k frames.
        """
        pictures = as_pictures(videos)
        chosen = pictures[:, :, frame_places(videos.shape[2], self.features_a_clip(videos.shape[2]))]
        frames = chosen.transpose(1, 2).flatten(0, 1)
        device = self.network.mean.device
        return self.network.cls(resized(frames, self.network.size).to(device)).double().cpu()


def load_fdd(
    name_or_path: str | os.PathLike[str] | None, frames: int | None = 1, device: torch.device | str = "cpu"
) -> FDDNetwork:
    """FDD's network from a folder, the local hub cache or the hub: ``facebook/dinov2-large`` is the published FDD's,
    ``facebook/dinov2-base`` a cheaper one for tracking. Errors as :func:`~ssvae.models.dinov2.load_dinov2`."""
    network = FDDNetwork(load_dinov2(name_or_path, size=FDD_SIZE, resize="bicubic"), frames)
    network.network.to(device)
    return network


def frame_places(frames: int, taken: int) -> list[int]:
    """Which of T frames are looked at: the middles of ``taken`` equal parts of the clip (the earlier of two)."""
    return [((2 * part + 1) * frames - taken) // (2 * taken) for part in range(taken)]


def resized(pictures: Tensor, size: int) -> Tensor:
    """uint8 frames (N,3,H,W) -> (N,3,S,S) float32 in [-1,1], by Pillow on the CPU: the same on every machine."""
    rows = []
    for picture in pictures.permute(0, 2, 3, 1).cpu().numpy():
        shown = Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC)
        rows.append(torch.from_numpy(np.array(shown)))
    return torch.stack(rows).permute(0, 3, 1, 2).float() / 127.5 - 1
