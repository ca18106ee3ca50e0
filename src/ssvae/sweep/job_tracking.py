"""What a job tells the tracker while it runs: the stages that it makes, in the runs of all cells that need them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ssvae.config.run import TrackConfig
from ssvae.core.jobs import JobFile
from ssvae.core.tracking_uri import writes_from_jobs
from ssvae.sweep.tracking import start_live, told
from ssvae.track.base import Problems
from ssvae.track.live import Live
from ssvae.track.records import CellFile, read_cell

logger = logging.getLogger(__name__)
_HURRY_S = 5.0
"""Longest wait for the tracker in a job that was asked to stop: what is left of its time is for saving."""


@contextmanager
def tracked(root: Path, job: JobFile, config: TrackConfig) -> Iterator[None]:
    """Mirror the job's stages live, where the tracker is a server; nothing inside is ever held up.

    A database in a file has one writer, the process that waits for the sweep or ``track sync``: many nodes at once
    would break it on a shared file system. Every cell whose last stage this was is closed as FINISHED. A job that fails
    or is interrupted leaves its cells RUNNING: whether it is started again is decided later, and elsewhere.
    """
    problems = Problems()
    live = start_live(root, config, problems) if config.enabled and writes_from_jobs(config.uri) else None
    if live is None:
        yield
        return
    shown = _show(live, root, job)
    finished = False
    try:
        yield
        finished = True
    finally:
        if finished:
            for sweep, cell in shown:
                _end(live, sweep, cell)
        missing = live.close(config.patience_s if finished else min(config.patience_s, _HURRY_S))
        for line in told(problems, missing, job.sweeps):
            logger.warning("%s", line)


def _show(live: Live, root: Path, job: JobFile) -> list[tuple[str, CellFile]]:
    """Open the runs of all cells that need the job, and watch its stages; a cell without a record is left out."""
    shown = []
    for sweep in job.sweeps:
        live.open_sweep(sweep, {}, own=False)
        for cell_id in job.cells:
            path = root / "runs" / "sweeps" / sweep / "cells" / f"{cell_id}.json"
            if not path.exists():
                continue
            cell = read_cell(root, path)
            shown.append((sweep, cell))
            live.open_cell(sweep, path)
            for stage, where in job.stages.items():
                if cell.stages.get(stage) == root / where:
                    live.watch(sweep, cell_id, stage, root / where)
    return shown


def _end(live: Live, sweep: str, cell: CellFile) -> None:
    """Show all that is finished of a cell, stages that no job made too, and close it where nothing is left to do."""
    there = [name for name, folder in cell.stages.items() if (folder / "done.json").exists()]
    for name in there:
        live.stage_done(sweep, cell.cell_id, name, cell.stages[name])
    # A base has done its work once what continues it is finished.
    if all(name in there or (name == "base" and "pretrain" in there) for name in cell.stages):
        live.close_cell(sweep, cell.cell_id, "FINISHED", None, cell.reused)
