"""Where a job stands: what its events, its scheduler and the run folders of its stages say together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ssvae.core.job_log import brief, log_tail, telling_log
from ssvae.core.jobs import History, JobFile
from ssvae.core.queue import GONE, UNKNOWN, QueueState
from ssvae.report.job_words import LIVE, ended_by, waits_for
from ssvae.report.pace import STALE_S, span, times

Status = Literal["waiting", "running", "finished", "failed", "killed", "stopped", "lost"]

SETTLE_S = 30.0
"""How long after a job's last sign of life its end may still be on the way into its events."""
SUBMIT_S = 60.0
"""How long a job that was written down may take until it is submitted."""
_FINAL = ("CANCELLED", "TIMEOUT", "DEADLINE", "OUT_OF_MEMORY", "REVOKED")
"""Ends behind which Slurm starts nothing again by itself, and which our script at a job's end leaves to Slurm."""
_HELD_UP = "not started: needs"


@dataclass(frozen=True, slots=True)
class Signs:
    """What is seen of a job from outside; what costs a look at the disk is asked only where it counts.

    stage: its first unfinished one, None when all are finished; folder: of that stage. last: asks for the last sign of
    life of the stage, milliseconds since 1970; held: whether a stage's lock is held. now_ms: when one looks.
    """

    stage: str | None
    folder: Path | None
    last: Callable[[], int | None]
    held: Callable[[], bool]
    now_ms: int

    def quiet_s(self, history: History) -> float:
        """Seconds since anything was heard of the job."""
        known = (self.last(), history.submitted_ms, history.started_ms, history.ended_ms)
        return (self.now_ms - max((ms for ms in known if ms is not None), default=0)) / 1000


@dataclass(frozen=True, slots=True)
class JobState:
    """status: as of a cell. detail: what it waits for, or a note to a running one. reason: why it did not finish.
    active: does it still go on, without anybody's doing? log: the file that tells of a bad end."""

    job: JobFile
    history: History
    status: Status
    detail: str = ""
    reason: str | None = None
    active: bool = False
    log: Path | None = None

    @property
    def number(self) -> str:
        """The scheduler's number of the job, where it has one."""
        return self.history.scheduler_id or self.job.scheduler_id or ""

    @property
    def again(self) -> str:
        """How often it was started again: ``requeued 2 times, retried once``."""
        counts = ((self.history.requeues, "requeued"), (self.history.retries, "retried"))
        return ", ".join(times(count, word) for count, word in counts if count)


def judge(job: JobFile, folder: Path, history: History, queue: QueueState | None, signs: Signs) -> JobState:
    """The state of ``job``, whose own folder is ``folder``. queue: Slurm's answer, None for local jobs.

    Jobs that it needs are not looked at: see :func:`with_needs`.
    """
    if signs.stage is None:
        return JobState(job, history, "finished")
    if (history.submitted_ms is None or _closed(history)) and _being_submitted(job, folder, history):
        return JobState(job, history, "waiting", "to be submitted", active=True)
    if queue is None and history.submitted_ms is None and history.started_ms is None:
        return JobState(job, history, "lost", reason=f"{signs.stage}: lost: it was never submitted")
    if queue is not None:
        return _on_slurm(job, folder, history, queue, signs)
    return _local(job, folder, history, signs)


def with_needs(state: JobState, needed: Sequence[JobState]) -> JobState:
    """``state``, given those of the jobs that it needs: what it waits for has a name, or it waits in vain."""
    never = state.history.started_ms is None and state.status in ("killed", "lost")
    if not (state.status == "waiting" or never):
        return state
    bad = next((one for one in needed if one.status != "finished" and not one.active), None)
    if bad is not None:
        reason = bad.reason or "no reason known"
        if not reason.startswith(_HELD_UP):
            reason = f"{_HELD_UP} {bad.job.kind}, which is {bad.status} ({reason})"
        return JobState(state.job, state.history, bad.status, "", reason, False, bad.log)
    unfinished = [f"{one.job.kind} ({one.status})" for one in needed if one.status != "finished"]
    return state if never or not unfinished else replace(state, detail=f"for {', '.join(unfinished)}")


def _on_slurm(job: JobFile, folder: Path, history: History, queue: QueueState, signs: Signs) -> JobState:
    number = history.scheduler_id or job.scheduler_id or ""
    if queue.state == UNKNOWN:
        return _unasked(job, folder, history, queue, signs)
    if queue.state not in LIVE and not queue.ended:
        return JobState(job, history, "waiting", waits_for(queue, number), active=True)
    if _closed(history):
        return _ended(job, folder, history, signs, ended_by(queue) if queue.ended else "")
    if queue.state == GONE and history.cancelled is not None:
        # What was cancelled while it waited is soon forgotten.
        return _ended(job, folder, history, signs, "cancelled", "CANCELLED")
    if queue.state in _FINAL:
        return _ended(job, folder, history, signs, ended_by(queue), queue.state)
    if queue.state in LIVE:
        note = LIVE[queue.state] or _silence(signs, history) if history.running else LIVE[queue.state] or "starting"
        return JobState(job, history, "running", note, active=True)
    if signs.quiet_s(history) < SETTLE_S or signs.held():
        # Its end is on the way into the events, or Slurm is about to start it again.
        status: Status = "running" if history.running else "waiting"
        return JobState(job, history, status, "ended, to be judged", active=True)
    if queue.state == GONE or history.next in ("requeue", "retry"):
        return _lost(job, folder, history, signs, f"job {number} is not in the queue any more")
    return _ended(job, folder, history, signs, ended_by(queue), queue.state)


