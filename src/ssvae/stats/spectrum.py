"""Spatio-temporal power spectrum of latents (or clips): where the energy of their 3-D DCT lies.

The published plots (SSVAE, arXiv 2512.05394) do not state block size, order or averaging, so this is a definition
of our own, with a version. Per-channel-normalised values; frame 0, which a causal VAE compresses alone, left out;
non-overlapping blocks (t,h,w); mean squared coefficient of the orthonormal DCT-II over blocks, channels and clips;
coefficients ordered by i+j+k, ties by (i,j,k) ascending; divided by the sum. An image (F = 1) has nothing but its
frame 0: that frame is used, and t must be 1.

Dimension legend
    N clips, C channels, F frames, H W pixels    latent (N,C,F,H,W); clips (N,3,T,H,W) work alike
    t h w block, i j k its frequencies           energy (C,t,h,w), curve (t·h·w,)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssvae.core.shapes import check_ndim
from ssvae.stats.dct import dct3, idct3
from ssvae.stats.moments import StreamingMoments, channel_moments

__all__ = [
    "SPECTRUM_PROTOCOL",
    "Spectrum",
    "SpectrumAccumulator",
    "dct3",
    "default_block",
    "frequency_order",
    "idct3",
    "spatiotemporal_spectrum",
]

SPECTRUM_PROTOCOL = "dct3_power/1"
"""Name and version of the definition above; append the block, e.g. ``dct3_power/1;block=2x4x4``."""

HIGH_SHARE_CUT = 0.5
"""``high_share`` counts coefficients with i+j+k above this fraction of the largest i+j+k."""

CHUNK_ELEMENTS = 1 << 22

Block = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Shares of DCT energy; tensors float64 on the CPU, each summing to 1.

    curve (t·h·w,): in the order of :func:`frequency_order`. dc_share: the constant coefficient's.
    high_share: of all coefficients with i+j+k > 0.5·max(i+j+k). spatial (h,w): summed over temporal
    frequencies. temporal (t,): summed over spatial frequencies. clips: how many it rests on.
    Latents without any energy (constant and equal to their channel mean) count as pure DC.

    The ``..._above`` numbers do not depend on how ties are ordered: share of energy beyond a cut rho in [0, 1) of the
    largest frequency, as SEC_rho (u + v > rho·(H + W - 2); arXiv 2606.03578) does for one picture. ``high_share`` is
    ``above(0.5)``.
    """

    curve: Tensor
    dc_share: float
    high_share: float
    spatial: Tensor
    temporal: Tensor
    block: Block
    clips: int

    def above(self, rho: float) -> float:
        """Share of energy with i+j+k > rho·(t+h+w-3): SEC_rho with time as a third axis, an extension of ours."""
        return float(self.curve[_beyond(frequency_order(self.block).sum(1), rho)].sum())

    def spatial_above(self, rho: float) -> float:
        """Share of energy with j+k > rho·(h+w-2), whatever i; 0 for a block of one pixel."""
        height, width = self.spatial.shape
        degree = torch.arange(height)[:, None] + torch.arange(width)[None, :]
        return float(self.spatial[_beyond(degree, rho)].sum())

    def temporal_above(self, rho: float) -> float:
        """Share of energy with i > rho·(t-1), whatever j and k; 0 for a block of one frame."""
        return float(self.temporal[_beyond(torch.arange(len(self.temporal)), rho)].sum())


def default_block(grid: Sequence[int]) -> Block:
    """Largest block with sides in {4, 2, 1} that tiles the later frames of a grid (F,H,W); t = 1 for an image."""
    frames, height, width = grid
    sides = [next(side for side in (4, 2, 1) if size % side == 0) for size in (frames - 1, height, width)]
    return (1 if frames == 1 else sides[0], sides[1], sides[2])


