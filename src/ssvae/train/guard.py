"""Non-finite losses: found before the update, counted, stopped above a limit."""

from __future__ import annotations

import torch
from torch import Tensor


class NonFiniteLoss(RuntimeError):
    """More updates had to be skipped than ``nonfinite_limit`` allows."""


class Guard:
    """Counts the updates that were skipped because loss or gradient norm was not finite."""

    def __init__(self, limit: int, skipped: int = 0) -> None:
        self.limit = limit
        self.skipped = skipped

    def allows(self, step: int, loss: Tensor, gradient_norm: Tensor) -> bool:
        """May the update of ``step`` be applied? Raises NonFiniteLoss above the limit."""
        if bool(torch.isfinite(loss)) and bool(torch.isfinite(gradient_norm)):
            return True
        self.skipped += 1
        if self.skipped > self.limit:
            raise NonFiniteLoss(
                f"loss {float(loss):g}, gradient norm {float(gradient_norm):g} at step {step}: "
                f"{self.skipped} updates were not finite, train.nonfinite_limit is {self.limit}; "
                "lower train.lr or the regulariser's strength"
            )
        return False
