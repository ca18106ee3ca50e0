"""Group ``score``: what is measured on held-out clips, and the latents that the probe trains on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING

from ssvae.config.reg import TrainedStage


class Weights(Enum):
    """Which weights are measured: as trained, or their moving average."""

    raw = "raw"
    ema = "ema"


@dataclass
class MeasureConfig:
    name: str = MISSING
    trained: TrainedStage = MISSING  # the stage whose weights are measured, encoded with and decoded with
    weights: Weights = MISSING
    clips: int = MISSING  # held-out windows
    batch: int = MISSING
    window: list[int] = MISSING  # local correlation, latent positions (t,h,w)
    block: list[int] = MISSING  # DCT, latent positions (t,h,w)
    noise: list[float] = MISSING  # decoder robustness: noise std in units of the latent's own per-channel std
    downsample: int = MISSING  # spatial factor of the down-and-up baseline


@dataclass
class LatentsConfig:
    windows: int = MISSING  # training windows encoded a clip
    batch: int = MISSING
