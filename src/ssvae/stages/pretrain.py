"""Train a VAE, with or without regularisers, from scratch or from a base; store it with its latent statistics."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from ssvae.build import build_accelerator, build_cadence, build_nll, build_regularizers, build_settings, build_vae
from ssvae.config.data import DataConfig
from ssvae.config.run import RuntimeConfig
from ssvae.config.tree import VaeStageConfig
from ssvae.config.vae import VaeConfig
from ssvae.core.files import write_json
from ssvae.core.progress import Progress
from ssvae.core.seeds import seed_everything
from ssvae.models.ema import EMA
from ssvae.models.vae import VideoVAE
from ssvae.models.weights import load_vae_folder, save_vae
from ssvae.stages.source import Source
from ssvae.stats.moments import StreamingMoments, channel_moments
from ssvae.train.vae_loop import train_vae

logger = logging.getLogger(__name__)

STATISTICS_CLIPS, STATISTICS_PER_CLIP = 256, 4
"""Training windows behind the latent mean and std that travel with the weights: in all, and of one clip at most."""


def vae_folder(stage: Path, weights: str = "raw") -> Path:
    """Where a finished stage keeps its weights: ``raw`` as trained, ``ema`` their moving average."""
    return stage / ("vae_ema" if weights == "ema" else "vae")


def run(
    *,
    vae_config: VaeConfig,
    stage: VaeStageConfig,
    runtime: RuntimeConfig,
    seed: int,
    sources: Callable[[DataConfig], Source],
    start: Path | None,
    folder: Path,
    progress: Progress,
) -> None:
    """Write ``vae/`` (and ``vae_ema/``), ``steps.jsonl``, ``metrics.json`` into ``folder``.

    start: stage folder of the base whose weights are continued; None: fresh weights from the seed.
    """
    # One stream for weights whatever ran before in this process.
    seed_everything(seed, "init/vae")
    vae = build_vae(vae_config)
    if start is not None:
        vae.load_state_dict(load_vae_folder(vae_folder(start)).state_dict())
    seed_everything(seed, "init/regularizers")
    regularizers, weights = build_regularizers(stage.reg, vae_config.channels)
    nll = build_nll(stage.objective)
    if nll.perceptual is None:
        logger.info("LPIPS is off: objective.lpips.vgg names no weight file")
    resolution = stage.resolution
    grid = vae.latent_grid(resolution.frames, resolution.height, resolution.width)
    for regularizer in regularizers.values():
        regularizer.check_grid(grid)
    source = sources(stage.data)
    source.count_rejects(folder)
    batches = source.batches(stage.data, resolution, batch=stage.train.batch, seed=seed, workers=runtime.workers)
    ema = train_vae(
        vae=vae,
        regularizers=regularizers,
        weights=weights,
        nll=nll,
        batches=batches,
        settings=build_settings(stage.train),
        cadence=build_cadence(runtime),
        folder=folder,
        seed=seed,
        accelerator=build_accelerator(stage.train.precision),
        progress=progress,
    )
    counted = _store(vae, vae_folder(folder), stage, source, progress)
    if ema is not None:
        _store_average(vae, ema, folder, stage, source, progress)
    rejected = source.rejected
    write_json(
        folder / "data.json", {"train_clips": len(source.train), "statistics_clips": counted, "rejected": rejected}
    )
    write_json(folder / "metrics.json", [])


def _store_average(
    vae: VideoVAE, ema: EMA, folder: Path, stage: VaeStageConfig, source: Source, progress: Progress
) -> None:
    ema.copy_to(vae)
    _store(vae, vae_folder(folder, "ema"), stage, source, progress)


@torch.no_grad()
def _store(vae: VideoVAE, where: Path, stage: VaeStageConfig, source: Source, progress: Progress) -> int:
    """Measure latent mean and std per channel on training clips, keep them with the weights; returns the clip count."""
    vae.eval()
    moments: StreamingMoments | None = None
    counted = 0
    wanted = min(STATISTICS_CLIPS, STATISTICS_PER_CLIP * len(source.train))
    progress.start("latent statistics", wanted, 0)
    for batch in source.windows(source.train, stage.resolution, wanted, 16):
        video = batch.video.to(vae.latent_mean.device)
        moments = channel_moments(vae.encode(video).mode().cpu(), moments)
        counted += len(batch.keys)
        progress.advance(counted)
    assert moments is not None, "there are training clips"
    vae.set_latent_statistics(moments.mean, moments.std)
    save_vae(where, vae)
    return counted
