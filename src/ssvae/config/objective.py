"""Group ``objective``: what a reconstruction is compared by."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING

from ssvae.config.reg import WeightConfig


@dataclass
class LpipsConfig:
    """LPIPS (VGG16). ``vgg`` and ``heads``: paths of the usual weight files; vgg null: the term is left out, and
    log and table say so. ``heads`` null: those that ship with torchmetrics, where it is installed."""

    weight: float = MISSING
    vgg: str | None = MISSING
    heads: str | None = MISSING


@dataclass
class CriticConfig:
    """PatchGAN with a hinge loss: a 2-D critic of frames beside a causal 3-D critic of the clip."""

    width: int = MISSING  # channels after the first convolution (official: 64)
    levels: int = MISSING  # halvings of height and width (official: 4)
    temporal_levels: int = MISSING  # halvings of time in the 3-D critic (official: 2)
    start_step: int = MISSING  # the first update, counted from 1, in which it plays (official: 25,001)
    weight: WeightConfig = MISSING  # of the generator's loss; grad_ratio is taken at the decoder's last layer
    largest_weight: float = MISSING  # clamp of the adaptive weight (official: 1e4)
    lr: float = MISSING  # constant
    betas: list[float] = MISSING
    alternate: bool = MISSING  # false: one forward pass serves both players; true: they take turns, as officially


@dataclass
class ObjectiveConfig:
    """nll = (|x - y| + weight·LPIPS) / exp(s) + s, summed over dimensions, mean over the batch; s learned.

    critic: null for none.
    """

    name: str = MISSING
    initial_logscale: float = MISSING  # start of s
    lpips: LpipsConfig = MISSING
    critic: CriticConfig | None = MISSING
