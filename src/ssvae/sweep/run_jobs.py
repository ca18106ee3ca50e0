"""A grid whose cells are jobs: submitted, shown while they run, collected at their end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.markup import escape
from submitit.core.utils import FailedJobError

from ssvae.core.stop import Stop
from ssvae.report.cell_state import BAD, CellState
from ssvae.sweep.by_jobs import follow, how_to_come_back, submit
from ssvae.sweep.console import print_problems
from ssvae.sweep.finish import finish
from ssvae.sweep.launcher import Launcher
from ssvae.sweep.planned import PlannedCell
from ssvae.sweep.record import CellRecord
from ssvae.sweep.tracking import Tracking


def run_jobs(
    root: Path,
    name: str,
    planned: Sequence[PlannedCell],
    records: Sequence[CellRecord],
    launcher: Launcher,
    command: str,
    console: Console,
    stop: Stop,
) -> int:
    """Submit, follow, collect; returns the exit code: as run_grid's, and 0 at once with ``launch.detach``."""
    for one, record in zip(planned, records, strict=True):
        record.reused = [stage for stage, plan in one.plans.items() if plan.finished]
        record.save()
    try:
        done = submit(root, name, planned, launcher)
    except ValueError as error:
        print_problems([str(error)], "nothing was submitted:")
        return 2
    except KeyboardInterrupt:
        console.print(
            f"[yellow]stopped while submitting:[/] what was submitted goes on. {how_to_come_back(name)}", soft_wrap=True
        )
        console.print("the same command submits the rest")
        return 130
    except FailedJobError as error:
        # sbatch's own words: an unknown partition, a limit of the account. What was submitted before it goes on.
        print_problems([str(error)], f"not all was submitted; python -m ssvae status {name} shows what was:")
        return 1
    where = "to Slurm" if launcher.by == "slurm" else f"on this machine, {launcher.config.parallel} at once"
    for line in [*done.lines(name, where), f"their folders: {root / 'runs' / 'jobs'}"]:
        console.print(line, markup=False, soft_wrap=True)
    if launcher.config.detach:
        console.print(escape(how_to_come_back(name)), soft_wrap=True)
        return 0
    tracking = Tracking.open(root, name, planned[0].cell.cfg.track, command, records)
    mirrored = Mirrored(tracking, planned)
    rows = follow(root, name, records, console, mirrored, stop)
    if rows is None:
        # The jobs go on, and so do the runs that show them.
        console.print(f"[yellow]detached:[/] {escape(how_to_come_back(name))}", soft_wrap=True)
        tracking.detach()
        for line in tracking.problems():
            console.print(f"[yellow]{escape(line)}[/]", soft_wrap=True)
        return 130
    mirrored.close(records)
    for row in rows:
        if row.status in BAD and row.log is not None:
            console.print(f"[red]{escape(row.name)}[/], end of {escape(row.log)}:", soft_wrap=True)
            console.print(_tail(Path(row.log)), markup=False, soft_wrap=True)
    return finish(root, name, records, tracking, console)


def _tail(log: Path, lines: int = 8) -> str:
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - (1 << 14)))
        text = file.read().decode("utf-8", errors="replace")
    return "\n".join(f"  {line}" for line in text.rstrip().splitlines()[-lines:])


class Mirrored:
    """Mirrors the stages of all cells while jobs make them; the run folders are all that it reads."""

    def __init__(self, tracking: Tracking, planned: Sequence[PlannedCell]) -> None:
        self._tracking = tracking
        self._planned = planned
        self._done: set[tuple[int, str]] = set()
        for index in range(len(planned)):
            tracking.open_cell(index)

    def __call__(self, rows: Sequence[CellState]) -> None:
        for index, one in enumerate(self._planned):
            for stage, plan in one.plans.items():
                if (index, stage) in self._done or not plan.folder.is_dir():
                    continue
                if plan.finished:
                    self._done.add((index, stage))
                    self._tracking.stage_done(index, stage, plan.folder)
                else:
                    self._tracking.watch(index, stage, plan.folder)

    def close(self, records: Sequence[CellRecord]) -> None:
        """The last look, and a truthful status for each cell."""
        self([])
        for index, record in enumerate(records):
            status: Literal["finished", "failed", "killed"] = (
                record.status if record.status in ("finished", "failed") else "killed"
            )
            self._tracking.close_cell(index, status, record.reason)
