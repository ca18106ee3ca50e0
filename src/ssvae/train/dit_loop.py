"""The diffusion transformer's training loop on cached latents, explicit from the first step to the last.

Ranks share each update: every rank draws the whole batch's samples, conditions, times and noise from the step's stream
and works on its share of the rows, and gradients are averaged. So R ranks make the updates of one.

Dimension legend
    N samples, C latent channels, F latent frames, h w latent pixels       latent (N,C,F,h,w), normalised
    B batch over all ranks, b = B / ranks of one
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ssvae.core.identity import fingerprint
from ssvae.core.progress import Progress
from ssvae.core.ranks import Ranks
from ssvae.core.seeds import torch_generator
from ssvae.core.stop import NEVER, Stop
from ssvae.data.latents import LatentRows
from ssvae.flow.base import DiffusionPath, prediction_loss
from ssvae.models.condition import drop_conditions
from ssvae.models.dit import VideoDiT
from ssvae.models.dit_weights import save_dit_weights
from ssvae.models.ema import EMA
from ssvae.train.boundary import Boundary
from ssvae.train.guard import Guard
from ssvae.train.log import TrainingLog
from ssvae.train.settings import Cadence, TrainSettings
from ssvae.train.state import load_checkpoint, save_checkpoint

VERSION = 1
KEPT = "weights"
"""Folder of the weights that are kept on the way, beside the stage's own files."""


def kept_weights(folder: Path, step: int) -> Path:
    """Where the weights after ``step`` updates lie."""
    return folder / KEPT / f"step_{step:07d}.safetensors"


def train_dit(
    *,
    dit: VideoDiT,
    latents: LatentRows,
    conditions: Sequence[str | int | None],
    condition_dropout: float,
    flow: DiffusionPath,
    settings: TrainSettings,
    cadence: Cadence,
    folder: Path,
    seed: int,
    accelerator: Accelerator,
    progress: Progress,
    keep: Sequence[int] = (),
    stop: Stop = NEVER,
) -> EMA | None:
    """Train in place for ``settings.steps`` updates, going on from ``folder``'s checkpoint if there is one.

    latents (N,C,F,h,w) are normalised; conditions: a caption, a text, a label or None a latent. keep: after these
    updates the weights (averaged ones where there are) go to :func:`kept_weights`; later ones than the last are never
    reached. The first rank writes ``steps.jsonl``, ``samples.jsonl``, ``checkpoint.pt`` and the kept weights. Returns
    the moving average, if asked for. Raises ValueError for a batch that the ranks cannot share evenly, NonFiniteLoss
    above the limit, and Interrupted, on every rank and with everything saved, once any rank was asked to ``stop`` while
    steps are left.
    """
    ranks = Ranks.current()
    mine = _share(settings.batch, ranks)
    dit.to(accelerator.device).train()
    trained = [parameter for parameter in dit.parameters() if parameter.requires_grad]
    optimizer = accelerator.prepare(settings.build_optimizer(trained))
    ema = EMA(dit, settings.ema_decay) if settings.ema_decay is not None else None
    guard = Guard(settings.nonfinite_limit, ranks=ranks)
    ids, null = dit.encode_conditions(conditions), dit.null_conditions(1)
    done = 0
    if (saved := load_checkpoint(folder)) is not None:
        dit.load_state_dict(saved["dit"])
        optimizer.load_state_dict(saved["optimizer"])
        if ema is not None:
            ema.load_state_dict(saved["ema"])
        guard.skipped = saved["skipped"]
        done = saved["step"]

    def save(step: int) -> None:
        log.sync()
        if ranks.first:
            save_checkpoint(folder, step, _state(dit, optimizer, ema, guard))
        ranks.wait()

    log, boundary, kept = TrainingLog(folder, done, ranks), Boundary(ranks, stop, accelerator.device), done
    progress.start("train DiT", settings.steps, done)
    for index in range(done, settings.steps):
        step = index + 1
        draws = torch_generator(seed, "dit", index)
        picked = torch.randint(len(latents), (settings.batch,), generator=draws)
        drawn = boundary.draw(partial(latents.__getitem__, picked[mine]))
        if drawn is None:
            if kept != index:
                save(index)
            log.close()
            raise stop.interrupt()
        rate = settings.set_rate(optimizer, index)

        # -------- one update
        chosen = None
        if ids is not None and null is not None:
            chosen = drop_conditions(ids[picked], null, condition_dropout, draws)[mine]
        times = flow.sample_times(settings.batch, draws)[mine]
        noise = torch.randn((settings.batch, *latents.shape[1:]), generator=draws)[mine]
        clean = drawn.to(accelerator.device)
        with accelerator.autocast():
            predict = partial(dit, condition=chosen)
            loss = prediction_loss(flow, predict, clean, noise.to(clean), times.to(clean.device)).mean()
        accelerator.backward(loss)
        ranks.average_gradients(trained)
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
                "loss": float(ranks.mean(loss.detach())),
                "grad_norm": float(norm),
                "lr": rate,
                "skipped": float(guard.skipped),
            }
            # Every rank draws all rows, so the first one knows what all of them saw.
            log.write(step, values, fingerprint(picked.tolist(), 12))
            progress.advance(step, f"loss {values['loss']:.4f}")
        else:
            progress.advance(step)
        # Before the checkpoint: whoever resumes behind this step finds them written.
        if step in keep and ranks.first:
            save_dit_weights(kept_weights(folder, step), dit, None if ema is None else ema.shadow)
        if cadence.saves(step, settings.steps):
            save(step)
            kept = step
    log.close()
    dit.eval()
    return ema


def _share(batch: int, ranks: Ranks) -> slice:
    """This rank's rows of every batch."""
    if batch % ranks.world:
        raise ValueError(f"train.batch = {batch}: is not divisible by the {ranks.world} ranks that share it")
    size = batch // ranks.world
    return slice(ranks.rank * size, (ranks.rank + 1) * size)


def _state(dit: VideoDiT, optimizer: Any, ema: EMA | None, guard: Guard) -> dict[str, Any]:
    return {
        "dit": dit.state_dict(),
        "optimizer": optimizer.state_dict(),
        "ema": ema.state_dict() if ema is not None else None,
        "skipped": guard.skipped,
    }
