"""Group ``train``: optimiser, schedule, length; used by the VAE's and the DiT's loop alike."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING


class OptimizerName(Enum):
    adam = "adam"
    adamw = "adamw"


class CurveName(Enum):
    constant = "constant"
    cosine = "cosine"
    one_cycle = "one_cycle"


class Precision(Enum):
    fp32 = "no"
    bf16 = "bf16"


@dataclass
class TrainConfig:
    name: str = MISSING
    steps: int = MISSING  # optimiser updates
    batch: int = MISSING  # clips a step, over all ranks
    optimizer: OptimizerName = MISSING
    lr: float = MISSING  # peak
    betas: list[float] = MISSING
    weight_decay: float = MISSING
    curve: CurveName = MISSING
    warmup: int = MISSING  # updates
    lr_start: float = MISSING
    lr_end: float = MISSING
    decay_steps: int | None = MISSING  # null: steps
    grad_clip: float | None = MISSING  # global norm; null: none
    ema_decay: float | None = MISSING  # null: no EMA
    precision: Precision = MISSING
    nonfinite_limit: int = MISSING  # updates that may be skipped for a non-finite loss before the run stops
