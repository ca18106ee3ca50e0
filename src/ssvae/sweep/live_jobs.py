"""Jobs that wait or run already: whatever they make is not made a second time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ssvae.core.jobs import JobFile, history, job_folder, jobs_folder, read_job, sweep_jobs, write_job
from ssvae.core.queue import UNKNOWN, SlurmQueue
from ssvae.sweep.after_job import finished
from ssvae.sweep.supervisor import at_work


@dataclass(frozen=True)
class LiveJobs:
    """makers: folder of a stage, relative to the root -> the job that is going to make it."""

    makers: dict[str, JobFile]

    def maker(self, folder: Path, root: Path) -> str | None:
        """The job that makes the stage of ``folder``."""
        job = self.makers.get(str(folder.relative_to(root)))
        return job.job_id if job is not None else None

    def numbers(self) -> dict[str, str]:
        """Job -> Slurm's number."""
        return {job.job_id: job.scheduler_id for job in self.makers.values() if job.scheduler_id is not None}

    def join(self, root: Path, job_id: str, sweep: str) -> None:
        """Note that ``sweep`` waits for a job, too: its end is no longer the other sweep's alone."""
        job = next(job for job in self.makers.values() if job.job_id == job_id)
        if sweep not in job.sweeps:
            write_job(job_folder(root, job_id), replace(job, sweeps=[*job.sweeps, sweep]))


def on_slurm(root: Path) -> LiveJobs:
    """All jobs of the root that Slurm has waiting or running, whichever sweep has submitted them.

    Raises ValueError where Slurm cannot be asked.
    """
    known: dict[str, JobFile] = {}
    for path in jobs_folder(root).glob("*/job.json"):
        job = read_job(path.parent)
        # Where a submission was cut off right behind sbatch's answer, the job's own first word has the number.
        job = replace(job, scheduler_id=job.scheduler_id or history(path.parent).scheduler_id)
        if job.scheduler_id is not None and not finished(job):
            known[job.scheduler_id] = job
    states = SlurmQueue().states(known)
    unknown = [f"{known[number].job_id} ({number})" for number, state in states.items() if state.state == UNKNOWN]
    if unknown:
        reason = next(state.reason for state in states.values() if state.state == UNKNOWN)
        raise ValueError(f"Slurm cannot be asked whether {', '.join(unknown[:3])} still runs: {reason}; try again")
    return LiveJobs(_makers([known[number] for number, state in states.items() if not state.ended]))


def on_this_machine(root: Path, sweep: str) -> LiveJobs:
    """The jobs that the sweep's supervisor has, where one is at work."""
    if not at_work(root, sweep):
        return LiveJobs({})
    return LiveJobs(_makers([read_job(job_folder(root, job_id)) for job_id in sweep_jobs(root, sweep)]))


def _makers(jobs: list[JobFile]) -> dict[str, JobFile]:
    return {folder: job for job in jobs for folder in job.stages.values()}
