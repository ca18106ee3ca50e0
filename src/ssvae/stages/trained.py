"""What the stages that train a VAE share: the training itself, and the weights with their latent statistics."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from ssvae.build import (
    build_accelerator,
    build_adversary,
    build_cadence,
    build_nll,
    build_regularizers,
    build_settings,
)
from ssvae.config.checks import place
from ssvae.config.data import DataConfig
from ssvae.config.reg import TermsConfig, TrainedStage, terms_in
from ssvae.config.run import RuntimeConfig
from ssvae.config.train import Precision, RankStatistics
from ssvae.config.tree import Config, VaeStageConfig
from ssvae.core.files import write_json
from ssvae.core.progress import Progress
from ssvae.core.ranks import Ranks
from ssvae.core.seeds import seed_everything
from ssvae.core.stop import NEVER, Stop
from ssvae.models.statistics import measure_statistics
from ssvae.models.vae import VideoVAE
from ssvae.models.weights import save_vae
from ssvae.objective.weighting import Weight
from ssvae.regularizers.base import Regularizer
from ssvae.stages.parts import parts_of
from ssvae.stages.plan import COMPUTED, TRAINING
from ssvae.stages.source import Source, clips_at_once, data_name
from ssvae.train.vae_loop import train_vae

logger = logging.getLogger(__name__)

STATISTICS_CLIPS, STATISTICS_PER_CLIP = 256, 4
"""Training windows behind the latent mean and std that travel with the weights: in all, and of one clip at most."""


def vae_folder(stage: Path, weights: str = "raw") -> Path:
    """Where a finished stage keeps its weights: ``raw`` as trained, ``ema`` their moving average."""
    return stage / ("vae_ema" if weights == "ema" else "vae")


@dataclass(frozen=True)
class Training:
    """What a training stage is given. sources: a data config -> its clips; folder: where it writes; stop: asked at
    every step boundary. What comes after the last step is short, and is finished."""

    stage: VaeStageConfig
    runtime: RuntimeConfig
    seed: int
    sources: Callable[[DataConfig], Source]
    folder: Path
    progress: Progress
    stop: Stop = NEVER


def train_and_store(job: Training, vae: VideoVAE, kind: TrainedStage, continued: Path | None = None) -> None:
    """Train ``vae`` as ``job`` says and write ``vae/`` (and ``vae_ema/``), ``parts.safetensors``, ``steps.jsonl``,
    ``samples.jsonl``, ``metrics.json``.

    Every rank trains; the first one writes. In ``decoder_finetune`` the encoder stays as it is. continued: folder of a
    stage whose mask token, likelihood's scale and critic go on here.
    """
    stage, folder = job.stage, job.folder
    accelerator = build_accelerator(stage.train.precision)
    ranks = Ranks.current()
    regularizers, weights = _regularizers(job, vae, kind)
    nll = build_nll(stage.objective)
    if nll.perceptual is None:
        logger.info("LPIPS is off: objective.lpips.vgg names no weight file")
    seed_everything(job.seed, "init/critic")
    adversary = build_adversary(stage.objective)
    parts = parts_of(regularizers, nll, adversary)
    if continued is not None:
        parts.continue_from(continued)
    resolution = stage.resolution
    grid = vae.latent_grid(resolution.frames, resolution.height, resolution.width)
    for regularizer in regularizers.values():
        regularizer.check_grid(grid)
    source = job.sources(stage.data)
    source.count_rejects(folder, note=ranks.first)
    batches = source.batches(
        stage.data,
        resolution,
        batch=stage.train.batch,
        seed=job.seed,
        workers=job.runtime.workers,
        ranks=ranks,
    )
    ema = train_vae(
        vae=vae,
        regularizers=regularizers,
        weights=weights,
        nll=nll,
        adversary=adversary,
        batches=batches,
        settings=build_settings(stage.train),
        cadence=build_cadence(job.runtime),
        folder=folder,
        seed=job.seed,
        accelerator=accelerator,
        progress=job.progress,
        train_encoder=kind is not TrainedStage.decoder_finetune,
        gradient_checkpointing=stage.train.gradient_checkpointing,
        share_statistics=stage.train.rank_statistics is RankStatistics.shared,
        stop=job.stop,
    )
    if not ranks.first:
        return
    parts.save(folder)
    counted = _store(vae, vae_folder(folder), stage, source, job.progress)
    if ema is not None:
        ema.copy_to(vae)
        _store(vae, vae_folder(folder, "ema"), stage, source, job.progress)
    rejected = source.rejected
    write_json(
        folder / "data.json", {"train_clips": len(source.train), "statistics_clips": counted, "rejected": rejected}
    )
    write_json(folder / "metrics.json", [])


def _regularizers(job: Training, vae: VideoVAE, kind: TrainedStage) -> tuple[dict[str, Regularizer], dict[str, Weight]]:
    """Those of the stage, in their order. Each is built at the start of the same stream of random numbers, so that
    another term, which may have weight 0, moves nobody's initial parameters."""
    terms = terms_in(job.stage.reg.terms, kind)
    regularizers: dict[str, Regularizer] = {}
    weights: dict[str, Weight] = {}
    for field in fields(terms):
        if (term := getattr(terms, field.name)) is not None:
            seed_everything(job.seed, "init/regularizers")
            built, strengths = build_regularizers(TermsConfig(**{field.name: term}), vae, job.stage.resolution)
            regularizers.update(built)
            weights.update(strengths)
    return regularizers, weights


@torch.no_grad()
def _store(vae: VideoVAE, where: Path, stage: VaeStageConfig, source: Source, progress: Progress) -> int:
    """Measure latent mean and std per channel on training clips, keep them with the weights; returns the clip count."""
    vae.eval()
    wanted = min(STATISTICS_CLIPS, STATISTICS_PER_CLIP * len(source.train))
    at_once = min(16, clips_at_once(stage.resolution))
    progress.start("latent statistics", wanted, 0)
    statistics = measure_statistics(
        vae,
        (batch.video for batch in source.windows(source.train, stage.resolution, wanted, at_once)),
        fps=stage.resolution.fps,
        data=data_name(stage.data),
        fingerprint=source.fingerprint,
        split="training clips",
        advance=progress.advance,
    )
    statistics.apply(vae)
    save_vae(where, vae, statistics)
    assert statistics.clips is not None, "it has just counted them"
    return statistics.clips


def unsafe_here(cells: Sequence[Config]) -> list[str]:
    """Why this machine must not train what ``cells`` ask for; each reason once.

    PyTorch's bfloat16 3-D convolutions write past their buffers in the backward pass on a CPU, for clips of some
    hundred pixels and few channels (seen with 2.13): a crash at best, wrong numbers at worst.
    """
    if torch.cuda.is_available():
        return []
    found: dict[str, None] = {}
    for cfg in cells:
        for name in TRAINING:
            stage = getattr(cfg.stages, name)
            if (
                stage is None
                or cfg.vae.weights is not None
                or name not in COMPUTED[cfg.stage]
                or stage.train.precision is not Precision.bf16
            ):
                continue
            key = f"{place(cfg, name, 'train')}.precision"
            found[f"{key} = bf16: bfloat16 convolutions are unsafe on a CPU, and here is no GPU; set {key}=fp32"] = None
    return list(found)
