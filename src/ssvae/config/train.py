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
    fp32 = "fp32"
    bf16 = "bf16"


class RankStatistics(Enum):
    """Over which batch the ranks take statistics, gradient norms and draws; alone it makes no difference.

    ``shared``: R ranks equal one with the whole batch. ``per_rank``: each for itself, as the official code; all ranks
    then draw the same posterior noise.
    """

    shared = "shared"
    per_rank = "per_rank"


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


@dataclass
class VaeTrainConfig(TrainConfig):
    """What the VAE's loop knows beside."""

    gradient_checkpointing: bool = MISSING  # recompute activations in the backward pass: less memory, same numbers
    rank_statistics: RankStatistics = MISSING
