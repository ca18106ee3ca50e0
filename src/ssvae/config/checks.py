"""Cross-field rules: what types cannot say. Every rule returns problems; nothing is computed, nothing is written."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

from ssvae.config.data_checks import data_problems, length_problems, share
from ssvae.config.launch_checks import launch_checks, launched_together
from ssvae.config.networks_checks import network_problems
from ssvae.config.objective import ObjectiveConfig
from ssvae.config.probe import ProbeConfig
from ssvae.config.probe_checks import probe_checks
from ssvae.config.problem import Problem
from ssvae.config.ranges import out_of_range
from ssvae.config.reg import TrainedStage
from ssvae.config.reg_checks import Grid, smallest_pair, tiles, triple, window_problems
from ssvae.config.reg_checks import check as regularizer_problems
from ssvae.config.resolution import ResolutionConfig
from ssvae.config.run import StageName
from ssvae.config.score import MeasureConfig, Weights
from ssvae.config.track_checks import track_problems
from ssvae.config.train import TrainConfig
from ssvae.config.tree import Config
from ssvae.config.vae import Architecture, VaeConfig, architecture
from ssvae.core.paths import looks_like_path
from ssvae.core.shapes import latent_grid

LEAST_SCORED_FRAMES = 5
"""As in models/features.py, which a mistyped command must not have to import."""


def check(cfg: Config) -> list[Problem]:
    """All problems of one resolved cell, each with key, value and remedy."""
    of_vae = list(_vae(cfg.vae))
    found = [*_ranges(cfg), *of_vae, *_run(cfg), *track_problems(cfg.track), *launch_checks(cfg.launch)]
    for stage in stages_used(cfg):
        groups = getattr(cfg.stages, stage)
        key = {group.name: place(cfg, stage, group.name) for group in fields(groups) if group.name != "init"}
        clip, data = groups.resolution, groups.data
        # Without a sound architecture there is no grid to judge by.
        grid = None if of_vae or cfg.vae.weights is not None else _grid(key["resolution"], cfg.vae, clip)
        found += [*data_problems(key["data"], data), *length_problems(key["data"], data, clip)]
        found += [grid] if isinstance(grid, Problem) else []
        shape = None if isinstance(grid, Problem) else grid
        if "train" in key:
            found += [*_train(key["train"], groups.train), *_objective(key["objective"], groups.objective, clip)]
            kind = TrainedStage.decoder_finetune if stage == "decoder_finetune" else TrainedStage.pretrain
            found += regularizer_problems(key["reg"], groups, kind, cfg.vae, shape)
            found += _init(stage, groups.init, cfg)
        if "score" in key:
            found += _score(key["score"], groups.score, clip, shape)
            found += network_problems(key["networks"], groups.networks, clip, measured=True)
        if "probe" in key:
            found += [*_probe(key["probe"], groups.probe, shape), *probe_checks(groups.probe, key["probe"])]
            found += _scored(key["resolution"], cfg.stage, clip)
            found += network_problems(key["networks"], groups.networks, clip, measured=False)
    found += _finished(cfg) if cfg.vae.weights is not None else [*_trained(cfg), *_idle(cfg)]
    return list(dict.fromkeys(found))


def place(cfg: Config, stage: str, group: str) -> str:
    """The key under which a user changes a stage's group: the shared group's where the stage points to that."""
    own, shared = getattr(getattr(cfg.stages, stage), group), getattr(cfg, group)
    # As text: NaN differs from itself.
    return group if repr(own) == repr(shared) else f"stages.{stage}.{group}"


def _ranges(cfg: Config) -> Iterator[Problem]:
    """Ranges of all numbers; what a stage only points to is named once, under the shared group."""
    shared = {group.name for group in fields(cfg)}
    for problem in out_of_range("", cfg):
        _, _, inner = problem.key.removeprefix("stages.").partition(".")
        stage = problem.key.split(".")[1] if problem.key.startswith("stages.") else ""
        group = inner.partition(".")[0]
        if not stage or group not in shared or place(cfg, stage, group) != group:
            yield problem


def _vae(vae: VaeConfig) -> Iterator[Problem]:
    given = {field.name: getattr(vae, field.name) for field in fields(Architecture)}
    if vae.weights is not None:
        for name, value in given.items():
            if value is not None:
                remedy = f"{vae.weights} brings its own: leave it out (vae={vae.weights} chooses a finished VAE)"
                yield Problem(f"vae.{name}", str(value), remedy)
        return
    try:
        parts = architecture(vae)
    except ValueError as error:
        yield Problem("vae", vae.name, str(error))
        return
    if len(parts.temporal_levels) != len(parts.multipliers) - 1:
        yield Problem(
            "vae.temporal_levels",
            str(list(parts.temporal_levels)),
            f"needs one entry a down-sampling: {len(parts.multipliers) - 1} for multipliers {list(parts.multipliers)}",
        )
        return
    # The shortcuts around a change of size group or repeat whole channels.
    steps = zip(parts.multipliers, parts.multipliers[1:], parts.temporal_levels, strict=False)
    for fine, coarse, temporal in steps:
        cell = 8 if temporal else 4
        if min(fine, coarse) > 0 and fine % coarse and (coarse % fine or cell % (coarse // fine)):
            remedy = f"after {fine}: as many, a multiple by a divisor of {cell}, or a whole fraction, not {coarse}"
            yield Problem("vae.multipliers", str(list(parts.multipliers)), remedy)


def _grid(key: str, vae: VaeConfig, clip: ResolutionConfig) -> Grid | Problem:
    temporal, spatial = architecture(vae).ratios
    try:
        return latent_grid(clip.frames, clip.height, clip.width, temporal, spatial)
    except ValueError as error:
        where = f"{key}={clip.name} with vae={vae.name}"
        return Problem(where, f"{clip.frames} frames, {clip.height}x{clip.width}", str(error))


def published_problems(cfg: Config, grid_of: Callable[[int, int, int], Grid]) -> list[Problem]:
    """What of a finished VAE's cell depends on its latent grid. grid_of: (frames, height, width) -> (F,h,w), ValueError
    where the VAE does not take such clips."""
    found: list[Problem] = []
    for stage in stages_used(cfg):
        groups = getattr(cfg.stages, stage)
        clip = groups.resolution
        try:
            grid = grid_of(clip.frames, clip.height, clip.width)
        except ValueError as error:
            where = f"{place(cfg, stage, 'resolution')}={clip.name} with vae={cfg.vae.name}"
            found.append(Problem(where, f"{clip.frames} frames, {clip.height}x{clip.width}", str(error)))
            continue
        if stage == "measure":
            found += _score(place(cfg, stage, "score"), groups.score, clip, grid)
        else:
            found += _probe(place(cfg, stage, "probe"), groups.probe, grid)
    return list(dict.fromkeys(found))


def stages_used(cfg: Config) -> list[str]:
    """Stages whose settings this cell has any use for: a finished VAE is not trained."""
    present = [field.name for field in fields(cfg.stages) if getattr(cfg.stages, field.name) is not None]
    return [name for name in present if cfg.vae.weights is None or name in ("measure", "probe_base", "probe")]


def _train(key: str, train: TrainConfig) -> Iterator[Problem]:
    if len(train.betas) != 2 or not all(0 <= beta < 1 for beta in train.betas):
        yield Problem(f"{key}.betas", str(list(train.betas)), "must be two numbers in [0, 1)")
    if train.ema_decay is not None and not 0 < train.ema_decay < 1:
        yield Problem(f"{key}.ema_decay", str(train.ema_decay), "must lie in (0, 1), or null for no EMA")


def _objective(key: str, objective: ObjectiveConfig, clip: ResolutionConfig) -> Iterator[Problem]:
    for name, path in (("vgg", objective.lpips.vgg), ("heads", objective.lpips.heads)):
        if path is not None and not Path(path).is_file():
            yield Problem(f"{key}.lpips.{name}", path, "no such file; give the weight file, or null")
    if objective.lpips.vgg is not None and objective.lpips.heads is None and find_spec("torchmetrics") is None:
        remedy = "torchmetrics, which ships the heads, is not installed: pip install torchmetrics, or name the file"
        yield Problem(f"{key}.lpips.heads", "null", remedy)
    critic = objective.critic
    if critic is None:
        return
    if min(clip.height, clip.width) < (needed := smallest_pair(objective, critic=True)):
        remedy = f"clips of {clip.height}x{clip.width} are too small: {needed} pixels a side are needed"
        yield Problem(f"{key}.critic.levels", str(critic.levels), remedy)
    if len(critic.betas) != 2 or not all(0 <= beta < 1 for beta in critic.betas):
        yield Problem(f"{key}.critic.betas", str(list(critic.betas)), "must be two numbers in [0, 1)")
    if critic.temporal_levels > critic.levels:
        remedy = f"cannot exceed levels = {critic.levels}: time is halved together with height and width"
        yield Problem(f"{key}.critic.temporal_levels", str(critic.temporal_levels), remedy)


def _score(key: str, score: MeasureConfig, clip: ResolutionConfig, grid: Grid | None) -> Iterator[Problem]:
    yield from window_problems(f"{key}.window", score.window, grid)
    yield from tiles(f"{key}.block", score.block, grid, alone=1)
    if grid is not None and score.downsample > 0 and (clip.height % score.downsample or clip.width % score.downsample):
        yield Problem(f"{key}.downsample", str(score.downsample), f"does not divide {clip.height}x{clip.width}")
    for name in ("noise", "mask", "chop"):
        levels = getattr(score, name)
        if len(set(levels)) != len(levels):
            yield Problem(f"{key}.{name}", str(list(levels)), "must be different numbers, or [] to leave it out")
    if any(not 0 < share < 1 for share in score.mask):
        yield Problem(f"{key}.mask", str(list(score.mask)), "must be shares above 0 and below 1")
    if any(not 0 < share <= 1 for share in score.chop):
        yield Problem(f"{key}.chop", str(list(score.chop)), "must be shares above 0, at most 1")
    if any(not level > 0 for level in score.noise):
        yield Problem(f"{key}.noise", str(list(score.noise)), "must be above 0: without noise it is psnr_db")
    if grid is not None and any(0 < ratio * math.prod(grid) < 1 for ratio in score.mask):
        yield Problem(f"{key}.mask", str(list(score.mask)), f"the smallest masks none of the latent grid {grid}")
    for window in score.windows:
        yield from window_problems(f"{key}.windows", window, None)


def _probe(key: str, probe: ProbeConfig, grid: Grid | None) -> Iterator[Problem]:
    dit = probe.dit
    wrong = list(triple(f"{key}.dit.patch", dit.patch))
    yield from wrong
    if not wrong and grid is not None and any(size % side for side, size in zip(dit.patch, grid, strict=True)):
        fits = [max(s for s in range(1, side + 1) if size % s == 0) for side, size in zip(dit.patch, grid, strict=True)]
        remedy = f"does not divide the latent grid {grid}: {key}.dit.patch={fits} does".replace(", ", ",")
        yield Problem(f"{key}.dit.patch", str(list(dit.patch)), remedy)
    if dit.width % 2 or (dit.heads > 0 and dit.width % dit.heads):
        yield Problem(f"{key}.dit.width", str(dit.width), f"must be even and divisible by heads = {dit.heads}")
    yield from share(f"{key}.condition_dropout", probe.condition_dropout)
    yield from _train(f"{key}.train", probe.train)
    if probe.flow.shift <= 0:
        yield Problem(f"{key}.flow.shift", str(probe.flow.shift), "must be above 0; 1 means no shift")


def _scored(key: str, stage: StageName, clip: ResolutionConfig) -> Iterator[Problem]:
    scores = stage in (StageName.probe, StageName.evaluate, StageName.all)
    if scores and clip.frames < LEAST_SCORED_FRAMES:
        remedy = f"the probe's networks look at {LEAST_SCORED_FRAMES} frames or more; stage=pretrain does without them"
        yield Problem(f"{key}.frames", str(clip.frames), remedy)


def _init(stage: str, init: str | None, cfg: Config) -> Iterator[Problem]:
    """Weights from outside: one start only, and one that is there."""
    key = f"stages.{stage}.init"
    if init is None:
        return
    if stage == "decoder_finetune":
        yield Problem(key, init, "decoder_finetune continues pretrain: set stages.pretrain.init instead")
    if stage == "pretrain" and cfg.stages.base is not None:
        remedy = "pretrain continues stages.base: set stages.base.init, or stages.base=null to start from these weights"
        yield Problem(key, init, remedy)
    if looks_like_path(init) and not Path(init).expanduser().exists():
        yield Problem(key, init, "no such file or folder")


def _trained(cfg: Config) -> Iterator[Problem]:
    """Is there a stage that makes the weights which are asked for?"""
    stages, score = cfg.stages, cfg.stages.measure.score
    tuned = stages.decoder_finetune
    if tuned is None and cfg.stage is StageName.decoder_finetune:
        yield Problem("stage", "decoder_finetune", f"exp={cfg.exp} has none: exp=paper_512p and exp=cpu_finetune do")
    if tuned is None and score.trained is TrainedStage.decoder_finetune:
        yield Problem("score.trained", "decoder_finetune", f"exp={cfg.exp} has no such stage: exp=cpu_finetune does")
        return
    maker = tuned if score.trained is TrainedStage.decoder_finetune else stages.pretrain
    if score.weights is Weights.ema and maker is not None and maker.train.ema_decay is None:
        where = "train" if maker is stages.pretrain else "stages.decoder_finetune.train"
        yield Problem("score.weights", "ema", f"needs an EMA: set {where}.ema_decay, or score.weights=raw")


def _finished(cfg: Config) -> Iterator[Problem]:
    """A finished VAE is neither trained nor regularised here."""
    if cfg.stage in (StageName.pretrain, StageName.decoder_finetune):
        yield Problem("stage", cfg.stage.value, f"vae={cfg.vae.name} is finished: stage=evaluate, measure or probe")
    present = [field.name for field in fields(cfg.reg.terms) if getattr(cfg.reg.terms, field.name) is not None]
    if cfg.reg.name != "none" or present not in (["kl"], []):
        yield Problem("reg", cfg.reg.name, f"vae={cfg.vae.name} is finished, nothing is trained: leave reg out")


def _idle(cfg: Config) -> Iterator[Problem]:
    """Terms that are present in no stage of this experiment: their cell would be another one under a wrong name."""
    if cfg.stages.decoder_finetune is not None:
        return
    terms = cfg.stages.pretrain.reg.terms
    key = place(cfg, "pretrain", "reg")
    for field in fields(terms):
        term = getattr(terms, field.name)
        if term is not None and TrainedStage.pretrain not in term.stages:
            remedy = f"exp={cfg.exp} has no such stage: take exp=cpu_finetune or exp=paper_512p, or add pretrain"
            yield Problem(f"{key}.terms.{field.name}.stages", str([stage.value for stage in term.stages]), remedy)


def _run(cfg: Config) -> Iterator[Problem]:
    name = cfg.sweep.name
    if name is not None and (re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}", name) is None):
        yield Problem("sweep.name", repr(name), "must be a plain folder name: letters, digits, . _ -, at most 100")
    if name in ("paper", "published"):
        yield Problem("sweep.name", name, "results/paper and results/published are kept by hand; choose another")


def check_together(cells: Sequence[Config]) -> list[Problem]:
    """What keeps the cells of one grid from sharing a table: values that change what a metric's name means."""
    protocols: dict[str, set[str]] = {}
    for cfg in cells:
        if cfg.stage is StageName.pretrain:
            continue
        stages = cfg.stages
        values = {
            "score.window": list(stages.measure.score.window),
            "score.block": list(stages.measure.score.block),
            "data.kind": stages.measure.data.kind.value,
            "data.path": stages.measure.data.path,
            "probe.validation_draws": stages.probe.probe.validation_draws,
            "probe.sample.clips": stages.probe.probe.sample.clips,
        }
        for key, value in values.items():
            protocols.setdefault(key, set()).add(str(value))
    remedy = "cells that are measured differently cannot share a table; run them as separate sweeps"
    mixed = [Problem(key, " and ".join(sorted(found)), remedy) for key, found in protocols.items() if len(found) > 1]
    return [*mixed, *launched_together([cfg.launch for cfg in cells])]
