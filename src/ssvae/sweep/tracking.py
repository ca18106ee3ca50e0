"""The scheduler's one door to the tracker: cells open, stages are watched, statuses are truthful."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ssvae.config.run import TrackConfig
from ssvae.core.tracking_uri import chosen_uri, masked
from ssvae.sweep.liveness import Liveness
from ssvae.sweep.record import CellRecord
from ssvae.track.base import Problems, RunStatus, TrackerError
from ssvae.track.live import Live
from ssvae.track.mlflow import MlflowTracker, prepare
from ssvae.track.records import STATUS

logger = logging.getLogger(__name__)


def start_live(root: Path, config: TrackConfig, problems: Problems) -> Live | None:
    """The background thread for ``config``; None where tracking is off, or MLflow is not there (a problem noted)."""
    if not config.enabled:
        return None
    try:
        prepare(root, config.uri)
    except TrackerError as error:
        problems.note(error)
        return None

    def connect() -> MlflowTracker:
        return MlflowTracker(root, config.experiment, config.uri, lives=Liveness(root))

    return Live(root, connect, problems, every_s=config.every_s)


class Tracking:
    """One sweep's runs. Every method returns at once, but :meth:`finish` and :meth:`detach`: a background thread does
    the work. Stages may be run by this process or by others, which makes no difference: their folders are watched."""

    def __init__(
        self,
        live: Live | None,
        problems: Problems,
        sweep: str,
        records: Sequence[CellRecord],
        patience_s: float,
        place: str = "",
    ) -> None:
        self.place = place
        """Where a person looks at it."""
        self._live = live
        self._problems = problems
        self._sweep = sweep
        self._records = records
        self._patience_s = patience_s
        self._open: set[int] = set()
        self._missing: list[str] = []

    @classmethod
    def open(cls, root: Path, name: str, config: TrackConfig, command: str, records: Sequence[CellRecord]) -> Tracking:
        """Show the sweep, and close what dead processes left open."""
        problems = Problems()
        live = start_live(root, config, problems)
        if live is not None:
            live.open_sweep(name, {"command": command, "cells": str(len(records))})
        place = "off (track=none)"
        if config.enabled:
            uri, _ = chosen_uri(config.uri)
            place = masked(uri) if uri is not None else "make dashboard"
        return cls(live, problems, name, records, config.patience_s, place)

    def open_cell(self, index: int) -> None:
        """Show (or go on with) the run of a cell. Its record and frozen config are on disk."""
        if self._live is not None:
            self._live.open_cell(self._sweep, self._records[index].path)
            self._open.add(index)

    def watch(self, index: int, stage: str, folder: Path) -> None:
        """Mirror a stage while it runs."""
        if self._live is not None:
            self._live.watch(self._sweep, self._records[index].cell_id, stage, folder)

    def stage_done(self, index: int, stage: str, folder: Path) -> None:
        """Mirror the rest of a stage, also of one that was finished before."""
        if self._live is not None:
            self._live.stage_done(self._sweep, self._records[index].cell_id, stage, folder)

    def artifacts(self, index: int, folder: Path) -> None:
        """Mirror a folder of figures of a cell."""
        self.stage_done(index, "report", folder)

    def close_cell(self, index: int, status: Literal["finished", "failed", "killed"], reason: str | None) -> None:
        """Set the truthful status of a cell that was opened."""
        if self._live is not None and index in self._open:
            record = self._records[index]
            self._live.close_cell(self._sweep, record.cell_id, STATUS[status], reason, record.reused)

    def report(self, folder: Path) -> None:
        """Attach table and figures to the sweep's run."""
        if self._live is not None:
            self._live.report(self._sweep, folder)

    def finish(self, status: RunStatus) -> None:
        """Set the sweep's status, and wait for the tracker, for ``track.patience_s`` seconds at the longest."""
        if self._live is not None:
            self._live.close_sweep(self._sweep, status)
            self._missing = self._live.close(self._patience_s)

    def detach(self) -> None:
        """Stop watching and leave the runs as they are: others work on, and whoever looks next goes on from there."""
        if self._live is not None:
            self._missing = self._live.close(self._patience_s)

    def problems(self) -> list[str]:
        """What went wrong with the tracker, and how to get the rest, for the end of the run."""
        return told(self._problems, self._missing, [self._sweep])


def told(problems: Problems, missing: Sequence[str], sweeps: Sequence[str]) -> list[str]:
    """Lines for the end of a run."""
    summary = problems.summary(complete=not missing)
    lines = [summary] if summary else []
    if missing:
        shown = ", ".join(missing[:8]) + (f" and {len(missing) - 8} more" if len(missing) > 8 else "")
        command = " ".join(["python -m ssvae track sync", *sweeps])
        lines.append(f"not complete in MLflow: {shown}; it is all in the run folders; to send it: {command}")
    return lines
