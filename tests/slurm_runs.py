"""The smallest sweeps as Slurm jobs: helpers for the tests that submit, kill and interrupt them."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slurm_cluster import Cluster, wait_until
from ssvae.config.compose import PROJECT
from ssvae.core.jobs import JobFile, job_folder, jobs_folder, read_events, read_job
from ssvae.sweep.freeze import PARTS
from tiny_runs import TINY

PLAIN = ("launch=slurm_cpu", "launch.preflight=false")
ONE_JOB = (*PLAIN, "stage=pretrain", "stages.base=null")
"""A cell is one job, which trains a VAE and does nothing else."""
LONG = ("train.steps=150", "runtime.checkpoint_every=10")
"""Long enough to be caught in the middle."""


class Sweeps:
    """Command lines on the cluster, with results under ``root``. project: whose code and configs are used."""

    def __init__(self, slurm: Cluster, root: Path, project: Path = PROJECT) -> None:
        self.slurm = slurm
        self.root = root
        self.project = project

    @property
    def env(self) -> dict[str, str]:
        """For a process on the cluster's login node."""
        more = {"SSVAE_ROOT": str(self.root), "OMP_NUM_THREADS": "1", "COLUMNS": "200", "PYTHONUNBUFFERED": "1"}
        return {**self.slurm.env, **more, "PYTHONPATH": str(self.project / "src")}

    def command(self, *overrides: str) -> list[str]:
        """``python run.py`` of the project, tiny."""
        return [sys.executable, str(self.project / "run.py"), *TINY, *overrides]

    def run(self, *overrides: str, code: int = 0) -> str:
        """Run a sweep to the end of its command; returns what it printed. AssertionError for another exit code."""
        return self._call(self.command(*overrides), code)

    def verb(self, *words: str, code: int = 0) -> str:
        """``python -m ssvae words``, likewise."""
        return self._call([sys.executable, "-m", "ssvae", *words], code)

    def _call(self, command: list[str], code: int) -> str:
        done = subprocess.run(
            command, env=self.env, cwd=self.project, stdout=-1, stderr=-2, text=True, timeout=300, check=False
        )
        assert done.returncode == code, f"exit code {done.returncode}: {done.stdout[-6000:]}"
        return done.stdout

    @contextmanager
    def attached(self, *overrides: str) -> Iterator[subprocess.Popen[str]]:
        """A sweep whose command waits in the background; what it prints is in ``root/out.txt``."""
        with (self.root / "out.txt").open("w") as out:
            process = subprocess.Popen(
                self.command(*overrides),
                env=self.env,
                cwd=self.project,
                stdout=out,
                stderr=out,
                text=True,
                # A test run that was started in the background hands an ignored SIGINT down.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    @property
    def printed(self) -> str:
        """Of :meth:`attached`."""
        return (self.root / "out.txt").read_text()

    def jobs(self) -> list[JobFile]:
        """All jobs, in the order of Slurm's numbers."""
        found = [read_job(folder) for folder in jobs_folder(self.root).glob("*-*")]
        return sorted(found, key=lambda job: _number(str(job.scheduler_id)))

    def job(self, label: str = "") -> JobFile:
        """The only job whose cell's label contains that text."""
        (found,) = [job for job in self.jobs() if label in job.label]
        return found

    def events(self, job: JobFile, event: str) -> list[dict[str, Any]]:
        """What is written of a job under that name."""
        return [one for one in read_events(job_folder(self.root, job.job_id)) if one["event"] == event]

    def submitted(self, count: int, timeout: float = 90) -> list[JobFile]:
        """The jobs, once there are so many that Slurm knows."""

        def known() -> list[JobFile]:
            found = [folder for folder in jobs_folder(self.root).glob("*-*") if (folder / "job.json").exists()]
            jobs = [read_job(folder) for folder in found]
            return jobs if sum(job.scheduler_id is not None for job in jobs) == count else []

        wait_until(known, f"{count} submitted jobs", timeout)
        return self.jobs()

    def in_the_middle(self, job: JobFile, timeout: float = 90) -> None:
        """Wait until the job has saved a checkpoint, and freeze all its ranks there."""
        (folder,) = (self.root / where for where in job.stages.values())
        number = str(job.scheduler_id)
        wait_until(lambda: len(self.slurm.processes(number)) == job.world, f"ranks of {job.job_id}", timeout)
        pids = self.slurm.processes(number)
        wait_until(lambda: (folder / "checkpoint.pt").exists(), f"checkpoint of {job.job_id}", timeout, every=0.01)
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        assert not (folder / "done.json").exists()

    def thaw(self, job: JobFile) -> None:
        """Let the ranks go on."""
        for pid in self.slurm.processes(str(job.scheduler_id)):
            os.kill(pid, signal.SIGCONT)

    def table(self) -> list[dict[str, str]]:
        """The rows of the results' table."""
        (path,) = self.root.glob("results/*/table.csv")
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


def working_copy(place: Path) -> Path:
    """A copy of this project, which can be edited without harm."""
    place.mkdir()
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in PARTS:
        source = PROJECT / part
        if source.is_dir():
            shutil.copytree(source, place / part, symlinks=True, ignore=skipped)
        else:
            shutil.copy2(source, place / part)
    return place


def _number(scheduler_id: str) -> tuple[int, ...]:
    return tuple(int(part) for part in scheduler_id.split("_") if part.isdigit())
