"""End the jobs of a sweep: what they have done is kept, and the same command goes on from there."""

from __future__ import annotations

import subprocess
from collections.abc import Collection, Sequence
from pathlib import Path

from ssvae.core.jobs import JobFile, append_event, job_folder, read_job, sweep_jobs
from ssvae.core.queue import SlurmQueue
from ssvae.sweep.supervisor import end_orphan, stop_supervisor


def cancel(root: Path, sweep: str) -> list[str]:
    """Cancel what of the sweep is queued or runs; returns what was told so.

    Jobs that other sweeps wait for, too, are left alone. Raises ValueError for a sweep without jobs, and where Slurm
    refuses.
    """
    jobs = [read_job(job_folder(root, job_id)) for job_id in sweep_jobs(root, sweep)]
    if not jobs:
        raise ValueError(f"sweep {sweep!r} has no jobs: what runs in a terminal is ended there, with Ctrl-C")
    told = ["the local supervisor and its jobs"] if stop_supervisor(root, sweep) else []
    if not told:
        # Ranks that a killed supervisor has left behind.
        homes = [job_folder(root, job.job_id) for job in jobs if job.launcher == "local"]
        told = [f"{home.name}, which a supervisor had left behind" for home in homes if end_orphan(home)]
    return [*told, *_cancel([job for job in jobs if set(job.sweeps) <= {sweep}])]


def cancel_cells(root: Path, sweep: str, cells: Collection[str]) -> list[str]:
    """As :func:`cancel`, for Slurm jobs that none but ``cells`` of the sweep need."""
    jobs = [read_job(job_folder(root, job_id)) for job_id in sweep_jobs(root, sweep)]
    return _cancel([job for job in jobs if set(job.sweeps) <= {sweep} and set(job.cells) <= set(cells)])


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
            append_event(job_folder(Path(job.root), job.job_id), "cancelled", reason="cancelled by the user")
    return [f"{numbers[number].job_id} (Slurm job {number})" for number in live]
