"""Train a VAE, with or without regularisers: from fresh weights, from a common base, or from somebody else's."""

from __future__ import annotations

from pathlib import Path

from ssvae.build import build_vae
from ssvae.config.reg import TrainedStage
from ssvae.config.vae import VaeConfig
from ssvae.core.seeds import seed_everything
from ssvae.models.weights import load_vae_folder
from ssvae.stages.init import load_init
from ssvae.stages.trained import Training, train_and_store, vae_folder


def run(job: Training, vae_config: VaeConfig, start: Path | None) -> None:
    """Write ``vae/`` (and ``vae_ema/``), ``steps.jsonl``, ``metrics.json`` into ``job.folder``.

    start: stage folder of the base whose weights are continued; None: ``stage.init``, or fresh weights from the seed.
    """
    # One stream for weights whatever ran before in this process.
    seed_everything(job.seed, "init/vae")
    vae = build_vae(vae_config)
    if start is not None:
        vae.load_state_dict(load_vae_folder(vae_folder(start)).state_dict())
    elif job.stage.init is not None:
        vae.load_state_dict(load_init("init", job.stage.init, vae).state_dict())
    train_and_store(job, vae, TrainedStage.pretrain)
