"""All summaries of a latent space in one place: spectra, eigenspectrum, local correlation, posterior width.

Two sweeps over the clips. The first (:meth:`LatentStatistics.update`) gathers moments, DCT energies, KL and posterior
width; the second (:meth:`LatentStatistics.correlate`) the local correlation, which has to standardise by the
statistics of the *whole* set so that it does not depend on the batch size. :func:`latent_report` does both for
latents held in memory.

Dimension legend
    N clips, B clips of a batch, C channels, F latent frames, h w latent pixels    mean, logvar (B,C,F,h,w)
    t h w block of the spectrum, or window of the local correlation
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ssvae.core.shapes import check_ndim
from ssvae.core.types import MetricValue, Posterior
from ssvae.metrics.interval import metric_from_samples
from ssvae.metrics.protocol import (
    EIGEN_NORMALIZED_PROTOCOL,
    EIGEN_PROTOCOL,
    KL_PROTOCOL,
    POSTERIOR_STD_PROTOCOL,
    local_correlation_protocol,
    spectrum_protocol,
)
from ssvae.stats.channels import covariance_eigenspectrum, explained_variance, participation_ratio
from ssvae.stats.gaussian import kl_per_dimension
from ssvae.stats.local_corr import Window, check_window, default_window, local_correlation
from ssvae.stats.moments import StreamingMoments, channel_moments
from ssvae.stats.spectrum import Block, Spectrum, SpectrumAccumulator, check_block, default_block

EXPLAINED_AT = (1, 2, 4, 8, 16, 32)
"""Numbers of modes at which the explained variance is a metric; with fewer channels the share is 1."""

PER_CLIP = ("kl_per_dim", "posterior_std", "local_correlation")


@dataclass(frozen=True, slots=True)
class LatentReport:
    """Metrics, curves, and the normaliser's constants of a set of latents.

    curves: name -> (x, y), both 1-D float64. channel_mean, channel_std (C,): float64, std unbiased, over all
    clips and positions of the posterior mean. eigenvalues (C,): of raw posterior means, descending.
    """

    values: list[MetricValue]
    curves: dict[str, tuple[Tensor, Tensor]]
    channel_mean: Tensor
    channel_std: Tensor
    eigenvalues: Tensor
    spectrum: Spectrum

    def value(self, name: str) -> float:
        """The metric called ``name``; KeyError when there is none."""
        for metric in self.values:
            if metric.name == name:
                return metric.value
        raise KeyError(name)


class LatentStatistics:
    """Streaming latent summaries for one latent grid.

    channels: C. grid: (F,h,w) of every clip. block: of the spectrum (default: ``default_block(grid)``).
    window: of the local correlation (default: ``default_window(grid)``, the published (2,2,2) where it fits).
    Raises ValueError when block or window do not tile the grid.
    Use: ``update`` for every batch, ``merge`` over ranks, ``correlate`` for every batch again, ``merge_correlation``
    over ranks, ``compute``.
    """

    def __init__(
        self, channels: int, grid: tuple[int, int, int], block: Block | None = None, window: Window | None = None
    ) -> None:
        self.grid = (int(grid[0]), int(grid[1]), int(grid[2]))
        self.block = block if block is not None else default_block(self.grid)
        self.window = window if window is not None else default_window(self.grid)
        check_block(self.grid, self.block)
        check_window(self.grid, self.window)
        self.moments = StreamingMoments(channels)
        self.spectrum = SpectrumAccumulator(channels, self.block)
        self._samples: dict[str, list[Tensor]] = {name: [] for name in PER_CLIP}

    @torch.no_grad()
    def update(self, posterior: Posterior) -> None:
        """First sweep: add a batch of posteriors (B,C,F,h,w)."""
        self._check(posterior.mean)
        mean, logvar = posterior.mean.double(), posterior.logvar.double()
        channel_moments(mean, self.moments)
        self.spectrum.update(mean)
        self._samples["kl_per_dim"].append(kl_per_dimension(mean, logvar).cpu())
        self._samples["posterior_std"].append(torch.exp(0.5 * logvar).flatten(1).mean(1).cpu())

    def merge(self, other: LatentStatistics) -> None:
        """Add the first sweep of ``other``. Raises ValueError when it was set up differently."""
        self._check_alike(other)
        self.moments.merge(other.moments)
        self.spectrum.merge(other.spectrum)
        for name in ("kl_per_dim", "posterior_std"):
            self._samples[name].extend(other._samples[name])

    @torch.no_grad()
    def correlate(self, mean: Tensor) -> None:
        """Second sweep: add the local correlation of each clip of a batch of posterior means (B,C,F,h,w)."""
        self._check(mean)
        statistics = (self.moments.mean, self.moments.std)
        values = [local_correlation(clip.double(), self.window, statistics).mean for clip in mean.split(1)]
        self._samples["local_correlation"].append(torch.stack(values).cpu())

    def merge_correlation(self, other: LatentStatistics) -> None:
        """Add the second sweep of ``other``; both must have merged the same first sweep before."""
        self._check_alike(other)
        if other.moments.count != self.moments.count:
            raise ValueError("merge the first sweep over all ranks before the second: the statistics differ")
        self._samples["local_correlation"].extend(other._samples["local_correlation"])

    def compute(self, keys: Sequence[str] | None = None) -> LatentReport:
        """All metrics and curves; keys: the clip of each window, where a clip gave several.

        Raises ValueError before both sweeps have covered the same clips.
        """
        samples = {name: torch.cat(parts) if parts else torch.zeros(0) for name, parts in self._samples.items()}
        clips = self.spectrum.clips
        correlated = len(samples["local_correlation"])
        if clips == 0 or correlated != clips:
            raise ValueError(
                f"the first sweep (update) saw {clips} clips, the second (correlate) {correlated}: both need all"
            )
        mean, std, cov = self.moments.mean, self.moments.std, self.moments.cov
        spectrum = self.spectrum.compute(mean, std)
        raw, normalized = covariance_eigenspectrum(cov), covariance_eigenspectrum(cov, normalize=True)
        values = [
            metric_from_samples(
                "local_correlation",
                samples["local_correlation"],
                "1",
                "none",
                local_correlation_protocol(self.window),
                keys,
            ),
            _plain("dct_dc_share", spectrum.dc_share, clips, spectrum_protocol(self.block)),
            _plain("dct_high_share", spectrum.high_share, clips, spectrum_protocol(self.block)),
            *_eigen_values(raw, "", clips, EIGEN_PROTOCOL),
            *_eigen_values(normalized, "_normalized", clips, EIGEN_NORMALIZED_PROTOCOL),
            metric_from_samples("kl_per_dim", samples["kl_per_dim"], "nat", "none", KL_PROTOCOL, keys),
            metric_from_samples("posterior_std", samples["posterior_std"], "1", "none", POSTERIOR_STD_PROTOCOL, keys),
        ]
        return LatentReport(values, _curves(spectrum, raw, normalized), mean, std, raw, spectrum)

    def _check(self, latent: Tensor) -> None:
        check_ndim("latent", latent.shape, 5, "(B,C,F,h,w)")
        if tuple(latent.shape[2:]) != self.grid:
            raise ValueError(f"latent grid {tuple(latent.shape[2:])} differs from {self.grid}: one grid a report")

    def _check_alike(self, other: LatentStatistics) -> None:
        mine, theirs = (self.grid, self.block, self.window), (other.grid, other.block, other.window)
        if mine != theirs:
            raise ValueError(f"cannot merge latent statistics of (grid, block, window) {theirs} into {mine}")


def latent_report(
    mean: Tensor,
    logvar: Tensor,
    block: Block | None = None,
    window: Window | None = None,
    batch: int = 64,
    keys: Sequence[str] | None = None,
) -> LatentReport:
    """Every latent summary of posterior means and log-variances (N,C,F,h,w) held in memory, in float64.

    keys: the clip of each window, where a clip gave several.
    """
    check_ndim("mean", mean.shape, 5, "(N,C,F,h,w)")
    grid = (mean.shape[2], mean.shape[3], mean.shape[4])
    statistics = LatentStatistics(mean.shape[1], grid, block, window)
    for part_mean, part_logvar in zip(mean.split(batch), logvar.split(batch), strict=True):
        statistics.update(Posterior(part_mean, part_logvar))
    for part_mean in mean.split(batch):
        statistics.correlate(part_mean)
    return statistics.compute(keys)


def _plain(name: str, value: float, clips: int, protocol: str) -> MetricValue:
    """A descriptive number of the whole set: no interval over clips exists."""
    return MetricValue(name, float(value), "1", "none", clips, None, protocol)


def _eigen_values(eigenvalues: Tensor, suffix: str, clips: int, protocol: str) -> list[MetricValue]:
    shares = explained_variance(eigenvalues)
    rows = [
        _plain(f"explained_variance_{k}{suffix}", float(shares[min(k, len(shares)) - 1]), clips, protocol)
        for k in EXPLAINED_AT
    ]
    ratio = participation_ratio(eigenvalues)
    return [*rows, _plain(f"participation_ratio{suffix}", ratio, clips, protocol)]


def _curves(spectrum: Spectrum, raw: Tensor, normalized: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Curves for figures; the spatial marginal is folded over j+k, the two-dimensional one is in the spectrum."""
    h, w = spectrum.spatial.shape
    degree = torch.arange(h)[:, None] + torch.arange(w)[None, :]
    folded = torch.zeros(h + w - 1, dtype=torch.float64).index_add_(0, degree.flatten(), spectrum.spatial.flatten())
    curves = {
        "dct_spectrum": spectrum.curve,
        "dct_temporal": spectrum.temporal,
        "dct_spatial": folded,
    }
    result = {name: (torch.arange(len(y), dtype=torch.float64), y) for name, y in curves.items()}
    modes = torch.arange(1, len(raw) + 1, dtype=torch.float64)
    result["eigenspectrum"] = (modes, raw)
    result["explained_variance"] = (modes, explained_variance(raw))
    result["explained_variance_normalized"] = (modes, explained_variance(normalized))
    return result
