"""Train the two shipped probe networks on synthetic clips and write them with their cards.

    python -m ssvae.cli.train_probe_networks --out src/ssvae/models/assets

A few minutes on one CPU core. The data seeds are of their own, far from those of the bench's default data, so no
clip of a sweep was ever trained on. On one machine with one thread the weights are reproducible bit by bit.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional

from ssvae.cli.probe_training_data import LabelledClips, degrade, draw_batch, middle_windows, render_clips
from ssvae.core.seeds import seed_everything, torch_generator
from ssvae.data.synthetic import SYNTHETIC_VERSION, VOCABULARY
from ssvae.metrics.degradations import DEGRADATIONS
from ssvae.models.features import CELLS, ClipTrunk, ProbeFeatures, ProbeJudge

log = logging.getLogger(__name__)

FEATURES: dict[str, Any] = {"widths": [24, 32, 48, 64, 96], "hidden": 128, "code": 48, "level_weight": 6.0}
JUDGE: dict[str, Any] = {"widths": [20, 32, 40, 64, 80], "hidden": 96}
TIME_ATTRIBUTES = ("motion", "camera")
WEIGHTS = {"shape": 2.0}
"""Weight of an attribute's loss, 1 if not named. Shape is the hardest to learn and the others drown it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Training of one network: seeds of data and weights, updates, clips a batch, peak learning rate."""

    seed: int
    train_seed: int = 9001
    held_out_seed: int = 9002
    train_clips: int = 1600
    held_out_clips: int = 400
    warm_up_steps: int = 300
    warm_up_frames: int = 64
    steps: int = 350
    batch: int = 32
    peak_rate: float = 4e-3
    weight_decay: float = 0.02
    clean_share: float = 0.4


def attribute_loss(logits: dict[str, Tensor], labels: dict[str, Tensor], levels: Tensor) -> Tensor:
    """Mean cross-entropy over attributes; what shuffled or frozen clips no longer show counts less."""
    still_visible = 1.0 - levels[:, 2:].amax(dim=1)
    total = torch.zeros(())
    for name, values in logits.items():
        losses = functional.cross_entropy(values, labels[name], reduction="none", label_smoothing=0.02)
        weight = still_visible if name in TIME_ATTRIBUTES else torch.ones_like(still_visible)
        total = total + WEIGHTS.get(name, 1.0) * (losses * weight).sum() / weight.sum()
    return total / len(logits)


def features_loss(network: ProbeFeatures, video: Tensor, labels: dict[str, Tensor], levels: Tensor) -> Tensor:
    """Attributes plus squared error of the degradation levels, weighted to a similar size."""
    logits, read = network.predict(video)
    return attribute_loss(logits, labels, levels) + 20.0 * functional.mse_loss(read, levels)


def judge_loss(network: ProbeJudge, video: Tensor, labels: dict[str, Tensor], levels: Tensor) -> Tensor:
    return attribute_loss(network(video), labels, levels)


def warm_up(trunk: ClipTrunk, data: LabelledClips, settings: Settings) -> None:
    """Teach the convolutions what single frames show; nine times cheaper a step than clips."""
    names = [name for name in VOCABULARY if name not in TIME_ATTRIBUTES]
    heads = torch.nn.ModuleDict({name: torch.nn.Linear(trunk.pooled, len(VOCABULARY[name])) for name in names})
    optimizer, schedule = _optimizer([*trunk.parameters(), *heads.parameters()], settings, settings.warm_up_steps)
    trunk.train()
    no_flow = torch.zeros(settings.warm_up_frames, 2, CELLS, CELLS)
    for step in range(settings.warm_up_steps):
        generator = torch_generator(settings.seed, "probe.frames", step)
        rows = torch.randint(len(data), (settings.warm_up_frames,), generator=generator)
        chosen = torch.randint(data.clips.shape[1], (settings.warm_up_frames,), generator=generator)
        frames = data.clips[rows, chosen].float() / 127.5 - 1.0
        mirrored = torch.rand(len(rows), generator=generator) < 0.5
        frames[mirrored] = frames[mirrored].flip(-1)
        maps = trunk.maps(frames, no_flow, 1).flatten(2)
        pooled = torch.cat([maps.mean(dim=2), maps.amax(dim=2)], dim=1)
        loss = torch.stack([functional.cross_entropy(heads[n](pooled), data.labels[n][rows]) for n in names]).sum()
        _update(loss, optimizer, schedule)
        if step % 50 == 0 or step == settings.warm_up_steps - 1:
            log.info("warm-up step %d loss %.4f", step, loss.item())


