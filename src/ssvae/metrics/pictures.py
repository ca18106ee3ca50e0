"""Pictures of latents: their first three channel modes as red, green and blue, for a whole set on one scale.

The modes are eigenvectors of the set's channel covariance (raw latents, every position of every clip), strongest
first. An eigenvector's sign is arbitrary: here its entry of largest magnitude is positive, so equal latents give equal
colours. Each mode's 1st and 99th percentile over the set become -1 and 1; values beyond are clamped.

Percentiles of a set that comes in pieces are read from a histogram of 4096 bins over ±8 standard deviations of the
mode: counts merge exactly, in any order, and a bin (0.004 standard deviations) is far below one step of 8-bit colour.

Dimension legend
    B clips, C channels, F latent frames, h w latent pixels    latent (B,C,F,h,w); painted (B,3,F,h,w) in [-1,1]
    T frames, H W pixels of the clip                           video (B,3,T,H,W)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ssvae.core.shapes import check_ndim

COLOURS = 3
PERCENTILES = (1.0, 99.0)
BINS = 4096
ROUNDING = 1e-12
"""Share of the largest eigenvalue below which a mode is rounding: stretched to full colour it would be noise."""
REACH = 8.0
"""Standard deviations that the histogram covers on each side; what lies beyond counts in the last bin."""


def channel_modes(cov: Tensor, count: int = COLOURS) -> tuple[Tensor, Tensor]:
    """The ``count`` strongest modes of a channel covariance (C,C): basis (C,count) and standard deviations (count,).

    float64. Columns have unit length, their entry of largest magnitude is positive; modes that fewer channels cannot
    have are 0, and the deviation of one that is only rounding is 0 too.
    """
    check_ndim("cov", cov.shape, 2, "(C,C)")
    values, vectors = torch.linalg.eigh(cov.double().cpu())
    kept = min(count, len(values))
    values, vectors = values.flip(0)[:kept].clamp_min(0), vectors.flip(1)[:, :kept]
    # Of entries that are equal up to rounding the first decides, on every machine.
    magnitude = vectors.abs()
    largest = (magnitude > magnitude.max(0).values * (1 - 1e-6)).to(torch.uint8).argmax(0)
    signs = vectors[largest, torch.arange(kept)].sign()
    basis, std = torch.zeros(len(cov), count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    basis[:, :kept] = vectors * signs
    std[:kept] = torch.where(values > ROUNDING * values[0], values, torch.zeros_like(values)).sqrt()
    return basis, std


class LatentPainter:
    """Paints latents of a set whose channel mean (C,) and covariance (C,C) are known.

    Sweep over the set with :meth:`update` (and :meth:`join` over ranks), then :meth:`paint` any of its latents.
    """

    def __init__(self, mean: Tensor, cov: Tensor) -> None:
        self._mean = mean.double().cpu()
        self._basis, self._std = channel_modes(cov)
        self._counts = torch.zeros(COLOURS, BINS, dtype=torch.int64)

    @torch.no_grad()
    def update(self, latent: Tensor) -> None:
        """Add a batch of latents (B,C,F,h,w) to the scale."""
        for clip in latent.split(1):
            scores = self._scores(clip)[0].flatten(1).cpu()
            place = ((scores / REACH + 1) * (BINS / 2)).floor().clamp(0, BINS - 1).long()
            for colour in range(COLOURS):
                self._counts[colour] += place[colour].bincount(minlength=BINS)

    def join(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Become the scale of all ranks: ``states`` are their :meth:`state_dict`, each with one mean and covariance."""
        self._counts = torch.stack([state["counts"] for state in states]).sum(0)

    def state_dict(self) -> dict[str, Any]:
        """Plain state: counts (3,bins). The modes are not in it: whoever loads it made them of the same statistics."""
        return {"counts": self._counts.clone()}

    def limits(self) -> Tensor:
        """(3,2): what becomes -1 and 1, in standard deviations of each mode; -1 and 1 for a mode without variance.

        Raises ValueError before the first latent.
        """
        total = self._counts[0].sum()
        if total == 0:
            raise ValueError("no latents yet: call update first")
        shares = self._counts.cumsum(1) / total
        low = (shares < PERCENTILES[0] / 100).sum(1)
        high = (shares < PERCENTILES[1] / 100).sum(1) + 1
        edges = (torch.stack([low, high], 1).double() / BINS * 2 - 1) * REACH
        return torch.where(self._std[:, None] > 0, edges, torch.tensor([-1.0, 1.0], dtype=torch.float64))

    @torch.no_grad()
    def paint(self, latent: Tensor) -> Tensor:
        """Latents (B,C,F,h,w) -> (B,3,F,h,w), float32 in [-1,1]; a mode without variance is mid-grey (0)."""
        low, high = self.limits().view(1, COLOURS, 1, 1, 1, 2).unbind(-1)
        scores = self._scores(latent)
        low, high = low.to(scores.device), high.to(scores.device)
        return (2 * (scores - low) / (high - low) - 1).clamp(-1, 1).float()

    def _scores(self, latent: Tensor) -> Tensor:
        """(B,3,F,h,w), float64: projections in units of each mode's standard deviation."""
        check_ndim("latent", latent.shape, 5, "(B,C,F,h,w)")
        if latent.shape[1] != len(self._mean):
            raise ValueError(f"latent has {latent.shape[1]} channels, the modes {len(self._mean)}")
        scale = torch.where(self._std > 0, 1 / self._std, torch.zeros_like(self._std))
        centred = latent.double() - self._mean.to(latent.device).view(1, -1, 1, 1, 1)
        return torch.einsum("cm,bcfhw->bmfhw", (self._basis * scale).to(latent.device), centred)


def enlarge(picture: Tensor, grid: tuple[int, int, int]) -> Tensor:
    """Nearest-neighbour enlargement of (B,3,F,h,w) to a clip's (T,H,W), so that it plays beside the clip.

    A causal VAE's frame 0 stands for one frame and each later one for (T-1)/(F-1); where that is no whole number,
    frames are spread evenly. Raises ValueError when the clip is smaller than the picture.
    """
    check_ndim("picture", picture.shape, 5, "(B,3,F,h,w)")
    if any(large < small for large, small in zip(grid, picture.shape[2:], strict=True)):
        raise ValueError(f"a clip of {tuple(grid)} is smaller than its latent {tuple(picture.shape[2:])}")
    frames, height, width = picture.shape[2:]
    if frames > 1 and (grid[0] - 1) % (frames - 1) == 0:
        ratio = (grid[0] - 1) // (frames - 1)
        times = (torch.arange(grid[0]) + ratio - 1) // ratio
    else:
        times = torch.arange(grid[0]) * frames // grid[0]
    rows, columns = torch.arange(grid[1]) * height // grid[1], torch.arange(grid[2]) * width // grid[2]
    found = picture.index_select(2, times.to(picture.device)).index_select(3, rows.to(picture.device))
    return found.index_select(4, columns.to(picture.device))


def frames_row(video: Tensor, count: int) -> Tensor:
    """``count`` frames of a video (3,T,H,W) in [-1,1], evenly from first to last, as (count,H,W,3) uint8 for a figure.

    A video of fewer frames gives all it has.
    """
    check_ndim("video", video.shape, 4, "(3,T,H,W)")
    kept = min(count, video.shape[1])
    at = torch.linspace(0, video.shape[1] - 1, kept, dtype=torch.float64).round().long()
    shown = video[:, at.to(video.device)].double().clamp(-1, 1)
    return ((shown + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 3, 0).cpu().contiguous()
