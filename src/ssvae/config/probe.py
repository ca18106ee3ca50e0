"""Group ``probe``: the diffusion transformer that is trained on a VAE's latents."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING

from ssvae.config.train import TrainConfig


class Condition(Enum):
    """``auto``: captions where every clip has one, else class labels, else none.

    Captions are read by a small embedding that is trained with the model (``caption``), or, where ``text.model`` names
    one, by a frozen text encoder (``text``).
    """

    auto = "auto"
    caption = "caption"
    text = "text"
    label = "label"
    none = "none"


class TimeDraw(Enum):
    uniform = "uniform"
    logit_normal = "logit_normal"


class FlowKind(Enum):
    """``flow``: rectified flow, x_t = (1 - t) x0 + t·noise. ``v``: v-prediction on the cosine path."""

    flow = "flow"
    v = "v"


@dataclass
class TextConfig:
    model: str | None = MISSING  # T5, UMT5 or CLIP: a folder in transformers' format, or a name on the hub
    max_length: int = MISSING  # tokens; longer texts are cut


@dataclass
class DitConfig:
    patch: list[int] = MISSING  # (t,h,w) latent positions a token
    width: int = MISSING
    depth: int = MISSING
    heads: int = MISSING
    input_skip: bool = MISSING  # adds gain(t)·x: a token of more values than ``width`` cannot carry all its noise
    gradient_checkpointing: bool = MISSING  # recompute activations in the backward pass: less memory, same numbers


@dataclass
class FlowConfig:
    """The path from data (t = 0) to noise (t = 1), and the times of training."""

    kind: FlowKind = MISSING
    times: TimeDraw = MISSING
    shift: float = MISSING  # timestep shift, of training and sampling: factor on the noise-to-signal ratio; 1: none


@dataclass
class SampleConfig:
    clips: int = MISSING  # generated clips that are scored
    steps: int = MISSING  # of the sampler
    guidance: float = MISSING  # 1: conditional prediction only
    batch: int = MISSING
    prompts: str | None = MISSING  # file of prompts to generate from; null: the held-out captions


@dataclass
class ProbeConfig:
    name: str = MISSING
    condition: Condition = MISSING
    condition_dropout: float = MISSING
    text: TextConfig = MISSING
    dit: DitConfig = MISSING
    flow: FlowConfig = MISSING
    train: TrainConfig = MISSING
    checkpoints: list[int] = MISSING  # updates after which weights are kept and scored, beside the last
    validation_draws: int = MISSING  # (time, noise) draws a held-out latent for the validation loss
    sample: SampleConfig = MISSING
