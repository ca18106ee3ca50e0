"""What the diffusion transformer is told of each latent: captions, texts, classes or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssvae.config.probe import Condition, ProbeConfig
from ssvae.config.tree import ProbeStageConfig
from ssvae.data.evaluation import evaluation_windows
from ssvae.data.latents import LatentSample
from ssvae.data.prompts import read_prompts
from ssvae.metrics.reward import wrong_prompts
from ssvae.stages.source import Source

REWARD_SEED = 0
"""Every model of every table is asked with the same wrong prompts."""


@dataclass(frozen=True)
class Conditions:
    """kind: ``auto`` resolved; classes: of ``label``. train, heldout: one a latent. asked: what is generated from, and
    the text that a judge is told of each (None where there is none), with the clips' names: held-out clips, or
    prompts."""

    kind: Condition
    classes: int
    train: list[str | int | None]
    heldout: list[str | int | None]
    asked: list[str | int | None]
    texts: list[str | None]
    names: list[str]

    def every(self) -> list[str | int | None]:
        """All of them, each once."""
        return list(dict.fromkeys([*self.train, *self.heldout, *self.asked]))


def resolve_conditions(
    probe: ProbeConfig, train: Sequence[LatentSample], heldout: Sequence[LatentSample]
) -> Conditions:
    """Captions where every clip has one, else labels, else nothing; samples follow the held-out clips, or the prompts.

    Raises ValueError for a wish that the data cannot fill.
    """
    every = [*train, *heldout]
    captioned = all(sample.caption is not None for sample in every)
    labelled = all(sample.label is not None for sample in every)
    kind = probe.condition
    if kind is Condition.auto:
        read = Condition.caption if probe.text.model is None else Condition.text
        kind = read if captioned else Condition.label if labelled else Condition.none
    if (kind in (Condition.caption, Condition.text) and not captioned) or (kind is Condition.label and not labelled):
        raise ValueError(f"probe.condition = {kind.value}: not every clip has one; use probe.condition=auto")
    told, held = ([_of(sample, kind) for sample in samples] for samples in (train, heldout))
    classes = 1 + max((sample.label for sample in every if sample.label is not None), default=-1)
    asked, texts, names = held, [sample.caption for sample in heldout], [sample.key for sample in heldout]
    if probe.sample.prompts is not None:
        if kind not in (Condition.caption, Condition.text):
            raise ValueError(f"probe.sample.prompts: the probe is told no text (condition {kind.value}): leave it null")
        prompts = read_prompts(Path(probe.sample.prompts).expanduser()).texts
        rows = [index % len(prompts) for index in range(probe.sample.clips)]
        texts = [prompts[row] for row in rows]
        asked, names = list(texts), [f"prompt {row}" for row in rows]
    return Conditions(kind, classes if kind is Condition.label else 0, told, held, asked, texts, names)


def _of(sample: LatentSample, kind: Condition) -> str | int | None:
    if kind is Condition.none:
        return None
    return sample.label if kind is Condition.label else sample.caption


def check_reward(stage: ProbeStageConfig, conditions: Conditions) -> None:
    """Raises ValueError where no reward model can say how well samples follow what they were asked for."""
    if stage.reward is None:
        return
    name, kind = stage.reward.name, conditions.kind
    if kind not in (Condition.caption, Condition.text):
        raise ValueError(
            f"reward={name}: samples are generated without a prompt (probe.condition = {kind.value}), so a reward for "
            "following one says nothing: condition on captions or texts, or leave the reward out"
        )
    texts = [text for text in conditions.texts if text]
    if absent := len(conditions.texts) - len(texts):
        raise ValueError(f"reward={name}: {absent} clips have no caption; set probe.sample.prompts=FILE")
    if stage.reward.wrong_prompts:
        wrong_prompts(texts, REWARD_SEED)


def told_problems(stage: ProbeStageConfig, source: Source) -> list[str]:
    """What captions and labels of the held-out clips, and prompts, make impossible; known before any training."""
    samples = {sample.key: sample for sample in source.index.samples}
    windows = evaluation_windows(len(source.heldout), stage.probe.sample.clips)
    heldout = [samples[source.heldout[clip]] for clip, _, _ in windows]
    told = [LatentSample(sample.key, sample.caption(), sample.label) for sample in heldout]
    try:
        check_reward(stage, resolve_conditions(stage.probe, told, told))
    except ValueError as error:
        return [str(error)]
    return []
