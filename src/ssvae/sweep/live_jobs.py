"""Jobs that wait or run already: whatever they make is not made a second time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ssvae.core.jobs import JobFile, LaunchedBy, history, job_folder, jobs_folder, read_job, write_job
from ssvae.core.queue import UNKNOWN, SlurmQueue
from ssvae.sweep.after_job import finished
from ssvae.sweep.local_jobs import at_work


@dataclass(frozen=True)
class LiveJobs:
    """makers: folder of a stage, relative to the root -> the job that is going to make it."""

    makers: dict[str, JobFile]

    def maker(self, folder: Path, root: Path) -> JobFile | None:
        """The job that makes the stage of ``folder``."""
        return self.makers.get(str(folder.relative_to(root)))

    def jobs(self) -> dict[str, JobFile]:
        """All of them, by id."""
        return {job.job_id: job for job in self.makers.values()}

    def numbers(self) -> dict[str, str]:
        """Job -> Slurm's number."""
        return {job_id: job.scheduler_id for job_id, job in self.jobs().items() if job.scheduler_id is not None}

    def join(self, root: Path, job_id: str, sweep: str) -> None:
        """Note that ``sweep`` waits for a job, too: its end is no longer the other sweep's alone."""
        job = self.jobs()[job_id]
        if sweep not in job.sweeps:
            write_job(job_folder(root, job_id), replace(job, sweeps=[*job.sweeps, sweep]))


def live_jobs(root: Path, by: LaunchedBy) -> LiveJobs:
    """The jobs of the root, whichever sweep has submitted them, that Slurm or this machine's supervisors have waiting
    or running. Raises ValueError where Slurm cannot be asked."""
    return on_slurm(root) if by == "slurm" else on_this_machine(root)


def on_slurm(root: Path) -> LiveJobs:
    """All jobs of the root that Slurm has waiting or running.

    Raises ValueError where Slurm cannot be asked; a machine without Slurm has none.
    """
    known: dict[str, JobFile] = {}
    if shutil.which("squeue") is None:
        return LiveJobs({})
    for job in _unfinished(root, "slurm"):
        # Where a submission was cut off right behind sbatch's answer, the job's own first word has the number.
        number = job.scheduler_id or history(job_folder(root, job.job_id)).scheduler_id
        if number is not None:
            known[number] = replace(job, scheduler_id=number)
    states = SlurmQueue().states(known)
    unknown = [f"{known[number].job_id} ({number})" for number, state in states.items() if state.state == UNKNOWN]
    if unknown:
        reason = next(state.reason for state in states.values() if state.state == UNKNOWN)
        raise ValueError(f"Slurm cannot be asked whether {', '.join(unknown[:3])} still runs: {reason}; try again")
    return LiveJobs(_makers([known[number] for number, state in states.items() if not state.ended]))


def on_this_machine(root: Path) -> LiveJobs:
    """All local jobs of the root that a supervisor has, or is about to take up."""
    awake: dict[str, bool] = {}
    found = []
    for job in _unfinished(root, "local"):
        for sweep in job.sweeps:
            if sweep not in awake:
                awake[sweep] = at_work(root, sweep)
        told = history(job_folder(root, job.job_id))
        ended = told.next == "none" and not told.running
        if not ended and any(awake[sweep] for sweep in job.sweeps):
            found.append(job)
    return LiveJobs(_makers(found))


def _unfinished(root: Path, launcher: LaunchedBy) -> Iterator[JobFile]:
    for path in sorted(jobs_folder(root).glob("*/job.json")):
        job = read_job(path.parent)
        if job.launcher == launcher and not finished(job):
            yield job


def _makers(jobs: Sequence[JobFile]) -> dict[str, JobFile]:
    return {folder: job for job in jobs for folder in job.stages.values()}
