"""For every key of the config: the stage that has to notice another value, what must be there for it, and the value.

A scenario keeps of the filled config what its keys are about, so that a stage takes a fraction of a second.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields
from fnmatch import fnmatch
from typing import Any

from filled_config import Files, put
from ssvae.config.data import DataKind
from ssvae.config.probe import Condition
from ssvae.config.reg import TermsConfig, TrainedStage
from ssvae.config.tree import Config

TERMS = [field.name for field in fields(TermsConfig)]

# -------- keys that no stage can show

SHARED = ("resolution", "reg", "data", "objective", "train", "probe", "score", "latents", "networks", "reward")
"""Groups that stages point to: the test of that is their proof."""
SHOWN_BY = {
    "stage": "tests/unit/stages/test_plan.py::test_stage_chooses_what_is_computed",
    "sweep.name": "tests/unit/sweep/test_scheduler.py::test_a_sweeps_name_follows_axes_and_cells_never_the_time",
    "exp": "tests/config/test_keys_around_stages.py::"
    "test_a_cells_run_is_tagged_with_its_experiment_and_shows_every_value",
    "launch.name": "tests/unit/sweep/test_submit.py::test_what_needs_processes_of_its_own_is_jobs",
    "launch.parallel": "tests/unit/sweep/test_submit.py::test_what_needs_processes_of_its_own_is_jobs",
    "launch.detach": "tests/unit/sweep/test_submit.py::test_what_needs_processes_of_its_own_is_jobs",
    "launch.retries": "tests/unit/sweep/test_submit.py::test_budgets_and_checks_are_in_the_jobs_file",
    "launch.fail_fast": "tests/unit/sweep/test_submit.py::test_budgets_and_checks_are_in_the_jobs_file",
    "launch.preflight": "tests/unit/sweep/test_submit.py::test_budgets_and_checks_are_in_the_jobs_file",
    "launch.array_size": "tests/unit/sweep/test_submit.py::test_an_array_holds_no_more_than_it_may",
    "launch.jobs.*.max_num_timeout": "tests/unit/sweep/test_submit.py::test_a_queues_number_of_time_outs_is_the_jobs",
    "launch.jobs.*.stderr_to_stdout": "tests/unit/sweep/test_submit.py::test_where_errors_go_and_how_many_run_at_once",
    "launch.jobs.*.array_parallelism": "tests/unit/sweep/test_submit.py::test_where_errors_go_and_how_many_run_at_once",
    "launch.jobs.*": "tests/unit/sweep/test_submit.py::test_a_setting_reaches_the_batch_script",
    "launch.*": "tests/unit/sweep/test_submit.py::test_settings_for_all_jobs_reach_each_kind_unless_it_has_its_own",
    "strength.note": "tests/config/test_keys_around_stages.py::test_a_note_on_strengths_is_printed_under_the_table",
    "strength.*": "tests/config/test_keys_around_stages.py::test_a_strength_reaches_its_term",
    "stages.probe.reward.*": "tests/unit/test_build_metrics.py::test_every_value_of_the_reward_reaches_its_settings",
    "*.fdd_frames": "tests/unit/test_build_metrics.py::test_frames_reach_the_networks_that_look_at_them",
    "*.fvd_frames": "tests/unit/test_build_metrics.py::test_frames_reach_the_networks_that_look_at_them",
    "vae.weights": "tests/unit/stages/test_finished.py::test_channels_and_grid_are_the_vaes_own",
    "track.enabled": "tests/config/test_keys_around_stages.py::test_tracking_is_opened_as_the_config_says",
    "track.experiment": "tests/config/test_keys_around_stages.py::test_tracking_is_opened_as_the_config_says",
    "track.every_s": "tests/config/test_keys_around_stages.py::test_tracking_is_opened_as_the_config_says",
    "track.uri": "tests/config/test_keys_around_stages.py::test_tracking_is_opened_as_the_config_says",
    "track.patience_s": "tests/config/test_keys_around_stages.py::test_tracking_is_opened_as_the_config_says",
    "track.system_every_s": "tests/system/test_tracked_servers.py::"
    "test_a_stage_leaves_samples_of_its_machine_as_often_as_the_config_says",
    "*.train.rank_statistics": "tests/system/test_two_ranks.py::"
    "test_the_official_way_gives_each_rank_its_own_statistics",
    "search.n_trials": "tests/unit/sweep/test_search_study.py::test_n_trials_means_in_all_after_any_number_of_resumes",
    "search.seed": "tests/unit/sweep/test_search_study.py::"
    "test_a_seed_gives_the_same_suggestions_also_when_it_is_resumed",
    "search.sampler": "tests/unit/sweep/test_search_study.py::test_the_samplers_are_those_that_were_asked_for",
    "search.storage": "tests/unit/sweep/test_search_study.py::test_n_trials_means_in_all_after_any_number_of_resumes",
    "search.objectives.*": "tests/unit/sweep/test_search_driver.py::"
    "test_several_objectives_are_pruned_by_the_same_rule",
    "search.prune.*": "tests/unit/sweep/test_search_pruning.py::test_a_known_sequence",
    "search.failures": "tests/unit/sweep/test_search_driver.py::test_too_many_failures_stop_the_search",
    "search.workers": "tests/system/test_search.py::test_workers_are_processes_and_all_of_them_work",
    "search.space.*": "tests/unit/sweep/test_search_space.py::test_ranges_have_the_type_of_the_configs_own_value",
    "*.predictive.motion.policy": "tests/config/test_bad_input.py::test_a_mistake_is_named_with_key_value_and_remedy",
}
"""Keys with a test of their own. The motion term's policy has one choice: others are refused."""
NAMES = ("vae.name", "stages.*.name")
"""Free names. They are shown in a cell's frozen config, in MLflow's parameters and some in messages."""
DRAWN = ("resolution.lmr.*", "data.video_weight", "data.image_weight", "data.image_batch")
FROZEN = ("kl", "lcr", "cov", "vf")
NOT_HERE = (
    *(f"stages.{stage}.{key}" for stage in ("measure", "probe") for key in DRAWN),
    "stages.decoder_finetune.init",
    "stages.probe.networks.lpips_*",
    *(f"stages.probe_base.{key}" for key in (*DRAWN, "networks.*", "reward.*", "probe.sample.*")),
    "stages.probe_base.probe.validation_draws",
    *(f"stages.decoder_finetune.reg.terms.{name}.*" for name in FROZEN),
)
"""Types are shared between stages. Measuring and caching read every clip's fixed windows: nothing is drawn or masked.
Nothing is sampled from the first part of a probe. A decoder's fine-tune refuses weights of its own, and terms that act
on the frozen encoder."""
TRACKED = ("track.uri", "track.experiment", "track.every_s")
"""Read where tracking is on, which it is not here."""
UNREAD = (*NAMES, *NOT_HERE, *TRACKED, "launch.*", "search.*", "strength.*", "stages.probe.reward.*")
"""What the work itself need not read."""
WITHOUT_EFFECT = tuple(f"stages.{stage}.data.image_path" for stage in ("measure", "probe", "probe_base"))
"""Opened with the clips, and not looked at in these stages."""

