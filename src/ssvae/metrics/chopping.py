"""What high frequencies are worth: PSNR of clips, and of decoded latents, after their last DCT coefficients are gone.

After Skorokhodov et al. (arXiv 2502.14831): clips lose little when their high frequencies go. A latent whose decoded
clip collapses when its own go keeps what matters in places that a diffusion model, which learns low frequencies first,
gets right last. Blocks and order: stats/chop.py.

Three curves over the share of coefficients removed:

* ``psnr_chop_rgb``: chopped clip against the clip;
* ``psnr_chop_latent``: decoded chopped latent against the clip (bounded by the reconstruction's PSNR);
* ``psnr_chop_latent_reconstruction``: the same against the reconstruction from the whole latent, which leaves the
  codec's own error out. The reconstruction is clamped to [-1,1], as everything that is compared.

Dimension legend
    B clips, n fractions    video, decoded (B,3,T,H,W) in [-1,1]; latent (B,C,F,h,w), raw (not normalised)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ssvae.core.types import MetricValue
from ssvae.metrics.interval import clip_means, metric_from_samples
from ssvae.metrics.latent_values import Curve
from ssvae.metrics.protocol import chop_protocol
from ssvae.metrics.recon import PSNR_CAP, psnr
from ssvae.stats.chop import chop_count, chop_high_frequencies
from ssvae.stats.spectrum import Block

DEFAULT_FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of every block's coefficients to remove; 1 leaves the constant one. 0 costs nothing."""
SERIES = ("psnr_chop_rgb", "psnr_chop_latent", "psnr_chop_latent_reconstruction")


