"""Times of a path from data (t = 0) to noise (t = 1): how they are drawn and how they broadcast.

Dimension legend
    B batch, ... any further axes of a sample; t (B,) in [0, 1]
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

TimeDistribution = Literal["uniform", "logit_normal"]
TIME_DISTRIBUTIONS: tuple[TimeDistribution, ...] = ("uniform", "logit_normal")


def expand_times(times: Tensor, like: Tensor) -> Tensor:
    """(B,) -> (B,1,...,1) with as many axes as ``like`` and its dtype, ready to broadcast."""
    if times.ndim != 1 or times.shape[0] != like.shape[0]:
        raise ValueError(f"times must be ({like.shape[0]},), one per sample, got {tuple(times.shape)}")
    return times.to(like).reshape(-1, *([1] * (like.ndim - 1)))


def check_shift(shift: float) -> None:
    """ValueError unless ``shift`` is positive."""
    if not shift > 0:
        raise ValueError(f"shift {shift} must be positive; 1 leaves the times as they are")


def check_draws(distribution: str, shift: float, logit_std: float) -> None:
    """ValueError for an unknown distribution or a non-positive shift or deviation."""
    if distribution not in TIME_DISTRIBUTIONS:
        raise ValueError(f"distribution {distribution!r} is not one of {', '.join(TIME_DISTRIBUTIONS)}")
    check_shift(shift)
    if not logit_std > 0:
        raise ValueError(f"logit_std {logit_std} must be positive; 1 is usual")


def draw_times(
    count: int, generator: torch.Generator, distribution: TimeDistribution, logit_mean: float, logit_std: float
) -> Tensor:
    """``count`` times in [0, 1], float32 on the generator's device: uniform, or sigmoid of N(logit_mean, logit_std²)
    (logit-normal, Esser et al. 2403.03206, section 3.1)."""
    if distribution == "uniform":
        return torch.rand(count, generator=generator, device=generator.device)
    normal = torch.randn(count, generator=generator, device=generator.device)
    return torch.sigmoid(logit_mean + logit_std * normal)
