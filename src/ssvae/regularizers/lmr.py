"""Latent Masked Reconstruction (LMR) of SSVAE (arXiv 2512.05394), after the official code.

Some blocks of the sampled latent are replaced by a learned token before decoding, while the whole clip remains the
target: the decoder learns to bear latents that are not exactly the encoder's. Training only.

Dimension legend: latent (B,C,F,h,w); block (t,h,w); mask (F,h,w), True where masked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ssvae.core.types import StepContext
from ssvae.regularizers.base import Regularizer


class LMR(Regularizer):
    """Masks latent blocks in :meth:`transform`, with one ratio a batch and one mask for all its items.

    channels: C. ratios, probabilities: the masked fractions in [0, 1) and how often each is drawn. block: (t,h,w)
    of latent positions masked together; the published runs use (1,1,1) at 256 px and (2,2,2) at 512 px.

    Floor semantics of the official code: only the floor(F / t) · floor(h / block h) · floor(w / block w) whole blocks
    can be masked, so remainders at the far ends never are, while the number of masked blocks,
    max(1, floor(F·h·w·ratio / block volume)), counts the whole grid (at most all blocks are masked). A grid that
    holds no whole block, such as an image with t = 2, is not masked at all. Raises ValueError for bad values.
    """

    name = "lmr"

    def __init__(
        self,
        channels: int,
        ratios: Sequence[float] = (0.0, 0.25, 0.5, 0.75),
        probabilities: Sequence[float] = (0.7, 0.1, 0.1, 0.1),
        block: tuple[int, int, int] = (1, 1, 1),
    ) -> None:
        super().__init__()
        _check(channels, ratios, probabilities, block)
        self.ratios = tuple(float(ratio) for ratio in ratios)
        self.probabilities = tuple(float(probability) for probability in probabilities)
        self.block = (int(block[0]), int(block[1]), int(block[2]))
        self.mask_token = nn.Parameter(torch.randn(1, channels, 1, 1, 1))
        self._masked_fraction = 0.0

    def transform(self, latent: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latent (B,C,F,h,w) with masked positions replaced by the token; target unchanged.

        Draws the ratio, then, unless it is 0, one permutation of blocks, from ``generator`` (a CPU
        generator; give every rank the same stream for one mask a global batch). Ratio 0 and evaluation mode
        return ``latent`` itself.
        """
        self._masked_fraction = 0.0
        if not self.training:
            return latent, target
        ratio = self.draw_ratio(generator)
        if ratio == 0:
            return latent, target
        mask = self.draw_mask((latent.shape[2], latent.shape[3], latent.shape[4]), ratio, generator)
        self._masked_fraction = float(mask.float().mean())
        return torch.where(mask.to(latent.device), self.mask_token.to(latent.dtype), latent), target

    def draw_ratio(self, generator: torch.Generator) -> float:
        """One of ``ratios``, by ``probabilities``; takes one random number."""
        point = float(torch.rand((), generator=generator, dtype=torch.float64))
        for ratio, edge in zip(self.ratios, _edges(self.probabilities), strict=True):
            if point < edge:
                return ratio
        raise AssertionError("the last edge is infinite")

    def draw_mask(self, grid: tuple[int, int, int], ratio: float, generator: torch.Generator) -> Tensor:
        """Mask (F,h,w) for ``ratio`` > 0, on the CPU; takes one permutation, or nothing when no block fits."""
        mask = torch.zeros(grid, dtype=torch.bool)
        counts = [size // side for size, side in zip(grid, self.block, strict=True)]
        blocks = math.prod(counts)
        if blocks == 0:
            return mask
        masked = max(1, int(math.prod(grid) * ratio / math.prod(self.block)))
        chosen = torch.zeros(blocks, dtype=torch.bool)
        chosen[torch.randperm(blocks, generator=generator)[:masked]] = True
        full = chosen.view(counts)
        for axis, side in enumerate(self.block):
            full = full.repeat_interleave(side, dim=axis)
        mask[: full.shape[0], : full.shape[1], : full.shape[2]] = full
        return mask

    @torch.no_grad()
    def stats(self, ctx: StepContext) -> dict[str, Tensor]:
        """``masked_fraction``: share of latent positions masked in the latest :meth:`transform`."""
        return {"masked_fraction": torch.tensor(self._masked_fraction)}


def _edges(probabilities: Sequence[float]) -> list[float]:
    """Upper edge of each ratio's share of [0, 1); infinite from the last possible one on, whatever the rounding."""
    last = max(index for index, probability in enumerate(probabilities) if probability > 0)
    sums = [math.fsum(probabilities[: index + 1]) for index in range(len(probabilities))]
    return [total if index < last else math.inf for index, total in enumerate(sums)]


def _check(channels: int, ratios: Sequence[float], probabilities: Sequence[float], block: tuple[int, int, int]) -> None:
    if channels < 1:
        raise ValueError(f"lmr channels must be at least 1, got {channels}")
    if not ratios or len(ratios) != len(probabilities):
        raise ValueError(
            f"lmr needs one entry each in ratios and probabilities, got {len(ratios)} and {len(probabilities)}"
        )
    if any(not 0 <= ratio < 1 for ratio in ratios):
        raise ValueError(f"lmr ratios must lie in [0, 1), got {tuple(ratios)}: 1 would hide the whole latent")
    if any(not 0 <= probability <= 1 for probability in probabilities):
        raise ValueError(f"lmr probabilities must lie in [0, 1], got {tuple(probabilities)}")
    total = math.fsum(probabilities)
    if abs(total - 1) > 1e-6:
        raise ValueError(f"lmr probabilities must sum to 1, got {tuple(probabilities)} with sum {total:.6g}")
    if len(block) != 3 or any(int(side) != side or side < 1 for side in block):
        raise ValueError(f"lmr block must be three positive integers (t,h,w), got {tuple(block)}")
