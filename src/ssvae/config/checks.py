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
from ssvae.config.reg import Policy, RegConfig
from ssvae.config.resolution import ResolutionConfig
from ssvae.config.run import StageName
from ssvae.config.score import MeasureConfig
from ssvae.config.train import TrainConfig
from ssvae.config.tree import Config
from ssvae.config.vae import VaeConfig
from ssvae.core.shapes import latent_grid

Grid = tuple[int, int, int]
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
        key = {group.name: place(cfg, stage.name, group.name) for group in fields(groups)}
        clip, data = groups.resolution, groups.data
        # Without a sound architecture there is no grid to judge by.
        grid = None if of_vae else _grid(key["resolution"], cfg.vae, clip)
        found += [*_data(key["data"], data), *_length(key["data"], data, clip)]
        found += [grid] if isinstance(grid, Problem) else []
        shape = None if isinstance(grid, Problem) else grid
        if "train" in key:
            found += [*_train(key["train"], groups.train), *_objective(key["objective"], groups.objective)]
            found += _reg(key["reg"], groups.reg, shape)
        if "score" in key:
            found += _score(key["score"], groups.score, clip, shape)
        if "probe" in key:
            found += _probe(key["probe"], groups.probe, shape)
            found += _scored(key["resolution"], cfg.stage, clip)
    if cfg.stages.measure.score.weights.value == "ema" and cfg.stages.pretrain.train.ema_decay is None:
        found.append(Problem("score.weights", "ema", "needs an EMA: set train.ema_decay, or score.weights=raw"))
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


def _triple(key: str, values: list[int]) -> Iterator[Problem]:
    if len(values) != 3 or min(values) < 1:
        yield Problem(key, str(list(values)), "must be three positive numbers (t,h,w)")


def _tiles(key: str, sides: list[int], grid: Grid | None, alone: int) -> Iterator[Problem]:
    """Do ``sides`` tile the grid? The first latent frame stands apart; ``alone``: later frames that an image has."""
    wrong = list(_triple(key, sides))
    if wrong or grid is None:
        yield from wrong
        return
    frames, height, width = grid
    later = frames - 1 if frames > 1 else alone
    axes = (("later latent frames", later), ("latent height", height), ("latent width", width))
    for (axis, size), side in zip(axes, sides, strict=True):
        if size % side:
            yield Problem(key, str(list(sides)), f"{axis} {size} is not divisible by {side}: choose a divisor")


def _window(key: str, window: list[int], grid: Grid | None) -> Iterator[Problem]:
    yield from _tiles(key, window, grid, alone=0)
    if len(window) == 3 and window[1] * window[2] == 1:
        yield Problem(key, str(list(window)), "needs two positions in space: frame 0 has no pairs otherwise")


def _reg(key: str, reg: RegConfig, grid: Grid | None) -> Iterator[Problem]:
    if reg.terms.kl is not None and reg.terms.kl.weight.policy is not Policy.fixed:
        yield Problem(f"{key}.terms.kl.weight.policy", "grad_ratio", "KL takes a fixed weight")
    if reg.terms.lcr is not None:
        yield from _window(f"{key}.terms.lcr.window", reg.terms.lcr.window, grid)
        if not -1.0 <= reg.terms.lcr.threshold <= 1.0:
            yield Problem(f"{key}.terms.lcr.threshold", str(reg.terms.lcr.threshold), "a correlation: [-1, 1]")
    lmr = reg.terms.lmr
    if lmr is None:
        return
    key = f"{key}.terms.lmr"
    if len(lmr.ratios) != len(lmr.probabilities) or not lmr.ratios:
        yield Problem(
            f"{key}.probabilities", str(list(lmr.probabilities)), f"needs {len(lmr.ratios)} entries, as ratios"
        )
    elif abs(sum(lmr.probabilities) - 1.0) > 1e-6 or min(lmr.probabilities) < 0:
        yield Problem(f"{key}.probabilities", str(list(lmr.probabilities)), "must be shares that sum to 1")
    if any(not 0 <= ratio < 1 for ratio in lmr.ratios):
        yield Problem(f"{key}.ratios", str(list(lmr.ratios)), "must lie in [0, 1): 1 hides the whole latent")
    wrong = list(_triple(f"{key}.block", lmr.block))
    yield from wrong
    if not wrong and grid is not None and any(side > size for side, size in zip(lmr.block, grid, strict=True)):
        yield Problem(f"{key}.block", str(list(lmr.block)), f"is larger than the latent grid {grid}")


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
        if data.synthetic is None:
            yield Problem(f"{key}.synthetic", "null", "data=synthetic needs it: see conf/data/synthetic.yaml")
        elif data.synthetic.size % 2:
            yield Problem(f"{key}.synthetic.size", str(data.synthetic.size), "must be even, for H.264")
    elif data.path is None:
        yield Problem(f"{key}.path", "null", "data=webdataset needs the folder of your tars: data.path=FOLDER")
    else:
        yield from _folders(f"{key}.path", data.path)
    if data.image_path is not None:
        yield from _folders(f"{key}.image_path", data.image_path)
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


def _objective(key: str, objective: ObjectiveConfig) -> Iterator[Problem]:
    for name, path in (("vgg", objective.lpips.vgg), ("heads", objective.lpips.heads)):
        if path is not None and not Path(path).is_file():
            yield Problem(f"{key}.lpips.{name}", path, "no such file; give the weight file, or null")
    if objective.lpips.vgg is not None and objective.lpips.heads is None and find_spec("torchmetrics") is None:
        remedy = "torchmetrics, which ships the heads, is not installed: pip install torchmetrics, or name the file"
        yield Problem(f"{key}.lpips.heads", "null", remedy)


def _score(key: str, score: MeasureConfig, clip: ResolutionConfig, grid: Grid | None) -> Iterator[Problem]:
    yield from _window(f"{key}.window", score.window, grid)
    yield from _tiles(f"{key}.block", score.block, grid, alone=1)
    if grid is not None and score.downsample > 0 and (clip.height % score.downsample or clip.width % score.downsample):
        yield Problem(f"{key}.downsample", str(score.downsample), f"does not divide {clip.height}x{clip.width}")
    if not score.noise or len(set(score.noise)) != len(score.noise):
        yield Problem(f"{key}.noise", str(list(score.noise)), "must be different numbers")


def _probe(key: str, probe: ProbeConfig, grid: Grid | None) -> Iterator[Problem]:
    dit = probe.dit
    wrong = list(_triple(f"{key}.dit.patch", dit.patch))
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
