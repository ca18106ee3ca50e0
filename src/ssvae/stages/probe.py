"""Train a small diffusion transformer on cached latents, sample from it, and score what it makes.

Dimension legend
    N clips, C latent channels, F latent frames, h w latent pixels     latent (N,C,F,h,w)
    3 colours, T frames, H W pixels                                     video (N,3,T,H,W) in [-1, 1]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ssvae.build import build_accelerator, build_cadence, build_dit, build_flow, build_settings
from ssvae.config.data import DataConfig, DataKind
from ssvae.config.probe import Condition, ProbeConfig, SampleConfig
from ssvae.config.run import RuntimeConfig
from ssvae.config.score import Weights
from ssvae.config.tree import ProbeStageConfig
from ssvae.core.files import write_atomic, write_json
from ssvae.core.progress import Progress
from ssvae.core.seeds import seed_everything, torch_generator
from ssvae.core.types import MetricValue
from ssvae.data.latents import LatentCache, LatentSample
from ssvae.data.video_file import write_video
from ssvae.flow.sampler import euler_sample
from ssvae.metrics.interval import metric_from_samples
from ssvae.metrics.probe import extract_features, probe_fd, reward_metrics
from ssvae.models.dit import VideoDiT
from ssvae.models.features import FRAMES, SIDE, load_probe_features, load_probe_judge, standard_clip
from ssvae.models.vae import VideoVAE
from ssvae.models.weights import load_vae_folder
from ssvae.stages.source import Source, clips_at_once
from ssvae.stages.trained import vae_folder
from ssvae.train.dit_loop import train_dit, validation_loss

SCORE_SEED = 0
"""Every model of every table starts from the same noise and meets the same validation draws."""
LOSS_PROTOCOL = "diffusion_loss/1;rectified flow, times stratified, normalised latents, held-out"


@dataclass(frozen=True)
class Conditions:
    """What the DiT is told of each latent. kind: ``auto`` resolved; classes: of ``label``."""

    kind: Condition
    classes: int
    train: list[str | int | None]
    heldout: list[str | int | None]


def run(
    *,
    stage: ProbeStageConfig,
    weights: Weights,
    runtime: RuntimeConfig,
    seed: int,
    sources: Callable[[DataConfig], Source],
    trained: Path,
    latents_folder: Path,
    folder: Path,
    samples: int,
    progress: Progress,
) -> None:
    """Write ``dit.safetensors``, ``steps.jsonl``, ``metrics.json`` and generated ``samples/`` into ``folder``."""
    probe = stage.probe
    cache, heldout = (LatentCache.open(latents_folder / side) for side in ("train", "heldout"))
    conditions = _conditions(probe.condition, cache.samples, heldout.samples)
    latents = cache.normalized(slice(None))
    grid = (latents.shape[2], latents.shape[3], latents.shape[4])
    seed_everything(seed, "init/dit")
    dit = build_dit(probe, channels=latents.shape[1], grid=grid, condition=conditions.kind, classes=conditions.classes)
    accelerator = build_accelerator(probe.train.precision)
    ema = train_dit(
        dit=dit,
        latents=latents,
        conditions=conditions.train,
        condition_dropout=probe.condition_dropout,
        flow=build_flow(probe),
        settings=build_settings(probe.train),
        cadence=build_cadence(runtime),
        folder=folder,
        seed=seed,
        accelerator=accelerator,
        progress=progress,
    )
    if ema is not None:
        ema.copy_to(dit)
    write_atomic(folder / "dit.safetensors", lambda path: save_file(dit.state_dict(), path))
    vae = load_vae_folder(vae_folder(trained, weights.value), device=accelerator.device)
    # Held-out latents live in the training side's coordinates: a model must not see held-out statistics.
    normalized = _normalize(cache, heldout.raw(slice(None)))
    keys = [entry.key for entry in heldout.samples]
    values = [_validation(dit, probe, normalized, conditions, keys)]
    source = sources(stage.data)
    source.count_rejects(folder)
    values += _scores(stage, dit, vae, cache, heldout, conditions, source, folder, samples, progress)
    write_json(folder / "metrics.json", [value.to_json() for value in values])


def _conditions(wanted: Condition, train: Sequence[LatentSample], heldout: Sequence[LatentSample]) -> Conditions:
    """Captions where every clip has one, else labels, else nothing; a wish that the data cannot fill is an error."""
    every = [*train, *heldout]
    captioned = all(sample.caption is not None for sample in every)
    labelled = all(sample.label is not None for sample in every)
    kind = wanted
    if wanted is Condition.auto:
        kind = Condition.caption if captioned else Condition.label if labelled else Condition.none
    if (kind is Condition.caption and not captioned) or (kind is Condition.label and not labelled):
        raise ValueError(f"probe.condition = {kind.value}: not every clip has one; use probe.condition=auto")
    if kind is Condition.caption:
        return Conditions(kind, 0, [s.caption for s in train], [s.caption for s in heldout])
    if kind is Condition.label:
        classes = 1 + max(sample.label for sample in every if sample.label is not None)
        return Conditions(kind, classes, [s.label for s in train], [s.label for s in heldout])
    return Conditions(kind, 0, [None] * len(train), [None] * len(heldout))


def _normalize(cache: LatentCache, latents: Tensor) -> Tensor:
    return ((latents.double() - _column(cache.mean)) / _column(cache.std)).float()


def _denormalize(cache: LatentCache, latents: Tensor) -> Tensor:
    return (latents.cpu().double() * _column(cache.std) + _column(cache.mean)).float()


def _column(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1, 1)


def _validation(
    dit: VideoDiT, probe: ProbeConfig, latents: Tensor, conditions: Conditions, keys: Sequence[str]
) -> MetricValue:
    losses = validation_loss(
        dit=dit,
        latents=latents,
        conditions=conditions.heldout,
        flow=build_flow(probe),
        draws=probe.validation_draws,
        batch=probe.sample.batch,
        seed=SCORE_SEED,
    )
    return metric_from_samples(
        "diffusion_loss", losses, "1", "down", f"{LOSS_PROTOCOL};draws={probe.validation_draws}", keys
    )


@torch.no_grad()
def _scores(
    stage: ProbeStageConfig,
    dit: VideoDiT,
    vae: VideoVAE,
    cache: LatentCache,
    heldout: LatentCache,
    conditions: Conditions,
    source: Source,
    folder: Path,
    samples: int,
    progress: Progress,
) -> list[MetricValue]:
    """Distances of generated clips, of decoded Gaussian latents and of reconstructions to real ones; the judge."""
    sample = stage.probe.sample
    network, card = load_probe_features()
    judge, judge_card = load_probe_judge()
    real = torch.cat(
        [
            standard_clip(batch.video)
            for batch in source.windows(source.heldout, stage.resolution, sample.clips, sample.batch)
        ]
    )
    made: dict[str, list[Tensor]] = {"": [], "_gaussian": [], "_reconstruction": []}
    progress.start("sample and score", len(heldout), 0)
    for start in range(0, len(heldout), sample.batch):
        rows = range(start, min(start + sample.batch, len(heldout)))
        noise = torch.stack(
            [torch.randn(cache.latents.shape[1:], generator=torch_generator(SCORE_SEED, "sample", row)) for row in rows]
        )
        generated = generate(dit, noise, [conditions.heldout[row] for row in rows], sample, stage.probe.flow.shift)
        for name, latents in (("", generated), ("_gaussian", noise)):
            videos = _decode(vae, _denormalize(cache, latents), clips_at_once(stage.resolution))
            if not name and start < samples:
                for row, video in zip(rows, videos, strict=True):
                    if row < samples:
                        write_video(folder / "samples" / f"generated_{row}.mp4", video, stage.resolution.fps)
            made[name].append(standard_clip(videos))
        made["_reconstruction"].append(
            standard_clip(_decode(vae, heldout.raw(slice(rows.start, rows.stop)), clips_at_once(stage.resolution)))
        )
        progress.advance(rows.stop)
    calibrated = _calibrated(stage)
    reference = extract_features(network, real)
    clips = {name: torch.cat(parts) for name, parts in made.items()}
    values = []
    for name, videos in clips.items():
        value = probe_fd(reference, extract_features(network, videos), card=card, calibrated=calibrated)
        values.append(replace(value, name=f"probe_fd{name}", direction="down" if not name else "none"))
    captions = [entry.caption for entry in heldout.samples]
    keys = [entry.key for entry in heldout.samples]
    values += reward_metrics(clips[""], captions, judge=judge, card=judge_card, calibrated=calibrated, keys=keys)
    return values


def _calibrated(stage: ProbeStageConfig) -> bool:
    """Are these clips of the kind and the size that the shipped networks were trained on?"""
    clip = stage.resolution
    trained_on = (FRAMES, SIDE, SIDE, 8.0)
    return stage.data.kind is DataKind.synthetic and (clip.frames, clip.height, clip.width, clip.fps) == trained_on


def _decode(vae: VideoVAE, latents: Tensor, at_once: int) -> Tensor:
    """Clips in [-1, 1] on the CPU, ``at_once`` decoded together."""
    device = vae.latent_mean.device
    return torch.cat([vae.decode(part.to(device)).clamp(-1, 1).cpu() for part in latents.split(at_once)])


def generate(
    dit: VideoDiT, noise: Tensor, conditions: Sequence[str | int | None], sample: SampleConfig, shift: float
) -> Tensor:
    """Normalised latents (N,C,F,h,w) from ``noise``, one a condition, by guided Euler steps."""
    ids = dit.encode_conditions(conditions)
    guidance = sample.guidance if ids is not None else 1.0
    null = dit.null_conditions(len(noise)) if ids is not None else None
    return euler_sample(
        lambda x, t, condition: dit(x, t, condition),
        noise.to(next(dit.parameters()).device),
        sample.steps,
        guidance=guidance,
        condition=ids,
        null_condition=null,
        shift=shift,
    )
