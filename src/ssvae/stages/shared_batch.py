"""Batches that a number of ranks cannot share evenly, found before anything is computed."""

from __future__ import annotations

from ssvae.config.checks import place
from ssvae.config.tree import Config
from ssvae.stages.plan import TRAINING


def uneven_batches(cfg: Config, stage: str, world: int) -> list[str]:
    """Why ``world`` ranks cannot train ``stage`` (a name of stages/plan.py): key, value and remedy; empty if they can.

    Every rank takes an equal part of every batch: with unequal ones their average would be none over samples.
    """
    sizes: dict[str, int] = {}
    if stage in TRAINING:
        trained = getattr(cfg.stages, stage)
        if trained is not None and cfg.vae.weights is None:
            sizes[f"{place(cfg, stage, 'train')}.batch"] = trained.train.batch
            if trained.data.image_path is not None:
                sizes[f"{place(cfg, stage, 'data')}.image_batch"] = trained.data.image_batch
    elif stage in ("dit", "dit_base"):
        owner = stage.replace("dit", "probe")
        trains = getattr(cfg.stages, owner)
        if trains is not None:
            sizes[f"{place(cfg, owner, 'probe')}.train.batch"] = trains.probe.train.batch
    return [
        f"{key} = {size}: is not divisible by the {world} ranks that share it; give a multiple of {world}, or another "
        "number of ranks"
        for key, size in sizes.items()
        if size % world
    ]
