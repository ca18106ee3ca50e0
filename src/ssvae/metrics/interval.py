"""A mean over clips with its 95 % confidence interval.

Student's t interval: it is the normal one for many clips, and honest about the spread for few.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.special import stdtrit
from torch import Tensor

from ssvae.core.types import Direction, MetricValue


def mean_interval(values: Sequence[float] | Tensor, level: float = 0.95) -> tuple[float, tuple[float, float] | None]:
    """Mean of independent values (n,) and its two-sided confidence interval, None for n = 1.

    Raises ValueError for no values, non-finite ones, or more than one axis.
    """
    samples = torch.as_tensor(values, dtype=torch.float64)
    if samples.ndim != 1 or samples.numel() == 0:
        raise ValueError(f"a mean needs at least one value on one axis, got shape {tuple(samples.shape)}")
    if not torch.isfinite(samples).all():
        raise ValueError("values contain NaN or infinity: a mean and its interval would hide them")
    n = samples.numel()
    mean = float(samples.mean())
    if n == 1:
        return mean, None
    half = float(stdtrit(n - 1, 0.5 + level / 2)) * float(samples.std()) / math.sqrt(n)
    return mean, (mean - half, mean + half)


def metric_from_samples(
    name: str,
    values: Sequence[float] | Tensor,
    unit: str,
    direction: Direction,
    protocol: str,
    clips: Sequence[str] | None = None,
) -> MetricValue:
    """The mean over clips as a :class:`MetricValue` with n and 95 % interval; errors as :func:`mean_interval`.

    clips: the clip that each value belongs to. Windows of one clip are not independent: they are averaged first,
    and n counts clips.
    """
    if clips is not None:
        values = clip_means(values, clips)
    mean, interval = mean_interval(values)
    return MetricValue(name, mean, unit, direction, len(values), interval, protocol)


def clip_means(values: Sequence[float] | Tensor, clips: Sequence[str]) -> Tensor:
    """One mean a clip (float64), in order of first appearance; ValueError unless each value names its clip."""
    samples = torch.as_tensor(values, dtype=torch.float64)
    if len(samples) != len(clips):
        raise ValueError(f"{len(samples)} values belong to {len(clips)} clips: name the clip of each value")
    rows: dict[str, list[int]] = {}
    for row, clip in enumerate(clips):
        rows.setdefault(clip, []).append(row)
    return torch.stack([samples[indices].mean() for indices in rows.values()])
