from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ssvae.core.types import Posterior
from ssvae.metrics.latents import LatentReport, LatentStatistics, latent_report
from ssvae.stats.channels import eigenspectrum, explained_variance, participation_ratio
from ssvae.stats.local_corr import local_correlation
from ssvae.stats.spectrum import spatiotemporal_spectrum

NAMES = {
    "local_correlation",
    "dct_high_share",
    "dct_dc_share",
    "explained_variance_8",
    "participation_ratio",
    "kl_per_dim",
    "posterior_std",
}


def posterior(clips: int = 6, channels: int = 10, grid: tuple[int, int, int] = (3, 8, 8)) -> Posterior:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(channels, channels, generator=generator)
    mean = torch.einsum("dc,bcfhw->bdfhw", mixing, torch.randn(clips, channels, *grid, generator=generator))
    mean[..., 1:] += mean[..., :-1].clone()
    return Posterior(mean + 2, torch.randn(clips, channels, *grid, generator=generator) - 4)


def report() -> LatentReport:
    given = posterior()
    return latent_report(given.mean, given.logvar)


def test_values_are_those_of_the_statistics_they_are_named_after() -> None:
    given, made = posterior(), report()
    mean = given.mean.double()
    assert {metric.name for metric in made.values} >= NAMES
    spectrum = spatiotemporal_spectrum(mean)
    assert spectrum.block == (2, 4, 4)
    assert made.value("dct_dc_share") == pytest.approx(spectrum.dc_share)
    assert made.value("dct_high_share") == pytest.approx(spectrum.high_share)
    # windows and clips weigh alike, so the mean over clips is the statistic of all clips together
    assert made.value("local_correlation") == pytest.approx(local_correlation(mean).mean.item(), abs=1e-9)
    raw, normalized = eigenspectrum(mean), eigenspectrum(mean, normalize=True)
    assert made.value("explained_variance_8") == pytest.approx(float(explained_variance(raw)[7]))
    assert made.value("explained_variance_1_normalized") == pytest.approx(float(explained_variance(normalized)[0]))
    assert made.value("explained_variance_16") == 1.0  # ten channels only
    assert made.value("participation_ratio") == pytest.approx(participation_ratio(raw))
    divergence = kl_divergence(Normal(mean, (0.5 * given.logvar.double()).exp()), Normal(0.0, 1.0))
    assert made.value("kl_per_dim") == pytest.approx(divergence.mean().item())
    assert made.value("posterior_std") == pytest.approx((0.5 * given.logvar.double()).exp().mean().item())
    torch.testing.assert_close(made.channel_mean, mean.mean((0, 2, 3, 4)))
    torch.testing.assert_close(made.channel_std, mean.std((0, 2, 3, 4)))
    with pytest.raises(KeyError):
        made.value("psnr_db")


def test_protocols_state_block_window_and_normalisation() -> None:
    protocols = {metric.name: metric.protocol for metric in report().values}
    assert "block=2x4x4" in protocols["dct_high_share"]
    assert "window=2x2x2" in protocols["local_correlation"]
    assert "raw" in protocols["explained_variance_8"]
    assert "normalized" in protocols["explained_variance_8_normalized"]
    given = posterior()
    other = latent_report(given.mean, given.logvar, block=(1, 2, 2), window=(1, 2, 2))
    changed = {metric.name: metric.protocol for metric in other.values}
    assert changed["dct_high_share"] != protocols["dct_high_share"]
    assert changed["local_correlation"] != protocols["local_correlation"]


def test_ranks_and_batches_give_the_same_report() -> None:
    given, made = posterior(), report()
    ranks = [LatentStatistics(10, (3, 8, 8)) for _ in range(2)]
    halves = [slice(0, 4), slice(4, 6)]
    for rank, half in zip(ranks, halves, strict=True):
        for clip in range(half.start, half.stop):
            rank.update(Posterior(given.mean[clip : clip + 1], given.logvar[clip : clip + 1]))
    first, second = LatentStatistics(10, (3, 8, 8)), LatentStatistics(10, (3, 8, 8))
    for total in (first, second):
        for rank in ranks:
            total.merge(rank)
    first.correlate(given.mean[halves[0]])
    second.correlate(given.mean[halves[1]])
    first.merge_correlation(second)
    merged = first.compute()
    for metric, expected in zip(merged.values, made.values, strict=True):
        assert (metric.name, metric.n, metric.protocol) == (expected.name, expected.n, expected.protocol)
        assert metric.value == pytest.approx(expected.value, rel=1e-9, abs=1e-12)


def test_curves_fit_their_axes_and_sum_as_they_should() -> None:
    curves = report().curves
    for name, (x, y) in curves.items():
        assert x.shape == y.shape and x.dtype == y.dtype == torch.float64, name
    for name in ("dct_spectrum", "dct_temporal", "dct_spatial"):
        assert float(curves[name][1].sum()) == pytest.approx(1.0), name
    assert len(curves["dct_spatial"][1]) == 7 and len(curves["dct_temporal"][1]) == 2
    assert curves["explained_variance"][0].tolist() == list(range(1, 11))
    spectrum = report().spectrum
    assert float(curves["dct_spatial"][1][1]) == pytest.approx(float(spectrum.spatial[0, 1] + spectrum.spatial[1, 0]))


def test_smoother_latents_have_higher_correlation_and_less_high_frequency() -> None:
    given = posterior()
    smooth = torch.nn.functional.avg_pool3d(given.mean, (1, 3, 3), stride=1, padding=(0, 1, 1))
    rough, softened = report(), latent_report(smooth, given.logvar)
    assert softened.value("local_correlation") > rough.value("local_correlation") + 0.1
    assert softened.value("dct_high_share") < rough.value("dct_high_share")


def test_incomplete_or_mismatched_sweeps_are_refused() -> None:
    given = posterior()
    statistics = LatentStatistics(10, (3, 8, 8))
    with pytest.raises(ValueError, match="0 clips"):
        statistics.compute()
    statistics.update(given)
    with pytest.raises(ValueError, match="second"):
        statistics.compute()
    with pytest.raises(ValueError, match="grid"):
        statistics.update(posterior(grid=(3, 4, 4)))
    with pytest.raises(ValueError, match="merge"):
        statistics.merge(LatentStatistics(10, (3, 8, 8), block=(1, 1, 1)))
    with pytest.raises(ValueError, match="first sweep"):
        statistics.merge_correlation(LatentStatistics(10, (3, 8, 8)))
    with pytest.raises(ValueError, match="t=2"):
        LatentStatistics(10, (4, 8, 8), window=(2, 2, 2))


def test_window_and_block_adapt_to_short_clips_and_images() -> None:
    for grid, window in (((2, 4, 4), (1, 2, 2)), ((1, 4, 4), (2, 2, 2))):
        given = posterior(4, 5, grid)
        made = latent_report(given.mean, given.logvar)
        expected = local_correlation(given.mean.double(), window).mean.item()
        assert made.value("local_correlation") == pytest.approx(expected, abs=1e-9)
