"""The VAE's training loop, explicit from the first step to the last.

Dimension legend
    B batch, 3 colours, T frames, H W pixels              video   (B,3,T,H,W), float, [-1, 1]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from ssvae.core.progress import Progress
from ssvae.core.ranks import ALONE, Ranks
from ssvae.core.seeds import torch_generator
from ssvae.core.stop import NEVER, Stop
from ssvae.models.ema import EMA
from ssvae.models.vae import VideoVAE
from ssvae.objective.adversary import Adversary
from ssvae.objective.nll import NegativeLogLikelihood
from ssvae.objective.vae_step import StepInputs, reconstruct, vae_step
from ssvae.objective.weighting import Weight
from ssvae.regularizers.base import Regularizer
from ssvae.train.boundary import Boundary
from ssvae.train.guard import Guard
from ssvae.train.log import TrainingLog, samples_digest
from ssvae.train.settings import Cadence, TrainSettings
from ssvae.train.state import load_checkpoint, save_checkpoint

VERSION = 2


class VideoBatch(Protocol):
    """video (B,3,T,H,W) in [-1, 1]; T = 1 when the step drew images. drawn: what each sample is, with its window."""

    @property
    def video(self) -> Tensor: ...

    @property
    def drawn(self) -> Sequence[str]: ...


def train_vae(
    *,
    vae: VideoVAE,
    regularizers: Mapping[str, Regularizer],
    weights: Mapping[str, Weight],
    nll: NegativeLogLikelihood,
    adversary: Adversary | None,
    batches: Callable[[Sequence[int]], Iterator[VideoBatch]],
    settings: TrainSettings,
    cadence: Cadence,
    folder: Path,
    seed: int,
    accelerator: Accelerator,
    progress: Progress,
    train_encoder: bool = True,
    gradient_checkpointing: bool = False,
    share_statistics: bool = True,
    stop: Stop = NEVER,
) -> EMA | None:
    """Train in place for ``settings.steps`` updates, going on from ``folder``'s checkpoint if there is one.

    batches: batch numbers -> this rank's parts of those batches. weights: one for each name that a regulariser's
    ``terms`` yields. Without ``train_encoder`` the encoder is frozen and in evaluation mode. gradient_checkpointing:
    activations are computed again in the backward pass, with the same numbers. share_statistics: batch statistics,
    gradient norms and draws are those of the global batch; without it each rank takes its own, as in the official
    code. The first rank writes ``steps.jsonl``, ``samples.jsonl`` and ``checkpoint.pt``. Returns the moving average, if
    asked for. Raises NonFiniteLoss (train/guard.py) above the limit, and Interrupted, on every rank and with everything
    saved, once any rank was asked to ``stop`` while steps are left.
    """
    ranks = Ranks.current()
    # What batch statistics, gradient norms and draws are shared over; alone, every rank does as the official code.
    sharing = ranks if share_statistics else ALONE
    modules = nn.ModuleDict({"vae": vae, "regularizers": nn.ModuleDict(dict(regularizers)), "nll": nll})
    modules.to(accelerator.device).train()
    vae.set_gradient_checkpointing(gradient_checkpointing)
    if not train_encoder:
        vae.encoder.requires_grad_(False).eval()
    for regularizer in regularizers.values():
        regularizer.all_sum = sharing.sum if sharing.world > 1 else None
        regularizer.part = (sharing.rank, sharing.world)
    trained = [parameter for parameter in modules.parameters() if parameter.requires_grad]
    optimizer = accelerator.prepare(settings.build_optimizer(trained))
    if adversary is not None:
        adversary.to(accelerator.device).train()
    ema = EMA(vae, settings.ema_decay) if settings.ema_decay is not None else None
    guard = Guard(settings.nonfinite_limit, ranks=ranks)
    done = 0
    if (saved := load_checkpoint(folder)) is not None:
        modules.load_state_dict(saved["modules"])
        optimizer.load_state_dict(saved["optimizer"])
        if adversary is not None:
            adversary.load_state_dict(saved["adversary"])
        if ema is not None:
            ema.load_state_dict(saved["ema"])
        guard.skipped = saved["skipped"]
        done = saved["step"]

    def inputs(video: Tensor, index: int, player: str = "") -> StepInputs:
        return StepInputs(
            video.to(accelerator.device, non_blocking=True),
            torch_generator(seed, f"posterior{player}", index),
            {name: torch_generator(seed, f"regularizer/{name}{player}", index) for name in regularizers},
            sharing,
        )

    def save(step: int) -> None:
        log.sync()
        if ranks.first:
            save_checkpoint(folder, step, _state(modules, optimizer, adversary, ema, guard))
        ranks.wait()

    log, boundary, kept = TrainingLog(folder, done, ranks), Boundary(ranks, stop, accelerator.device), done
    progress.start("train VAE", settings.steps, done)
    stream = batches(_batch_numbers(done, settings.steps, adversary))
    for index in range(done, settings.steps):
        step = index + 1  # the number of updates once this one is made
        playing = adversary if adversary is not None and adversary.active(step) else None
        turns = 2 if playing is not None and playing.alternate else 1
        drawn = boundary.draw(partial(_take, stream, turns))
        if drawn is None:
            if kept != index:
                save(index)
            log.close()
            raise stop.interrupt()
        rate = settings.set_rate(optimizer, index)

        # -------- one update of the generator's gradients, and of the critic's from the same reconstruction
        with accelerator.autocast():
            generator_inputs = inputs(drawn[0].video, index)
            out = vae_step(
                generator_inputs,
                vae=vae,
                regularizers=regularizers,
                weights=weights,
                nll=nll,
                adversary=playing,
                train_encoder=train_encoder,
            )
            # Before the critic's turn: a regulariser remembers its latest draw.
            seen = _diagnostics(regularizers, out.context) if cadence.logs(step, settings.steps) else {}
            critic: dict[str, Tensor] = {}
            if playing is not None:
                real, fake = out.context.target, out.context.reconstruction
                if playing.alternate:
                    turn = inputs(drawn[1].video, index, "/critic")
                    real, fake = reconstruct(turn, vae=vae, regularizers=regularizers)
                critic = playing.backward(real, fake)
        ranks.average_gradients(trained)
        limit = settings.grad_clip if settings.grad_clip is not None else float("inf")
        norm = torch.nn.utils.clip_grad_norm_(trained, limit)
        if playing is not None:
            ranks.average_gradients(playing.parameters())
            critic["critic/grad_norm"] = playing.gradient_norm()
        if guard.allows(step, loss=out.loss, gradient_norm=norm, **critic):
            optimizer.step()
            if playing is not None:
                playing.step()
            if ema is not None:
                ema.update(vae)
        optimizer.zero_grad(set_to_none=True)
        if playing is not None:
            playing.zero_grad()
        # -------- end of the update

        if cadence.logs(step, settings.steps):
            values = {"loss": out.loss, **out.scalars, **critic, **seen}
            scalars = {**_over_ranks(values, ranks), "grad_norm": float(norm)}
            seen_samples = samples_digest([batch.drawn for batch in drawn], ranks)
            log.write(step, {**scalars, "lr": rate, "skipped": float(guard.skipped)}, seen_samples)
            progress.advance(step, f"L1 {scalars['l1']:.4f}")
        else:
            progress.advance(step)
        if cadence.saves(step, settings.steps):
            save(step)
            kept = step
    log.close()
    modules.eval()
    return ema


def _take(stream: Iterator[VideoBatch], count: int) -> list[VideoBatch]:
    return [next(stream) for _ in range(count)]


def _batch_numbers(done: int, steps: int, adversary: Adversary | None) -> list[int]:
    """The batches that updates ``done`` to ``steps`` draw. Alternating players take turns: the generator every even
    number, the critic, once it acts, every odd one."""
    if adversary is None or not adversary.alternate:
        return list(range(done, steps))
    numbers = []
    for index in range(done, steps):
        numbers.append(2 * index)
        if adversary.active(index + 1):
            numbers.append(2 * index + 1)
    return numbers


@torch.no_grad()
def _diagnostics(regularizers: Mapping[str, Regularizer], context: Any) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, regularizer in regularizers.items():
        found.update({f"{name}/{key}": value for key, value in regularizer.stats(context).items()})
    return found


def _over_ranks(values: Mapping[str, Tensor], ranks: Ranks) -> dict[str, float]:
    """Means over ranks, in one message."""
    if ranks.world == 1:
        return {name: float(value) for name, value in values.items()}
    device = values["loss"].device
    packed = ranks.mean(torch.stack([value.detach().double().to(device) for value in values.values()]))
    return dict(zip(values, packed.tolist(), strict=True))


def _state(
    modules: nn.Module, optimizer: Any, adversary: Adversary | None, ema: EMA | None, guard: Guard
) -> dict[str, Any]:
    return {
        "modules": modules.state_dict(),
        "optimizer": optimizer.state_dict(),
        "adversary": adversary.state_dict() if adversary is not None else None,
        "ema": ema.state_dict() if ema is not None else None,
        "skipped": guard.skipped,
    }
