"""Scale equivariance (SE) of "Improving the Diffusability of Autoencoders" (arXiv 2502.14831), for images and video.

The sampled latent, scaled down, has to decode to the clip, scaled down: L = α·d(x̃, Dec(z̃)). High frequencies that
scaling removes from the latent can then carry none of the content that the small clip still shows.

Dimension legend
    video (B,3,T,H,W)        latent (B,C,F,h,w); the first frame stands alone, F - 1 and T - 1 are the later ones
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ssvae.core.types import StepContext
from ssvae.regularizers.base import Regularizer

Axes = Literal["space", "space_time"]


class SE(Regularizer):
    """Term ``se`` = unit · distance(Dec(z̃), x̃), z̃ and x̃ the sampled latent and the clip scaled down alike.

    factors: whole numbers >= 2; one is drawn a step, for the whole batch and all axes. The latent's new size comes
    first, max(1, floor(side / factor)), and the clip is brought to the size that it decodes to, so that any size works
    and the true factor is one an axis: 5 latent rows by factor 2 become 2, both latent and clip by 2.5.

    axes: ``space`` scales height and width; ``space_time`` the later frames as well. There the first frame is scaled
    in space only and stays first, and the later ones are scaled among themselves, F - 1 latent frames to
    max(1, floor((F - 1) / factor)) and the clip's later frames by the same true factor. So a small clip has 1 + r·k
    frames again. That form, and the draw from ``factors`` as whole numbers, are ours; the paper speaks of x2 to x4.
    Scaling is (bi- or tri-)linear, align_corners=False, without antialiasing, as in the re-implementation we know.

    distance is the mean of the likelihood's own L1 + LPIPS, and unit the values of the *full* clip over exp(s)
    (StepContext), so likelihood and term are unit·(d(x, Dec z) + α·d(x̃, Dec z̃)): a weight of 0.25 is the paper's α
    beside mean distances. Summed over the small clip's own values it would count factor² less (space). The learned
    scale s gets no gradient from this term, and the critic never sees the small pair.

    What is compared is what was encoded: where another regulariser shortened the clip before encoding, the target is
    that beginning of the clip. The gradient reaches the encoder through the sampled latent, and the decoder.
    Raises ValueError for bad values.
    """

    name = "se"

    def __init__(self, factors: Sequence[int] = (2, 3, 4), axes: Axes = "space") -> None:
        super().__init__()
        if not factors or any(int(factor) != factor or factor < 2 for factor in factors):
            raise ValueError(f"se factors must be whole numbers of at least 2, at least one, got {tuple(factors)}")
        if axes not in get_args(Axes):
            raise ValueError(f"se axes must be one of {', '.join(get_args(Axes))}, got {axes!r}")
        self.factors = tuple(int(factor) for factor in factors)
        self.axes = axes
        self._factor = 0
        self._distance = torch.zeros(())

    def check_grid(self, grid: tuple[int, int, int]) -> None:
        """Raise ValueError where not even the least factor leaves a whole position of ``grid`` (F,h,w)."""
        frames, height, width = grid
        least = min(self.factors)
        if min(height, width) < least:
            raise ValueError(
                f"se factors {self.factors} do not fit latents of {height}x{width}: the least of them needs "
                f"{least} positions a side; take larger clips or smaller factors"
            )
        if self.axes == "space_time" and frames - 1 < least:
            raise ValueError(
                f"se axes=space_time with factors {self.factors} needs {least} later latent frames, the clips have "
                f"{frames - 1}: take longer clips, or axes=space"
            )

    def draw_factor(self, generator: torch.Generator) -> int:
        """One of ``factors``, all equally likely; takes one random number."""
        return self.factors[int(torch.randint(len(self.factors), (), generator=generator, device=generator.device))]

    def terms(self, ctx: StepContext) -> dict[str, Tensor]:
        """``se``: scalar >= 0 in the likelihood's unit. Draws the factor from ``ctx.generator`` and decodes once."""
        self._factor = self.draw_factor(ctx.generator)
        _, _, frames, height, width = ctx.latent.shape
        later = frames - 1
        small_later = _scaled(later, self._factor) if self.axes == "space_time" else later
        small = _resize(ctx.latent, 1 + small_later, _scaled(height, self._factor), _scaled(width, self._factor))
        decoded = ctx.decode(small)
        # The decoder tells how many clip frames stand for a latent frame, and so what was encoded.
        per_latent = (decoded.shape[2] - 1) // small_later if small_later else 0
        encoded = ctx.video[:, :, : 1 + later * per_latent]
        target = _resize(encoded, decoded.shape[2], decoded.shape[3], decoded.shape[4])
        distance = ctx.distance(decoded, target)
        self._distance = distance.detach()
        return {"se": ctx.unit * distance}

    @torch.no_grad()
    def stats(self, ctx: StepContext) -> dict[str, Tensor]:
        """Of the latest :meth:`terms`: ``factor``, as drawn; ``distance``, the mean distance of the small pair."""
        return {"factor": torch.tensor(float(self._factor)), "distance": self._distance}


def _scaled(side: int, factor: int) -> int:
    """``side`` positions scaled down: none stay none, and otherwise at least one is left."""
    return max(1, side // factor) if side else 0


def _resize(x: Tensor, frames: int, height: int, width: int) -> Tensor:
    """(B,K,T,·,·) -> (B,K,frames,height,width), linear; the first frame never mixes with the later ones."""
    if frames == x.shape[2]:
        # With equal frame counts the trilinear weights along time are exactly 0 and 1.
        return _linear(x, frames, height, width)
    return torch.cat([_linear(x[:, :, :1], 1, height, width), _linear(x[:, :, 1:], frames - 1, height, width)], dim=2)


def _linear(x: Tensor, frames: int, height: int, width: int) -> Tensor:
    return F.interpolate(x, size=(frames, height, width), mode="trilinear", align_corners=False)
