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
    windows: list[list[int]] = MISSING  # further windows of the local correlation; those that do not tile are left out
    chop: list[float] = MISSING  # shares of each block's highest DCT coefficients that are set to 0 before decoding
    noise: list[float] = MISSING  # decoder robustness: noise std in units of the latent's own per-channel std
    mask: list[float] = MISSING  # decoder robustness: share of latent positions replaced by the channels' means
    downsample: int = MISSING  # spatial factor of the down-and-up baseline


@dataclass
class NetworksConfig:
    """Networks from outside that metrics need. null: that metric is absent; the shipped networks' proxies are always
    there, under names of their own."""

    lpips_vgg: str | None = MISSING  # VGG16 weight file
    lpips_alex: str | None = MISSING  # AlexNet weight file
    dinov2: str | None = MISSING  # FDD: folder or name of a DINOv2 that transformers reads, e.g. facebook/dinov2-large
    i3d: str | None = MISSING  # FVD: the I3D TorchScript file of StyleGAN-V's protocol
    fdd_frames: int | None = MISSING  # frames of each clip that FDD looks at, evenly spread; 1: the middle; null: all
    fvd_frames: int = MISSING  # first frames of each clip that FVD looks at; StyleGAN-V's protocol: 16


@dataclass
class LatentsConfig:
    windows: int = MISSING  # training windows encoded a clip
    batch: int = MISSING
