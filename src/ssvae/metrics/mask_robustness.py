"""How well a decoder bears latents with positions missing: PSNR of decoded masked latents.

The claim of LMR (SSVAE, arXiv 2512.05394) as a curve: positions of the latent are replaced by one constant vector, and
the whole clip remains the target. With the mean of each channel as that vector every VAE is asked the same; a VAE that
was trained with LMR can be asked with its own learned token too, under another name.

Dimension legend
    B clips; latent (B,C,F,h,w), raw (not normalised); video (B,3,T,H,W) in [-1,1]
    block (t,h,w) of latent positions masked together; n whole blocks of a clip's grid; L ratios
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from ssvae.core.shapes import check_ndim
from ssvae.core.types import MetricValue
from ssvae.metrics.band import Band, band_from_samples
from ssvae.metrics.interval import metric_from_samples
from ssvae.metrics.recon import PSNR_CAP, psnr
from ssvae.metrics.robustness import check_table

MASK_PROTOCOL = "psnr_under_latent_masking/1;range=0-1;clamped;cap=100dB"
"""PSNR of decode(masked latent) against the original clip; each clip has a permutation of its own."""

DEFAULT_RATIOS = (0.0, 0.25, 0.5, 0.75)
"""The ratios that LMR trains with."""

Fill = Literal["mean", "token"]
Grid = tuple[int, int, int]


class MaskRobustness:
    """PSNR under latent masking, collected over batches.

    decode: raw latent -> video. fill (C,): what masked positions become. fill_name: "mean" for the per-channel mean of
    the latents (fair to every VAE), "token" for the mask token that LMR trained; the latter's metrics are called
    ``psnr_token_masked_{ratio}_db``. ratios: masked shares of the grid in [0, 1). block: (t,h,w) positions masked
    together. One permutation a clip serves all ratios, so that a larger mask contains each smaller one. Raises
    ValueError for bad values.
    """

    def __init__(
        self,
        decode: Callable[[Tensor], Tensor],
        fill: Tensor,
        ratios: Sequence[float] = DEFAULT_RATIOS,
        block: Grid = (1, 1, 1),
        fill_name: Fill = "mean",
    ) -> None:
        check_ndim("fill", fill.shape, 1, "(C,)")
        if not ratios or any(not 0 <= ratio < 1 for ratio in ratios) or len(set(ratios)) != len(ratios):
            raise ValueError(f"mask ratios must be different numbers in [0, 1), got {tuple(ratios)}")
        if len(block) != 3 or min(block) < 1:
            raise ValueError(f"mask block must be three positive integers (t,h,w), got {tuple(block)}")
        if fill_name not in get_args(Fill):
            raise ValueError(f"fill_name must be one of {', '.join(get_args(Fill))}, got {fill_name!r}")
        self.ratios = tuple(float(ratio) for ratio in ratios)
        self.block: Grid = (block[0], block[1], block[2])
        self.fill_name: Fill = fill_name
        self._decode = decode
        self._fill = fill
        self._values: list[Tensor] = []

    @torch.no_grad()
    def update(
        self, latent: Tensor, video: Tensor, generators: Sequence[torch.Generator], decoded: Tensor | None = None
    ) -> None:
        """Decode a batch at every ratio. generators: one for each clip, each seeded by the clip's place in the data, so
        that the size of a batch changes nothing; one permutation is drawn from each. decoded: decode(latent), where the
        caller has it: ratio 0 then costs nothing.

        Raises ValueError for shapes that do not match, or a ratio that masks no block of this grid.
        """
        check_ndim("latent", latent.shape, 5, "(B,C,F,h,w)")
        if latent.shape[1] != self._fill.shape[0]:
            raise ValueError(f"latent has {latent.shape[1]} channels, fill {self._fill.shape[0]}")
        if len(generators) != len(latent):
            raise ValueError(f"{len(generators)} generators for {len(latent)} clips: each clip needs its own")
        grid = (latent.shape[2], latent.shape[3], latent.shape[4])
        counts = [masked_blocks(grid, self.block, ratio) for ratio in self.ratios]
        ranks = torch.stack([block_ranks(grid, self.block, generator) for generator in generators]).to(latent.device)
        fill = self._fill.to(latent).view(1, -1, 1, 1, 1)
        rows = []
        for ratio, count in zip(self.ratios, counts, strict=True):
            if ratio == 0:
                shown = decoded if decoded is not None else self._decode(latent)
            else:
                shown = self._decode(torch.where((ranks < count)[:, None], fill, latent))
            rows.append(psnr(shown.clamp(-1, 1), video))
        self._values.append(torch.stack(rows, 1).clamp_max(PSNR_CAP).cpu())

    def merge(self, other: MaskRobustness) -> None:
        """Add what ``other`` has measured. Raises ValueError for other ratios, blocks or fills."""
        mine, theirs = (self.ratios, self.block, self.fill_name), (other.ratios, other.block, other.fill_name)
        if mine != theirs:
            raise ValueError(f"cannot merge masks of (ratios, block, fill) {theirs} into {mine}")
        self._values.extend(other._values)

    def state_dict(self) -> dict[str, Tensor]:
        """What another process needs to go on: ``psnr_db`` (n,L), empty before the first clip."""
        return {"psnr_db": torch.cat(self._values)} if self._values else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace what was measured by what :meth:`state_dict` gave. Raises ValueError for another count of ratios."""
        self._values = check_table(state, len(self.ratios))

    def compute(self, keys: Sequence[str] | None = None) -> list[MetricValue]:
        """``psnr_masked_{ratio}_db`` (or ``psnr_token_masked_{ratio}_db``) for every ratio: mean over clips with 95 %
        interval; keys: each window's clip."""
        table = self._table()
        prefix = "psnr_masked" if self.fill_name == "mean" else "psnr_token_masked"
        sides = "x".join(str(side) for side in self.block)
        how = f"{MASK_PROTOCOL};fill={self.fill_name};block={sides}"
        return [
            metric_from_samples(f"{prefix}_{ratio:g}_db", table[:, index], "dB", "up", f"{how};ratio={ratio:g}", keys)
            for index, ratio in enumerate(self.ratios)
        ]

    def curve(self, keys: Sequence[str] | None = None) -> tuple[Tensor, Band]:
        """PSNR against the masked share: ratios (L,) ascending, where 0 is the plain reconstruction, and the mean over
        clips in dB with its 95 % interval; keys as in :meth:`compute`."""
        ratios, order = torch.tensor(self.ratios, dtype=torch.float64).sort()
        return ratios, band_from_samples(self._table()[:, order], keys)

    def _table(self) -> Tensor:
        """(n,L), dB."""
        if not self._values:
            raise ValueError("no clips yet: call update first")
        return torch.cat(self._values)


