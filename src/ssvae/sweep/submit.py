"""Jobs into Slurm, through submitit: arrays, dependencies, and a batch script that knows what to do at its end."""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from submitit import AutoExecutor

from ssvae.config.launch import QueueConfig
from ssvae.core.files import write_text
from ssvae.core.jobs import JobFile, append_event, job_folder, write_job
from ssvae.sweep.after_job import numbered
from ssvae.sweep.job import RunJob
from ssvae.sweep.job_graph import JobPlan, arrays

logger = logging.getLogger(__name__)
_SHARED = (
    "timeout_min",
    "mem_gb",
    "nodes",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "stderr_to_stdout",
    "name",
)
"""Settings of every launcher; submitit wants the others under ``slurm_``, as the launcher plugin gives them."""
_SITE = ("account", "partition", "qos", "constraint", "reservation")
"""What a site may set for its users in their shell."""
_OURS = ("max_num_timeout",)
"""Settings that our own script at a job's end carries out."""


def slurm_problem() -> str | None:
    """Why no job can be submitted from here, or None."""
    missing = [name for name in ("sbatch", "srun", "squeue", "scontrol") if shutil.which(name) is None]
    if not missing:
        return None
    return f"launch = slurm: no {', '.join(missing)} on the PATH: submit from a login node, or use launch=local"


def submit_jobs(
    plans: Sequence[JobPlan], files: Mapping[str, JobFile], queued: Mapping[str, str], array_size: int, folder: Path
) -> dict[str, str]:
    """Submit ``plans`` (each behind those it needs); returns job id -> Slurm's id.

    files: their job files, written already. queued: jobs of earlier submissions that some of ``plans`` need -> Slurm's
    id. folder: where submitit keeps calls and logs, on a file system that all nodes see. Each id is noted as soon as it
    is known, so that a submission that breaks off loses no job. Raises submitit's FailedJobError with sbatch's words.
    """
    ids = dict(queued)
    overruled: set[str] = set()
    for chunk in arrays(plans, array_size):
        settings = parameters(chunk[0], _dependency(chunk, ids), files[chunk[0].job_id])
        executor = AutoExecutor(folder / "%j", cluster="slurm")
        executor.update_parameters(**settings)
        with _uninterrupted(), _ours_alone(settings) as hidden:
            ids |= _submit_array(executor, chunk, files)
        overruled |= hidden
    if overruled:
        logger.info("the queue's settings count, not the shell's %s", ", ".join(sorted(overruled)))
    return {job.job_id: ids[job.job_id] for job in plans}


def _submit_array(executor: AutoExecutor, chunk: Sequence[JobPlan], files: Mapping[str, JobFile]) -> dict[str, str]:
    """Submit jobs as one array and note their numbers."""
    homes = [job_folder(Path(files[job.job_id].root), job.job_id) for job in chunk]
    with executor.batch():
        submitted = [executor.submit(RunJob(home)) for home in homes]
    ids: dict[str, str] = {}
    for home, job, made in zip(homes, chunk, submitted, strict=True):
        number = ids[job.job_id] = str(made.job_id)
        # The batch script's end knows no other name of its job.
        write_text(numbered(Path(files[job.job_id].root), number), job.job_id)
        append_event(home, "submitted", scheduler_id=number)
        write_job(home, replace(files[job.job_id], scheduler_id=number))
    return ids


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Hold Ctrl-C back: between sbatch's answer and our note of it, a job would be forgotten.

    The terminal sends it to sbatch, too, which inherits the mask; other threads may still take ours, hence the handler.
    """
    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)
    if asked:
        raise KeyboardInterrupt


@contextmanager
def _ours_alone(settings: Mapping[str, Any]) -> Iterator[set[str]]:
    """Hide the shell's ``SBATCH_*``: they go before the script, and would undo its limit or its requeue. What a site
    sets for its users counts where the queue leaves it open. Gives the names of those hidden."""
    given = {name.removeprefix("slurm_") for name in settings} | set(settings["slurm_additional_parameters"])
    kept = {f"SBATCH_{name.upper()}" for name in _SITE if name not in given}
    hidden = {
        name: os.environ.pop(name) for name in list(os.environ) if name.startswith("SBATCH_") and name not in kept
    }
    try:
        yield set(hidden)
    finally:
        os.environ.update(hidden)


def parameters(plan: JobPlan, dependency: str | None, job: JobFile) -> dict[str, Any]:
    """What submitit is told about a job: the queue's settings under its names, and what our guarantees need."""
    queue = plan.queue
    values = {field.name: getattr(queue, field.name) for field in fields(QueueConfig)}
    settings = {name: value for name, value in values.items() if value is not None and name not in _OURS}
    more = {"requeue": True, "kill-on-invalid-dep": "yes", **queue.additional_parameters}
    settings.update(
        name=f"ssvae-{plan.job_id}",
        additional_parameters=more,
        # One rank that is gone must end the others: they would wait for it until the limit.
        srun_args=["--kill-on-bad-exit=1"],
        setup=[*(queue.setup or []), *_before(job)],
        teardown=_after(),
    )
    if dependency is not None:
        settings["dependency"] = dependency
    return {name if name in _SHARED else f"slurm_{name}": value for name, value in settings.items()}


def _dependency(chunk: Sequence[JobPlan], ids: Mapping[str, str]) -> str | None:
    """As sbatch writes it. Elements of an array that need elements of another wait for their own ones only."""
    known = [[ids[parent] for parent in job.needs if parent in ids] for job in chunk]
    if not any(known):
        return None
    if len({tuple(one) for one in known}) == 1:
        return "afterok:" + ":".join(known[0])
    parents = [sorted({one.rpartition("_")[0] for one in column}) for column in zip(*known, strict=True)]
    assert all(len(column) == 1 for column in parents), known
    return ",".join(f"aftercorr:{column[0]}" for column in parents)


def _before(job: JobFile) -> list[str]:
    """Lines before srun: the frozen code, whatever the working folder holds, and a shell that outlives a signal."""
    return [
        "set +e",
        # A shell without a trap dies of the signal that only asks its ranks to save.
        "trap : TERM USR2",
        # Relative paths of the config start where the sweep was started, whatever ``setup`` has done.
        f"cd -- {shlex.quote(str(Path.cwd()))}",
        # Ahead of what ``setup`` (module load) has put there.
        f"export PYTHONPATH={shlex.quote(str(Path(job.code) / 'src'))}${{PYTHONPATH:+:$PYTHONPATH}}",
        "export PYTHONSAFEPATH=1",
        f"export SSVAE_ROOT={shlex.quote(job.root)}",
        # The name that scontrol takes for this job alone: the last element of an array has the whole array's number.
        'ssvae_id="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}}"',
        'ssvae_id="${ssvae_id:-$SLURM_JOB_ID}"',
    ]


def _after() -> list[str]:
    """Lines behind srun. The job's folder is found by Slurm's number, which only Slurm knows by then."""
    python = shlex.quote(sys.executable)
    return ["ssvae_code=$?", f'exec {python} -m ssvae.sweep.after_job "$SSVAE_ROOT" "$ssvae_id" "$ssvae_code"']
