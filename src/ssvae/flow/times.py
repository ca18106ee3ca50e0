"""Times of a path from data (t = 0) to noise (t = 1): how they are drawn and how they broadcast.

Dimension legend
    B batch, ... any further axes of a sample; t (B,) in [0, 1]
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class TimeDraws:
    """What every path is told of its times.

    distribution of t: "uniform" on [0,1] or "logit_normal", sigmoid of N(logit_mean, logit_std²) (Esser et al.
    2403.03206, section 3.1). shift: factor on the noise-to-signal ratio, which the path applies.
    Raises ValueError for an unknown distribution or a non-positive shift or deviation.
    """

    distribution: TimeDistribution = "uniform"
    shift: float = 1.0
    logit_mean: float = 0.0
    logit_std: float = 1.0

    def __post_init__(self) -> None:
        if self.distribution not in TIME_DISTRIBUTIONS:
            raise ValueError(f"distribution {self.distribution!r} is not one of {', '.join(TIME_DISTRIBUTIONS)}")
        check_shift(self.shift)
        if not self.logit_std > 0:
            raise ValueError(f"logit_std {self.logit_std} must be positive; 1 is usual")

    def unshifted_times(self, count: int, generator: torch.Generator) -> Tensor:
        """``count`` times in [0, 1] before the shift, float32 on the generator's device."""
        if self.distribution == "uniform":
            return torch.rand(count, generator=generator, device=generator.device)
        normal = torch.randn(count, generator=generator, device=generator.device)
        return torch.sigmoid(self.logit_mean + self.logit_std * normal)
