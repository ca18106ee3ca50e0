"""Fine-tune a decoder on the frozen encoder of a finished VAE: stage 2 of the paper (512 px, LMR, no LCR)."""

from __future__ import annotations

from pathlib import Path

from ssvae.config.reg import TrainedStage
from ssvae.models.weights import load_vae_folder
from ssvae.stages.trained import Training, train_and_store, vae_folder


def run(job: Training, start: Path) -> None:
    """Write ``vae/`` (and ``vae_ema/``), ``steps.jsonl``, ``metrics.json`` into ``job.folder``.

    start: stage folder of the pre-training whose weights, as trained, are continued. The encoder's weights do not
    change; latent statistics are measured again on this stage's clips. Mask token, likelihood's scale and critic of
    the pre-training go on where this stage has them too.
    """
    train_and_store(job, load_vae_folder(vae_folder(start)), TrainedStage.decoder_finetune, continued=start)
