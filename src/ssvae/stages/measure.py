"""Measure a trained VAE on held-out clips: reconstruction, latent statistics, decoder robustness."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ssvae.build import default_device
from ssvae.config.data import DataConfig
from ssvae.config.tree import MeasureStageConfig
from ssvae.core.files import write_json
from ssvae.core.progress import Progress
from ssvae.core.seeds import torch_generator
from ssvae.core.types import MetricValue
from ssvae.data.video_file import write_video
from ssvae.metrics.latents import LatentReport, latent_report
from ssvae.metrics.recon import ReconstructionStatistics
from ssvae.metrics.robustness import NoiseRobustness
from ssvae.models.weights import load_vae_folder
from ssvae.stages.source import Source
from ssvae.stages.trained import vae_folder

NOISE_SEED = 0
"""Every VAE of every table meets the same noise."""


@torch.no_grad()
def run(
    *,
    stage: MeasureStageConfig,
    sources: Callable[[DataConfig], Source],
    trained: Path,
    folder: Path,
    samples: int,
    progress: Progress,
) -> None:
    """Write ``metrics.json``, ``curves.json`` and side-by-side ``samples/`` into ``folder``.

    trained: folder of the stage that made the weights. samples: clips kept as original beside reconstruction.
    """
    score = stage.score
    device = default_device()
    vae = load_vae_folder(vae_folder(trained, score.weights.value), device=device)
    source = sources(stage.data)
    source.count_rejects(folder)
    reconstruction = ReconstructionStatistics(score.downsample)
    robustness = NoiseRobustness(vae.decode, vae.latent_std, score.noise)
    means: list[Tensor] = []
    logvars: list[Tensor] = []
    kept: list[Tensor] = []
    keys: list[str] = []
    done = 0
    progress.start("measure", score.clips, 0)
    for batch in source.windows(source.heldout, stage.resolution, score.clips, score.batch):
        video = batch.video.to(device)
        posterior = vae.encode(video)
        latent = posterior.mode()
        decoded = vae.decode(latent)
        reconstruction.update(decoded, video)
        draws = [
            torch.randn(latent.shape[1:], generator=torch_generator(NOISE_SEED, "measure/noise", done + place))
            for place in range(len(batch.keys))
        ]
        robustness.update(latent, video, torch.stack(draws))
        means.append(posterior.mean.cpu())
        logvars.append(posterior.logvar.cpu())
        if len(kept) < samples:
            kept += list(torch.cat([video, decoded.clamp(-1, 1)], dim=-1)[: samples - len(kept)].cpu())
        keys += batch.keys
        done += len(batch.keys)
        progress.advance(done)
    if not means:
        raise ValueError(f"data: no held-out clip could be read ({source.rejected}); nothing can be measured")
    window, block = (_triple(values) for values in (score.window, score.block))
    report = latent_report(torch.cat(means), torch.cat(logvars), block, window, keys=keys)
    values = [*reconstruction.compute(keys), *report.values, *robustness.compute(keys)]
    for index, clip in enumerate(kept):
        write_video(folder / "samples" / f"reconstruction_{index}.mp4", clip, stage.resolution.fps)
    _write(folder, values, report)


def _write(folder: Path, values: list[MetricValue], report: LatentReport) -> None:
    labels = {
        "dct_spectrum": ("zigzag index", "share of energy"),
        "explained_variance": ("modes k", "cumulative share"),
    }
    curves = {}
    for name, (x, y) in report.curves.items():
        x_label, y_label = labels.get(name, ("index", name))
        curves[name] = {"x": x.tolist(), "y": y.tolist(), "x_label": x_label, "y_label": y_label}
    write_json(folder / "curves.json", curves)
    write_json(folder / "metrics.json", [value.to_json() for value in values])


def _triple(values: list[int]) -> tuple[int, int, int]:
    first, second, third = values
    return first, second, third
