"""Bands against the interval of each place."""

from __future__ import annotations

import pytest
import torch

from ssvae.metrics.band import band_from_samples
from ssvae.metrics.interval import mean_interval


def test_each_place_has_its_own_interval() -> None:
    table = torch.randn(7, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    band = band_from_samples(table)
    assert band.low is not None and band.high is not None
    for place in range(3):
        mean, interval = mean_interval(table[:, place])
        assert (band.mean[place].item(), (band.low[place].item(), band.high[place].item())) == (mean, interval)


def test_windows_of_one_clip_are_averaged_first() -> None:
    table = torch.tensor([[0.0, 1.0], [2.0, 1.0], [5.0, 3.0]])
    grouped = band_from_samples(table, ["a", "a", "b"])
    expected = band_from_samples(torch.tensor([[1.0, 1.0], [5.0, 3.0]]))
    assert all(torch.equal(x, y) for x, y in zip(grouped, expected, strict=True))  # type: ignore[arg-type]


def test_one_clip_has_no_interval_and_no_clip_is_refused() -> None:
    band = band_from_samples(torch.tensor([[1.0, 2.0]]))
    assert band.mean.tolist() == [1.0, 2.0] and band.low is None and band.high is None
    with pytest.raises(ValueError, match="at least one value"):
        band_from_samples(torch.zeros(0, 2))
    with pytest.raises(ValueError, match=r"\(n,L\)"):
        band_from_samples(torch.zeros(3))
