"""The VAE's training loop, explicit from the first step to the last.

Dimension legend
    B batch, 3 colours, T frames, H W pixels              video   (B,3,T,H,W), float, [-1, 1]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ssvae.core.files import StepsLog
from ssvae.core.progress import Progress
from ssvae.core.seeds import torch_generator
from ssvae.models.ema import EMA
from ssvae.models.vae import VideoVAE
from ssvae.objective.nll import NegativeLogLikelihood
from ssvae.objective.vae_step import vae_step
from ssvae.objective.weighting import Weight
from ssvae.regularizers.base import Regularizer
from ssvae.train.guard import Guard
from ssvae.train.settings import Cadence, TrainSettings
from ssvae.train.state import load_checkpoint, save_checkpoint

VERSION = 1


class VideoBatch(Protocol):
    """video (B,3,T,H,W) in [-1, 1]; T = 1 when the step drew images."""

    @property
    def video(self) -> Tensor: ...


def train_vae(
    *,
    vae: VideoVAE,
    regularizers: Mapping[str, Regularizer],
    weights: Mapping[str, Weight],
    nll: NegativeLogLikelihood,
    batches: Callable[[int, int], Iterator[VideoBatch]],
    settings: TrainSettings,
    cadence: Cadence,
    folder: Path,
    seed: int,
    accelerator: Accelerator,
    progress: Progress,
) -> EMA | None:
    """Train in place for ``settings.steps`` updates, going on from ``folder``'s checkpoint if there is one.

    batches: (first step, end) -> the batches of those steps. weights: one for each name that a regulariser's
    ``terms`` yields. Writes ``steps.jsonl`` and ``checkpoint.pt``. Returns the moving average, if asked for. Raises
    NonFiniteLoss (train/guard.py) above the limit.
    """
    modules = nn.ModuleDict({"vae": vae, "regularizers": nn.ModuleDict(dict(regularizers)), "nll": nll})
    modules.to(accelerator.device).train()
    trained = [parameter for parameter in modules.parameters() if parameter.requires_grad]
    optimizer = accelerator.prepare(settings.build_optimizer(trained))
    ema = EMA(vae, settings.ema_decay) if settings.ema_decay is not None else None
    guard = Guard(settings.nonfinite_limit)
    done = 0
    if (saved := load_checkpoint(folder)) is not None:
        modules.load_state_dict(saved["modules"])
        optimizer.load_state_dict(saved["optimizer"])
        if ema is not None:
            ema.load_state_dict(saved["ema"])
        guard.skipped = saved["skipped"]
        done = saved["step"]

    log = StepsLog(folder / "steps.jsonl", done)
    progress.start("train VAE", settings.steps, done)
    for index, batch in enumerate(batches(done, settings.steps), start=done):
        step = index + 1  # the number of updates once this one is made
        rate = settings.set_rate(optimizer, index)

        # -------- one update
        with accelerator.autocast():
            out = vae_step(
                batch.video.to(accelerator.device, non_blocking=True),
                vae=vae,
                theta=vae.encoder.conv_out.weight,
                regularizers=regularizers,
                weights=weights,
                nll=nll,
                noise=torch_generator(seed, "posterior", index),
                draws={name: torch_generator(seed, f"regularizer/{name}", index) for name in regularizers},
                backward=accelerator.backward,
            )
        limit = settings.grad_clip if settings.grad_clip is not None else float("inf")
        norm = torch.nn.utils.clip_grad_norm_(trained, limit)
        if guard.allows(step, out.loss, norm):
            optimizer.step()
            if ema is not None:
                ema.update(vae)
        optimizer.zero_grad(set_to_none=True)
        # -------- end of the update

        if cadence.logs(step, settings.steps):
            values = {"loss": out.loss, **out.scalars, "grad_norm": norm, **_diagnostics(regularizers, out.context)}
            scalars = {name: float(value) for name, value in values.items()}
            log.write(step, {**scalars, "lr": rate, "skipped": float(guard.skipped)})
            progress.advance(step, f"L1 {scalars['l1']:.4f}")
        else:
            progress.advance(step)
        if cadence.saves(step, settings.steps):
            log.sync()
            save_checkpoint(folder, step, _state(modules, optimizer, ema, guard))
    log.close()
    modules.eval()
    return ema


@torch.no_grad()
def _diagnostics(regularizers: Mapping[str, Regularizer], context: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, regularizer in regularizers.items():
        found.update({f"{name}/{key}": value for key, value in regularizer.stats(context).items()})
    return found


def _state(modules: nn.Module, optimizer: Any, ema: EMA | None, guard: Guard) -> dict[str, Any]:
    return {
        "modules": modules.state_dict(),
        "optimizer": optimizer.state_dict(),
        "ema": ema.state_dict() if ema is not None else None,
        "skipped": guard.skipped,
    }
