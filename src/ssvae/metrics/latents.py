"""All summaries of a latent space in one place: spectra, eigenspectrum, local correlation, VIV, posterior width.

Two sweeps over the clips. The first (:meth:`LatentStatistics.update`) gathers moments, DCT energies, KL and posterior
width; the second (:meth:`LatentStatistics.correlate`) what has to know the statistics of the *whole* set, so that it
does not depend on the batch size: the local correlation, and the position factors of VIV. :func:`latent_report` does
both for latents held in memory.

Ranks: after each sweep everybody takes what all have gathered,

    statistics.join(ranks.gather(statistics.state_dict()))               # after the first sweep
    statistics.join_correlation(ranks.gather(statistics.state_dict()))   # after the second

Dimension legend
    N clips, B clips of a batch, C channels, F latent frames, h w latent pixels    mean, logvar (B,C,F,h,w)
    t h w block of the spectrum, or window of the local correlation
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ssvae.core.shapes import check_ndim
from ssvae.core.types import MetricValue, Posterior
from ssvae.metrics.interval import metric_from_samples
from ssvae.metrics.latent_values import (
    channel_curves,
    eigen_values,
    mode_strength_values,
    spectrum_curves,
    spectrum_values,
    viv_values,
)
from ssvae.metrics.protocol import KL_PROTOCOL, POSTERIOR_STD_PROTOCOL, local_correlation_protocol
from ssvae.stats.channels import covariance_eigenspectrum
from ssvae.stats.gaussian import kl_elementwise
from ssvae.stats.local_corr import Window, check_window, check_window_sides, default_window, local_correlation
from ssvae.stats.moments import StreamingMoments, channel_moments
from ssvae.stats.spectrum import Block, Spectrum, SpectrumAccumulator, check_block, default_block
from ssvae.stats.viv import LEAST_CLIPS, SeparableCovariance

WINDOWS: tuple[Window, ...] = ((1, 2, 2), (2, 2, 2), (1, 4, 4), (2, 4, 4), (4, 4, 4), (1, 8, 8))
"""Windows worth comparing: near, far, with and without time. Give them as ``windows``."""
POSTERIOR_SAMPLES = ("kl_per_dim", "posterior_std")
"""One number a clip from the first sweep; the local correlations come from the second."""


@dataclass(frozen=True, slots=True)
class LatentReport:
    """Metrics, curves, and the normaliser's constants of a set of latents.

    curves: name -> (x, y), both 1-D float64: ``dct_spectrum``, ``dct_temporal``, ``dct_spatial``; over modes
    ``eigenspectrum``, ``explained_variance``, both again with ``_normalized``, ``mode_strength_flow``,
    ``mode_strength_flow_time_mean``, ``mode_strength_vp``; ``kl_per_channel`` (descending). Their axes are in
    ``latent_values.CURVE_LABELS``.
    channel_mean, channel_std (C,): float64, std unbiased, over all clips and positions of the posterior mean.
    eigenvalues (C,): of raw posterior means, descending; channel_cov (C,C): what they belong to.
    left_out: name of a metric that these latents cannot have -> why.
    """

    values: list[MetricValue]
    curves: dict[str, tuple[Tensor, Tensor]]
    channel_mean: Tensor
    channel_std: Tensor
    eigenvalues: Tensor
    spectrum: Spectrum
    channel_cov: Tensor
    left_out: dict[str, str] = field(default_factory=dict)

    def value(self, name: str) -> float:
        """The metric called ``name``; KeyError when there is none."""
        for metric in self.values:
            if metric.name == name:
                return metric.value
        raise KeyError(name)


class LatentStatistics:
    """Streaming latent summaries for one latent grid.

    channels: C. grid: (F,h,w) of every clip. block: of the spectrum (default: ``default_block(grid)``).
    window: of ``local_correlation`` (default: ``default_window(grid)``, the published (2,2,2) where it fits).
    windows: further ones, each a metric ``local_correlation_{t}x{h}x{w}``; those that do not tile the grid are named
    in ``left_out``. Raises ValueError when block or window do not tile the grid, and for sides that are no window.
    Use: ``update`` for every batch, ``merge`` over ranks, ``correlate`` for every batch again, ``merge_correlation``
    over ranks, ``compute``.
    """

    def __init__(
        self,
        channels: int,
        grid: tuple[int, int, int],
        block: Block | None = None,
        window: Window | None = None,
        windows: Sequence[Window] = (),
    ) -> None:
        self.channels = channels
        self.grid = (int(grid[0]), int(grid[1]), int(grid[2]))
        self.block = block if block is not None else default_block(self.grid)
        self.window = window if window is not None else default_window(self.grid)
        check_block(self.grid, self.block)
        check_window(self.grid, self.window)
        self.left_out: dict[str, str] = {}
        self._windows = {"local_correlation": self.window, **self._tiling(windows)}
        self.moments = StreamingMoments(channels)
        self.spectrum = SpectrumAccumulator(channels, self.block)
        self.covariance = SeparableCovariance(channels, self.grid)
        self._kl_channels = torch.zeros(channels, dtype=torch.float64)
        self._samples: dict[str, list[Tensor]] = {name: [] for name in (*POSTERIOR_SAMPLES, *self._windows)}

    @torch.no_grad()
    def update(self, posterior: Posterior) -> None:
        """First sweep: add a batch of posteriors (B,C,F,h,w)."""
        self._check(posterior.mean)
        mean, logvar = posterior.mean.double(), posterior.logvar.double()
        channel_moments(mean, self.moments)
        self.spectrum.update(mean)
        self.covariance.update(mean)
        kl = kl_elementwise(mean, logvar)
        self._kl_channels += kl.mean((2, 3, 4)).sum(0).cpu()
        self._samples["kl_per_dim"].append(kl.flatten(1).mean(1).cpu())
        self._samples["posterior_std"].append(torch.exp(0.5 * logvar).flatten(1).mean(1).cpu())

    def merge(self, other: LatentStatistics) -> None:
        """Add the first sweep of ``other``. Raises ValueError when it was set up differently."""
        self._check_alike(other)
        self.moments.merge(other.moments)
        self.spectrum.merge(other.spectrum)
        self.covariance.merge(other.covariance)
        self._kl_channels = self._kl_channels + other._kl_channels
        for name in POSTERIOR_SAMPLES:
            self._samples[name].extend(other._samples[name])

    @torch.no_grad()
    def correlate(self, mean: Tensor) -> None:
        """Second sweep: add a batch of posterior means (B,C,F,h,w), by the statistics of the first."""
        self._check(mean)
        statistics = (self.moments.mean, self.moments.std)
        for name, window in self._windows.items():
            values = [local_correlation(clip.double(), window, statistics).mean for clip in mean.split(1)]
            self._samples[name].append(torch.stack(values).cpu())
        if self.spectrum.clips >= LEAST_CLIPS:
            self.covariance.refine(mean)

    def merge_correlation(self, other: LatentStatistics) -> None:
        """Add the second sweep of ``other``; both must have merged the same first sweep before."""
        self._check_alike(other)
        if other.moments.count != self.moments.count:
            raise ValueError("merge the first sweep over all ranks before the second: the statistics differ")
        self.covariance.merge_refined(other.covariance)
        for name in self._windows:
            self._samples[name].extend(other._samples[name])

    def join(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Become the first sweep of all ranks: ``states`` are their :meth:`state_dict`, in one order on every rank."""
        total = self._like()
        for state in states:
            total.merge(self._loaded(state))
        self.load_state_dict(total.state_dict())

    def join_correlation(self, states: Sequence[Mapping[str, Any]]) -> None:
        """Become the second sweep of all ranks, each of which had joined the first; as :meth:`join`."""
        total = self._loaded(states[0])
        for state in states[1:]:
            total.merge_correlation(self._loaded(state))
        self.load_state_dict(total.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Plain state of both sweeps (tensors, counts, dictionaries of them), for another process to load."""
        return {
            "setup": self._setup(),
            "moments": self.moments.state_dict(),
            "spectrum": self.spectrum.state_dict(),
            "covariance": self.covariance.state_dict(),
            "kl_channels": self._kl_channels.clone(),
            "samples": {name: _joined(parts) for name, parts in self._samples.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned. Raises ValueError for another grid, block or windows."""
        if state["setup"] != self._setup():
            raise ValueError(f"state was set up as {state['setup']}, these latent statistics as {self._setup()}")
        self.moments.load_state_dict(state["moments"])
        self.spectrum.load_state_dict(state["spectrum"])
        self.covariance.load_state_dict(state["covariance"])
        self._kl_channels = state["kl_channels"].clone()
        self._samples = {name: [state["samples"][name].clone()] for name in self._samples}

    def compute(self, keys: Sequence[str] | None = None) -> LatentReport:
        """All metrics and curves; keys: the clip of each window of time, where a clip gave several.

        Raises ValueError before both sweeps have covered the same clips.
        """
        samples = {name: _joined(parts) for name, parts in self._samples.items()}
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
            *(
                metric_from_samples(name, samples[name], "1", "none", local_correlation_protocol(window), keys)
                for name, window in self._windows.items()
            ),
            *spectrum_values(spectrum),
            *eigen_values(raw, normalized, clips),
            *mode_strength_values(normalized, clips),
            metric_from_samples("kl_per_dim", samples["kl_per_dim"], "nat", "none", KL_PROTOCOL, keys),
            metric_from_samples("posterior_std", samples["posterior_std"], "1", "none", POSTERIOR_STD_PROTOCOL, keys),
        ]
        left_out = dict(self.left_out)
        if clips >= LEAST_CLIPS:
            values += viv_values(self.covariance.compute(std))
        else:
            left_out["viv"] = f"a covariance between clips needs at least {LEAST_CLIPS} of them, got {clips}"
        curves = {**spectrum_curves(spectrum), **channel_curves(raw, normalized, self._kl_channels / clips)}
        return LatentReport(values, curves, mean, std, raw, spectrum, cov, left_out)

    def _tiling(self, windows: Sequence[Window]) -> dict[str, Window]:
        """Metric name -> window, of those that tile the grid; the others are named in ``left_out``."""
        found = {}
        for window in windows:
            check_window_sides(window)
            name = "local_correlation_" + "x".join(str(side) for side in window)
            try:
                check_window(self.grid, window)
            except ValueError as reason:
                self.left_out[name] = str(reason)
            else:
                found[name] = window
        return found

    def _setup(self) -> dict[str, Any]:
        windows = {name: list(window) for name, window in self._windows.items()}
        return {"channels": self.channels, "grid": list(self.grid), "block": list(self.block), "windows": windows}

    def _like(self) -> LatentStatistics:
        """An empty one of the same set-up."""
        further = [window for name, window in self._windows.items() if name != "local_correlation"]
        return LatentStatistics(self.channels, self.grid, self.block, self.window, further)

    def _loaded(self, state: Mapping[str, Any]) -> LatentStatistics:
        other = self._like()
        other.load_state_dict(state)
        return other

    def _check(self, latent: Tensor) -> None:
        check_ndim("latent", latent.shape, 5, "(B,C,F,h,w)")
        if tuple(latent.shape[2:]) != self.grid:
            raise ValueError(f"latent grid {tuple(latent.shape[2:])} differs from {self.grid}: one grid a report")

    def _check_alike(self, other: LatentStatistics) -> None:
        if self._setup() != other._setup():
            raise ValueError(f"cannot merge latent statistics set up as {other._setup()} into {self._setup()}")


def latent_report(
    mean: Tensor,
    logvar: Tensor,
    block: Block | None = None,
    window: Window | None = None,
    batch: int = 64,
    keys: Sequence[str] | None = None,
    windows: Sequence[Window] = (),
) -> LatentReport:
    """Every latent summary of posterior means and log-variances (N,C,F,h,w) held in memory, in float64.

    keys: the clip of each window of time, where a clip gave several. The rest: see :class:`LatentStatistics`.
    """
    check_ndim("mean", mean.shape, 5, "(N,C,F,h,w)")
    grid = (mean.shape[2], mean.shape[3], mean.shape[4])
    statistics = LatentStatistics(mean.shape[1], grid, block, window, windows)
    for part_mean, part_logvar in zip(mean.split(batch), logvar.split(batch), strict=True):
        statistics.update(Posterior(part_mean, part_logvar))
    for part_mean in mean.split(batch):
        statistics.correlate(part_mean)
    return statistics.compute(keys)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if parts else torch.zeros(0, dtype=torch.float64)
