"""End the jobs of a sweep: what they have done is kept, and the same command goes on from there."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ssvae.core.files import exclusive, read_json
from ssvae.core.jobs import (
    BY_USER,
    JobFile,
    append_event,
    history,
    job_folder,
    read_job,
    submit_lock,
    sweep_jobs,
    write_job,
)
from ssvae.core.queue import SlurmQueue
from ssvae.sweep.after_job import finished
from ssvae.sweep.local_jobs import end_orphan, kept, stop_supervisor, supervisor_note


@dataclass(frozen=True)
class Cancelled:
    """ended, spared: jobs in words; spared are those that other sweeps wait for."""

    ended: list[str]
    spared: list[str]


def cancel(root: Path, sweep: str) -> Cancelled:
    """Cancel what of the sweep is queued or runs.

    A job that other sweeps wait for is left to them; it ends when the last of them is cancelled. Raises
    ValueError for a sweep without jobs, and where Slurm refuses.
    """
    with exclusive(submit_lock(root), wait=True):
        jobs = [read_job(job_folder(root, job_id)) for job_id in sweep_jobs(root, sweep)]
        if not jobs:
            raise ValueError(f"sweep {sweep!r} has no jobs: what runs in a terminal is ended there, with Ctrl-C")
        left = [job for job in jobs if not finished(job)]
        ours, spared = _let_go(root, sweep, left)
        # The supervisor ends whatever it has; that of a sweep that waits for one of these takes it over.
        local = _cancel_local(root, sweep, [job for job in ours if job.launcher == "local"])
        on_slurm = _cancel([job for job in ours if job.launcher == "slurm"])
        return Cancelled([*local, *on_slurm], spared)


def cancel_cells(root: Path, sweep: str, cells: Collection[str]) -> None:
    """As :func:`cancel`, for Slurm jobs that none but ``cells`` of the sweep need."""
    with exclusive(submit_lock(root), wait=True):
        jobs = [read_job(job_folder(root, job_id)) for job_id in sweep_jobs(root, sweep)]
        _cancel([job for job in jobs if not _others(root, sweep, job) and set(job.cells) <= set(cells)])


def _cancel_local(root: Path, sweep: str, jobs: Sequence[JobFile]) -> list[str]:
    mine = [job for job in jobs if kept(root, job) and _keeper_is(root, sweep, job)]
    if stop_supervisor(root, sweep):
        return [f"{job.job_id} (on this machine)" for job in mine] or ["the local supervisor"]
    # Ranks that a killed supervisor has left behind.
    homes = [job_folder(root, job.job_id) for job in jobs if not kept(root, job)]
    return [f"{home.name}, which a supervisor had left behind" for home in homes if end_orphan(home)]


def _keeper_is(root: Path, sweep: str, job: JobFile) -> bool:
    """Is it this sweep's supervisor that has the job?"""
    keeper, note = history(job_folder(root, job.job_id)).keeper, supervisor_note(root, sweep)
    return keeper is not None and note.exists() and read_json(note)["pid"] == keeper.pid


def _let_go(root: Path, sweep: str, jobs: Sequence[JobFile]) -> tuple[list[JobFile], list[str]]:
    """The jobs that nobody else waits for; of the others ``sweep`` is struck out, and who waits is said."""
    ours, spared = [], []
    for job in jobs:
        others = _others(root, sweep, job)
        if not others:
            ours.append(job)
        else:
            write_job(job_folder(root, job.job_id), replace(job, sweeps=others))
            spared.append(f"{job.job_id} goes on: {', '.join(others)} {'needs' if len(others) == 1 else 'need'} it")
    return ours, spared


def _others(root: Path, sweep: str, job: JobFile) -> list[str]:
    """The other sweeps that wait for a job; one whose list does not have it any more does not."""
    return [one for one in job.sweeps if one != sweep and job.job_id in sweep_jobs(root, one)]


def _cancel(jobs: Sequence[JobFile]) -> list[str]:
    numbers = {job.scheduler_id: job for job in jobs if job.scheduler_id is not None}
    states = SlurmQueue().states(numbers)
    live = [number for number, state in states.items() if not state.ended]
    if live:
        done = subprocess.run(["scancel", *live], capture_output=True, text=True, timeout=60, check=False)
        if done.returncode:
            raise ValueError(f"scancel {' '.join(live)}: {done.stderr.strip()}")
        for number in live:
            job = numbers[number]
            append_event(job_folder(Path(job.root), job.job_id), "cancelled", reason=BY_USER)
    return [f"{numbers[number].job_id} (Slurm job {number})" for number in live]
