"""Cross-field rules: what types cannot say. Every rule returns problems; nothing is computed, nothing is written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

from ssvae.config.data import DataConfig, DataKind
from ssvae.config.objective import ObjectiveConfig
from ssvae.config.probe import ProbeConfig
from ssvae.config.problem import Problem
from ssvae.config.ranges import out_of_range
from ssvae.config.reg import TrainedStage
from ssvae.config.reg_checks import Grid, smallest_pair, tiles, triple, window_problems
from ssvae.config.reg_checks import check as regularizer_problems
from ssvae.config.resolution import ResolutionConfig
from ssvae.config.run import StageName
from ssvae.config.score import MeasureConfig, Weights
from ssvae.config.train import TrainConfig
from ssvae.config.tree import Config
from ssvae.config.vae import VaeConfig
from ssvae.core.shapes import latent_grid

LEAST_SCORED_FRAMES = 5
"""As in models/features.py, which a mistyped command must not have to import."""


def check(cfg: Config) -> list[Problem]:
    """All problems of one resolved cell, each with key, value and remedy."""
    of_vae = list(_vae(cfg.vae))
    found = [*_ranges(cfg), *of_vae, *_run(cfg)]
    for stage in fields(cfg.stages):
        groups = getattr(cfg.stages, stage.name)
        if groups is None:
            continue
        key = {group.name: place(cfg, stage.name, group.name) for group in fields(groups) if group.name != "init"}
        clip, data = groups.resolution, groups.data
        # Without a sound architecture there is no grid to judge by.
        grid = None if of_vae else _grid(key["resolution"], cfg.vae, clip)
        found += [*_data(key["data"], data), *_length(key["data"], data, clip)]
        found += [grid] if isinstance(grid, Problem) else []
        shape = None if isinstance(grid, Problem) else grid
        if "train" in key:
            found += [*_train(key["train"], groups.train), *_objective(key["objective"], groups.objective, clip)]
            kind = TrainedStage.decoder_finetune if stage.name == "decoder_finetune" else TrainedStage.pretrain
            found += regularizer_problems(key["reg"], groups, kind, cfg.vae, shape)
            found += _init(stage.name, groups.init, cfg)
        if "score" in key:
            found += _score(key["score"], groups.score, clip, shape)
        if "probe" in key:
            found += _probe(key["probe"], groups.probe, shape)
            found += _scored(key["resolution"], cfg.stage, clip)
    found += [*_trained(cfg), *_idle(cfg)]
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


def _share(key: str, value: float, upper: float = 1.0) -> Iterator[Problem]:
    if not 0.0 <= value <= upper:
        yield Problem(key, str(value), f"must lie in [0, {upper:g}]")


def _vae(vae: VaeConfig) -> Iterator[Problem]:
    if len(vae.temporal_levels) != len(vae.multipliers) - 1:
        yield Problem(
            "vae.temporal_levels",
            str(list(vae.temporal_levels)),
            f"needs one entry a down-sampling: {len(vae.multipliers) - 1} for multipliers {list(vae.multipliers)}",
        )
        return
    # The shortcuts around a change of size group or repeat whole channels.
    steps = zip(vae.multipliers, vae.multipliers[1:], vae.temporal_levels, strict=False)
    for fine, coarse, temporal in steps:
        cell = 8 if temporal else 4
        if min(fine, coarse) > 0 and fine % coarse and (coarse % fine or cell % (coarse // fine)):
            remedy = f"after {fine}: as many, a multiple by a divisor of {cell}, or a whole fraction, not {coarse}"
            yield Problem("vae.multipliers", str(list(vae.multipliers)), remedy)


def ratios(vae: VaeConfig) -> tuple[int, int]:
    """(temporal, spatial) compression of an architecture."""
    return 2 ** sum(vae.temporal_levels), 2 ** (len(vae.multipliers) - 1)


def _grid(key: str, vae: VaeConfig, clip: ResolutionConfig) -> Grid | Problem:
    temporal, spatial = ratios(vae)
    try:
        return latent_grid(clip.frames, clip.height, clip.width, temporal, spatial)
    except ValueError as error:
        where = f"{key}={clip.name} with vae={vae.name}"
        return Problem(where, f"{clip.frames} frames, {clip.height}x{clip.width}", str(error))


def _train(key: str, train: TrainConfig) -> Iterator[Problem]:
    if len(train.betas) != 2 or not all(0 <= beta < 1 for beta in train.betas):
        yield Problem(f"{key}.betas", str(list(train.betas)), "must be two numbers in [0, 1)")
    if train.ema_decay is not None and not 0 < train.ema_decay < 1:
        yield Problem(f"{key}.ema_decay", str(train.ema_decay), "must lie in (0, 1), or null for no EMA")


def _data(key: str, data: DataConfig) -> Iterator[Problem]:
    yield from _share(f"{key}.reject_share", data.reject_share)
    if not 0 < data.heldout_share < 1:
        yield Problem(
            f"{key}.heldout_share", str(data.heldout_share), "must lie in (0, 1): metrics need held-out clips"
        )
    if data.kind is DataKind.synthetic:
        if data.path is not None:
            remedy = "data=synthetic renders its own clips and reads no folder: add data=webdataset"
            yield Problem(f"{key}.path", data.path, remedy)
        if data.synthetic is None:
            yield Problem(f"{key}.synthetic", "null", "data=synthetic needs it: see conf/data/synthetic.yaml")
        elif data.synthetic.size % 2:
            yield Problem(f"{key}.synthetic.size", str(data.synthetic.size), "must be even, for H.264")
    elif data.path is None:
        yield Problem(f"{key}.path", "null", "data=webdataset needs the folder of your tars: data.path=FOLDER")
    else:
        yield from _folders(f"{key}.path", data.path)
    if data.image_path is not None:
        unusable = list(_folders(f"{key}.image_path", data.image_path))
        yield from unusable
        if not unusable and data.image_weight == 0:
            remedy = f"no step would read it: {key}.image_weight is 0"
            yield Problem(f"{key}.image_path", data.image_path, remedy)
    if data.image_weight + data.video_weight <= 0:
        yield Problem(f"{key}.video_weight", str(data.video_weight), "and image_weight must not both be 0")


def _length(key: str, data: DataConfig, clip: ResolutionConfig) -> Iterator[Problem]:
    """Are the synthetic clips long enough? A window may reach half a frame past the last one."""
    made = data.synthetic
    if data.kind is not DataKind.synthetic or made is None or clip.fps <= 0 or made.fps <= 0:
        return
    if (clip.frames - 1) / clip.fps > (made.frames - 0.5) / made.fps:
        wanted = f"{clip.frames} frames at {clip.fps:g} fps do not fit into {made.frames} at {made.fps:g} fps"
        yield Problem(f"{key}.synthetic.frames", str(made.frames), f"{wanted}: raise it, or lower resolution.frames")


def _folders(key: str, path: str) -> Iterator[Problem]:
    """Light look at the folders, without opening a tar."""
    for part in (piece.strip() for piece in path.split(",")):
        folder = Path(part).expanduser()
        if "://" in part or part.startswith("pipe:"):
            yield Problem(key, part, "must be a local folder of tars")
        elif "{" in part or "}" in part:
            continue  # brace expansion: judged when the index is made
        elif not folder.exists():
            yield Problem(key, part, "no such folder; give one with NNNNNN.tar beside NNNNNN.meta.jsonl")
        elif folder.is_dir() and not any(folder.glob("*.tar")):
            yield Problem(key, part, "the folder holds no .tar; give one with NNNNNN.tar beside NNNNNN.meta.jsonl")


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
    if not score.noise or len(set(score.noise)) != len(score.noise):
        yield Problem(f"{key}.noise", str(list(score.noise)), "must be different numbers")


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
    yield from _share(f"{key}.condition_dropout", probe.condition_dropout)
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
    looks_like_path = "/" in init or init.endswith((".ckpt", ".pt", ".safetensors")) or init.startswith((".", "~"))
    if looks_like_path and not Path(init).expanduser().exists():
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
    return [Problem(key, " and ".join(sorted(found)), remedy) for key, found in protocols.items() if len(found) > 1]
