"""For every key of the config: the stage that has to notice another value, what must be there for it, and the value.

A scenario keeps of the filled config what its keys are about, so that a stage takes a fraction of a second.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, fields
from fnmatch import fnmatch
from typing import Any

from filled_config import Files, leaves, other, put

from ssvae.config.data import DataKind
from ssvae.config.probe import Condition
from ssvae.config.reg import TermsConfig, TrainedStage
from ssvae.config.tree import Config

FREELY_NAMED = "a name or label: in the cell's frozen config and MLflow's parameters"
WINDOWS_ONLY = "of a type that training shares: here every clip's fixed windows are read once"
EXEMPT = {
    "vae.name": FREELY_NAMED,
    "stages.*.name": FREELY_NAMED,
    "stages.*.label": FREELY_NAMED,
    "stages.measure.resolution.lmr.*": WINDOWS_ONLY,
    "stages.probe.resolution.lmr.*": WINDOWS_ONLY,
    "stages.measure.data.image_*": WINDOWS_ONLY,
    "stages.measure.data.video_weight": WINDOWS_ONLY,
    "stages.probe.data.image_*": WINDOWS_ONLY,
    "stages.probe.data.video_weight": WINDOWS_ONLY,
    "stages.pretrain.train.rank_statistics": "two ranks show it: tests/system/test_two_ranks.py::"
    "test_the_official_way_gives_each_rank_its_own_statistics",
}
"""Keys that no number of these stages can show, by pattern, and why."""
WITNESSED = (
    "runtime.workers",
    "runtime.checkpoint_every",
    "*.train.gradient_checkpointing",
    "*.synthetic.shard_size",
)
"""How the work is carried out: a witness sees it, and no weight and no metric does."""

SCENARIOS = {
    "vae.*": "plain",
    "*.reg.terms.eq.downscaled": "eq_small",
    **{f"*.reg.terms.{field.name}.*": field.name for field in fields(TermsConfig)},
    "stages.pretrain.resolution.lmr.*": "lmr",
    "*.objective.critic.*": "critic",
    "*.objective.lpips.*": "lpips",
    "*.data.kind": "clips",
    "*.data.path": "clips",
    "*.data.reject_share": "damaged",
    "stages.pretrain.data.image_*": "images",
    "stages.pretrain.data.video_weight": "images",
    "*.train.nonfinite_limit": "diverging",
}
"""By the first pattern that fits; ``plain`` otherwise. A regulariser's name: that one alone."""
KEPT = {"eq_small": "eq"}
SETTINGS: dict[str, dict[str, Any]] = {
    "critic": {"objective.critic.start_step": 1},
    "images": {"data.image_weight": 1.0, "data.video_weight": 1.0, "data.image_batch": 2},
    "diverging": {"objective.initial_logscale": -1e6, "train.nonfinite_limit": 10},
    "noise": {"reg.terms.noise.stages": [TrainedStage.pretrain]},
    "eq": {"reg.terms.eq.probability": 1.0},
    "eq_small": {"reg.terms.eq.probability": 0.0},
    "vf": {"reg.terms.vf.size": 28, "reg.terms.vf.distance_margin": 0.0},
    "lmr": {"resolution.lmr.ratios": [0.25, 0.75], "resolution.lmr.probabilities": [0.0, 1.0]},
    "se": {"reg.terms.se.factors": [2]},
}

