"""Jobs on disk: what was submitted (``job.json``), what happened to it (``events.jsonl``), what it said (``log/``).

    runs/jobs/JOB_ID/job.json       JobFile
    runs/jobs/JOB_ID/events.jsonl   one JSON object a line, appended: event, time_ms, and more
    runs/jobs/JOB_ID/log/           standard output and error of every rank, appended over all attempts
    runs/sweeps/SWEEP/jobs.json     {"jobs": [job ids]} of the sweep's latest submission

This is the truth of who runs what; the truth of results stays in the run folders of the stages. Standard library only:
the script that judges a job after its end reads it too.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from ssvae.core.alive import Process

LaunchedBy = Literal["slurm", "local"]
BY_USER = "by the user"
"""The reason of a cancellation that was asked for."""


@dataclass(frozen=True, slots=True)
class JobFile:
    """What a job is. Paths are relative to the root.

    job_id: ``KIND-ID``. stages: name -> run folder, in the order in which they run. cell: whose config is used; cells:
    all that need the job. config: the frozen config. code: folder of the frozen code. world: ranks over all nodes.
    needs: jobs that must have finished before. retries: how often it may fail and be tried again; max_requeues: how
    often it may reach its limit and go on. fail_fast: its failure ends the whole sweep. signal_delay_s: how long before
    its limit it is told to save. scheduler_id: of Slurm ``123_4``, None before submission and for local jobs.
    """

    job_id: str
    kind: str
    stages: dict[str, str]
    cell: str
    cells: list[str]
    config: str
    sweeps: list[str]
    label: str
    root: str
    code: str
    launcher: LaunchedBy
    world: int = 1
    needs: list[str] = field(default_factory=list)
    retries: int = 0
    max_requeues: int = 0
    timeout_min: int | None = None
    preflight: bool = False
    fail_fast: bool = False
    signal_delay_s: int = 0
    scheduler_id: str | None = None


@dataclass(frozen=True, slots=True)
class History:
    """A job's events, summed up.

    attempts: starts in all. requeues, retries: since it was last submitted, by decision or by the scheduler itself (a
    start that follows a start). running: the last thing known is a start. how, reason, next: of the latest end, None
    where there was none since the last submission. stage: the latest one that was finished, and outcomes of each.
    cancelled: why we cancelled it. rank: the one that failed, where that is known. scheduler_id, host: the latest.
    process: the job's own, of its latest start; keeper: who starts it (the supervisor of local jobs), of its
    submission. times: milliseconds since 1970.
    """

    attempts: int = 0
    requeues: int = 0
    retries: int = 0
    running: bool = False
    how: str | None = None
    reason: str | None = None
    next: str | None = None
    stage: str | None = None
    outcomes: dict[str, str] = field(default_factory=dict)
    scheduler_id: str | None = None
    cancelled: str | None = None
    rank: int | None = None
    host: str | None = None
    process: Process | None = None
    keeper: Process | None = None
    submitted_ms: int | None = None
    started_ms: int | None = None
    ended_ms: int | None = None


def jobs_folder(root: Path) -> Path:
    """Where all jobs of a root lie."""
    return root / "runs" / "jobs"


def submit_lock(root: Path) -> Path:
    """Held by whoever decides which jobs there are: two that found one missing at once would both submit it."""
    return jobs_folder(root) / ".submit.lock"


def job_folder(root: Path, job_id: str) -> Path:
    """Folder of one job."""
    return jobs_folder(root) / job_id


def read_job(folder: Path) -> JobFile:
    """The job of a folder. Raises FileNotFoundError, and ValueError, naming the file, for one that is damaged."""
    path = folder / "job.json"
    values = _read_object(path)
    known = {one.name: values[one.name] for one in fields(JobFile) if one.name in values}
    needed = [one.name for one in fields(JobFile) if one.default is MISSING and one.default_factory is MISSING]
    if missing := [name for name in needed if name not in known]:
        raise ValueError(f"{path} lacks {', '.join(missing)}: submit the sweep again")
    return JobFile(**known)


def write_job(folder: Path, job: JobFile) -> None:
    """Write ``job.json`` atomically."""
    from ssvae.core.files import write_json  # late: reading needs nothing but the standard library

    write_json(folder / "job.json", asdict(job))


def append_event(folder: Path, event: str, **values: Any) -> None:
    """Append one line to ``events.jsonl`` and flush it to disk; ``time_ms`` is added.

    The line is written at once and in append mode, so that a kill tears at most this line and the lines of several
    processes stay whole; a line that an earlier kill has torn is closed first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"event": event, "time_ms": int(time.time() * 1000), **values}, ensure_ascii=False) + "\n"
    handle = os.open(folder / "events.jsonl", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        _lock(handle)
        size = os.fstat(handle).st_size
        torn = size > 0 and os.pread(handle, 1, size - 1) != b"\n"
        data = (("\n" if torn else "") + line).encode()
        if os.write(handle, data) != len(data):
            raise OSError(f"{folder / 'events.jsonl'}: the disk took only a part of event {event!r}; is it full?")
        os.fsync(handle)
    finally:
        os.close(handle)  # gives the lock back


def read_events(folder: Path) -> list[dict[str, Any]]:
    """All whole events, in the order of the file; torn lines and other rubbish are left out."""
    path = folder / "events.jsonl"
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        return []
    found = []
    # The last piece is empty, or a line that is being written or was torn.
    for line in text.split(b"\n")[:-1]:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            found.append(event)
    return found


def history(folder: Path) -> History:
    """What happened to the job so far."""
    return summed_up(read_events(folder))


def summed_up(events: Sequence[dict[str, Any]]) -> History:
    """The history that ``events`` tell, in their order."""
    known: dict[str, Any] = {}
    attempts = requeues = retries = 0
    running = False
    outcomes: dict[str, str] = {}
    for one in events:
        what, when = one["event"], one.get("time_ms")
        if what == "submitted":
            # A supervisor that starts a job again carries a decision out; else budgets are new.
            if not one.get("again"):
                requeues = retries = 0
                known = dict.fromkeys(known)
            running = False
            known.update(submitted_ms=when, keeper=_process(one), process=None)
            known["scheduler_id"] = one.get("scheduler_id") or known.get("scheduler_id")
        elif what == "started":
            attempts += 1
            known["cancelled"] = None
            # Nobody saw the end of the attempt before: the scheduler itself has started the job again.
            requeues += running
            running = True
            known.update(started_ms=when, process=_process(one), host=one.get("host"))
            known["scheduler_id"] = one.get("scheduler_id") or known.get("scheduler_id")
        elif what == "cancelled":
            known["cancelled"] = one.get("reason")
        elif what == "stage":
            known["stage"] = one.get("stage")
            outcomes[str(one.get("stage"))] = str(one.get("outcome"))
        elif what == "ended":
            running = False
            known.update({name: one.get(name) for name in ("how", "reason", "next", "rank")}, ended_ms=when)
            requeues += one.get("next") == "requeue"
            retries += one.get("next") == "retry"
    return History(attempts=attempts, requeues=requeues, retries=retries, running=running, outcomes=outcomes, **known)


def sweep_jobs(root: Path, sweep: str) -> list[str]:
    """Ids of the jobs of a sweep's latest submission; none where it ran without jobs."""
    path = root / "runs" / "sweeps" / sweep / "jobs.json"
    return [str(job) for job in _read_object(path).get("jobs", [])] if path.exists() else []


def write_sweep_jobs(root: Path, sweep: str, jobs: Sequence[str]) -> None:
    """Write the list that :func:`sweep_jobs` reads, atomically."""
    from ssvae.core.files import write_json  # late, as above

    write_json(root / "runs" / "sweeps" / sweep / "jobs.json", {"jobs": list(jobs)})


def _process(event: dict[str, Any]) -> Process | None:
    host, pid, start = (event.get(name) for name in ("host", "pid", "pid_start"))
    return Process(str(host), int(pid), str(start)) if host and pid and start else None


def _lock(handle: int) -> None:
    """Append mode is not atomic between the machines of a network file system; a byte-range lock is."""
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX)
    except OSError:
        return  # a file system that knows no locks: append mode has to do


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): submit the sweep again") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object: submit the sweep again")
    return values
