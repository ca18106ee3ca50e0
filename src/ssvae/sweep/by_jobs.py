"""A grid as jobs: frozen, submitted, and followed until all have ended or the user leaves."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape

from ssvae.core.files import exclusive, write_text
from ssvae.core.jobs import JobFile, job_folder, jobs_folder, sweep_jobs, write_job, write_sweep_jobs
from ssvae.core.paths import PROJECT
from ssvae.core.stop import Stop
from ssvae.report.cell_state import CellState
from ssvae.report.refresh import refresh_records
from ssvae.report.state import SweepWatch, counts
from ssvae.report.status_table import live_table
from ssvae.sweep.freeze import freeze_code
from ssvae.sweep.job_graph import JobPlan, plan_jobs
from ssvae.sweep.launcher import Launcher
from ssvae.sweep.live_jobs import on_slurm, on_this_machine
from ssvae.sweep.planned import PlannedCell
from ssvae.sweep.record import CellRecord
from ssvae.sweep.submit import submit_jobs
from ssvae.sweep.supervisor import at_work, start_supervisor

LOOK_S = 2.0
_START_S = 30.0


def submit(
    root: Path, name: str, planned: Sequence[PlannedCell], launcher: Launcher, console: Console, *, beside: bool = False
) -> int:
    """Freeze config and code and submit what is missing; returns how many jobs were submitted now.

    What jobs of an earlier call, also of another sweep, are going to make is left to them. beside: the sweep's other
    jobs go on being its own, rather than what an earlier call left. Raises ValueError where the queue cannot be asked
    about them: a second copy of a job would compute beside the first.
    """
    # Two calls at once, of one sweep or of two that share a stage, must not both find a job missing.
    with exclusive(jobs_folder(root) / ".submit.lock", wait=True):
        return _submit(root, name, planned, launcher, console, beside)


def _submit(
    root: Path, name: str, planned: Sequence[PlannedCell], launcher: Launcher, console: Console, beside: bool
) -> int:
    live = on_slurm(root) if launcher.by == "slurm" else on_this_machine(root, name)
    plans, joined = plan_jobs(planned, launcher.config.jobs, lambda plan: live.maker(plan.folder, root))
    code = freeze_code(PROJECT, root)
    files = {plan.job_id: _job_file(root, name, plan, launcher, code) for plan in plans}
    for plan in plans:
        folder = job_folder(root, plan.job_id)
        first = plan.cells[0].cell_id
        frozen = (root / "runs" / "sweeps" / name / "cells" / f"{first}.yaml").read_text(encoding="utf-8")
        write_text(folder / "config.yaml", frozen)
        write_job(folder, files[plan.job_id])
    for job_id in joined:
        live.join(root, job_id, name)
    at_it = launcher.by == "local" and bool(live.makers)
    others = sweep_jobs(root, name) if beside or at_it else []
    write_sweep_jobs(root, name, list(dict.fromkeys([*others, *joined, *files])))
    if not plans:
        return 0
    if launcher.by == "slurm":
        folder = root / "runs" / "sweeps" / name / "submitit"
        submit_jobs(plans, files, live.numbers(), launcher.config.array_size, folder)
    else:
        # Also where one is at work: it may be about to end, and this one waits for that.
        start_supervisor(root, name, code, launcher.config.parallel)
        _wait_for_supervisor(root, name)
    return len(plans)


def follow(
    root: Path, name: str, records: Sequence[CellRecord], console: Console, seen: Seen, stop: Stop
) -> list[CellState] | None:
    """Show the live table until no job is left that goes on; None if this call was told to leave before (Ctrl-C, or
    ``stop``)."""
    watch = SweepWatch(root, name)
    rows = watch.rows()
    said = ""
    try:
        with Live(live_table(rows, f"sweep {name}"), console=console, auto_refresh=False, transient=True) as live:
            while True:
                rows = watch.rows()
                seen(rows)
                if console.is_terminal:
                    live.update(live_table(rows, f"sweep {name}", most=console.height - 6), refresh=True)
                elif (now := _told(rows)) != said:
                    console.print(escape(now), soft_wrap=True)
                    said = now
                if not any(row.active for row in rows):
                    break
                if stop.asked:
                    return None
                time.sleep(LOOK_S)
    except KeyboardInterrupt:
        return None
    refresh_records(root, name, rows)
    for record in records:
        record.reload()
    return rows


class Seen:
    """What is done with every look at the sweep; this one does nothing."""

    def __call__(self, rows: Sequence[CellState]) -> None:
        return None


def how_to_come_back(name: str) -> str:
    """For a user who leaves."""
    return (
        f"jobs go on without this terminal. Look: python -m ssvae status {name}; "
        f"table: python -m ssvae collect {name}; end them: python -m ssvae cancel {name}"
    )


def _job_file(root: Path, name: str, plan: JobPlan, launcher: Launcher, code: Path) -> JobFile:
    queue, config = plan.queue, launcher.config
    assert launcher.by != "here"
    return JobFile(
        job_id=plan.job_id,
        kind=plan.kind,
        stages={stage: str(one.folder.relative_to(root)) for stage, one in plan.stages.items()},
        cell=plan.cells[0].cell_id,
        cells=[one.cell_id for one in plan.cells],
        config=str((job_folder(root, plan.job_id) / "config.yaml").relative_to(root)),
        sweeps=[name],
        label=plan.label,
        root=str(root),
        code=str(code),
        launcher=launcher.by,
        world=queue.world,
        nodes=queue.nodes,
        needs=list(plan.needs),
        retries=config.retries,
        max_requeues=queue.max_num_timeout,
        timeout_min=queue.timeout_min,
        preflight=config.preflight,
        fail_fast=config.fail_fast,
        signal_delay_s=queue.signal_delay_s,
    )


def _wait_for_supervisor(root: Path, name: str) -> None:
    log = root / "runs" / "sweeps" / name / "supervisor.log"
    deadline = time.monotonic() + _START_S
    note = root / "runs" / "sweeps" / name / "supervisor.json"
    before = note.stat().st_mtime_ns if note.exists() else 0
    while time.monotonic() < deadline:
        # It may have ended again: then it has written its name all the same.
        if at_work(root, name) or (note.exists() and note.stat().st_mtime_ns != before):
            return
        time.sleep(0.1)
    raise RuntimeError(f"the local supervisor of {name} did not start within {_START_S:g} s; its log: {log}")


def _told(rows: Sequence[CellState]) -> str:
    lines = [f"  {row.name}: {row.status}{', ' + row.stage if row.stage else ''}" for row in rows]
    lines += [f"  {row.name}: {row.reason}" for row in rows if row.reason]
    return "\n".join([counts(rows), *lines])