VALUES: dict[str, Any] = {
    "vae.base_channels": 8,
    "vae.multipliers": [1, 2, 4],
    "vae.temporal_levels": [True, False],
    "init": "WEIGHTS",
    "measure.resolution.height": 32,  # blocks tile its latents
    "measure.resolution.width": 32,
    "resolution.height": 24,
    "resolution.width": 24,
    "resolution.frames": 5,
    "resolution.fps": 7.0,
    "lcr.window": [1, 2, 2],
    "lmr.ratios": [0.25, 0.5],
    "lmr.probabilities": [1.0, 0.0],
    "lmr.block": [1, 2, 2],
    "data.kind": DataKind.synthetic,
    "data.path": "MORE_CLIPS",
    "data.image_path": None,
    "data.image_weight": 0.0,
    "data.video_weight": 1000.0,
    "data.heldout_share": 0.5,
    "data.reject_share": 0.05,
    "synthetic.clips": 16,
    "synthetic.size": 32,
    "synthetic.fps": 7.0,
    "synthetic.shard_size": 5,
    "lpips.weight": 2.0,
    "lpips.vgg": None,
    "lpips.heads": None,
    "critic.levels": 1,
    "critic.start_step": 3,
    "critic.largest_weight": 1e-6,
    "betas": [0.5, 0.7],
    "terms.*.stages": [TrainedStage.decoder_finetune],
    "noise.stages": [TrainedStage.decoder_finetune],
        "lcr.threshold": 0.5,
    "vf.model": "MORE_DINOV2",
    "vf.size": 42,
    "max_drop": 0.5,
    "eq.probability": 0.0,
    "eq.scales": [16, 16],
    "eq.rotations": [2],
    "eq.downscaled": 1.0,
    "se.factors": [4],
    "train.decay_steps": 2,
    "train.grad_clip": 0.01,
    "train.ema_decay": None,
    "train.nonfinite_limit": 0,
    "score.batch": 1,
    "score.downsample": 4,
    "score.block": [1, 2, 2],
    "score.window": [2, 2, 2],
    "score.noise": [0.3],
    "dit.patch": [3, 1, 2],
    "dit.width": 48,
    "dit.heads": 1,
    "probe.condition": Condition.none,
    "probe.condition_dropout": 0.9,
    "sample.clips": 3,
    "sample.batch": 1,
    "latents.batch": 1,
}
"""Other values, by the end of the key; the rest takes :func:`filled_config.other`."""


@dataclass(frozen=True)
class Case:
    """stage: the one that runs. value: the other one. failing: may the run end with the error that the key is about?"""

    key: str
    stage: str
    scenario: str
    value: Any
    failing: bool


def cases(full: Config, files: Files) -> Iterator[Case]:
    """One for every key that a number or a witness has to show."""
    for key, old in leaves(full).items():
        stage = stage_of(key)
        if stage is None or any(fnmatch(key, pattern) for pattern in EXEMPT):
            continue
        where = next((name for pattern, name in SCENARIOS.items() if fnmatch(key, pattern)), "plain")
        named = [value for end, value in VALUES.items() if fnmatch(key, f"*{end}") or key == end]
        failing = key.endswith(("nonfinite_limit", "reject_share"))
        yield Case(key, stage, where, named[0] if named else other(old), failing)


def stage_of(key: str) -> str | None:
    """Who has to notice. The stages before and after ``pretrain`` are of the same type and run the same code."""
    if key.startswith(("stages.probe.resolution", "stages.probe.data", "stages.probe.latents")):
        return "latents"
    if key == "stages.probe.probe.sample.clips":
        return "latents"
    for stage in ("pretrain", "measure", "probe"):
        if key.startswith(f"stages.{stage}."):
            return stage
    if key == "track.samples":
        return "measure"
    return "pretrain" if key.startswith(("vae.", "runtime.")) or key == "seed" else None


def scenario(name: str, full: Config, files: Files) -> Config:
    """The setting in which the keys of :data:`SCENARIOS` are tried."""
    cfg = copy.deepcopy(full)
    cfg.stages.base = None
    one = cfg.stages.pretrain
    kept = KEPT.get(name, name)
    one.reg.terms = TermsConfig(**{kept: getattr(one.reg.terms, kept)} if hasattr(one.reg.terms, kept) else {})
    if name != "critic":
        one.objective.critic = None
    if name != "lpips":
        one.objective.lpips.vgg = one.objective.lpips.heads = None
    for train in (one.train, cfg.stages.probe.probe.train):
        train.weight_decay, train.ema_decay, train.warmup = 0.1, 0.5, 1
    for key, value in SETTINGS.get(name, {}).items():
        put(one, key, value)
    cfg.stages.decoder_finetune = copy.deepcopy(one)
    cfg.stages.measure.score.window, cfg.stages.measure.score.block = [1, 2, 2], [1, 4, 4]
    for stage in (one, cfg.stages.measure, cfg.stages.probe):
        if name in ("clips", "images", "damaged"):
            stage.data.kind = DataKind.webdataset
            stage.data.path = str(files.damaged if name == "damaged" else files.clips)
        if name == "damaged":
            stage.data.heldout_share, stage.data.reject_share = 0.5, 0.9
    if name == "images":
        one.data.image_path = str(files.images)
    if name == "damaged":  # enough clips for a share to be judged
        one.train.batch, cfg.stages.measure.score.clips, cfg.stages.probe.latents.windows = 16, 64, 12
    if name == "diverging":
        cfg.stages.probe.probe.train.nonfinite_limit = 10
        cfg.stages.probe.probe.train.lr = 1e30
    return cfg
