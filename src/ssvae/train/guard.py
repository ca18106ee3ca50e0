"""Non-finite losses: agreed by all ranks before the update, counted, stopped above a limit."""

from __future__ import annotations

import torch
from torch import Tensor

from ssvae.core.ranks import ALONE, Ranks


class NonFiniteLoss(RuntimeError):
    """More updates had to be skipped than ``nonfinite_limit`` allows."""


class Guard:
    """Counts the updates that were skipped because a loss or a gradient norm was not finite on some rank."""

    def __init__(self, limit: int, skipped: int = 0, ranks: Ranks = ALONE) -> None:
        self.limit = limit
        self.skipped = skipped
        self.ranks = ranks

    def allows(self, step: int, **values: Tensor) -> bool:
        """May the update of ``step`` be applied? Every rank gets the same answer. values: scalars that must be finite.

        Raises NonFiniteLoss, on every rank, above the limit.
        """
        device = next(iter(values.values())).device
        finite = all(bool(torch.isfinite(value)) for value in values.values())
        if self.ranks.all(finite, device):
            return True
        self.skipped += 1
        if self.skipped > self.limit:
            seen = ", ".join(f"{name} {float(value):g}" for name, value in values.items())
            raise NonFiniteLoss(
                f"{seen} at step {step} (rank {self.ranks.rank} of {self.ranks.world}): "
                f"{self.skipped} updates were not finite, train.nonfinite_limit is {self.limit}; "
                "lower train.lr or the regulariser's strength"
            )
        return False
