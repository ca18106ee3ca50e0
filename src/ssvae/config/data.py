"""Group ``data``: which clips are read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from omegaconf import MISSING


class DataKind(Enum):
    synthetic = "synthetic"
    webdataset = "webdataset"


@dataclass
class SyntheticConfig:
    """The embedded default: rendered once, written as H.264 shards, read back like any other data set."""

    clips: int = MISSING
    frames: int = MISSING
    size: int = MISSING  # stored height = width in pixels
    fps: float = MISSING
    shard_size: int = MISSING  # clips a tar
    seed: int = MISSING


@dataclass
class DataConfig:
    kind: DataKind = MISSING
    path: str | None = MISSING  # folder(s) of tars with .meta.jsonl, comma-separated; null for synthetic
    image_path: str | None = MISSING  # folder(s) of image tars; null: no images
    image_weight: float = MISSING  # images : videos = image_weight : video_weight, one draw a step
    video_weight: float = MISSING
    image_batch: int = MISSING  # images a step, when images are drawn
    heldout_share: float = MISSING  # share of clips held out for measuring, by hash of the key
    reject_share: float = MISSING  # stop when more than this share of clips cannot be read
    split_seed: int = MISSING
    synthetic: SyntheticConfig | None = MISSING
