"""A curve's mean over clips with its 95 % interval at every place: by frame, by noise level, by mask ratio.

Dimension legend: n windows of clips, L places of the curve; table (n,L), float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ssvae.core.shapes import check_ndim
from ssvae.metrics.interval import clip_means, mean_interval


class Band(NamedTuple):
    """mean, low, high: (L,) float64, the mean over clips and its 95 % interval place by place; low and high are None
    for a single clip, whose spread nobody knows."""

    mean: Tensor
    low: Tensor | None
    high: Tensor | None


def band_from_samples(table: Tensor, keys: Sequence[str] | None = None) -> Band:
    """The band of (n,L) values; keys: the clip of each window, whose windows are averaged first.

    Each place has the interval of :func:`~ssvae.metrics.interval.mean_interval`: 95 % hold for one place, not for the
    whole curve at once. Raises ValueError as that function does.
    """
    check_ndim("table", table.shape, 2, "(n,L)")
    columns = [column if keys is None else clip_means(column, keys) for column in table.unbind(1)]
    places = [mean_interval(column) for column in columns]
    mean = torch.tensor([value for value, _ in places], dtype=torch.float64)
    ends = [interval for _, interval in places if interval is not None]
    if len(ends) < len(places):
        return Band(mean, None, None)
    low, high = torch.tensor(ends, dtype=torch.float64).view(-1, 2).unbind(1)
    return Band(mean, low, high)
