"""How long and how fast to train; shared by both loops."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ssvae.core.schedule import Curve, learning_rate


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """steps: optimiser updates. batch: samples a step over all ranks. lr: peak rate; warmup, decay_steps in updates.

    grad_clip: global gradient norm, None for none. ema_decay: None for no EMA. precision: of products; weights stay
    float32. nonfinite_limit: updates that may be skipped for a non-finite loss before training stops.
    """

    steps: int
    batch: int
    optimizer: Literal["adam", "adamw"]
    lr: float
    betas: tuple[float, float]
    weight_decay: float
    curve: Curve
    warmup: int
    lr_start: float
    lr_end: float
    decay_steps: int | None
    grad_clip: float | None
    ema_decay: float | None
    precision: Literal["fp32", "bf16"]
    nonfinite_limit: int

    def build_optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Adam or AdamW over ``parameters`` (in the given order, which checkpoints rely on)."""
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.optimizer]
        return kind(list(parameters), lr=self.lr, betas=self.betas, weight_decay=self.weight_decay, fused=True)

    def set_rate(self, optimizer: torch.optim.Optimizer, step: int) -> float:
        """Set and return the learning rate of update ``step`` (0-based)."""
        rate = learning_rate(
            step,
            curve=self.curve,
            peak=self.lr,
            warmup=self.warmup,
            start=self.lr_start,
            end=self.lr_end,
            decay_steps=self.decay_steps or self.steps,
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        return rate


@dataclass(frozen=True, slots=True)
class Cadence:
    """Updates between two checkpoints and between two log lines; changes no number."""

    checkpoint_every: int
    log_every: int

    def logs(self, step: int, steps: int) -> bool:
        """Is the state after ``step`` updates logged? The first and the last always are."""
        return step == 1 or step == steps or step % self.log_every == 0

    def saves(self, step: int, steps: int) -> bool:
        return step == steps or step % self.checkpoint_every == 0