def check_block(grid: Sequence[int], block: Block) -> None:
    """Raise ValueError, naming the axis and the remedy, unless ``block`` (t,h,w) tiles the grid (F,H,W)."""
    if len(block) != 3 or any(int(side) != side or side < 1 for side in block):
        raise ValueError(f"block must be three positive integers (t,h,w), got {tuple(block)}")
    if min(grid) < 1:
        raise ValueError(f"the latent grid {tuple(grid)} is empty")
    frames = ("frames of an image", 1) if grid[0] == 1 else ("later frames (F - 1)", grid[0] - 1)
    for (axis, size), side, letter in zip((frames, ("height", grid[1]), ("width", grid[2])), block, "thw", strict=True):
        if size % side:
            raise ValueError(
                f"the latent grid {tuple(grid)} has {size} {axis}, which block {letter}={side} does not divide: "
                f"choose {letter} from the divisors of {size}; the default block of this grid is {default_block(grid)}"
            )


def _beyond(degree: Tensor, rho: float) -> Tensor:
    """Where ``degree`` exceeds the share ``rho`` of its largest value; boolean, same shape."""
    if not 0 <= rho < 1:
        raise ValueError(f"a cut must be a share rho of the largest frequency in [0, 1), got {rho}")
    return degree > rho * degree.max()


def frequency_order(block: Block) -> Tensor:
    """Indices (t·h·w, 3) of the coefficients in the order of the curve: by i+j+k, ties by (i,j,k) ascending."""
    t, h, w = block
    triples = [(i, j, k) for i in range(t) for j in range(h) for k in range(w)]
    return torch.tensor(sorted(triples, key=lambda triple: (sum(triple), triple)))


