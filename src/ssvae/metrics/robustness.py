"""How well a decoder bears latents that are a little wrong: PSNR of decoded noisy latents.

Latents with positions missing are in :mod:`ssvae.metrics.mask_robustness`.

A diffusion model never hits the encoder's latents exactly, and posteriors of trained video VAEs are far too narrow
to cover its errors; what the decoder makes of noise around them is a cheap stand-in (the motive of LMR in SSVAE,
arXiv 2512.05394).

Dimension legend: B clips; latent (B,C,F,h,w), raw (not normalised); video (B,3,T,H,W) in [-1,1].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ssvae.core.shapes import check_ndim
from ssvae.core.types import MetricValue
from ssvae.metrics.band import Band, band_from_samples
from ssvae.metrics.interval import metric_from_samples
from ssvae.metrics.protocol import ROBUSTNESS_PROTOCOL
from ssvae.metrics.recon import PSNR_CAP, psnr

DEFAULT_NOISE = (0.0, 0.1, 0.2, 0.4, 0.8)
"""Standard deviations of the noise, in units of each channel's own standard deviation over the data set."""


class NoiseRobustness:
    """PSNR under latent noise, collected over batches.

    decode: raw latent -> video. latent_std (C,): the per-channel standard deviation that travels with the
    weights. noise: standard deviations >= 0 in units of it. All levels of a batch share one noise draw, so
    that their differences are the decoder's and not the draw's. Raises ValueError for bad values.
    """

    def __init__(
        self, decode: Callable[[Tensor], Tensor], latent_std: Tensor, noise: Sequence[float] = DEFAULT_NOISE
    ) -> None:
        check_ndim("latent_std", latent_std.shape, 1, "(C,)")
        if not noise or any(not level >= 0 for level in noise) or len(set(noise)) != len(noise):
            raise ValueError(f"noise levels must be different numbers >= 0, got {tuple(noise)}")
        self.noise = tuple(float(level) for level in noise)
        self._decode = decode
        self._std = latent_std
        self._values: list[Tensor] = []

    @torch.no_grad()
    def update(self, latent: Tensor, video: Tensor, draw: Tensor, decoded: Tensor | None = None) -> None:
        """Decode a batch at every level. draw: N(0,1) of the latent's shape; give each clip one of its own, so that the
        size of a batch changes nothing. decoded: decode(latent), where the caller has it: level 0 then costs nothing.
        """
        check_ndim("latent", latent.shape, 5, "(B,C,F,h,w)")
        if latent.shape[1] != self._std.shape[0]:
            raise ValueError(f"latent has {latent.shape[1]} channels, latent_std {self._std.shape[0]}")
        if draw.shape != latent.shape:
            raise ValueError(f"draw has shape {tuple(draw.shape)}, the latents {tuple(latent.shape)}")
        step = draw.to(latent) * self._std.to(latent).view(1, -1, 1, 1, 1)
        rows = []
        for level in self.noise:
            plain = level == 0 and decoded is not None
            shown = decoded if plain else self._decode(latent + level * step)
            assert shown is not None
            rows.append(psnr(shown.clamp(-1, 1), video))
        self._values.append(torch.stack(rows, 1).clamp_max(PSNR_CAP).cpu())

    def merge(self, other: NoiseRobustness) -> None:
        """Add what ``other`` has measured. Raises ValueError for other noise levels."""
        if other.noise != self.noise:
            raise ValueError(f"cannot merge noise levels {other.noise} into {self.noise}")
        self._values.extend(other._values)

    def state_dict(self) -> dict[str, Tensor]:
        """What another process needs to go on: ``psnr_db`` (n,levels), empty before the first clip."""
        return {"psnr_db": torch.cat(self._values)} if self._values else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Replace what was measured by what :meth:`state_dict` gave. Raises ValueError for another count of levels."""
        self._values = check_table(state, len(self.noise))

    def compute(self, keys: Sequence[str] | None = None) -> list[MetricValue]:
        """``psnr_noise_{level}_db`` for every level: mean over clips with 95 % interval; keys: each window's clip."""
        table = self._table()
        return [
            metric_from_samples(
                f"psnr_noise_{level:g}_db", table[:, index], "dB", "up", f"{ROBUSTNESS_PROTOCOL};noise={level:g}", keys
            )
            for index, level in enumerate(self.noise)
        ]

    def curve(self, keys: Sequence[str] | None = None) -> tuple[Tensor, Band]:
        """PSNR against the noise level: levels (L,) ascending, where 0 is the plain reconstruction, and the mean over
        clips in dB with its 95 % interval; keys as in :meth:`compute`."""
        levels, order = torch.tensor(self.noise, dtype=torch.float64).sort()
        return levels, band_from_samples(self._table()[:, order], keys)

    def _table(self) -> Tensor:
        """(n,L), dB."""
        if not self._values:
            raise ValueError("no clips yet: call update first")
        return torch.cat(self._values)


def check_table(state: Mapping[str, Tensor], levels: int) -> list[Tensor]:
    """The values of a state, one table or none; ValueError unless it has one column a level."""
    tables = [value.double() for value in state.values()]
    for table in tables:
        if table.ndim != 2 or table.shape[1] != levels:
            raise ValueError(f"state has values of shape {tuple(table.shape)}, this metric has {levels} levels")
    return tables


def noise_robustness(
    decode: Callable[[Tensor], Tensor],
    latents: Tensor,
    latent_std: Tensor,
    videos: Tensor,
    generator: torch.Generator,
    noise: Sequence[float] = DEFAULT_NOISE,
    batch: int = 8,
) -> list[MetricValue]:
    """:class:`NoiseRobustness` over latents (N,C,F,h,w) and videos (N,3,T,H,W) held in memory."""
    if len(latents) != len(videos):
        raise ValueError(f"{len(latents)} latents for {len(videos)} videos: each clip needs its own latent")
    robustness = NoiseRobustness(decode, latent_std, noise)
    draws = torch.randn(latents.shape, generator=generator, dtype=torch.float32)
    for latent, video, draw in zip(latents.split(batch), videos.split(batch), draws.split(batch), strict=True):
        robustness.update(latent, video, draw)
    return robustness.compute()