class ChoppingCurve:
    """PSNR of chopped clips and latents, collected over batches, merged over ranks.

    decode: raw latent -> video; called once a batch for every fraction above 0. block_latent, block_rgb: (t,h,w), each
    in its own positions. fractions: different, in [0, 1]. Raises ValueError for bad fractions; ``update`` does where a
    block does not tile what it gets. Kept: three float64 numbers a clip and fraction, and pictures of the first clip.
    """

    def __init__(
        self,
        decode: Callable[[Tensor], Tensor],
        block_latent: Block,
        block_rgb: Block,
        fractions: Sequence[float] = DEFAULT_FRACTIONS,
    ) -> None:
        if not fractions or len(set(fractions)) != len(fractions):
            raise ValueError(f"fractions of coefficients to remove must be different numbers, got {tuple(fractions)}")
        self.fractions = tuple(sorted(float(fraction) for fraction in fractions))
        self.counts = {
            of: [chop_count(block, fraction) for fraction in self.fractions]
            for of, block in (("latent", block_latent), ("rgb", block_rgb))
        }
        self.blocks = {"latent": block_latent, "rgb": block_rgb}
        self._decode = decode
        self._values: dict[str, list[Tensor]] = {name: [] for name in SERIES}
        self._pictures: Tensor | None = None

    @torch.no_grad()
    def update(self, video: Tensor, latent: Tensor, decoded: Tensor | None = None) -> None:
        """Add a batch: clips, their raw latents, and decode(latent) where it is at hand already."""
        shown = (decoded if decoded is not None else self._decode(latent)).clamp(-1, 1)
        rows: dict[str, list[Tensor]] = {name: [] for name in SERIES}
        pictures = []
        for fraction in self.fractions:
            clip = self._chopped_clip(video, fraction)
            chopped = chop_high_frequencies(latent, self.blocks["latent"], fraction)
            # Nothing removed: the reconstruction itself, without the cost of another decoding.
            result = shown if chopped is latent else self._decode(chopped).clamp(-1, 1)
            for name, (made, truth) in zip(SERIES, ((clip, video), (result, video), (result, shown)), strict=True):
                rows[name].append(psnr(made, truth).clamp_max(PSNR_CAP).cpu())
            if fraction > 0:
                pictures.append((clip[0], result[0]))
        for name, columns in rows.items():
            self._values[name].append(torch.stack(columns, 1))
        if self._pictures is None:
            self._pictures = _pictures((video[0], shown[0]), pictures)

    def merge(self, other: ChoppingCurve) -> None:
        """Add what ``other`` has measured. Raises ValueError for other blocks or fractions."""
        self._take(other.state_dict())

    def join(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Become the merge of all ranks: ``states`` are their :meth:`state_dict`, in one order on every rank."""
        self._values = {name: [] for name in SERIES}
        self._pictures = None
        for state in states:
            self._take(state)

    def state_dict(self) -> dict[str, Any]:
        """Plain state, for another process to load."""
        return {
            "fractions": list(self.fractions),
            "blocks": {name: list(block) for name, block in self.blocks.items()},
            "values": {name: _joined(parts, len(self.fractions)) for name, parts in self._values.items()},
            "pictures": self._pictures,
        }

    def compute(self, keys: Sequence[str] | None = None) -> list[MetricValue]:
        """``psnr_chop_latent_{percent}_db`` and ``psnr_chop_rgb_{percent}_db`` for every fraction above 0.

        Means over clips with 95 % intervals, against the clip. keys: each window's clip. Fraction 0 is ``psnr_db``,
        and perfect for clips. Raises ValueError before the first clip.
        """
        tables = self._tables()
        values = []
        for of in ("latent", "rgb"):
            for index, fraction in enumerate(self.fractions):
                if fraction == 0:
                    continue
                name = f"psnr_chop_{of}_{100 * fraction:g}_db"
                protocol = chop_protocol(of, self.blocks[of], fraction, self.counts[of][index])
                column = tables[f"psnr_chop_{of}"][:, index]
                values.append(metric_from_samples(name, column, "dB", "none", protocol, keys))
        return values

    def curves(self, keys: Sequence[str] | None = None) -> dict[str, Curve]:
        """The three curves: x = share of a block's coefficients that is removed, y = PSNR, mean over clips, in dB.

        At x = 0 what is compared with itself stands at the cap of 100 dB.
        """
        found = {}
        for name, table in self._tables().items():
            of = "rgb" if name == "psnr_chop_rgb" else "latent"
            volume = self.blocks[of][0] * self.blocks[of][1] * self.blocks[of][2]
            x = torch.tensor(self.counts[of], dtype=torch.float64) / volume
            columns = [column if keys is None else clip_means(column, keys) for column in table.unbind(1)]
            found[name] = (x, torch.stack([column.mean() for column in columns]))
        return found

    def pictures(self) -> Tensor:
        """(3, 2H, (1 + n)W) in [-1,1], float32, of n fractions above 0: the first clip's middle frame.

        Above: the original, then chopped at every fraction. Below: the reconstruction, then decoded from the latent
        chopped at every fraction. Raises ValueError before the first clip.
        """
        if self._pictures is None:
            raise ValueError("no clips yet: call update first")
        return self._pictures

    def _chopped_clip(self, video: Tensor, fraction: float) -> Tensor:
        """In float64: in float32 its rounding would be all the error that a smooth clip has."""
        clips = [chop_high_frequencies(clip.double(), self.blocks["rgb"], fraction) for clip in video.split(1)]
        return torch.cat(clips).clamp(-1, 1)

    def _take(self, state: Mapping[str, Any]) -> None:
        mine = self.state_dict()
        for name in ("fractions", "blocks"):
            if state[name] != mine[name]:
                raise ValueError(f"cannot merge chopping with {name} {state[name]} into {mine[name]}")
        for name in SERIES:
            self._values[name].append(state["values"][name])
        if self._pictures is None:
            self._pictures = state["pictures"]

    def _tables(self) -> dict[str, Tensor]:
        """Every series as (N,n). Raises ValueError before the first clip."""
        tables = {name: _joined(parts, len(self.fractions)) for name, parts in self._values.items()}
        if not len(tables[SERIES[0]]):
            raise ValueError("no clips yet: call update first")
        return tables


def _joined(parts: Sequence[Tensor], columns: int) -> Tensor:
    return torch.cat(list(parts)) if parts else torch.zeros(0, columns, dtype=torch.float64)


def _pictures(whole: tuple[Tensor, Tensor], chopped: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Clips (3,T,H,W), clip above reconstruction, the whole ones first: their middle frames side by side."""
    columns = [
        torch.cat([above[:, above.shape[1] // 2].float(), below[:, below.shape[1] // 2].float()], 1).cpu()
        for above, below in (whole, *chopped)
    ]
    return torch.cat(columns, 2)
