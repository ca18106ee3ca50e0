"""The scheduler's one door to the tracker: cells open, stages are watched, statuses are truthful."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from ssvae.config.run import TrackConfig
from ssvae.sweep.planned import PlannedCell
from ssvae.sweep.record import CellRecord, flat_config
from ssvae.track.base import CellRun, Problems, RunStatus, SweepRun
from ssvae.track.guard import open_tracker
from ssvae.track.mirror import Mirror

logger = logging.getLogger(__name__)
_STATUS: Mapping[str, RunStatus] = {"finished": "FINISHED", "failed": "FAILED", "killed": "KILLED"}


class Tracking:
    """One sweep's runs. Only finished work is mirrored in this thread; running stages by a background thread."""

    def __init__(
        self,
        sweep: SweepRun,
        mirror: Mirror,
        problems: Problems,
        cells: Sequence[PlannedCell],
        records: Sequence[CellRecord],
    ) -> None:
        self._sweep = sweep
        self._mirror = mirror
        self._problems = problems
        self._cells = cells
        self._records = records
        self._runs: dict[int, CellRun] = {}
        self._watched: set[tuple[int, str]] = set()

    @classmethod
    def open(
        cls,
        root: Path,
        name: str,
        config: TrackConfig,
        command: str,
        cells: Sequence[PlannedCell],
        records: Sequence[CellRecord],
    ) -> Tracking:
        """Open the sweep's run and close what dead processes left open."""
        tracker = open_tracker(root, config.experiment, enabled=config.enabled)
        problems = tracker.problems
        reaped = tracker.reap()
        if reaped:
            logger.info("%d MLflow runs of dead processes were set to KILLED", reaped)
        sweep = tracker.open_sweep(name, {"command": command, "cells": str(len(cells))}, {})
        return cls(sweep, Mirror(problems, every_s=config.every_s), problems, cells, records)

    def open_cell(self, index: int) -> None:
        """Open (or go on in) the run of a cell."""
        record, one = self._records[index], self._cells[index]
        tags = {"exp": one.cell.cfg.exp, "overrides": " ".join(record.overrides)}
        self._runs[index] = self._sweep.open_cell(record.cell_id, record.fields, flat_config(one.cell), tags)

    def watch(self, index: int, stage: str, folder: Path) -> None:
        """Mirror a stage while it runs."""
        if (index, stage) not in self._watched:
            self._watched.add((index, stage))
            self._mirror.watch(self._runs[index], stage, folder)

    def stage_done(self, index: int, stage: str, folder: Path) -> None:
        """Mirror the rest of a stage, also of one that was finished before."""
        self.watch(index, stage, folder)
        self._watched.discard((index, stage))
        self._mirror.finish(self._runs[index], stage)

    def artifacts(self, index: int, folder: Path) -> None:
        """Mirror a folder of figures of a cell."""
        self.stage_done(index, "report", folder)

    def close_cell(self, index: int, status: Literal["finished", "failed", "killed"], reason: str | None) -> None:
        """Set the truthful status of a cell that was opened."""
        run = self._runs.get(index)
        if run is None:
            return
        for watched, stage in [pair for pair in self._watched if pair[0] == index]:
            self._watched.discard((watched, stage))
            self._mirror.finish(run, stage)
        if self._records[index].reused:
            run.mark_reused(self._records[index].reused)
        run.finish(_STATUS[status], reason)

    def report(self, folder: Path) -> None:
        """Attach table and figures to the sweep's run."""
        self._sweep.log_artifacts(folder)

    def finish(self, status: RunStatus) -> None:
        """Close the sweep's run."""
        self._mirror.close()
        self._sweep.finish(status)

    def problems(self) -> list[str]:
        """What went wrong with the tracker, for the end of the run."""
        summary = self._problems.summary()
        return [summary] if summary else []
