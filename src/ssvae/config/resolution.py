"""Group ``resolution``: clip size and length, and what LMR does at that size."""

from __future__ import annotations

from dataclasses import dataclass

from omegaconf import MISSING


@dataclass
class LmrShape:
    """Mask ratios drawn per batch, their probabilities, block (t,h,w) in latent positions."""

    ratios: list[float] = MISSING
    probabilities: list[float] = MISSING
    block: list[int] = MISSING


@dataclass
class ResolutionConfig:
    """Clips of ``frames`` frames at ``fps``, short side resized and centre-cropped to height x width pixels."""

    name: str = MISSING
    height: int = MISSING
    width: int = MISSING
    frames: int = MISSING
    fps: float = MISSING
    lmr: LmrShape = MISSING
