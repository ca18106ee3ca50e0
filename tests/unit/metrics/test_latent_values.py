"""What the latents report gained: windows, cuts, mode strengths, VIV, KL of each channel, and their names."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ssvae.core.types import Posterior
from ssvae.metrics.latent_values import CURVE_LABELS, labelled_curves
from ssvae.metrics.latents import WINDOWS, LatentReport, LatentStatistics, latent_report
from ssvae.stats.channels import eigenspectrum
from ssvae.stats.local_corr import Window, local_correlation
from ssvae.stats.spectrum import spatiotemporal_spectrum

GRID = (3, 8, 8)


def posterior(clips: int = 6, channels: int = 5, grid: tuple[int, int, int] = GRID) -> Posterior:
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(channels, channels, generator=generator, dtype=torch.float64)
    noise = torch.randn(clips, channels, *grid, generator=generator, dtype=torch.float64)
    mean = torch.einsum("dc,bcfhw->bdfhw", mixing, noise)
    mean[..., 1:] += mean[..., :-1].clone()
    return Posterior(mean + 2, torch.randn(clips, channels, *grid, generator=generator, dtype=torch.float64) - 4)


def report(given: Posterior | None = None, windows: Sequence[Window] = ()) -> LatentReport:
    chosen = given if given is not None else posterior()
    return latent_report(chosen.mean, chosen.logvar, windows=windows)


def test_every_window_is_a_metric_of_its_own() -> None:
    given = posterior()
    made = report(windows=WINDOWS)
    for window in ((1, 2, 2), (2, 2, 2), (1, 4, 4), (2, 4, 4), (1, 8, 8)):
        name = "local_correlation_" + "x".join(map(str, window))
        expected = local_correlation(given.mean, window).mean.item()
        assert made.value(name) == pytest.approx(expected, abs=1e-9)
        assert next(metric.protocol for metric in made.values if metric.name == name).startswith("local_correlation/1;")
    assert made.value("local_correlation") == made.value("local_correlation_2x2x2")
    assert list(made.left_out) == ["local_correlation_4x4x4"] and "t=4" in made.left_out["local_correlation_4x4x4"]
    with pytest.raises(KeyError):
        made.value("local_correlation_4x4x4")


def test_a_window_that_is_none_is_refused_not_left_out() -> None:
    with pytest.raises(ValueError, match="one spatial position"):
        LatentStatistics(5, GRID, windows=((2, 1, 1),))
    with pytest.raises(ValueError, match="positive"):
        LatentStatistics(5, GRID, windows=((0, 2, 2),))


def test_shares_are_the_spectrums_and_name_their_cut() -> None:
    made = report()
    spectrum = spatiotemporal_spectrum(posterior().mean)
    protocols = {metric.name: metric.protocol for metric in made.values}
    for name, expected, cut in (
        ("dct_above_25", spectrum.above(0.25), "axes=txhxw;rho=0.25"),
        ("dct_above_75", spectrum.above(0.75), "axes=txhxw;rho=0.75"),
        ("dct_spatial_high_share", spectrum.spatial_above(0.5), "axes=hxw;rho=0.5"),
        ("dct_temporal_high_share", spectrum.temporal_above(0.5), "axes=t;rho=0.5"),
    ):
        assert made.value(name) == pytest.approx(expected)
        assert protocols[name].endswith(cut) and protocols[name].startswith(protocols["dct_high_share"])


def test_mode_strengths_are_those_of_the_channel_correlation() -> None:
    made = report()
    eigenvalues = eigenspectrum(posterior().mean, normalize=True)
    assert made.value("mode_strength_flow_max") == pytest.approx(float((eigenvalues - 1).abs().max()) / 2)
    assert made.value("mode_strength_flow_mean") == pytest.approx(float((eigenvalues - 1).abs().mean()) / 2)
    assert made.value("mode_strength_vp_max") == pytest.approx(made.value("mode_strength_flow_max"))
    assert made.value("mode_strength_vp_mean") == pytest.approx(made.value("mode_strength_flow_mean"))
    grid = torch.linspace(0, 1, 20001, dtype=torch.float64)[:, None]
    over_time = (grid - (1 - grid) * eigenvalues).abs().mean()
    assert made.value("mode_strength_flow_time_mean") == pytest.approx(float(over_time), rel=1e-3)
    assert "own_derivation" in next(m.protocol for m in made.values if m.name == "mode_strength_vp_max")


def test_viv_is_below_white_and_absent_where_no_covariance_exists() -> None:
    made = report()
    assert 0.2 < made.value("viv") < math.pi / 2
    assert "covariance=channel*time*space" in next(m.protocol for m in made.values if m.name == "viv")
    alone = report(posterior(clips=1))
    assert "viv" in alone.left_out and "viv" not in {metric.name for metric in alone.values}
    assert {metric.name for metric in made.values} == {metric.name for metric in alone.values} | {"viv"}


def test_kl_of_each_channel_averages_to_the_whole() -> None:
    given, made = posterior(), report()
    divergence = kl_divergence(Normal(given.mean, (0.5 * given.logvar).exp()), Normal(0.0, 1.0)).mean((0, 2, 3, 4))
    curve = made.curves["kl_per_channel"][1]
    torch.testing.assert_close(curve, divergence.sort(descending=True).values)
    assert float(curve.mean()) == pytest.approx(made.value("kl_per_dim"))


def test_every_curve_has_its_axes_named() -> None:
    curves = report().curves
    assert set(curves) <= set(CURVE_LABELS)
    written = labelled_curves({**curves, "unheard_of": curves["dct_spectrum"]})
    assert written["dct_spectrum"]["x_label"] == "zigzag index"
    assert written["unheard_of"]["x_label"] == "index"
    assert written["eigenspectrum"]["y"] == curves["eigenspectrum"][1].tolist()


def test_the_covariance_travels_with_the_report() -> None:
    made, given = report(), posterior()
    flat = given.mean.movedim(1, 0).flatten(1)
    torch.testing.assert_close(made.channel_cov, torch.cov(flat))


def test_another_set_up_neither_merges_nor_loads() -> None:
    mine, other = LatentStatistics(5, GRID), LatentStatistics(5, GRID, windows=((1, 4, 4),))
    with pytest.raises(ValueError, match="cannot merge"):
        mine.merge(other)
    with pytest.raises(ValueError, match="state was set up"):
        mine.load_state_dict(other.state_dict())
