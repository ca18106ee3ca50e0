"""A grid as jobs: frozen, submitted, and followed until all have ended or the user leaves."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.markup import escape

from ssvae.config.compose import load_cell
from ssvae.core.files import exclusive, write_text
from ssvae.core.jobs import JobFile, job_folder, submit_lock, sweep_jobs, write_job, write_sweep_jobs
from ssvae.core.paths import PROJECT
from ssvae.core.stop import Stop
from ssvae.report.cell_state import CellState
from ssvae.report.refresh import refresh_records
from ssvae.report.state import SweepWatch, counts
from ssvae.report.status_table import live_table
from ssvae.stages.plan import StagePlan
from ssvae.sweep.freeze import freeze_code
from ssvae.sweep.job_graph import JobPlan, plan_jobs
from ssvae.sweep.launcher import Launcher
from ssvae.sweep.live_jobs import live_jobs
from ssvae.sweep.local_jobs import start_supervisor
from ssvae.sweep.planned import PlannedCell
from ssvae.sweep.record import CellRecord
from ssvae.sweep.submit import submit_jobs

LOOK_S = 2.0


@dataclass(frozen=True)
class Submitted:
    """new: jobs submitted now. waiting: jobs of earlier calls that this one waits for. other: those among them whose
    code or queue is not what this call would have used. extra: the sweep's jobs, alive, that this call does not need.
    """

    new: list[str]
    waiting: list[str]
    other: list[str]
    extra: list[str]

    def lines(self, name: str, where: str) -> list[str]:
        """In words. where: such as ``to Slurm``."""
        said = [f"{len(self.new)} job{'' if len(self.new) == 1 else 's'} submitted {where}"]
        if self.waiting:
            said.append(f"{len(self.waiting)} more wait or run already, as they were submitted then")
        if self.other:
            end = f"python -m ssvae cancel {name} ends them, and the same command submits them anew"
            said.append(f"with other code or another queue than now: {', '.join(self.other)}; {end}")
        if self.extra:
            said.append(f"not asked for this time, and going on: {', '.join(self.extra)}")
        return said


def submit(
    root: Path, name: str, planned: Sequence[PlannedCell], launcher: Launcher, *, beside: bool = False
) -> Submitted:
    """Freeze config and code and submit what is missing.

    What jobs of an earlier call, also of another sweep, are going to make is left to them. beside: the sweep's other
    jobs go on being its own, rather than what an earlier call left. Raises ValueError where the queue cannot be asked
    about them, and where the other launcher's jobs make what is missing: a second copy would compute beside the first.
    """
    with exclusive(submit_lock(root), wait=True):
        return _submit(root, name, planned, launcher, beside)


def _submit(root: Path, name: str, planned: Sequence[PlannedCell], launcher: Launcher, beside: bool) -> Submitted:
    assert launcher.by != "here"
    live = live_jobs(root, launcher.by)
    others = live_jobs(root, "local" if launcher.by == "slurm" else "slurm")

    def maker(plan: StagePlan) -> str | None:
        if (other := others.maker(plan.folder, root)) is not None:
            where = "on this machine" if other.launcher == "local" else f"as Slurm's job {other.scheduler_id}"
            end = f"python -m ssvae cancel {other.sweeps[0]}"
            raise ValueError(f"{other.job_id} waits or runs already, {where}: wait for it, or end it with {end}")
        job = live.maker(plan.folder, root)
        return job.job_id if job is not None else None

    plans, joined = plan_jobs(planned, launcher.config.jobs, maker)
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
    before = sweep_jobs(root, name)
    extra = [job_id for job_id in before if job_id in live.jobs() and job_id not in joined]
    write_sweep_jobs(root, name, list(dict.fromkeys([*(before if beside else extra), *joined, *files])))
    if launcher.by == "slurm":
        folder = root / "runs" / "sweeps" / name / "submitit"
        submit_jobs(plans, files, live.numbers(), launcher.config.array_size, folder)
    elif plans or joined:
        # Also where one is at work: it may be about to end, and this one waits for that; and where all is another
        # sweep's to make: that may be cancelled.
        start_supervisor(root, name, code, launcher.config.parallel)
    other = [job_id for job_id in joined if _differs(root, live.jobs()[job_id], launcher, code)]
    return Submitted(list(files), joined, other, [] if beside else extra)


def _differs(root: Path, job: JobFile, launcher: Launcher, code: Path) -> bool:
    """Would this call run the job otherwise?"""
    if job.code != str(code):
        return True
    try:
        frozen = load_cell(root / job.config).launch
    except ValueError:
        return True  # it was submitted by another version
    return any(frozen.jobs.of(stage) != launcher.config.jobs.of(stage) for stage in job.stages)


def follow(
    root: Path,
    name: str,
    records: Sequence[CellRecord],
    console: Console,
    seen: Callable[[Sequence[CellState]], None],
    stop: Stop,
) -> list[CellState] | None:
    """Show the live table until no job is left that goes on; None if this call was told to leave before (Ctrl-C, or
    ``stop``).

    seen: called with the cells' states at every look.
    """
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
        needs=list(plan.needs),
        retries=config.retries,
        max_requeues=queue.max_num_timeout,
        timeout_min=queue.timeout_min,
        preflight=config.preflight,
        fail_fast=config.fail_fast,
        signal_delay_s=queue.signal_delay_s,
    )


def _told(rows: Sequence[CellState]) -> str:
    lines = [f"  {row.name}: {row.status}{', ' + row.stage if row.stage else ''}" for row in rows]
    lines += [f"  {row.name}: {row.reason}" for row in rows if row.reason]
    return "\n".join([counts(rows), *lines])
