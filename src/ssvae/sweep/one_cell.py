"""One cell on its own: judged, planned, and carried out in this process, with its record but without a tracker."""

from __future__ import annotations

from pathlib import Path

from ssvae.config.checks import stages_used
from ssvae.config.tree import Config
from ssvae.core.progress import Progress
from ssvae.core.stop import Interrupted, Stop, Stoppable
from ssvae.stages.conditions import told_problems
from ssvae.stages.foreign import foreign_problems, reward_problems
from ssvae.stages.plan import COMPUTED, StagePlan, plan_cell
from ssvae.stages.trained import unsafe_here
from ssvae.sweep.planned import PlannedCell
from ssvae.sweep.record import CellRecord
from ssvae.sweep.schedule import Scheduler, not_needed
from ssvae.sweep.sources import Sources
from ssvae.sweep.tracking import Tracking
from ssvae.track.base import Problems


def refused(cfg: Config, sources: Sources) -> list[str]:
    """Why the cell cannot be run on this machine. Opens its data, and so renders the embedded ones."""
    if problems := unsafe_here([cfg]) or foreign_problems([cfg]):
        return problems
    found: dict[str, None] = {}
    for stage in stages_used(cfg):
        try:
            sources(getattr(cfg.stages, stage).data)
        except ValueError as error:
            found[str(error)] = None
    if not found and "probe" in COMPUTED[cfg.stage]:
        probe = cfg.stages.probe
        found.update(dict.fromkeys(told_problems(probe, sources(probe.data)) or reward_problems([cfg])))
    return list(found)


def plan(cfg: Config, sources: Sources, root: Path) -> dict[str, StagePlan]:
    """The stages of a cell, in order."""
    return plan_cell(
        cfg,
        root,
        lambda data: sources(data).fingerprint,
        lambda data: sources(data).conditions,
        lambda stage: cfg.launch.jobs.of(stage).world,
    )


def missing(cfg: Config, plans: dict[str, StagePlan]) -> list[str]:
    """Stages that the cell needs, does not compute and does not find."""
    computed = COMPUTED[cfg.stage]
    return [
        f"stage = {cfg.stage.value}: needs {name}-{one.id}, which is not there: stage=all makes it"
        for name, one in plans.items()
        if name not in computed and not one.finished and not not_needed(name, plans)
    ]


def run_cell(planned: PlannedCell, record: CellRecord, root: Path, progress: Progress, stop: Stop) -> None:
    """Carry out the stages in ``planned``; how it ended stands in ``record``, in memory and on disk.

    Raises Interrupted once ``stop`` was asked; a KeyboardInterrupt goes through. Both mark the record before.
    """
    untracked = Tracking(None, Problems(), "", [record], 0.0)
    sources = Sources(root, Stoppable(progress, stop))
    scheduler = Scheduler([planned], [record], untracked, sources, root, progress, stop)
    try:
        scheduler.run()
    except (KeyboardInterrupt, Interrupted):
        scheduler.killed()
        raise
