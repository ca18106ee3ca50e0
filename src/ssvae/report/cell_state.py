"""Where one cell stands, from the states of its jobs, or of the process that runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ssvae.report.job_state import JobState, Status
from ssvae.report.pace import position, read_pace

BAD = ("failed", "killed", "stopped", "lost")
"""What needs a person, or the same command again."""
_LATER = 1 << 62
_ORDER = ("failed", "lost", "killed", "running", "waiting", "finished")


@dataclass(frozen=True, slots=True)
class CellState:
    """One cell of a sweep, now.

    status: waiting, running, finished, failed, killed, stopped (its process is gone) or lost (its job is gone). detail:
    where it is, what it waits for, or why it stopped. seconds: of compute. active: does it, or a part of it, still go
    on by itself? reason: why it did not finish. stage: the one it is at; done, total, rate (units a second), left_s: of
    what that stage is doing, None where it does not say. requeues, retries: of its unfinished jobs. jobs: these, as
    ``kind status id``. log: the file that tells of a bad end. name: all fields of the cell; label: the swept ones.
    """

    cell_id: str
    name: str
    status: Status
    detail: str
    seconds: float
    active: bool = False
    reason: str | None = None
    stage: str | None = None
    done: int | None = None
    total: int | None = None
    rate: float | None = None
    left_s: float | None = None
    requeues: int = 0
    retries: int = 0
    jobs: tuple[str, ...] = ()
    log: str | None = None
    label: str = ""


@dataclass(frozen=True, slots=True)
class Stages:
    """paths: of all stages of a cell by name, in order, relative to the root. left: those that are not finished, in
    order, never empty."""

    root: Path
    paths: Mapping[str, str]
    left: tuple[str, ...]

    def folder(self, stage: str) -> Path:
        return self.root / self.paths[stage]

    def where(self, stage: str, since_ms: int = 0) -> str:
        """Such as ``pretrain, step 120 of 1000, stage 1 of 3``."""
        number = list(self.paths).index(stage) + 1
        return f"{stage}, {position(self.folder(stage), since_ms)}, stage {number} of {len(self.paths)}"

    def of(self, job: JobState) -> list[str]:
        """The unfinished stages that ``job`` makes."""
        there = set(job.job.stages.values())
        return [name for name in self.left if self.paths[name] in there]


def by_jobs(row: CellState, stages: Stages, jobs: Sequence[JobState]) -> CellState:
    """``row`` with what its unfinished ``jobs``, at least one, say: first a bad end, then what runs, what waits."""
    first = min(jobs, key=lambda job: _ORDER.index(job.status))
    told = [first, *(job for job in jobs if job.status == "running" and job is not first)]
    if first.status == "running":
        row = _with_pace(row, stages, stages.of(first)[0], _began(first))
    return replace(
        row,
        status=first.status,
        detail="; ".join(_words(job, stages) for job in told),
        active=any(job.active for job in jobs),
        reason=first.reason,
        stage=stages.of(first)[0],
        requeues=sum(job.history.requeues for job in jobs),
        retries=sum(job.history.retries for job in jobs),
        jobs=tuple(" ".join(filter(None, (job.job.kind, job.status, job.number))) for job in jobs),
        log=str(first.log) if first.log is not None else None,
    )


def by_process(row: CellState, stages: Stages, *, held: bool, someone: bool, fresh: bool) -> CellState:
    """``row``, with the status and reason of its record, as seen from outside the process that runs its stages.

    held: is the lock of one of its stages held? someone: of any stage of the sweep? fresh: did the cell show a sign of
    life a moment ago?
    """
    stage = stages.left[0]
    at = stages.where(stage)
    row = replace(row, stage=stage)
    if row.status not in ("running", "waiting"):
        trace = stages.folder(stage) / "error.txt"
        return replace(
            row,
            detail=f"{row.reason} ({at})" if row.reason else at,
            log=str(trace) if row.status == "failed" and trace.exists() else None,
        )
    if not (held or someone or fresh):
        reason = "the process that ran it is gone"
        return replace(row, status="stopped", detail=f"{reason} ({at})", reason=f"stopped: {reason}")
    # The process is with another cell, and comes back to this one.
    status: Status = "running" if held or (fresh and row.status == "running") else "waiting"
    return replace(_with_pace(row, stages, stage), status=status, detail=at, active=True)


def _began(job: JobState) -> int:
    """When the job's present attempt began; where there is none, later than any heartbeat."""
    return (job.history.started_ms or 0) if job.history.running else _LATER


def _words(job: JobState, stages: Stages) -> str:
    stage = stages.of(job)[0]
    parts: tuple[str, ...]
    if job.reason is not None:
        parts = (job.reason, job.again)
    elif job.status == "waiting":
        parts = (f"{stage}: waits {job.detail}".rstrip(), job.again, f"job {job.number}" if job.number else "")
    else:
        parts = (stages.where(stage, _began(job)), job.detail, job.again)
    return ", ".join(part for part in parts if part)


def _with_pace(row: CellState, stages: Stages, stage: str, since_ms: int = 0) -> CellState:
    pace = read_pace(stages.folder(stage), since_ms)
    if pace is None:
        return row
    return replace(row, done=pace.done, total=pace.total, rate=pace.rate, left_s=pace.left_s)