def masked_blocks(grid: Grid, block: Grid, ratio: float) -> int:
    """How many blocks a ratio masks: floor(positions · ratio / block volume), at most all whole blocks (as LMR counts).

    Raises ValueError where a ratio above 0 would mask nothing.
    """
    whole = math.prod(_whole_blocks(grid, block))
    # The tiny sum keeps 0.7 · 10 at 7: products of decimal fractions fall a rounding short of the whole number.
    count = min(whole, math.floor(math.prod(grid) * ratio / math.prod(block) + 1e-9))
    if ratio > 0 and count == 0:
        raise ValueError(
            f"mask ratio {ratio:g} masks none of the {whole} blocks {block} of latents {grid}: take a larger ratio, "
            "smaller blocks or larger clips"
        )
    return count


def block_ranks(grid: Grid, block: Grid, generator: torch.Generator) -> Tensor:
    """The place of each position's block in a random permutation, (F,h,w) int64 on the CPU: positions with a rank below
    k are those of k random blocks. Positions at far ends that no whole block covers have the rank of never."""
    counts = _whole_blocks(grid, block)
    order = torch.randperm(math.prod(counts), generator=generator)
    ranks = order.argsort().view(counts)
    for axis, side in enumerate(block):
        ranks = ranks.repeat_interleave(side, dim=axis)
    result = torch.full(grid, math.prod(counts), dtype=torch.int64)
    result[: ranks.shape[0], : ranks.shape[1], : ranks.shape[2]] = ranks
    return result


def _whole_blocks(grid: Grid, block: Grid) -> list[int]:
    return [size // side for size, side in zip(grid, block, strict=True)]
