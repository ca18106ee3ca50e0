"""The part of build.py that measures and scores: where their config values become objects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ssvae.config.probe import TextConfig
from ssvae.config.resolution import ResolutionConfig
from ssvae.config.reward import RewardConfig
from ssvae.config.score import MeasureConfig, NetworksConfig
from ssvae.metrics.fdd import load_fdd
from ssvae.metrics.frechet_metric import FrechetNetwork
from ssvae.metrics.fvd import load_fvd
from ssvae.metrics.measurement import Measurement, MeasurementSettings
from ssvae.metrics.reward_settings import RewardSettings
from ssvae.models.autoencoder import Autoencoder
from ssvae.models.lpips import LPIPS, load_lpips
from ssvae.models.text_encoder import TextEncoder, load_text_encoder


def build_measurement(
    cfg: MeasureConfig,
    clip: ResolutionConfig,
    vae: Autoencoder,
    *,
    mean: Tensor,
    std: Tensor,
    token: Tensor | None,
    lpips: dict[str, LPIPS],
    networks: Sequence[FrechetNetwork],
    kept: int,
) -> Measurement:
    settings = MeasurementSettings(
        window=triple(cfg.window),
        windows=tuple(triple(window) for window in cfg.windows),
        block=triple(cfg.block),
        chop=tuple(cfg.chop),
        noise=tuple(cfg.noise),
        mask=tuple(cfg.mask),
        downsample=cfg.downsample,
    )
    size = (clip.frames, clip.height, clip.width)
    return Measurement(vae, size, settings, mean=mean, std=std, token=token, lpips=lpips, networks=networks, kept=kept)


def build_lpips(cfg: NetworksConfig, device: torch.device) -> dict[str, LPIPS]:
    """LPIPS by trunk, of those whose weights are given. Raises ValueError for files that cannot be used."""
    found: dict[str, LPIPS] = {}
    if cfg.lpips_vgg is not None:
        found["vgg"] = load_lpips(_file(cfg.lpips_vgg), net="vgg").to(device)
    if cfg.lpips_alex is not None:
        found["alex"] = load_lpips(_file(cfg.lpips_alex), net="alex").to(device)
    return found


def build_frechet_networks(cfg: NetworksConfig, frames: int, device: torch.device) -> list[FrechetNetwork]:
    """FDD's and FVD's networks, of those that are given, for clips of ``frames`` frames.

    Raises ValueError for files that cannot be used, and for clips that are too short for them.
    """
    found: list[FrechetNetwork] = []
    if cfg.dinov2 is not None:
        found.append(load_fdd(cfg.dinov2, cfg.fdd_frames, device))
    if cfg.i3d is not None:
        found.append(load_fvd(_file(cfg.i3d), cfg.fvd_frames, device))
    for network in found:
        network.features_a_clip(frames)
    return found


def build_reward_settings(cfg: RewardConfig, seed: int = 0) -> RewardSettings:
    """How the reward model is asked; seed: of the wrong prompts. Raises ValueError for values that cannot work."""
    return RewardSettings(
        endpoint=cfg.endpoint,
        model=cfg.model,
        version=cfg.version.value,
        template=None if cfg.template is None else Path(cfg.template),
        frames=cfg.frames,
        jpeg_quality=cfg.jpeg_quality,
        max_tokens=cfg.max_tokens,
        wrong_prompts=cfg.wrong_prompts,
        seed=seed,
        unparsed_share=cfg.unparsed_share,
        concurrency=cfg.concurrency,
        timeout_s=cfg.timeout_s,
        retries=cfg.retries,
        backoff_s=cfg.backoff_s,
        longest_wait_s=cfg.longest_wait_s,
        api_key_env=cfg.api_key_env,
    )


def build_text_encoder(cfg: TextConfig, device: torch.device) -> TextEncoder:
    """Raises ValueError for an encoder that cannot be had."""
    assert cfg.model is not None, "config/probe_checks.py refuses it"
    return load_text_encoder(cfg.model, max_length=cfg.max_length, device=device)


def _file(path: str) -> Path:
    return Path(path).expanduser()


def triple(values: Sequence[int]) -> tuple[int, int, int]:
    first, second, third = values
    return first, second, third
