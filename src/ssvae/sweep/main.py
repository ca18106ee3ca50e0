"""A grid from validated cells to table: prepare data, plan, run what is missing, report."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from rich.logging import RichHandler

from ssvae.config.checks import stages_used
from ssvae.config.compose import Cell
from ssvae.config.data import DataConfig, DataKind
from ssvae.core.files import read_json
from ssvae.core.identity import git_state
from ssvae.core.paths import PROJECT, project_root
from ssvae.core.progress import Progress
from ssvae.stages.conditions import told_problems
from ssvae.stages.foreign import foreign_problems, reward_problems
from ssvae.stages.plan import COMPUTED, cell_id, plan_cell
from ssvae.stages.source import Source, open_source, synthetic_folder
from ssvae.stages.trained import unsafe_here
from ssvae.sweep import publish
from ssvae.sweep.console import RichProgress, make_console, print_plan, print_problems
from ssvae.sweep.planned import PlannedCell, distinct, sweep_name
from ssvae.sweep.record import CellRecord
from ssvae.sweep.schedule import Scheduler, decide
from ssvae.sweep.tracking import Tracking

logger = logging.getLogger(__name__)


class Sources:
    """Opens each data set once."""

    def __init__(self, root: Path, progress: Progress) -> None:
        self._root = root
        self._progress = progress
        self._open: dict[str, Source] = {}

    def __call__(self, data: DataConfig) -> Source:
        key = repr(data)
        if key not in self._open:
            self._open[key] = open_source(data, self._root, self._progress)
        return self._open[key]


def run_grid(cells: Sequence[Cell], overrides: Sequence[str]) -> int:
    """Run every cell; returns the exit code: 0 all done, 1 a cell failed, 2 bad input, 130 interrupted."""
    console = make_console()
    logging.basicConfig(
        level=logging.INFO, format="%(message)s", handlers=[RichHandler(console=console, show_path=False)]
    )
    logging.getLogger("alembic").setLevel(logging.WARNING)
    root = project_root()
    # A SIGTERM (a scheduler's polite kill) must end like Ctrl-C: cells marked as killed, locks released.
    signal.signal(signal.SIGTERM, _interrupt)
    with RichProgress(console) as progress:
        sources = Sources(root, progress)
        if unmade := unsafe_here([cell.cfg for cell in cells]) or _unmade(cells, root):
            print_problems(unmade)
            return 2
        if unusable := foreign_problems([cell.cfg for cell in cells]) or _unusable(cells, sources):
            print_problems(unusable)
            return 2
        every = _plan(cells, root, sources)
        if absent := reward_problems([one.cell.cfg for one in every if _scores(one)]):
            print_problems(absent)
            return 2
        planned = distinct(every)
        if len(planned) < len(every):
            logger.info(
                "%d of %d cells are the same work as another and run once", len(every) - len(planned), len(every)
            )
        if missing := _missing(planned):
            print_problems(missing)
            return 2
        name = sweep_name(planned)
        decisions = decide([one.plans for one in planned], [COMPUTED[one.cell.cfg.stage] for one in planned])
        print_plan(console, name, planned, decisions, root)
        _warn_of_other_commits(planned, root)
        command = " ".join(["python run.py", *(["-m"] if len(cells) > 1 else []), *overrides]).replace("'", "")
        records = [CellRecord.open(root, name, one) for one in planned]
        tracking = Tracking.open(root, name, planned[0].cell.cfg.track, command, planned, records)
        configs = [record.path.with_suffix(".yaml") for record in records]
        ids = sorted({record.cell_id for record in records})
        publish.SweepRecord(command, publish.experiment_notes(records, configs), ids).save(root, name)
        scheduler = Scheduler(planned, records, tracking, sources, root, progress)
        try:
            scheduler.run()
            for index, record in enumerate(records):
                if (figures := publish.cell_figures(root, name, record)) is not None:
                    tracking.artifacts(index, figures)
        except KeyboardInterrupt:
            scheduler.killed()
            tracking.finish("KILLED")
            console.print(f"[yellow]stopped; the same command goes on from there[/] (state: {root / 'runs'})")
            return 130
    try:
        folder = publish.report(root, name, console)
    except ValueError as error:
        print_problems([str(error)], "the cells are done, their table could not be written:")
        tracking.finish("FAILED")
        return 1
    failed = [record for record in records if record.status == "failed"]
    tracking.report(folder)
    tracking.finish("FAILED" if failed else "FINISHED")
    for line in tracking.problems():
        console.print(f"[yellow]{line}[/]")
    console.print(
        f"results: {folder}\nrun folders: {root / 'runs'}\nMLflow: make dashboard", highlight=False, soft_wrap=True
    )
    for record in failed:
        console.print(f"[red]failed:[/] {record.label}: {record.reason}", soft_wrap=True)
    return 1 if failed else 0


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
        plans = plan_cell(cell.cfg, root, lambda data: sources(data).fingerprint, lambda data: sources(data).conditions)
        planned.append(PlannedCell(cell, plans, cell_id(plans)))
    return planned


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


def _interrupt(number: int, frame: FrameType | None) -> Any:
    raise KeyboardInterrupt
