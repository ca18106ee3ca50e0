"""The local scheduler: one stage at a time in this process, sharing the work with other processes of the same root."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

from ssvae.config.data import DataConfig
from ssvae.core.files import Busy, exclusive, write_text
from ssvae.core.progress import Progress
from ssvae.core.stop import NEVER, Interrupted, Stop
from ssvae.stages.execute import Job, execute
from ssvae.stages.plan import COMPUTED, StagePlan
from ssvae.stages.source import Source
from ssvae.sweep.planned import PlannedCell
from ssvae.sweep.record import CellRecord
from ssvae.sweep.tracking import Tracking

logger = logging.getLogger(__name__)

Decision = Literal["reuse", "resume", "compute", "share"]
POLL_S = 0.5


def decide(cells: Sequence[Mapping[str, StagePlan]], computed: Sequence[Sequence[str]]) -> list[dict[str, Decision]]:
    """What a call is going to do with each stage of each cell; ``share``: an earlier cell of the call does it."""
    seen: set[str] = set()
    decisions: list[dict[str, Decision]] = []
    for plans, names in zip(cells, computed, strict=True):
        row: dict[str, Decision] = {}
        for name, plan in plans.items():
            if plan.finished or name not in names or not_needed(name, plans):
                row[name] = "reuse"
            elif plan.id in seen:
                row[name] = "share"
            else:
                row[name] = "resume" if plan.started else "compute"
                seen.add(plan.id)
        decisions.append(row)
    return decisions


def not_needed(name: str, plans: Mapping[str, StagePlan]) -> bool:
    """The base has done its work once what continues it is finished."""
    return name == "base" and "pretrain" in plans and plans["pretrain"].finished


class Scheduler:
    """Runs every stage that is missing, cell by cell; a cell that fails does not stop the others.

    A stage that another process is computing is left to it: this one goes on with another cell and comes back.
    """

    def __init__(
        self,
        cells: Sequence[PlannedCell],
        records: Sequence[CellRecord],
        tracking: Tracking,
        sources: Callable[[DataConfig], Source],
        root: Path,
        progress: Progress,
        stop: Stop = NEVER,
    ) -> None:
        self._cells = list(cells)
        self._records = list(records)
        self._tracking = tracking
        self._sources = sources
        self._root = root
        self._progress = progress
        self._stop = stop
        self._failures: dict[str, str] = {}
        self._begun: dict[int, float] = {}
        self._computed: set[str] = set()

    def run(self) -> None:
        """Until every cell is finished or failed."""
        pending = list(range(len(self._cells)))
        said = False
        while pending:
            busy = [index for index in pending if not self._advance(index)]
            if busy == pending:
                if not said:
                    logger.info("waiting for stages that another process is computing")
                    said = True
                time.sleep(POLL_S)
            if self._stop.asked:
                raise self._stop.interrupt()
            pending = busy

    def killed(self) -> None:
        """Mark what was not finished: called when the user stops the run."""
        for index, record in enumerate(self._records):
            if record.status in ("running", "waiting") and not self._held_elsewhere(index):
                self._close(index, "killed", "stopped by the user")

    def _held_elsewhere(self, index: int) -> bool:
        """Is another process computing a stage of this cell? Then the cell is not ours to bury."""
        for plan in self._cells[index].plans.values():
            if plan.finished or not plan.lock.exists():
                continue
            try:
                with exclusive(plan.lock, wait=False):
                    pass
            except Busy:
                return True
        return False

    def _advance(self, index: int) -> bool:
        """Go through the stages of one cell; False if one of them is in another process's hands."""
        one, record = self._cells[index], self._records[index]
        if index not in self._begun:
            self._begun[index] = time.monotonic()
            if not all(plan.finished for plan in one.plans.values()):
                record.status = "running"
                record.save()
            self._tracking.open_cell(index)
        for name, plan in one.plans.items():
            if name not in COMPUTED[one.cell.cfg.stage] or not_needed(name, one.plans):
                self._note(index, plan, "reused")
                continue
            if plan.id in self._failures:
                self._close(index, "failed", self._failures[plan.id])
                return True
            shown = Labelled(self._progress, f"{one.label}: {name}")
            job = Job(one.cell.cfg, plan, one.plans, self._sources, self._root, shown, stop=self._stop)
            self._tracking.watch(index, name, plan.folder)
            try:
                outcome = execute(job, wait=False)
            except Busy:
                return False
            except Interrupted:
                raise
            except Exception as error:  # noqa: BLE001 - one cell's death is one cell's; it is named, recorded, reported
                self._fail(index, plan, error)
                return True
            self._note(index, plan, outcome)
        self._close(index, "finished", None)
        return True

    def _note(self, index: int, plan: StagePlan, outcome: str) -> None:
        record = self._records[index]
        if outcome == "reused" and plan.id not in self._computed and plan.name not in record.reused:
            record.reused.append(plan.name)
        elif outcome != "reused":
            self._computed.add(plan.id)
        self._tracking.stage_done(index, plan.name, plan.folder)

    def _fail(self, index: int, plan: StagePlan, error: Exception) -> None:
        reason = f"{plan.name}: {type(error).__name__}: {error}"
        self._failures[plan.id] = reason
        plan.folder.mkdir(parents=True, exist_ok=True)
        trace = plan.folder / "error.txt"
        write_text(trace, "".join(traceback.format_exception(error)))
        logger.error("%s failed in %s (trace: %s)", self._cells[index].label, reason, trace)
        self._tracking.stage_done(index, plan.name, plan.folder)
        self._close(index, "failed", reason)

    def _close(self, index: int, status: Literal["finished", "failed", "killed"], reason: str | None) -> None:
        record = self._records[index]
        record.status, record.reason = status, reason
        if index in self._begun and set(record.reused) != set(self._cells[index].plans):
            record.seconds = time.monotonic() - self._begun[index]
        record.save()
        self._tracking.close_cell(index, status, reason)


class Labelled:
    """A progress that names the cell and the stage."""

    def __init__(self, progress: Progress, label: str) -> None:
        self._progress = progress
        self._label = label

    def start(self, what: str, total: int, done: int = 0) -> None:
        self._progress.start(f"{self._label}: {what}", total, done)

    def advance(self, done: int, note: str = "") -> None:
        self._progress.advance(done, note)
