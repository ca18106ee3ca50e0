"""The diffusion transformer's training loop on cached latents, explicit from the first step to the last.

Dimension legend
    N samples, C latent channels, F latent frames, h w latent pixels       latent (N,C,F,h,w), normalised
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from ssvae.core.files import StepsLog
from ssvae.core.progress import Progress
from ssvae.core.seeds import torch_generator
from ssvae.flow.path import RectifiedFlow
from ssvae.models.condition import drop_conditions
from ssvae.models.dit import VideoDiT
from ssvae.models.ema import EMA
from ssvae.train.guard import Guard
from ssvae.train.settings import Cadence, TrainSettings
from ssvae.train.state import load_checkpoint, save_checkpoint

VERSION = 1


def train_dit(
    *,
    dit: VideoDiT,
    latents: Tensor,
    conditions: Sequence[str | int | None],
    condition_dropout: float,
    flow: RectifiedFlow,
    settings: TrainSettings,
    cadence: Cadence,
    folder: Path,
    seed: int,
    accelerator: Accelerator,
    progress: Progress,
) -> EMA | None:
    """Train in place for ``settings.steps`` updates, going on from ``folder``'s checkpoint if there is one.

    latents (N,C,F,h,w) are normalised; conditions: a caption, a label or None a latent. Writes ``steps.jsonl`` and
    ``checkpoint.pt``. Returns the moving average, if asked for. Raises NonFiniteLoss above the limit.
    """
    dit.to(accelerator.device).train()
    trained = [parameter for parameter in dit.parameters() if parameter.requires_grad]
    optimizer = accelerator.prepare(settings.build_optimizer(trained))
    ema = EMA(dit, settings.ema_decay) if settings.ema_decay is not None else None
    guard = Guard(settings.nonfinite_limit)
    ids, null = dit.encode_conditions(conditions), dit.null_conditions(1)
    done = 0
    if (saved := load_checkpoint(folder)) is not None:
        dit.load_state_dict(saved["dit"])
        optimizer.load_state_dict(saved["optimizer"])
        if ema is not None:
            ema.load_state_dict(saved["ema"])
        guard.skipped = saved["skipped"]
        done = saved["step"]

    log = StepsLog(folder / "steps.jsonl", done)
    progress.start("train DiT", settings.steps, done)
    for index in range(done, settings.steps):
        step = index + 1
        rate = settings.set_rate(optimizer, index)
        draws = torch_generator(seed, "dit", index)

        # -------- one update
        picked = torch.randint(len(latents), (settings.batch,), generator=draws)
        clean = latents[picked].to(accelerator.device)
        chosen = None
        if ids is not None and null is not None:
            chosen = drop_conditions(ids[picked], null, condition_dropout, draws)
        with accelerator.autocast():
            loss = flow.loss(partial(dit, condition=chosen), clean, draws).mean()
        accelerator.backward(loss)
        limit = settings.grad_clip if settings.grad_clip is not None else float("inf")
        norm = torch.nn.utils.clip_grad_norm_(trained, limit)
        if guard.allows(step, loss=loss.detach(), gradient_norm=norm):
            optimizer.step()
            if ema is not None:
                ema.update(dit)
        optimizer.zero_grad(set_to_none=True)
        # -------- end of the update

        if cadence.logs(step, settings.steps):
            values = {
                "loss": float(loss.detach()),
                "grad_norm": float(norm),
                "lr": rate,
                "skipped": float(guard.skipped),
            }
            log.write(step, values)
            progress.advance(step, f"loss {values['loss']:.4f}")
        else:
            progress.advance(step)
        if cadence.saves(step, settings.steps):
            log.sync()
            save_checkpoint(folder, step, _state(dit, optimizer, ema, guard))
    log.close()
    dit.eval()
    return ema


def _state(dit: VideoDiT, optimizer: Any, ema: EMA | None, guard: Guard) -> dict[str, Any]:
    return {
        "dit": dit.state_dict(),
        "optimizer": optimizer.state_dict(),
        "ema": ema.state_dict() if ema is not None else None,
        "skipped": guard.skipped,
    }


@torch.no_grad()
def validation_loss(
    *,
    dit: VideoDiT,
    latents: Tensor,
    conditions: Sequence[str | int | None],
    flow: RectifiedFlow,
    draws: int,
    batch: int,
    seed: int,
) -> Tensor:
    """Per-latent mean flow loss (N,) float64 over ``draws`` (time, noise) pairs a latent.

    Times are stratified over the draws, and the draws of a latent depend on its position only: every DiT of a table
    meets the same ones, whatever the batch.
    """
    device = next(dit.parameters()).device
    ids = dit.encode_conditions(conditions)
    total = torch.zeros(len(latents), dtype=torch.float64)
    for draw in range(draws):
        for start in range(0, len(latents), batch):
            part = slice(start, min(start + batch, len(latents)))
            rows = range(part.start, part.stop)
            noise = torch.stack(
                [torch.randn(latents.shape[1:], generator=torch_generator(seed, "val", i, draw)) for i in rows]
            )
            shift = torch.stack([torch.rand((), generator=torch_generator(seed, "val-time", i)) for i in rows])
            times = (draw + shift) / draws
            clean = latents[part]
            noisy = flow.interpolate(clean, noise, times).to(device)
            chosen = None if ids is None else ids[part]
            velocity = dit(noisy, times.to(device), chosen).cpu()
            error = (velocity - flow.velocity(clean, noise)).double().square().flatten(1).mean(1)
            total[part] += error / draws
    return total
