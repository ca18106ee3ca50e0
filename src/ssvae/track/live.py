"""The thread that keeps a tracker up to date while stages run, without ever stopping or slowing them.

The thread that trains only says what there is to show: a sweep, a cell, a stage and its folder, an end. The background
thread compares that with what the tracker has, and sends the difference, pass after pass, always in the same order:
sweeps, then cells, in each cell its stages, then its end. So nothing is queued up while a server is away, and when it
comes back, one pass brings everything.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ssvae.track.base import CellRun, Problems, RunStatus, SweepRun, Tracker, TrackerError
from ssvae.track.records import read_cell

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_LAST_TRIES = 3
"""Passes, once the work is done, where there is little hope: a tracker that never answered, a damaged folder."""


@dataclass(eq=False)
class _Stage:
    """done: nothing will be added to the folder. complete: all of it is in the tracker."""

    folder: Path
    done: bool = False
    complete: bool = False


@dataclass(eq=False)
class _Cell:
    """end: (status, reason, reused stages) once it has one; ended: is that in the tracker? openings: how often it was
    opened; a run that was opened for an earlier one is of no use."""

    sweep: str
    path: Path
    run: CellRun | None = None
    stages: dict[str, _Stage] = field(default_factory=dict)
    end: tuple[RunStatus, str | None, Sequence[str]] | None = None
    ended: bool = False
    openings: int = 1


@dataclass(eq=False)
class _Sweep:
    """own: does this process answer for the sweep's status? reports: folders still to be copied."""

    name: str
    params: Mapping[str, str]
    own: bool
    run: SweepRun | None = None
    reports: list[Path] = field(default_factory=list)
    end: RunStatus | None = None
    ended: bool = False


