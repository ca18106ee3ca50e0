"""A grid from validated cells to table: prepare data, plan, run what is missing, report."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.logging import RichHandler
from rich.markup import escape

from ssvae.config.checks import stages_used
from ssvae.config.compose import Cell
from ssvae.config.data import DataKind
from ssvae.config.launch import JobsConfig
from ssvae.core.files import read_json
from ssvae.core.identity import git_state
from ssvae.core.paths import PROJECT, project_root
from ssvae.core.progress import Progress
from ssvae.core.stop import Interrupted, Stop, Stoppable
from ssvae.stages.conditions import told_problems
from ssvae.stages.foreign import foreign_problems, reward_problems
from ssvae.stages.plan import COMPUTED, cell_id, plan_cell
from ssvae.stages.source import synthetic_folder
from ssvae.stages.trained import unsafe_here
from ssvae.sweep import publish
from ssvae.sweep.console import RichProgress, make_console, print_plan, print_problems
from ssvae.sweep.finish import finish
from ssvae.sweep.launcher import Launcher, choose_launcher, launch_problems, with_launch
from ssvae.sweep.planned import PlannedCell, command_line, distinct, sweep_name
from ssvae.sweep.record import CellRecord
from ssvae.sweep.run_jobs import run_jobs
from ssvae.sweep.schedule import Scheduler, decide
from ssvae.sweep.sources import Sources
from ssvae.sweep.tracking import Tracking

logger = logging.getLogger(__name__)


def run_grid(cells: Sequence[Cell], overrides: Sequence[str], hydra_launcher: Mapping[str, Any] | None = None) -> int:
    """Run every cell; returns the exit code: 0 all done, 1 a cell failed, 2 bad input, 130 interrupted.

    hydra_launcher: the values of ``hydra.launcher``, where that is one of submitit's.
    """
    console = make_console()
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    root = project_root()
    launcher = choose_launcher(cells[0].cfg.launch, hydra_launcher)
    cells = with_launch(cells, launcher.config)
    stop = Stop()
    # A scheduler's polite kill: the stage saves at its next step, cells are marked, locks released.
    with RichProgress(console) as progress, stop.on_signals():
        try:
            planned = _planned(cells, root, launcher, Stoppable(progress, stop))
        except (KeyboardInterrupt, Interrupted):
            return 130
        if isinstance(planned, list):
            print_problems(planned)
            return 2
        name = sweep_name(planned)
        decisions = decide([one.plans for one in planned], [COMPUTED[one.cell.cfg.stage] for one in planned])
        print_plan(console, name, planned, decisions, root)
        _warn_of_other_commits(planned, root)
        command = command_line(overrides, len(cells) > 1)
        records = [CellRecord.open(root, name, one) for one in planned]
        configs = [record.path.with_suffix(".yaml") for record in records]
        ids = sorted({record.cell_id for record in records})
        publish.SweepRecord(command, publish.experiment_notes(records, configs), ids).save(root, name)
        if launcher.by != "here":
            progress.pause()
            return run_jobs(root, name, planned, records, launcher, command, console, stop)
        tracking = Tracking.open(root, name, planned[0].cell.cfg.track, command, records)
        sources = Sources(root, Stoppable(progress, stop))
        scheduler = Scheduler(planned, records, tracking, sources, root, progress, stop)
        try:
            scheduler.run()
        except (KeyboardInterrupt, Interrupted):
            scheduler.killed()
            tracking.finish("KILLED")
            for line in tracking.problems():
                console.print(line, style="yellow", markup=False, soft_wrap=True)
            console.print(
                f"[yellow]stopped; the same command goes on from there[/] (state: {escape(str(root / 'runs'))})"
            )
            return 130
    return finish(root, name, records, tracking, console)


def _planned(
    cells: Sequence[Cell], root: Path, launcher: Launcher, progress: Progress
) -> tuple[PlannedCell, ...] | list[str]:
    """The distinct cells with their stages, or the problems that keep them from being run."""
    sources = Sources(root, progress)
    configs = [cell.cfg for cell in cells]
    here = launcher.by != "slurm"
    if unmade := launch_problems(launcher, configs, root) + (unsafe_here(configs) if here else []):
        return unmade
    if unmade := _unmade(cells, root):
        return unmade
    if unusable := foreign_problems(configs) or _unusable(cells, sources):
        return unusable
    every = _plan(cells, root, sources)
    if absent := reward_problems([one.cell.cfg for one in every if _scores(one)]):
        return absent
    planned = distinct(every)
    if len(planned) < len(every):
        logger.info("%d of %d cells are the same work as another and run once", len(every) - len(planned), len(every))
    return _missing(planned) or tuple(planned)


def _unusable(cells: Sequence[Cell], sources: Sources) -> list[str]:
    """Problems of the data sets of all cells; users' own folders first, since the embedded one has to be rendered."""
    sets = [getattr(cell.cfg.stages, name).data for cell in cells for name in stages_used(cell.cfg)]
    problems: dict[str, None] = {}
    for data in sorted(sets, key=lambda data: data.kind is DataKind.synthetic):
        if problems and data.kind is DataKind.synthetic:
            break
        try:
            sources(data)
        except ValueError as error:
            problems[str(error)] = None
    if not problems:
        for cfg in (cell.cfg for cell in cells if "probe" in COMPUTED[cell.cfg.stage]):
            probe = cfg.stages.probe
            problems.update(dict.fromkeys(told_problems(probe, sources(probe.data))))
    return list(problems)


