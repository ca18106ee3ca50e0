from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from ssvae.metrics.interval import mean_interval, metric_from_samples


def test_agrees_with_scipys_t_interval() -> None:
    values = np.random.default_rng(0).normal(3, 2, 12)
    mean, interval = mean_interval(values.tolist())
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert mean == pytest.approx(values.mean())
    assert interval == pytest.approx((expected.low, expected.high))


def test_covers_the_true_mean_as_often_as_it_says() -> None:
    draws = torch.randn(2000, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    hits = 0
    for row in draws:
        interval = mean_interval(row)[1]
        assert interval is not None
        hits += interval[0] <= 0 <= interval[1]
    assert hits / 2000 == pytest.approx(0.95, abs=0.02)  # the normal interval would cover 88 %


def test_one_value_has_no_interval() -> None:
    assert mean_interval([2.5]) == (2.5, None)
    metric = metric_from_samples("psnr_db", torch.tensor([1.0, 3.0]), "dB", "up", "p/1")
    assert (metric.name, metric.value, metric.unit, metric.direction, metric.n) == ("psnr_db", 2.0, "dB", "up", 2)
    assert metric.ci95 is not None and metric.ci95[0] == pytest.approx(2 - 12.7062047)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf"), 1.0], [[1.0]]])
def test_bad_values_are_refused(values: list) -> None:
    with pytest.raises(ValueError):
        mean_interval(values)
