"""Weights, files and servers from outside that cells name: tried before anything is computed, each once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from ssvae.build import build_vae
from ssvae.build_metrics import build_frechet_networks, build_lpips, build_reward_settings, build_text_encoder
from ssvae.config.checks import place
from ssvae.config.reg import TrainedStage, terms_in
from ssvae.config.reward import RewardConfig
from ssvae.config.score import NetworksConfig
from ssvae.config.tree import Config, ProbeStageConfig
from ssvae.config.vae import VaeConfig
from ssvae.data.prompts import read_prompts
from ssvae.metrics.reward_client import RewardClient
from ssvae.models.dinov2 import load_dinov2
from ssvae.models.lpips import load_lpips
from ssvae.stages.finished import settle
from ssvae.stages.init import load_init
from ssvae.stages.plan import COMPUTED

_TRAINING = {
    "base": TrainedStage.pretrain,
    "pretrain": TrainedStage.pretrain,
    "decoder_finetune": TrainedStage.decoder_finetune,
}


class Check(NamedTuple):
    """One thing to try. key, value: what the user gave; same: equal for checks that are the same; attempt: raises
    ValueError."""

    key: str
    value: str
    same: tuple[object, ...]
    attempt: Callable[[], object]

    def problem(self) -> str | None:
        try:
            self.attempt()
        except ValueError as error:
            said = str(error)
            return said if said.startswith(self.key) else f"{self.key} = {self.value}: {said}"
        return None


def foreign_problems(cells: Sequence[Config]) -> list[str]:
    """What is wrong with finished VAEs, weights to start from, networks of losses and metrics, text encoders and
    prompts; each once."""
    found = [f"{problem.key} = {problem.value}: {problem.remedy}" for problem in settle(cells)]
    return list(dict.fromkeys([*found, *_problems(check for cfg in cells for check in _of_cell(cfg))]))


def reward_problems(cells: Sequence[Config]) -> list[str]:
    """What is wrong with the reward servers of cells whose scores are still to be made."""
    asked = [reward for cfg in cells if (reward := cfg.stages.probe.reward) is not None]
    return _problems(Check("reward.endpoint", one.endpoint, (repr(one),), partial(_answers, one)) for one in asked)


def _problems(checks: Iterable[Check]) -> list[str]:
    distinct: dict[tuple[object, ...], Check] = {}
    for check in checks:
        distinct.setdefault(check.same, check)
    return [problem for check in distinct.values() if (problem := check.problem()) is not None]


def _of_cell(cfg: Config) -> Iterator[Check]:
    if cfg.vae.weights is None:
        yield from _of_training(cfg)
    if "measure" in COMPUTED[cfg.stage]:
        measure = cfg.stages.measure
        yield from _of_networks(place(cfg, "measure", "networks"), measure.networks, measure.resolution.frames)
    if "probe" in COMPUTED[cfg.stage]:
        probe = cfg.stages.probe
        yield from _of_networks(place(cfg, "probe", "networks"), probe.networks, probe.resolution.frames)
        for name, stage in (("probe_base", cfg.stages.probe_base), ("probe", probe)):
            if stage is not None:
                yield from _of_probe(place(cfg, name, "probe"), stage)


def _of_training(cfg: Config) -> Iterator[Check]:
    for name, kind in _TRAINING.items():
        stage = getattr(cfg.stages, name)
        if stage is None:
            continue
        if stage.init is not None:
            key = f"stages.{name}.init"
            yield Check(key, stage.init, (key, stage.init, repr(cfg.vae)), partial(_fits, key, stage.init, cfg.vae))
        lpips = stage.objective.lpips
        if lpips.vgg is not None:
            key, same = f"{place(cfg, name, 'objective')}.lpips.vgg", ("lpips", lpips.vgg, lpips.heads)
            yield Check(key, lpips.vgg, same, partial(load_lpips, lpips.vgg, lpips.heads))
        vf = terms_in(stage.reg.terms, kind).vf
        if vf is not None and vf.model is not None:
            key, same = f"{place(cfg, name, 'reg')}.terms.vf.model", ("vf", vf.model, vf.size)
            yield Check(key, vf.model, same, partial(load_dinov2, vf.model, size=vf.size))


def _of_networks(key: str, networks: NetworksConfig, frames: int) -> Iterator[Check]:
    """Each network by itself, so that every one that is wrong is named."""
    nothing = replace(networks, lpips_vgg=None, lpips_alex=None, dinov2=None, i3d=None)
    cpu = torch.device("cpu")
    for field in fields(networks):
        value = getattr(networks, field.name)
        if not isinstance(value, str):
            continue
        alone, same = replace(nothing), (field.name, value, frames)
        setattr(alone, field.name, value)
        if field.name.startswith("lpips"):
            yield Check(f"{key}.{field.name}", value, same, partial(build_lpips, alone, cpu))
        else:
            yield Check(f"{key}.{field.name}", value, same, partial(build_frechet_networks, alone, frames, cpu))


def _of_probe(key: str, stage: ProbeStageConfig) -> Iterator[Check]:
    text, prompts = stage.probe.text, stage.probe.sample.prompts
    if text.model is not None:
        attempt = partial(build_text_encoder, text, torch.device("cpu"))
        yield Check(f"{key}.text.model", text.model, ("text", repr(text)), attempt)
    if prompts is not None:
        attempt_prompts = partial(read_prompts, Path(prompts).expanduser())
        yield Check(f"{key}.sample.prompts", prompts, ("prompts", prompts), attempt_prompts)


def _answers(reward: RewardConfig) -> None:
    RewardClient(build_reward_settings(reward)).check()


def _fits(key: str, init: str, vae: VaeConfig) -> None:
    with torch.device("meta"):
        like = build_vae(vae)
    load_init(key, init, like)