class Live:
    """A tracker of running sweeps. Every method but :meth:`close` returns at once, whatever the tracker does.

    root: project whose folders are shown. connect: opens the tracker, called in the background, again after a failure;
    raises TrackerError. problems: where failures are counted. every_s: seconds between two looks at running stages.
    """

    def __init__(self, root: Path, connect: Callable[[], Tracker], problems: Problems, every_s: float = 10.0) -> None:
        self._root, self._connect, self._problems, self._every_s = root, connect, problems, every_s
        self._tracker: Tracker | None = None
        self._sweeps: dict[str, _Sweep] = {}
        self._cells: dict[tuple[str, str], _Cell] = {}
        self._guard = threading.Lock()
        self._news, self._closing, self._given_up = threading.Event(), threading.Event(), threading.Event()
        self._turn = 0
        self._away = False
        self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
        self._thread.start()

    # -------- called by the thread that trains

    def open_sweep(self, name: str, params: Mapping[str, str], *, own: bool = True) -> None:
        """Show a sweep. own: this process sets its status."""
        with self._guard:
            self._sweeps.setdefault(name, _Sweep(name, params, own))
        self._news.set()

    def open_cell(self, sweep: str, record: Path) -> None:
        """Show (or go on with) the cell of a record; its sweep is open."""
        with self._guard:
            cell = self._cells.setdefault((sweep, record.stem), _Cell(sweep, record))
            if cell.end is not None:  # closed before: its run has to be set RUNNING again
                cell.end, cell.ended, cell.run = None, False, None
                cell.openings += 1
        self._news.set()

    def watch(self, sweep: str, cell_id: str, stage: str, folder: Path) -> None:
        """Show a stage while it runs; its folder need not exist yet."""
        with self._guard:
            stages = self._cells[sweep, cell_id].stages
            if stage not in stages or stages[stage].folder != folder:
                stages[stage] = _Stage(folder)

    def stage_done(self, sweep: str, cell_id: str, stage: str, folder: Path) -> None:
        """Show the rest of a stage, also of one that was finished before."""
        with self._guard:
            self._cells[sweep, cell_id].stages[stage] = _Stage(folder, done=True)
        self._news.set()

    def close_cell(
        self, sweep: str, cell_id: str, status: RunStatus, reason: str | None, reused: Sequence[str]
    ) -> None:
        """Set the status of a cell that was opened, behind all of its stages."""
        with self._guard:
            cell = self._cells[sweep, cell_id]
            cell.end, cell.ended = (status, reason, list(reused)), False
            _let_go([cell])
        self._news.set()

    def report(self, sweep: str, folder: Path) -> None:
        """Attach the files of a folder to the sweep's run."""
        with self._guard:
            self._sweeps[sweep].reports.append(folder)
        self._news.set()

    def close_sweep(self, sweep: str, status: RunStatus) -> None:
        """Set the status of a sweep."""
        with self._guard:
            self._sweeps[sweep].end = status
        self._news.set()

    def close(self, patience_s: float) -> list[str]:
        """Show what is left and end the thread, for at most ``patience_s`` seconds; returns the names of what is not
        complete in the tracker."""
        with self._guard:
            _let_go(self._cells.values())
        self._closing.set()
        self._news.set()
        self._thread.join(patience_s)
        self._given_up.set()
        return self.missing()

    def missing(self) -> list[str]:
        """What the tracker lacks: ids of cells, names of sweeps."""
        with self._guard:
            cells = [cell.path.stem for cell in self._cells.values() if not _complete(cell)]
            names = [sweep.name for sweep in self._sweeps.values() if not _settled(sweep)]
        return [*(f"cell {name}" for name in cells), *(f"sweep {name}" for name in names)]

    # -------- the background thread

    def _work(self) -> None:
        pause = _FIRST_PAUSE_S
        tries = 0
        while not self._given_up.is_set():
            self._news.clear()
            closing = self._closing.is_set()
            good = self._pass(closing)
            if closing:
                tries += 1
                if not self.missing() or (tries >= _LAST_TRIES and (self._tracker is None or not self._away)):
                    return
            if good:
                pause = _FIRST_PAUSE_S
                self._news.wait(self._every_s)
            elif closing:
                self._given_up.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                # News must not shorten this: a server in trouble is left alone.
                if self._closing.wait(pause):
                    pause = _FIRST_PAUSE_S
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _pass(self, closing: bool) -> bool:
        """Bring the tracker up to date with everything; False if some of it failed. closing: has all been said?"""
        with self._guard:
            sweeps, cells = list(self._sweeps.values()), list(self._cells.values())
        self._away = True
        try:
            tracker = self._open()
            for sweep in sweeps:
                if sweep.run is None:
                    sweep.run = tracker.open_sweep(sweep.name, sweep.params, {}, own=sweep.own)
            # Each time another one comes first: a cell whose data upset a server must not keep the others away.
            first = self._turn % len(cells) if cells else 0
            good = True
            for cell in [*cells[first:], *cells[:first]]:
                if self._given_up.is_set():
                    return False
                self._turn += 1
                good = self._attempt(cell) and good
            for sweep in sweeps:
                self._show_end(sweep, closing)
        except TrackerError as error:
            self._problems.note(error)
            return False
        self._away = False
        return good

    def _open(self) -> Tracker:
        if self._tracker is None:
            self._tracker = self._connect()
            try:
                reaped = self._tracker.reap()
            except TrackerError as error:
                self._problems.note(error)  # tidying up is not worth a second try
            else:
                if reaped:
                    logger.info("%d MLflow runs of dead processes were set to KILLED", reaped)
        return self._tracker

    def _attempt(self, cell: _Cell) -> bool:
        """Bring one cell up to date; False if that failed. Raises TrackerError if no other cell would fare better."""
        try:
            self._show(cell)
        except TrackerError as error:
            if error.unreachable:
                raise
            self._problems.note(error)
            return False
        return True

    def _show(self, cell: _Cell) -> None:
        with self._guard:
            run, opening = cell.run, cell.openings
        if run is None:
            sweep = self._sweeps[cell.sweep].run
            assert sweep is not None, "sweeps are opened first"
            try:
                known = read_cell(self._root, cell.path)
            except (OSError, ValueError, KeyError) as error:
                raise TrackerError(f"{cell.path} cannot be read: {error}") from error
            run = sweep.open_cell(known.cell_id, known.fields, known.params, known.tags)
        with self._guard:
            if cell.openings != opening:
                return  # opened anew meanwhile: the next pass sets its run RUNNING again
            cell.run = run
            end, stages = cell.end, list(cell.stages.items())
        for name, stage in stages:
            if stage.complete:
                continue
            # Asked before the folder is read: what is written in between belongs to the next pass.
            done = stage.done
            count = run.mirror(name, stage.folder)
            if count.malformed:
                logger.warning("%s: %d malformed lines in steps.jsonl were left out", stage.folder, count.malformed)
            stage.complete = done
        if end is not None and not cell.ended:
            status, reason, reused = end
            if reused:
                run.mark_reused(reused)
            run.finish(status, reason)
            with self._guard:
                cell.ended = cell.end is end

    def _show_end(self, sweep: _Sweep, closing: bool) -> None:
        assert sweep.run is not None, "sweeps are opened first"
        for folder in list(sweep.reports):
            sweep.run.log_artifacts(folder)
            with self._guard:
                sweep.reports.remove(folder)
        with self._guard:  # those that came since this pass began, too
            behind = all(_complete(cell) for cell in self._cells.values() if cell.sweep == sweep.name)
        # At the very end a cell that cannot be shown, which is a problem noted, does not leave the sweep open as well.
        if sweep.end is not None and not sweep.ended and (closing or behind):
            sweep.run.finish(sweep.end)
            sweep.ended = True


def _complete(cell: _Cell) -> bool:
    """Is all that was said of the cell in the tracker?"""
    shown = all(stage.complete or not stage.done for stage in cell.stages.values())
    return cell.run is not None and shown and (cell.end is None or cell.ended)


def _settled(sweep: _Sweep) -> bool:
    return sweep.run is not None and not sweep.reports and (sweep.end is None or sweep.ended)


def _let_go(cells: Iterable[_Cell]) -> None:
    """Nothing more will come of their stages."""
    for cell in cells:
        for stage in cell.stages.values():
            stage.done = True
