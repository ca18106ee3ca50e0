"""Measure a VAE on held-out clips: reconstruction, latents, what high frequencies are worth, decoder robustness."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ssvae.build import default_device
from ssvae.build_metrics import build_frechet_networks, build_lpips, build_measurement
from ssvae.config.data import DataConfig
from ssvae.config.tree import MeasureStageConfig
from ssvae.core.files import write_atomic, write_json
from ssvae.core.progress import Progress
from ssvae.core.ranks import ALONE, Ranks
from ssvae.data.video_file import write_video
from ssvae.metrics.measurement import Measured
from ssvae.models.load import open_vae
from ssvae.models.statistics import measure_statistics
from ssvae.stages.source import Source, clips_at_once, data_name
from ssvae.stages.trained import STATISTICS_CLIPS

logger = logging.getLogger(__name__)


def run(
    *,
    stage: MeasureStageConfig,
    sources: Callable[[DataConfig], Source],
    vae: str | Path,
    finished: bool,
    folder: Path,
    samples: int,
    progress: Progress,
    ranks: Ranks = ALONE,
) -> None:
    """Write ``metrics.json``, ``curves.json``, ``clips.json``, pictures and side-by-side ``samples/``.

    vae: what ``open_vae`` reads. finished: it was not trained here, and its latent mean and std are measured on the
    training clips first. samples: clips kept as original, reconstruction and latent. Ranks share the clips; the first
    one writes.
    """
    score, clip = stage.score, stage.resolution
    device = default_device()
    opened = open_vae(vae, device=device)
    source = sources(stage.data)
    source.count_rejects(folder, note=ranks.first)
    at_once = min(score.batch, clips_at_once(clip))
    mean, std = opened.vae.latent_mean, opened.vae.latent_std
    if finished:
        wanted = min(STATISTICS_CLIPS, len(source.train))
        progress.start("latent statistics", wanted, 0)
        statistics = measure_statistics(
            opened.vae,
            (batch.video for batch in source.windows(source.train, clip, wanted, at_once)),
            fps=clip.fps,
            data=data_name(stage.data),
            fingerprint=source.fingerprint,
            split="training clips",
            advance=progress.advance,
        )
        mean, std = statistics.tensors
    measurement = build_measurement(
        score,
        clip,
        opened.vae,
        mean=mean,
        std=std,
        token=opened.mask_token,
        lpips=build_lpips(stage.networks, device),
        networks=build_frechet_networks(stage.networks, clip.frames, device),
        kept=samples if ranks.first else 0,
    )
    done = 0
    progress.start("measure", -(-score.clips // ranks.world), 0)
    for batch in source.windows(source.heldout, clip, score.clips, at_once, ranks):
        measurement.update(batch.video.to(device), batch.keys, batch.places)
        done += len(batch.keys)
        progress.advance(done)
    if not any(ranks.gather(done)):
        raise ValueError(f"data: no held-out clip could be read ({source.rejected}); nothing can be measured")
    measured = measurement.finish(ranks)
    if ranks.first:
        write_measured(measured, folder, clip.fps)


def write_measured(measured: Measured, folder: Path, fps: float) -> None:
    """The files of a measurement; ``metrics.json`` comes last."""
    for name, why in measured.left_out.items():
        logger.info("%s is left out: %s", name, why)
    for index, panel in enumerate(measured.panels):
        write_video(folder / "samples" / f"reconstruction_{index}.mp4", panel, fps)
    if measured.panels:
        # The first clip's frames below each other: original, reconstruction, latent as colours.
        rows = [torch.cat(list(part.unbind(1)), dim=-1) for part in measured.panels[0].chunk(3, dim=-1)]
        write_picture(folder / "panels.png", torch.cat(rows, dim=-2))
    if measured.chopped is not None:
        write_picture(folder / "chopping.png", measured.chopped)
    write_json(folder / "clips.json", measured.clips)
    write_json(folder / "curves.json", measured.curves)
    write_json(folder / "metrics.json", [value.to_json() for value in measured.values])


def write_picture(path: Path, picture: Tensor) -> None:
    """(3,H,W) in [-1,1] as a PNG."""
    pixels = (picture.clamp(-1, 1).add(1).mul(127.5).round().to(torch.uint8)).permute(1, 2, 0).numpy()
    write_atomic(path, lambda file: Image.fromarray(np.ascontiguousarray(pixels)).save(file, format="PNG"))
