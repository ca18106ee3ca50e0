"""Where a grid runs, decided once for all its cells: in this process, in local processes, or as Slurm jobs.

Hydra's own way of saying it (``hydra/launcher=submitit_slurm hydra.launcher.partition=...``) means the same as
``launch=slurm`` with these values in every queue.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from ssvae.config.compose import Cell
from ssvae.config.launch import JobsConfig, LaunchConfig, LaunchName, QueueConfig
from ssvae.config.tree import Config
from ssvae.stages.plan import COMPUTED
from ssvae.stages.shared_batch import uneven_batches
from ssvae.sweep.submit import slurm_problem

By = Literal["here", "local", "slurm"]
_HYDRA: Mapping[str, By] = {"SlurmLauncher": "slurm", "LocalLauncher": "local"}


@dataclass(frozen=True)
class Launcher:
    """by: this process, local jobs or Slurm's. config: the settings, those of Hydra's launcher included."""

    by: By
    config: LaunchConfig


def choose_launcher(config: LaunchConfig, hydra_launcher: Mapping[str, Any] | None = None) -> Launcher:
    """The launcher that ``launch`` and, where it is one of submitit's, ``hydra.launcher`` ask for."""
    target = str((hydra_launcher or {}).get("_target_", "")).rpartition(".")[2]
    if hydra_launcher is not None and target in _HYDRA:
        by = _HYDRA[target]
        queue = _queue(config.jobs.pretrain, hydra_launcher)
        name = LaunchName.slurm if by == "slurm" else LaunchName.local
        jobs = JobsConfig(**{field.name: queue for field in fields(JobsConfig)})
        return Launcher(by, replace(config, name=name, jobs=jobs))
    if config.name is LaunchName.slurm:
        return Launcher("slurm", config)
    several = any(getattr(config.jobs, field.name).world > 1 for field in fields(JobsConfig))
    return Launcher("local" if config.parallel > 1 or config.detach or several else "here", config)


def _queue(base: QueueConfig, given: Mapping[str, Any]) -> QueueConfig:
    """A queue with the values of Hydra's launcher; what the local one does not know stays as it is."""
    known = {field.name: given[field.name] for field in fields(QueueConfig) if field.name in given}
    return replace(base, **known)


def with_launch(cells: Sequence[Cell], config: LaunchConfig) -> list[Cell]:
    """The cells as they are going to be run: their frozen configs say where."""
    return [replace(cell, cfg=replace(cell.cfg, launch=config)) for cell in cells]


def launch_problems(launcher: Launcher, cells: Sequence[Config], root: Path) -> list[str]:
    """Why these cells cannot be launched so, found without asking anything that costs."""
    if launcher.by == "here":
        return []
    found: dict[str, None] = {}
    if launcher.by == "slurm" and (problem := slurm_problem()) is not None:
        found[problem] = None
    for field in fields(JobsConfig):
        queue = getattr(launcher.config.jobs, field.name)
        if launcher.by == "local" and queue.nodes > 1:
            found[f"launch.jobs.{field.name}.nodes = {queue.nodes}: one machine has one; launch=slurm has more"] = None
    for cfg in cells:
        for stage in COMPUTED[cfg.stage]:
            found.update(dict.fromkeys(uneven_batches(cfg, stage, launcher.config.jobs.of(stage).world)))
    if len(str(root)) > 200:
        found[f"SSVAE_ROOT = {root}: is too long for the paths of jobs; choose a shorter one"] = None
    return list(found)
