"""Group ``objective``: what a reconstruction is compared by."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class LpipsConfig:
    """LPIPS (VGG16). ``vgg`` and ``heads``: paths of the usual weight files; vgg null: the term is left out, and
    log and table say so. ``heads`` null: those that ship with torchmetrics, where it is installed."""

    weight: float = MISSING
    vgg: str | None = MISSING
    heads: str | None = MISSING


@dataclass
class ObjectiveConfig:
    """nll = (|x - y| + weight·LPIPS) / exp(s) + s, summed over dimensions, mean over the batch; s learned."""

    name: str = MISSING
    initial_logscale: float = MISSING  # start of s
    lpips: LpipsConfig = MISSING
