"""Group ``probe``: the small diffusion transformer that is trained on a VAE's latents."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING

from ssvae.config.train import TrainConfig


class Condition(Enum):
    """``auto``: captions where every clip has one, else class labels, else none."""

    auto = "auto"
    caption = "caption"
    label = "label"
    none = "none"


class TimeDraw(Enum):
    uniform = "uniform"
    logit_normal = "logit_normal"


@dataclass
class DitConfig:
    patch: list[int] = MISSING  # (t,h,w) latent positions a token
    width: int = MISSING
    depth: int = MISSING
    heads: int = MISSING
    input_skip: bool = MISSING  # adds gain(t)·x: a token of more values than ``width`` cannot carry all its noise


@dataclass
class FlowConfig:
    """Rectified flow: x_t = (1 - t) x0 + t·noise."""

    times: TimeDraw = MISSING
    shift: float = MISSING  # timestep shift; 1: none


@dataclass
class SampleConfig:
    clips: int = MISSING  # generated clips that are scored
    steps: int = MISSING  # Euler steps
    guidance: float = MISSING  # 1: conditional prediction only
    batch: int = MISSING


@dataclass
class ProbeConfig:
    name: str = MISSING
    condition: Condition = MISSING
    condition_dropout: float = MISSING
    dit: DitConfig = MISSING
    flow: FlowConfig = MISSING
    train: TrainConfig = MISSING
    validation_draws: int = MISSING  # (time, noise) draws a held-out latent for the validation loss
    sample: SampleConfig = MISSING
