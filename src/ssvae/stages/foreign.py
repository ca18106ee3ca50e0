"""Weights, files and servers from outside that cells name: tried before anything is computed, each once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import torch

from ssvae.build import build_vae
from ssvae.build_metrics import build_frechet_networks, build_lpips, build_reward_settings, build_text_encoder
from ssvae.config.probe import Condition
from ssvae.config.reg import TrainedStage, terms_in
from ssvae.config.reward import RewardConfig
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
Check = tuple[tuple[object, ...], Callable[[], object]]
"""What makes two checks the same, and the check, which raises ValueError."""


def foreign_problems(cells: Sequence[Config]) -> list[str]:
    """What is wrong with finished VAEs, weights to start from, networks of losses and metrics, text encoders, prompts
    and reward servers; each once."""
    found = [f"{problem.key} = {problem.value}: {problem.remedy}" for problem in settle(cells)]
    checks: dict[tuple[object, ...], Callable[[], object]] = {}
    for cfg in cells:
        for key, check in (*_of_training(cfg), *_of_scores(cfg)):
            checks.setdefault(key, check)
    found += [problem for check in checks.values() if (problem := _problem(check)) is not None]
    return list(dict.fromkeys(found))


def _of_training(cfg: Config) -> Iterator[Check]:
    if cfg.vae.weights is not None:
        return
    for name, kind in _TRAINING.items():
        stage = getattr(cfg.stages, name)
        if stage is None:
            continue
        if stage.init is not None:
            fits = partial(_fits, f"stages.{name}.init", stage.init, cfg.vae)
            yield (name, stage.init, repr(cfg.vae)), fits
        lpips = stage.objective.lpips
        if lpips.vgg is not None:
            yield ("lpips", lpips.vgg, lpips.heads), partial(load_lpips, lpips.vgg, lpips.heads)
        vf = terms_in(stage.reg.terms, kind).vf
        if vf is not None and vf.model is not None:
            yield ("vf", vf.model, vf.size), partial(load_dinov2, vf.model, size=vf.size)


def _of_scores(cfg: Config) -> Iterator[Check]:
    computed = COMPUTED[cfg.stage]
    if "measure" in computed:
        measure = cfg.stages.measure
        yield ("measure lpips", repr(measure.networks)), partial(build_lpips, measure.networks, torch.device("cpu"))
        networks = partial(build_frechet_networks, measure.networks, measure.resolution.frames, torch.device("cpu"))
        yield ("frechet", repr(measure.networks), measure.resolution.frames), networks
    if "probe" not in computed:
        return
    for stage in (cfg.stages.probe_base, cfg.stages.probe):
        if stage is not None:
            yield from _of_probe(stage)


def _of_probe(stage: ProbeStageConfig) -> Iterator[Check]:
    networks = partial(build_frechet_networks, stage.networks, stage.resolution.frames, torch.device("cpu"))
    yield ("frechet", repr(stage.networks), stage.resolution.frames), networks
    if stage.probe.condition is Condition.text:
        yield ("text", repr(stage.probe.text)), partial(build_text_encoder, stage.probe.text, torch.device("cpu"))
    if stage.probe.sample.prompts is not None:
        yield (
            ("prompts", stage.probe.sample.prompts),
            partial(read_prompts, Path(stage.probe.sample.prompts).expanduser()),
        )
    if stage.reward is not None:
        yield ("reward", repr(stage.reward)), partial(_answers, stage.reward)


def _answers(reward: RewardConfig) -> None:
    RewardClient(build_reward_settings(reward)).check()


def _fits(key: str, init: str, vae: VaeConfig) -> None:
    with torch.device("meta"):
        like = build_vae(vae)
    load_init(key, init, like)


def _problem(check: Callable[[], object]) -> str | None:
    try:
        check()
    except ValueError as error:
        return str(error)
    return None
