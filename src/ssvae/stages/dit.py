"""Train a small diffusion transformer on cached latents; what it is worth is measured by the stage ``probe``.

Dimension legend
    N clips, C latent channels, F latent frames, h w latent pixels     latent (N,C,F,h,w)
"""

from __future__ import annotations

from pathlib import Path

import torch

from ssvae.build import build_accelerator, build_cadence, build_dit, build_flow, build_settings
from ssvae.build_metrics import build_text_encoder
from ssvae.config.probe import Condition
from ssvae.config.run import RuntimeConfig
from ssvae.config.tree import ProbeStageConfig
from ssvae.core.files import write_json
from ssvae.core.progress import Progress
from ssvae.core.ranks import Ranks
from ssvae.core.seeds import seed_everything
from ssvae.core.stop import NEVER, Stop, Stoppable
from ssvae.data.latents import LatentCache, NormalizedLatents
from ssvae.data.text_cache import TextCache
from ssvae.models.dit import VideoDiT
from ssvae.models.dit_weights import load_dit_weights, read_base_grid, save_dit_weights
from ssvae.stages.conditions import Conditions, check_reward, resolve_conditions
from ssvae.train.dit_loop import train_dit

WEIGHTS = "dit.safetensors"
TEXTS_AT_ONCE = 16
"""Texts between two signs of life; each goes through the encoder by itself."""


def run(
    *,
    stage: ProbeStageConfig,
    runtime: RuntimeConfig,
    seed: int,
    latents: Path,
    base: Path | None,
    caches: Path,
    folder: Path,
    progress: Progress,
    stop: Stop = NEVER,
) -> None:
    """Write ``dit.safetensors``, ``steps.jsonl``, ``samples.jsonl`` and the weights of the checkpoints. Every rank
    trains, until all are asked to ``stop``.

    latents: folder of the caches; base: folder of a training that this one goes on from; caches: of text embeddings,
    shared by all cells. Raises ValueError for latents, conditions or weights that do not fit.
    """
    probe, ranks = stage.probe, Ranks.current()
    accelerator = build_accelerator(probe.train.precision)
    cache = LatentCache.open(latents / "train")
    positions = None if base is None else read_base_grid(base / WEIGHTS)
    preparing = Stoppable(progress, stop)
    dit, conditions = open_dit(stage, seed, latents, caches, accelerator.device, positions, preparing)
    check_reward(stage, conditions)
    if base is not None:
        load_dit_weights(dit, base / WEIGHTS)
    ema = train_dit(
        dit=dit,
        latents=NormalizedLatents(cache),
        conditions=conditions.train,
        condition_dropout=probe.condition_dropout,
        flow=build_flow(probe),
        settings=build_settings(probe.train),
        cadence=build_cadence(runtime),
        folder=folder,
        seed=seed,
        accelerator=accelerator,
        progress=progress,
        keep=probe.checkpoints,
        stop=stop,
    )
    if ema is not None:
        ema.copy_to(dit)
    if ranks.first:
        save_dit_weights(folder / WEIGHTS, dit)
        write_json(folder / "metrics.json", [])


def open_dit(
    stage: ProbeStageConfig,
    seed: int,
    latents: Path,
    caches: Path,
    device: torch.device,
    base_grid: tuple[int, int, int] | None,
    progress: Progress,
) -> tuple[VideoDiT, Conditions]:
    """The transformer with its first weights, on ``device``, and what it is told of each latent.

    base_grid: (F,h,w) whose positions its weights know, or will know; None for those of the latents.
    """
    probe, ranks = stage.probe, Ranks.current()
    cache, heldout = (LatentCache.open(latents / side) for side in ("train", "heldout"))
    conditions = resolve_conditions(probe, cache.samples, heldout.samples)
    texts = None
    if conditions.kind is Condition.text:
        texts = TextCache(caches / "text", build_text_encoder(probe.text, device))
        if ranks.first:  # the others then find every embedding on disk
            every = [None if text is None else str(text) for text in conditions.every()]
            progress.start("encode texts", len(every))
            for start in range(0, len(every), TEXTS_AT_ONCE):
                texts.encode(every[start : start + TEXTS_AT_ONCE])
                progress.advance(min(start + TEXTS_AT_ONCE, len(every)))
        ranks.wait()
    seed_everything(seed, "init/dit")
    _, channels, *grid = cache.latents.shape
    dit = build_dit(
        probe,
        channels=channels,
        grid=(grid[0], grid[1], grid[2]),
        condition=conditions.kind,
        classes=conditions.classes,
        texts=texts,
        base_grid=base_grid,
    )
    return dit.to(device), conditions