class SpectrumAccumulator:
    """Spectrum of latents that come in pieces, merged over batches and ranks.

    Energies are kept per channel and unnormalised, together with the sum of the constant coefficients:
    subtracting a channel mean changes that coefficient only, so normalisation by statistics of the whole
    set can wait until :meth:`compute`, and one pass is enough.
    """

    def __init__(self, channels: int, block: Block) -> None:
        self.block = block
        self.clips = 0
        self._blocks = 0
        self._energy = torch.zeros(channels, *block, dtype=torch.float64)
        self._constant = torch.zeros(channels, dtype=torch.float64)
        self._shift: Tensor | None = None

    @torch.no_grad()
    def update(self, latent: Tensor) -> None:
        """Add clips (N,C,F,H,W). Raises ValueError when the block does not tile them or values are not finite."""
        check_ndim("latent", latent.shape, 5, "(N,C,F,H,W)")
        if latent.shape[1] != self._energy.shape[0]:
            raise ValueError(f"latent has {latent.shape[1]} channels, this spectrum holds {self._energy.shape[0]}")
        check_block(latent.shape[2:], self.block)
        if latent.shape[0] == 0:
            return
        if self._shift is None:
            # Any constant near the mean will do: it keeps the constant coefficients small, and their digits.
            self._shift = latent[:1].double().mean((0, 2, 3, 4)).cpu()
        for part in latent.split(max(1, CHUNK_ELEMENTS // latent[0].numel())):
            blocks = self._cut(part.double() - self._shift.to(part.device).view(1, -1, 1, 1, 1))
            coefficients = dct3(blocks)
            energy = torch.linalg.vector_norm(coefficients, dim=1).square().cpu()
            if not torch.isfinite(energy).all():
                raise ValueError("latent contains NaN or infinite values: no spectrum exists")
            self._energy += energy
            self._constant += coefficients[:, :, 0, 0, 0].sum(1).cpu()
            self._blocks += blocks.shape[1]
            self.clips += part.shape[0]

    def merge(self, other: SpectrumAccumulator) -> None:
        """Add what ``other`` has seen. Raises ValueError for another block or channel count."""
        if other.block != self.block or other._energy.shape != self._energy.shape:
            raise ValueError(f"cannot merge a spectrum of block {other.block} into one of block {self.block}")
        if other._shift is None:
            return
        if self._shift is None:
            self._shift = other._shift.clone()
        energy, constant = other._shifted(self._shift)
        self._energy += energy
        self._constant += constant
        self._blocks += other._blocks
        self.clips += other.clips

    def state_dict(self) -> dict[str, Tensor | int | None]:
        """Plain state, for another process to load: energies (C,t,h,w), constants (C,), shift (C,) or None, counts."""
        return {
            "energy": self._energy.clone(),
            "constant": self._constant.clone(),
            "shift": None if self._shift is None else self._shift.clone(),
            "blocks": self._blocks,
            "clips": self.clips,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned. Raises ValueError for another block or channel count."""
        if state["energy"].shape != self._energy.shape:
            raise ValueError(
                f"state holds energies {tuple(state['energy'].shape)}, this spectrum {tuple(self._energy.shape)}"
            )
        self._energy, self._constant = state["energy"].clone(), state["constant"].clone()
        self._shift = None if state["shift"] is None else state["shift"].clone()
        self._blocks, self.clips = int(state["blocks"]), int(state["clips"])

    def compute(self, mean: Tensor, std: Tensor) -> Spectrum:
        """Spectrum of (latent - mean) / std for per-channel statistics (C,); constant channels add nothing."""
        if self._shift is None:
            raise ValueError("no latents yet: call update first")
        channels = self._energy.shape[0]
        if mean.shape != (channels,) or std.shape != (channels,):
            raise ValueError(f"mean and std must be ({channels},), got {tuple(mean.shape)} and {tuple(std.shape)}")
        energy, _ = self._shifted(mean.double().cpu())
        scale = std.double().cpu()
        weight = torch.where(scale > 0, 1 / scale.square(), torch.zeros_like(scale))
        return self._shares((energy * weight.view(-1, 1, 1, 1)).sum(0))

    def _cut(self, latent: Tensor) -> Tensor:
        """(N,C,F,H,W) -> blocks (C, number of blocks, t, h, w) of the later frames, or of the image."""
        t, h, w = self.block
        frames = latent[:, :, 1:] if latent.shape[2] > 1 else latent
        n, c, f, height, width = frames.shape
        split = frames.reshape(n, c, f // t, t, height // h, h, width // w, w)
        return split.permute(1, 0, 2, 4, 6, 3, 5, 7).reshape(c, -1, t, h, w)

    def _shifted(self, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Energy and sum of constant coefficients as if ``shift`` had been subtracted instead of our own."""
        assert self._shift is not None
        step = (shift - self._shift) * math.prod(self.block) ** 0.5
        energy = self._energy.clone()
        constant = energy[:, 0, 0, 0] - 2 * step * self._constant + self._blocks * step.square()
        energy[:, 0, 0, 0] = constant.clamp_min(0)
        return energy, self._constant - self._blocks * step

    def _shares(self, energy: Tensor) -> Spectrum:
        if energy.sum() > 0:
            shares = energy / energy.sum()
        else:
            shares = torch.zeros_like(energy)
            shares[0, 0, 0] = 1
        order = frequency_order(self.block)
        curve = shares[order[:, 0], order[:, 1], order[:, 2]]
        degree = order.sum(1)
        high = curve[_beyond(degree, HIGH_SHARE_CUT)].sum()
        return Spectrum(curve, float(curve[0]), float(high), shares.sum(0), shares.sum((1, 2)), self.block, self.clips)


def spatiotemporal_spectrum(
    latent: Tensor, block: Block | None = None, mean: Tensor | None = None, std: Tensor | None = None
) -> Spectrum:
    """Spectrum of latents (N,C,F,H,W), or of clips (N,3,T,H,W), by the definition at the head of this module.

    block: (t,h,w); the default is :func:`default_block`. mean, std (C,): statistics of the data set to
    normalise with; by default those of ``latent`` itself, all frames. Raises ValueError when the block does
    not tile the frames after frame 0, when only one of mean and std is given, or for non-finite values.
    """
    check_ndim("latent", latent.shape, 5, "(N,C,F,H,W)")
    if (mean is None) != (std is None):
        raise ValueError("give both mean and std, or neither: one alone would mix two normalisations")
    chosen = block if block is not None else default_block(latent.shape[2:])
    accumulator = SpectrumAccumulator(latent.shape[1], (chosen[0], chosen[1], chosen[2]))
    accumulator.update(latent)
    if mean is None or std is None:
        moments: StreamingMoments = channel_moments(latent)
        mean, std = moments.mean, moments.std
    return accumulator.compute(mean, std)