# -------- keys that a stage shows

WITNESSED = (
    "runtime.workers",
    "runtime.checkpoint_every",
    "*.gradient_checkpointing",
    "*.synthetic.shard_size",
    "stages.pretrain.train.precision",
)
"""How the work is carried out: a witness sees it, and no weight and no metric does."""
BATCHES = ("*.score.batch", "*.latents.batch", "*.sample.batch")
"""The same, where another order of sums may round differently."""
SCENARIOS = {
    "*.reg.terms.eq.downscaled": "eq_small",
    **{f"*.reg.terms.{name}.*": name for name in TERMS},
    "stages.pretrain.resolution.lmr.*": "lmr",
    "*.objective.critic.*": "critic",
    "*.objective.lpips.*": "lpips",
    "stages.probe.probe.text.*": "text",
    "stages.*.networks.*": "networks",
    "*.data.kind": "clips",
    "*.data.path": "clips",
    "*.data.reject_share": "damaged",
    "stages.pretrain.data.image_*": "images",
    "stages.pretrain.data.video_weight": "images",
    "*.train.nonfinite_limit": "diverging",
}
"""By the first pattern that fits; ``plain`` otherwise. A regulariser's name: that one alone."""
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
    "pretrain.init": lambda files, parents: str(parents["pretrain"].folder),
    "measure.resolution.height": 32,  # blocks tile its latents
    "measure.resolution.width": 32,
    "resolution.height": 24,
    "resolution.width": 24,
    "resolution.frames": 5,
    "resolution.fps": 7.0,
    "lmr.ratios": [0.25, 0.5],
    "lmr.probabilities": [1.0, 0.0],
    "lmr.block": [1, 2, 2],
    "data.kind": DataKind.synthetic,
    "data.path": lambda files, parents: str(files.more_clips),
    "data.image_path": None,
    "data.image_weight": 0.0,
    "data.video_weight": 1000.0,
    "data.heldout_share": 0.5,
    "data.reject_share": 0.05,
    "synthetic.clips": 16,
    "synthetic.size": 32,
    "synthetic.fps": 7.0,
    "synthetic.shard_size": 5,
    "lpips.vgg": None,
    "lpips.heads": None,
    "critic.levels": 1,
    "critic.start_step": 3,
    "critic.largest_weight": 1e-6,
    "betas": [0.5, 0.7],
    "noise.stages": [TrainedStage.decoder_finetune],
    "stages": [TrainedStage.decoder_finetune],
    "lcr.window": [1, 2, 2],
    "lcr.threshold": 0.5,
    "vf.model": lambda files, parents: str(files.more_dinov2),
    "vf.size": 42,
    "max_drop": 0.5,
    "eq.probability": 0.0,
    "eq.scales": [16, 16],
    "eq.rotations": [2],
    "eq.downscaled": 1.0,
    "se.factors": [4],
    "train.decay_steps": 2,
    "train.grad_clip": 0.01,
    "train.ema_decay": 0.5,
    "train.nonfinite_limit": 0,
    "score.batch": 1,
    "score.downsample": 4,
    "score.block": [1, 2, 2],
    "score.window": [2, 2, 2],
    "score.noise": [0.3],
    "score.windows": [],
    "score.chop": [0.4],
    "score.mask": [0.4],
    "networks.lpips_vgg": None,
    "networks.lpips_alex": None,
    "networks.dinov2": lambda files, parents: str(files.more_dinov2),
    "networks.i3d": None,
    "latents.batch": 1,
    "dit.patch": [3, 1, 2],
    "dit.width": 48,
    "dit.heads": 1,
    "probe.condition": Condition.none,
    "text.model": lambda files, parents: str(files.more_text_encoder),
    "text.max_length": 2,
    "probe.checkpoints": [2],
    "sample.prompts": lambda files, parents: str(files.prompts),
    "probe.condition_dropout": 0.9,
    "sample.clips": 3,
    "sample.batch": 1,
}
"""Other values, by the first that ends the key; ``...``: filled_config.other finds one."""


