"""Groups ``stage`` and ``track``, node ``runtime``: what runs, and how it is watched.

Nothing here is part of a stage's identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING


class StageName(Enum):
    """``evaluate`` = measure + probe; ``all`` = everything."""

    pretrain = "pretrain"
    decoder_finetune = "decoder_finetune"
    measure = "measure"
    probe = "probe"
    evaluate = "evaluate"
    all = "all"


@dataclass
class TrackConfig:
    enabled: bool = MISSING
    uri: str | None = MISSING  # any of MLflow's; null: $MLFLOW_TRACKING_URI, else sqlite under runs/
    experiment: str = MISSING  # MLflow experiment
    every_s: float = MISSING  # seconds between two mirrorings of a running stage
    patience_s: float = MISSING  # longest wait for the tracker when all work is done
    system_every_s: float | None = MISSING  # seconds between two samples of each rank's machine; null or 0: none
    samples: int = MISSING  # sample videos kept a cell


@dataclass
class RuntimeConfig:
    """How a run is carried out; changes no number."""

    workers: int = MISSING  # loader processes
    checkpoint_every: int = MISSING  # updates between two checkpoints
    log_every: int = MISSING  # updates between two lines of steps.jsonl


@dataclass
class SweepConfig:
    name: str | None = MISSING  # null: derived from axes and cells
