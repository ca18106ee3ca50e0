"""Encode a data set once: raw latents with their normaliser kept apart, training and held-out side."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from ssvae.build import default_device
from ssvae.config.data import DataConfig
from ssvae.config.tree import ProbeStageConfig
from ssvae.core.files import write_json
from ssvae.core.progress import Progress
from ssvae.data.latents import LatentWriter
from ssvae.models.load import open_vae
from ssvae.stages.source import Source

SIDES = ("train", "heldout")


@torch.no_grad()
def run(
    *,
    stage: ProbeStageConfig,
    vae: str | Path,
    told: str,
    sources: Callable[[DataConfig], Source],
    folder: Path,
    progress: Progress,
) -> None:
    """Write caches ``train/`` (``latents.windows`` windows a clip) and ``heldout/`` (``sample.clips`` windows in all).

    vae: what ``open_vae`` reads; told: what the caches' manifests say of it. The normaliser that diffusion uses is the
    training side's.
    """
    device = default_device()
    encoder = open_vae(vae, device=device).vae
    source = sources(stage.data)
    source.count_rejects(folder)
    counts = {"train": stage.latents.windows * len(source.train), "heldout": stage.probe.sample.clips}
    for side in SIDES:
        keys = source.train if side == "train" else source.heldout
        progress.start(f"encode {side}", counts[side], 0)
        done = 0
        with LatentWriter(folder / side, {"vae": told, "side": side}) as writer:
            for batch in source.windows(keys, stage.resolution, counts[side], stage.latents.batch):
                writer.add(encoder.encode(batch.video.to(device)).mode(), batch.keys, batch.captions, batch.labels)
                done += len(batch.keys)
                progress.advance(done)
    write_json(folder / "metrics.json", [])
