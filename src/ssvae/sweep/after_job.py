"""What becomes of a job whose ranks have ended: finished, put back into the queue, tried again, or failed.

Called by the job's own batch script on the node (``python -m ssvae.sweep.after_job ROOT SCHEDULER_ID CODE``), and by
the local supervisor. Standard library only: it has to answer within seconds, whatever has just died.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ssvae.core.job_log import ECHO
from ssvae.core.jobs import JobFile, append_event, job_folder, read_events, read_job, sweep_jobs

Next = Literal["requeue", "retry", "none"]
_WAIT_S = 30.0
EARLY_S = 60.0
"""Schedulers look at limits every half minute, so that their word comes early."""
_PAUSES_S = (1.0, 2.0, 5.0, 10.0, 0.0)


@dataclass(frozen=True)
class Verdict:
    """how: finished, interrupted, failed or killed. rank: whose word it is, where it is a rank's."""

    how: str
    reason: str | None
    next: Next
    rank: int | None = None
    timed_out: bool = False


def judge(
    job: JobFile,
    events: Sequence[dict[str, Any]],
    code: int,
    run: str | None = None,
    *,
    preempted: bool = False,
    ending: bool = False,
    at_limit: bool | None = None,
) -> Verdict:
    """The verdict on an attempt. code: the exit code of its ranks together. run: which attempt, as its ranks have noted
    it (:func:`run_key`). preempted, ending: the scheduler says that it has taken the machine away, or that it is ending
    the job itself. at_limit: whether it has told the job of its limit; None where only the ranks' clocks know.

    Budgets count since the latest submission: ``retries`` for whatever died, ``max_requeues`` for time-outs.
    Pre-emptions are not the job's fault and are not counted.
    """
    since = _since_submission(events)
    # Not "what follows the latest start": an attempt may die before its first rank has noted one.
    mine = [one for one in since if one.get("run") == run]
    began = any(one["event"] == "started" for one in mine)
    ranks = [one for one in mine if one["event"] == "rank"]
    failed = [one for one in ranks if one["how"] == "failed"]
    silent = sorted(set(range(job.world)) - {one["rank"] for one in ranks})
    interrupted = [one for one in ranks if one["how"] == "interrupted"]
    if (silent or interrupted) and all(ECHO.search(str(one["reason"])) for one in failed):
        # These only say that somebody else is gone.
        failed = []
    if finished(job):
        return Verdict("finished", None, "none")
    ends = [one for one in since if one["event"] == "ended"]
    if failed:
        # The first one to fail takes the others with it.
        first = failed[0]
        reason = str(first["reason"])
        return Verdict("failed", reason, _again(job, ends) if first.get("again", True) else "none", first["rank"])
    # A rank without a word was killed, which makes srun ask the others to stop: that is no interruption, and an endless
    # circle if it were gone on from. Unless the scheduler itself is at it, and had no patience.
    if interrupted and (not silent or ending):
        reason = next((str(one["reason"]) for one in interrupted if "signal" in str(one["reason"])), "asked to stop")
        timed_out = any(one.get("timed_out") for one in interrupted) if at_limit is None else at_limit
        if preempted or not timed_out:
            return Verdict("interrupted", f"pre-empted, {reason}" if preempted else reason, "requeue")
        limit = f"the time limit of {job.timeout_min} minutes"
        if sum(bool(one.get("timed_out")) for one in ends) < job.max_requeues:
            return Verdict("interrupted", f"{limit}, {reason}", "requeue", timed_out=True)
        return Verdict("failed", f"{limit}, after {job.max_requeues} times more (max_num_timeout)", "none")
    return Verdict("killed", _killed(code, began, silent), _again(job, ends))


def finished(job: JobFile) -> bool:
    """Do the run folders say that all its stages are there?"""
    return all((Path(job.root) / where / "done.json").exists() for where in job.stages.values())


def run_key(scheduler_id: str) -> str:
    """What tells one attempt from the next: Slurm keeps a job's number when it starts it again, and counts."""
    return f"{scheduler_id}.{os.environ.get('SLURM_RESTART_COUNT') or 0}"


def conclude(
    folder: Path,
    code: int,
    run: str,
    *,
    preempted: bool = False,
    ending: bool = False,
    at_limit: bool | None = None,
) -> Verdict:
    """Judge the latest attempt of the job in ``folder`` as :func:`judge` does, and note the verdict."""
    job, events = read_job(folder), read_events(folder)
    verdict = judge(job, events, code, run, preempted=preempted, ending=ending, at_limit=at_limit)
    _note(folder, verdict, code)
    return verdict


def _note(folder: Path, verdict: Verdict, code: int) -> None:
    attempt = sum(one["event"] == "started" for one in read_events(folder))
    append_event(
        folder, "ended", attempt=attempt, how=verdict.how, reason=verdict.reason, next=verdict.next, rank=verdict.rank,
        code=code, timed_out=verdict.timed_out,
    )  # fmt: skip


def numbered(root: Path, scheduler_id: str) -> Path:
    """The file that names the job behind one of Slurm's numbers."""
    return root / "runs" / "jobs" / ".numbers" / scheduler_id