def _plan(cells: Sequence[Cell], root: Path, sources: Sources) -> list[PlannedCell]:
    planned = []
    for cell in cells:
        plans = plan_cell(
            cell.cfg,
            root,
            lambda data: sources(data).fingerprint,
            lambda data: sources(data).conditions,
            partial(_world, cell.cfg.launch.jobs),
        )
        planned.append(PlannedCell(cell, plans, cell_id(plans)))
    return planned


def _world(jobs: JobsConfig, stage: str) -> int:
    return jobs.of(stage).world


def _scores(one: PlannedCell) -> bool:
    """Is there a probe whose scores this call has to make?"""
    return "probe" in one.plans and not one.plans["probe"].finished


def _missing(planned: Sequence[PlannedCell]) -> list[str]:
    """Stages that a cell needs, does not compute and does not find."""
    problems = []
    for one in planned:
        computed = COMPUTED[one.cell.cfg.stage]
        for name, plan in one.plans.items():
            if name in computed or plan.finished:
                continue
            if name == "base" and one.plans["pretrain"].finished:
                continue
            problems.append(_needs(one.cell, f"{name}-{plan.id}", name))
            break
    return problems


def _unmade(cells: Sequence[Cell], root: Path) -> list[str]:
    """As :func:`_missing`, for data that was never rendered: said at once, without rendering it."""
    return [
        _needs(cell, "a trained VAE", "pretrain")
        for cell in cells
        if cell.cfg.vae.weights is None
        and "pretrain" not in COMPUTED[cell.cfg.stage]
        and cell.cfg.stages.pretrain.data.kind is DataKind.synthetic
        and not synthetic_folder(cell.cfg.stages.pretrain.data, root).exists()
    ]


def _needs(cell: Cell, what: str, stage: str) -> str:
    words = [text for text in cell.overrides if not text.startswith("stage=")]
    # The base is made together with what continues it.
    command = " ".join([f"python run.py stage={'pretrain' if stage == 'base' else stage}", *words])
    return f"stage = {cell.cfg.stage.value}: needs {what}, which is not there; make it with: {command}"


def _warn_of_other_commits(planned: Sequence[PlannedCell], root: Path) -> None:
    """The commit is provenance, not identity: a difference is said, and changes nothing."""
    here = git_state(PROJECT)["commit"]
    finished = {plan.id: plan for one in planned for plan in one.plans.values() if plan.finished}
    others = [plan for plan in finished.values() if read_json(plan.folder / "run.json")["commit"] != here]
    if others:
        logger.info(
            "%d of %d reused stages were made at another commit (see their run.json)", len(others), len(finished)
        )
