"""A short training of a tiny DiT, in this process or, under torchrun, on several: ``python dit_training.py FOLDER``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ssvae.build import build_accelerator
from ssvae.config.train import Precision
from ssvae.core.progress import Progress, Silent
from ssvae.core.ranks import Ranks
from ssvae.core.seeds import seed_everything
from ssvae.core.stop import NEVER, Stop
from ssvae.flow.base import DiffusionPath
from ssvae.flow.vp import VPrediction
from ssvae.metrics.diffusion_loss import diffusion_losses
from ssvae.models.dit import VideoDiT
from ssvae.models.ema import EMA
from ssvae.train.dit_loop import train_dit
from ssvae.train.settings import Cadence, TrainSettings

LATENTS = torch.randn((7, 4, 3, 4, 4), generator=torch.Generator().manual_seed(0))
CAPTIONS = ["a red circle", "a blue square", None, "a green star", "a circle", "red", "blue"]
SETTINGS = TrainSettings(
    steps=6,
    batch=4,
    optimizer="adamw",
    lr=0.002,
    betas=(0.9, 0.95),
    weight_decay=0.01,
    curve="cosine",
    warmup=2,
    lr_start=0.0005,
    lr_end=0.0001,
    decay_steps=None,
    grad_clip=1.0,
    ema_decay=0.5,
    precision="fp32",
    nonfinite_limit=3,
)


def train(
    folder: Path,
    *,
    latents: Tensor = LATENTS,
    flow: DiffusionPath | None = None,
    keep: tuple[int, ...] = (2, 5),
    progress: Progress | None = None,
    stop: Stop = NEVER,
    **changes: Any,
) -> tuple[VideoDiT, EMA | None]:
    """``SETTINGS`` with ``changes``, v-prediction unless ``flow`` is given, a checkpoint every 2 updates."""
    accelerator = build_accelerator(Precision.fp32)
    seed_everything(0, "dit")
    dit = VideoDiT(channels=4, grid=(3, 4, 4), width=24, depth=1, heads=2, input_skip=True)
    ema = train_dit(
        dit=dit,
        latents=latents,
        conditions=CAPTIONS,
        condition_dropout=0.5,
        flow=flow or VPrediction(distribution="logit_normal", shift=2.0),
        settings=replace(SETTINGS, **changes),
        cadence=Cadence(checkpoint_every=2, log_every=1),
        folder=folder,
        seed=0,
        accelerator=accelerator,
        progress=progress or Silent(),
        keep=keep,
        stop=stop,
    )
    return dit, ema


def main(folder: Path, spoiled: bool) -> None:
    """Trains, and measures on shared rows. spoiled: a latent that some updates and ranks meet is no number."""
    latents = LATENTS.clone()
    if spoiled:
        latents[3] = float("nan")
    folder.mkdir(parents=True, exist_ok=True)
    dit, _ = train(folder, latents=latents)
    ranks = Ranks.current()
    part = diffusion_losses(
        dit=dit,
        latents=LATENTS,
        conditions=CAPTIONS,
        path=VPrediction(),
        draws=2,
        batch=2,
        seed=0,
        rank=ranks.rank,
        world=ranks.world,
    )
    values = {"rows": part.rows, "losses": part.losses, "times": part.times}
    weights = {f"weights/{name}": value for name, value in dit.state_dict().items()}
    save_file({**values, **weights}, folder / f"rank_{ranks.rank}.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), "spoiled" in sys.argv[2:])
