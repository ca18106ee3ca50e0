"""Statistics in pieces against those of the whole, on both sides of n = D."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ssvae.metrics.feature_set import FeatureStatistics, frechet
from ssvae.stats.frechet import frechet_distance, frechet_from_features


def features(n: int, dim: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    return torch.randn(n, dim, generator=generator, dtype=torch.float64) @ mixing + seed


def of(x: Tensor, sizes: list[int] | None = None) -> FeatureStatistics:
    statistics = FeatureStatistics(x.shape[1])
    for part in x.split(sizes or [len(x)]):
        statistics.update(part)
    return statistics


@pytest.mark.parametrize("n, m", [(60, 50), (5, 60), (60, 5), (5, 7), (10, 10), (11, 10)])
def test_distance_is_that_of_the_features(n: int, m: int) -> None:
    a, b = features(n, 10, 1), features(m, 10, 2)
    assert frechet(of(a), of(b)) == pytest.approx(frechet_from_features(a, b), rel=1e-10)


@pytest.mark.parametrize("sizes", [[1] * 24, [7, 17], [12, 0, 12]])
def test_pieces_and_merged_sets_equal_the_whole(sizes: list[int]) -> None:
    for dim in (8, 40):  # more and fewer samples than dimensions
        x, other = features(24, dim, 3), of(features(30, dim, 4))
        whole = frechet(of(x), other)
        assert frechet(of(x, sizes), other) == pytest.approx(whole, rel=1e-11)
        parts = [of(part) for part in x.split(sizes)]
        merged = FeatureStatistics.merged([part.state_dict() for part in parts])
        assert merged.count == 24 and frechet(merged, other) == pytest.approx(whole, rel=1e-11)
        for part in parts[1:]:
            parts[0].merge(part)
        assert frechet(parts[0], other) == pytest.approx(whole, rel=1e-11)


def test_samples_are_kept_while_there_are_no_more_than_dimensions() -> None:
    x = features(9, 8, 5)
    statistics = of(x[:8])
    assert not statistics.full_rank and torch.equal(statistics.state_dict()["samples"], x[:8])
    statistics.update(x[8:])
    assert statistics.full_rank and "samples" not in statistics.state_dict()
    statistics.merge(of(x[:2]))
    assert statistics.count == 11 and "samples" not in statistics.state_dict()
    small = of(x[:4])
    small.merge(of(x[4:]))
    assert "samples" not in small.state_dict()


def test_covariance_divided_by_n() -> None:
    a, b = features(30, 6, 6), features(25, 6, 7)
    by_n = [torch.cov(x.T, correction=0) for x in (a, b)]
    expected = frechet_distance(a.mean(0), by_n[0], b.mean(0), by_n[1])
    assert frechet(of(a), of(b), "n") == pytest.approx(expected, rel=1e-10)
    assert frechet(of(a), of(b)) != pytest.approx(expected, rel=1e-3)
    few = features(5, 6, 8)
    expected = frechet_distance(few.mean(0), torch.cov(few.T, correction=0), b.mean(0), by_n[1])
    assert frechet(of(few), of(b), "n") == pytest.approx(expected, rel=1e-8)


def test_an_update_does_not_hold_on_to_the_callers_tensor() -> None:
    x = features(4, 8, 9)
    statistics = of(x)
    expected = statistics.state_dict()["samples"].clone()
    x.zero_()
    assert torch.equal(statistics.state_dict()["samples"], expected)


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(n,D\)"):
        FeatureStatistics(3).update(torch.zeros(3))
    with pytest.raises(ValueError, match="NaN"):
        FeatureStatistics(3).update(torch.full((2, 3), float("nan")))
    with pytest.raises(ValueError, match="one network"):
        frechet(of(features(5, 3, 0)), of(features(5, 4, 0)))
    with pytest.raises(ValueError, match="at least 2 samples"):
        frechet(of(features(1, 3, 0)), of(features(9, 3, 0)))
    with pytest.raises(ValueError, match="no feature statistics"):
        FeatureStatistics.merged([])
    state = of(features(2, 3, 0)).state_dict()
    del state["samples"]
    with pytest.raises(ValueError, match="counts 2 samples in 3 dimensions and holds 0"):
        FeatureStatistics(3).load_state_dict(state)
