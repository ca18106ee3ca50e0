"""The row, its warnings, and pictures, with a network that is a plain function."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn

from ssvae.metrics.feature_set import Denominator, FeatureStatistics
from ssvae.metrics.frechet_metric import (
    as_pictures,
    feature_statistics,
    frechet_metric,
    network_protocol,
    statistics_key,
    weights_hash,
)
from ssvae.stats.frechet import frechet_from_features


class MeanColour:
    """Feature of a clip: its three mean colours."""

    metric = "mean"
    dim = 3
    weights = "0123456789abcdef"
    preprocessing = "mean/1;frames=all"
    denominator: Denominator = "n-1"

    def features_a_clip(self, frames: int) -> int:
        return 1

    def features(self, videos: Tensor) -> Tensor:
        return videos.double().mean((2, 3, 4))


def clips(n: int, seed: int) -> Tensor:
    return torch.rand(n, 3, 2, 4, 4, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def of(videos: Tensor) -> FeatureStatistics:
    return feature_statistics(MeanColour(), [videos])


def test_the_row_has_the_distance_both_counts_and_the_weights() -> None:
    real, fake = clips(9, 0), clips(7, 1)
    row = frechet_metric("mean_reconstruction", of(real), of(fake), MeanColour())
    expected = frechet_from_features(real.double().mean((2, 3, 4)), fake.double().mean((2, 3, 4)))
    assert row.value == pytest.approx(expected, rel=1e-10)
    assert (row.name, row.n, row.ci95, row.direction) == ("mean_reconstruction", 7, None, "down")
    assert row.protocol == "mean/1;frames=all;cov=n-1;weights=0123456789ab;reference=9;made=7"
    assert row.protocol.startswith(network_protocol(MeanColour()))


def test_too_few_samples_are_logged_and_written_into_the_protocol(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        row = frechet_metric("mean", of(clips(9, 0)), of(clips(3, 1)), MeanColour())
    assert "mean: 3 made samples for 3 feature dimensions" in caplog.text
    assert row.protocol.endswith(";too_few") and row.value > 0
    caplog.clear()
    assert "too_few" not in frechet_metric("mean", of(clips(9, 0)), of(clips(4, 1)), MeanColour()).protocol
    assert not caplog.text


@pytest.mark.parametrize("sizes", [[1] * 10, [3, 3, 4], [10]])
@pytest.mark.parametrize("batch", [1, 4, 99])
def test_batches_change_nothing(sizes: list[int], batch: int) -> None:
    videos, reference = clips(10, 2), of(clips(12, 3))
    whole = frechet_metric("mean", reference, of(videos), MeanColour())
    pieces = feature_statistics(MeanColour(), videos.split(sizes), batch)
    assert frechet_metric("mean", reference, pieces, MeanColour()).value == pytest.approx(whole.value, rel=1e-11)


def test_the_cache_key_counts_features() -> None:
    key = statistics_key(MeanColour(), "data", (9, 64, 64), 8.0, 20)
    assert (key.count, key.weights, key.preprocessing) == (20, MeanColour.weights, MeanColour.preprocessing)


def test_pictures_are_rounded_and_clamped() -> None:
    levels = torch.arange(256, dtype=torch.float32).view(1, 1, 1, 16, 16).expand(1, 3, 1, 16, 16)
    assert torch.equal(as_pictures(levels / 127.5 - 1), levels.to(torch.uint8))
    nudged = (levels + 0.3) / 127.5 - 1
    assert torch.equal(as_pictures(nudged), levels.to(torch.uint8))
    outside = as_pictures(torch.tensor([-2.0, 0.0, 5.0]).view(1, 3, 1, 1, 1))
    assert outside.flatten().tolist() == [0, 128, 255]  # 127.5 rounds to even
    for videos, words in (
        (torch.zeros(1, 1, 1, 2, 2), "3 colours"),
        (torch.zeros(1, 3, 2, 2), r"\(B,3,T,H,W\)"),
        (torch.full((1, 3, 1, 2, 2), float("nan")), "NaN"),
    ):
        with pytest.raises(ValueError, match=words):
            as_pictures(videos)


def test_weights_hash_sees_every_value_name_and_type() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(2, 3)
    network = nn.Sequential(linear, nn.BatchNorm1d(3))
    first = weights_hash(network)
    assert weights_hash(network) == first and len(first) == 64
    assert weights_hash(nn.Sequential(*network)) == first
    with torch.no_grad():
        linear.bias[2] += 1e-6
    assert weights_hash(network) != first
    assert weights_hash(network.bfloat16()) != weights_hash(network.float())