def main(root: Path, scheduler_id: str, code: int) -> int:
    """The end of a Slurm job's batch script; returns the job's exit code, 0 for a finished job alone.

    What the job was waited for with (``afterok``) starts on a 0.
    """
    folder = job_folder(root, _job_of(root, scheduler_id))
    job, run = read_job(folder), run_key(scheduler_id)
    shown = _asked("show", "job", "-o", scheduler_id)
    _keep_messages(folder, _field(shown, "StdErr"))
    if finished(job):
        conclude(folder, code, run)
        return 0
    # A controller that does not answer has not said that it is ending the job.
    ending = _field(shown, "JobState") not in ("", "RUNNING")
    if ending:
        if int(_field(shown, "Restarts") or 0) > int(os.environ.get("SLURM_RESTART_COUNT") or 0):
            return 1  # and it starts the job again: a pre-emption, or a node that is gone
        if _field(shown, "Reason") != "TimeLimit":
            # Putting it back from here would revive what a user has cancelled.
            _note(folder, Verdict("killed", "cancelled (scancel)", "none"), code)
            return code or 1
    preempted = _field(shown, "PreemptTime") not in ("", "None")
    at_limit = True if ending else _at_limit(job, _field(shown, "EndTime"))
    verdict = conclude(folder, code, run, preempted=preempted, ending=ending or preempted, at_limit=at_limit)
    if verdict.next != "none":
        if _asked("requeue", scheduler_id) is not None:
            # Slurm ends this script by a signal; before that it must not end by itself.
            time.sleep(_WAIT_S)
            return 1
        reason = f"could not be put back into the queue after: {verdict.reason}"
        _note(folder, Verdict(verdict.how, reason, "none", verdict.rank), code)
    if job.fail_fast:
        cancel_others(job)
    return code or 1


def _at_limit(job: JobFile, end: str) -> bool | None:
    """Is the limit so near that the job was told of it? end: as Slurm has it now; administrators move limits."""
    try:
        limit = time.mktime(time.strptime(end, "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return None
    return time.time() >= limit - job.signal_delay_s - EARLY_S


def _job_of(root: Path, scheduler_id: str) -> str:
    """Whoever submits writes the name down right behind sbatch's answer: a job can be faster than that."""
    path = numbered(root, scheduler_id)
    deadline = time.monotonic() + _WAIT_S
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    return path.read_text(encoding="utf-8")


def cancel_others(job: JobFile) -> None:
    """Cancel what else is queued or runs for the sweeps of ``job``, and for no other sweep."""
    mine = set(job.sweeps)
    for sweep in job.sweeps:
        for other_id in sweep_jobs(Path(job.root), sweep):
            other = read_job(job_folder(Path(job.root), other_id))
            if other.job_id != job.job_id and other.scheduler_id and set(other.sweeps) <= mine:
                append_event(
                    job_folder(Path(job.root), other_id), "cancelled", reason=f"{job.label} failed (fail_fast)"
                )
                _run(["scancel", other.scheduler_id])


def _again(job: JobFile, ends: Sequence[dict[str, Any]]) -> Next:
    return "retry" if sum(one.get("next") == "retry" for one in ends) < job.retries else "none"


def _since_submission(events: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Without what came before the latest submission; a supervisor that starts a job again is none."""
    starts = [number for number, one in enumerate(events) if one["event"] == "submitted" and not one.get("again")]
    return events[starts[-1] :] if starts else events


def _killed(code: int, started: bool, silent: Sequence[int]) -> str:
    if not started:
        return f"ended with code {code} before its first rank began: see its log"
    signals = {137: "SIGKILL: out of memory?", 143: "SIGTERM", 139: "SIGSEGV", 134: "SIGABRT", 135: "SIGBUS"}
    named = signals.get(code % 256 if code >= 0 else 128 - code, "")
    who = f"rank {silent[0]}" if len(silent) == 1 else "a rank"
    # submitit's local controller ends with 0 whatever its ranks died of.
    how = f"code {code}{', ' + named if named else ''}" if code else "without a word: SIGKILL, out of memory?"
    return f"{who} was killed ({how})"


def _keep_messages(folder: Path, stderr: str) -> None:
    """Slurm's own words (out of memory, which task was killed) stand in the batch script's log, not in a rank's."""
    path = Path(stderr)
    if not stderr or not path.is_file():
        return
    text = path.read_text(encoding="utf-8", errors="replace")[-8000:]
    lines = [line for line in text.splitlines() if re.match(r"(srun|slurmstepd|slurmd)\b", line)]
    if lines:
        (folder / "log").mkdir(parents=True, exist_ok=True)
        with (folder / "log" / "slurm.err").open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n")


def _asked(*words: str) -> str | None:
    """What scontrol says; asked again for a while, since controllers restart. None where it never answers, or
    refuses."""
    for pause in _PAUSES_S:
        answer = _run(["scontrol", *words])
        if answer is not None:
            return answer
        time.sleep(pause)
    return None


def _run(words: Sequence[str]) -> str | None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_WAIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"{' '.join(words)}: {error}\n")
        return None
    if done.returncode:
        sys.stderr.write(f"{' '.join(words)}: {done.stderr}\n")
        return None
    return done.stdout


def _field(shown: str | None, name: str) -> str:
    found = re.search(rf"(?:^|\s){name}=(\S*)", shown or "")
    return found.group(1) if found else ""


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
