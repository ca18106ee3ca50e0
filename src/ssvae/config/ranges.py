"""Ranges of single numbers, type by type: the smallest value that makes sense; every number is finite."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from ssvae.config.data import DataConfig, SyntheticConfig
from ssvae.config.objective import CriticConfig, LpipsConfig
from ssvae.config.probe import DitConfig, ProbeConfig, SampleConfig
from ssvae.config.problem import Problem
from ssvae.config.reg import NoiseConfig, StrengthConfig, VFConfig, WeightConfig
from ssvae.config.resolution import ResolutionConfig
from ssvae.config.run import RuntimeConfig, TrackConfig
from ssvae.config.score import LatentsConfig, MeasureConfig, NetworksConfig
from ssvae.config.train import TrainConfig
from ssvae.config.tree import Config
from ssvae.config.vae import VaeConfig

LEAST: dict[type, dict[str, float]] = {
    Config: {"seed": 0},
    VaeConfig: {
        "channels": 1,
        "base_channels": 1,
        "multipliers": 1,
        "encoder_blocks": 1,
        "decoder_blocks": 1,
        "encoder_attention": 0,
        "decoder_attention": 0,
    },
    # 11 pixels: the window of SSIM.
    ResolutionConfig: {"height": 11, "width": 11, "frames": 1},
    DataConfig: {"image_weight": 0, "video_weight": 0, "image_batch": 1, "reject_share": 0, "split_seed": 0},
    SyntheticConfig: {"clips": 8, "frames": 1, "size": 8, "shard_size": 1, "seed": 0},
    LpipsConfig: {"weight": 0},
    CriticConfig: {"width": 1, "levels": 1, "temporal_levels": 1, "start_step": 1},
    StrengthConfig: {"kl": 0, "lcr": 0, "cov": 0},
    VFConfig: {"size": 14},
    NoiseConfig: {"variance": 0},
    WeightConfig: {"value": 0},
    TrainConfig: {
        "steps": 1,
        "batch": 1,
        "weight_decay": 0,
        "warmup": 0,
        "lr_start": 0,
        "lr_end": 0,
        "decay_steps": 1,
        "nonfinite_limit": 0,
    },
    DitConfig: {"patch": 1, "width": 12, "depth": 1, "heads": 1},
    ProbeConfig: {"validation_draws": 1},
    SampleConfig: {"clips": 2, "steps": 1, "guidance": 0, "batch": 1},
    MeasureConfig: {"clips": 2, "batch": 1, "window": 1, "block": 1, "noise": 0, "downsample": 1},
    # 9 frames: the least that I3D takes.
    NetworksConfig: {"fdd_frames": 1, "fvd_frames": 9},
    LatentsConfig: {"windows": 1, "batch": 1},
    RuntimeConfig: {"workers": 0, "checkpoint_every": 1, "log_every": 1},
    TrackConfig: {"every_s": 0, "patience_s": 0, "system_every_s": 0, "samples": 0},
}
"""The smallest value of a field, or of each entry of a list."""
ABOVE_ZERO: dict[type, tuple[str, ...]] = {
    ResolutionConfig: ("fps",),
    SyntheticConfig: ("fps",),
    TrainConfig: ("lr", "grad_clip"),
    CriticConfig: ("lr", "largest_weight"),
}
"""Fields that must be above 0; null is left to the type."""


def out_of_range(key: str, node: Any) -> Iterator[Problem]:
    """Problems of the config node ``node`` and of all below it; ``key``: its dotted key, empty for the root."""
    kind = type(node)
    for field in fields(node):
        value, name = getattr(node, field.name), f"{key}.{field.name}" if key else field.name
        if is_dataclass(value):
            yield from out_of_range(name, value)
            continue
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, bool) or not isinstance(number, int | float):
                continue
            least = _rule(LEAST, kind).get(field.name, -math.inf)
            if not math.isfinite(number):
                yield Problem(name, str(value), "must be a finite number")
            elif number < least:
                yield Problem(name, str(value), f"must be at least {least:g}")
            elif number <= 0 and field.name in _rule(ABOVE_ZERO, kind):
                yield Problem(name, str(value), "must be above 0")


def _rule(rules: Mapping[type, Any], kind: type) -> Any:
    """The entry of a type, or of the one that it extends."""
    return next((rules[base] for base in kind.__mro__ if base in rules), {})
