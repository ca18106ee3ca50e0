"""Cross-field rules: what types cannot say. Every rule returns problems; nothing is computed, nothing is written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ssvae.config.data import DataConfig, DataKind
from ssvae.config.probe import ProbeConfig
from ssvae.config.problem import Problem
from ssvae.config.reg import Policy, RegConfig
from ssvae.config.resolution import ResolutionConfig
from ssvae.config.score import MeasureConfig
from ssvae.config.train import TrainConfig
from ssvae.config.tree import Config, VaeStageConfig
from ssvae.config.vae import VaeConfig
from ssvae.core.shapes import latent_grid

Grid = tuple[int, int, int]


def check(cfg: Config) -> list[Problem]:
    """All problems of one resolved cell, each with key, value and remedy."""
    found = [*_vae("vae", cfg.vae), *_runtime(cfg)]
    stages: list[tuple[str, VaeStageConfig | None]] = [("base", cfg.stages.base), ("pretrain", cfg.stages.pretrain)]
    for name, stage in stages:
        if stage is None:
            continue
        grid = _grid(cfg.vae, stage.resolution)
        key = f"stages.{name}"
        if isinstance(grid, Problem):
            found.append(grid)
        else:
            found += _reg(key, stage.reg, grid)
        found += [*_train(f"{key}.train", stage.train), *_data(stage.data), *_objective(stage)]
    grid = _grid(cfg.vae, cfg.stages.measure.resolution)
    if not isinstance(grid, Problem):
        found += _score(cfg.stages.measure.score, grid)
        found += _probe(cfg.stages.probe.probe, grid)
    found += _weights(cfg)
    return list(dict.fromkeys(found))


def _positive(key: str, value: float, least: float = 1) -> Iterator[Problem]:
    if value < least:
        yield Problem(key, str(value), f"must be at least {least}")


def _share(key: str, value: float) -> Iterator[Problem]:
    if not 0.0 <= value <= 1.0:
        yield Problem(key, str(value), "must lie in [0, 1]")


def _vae(key: str, vae: VaeConfig) -> Iterator[Problem]:
    for name in ("channels", "base_channels", "encoder_blocks", "decoder_blocks"):
        yield from _positive(f"{key}.{name}", getattr(vae, name))
    if len(vae.temporal_levels) != len(vae.multipliers) - 1:
        yield Problem(
            f"{key}.temporal_levels",
            str(list(vae.temporal_levels)),
            f"needs one entry a down-sampling: {len(vae.multipliers) - 1} for multipliers {list(vae.multipliers)}",
        )
    for multiplier in vae.multipliers:
        yield from _positive(f"{key}.multipliers", multiplier)


def ratios(vae: VaeConfig) -> tuple[int, int]:
    """(temporal, spatial) compression of an architecture."""
    return 2 ** sum(vae.temporal_levels), 2 ** (len(vae.multipliers) - 1)


def _grid(vae: VaeConfig, resolution: ResolutionConfig) -> Grid | Problem:
    temporal, spatial = ratios(vae)
    if resolution.fps <= 0:
        return Problem("resolution.fps", str(resolution.fps), "must be above 0")
    try:
        return latent_grid(resolution.frames, resolution.height, resolution.width, temporal, spatial)
    except ValueError as error:
        value = f"{resolution.frames} frames, {resolution.height}x{resolution.width}"
        return Problem(f"resolution={resolution.name} with vae={vae.name}", value, str(error))


def _window(key: str, window: list[int], grid: Grid) -> Iterator[Problem]:
    if len(window) != 3 or min(window, default=0) < 1:
        yield Problem(key, str(list(window)), "must be three positive numbers (t,h,w)")
        return
    frames, height, width = grid
    # The first latent frame stands alone, so time is divided without it.
    for axis, size, side in (("later latent frames", frames - 1, window[0]), ("latent height", height, window[1])):
        if size % side:
            yield Problem(key, str(list(window)), f"{axis} {size} is not divisible by {side}: choose a divisor")
    if width % window[2]:
        yield Problem(key, str(list(window)), f"latent width {width} is not divisible by {window[2]}: choose a divisor")


def _reg(stage: str, reg: RegConfig, grid: Grid) -> Iterator[Problem]:
    for name in ("kl", "lcr"):
        term = getattr(reg.terms, name)
        if term is None:
            continue
        if term.weight.value < 0:
            yield Problem(f"{stage}.reg.terms.{name}.weight.value", str(term.weight.value), "must not be negative")
    if reg.terms.kl is not None and reg.terms.kl.weight.policy is not Policy.fixed:
        yield Problem(f"{stage}.reg.terms.kl.weight.policy", "grad_ratio", "KL takes a fixed weight")
    if reg.terms.lcr is not None:
        yield from _window(f"{stage}.reg.terms.lcr.window", reg.terms.lcr.window, grid)
        if not -1.0 <= reg.terms.lcr.threshold <= 1.0:
            yield Problem(f"{stage}.reg.terms.lcr.threshold", str(reg.terms.lcr.threshold), "a correlation: [-1, 1]")
    lmr = reg.terms.lmr
    if lmr is None:
        return
    key = f"{stage}.reg.terms.lmr"
    if len(lmr.ratios) != len(lmr.probabilities) or not lmr.ratios:
        yield Problem(
            f"{key}.probabilities", str(list(lmr.probabilities)), f"needs {len(lmr.ratios)} entries, as ratios"
        )
    elif abs(sum(lmr.probabilities) - 1.0) > 1e-6 or min(lmr.probabilities) < 0:
        yield Problem(f"{key}.probabilities", str(list(lmr.probabilities)), "must be shares that sum to 1")
    for ratio in lmr.ratios:
        yield from _share(f"{key}.ratios", ratio)
    if len(lmr.block) != 3 or min(lmr.block, default=0) < 1:
        yield Problem(f"{key}.block", str(list(lmr.block)), "must be three positive numbers (t,h,w)")
    elif any(side > size for side, size in zip(lmr.block, grid, strict=True)):
        yield Problem(f"{key}.block", str(list(lmr.block)), f"is larger than the latent grid {grid}")


def _train(key: str, train: TrainConfig) -> Iterator[Problem]:
    yield from _positive(f"{key}.steps", train.steps)
    yield from _positive(f"{key}.batch", train.batch)
    if train.lr <= 0:
        yield Problem(f"{key}.lr", str(train.lr), "must be above 0")
    if len(train.betas) != 2 or not all(0 <= beta < 1 for beta in train.betas):
        yield Problem(f"{key}.betas", str(list(train.betas)), "must be two numbers in [0, 1)")
    if train.ema_decay is not None and not 0 < train.ema_decay < 1:
        yield Problem(f"{key}.ema_decay", str(train.ema_decay), "must lie in (0, 1), or null for no EMA")
    if train.grad_clip is not None and train.grad_clip <= 0:
        yield Problem(f"{key}.grad_clip", str(train.grad_clip), "must be above 0, or null for no clipping")
    yield from _positive(f"{key}.warmup", train.warmup, 0)


def _data(data: DataConfig) -> Iterator[Problem]:
    for name in ("heldout_share", "reject_share"):
        yield from _share(f"data.{name}", getattr(data, name))
    if data.kind is DataKind.synthetic:
        if data.synthetic is None:
            yield Problem("data.synthetic", "null", "data=synthetic needs it: see conf/data/synthetic.yaml")
        else:
            yield from _positive("data.synthetic.clips", data.synthetic.clips, 8)
    elif data.path is None:
        yield Problem("data.path", "null", "data=webdataset needs the folder of your tars: data.path=FOLDER")
    else:
        yield from _folders("data.path", data.path)
    if data.image_path is not None:
        yield from _folders("data.image_path", data.image_path)
        yield from _positive("data.image_batch", data.image_batch)
        if data.image_weight < 0 or data.video_weight < 0 or data.image_weight + data.video_weight <= 0:
            weights = f"{data.image_weight}:{data.video_weight}"
            yield Problem("data.image_weight", weights, "weights must not be negative and not both 0")


def _folders(key: str, path: str) -> Iterator[Problem]:
    """Light look at the folders, without opening a tar."""
    for part in path.split(","):
        if "://" in part or part.startswith("pipe:"):
            yield Problem(key, part, "must be a local folder of tars")
        elif "{" in part:
            continue  # brace expansion: judged when the index is made
        elif not Path(part).exists():
            yield Problem(key, part, "no such folder; give one with NNNNNN.tar beside NNNNNN.meta.jsonl")
        elif Path(part).is_dir() and not any(Path(part).glob("*.tar")):
            yield Problem(key, part, "the folder holds no .tar; give one with NNNNNN.tar beside NNNNNN.meta.jsonl")


def _objective(stage: VaeStageConfig) -> Iterator[Problem]:
    lpips = stage.objective.lpips
    for name, path in (("vgg", lpips.vgg), ("heads", lpips.heads)):
        if path is not None and not Path(path).is_file():
            yield Problem(f"objective.lpips.{name}", path, "no such file; give the weight file, or null")


def _score(score: MeasureConfig, grid: Grid) -> Iterator[Problem]:
    yield from _window("score.window", score.window, grid)
    yield from _window("score.block", score.block, grid)
    yield from _positive("score.clips", score.clips, 2)
    yield from _positive("score.batch", score.batch)
    for noise in score.noise:
        yield from _positive("score.noise", noise, 0)


def _probe(probe: ProbeConfig, grid: Grid) -> Iterator[Problem]:
    key = "probe.dit"
    if len(probe.dit.patch) != 3 or min(probe.dit.patch, default=0) < 1:
        yield Problem(f"{key}.patch", str(list(probe.dit.patch)), "must be three positive numbers (t,h,w)")
    elif any(size % side for side, size in zip(probe.dit.patch, grid, strict=True)):
        yield Problem(f"{key}.patch", str(list(probe.dit.patch)), f"does not divide the latent grid {grid}")
    for name in ("width", "depth", "heads"):
        yield from _positive(f"{key}.{name}", getattr(probe.dit, name))
    if probe.dit.heads > 0 and probe.dit.width % probe.dit.heads:
        yield Problem(f"{key}.width", str(probe.dit.width), f"is not divisible by heads = {probe.dit.heads}")
    yield from _share("probe.condition_dropout", probe.condition_dropout)
    yield from _train("probe.train", probe.train)
    yield from _positive("probe.sample.clips", probe.sample.clips, 2)
    yield from _positive("probe.sample.steps", probe.sample.steps)
    yield from _positive("probe.sample.batch", probe.sample.batch)
    if probe.flow.shift <= 0:
        yield Problem("probe.flow.shift", str(probe.flow.shift), "must be above 0; 1 means no shift")


def _weights(cfg: Config) -> Iterator[Problem]:
    if cfg.stages.measure.score.weights.value == "ema" and cfg.stages.pretrain.train.ema_decay is None:
        yield Problem("score.weights", "ema", "needs an EMA: set train.ema_decay, or score.weights=raw")


def _runtime(cfg: Config) -> Iterator[Problem]:
    yield from _positive("runtime.workers", cfg.runtime.workers, 0)
    yield from _positive("runtime.checkpoint_every", cfg.runtime.checkpoint_every)
    yield from _positive("runtime.log_every", cfg.runtime.log_every)
    if cfg.seed < 0:
        yield Problem("seed", str(cfg.seed), "must not be negative")
    if cfg.sweep.name is not None and (
        not cfg.sweep.name or set(cfg.sweep.name) & set("/\\ \t\n") or cfg.sweep.name[0] == "."
    ):
        yield Problem("sweep.name", repr(cfg.sweep.name), "must be a plain folder name")
