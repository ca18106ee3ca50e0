"""Equivariance of EQ-VAE (arXiv 2502.09509): latent and target are scaled and rotated together.

In a share of the steps the sampled latent is scaled down and turned, and the decoder has to produce the target scaled
down and turned alike, under the whole loss. A share of the other steps trains at a smaller size altogether.

Dimension legend
    video, target (B,3,T,H,W)        latent (B,C,F,h,w), h = H/p, w = W/p, p = spatial compression
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ssvae.core.types import StepContext
from ssvae.regularizers.base import Regularizer

PARTS = 32
"""Scales are whole numbers of these parts of a side."""


@dataclass(frozen=True, slots=True)
class Draw:
    """One step's choice. scale, rotation: of latent and target together; input_scale: of the clip before encoding.

    Scales in 32nds, rotation in quarter turns counter-clockwise; at most one of the two scales is below 32.
    """

    scale: int = PARTS
    rotation: int = 0
    input_scale: int = PARTS


PLAIN = Draw()


class EQ(Regularizer):
    """One draw a step, for the whole batch and all ranks (give every rank the same stream), in training only.

    * With ``probability``: a scale s = n/32, n uniform in ``scales`` [least, largest], the same for both sides, and a
      number of quarter turns out of ``rotations``. Latent and target are resized, then turned, frame by frame.
    * Otherwise, with ``downscaled``: the clip is resized by such an s before encoding, and is its own target.
    * Otherwise a plain step. Images and video are treated alike; time is never resized.

    Resizing is bilinear, align_corners=False, without antialiasing. Sizes are chosen on the latent grid,
    max(1, round(side·s)), and are p times that in pixels, so that every pair fits; after rounding, the true scale of a
    small grid may differ a little from s and between the sides.

    spatial_ratio: p. The defaults are those of EQ-VAE's code. That a down-scaled clip draws from the same scales, and
    the rounding to the latent grid, are ours. Raises ValueError for bad values.
    """

    name = "eq"

    def __init__(
        self,
        spatial_ratio: int,
        probability: float = 0.5,
        scales: Sequence[int] = (8, 31),
        rotations: Sequence[int] = (1, 2, 3),
        downscaled: float = 0.25,
    ) -> None:
        super().__init__()
        _check(spatial_ratio, probability, scales, rotations, downscaled)
        self.spatial_ratio = spatial_ratio
        self.probability = float(probability)
        self.scales = (int(scales[0]), int(scales[1]))
        self.rotations = tuple(int(turns) for turns in rotations)
        self.downscaled = float(downscaled)
        self._draw = PLAIN

    def draw(self, generator: torch.Generator) -> Draw:
        """What one training step does; takes one to three random numbers."""
        if _chance(self.probability, generator):
            turns = self.rotations[_below(len(self.rotations), generator)]
            return Draw(scale=self._scale(generator), rotation=turns)
        if _chance(self.downscaled, generator):
            return Draw(input_scale=self._scale(generator))
        return PLAIN

    def prepare(self, video: Tensor, generator: torch.Generator) -> Tensor:
        """Makes the step's draw. The clip itself, or, when it is to be down-scaled, (B,3,T,p·h',p·w')."""
        self._draw = self.draw(generator) if self.training else PLAIN
        if self._draw.input_scale == PARTS:
            return video
        height, width = (_scaled(side // self.spatial_ratio, self._draw.input_scale) for side in video.shape[3:])
        return _resize(video, height * self.spatial_ratio, width * self.spatial_ratio)

    def transform(self, latent: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latent and target of the step that :meth:`prepare` began; draws nothing more.

        Transformed together, (B,C,F,h',w') and (B,3,T,p·h',p·w'); or, where the clip was scaled down before
        encoding, the latent itself with the target at its size; or both as they are (always in evaluation mode).
        """
        if not self.training:
            self._draw = PLAIN
        draw, ratio = self._draw, self.spatial_ratio
        if draw == PLAIN:
            return latent, target
        if draw.input_scale == PARTS:
            sides = [ratio * side for side in latent.shape[3:]]
            assert sides == list(target.shape[3:]), f"spatial_ratio is {ratio}: {latent.shape}, {target.shape}"
        height, width = (_scaled(side, draw.scale) for side in latent.shape[3:])
        latent, target = _resize(latent, height, width), _resize(target, ratio * height, ratio * width)
        if draw.rotation:
            latent, target = (torch.rot90(x, draw.rotation, dims=(3, 4)) for x in (latent, target))
        return latent, target

    @torch.no_grad()
    def stats(self, ctx: StepContext) -> dict[str, Tensor]:
        """The latest step's draw: ``scale`` (1 when plain) and ``rotation`` (quarter turns, 0 when plain) of latent and
        target, ``input_scale`` of the clip (1 unless it was scaled down)."""
        return {
            "scale": torch.tensor(self._draw.scale / PARTS),
            "rotation": torch.tensor(float(self._draw.rotation)),
            "input_scale": torch.tensor(self._draw.input_scale / PARTS),
        }

    def _scale(self, generator: torch.Generator) -> int:
        least, largest = self.scales
        return least + _below(largest - least + 1, generator)


def _chance(probability: float, generator: torch.Generator) -> bool:
    return float(torch.rand((), generator=generator, device=generator.device, dtype=torch.float64)) < probability


def _below(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator, device=generator.device))


def _scaled(side: int, scale: int) -> int:
    """Latent side after scaling, rounded half up, at least 1."""
    return max(1, math.floor(side * scale / PARTS + 0.5))


def _resize(x: Tensor, height: int, width: int) -> Tensor:
    """(B,K,T,·,·) -> (B,K,T,height,width), each frame on its own; ``x`` itself where the size is already that."""
    if (height, width) == tuple(x.shape[3:]):
        return x
    # With equal frame counts the trilinear weights along time are exactly 0 and 1.
    return F.interpolate(x, size=(x.shape[2], height, width), mode="trilinear", align_corners=False)


def _check(
    spatial_ratio: int, probability: float, scales: Sequence[int], rotations: Sequence[int], downscaled: float
) -> None:
    if spatial_ratio < 1:
        raise ValueError(f"eq spatial_ratio must be at least 1, got {spatial_ratio}")
    for name, share in (("probability", probability), ("downscaled", downscaled)):
        if not 0 <= share <= 1:
            raise ValueError(f"eq {name} must be a share in [0, 1], got {share}")
    if len(scales) != 2 or any(int(scale) != scale for scale in scales) or not 1 <= scales[0] <= scales[1] <= PARTS:
        raise ValueError(
            f"eq scales must be two whole numbers of 32nds, 1 <= least <= largest <= {PARTS}, got {tuple(scales)}"
        )
    if not rotations or any(turns not in (0, 1, 2, 3) for turns in rotations):
        raise ValueError(f"eq rotations must be quarter turns out of 0, 1, 2, 3, at least one, got {tuple(rotations)}")