@dataclass(frozen=True)
class Case:
    """stage: the one that runs. value: the other one, ``...``, or a function of files and finished stages."""

    key: str
    stage: str
    scenario: str
    value: Any


def is_one_of(key: str, patterns: Any) -> bool:
    return any(fnmatch(key, pattern) for pattern in patterns)


def case_of(key: str) -> Case | None:
    """How a stage shows ``key``; None where another proof stands for it."""
    stage = _noticing(key)
    if stage is None or is_one_of(key, (*NAMES, *NOT_HERE, *SHOWN_BY, *WITHOUT_EFFECT)):
        return None
    where = next((name for pattern, name in SCENARIOS.items() if fnmatch(key, pattern)), "plain")
    return Case(key, stage, where, next((value for end, value in VALUES.items() if key.endswith(end)), ...))


SCORED = ("stages.probe.probe.sample.", "stages.probe.probe.validation_draws")
"""Of the probe's settings, those that its scores use and its training does not."""


def _noticing(key: str) -> str | None:
    """Base and decoder fine-tune are of pretrain's type and run its code: there, being read is the proof."""
    if key.startswith(("vae.", "runtime.")) or key == "seed":
        return "pretrain"
    if key == "track.samples":
        return "measure"
    if key.startswith(("stages.probe.resolution", "stages.probe.data", "stages.probe.latents")):
        return "latents"
    if key.endswith("sample.clips"):
        return "latents" if key.startswith("stages.probe.") else None
    if key.startswith("stages.probe.probe.") and not key.startswith(SCORED):
        return "dit"
    return next((stage for stage in ("pretrain", "measure", "probe") if key.startswith(f"stages.{stage}.")), None)


def scenario(name: str, full: Config, files: Files) -> Config:
    """The setting in which the keys of :data:`SCENARIOS` are tried: a cell without base and terms, and what it adds."""
    cfg = copy.deepcopy(full)
    cfg.stages.base = cfg.stages.probe_base = None
    one, measure, probe = cfg.stages.pretrain, cfg.stages.measure, cfg.stages.probe
    kept = "eq" if name == "eq_small" else name
    one.reg.terms = TermsConfig(**{kept: getattr(one.reg.terms, kept)} if kept in TERMS else {})
    if name != "critic":
        one.objective.critic = None
    if name != "lpips":
        one.objective.lpips.vgg = one.objective.lpips.heads = None
    for train in (one.train, probe.probe.train):
        train.weight_decay, train.ema_decay, train.warmup = 0.1, None, 1
    measure.score.window, measure.score.block = [1, 2, 2], [1, 4, 4]
    for key, value in SETTINGS.get(name, {}).items():
        put(one, key, value)
    if name in ("clips", "images", "damaged"):
        for stage in (one, measure, probe):
            stage.data.kind = DataKind.webdataset
            stage.data.path = str(files.damaged if name == "damaged" else files.clips)
    if name == "images":
        one.data.image_path = str(files.images)
    if name == "damaged":  # so many windows that a share is judged
        for stage in (one, measure, probe):
            stage.data.heldout_share, stage.data.reject_share = 0.5, 0.9
        one.train.batch, probe.latents.windows = 16, 12
        measure.data.heldout_share, measure.score.clips, measure.resolution.frames = 0.9, 64, 5
    if name == "networks":
        for stage in (measure, probe):
            stage.networks.dinov2, stage.networks.i3d = str(files.dinov2), str(files.i3d)
            stage.networks.fvd_frames = 9
        measure.networks.lpips_vgg, measure.networks.lpips_alex = str(files.vgg), str(files.alex)
        measure.resolution.height = measure.resolution.width = 32  # AlexNet's least
    if name == "text":
        probe.probe.text.model = str(files.text_encoder)
    if name == "diverging":
        probe.probe.train.lr, probe.probe.train.nonfinite_limit = 1e30, 10
    cfg.stages.decoder_finetune = copy.deepcopy(one)
    return cfg