def _optimizer(
    parameters: Iterable[torch.nn.Parameter], settings: Settings, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.AdamW(parameters, lr=settings.peak_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings.peak_rate, total_steps=steps, pct_start=0.15
    )
    return optimizer, schedule


def _update(loss: Tensor, optimizer: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    schedule.step()


def fit(
    network: ProbeFeatures | ProbeJudge,
    loss_fn: Callable[[Any, Tensor, dict[str, Tensor], Tensor], Tensor],
    data: LabelledClips,
    settings: Settings,
) -> None:
    """Train in place: AdamW, one-cycle rate, random windows, one degradation a clip."""
    warm_up(network.trunk, data, settings)
    optimizer, schedule = _optimizer(network.parameters(), settings, settings.steps)
    network.train()
    for step in range(settings.steps):
        generator = torch_generator(settings.seed, "probe.batch", step)
        video, labels = draw_batch(data, settings.batch, generator)
        video, levels = degrade(video, generator, clean_share=settings.clean_share)
        loss = loss_fn(network, video, labels, levels)
        _update(loss, optimizer, schedule)
        if step % 20 == 0 or step == settings.steps - 1:
            log.info("%s step %d loss %.4f", type(network).__name__, step, loss.item())
    network.eval()


@torch.no_grad()
def accuracies(predict: Callable[[Tensor], dict[str, Tensor]], data: LabelledClips) -> dict[str, float]:
    """Share of clean middle windows whose attribute is read correctly, an attribute."""
    video = middle_windows(data)
    logits = [predict(part) for part in video.split(64)]
    return {
        name: float((torch.cat([part[name] for part in logits]).argmax(1) == labels).double().mean())
        for name, labels in data.labels.items()
    }


@torch.no_grad()
def standardise(network: ProbeFeatures, data: LabelledClips) -> None:
    """Set centre and scale so that every number of the code has mean 0 and deviation 1 on clean training clips."""
    raw = torch.cat([network.raw_code(part) for part in middle_windows(data).split(64)]).double()
    network.center.copy_(raw.mean(0))
    network.scale.copy_(raw.std(0))


@torch.no_grad()
def level_errors(network: ProbeFeatures, data: LabelledClips, settings: Settings) -> dict[str, float]:
    """Mean absolute error of each degradation level on held-out clips, each kind drawn as in training."""
    generator = torch_generator(settings.seed, "probe.levels")
    video, levels = degrade(middle_windows(data), generator, clean_share=settings.clean_share)
    read = torch.cat([network.predict(part)[1] for part in video.split(64)])
    return dict(zip(DEGRADATIONS, (read - levels).abs().double().mean(0).tolist(), strict=True))


def write(
    name: str,
    network: torch.nn.Module,
    *,
    protocol: str,
    architecture: dict[str, Any],
    settings: Settings,
    held_out: dict[str, Any],
    folder: Path,
) -> None:
    """Weights and, beside them, the card that names their hash."""
    content = save({key: value.contiguous() for key, value in network.state_dict().items()})
    card = {
        "protocol": protocol,
        "sha256": hashlib.sha256(content).hexdigest(),
        "architecture": architecture,
        "vocabulary": {name: list(values) for name, values in VOCABULARY.items()},
        "training": {**asdict(settings), "synthetic_version": SYNTHETIC_VERSION},
        "held_out": held_out,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.safetensors").write_bytes(content)
    (folder / f"{name}.json").write_text(json.dumps(card, indent=2) + "\n")
    log.info("%s: %d bytes, held out %s", name, len(content), held_out)


def train_features(train: LabelledClips, held_out: LabelledClips, settings: Settings, folder: Path) -> None:
    seed_everything(settings.seed, "probe.features")
    counts = {name: len(values) for name, values in VOCABULARY.items()}
    architecture = {**FEATURES, "attributes": counts, "degradations": list(DEGRADATIONS)}
    network = ProbeFeatures(**architecture)
    fit(network, features_loss, train, settings)
    standardise(network, train)
    found = {
        "clips": len(held_out),
        "accuracy": accuracies(lambda video: network.predict(video)[0], held_out),
        "level_error": level_errors(network, held_out, settings),
    }
    write(
        "probe_features",
        network,
        protocol="probe_fd/1",
        architecture=architecture,
        settings=settings,
        held_out=found,
        folder=folder,
    )


def train_judge(train: LabelledClips, held_out: LabelledClips, settings: Settings, folder: Path) -> None:
    seed_everything(settings.seed, "probe.judge")
    architecture = {**JUDGE, "attributes": {name: len(values) for name, values in VOCABULARY.items()}}
    network = ProbeJudge(**architecture)
    fit(network, judge_loss, train, settings)
    found = {"clips": len(held_out), "accuracy": accuracies(network, held_out)}
    write(
        "probe_judge",
        network,
        protocol="probe_reward/1",
        architecture=architecture,
        settings=settings,
        held_out=found,
        folder=folder,
    )


def main(arguments: list[str] | None = None) -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for weights and cards")
    parser.add_argument("--only", choices=("features", "judge"), help="train one of the two")
    parser.add_argument("--steps", type=int, help="updates, fewer for a trial")
    parser.add_argument("--clips", type=int, help="training clips, fewer for a trial")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    changes = {"steps": options.steps, "train_clips": options.clips}
    chosen = {key: value for key, value in changes.items() if value is not None}
    for_features, for_judge = Settings(seed=1, **chosen), Settings(seed=2, clean_share=0.6, **chosen)
    train = render_clips(for_features.train_clips, seed=for_features.train_seed)
    held_out = render_clips(for_features.held_out_clips, seed=for_features.held_out_seed)
    log.info("rendered %d and %d clips", len(train), len(held_out))
    if options.only != "judge":
        train_features(train, held_out, for_features, options.out)
    if options.only != "features":
        train_judge(train, held_out, for_judge, options.out)


if __name__ == "__main__":
    main()
