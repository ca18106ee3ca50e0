"""Fill a tracker from the run folders: after it was down, lost or moved, or where the nodes have no network.

Safe at any time and any number of times, also beside the processes that run the sweep: what is there already is not
sent again, and a cell that is still being worked on is filled up to where it is and left RUNNING.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from ssvae.track.base import Lives, MirrorCount, RunStatus, SweepRun, Tracker, TrackerError, nobody
from ssvae.track.records import STATUS, CellFile, cell_paths, read_cell

logger = logging.getLogger(__name__)
Value = TypeVar("Value")
TRIES, PAUSE_S = 3, 2.0
"""How often something is tried, and the pause before the second time; each further one is twice as long."""
_SILENT = "ended without a word"


@dataclass
class SyncCount:
    """What one call did with a sweep. cells: how many of each status, ``live`` among them. problems: of single cells,
    which the others do not suffer from. reports: files of tables and figures."""

    sweep: str
    cells: dict[str, int] = field(default_factory=dict)
    mirrored: MirrorCount = field(default_factory=MirrorCount)
    reports: int = 0
    problems: list[str] = field(default_factory=list)

    def line(self) -> str:
        """Such as ``grid: 3 cells (2 finished, 1 live); sent 120 points, 9 final metrics, ...``."""
        count = sum(self.cells.values())
        each = ", ".join(f"{number} {status}" for status, number in sorted(self.cells.items()))
        sent = self.mirrored
        files = sent.files + self.reports
        left_out = f"; {sent.malformed} malformed lines left out" if sent.malformed else ""
        return (
            f"{self.sweep}: {count} cell{'' if count == 1 else 's'} ({each}); sent {sent.points} points, "
            f"{sent.finals} final metrics, {sent.system} system values, {files} files{left_out}"
        )


def sync_sweep(
    tracker: Tracker, root: Path, sweep: str, lives: Lives = nobody, pause: Callable[[float], object] = time.sleep
) -> SyncCount:
    """Mirror every cell of ``<root>/runs/sweeps/<sweep>``, its figures and its table.

    lives: is somebody at work on a cell whose record says that it waits or runs? Such a cell is left RUNNING; any
    other that never came to an end is set KILLED. Raises ValueError for an unknown sweep, TrackerError when the tracker
    does not answer after several tries.
    """
    count = SyncCount(sweep)
    paths = cell_paths(root, sweep)
    run = _tried(lambda: tracker.open_sweep(sweep, {}, {}, own=False), pause)
    for path in paths:
        try:
            cell = read_cell(root, path)
            live = cell.status not in STATUS and lives(sweep, cell.cell_id)
            count.mirrored += _tried(partial(_mirror, run, cell, live), pause)
        except (TrackerError, OSError, ValueError, KeyError) as error:
            if isinstance(error, TrackerError) and error.unreachable:
                raise
            count.problems.append(f"{sweep}: cell {path.stem}: {error}")
            continue
        status = "live" if live else cell.status if cell.status in STATUS else "killed"
        count.cells[status] = count.cells.get(status, 0) + 1
    report = root / "results" / sweep
    if report.is_dir():
        count.reports = _tried(lambda: run.log_artifacts(report), pause)
    if not count.cells.get("live") and not count.problems:
        end: RunStatus = "FINISHED" if set(count.cells) <= {"finished"} else "FAILED"
        _tried(lambda: run.finish(end), pause)
    return count


def _mirror(sweep: SweepRun, cell: CellFile, live: bool) -> MirrorCount:
    """Everything of one cell, and its status unless it is still being worked on."""
    run = sweep.open_cell(cell.cell_id, cell.fields, cell.params, cell.tags, own=False, started_ms=cell.started_ms)
    total = MirrorCount()
    for stage, folder in [*cell.stages.items(), ("report", cell.figures)]:
        total += run.mirror(stage, folder)
    if cell.reused:
        run.mark_reused(cell.reused)
    if not live:
        reason = cell.reason if cell.status in STATUS else cell.reason or _SILENT
        run.finish(STATUS.get(cell.status, "KILLED"), reason, cell.written_ms)
    return total


def _tried(work: Callable[[], Value], pause: Callable[[float], object]) -> Value:
    """What ``work`` returns, tried again where the tracker as a whole does not answer."""
    for number in range(1, TRIES + 1):
        try:
            return work()
        except TrackerError as error:
            if not error.unreachable or number == TRIES:
                raise
            logger.info("the tracker does not answer, it is tried again: %s", error)
            pause(PAUSE_S * 2 ** (number - 1))
    raise AssertionError("unreachable")