def _being_submitted(job: JobFile, folder: Path, history: History) -> bool:
    """Was the job's file written a moment ago, and after all that is known of it? Then its events are to follow."""
    if job.scheduler_id is not None:
        return False
    written_ms = (folder / "job.json").stat().st_mtime * 1000
    last = max(history.submitted_ms or 0, history.started_ms or 0, history.ended_ms or 0)
    return last < written_ms and time.time() * 1000 - written_ms < 1000 * SUBMIT_S


def _silence(signs: Signs, history: History) -> str:
    """For a job that should be at work: how long nothing was heard of it, where that is long."""
    quiet = signs.quiet_s(history)
    return f"last sign of life {span(quiet)} ago" if quiet > STALE_S else ""


def _closed(history: History) -> bool:
    """Is the end of the latest attempt on record, and is it not to be started again?"""
    return history.next == "none" and not history.running


def _unasked(job: JobFile, folder: Path, history: History, queue: QueueState, signs: Signs) -> JobState:
    """Slurm cannot be asked: the events alone."""
    if _closed(history):
        return _ended(job, folder, history, signs, "")
    note = ", ".join(filter(None, ("as last recorded", _silence(signs, history)))) + f": {queue.reason}"
    return JobState(job, history, "running" if history.running else "waiting", note, active=True)


def _local(job: JobFile, folder: Path, history: History, signs: Signs) -> JobState:
    if _closed(history):
        return _ended(job, folder, history, signs, "")
    keeper = history.keeper.alive() if history.keeper is not None else None
    process = history.process if history.running else history.keeper
    there = process.alive() if process is not None else None
    quiet = 0.0 if there or keeper else signs.quiet_s(history)
    status: Status = "running" if history.running else "waiting"
    # A process that is gone has a keeper that judges its end, when all its ranks are gone.
    if there or keeper or (there is False and quiet < SETTLE_S) or signs.held():
        note = (
            ("" if there else "ended, to be judged") if history.running else "for its turn, launch.parallel run at once"
        )
        return JobState(job, history, status, note, active=True)
    if there is None:
        host = f" on {process.host}" if process is not None else ""
        note = f"last sign of life{host} {span(quiet)} ago" if quiet > STALE_S else ""
        return JobState(job, history, status, note, active=True)
    what = "its process is gone" if history.running else "the process that was to start it is gone"
    return _lost(job, folder, history, signs, what)


def _lost(job: JobFile, folder: Path, history: History, signs: Signs, what: str) -> JobState:
    if history.next in ("requeue", "retry") and not history.running:
        said = f"; it was to be started again ({history.next}) after: {history.reason or history.how}"
    elif history.running:
        host = f" on {history.host}" if history.host else ""
        said = f", and nobody recorded its end; last sign of life {span(signs.quiet_s(history))} ago{host}"
    else:
        said = ", and it never started"
    reason = f"{signs.stage}: lost: {what}{said}"
    return JobState(job, history, "lost", "", reason, False, telling_log(folder, history.rank))


def _ended(
    job: JobFile, folder: Path, history: History, signs: Signs, scheduler: str, state: str | None = None
) -> JobState:
    """A job that ended badly and stays so. scheduler: what Slurm says of it; state: its word, where nobody recorded the
    end."""
    by_itself = state in ("FAILED", "COMPLETED") and not scheduler.startswith("signal")
    how = history.how if state is None else "failed" if by_itself else "killed"
    told = history.reason if state is None else None
    log = telling_log(folder, history.rank)
    if how == "failed":
        what = scheduler or "it ended without being finished"
        reason = told or _error(signs, history) or _with_log(folder, history, what)
        return JobState(job, history, "failed", "", _named(signs.stage, reason), False, log)
    if how == "finished":
        if signs.quiet_s(history) < SETTLE_S:
            # Another machine's files show here a moment later.
            return JobState(job, history, "running", "ending", active=True)
        reason = "its job ended as finished, but the run folder is not"
        return JobState(job, history, "failed", "", _named(signs.stage, reason), False, log)
    if how == "interrupted":
        by = told or scheduler or "asked to stop"
        reason = f"interrupted ({by}), and not to be requeued again; what was done is kept"
        return JobState(job, history, "killed", "", _named(signs.stage, reason), False, log)
    if state is not None and history.started_ms is None:
        by = f": {history.cancelled}" if history.cancelled is not None else ""
        reason = f"{signs.stage}: {scheduler or state.lower()} before it started{by}"
        return JobState(job, history, "killed", "", reason)
    if history.cancelled is not None:
        return JobState(job, history, "killed", "", _named(signs.stage, f"cancelled: {history.cancelled}"), False, log)
    cause = told or scheduler or "by whom is not known"
    if cause.startswith("cancelled"):
        return JobState(job, history, "killed", "", _named(signs.stage, cause), False, log)
    what = cause if "killed" in cause or cause.startswith("ended") else f"killed ({cause})"
    return JobState(job, history, "killed", "", _named(signs.stage, _with_log(folder, history, what)), False, log)


def _with_log(folder: Path, history: History, what: str) -> str:
    tail = brief(log_tail(folder, rank=history.rank))
    return f"{what}, last lines: {tail}" if tail else what


def _error(signs: Signs, history: History) -> str:
    """The exception that the latest attempt has left in the stage's folder: type and text, without the trace."""
    path = signs.folder / "error.txt" if signs.folder is not None else None
    if path is None or not path.exists() or path.stat().st_mtime * 1000 < (history.started_ms or 0):
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
    # The text of an exception may have several lines; the trace above it is indented or ends with a heading.
    start = max((index for index, line in enumerate(lines) if line.startswith(" ")), default=-1) + 1
    return " ".join(lines[start:] or lines[-1:])


def _named(stage: str | None, reason: str) -> str:
    return reason if stage is None or reason.startswith(f"{stage}:") else f"{stage}: {reason}"
