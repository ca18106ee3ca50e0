"""What Slurm says of jobs: ``squeue`` first, ``sacct`` for what it has forgotten, ``scontrol`` where one is missing.

Never an exception, and never a wait without an end: a command that is missing, fails or hangs makes the answer
:data:`UNKNOWN`, with the reason. Standard library only.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

GONE = "GONE"
"""Slurm answered, and does not know the job (any more)."""
UNKNOWN = "UNKNOWN"
"""Slurm could not be asked."""
ENDED = frozenset(
    [
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
    ]
)
"""States that a job does not leave, but by a requeue."""

_COLUMNS = "%i|%T|%r|%E|%S|%N"
_ID = re.compile(r"(\d+)(?:_(\d+))?\Z")
_TASKS = re.compile(r"(\d+)_\[([^\]]*)\]\Z")
_NOTHING = ("", "(null)", "None", "N/A", "Unknown")


@dataclass(frozen=True, slots=True)
class QueueState:
    """state: Slurm's word, or :data:`GONE`, :data:`UNKNOWN`. reason: Slurm's own word, why a job waits or ended so, or
    why Slurm could not be asked. needs: ids of the jobs it still waits for. start: expected, where Slurm has planned
    it. exit: ``code:signal``, where it is known."""

    state: str
    reason: str | None = None
    needs: tuple[str, ...] = ()
    start: str | None = None
    nodes: str | None = None
    exit: str | None = None

    @property
    def ended(self) -> bool:
        return self.state in ENDED or self.state == GONE


class _Unanswered(Exception):
    """A command was missing, failed, or did not answer in time."""


class SlurmQueue:
    """Asks for many jobs at once, and not more often than the controller can bear.

    interval_s: younger answers are given again. timeout_s: of each command.
    """

    def __init__(self, *, interval_s: float = 10.0, timeout_s: float = 20.0) -> None:
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._asked = -float("inf")
        self._answer: dict[str, QueueState] = {}
        self._forgotten: dict[str, QueueState] = {}
        """What others said of jobs that squeue has forgotten: that does not change."""

    def states(self, ids: Iterable[str]) -> dict[str, QueueState]:
        """The state of each job id, ``123`` or ``123_4``."""
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return {}
        young = time.monotonic() - self._asked < self._interval_s
        if not (young and self._answer.keys() >= set(wanted)):
            self._answer = self._ask(wanted)
            self._asked = time.monotonic()
        return {job: self._answer[job] for job in wanted}

    def _ask(self, ids: Sequence[str]) -> dict[str, QueueState]:
        strange = {job: QueueState(UNKNOWN, f"{job!r} is no Slurm job id") for job in ids if not _ID.match(job)}
        real = [job for job in ids if job not in strange]
        found: dict[str, QueueState] = {}
        problems: list[str] = []
        controller = self._try(self._squeue, real, problems)
        if controller is None:
            controller = self._try(self._scontrol, real, problems) if _may_ask_again(problems) else None
        for job in real:
            if controller is not None and (told := _told_of(controller, job)) is not None:
                found[job] = told
                self._forgotten.pop(job, None)
            elif controller is not None and job in self._forgotten:
                found[job] = self._forgotten[job]
        if left := [job for job in real if job not in found]:
            found |= self._forgot(left, controller is not None, problems)
        return strange | found

    def _forgot(self, ids: Sequence[str], answered: bool, problems: list[str]) -> dict[str, QueueState]:
        """States of jobs that the controller does not know (``answered``), or could not be asked for."""
        accounts = self._try(self._sacct, ids, problems)
        found: dict[str, QueueState] = {}
        for job in ids:
            told = accounts.get(job) if accounts is not None else None
            if told is not None and (told.ended or not answered):
                found[job] = told
            elif answered:
                # Accounts that still call it running are wrong: the controller would know it.
                found[job] = QueueState(GONE)
            else:
                found[job] = QueueState(UNKNOWN, "; ".join(problems) or "Slurm's accounting does not know it")
        if answered and accounts is not None:
            self._forgotten |= found
        return found

    def _try(
        self, ask: Callable[[Sequence[str]], dict[str, QueueState]], ids: Sequence[str], problems: list[str]
    ) -> dict[str, QueueState] | None:
        if not ids:
            return {}
        try:
            return ask(ids)
        except _Unanswered as problem:
            problems.append(str(problem))
            return None

    def _squeue(self, ids: Sequence[str]) -> dict[str, QueueState]:
        try:
            said = self._run(["squeue", "-h", "-r", "-t", "all", "-j", _bases(ids), "-o", _COLUMNS])
        except _Unanswered as problem:
            # What it says of a single job that it has forgotten; of several it leaves that one out.
            if "Invalid job id" in str(problem):
                return {}
            raise
        return parse_squeue(said)

    def _sacct(self, ids: Sequence[str]) -> dict[str, QueueState]:
        return parse_sacct(self._run(["sacct", "-X", "-P", "-j", _bases(ids), "-o", "JobID,State,ExitCode,Reason"]))

    def _scontrol(self, ids: Sequence[str]) -> dict[str, QueueState]:
        return parse_scontrol(self._run(["scontrol", "-o", "show", "job"]))

    def _run(self, command: Sequence[str]) -> str:
        # A user's own settings of these commands would hide jobs or change columns.
        settings = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("SQUEUE_", "SACCT_", "SCONTROL_")) and key != "SLURM_TIME_FORMAT"
        }
        try:
            said = subprocess.run(
                list(command), capture_output=True, text=True, errors="replace", check=False, stdin=subprocess.DEVNULL,
                timeout=self._timeout_s, env={**settings, "LC_ALL": "C"},
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise _Unanswered(f"{command[0]} did not answer within {self._timeout_s:g} s") from None
        except OSError as error:
            raise _Unanswered(f"{command[0]} cannot be run here ({error.strerror})") from error
        if said.returncode != 0:
            why = (said.stderr.strip() or said.stdout.strip() or "it gave no reason").splitlines()[0]
            raise _Unanswered(f"{command[0]} failed: {why}")
        return said.stdout


def _told_of(said: dict[str, QueueState], job: str) -> QueueState | None:
    """What was said of ``job``. Elements that are cancelled while they wait lose records of their own: what Slurm keeps
    is one of the whole array, under its bare number."""
    whole = said.get(job.partition("_")[0])
    return said.get(job, whole if whole is not None and whole.ended else None)


def parse_squeue(text: str) -> dict[str, QueueState]:
    """The lines of ``squeue -h -r -o "%i|%T|%r|%E|%S|%N"``."""
    found = {}
    for line in text.splitlines():
        job, *rest = line.strip().split("|")
        if len(rest) == 5:
            state, reason, needs, start, nodes = rest
            told = QueueState(state, _said(reason), _needs(needs), _said(start), _said(nodes))
            found.update(dict.fromkeys(_expanded(job), told))
    return found


def parse_sacct(text: str) -> dict[str, QueueState]:
    """The table of ``sacct -X -P``, by its heading; columns may be missing."""
    lines = [line.split("|") for line in text.splitlines() if line.strip()]
    found = {}
    for values in lines[1:]:
        row = dict(zip(lines[0], values, strict=False))
        # "CANCELLED by 1000"; a "+" marks a word that was cut.
        word = row.get("State", "").split(" ")[0].rstrip("+")
        told = QueueState(word, _said(row.get("Reason", "")), exit=row.get("ExitCode"))
        found.update(dict.fromkeys(_expanded(row.get("JobID", "")), told))
    return found


def parse_scontrol(text: str) -> dict[str, QueueState]:
    """The lines of ``scontrol -o show job``."""
    found = {}
    for line in text.splitlines():
        row = dict(word.split("=", 1) for word in line.split() if "=" in word)
        told = QueueState(
            row.get("JobState", UNKNOWN),
            _said(row.get("Reason", "")),
            _needs(row.get("Dependency", "")),
            _said(row.get("StartTime", "")),
            _said(row.get("NodeList", "")),
            row.get("ExitCode"),
        )
        tasks = row.get("ArrayTaskId")
        job = row.get("JobId", "") if tasks is None else f"{row.get('ArrayJobId')}_[{tasks}]"
        found.update(dict.fromkeys(_expanded(job), told))
    return found


def _expanded(job: str) -> list[str]:
    """``7_[2-4,9%2]`` are ``7_2 7_3 7_4 7_9``: array tasks that nothing tells apart yet."""
    tasks = _TASKS.match(job)
    if tasks is None:
        return [job] if _ID.match(job) else []
    numbers: list[int] = []
    for part in tasks.group(2).partition("%")[0].split(","):
        first, _, last = part.partition("-")
        last, _, step = last.partition(":")
        if first.isdigit():
            numbers += range(int(first), int(last or first) + 1, int(step or 1))
    return [f"{tasks.group(1)}_{number}" for number in numbers]


def _needs(text: str) -> tuple[str, ...]:
    """Job ids in ``afterok:1359_*(unfulfilled),afterok:1366(failed)``; an array's as ``1359``."""
    return tuple(dict.fromkeys(re.findall(r"[:?,](\d+(?:_\d+)?)", f",{text}")))


def _bases(ids: Sequence[str]) -> str:
    """For a command line of bearable length: arrays, not their tasks."""
    return ",".join(dict.fromkeys(job.partition("_")[0] for job in ids))


def _said(text: str) -> str | None:
    text = text.strip()
    return None if text in _NOTHING else text


def _may_ask_again(problems: Sequence[str]) -> bool:
    """A controller that did not answer one command in time would hang with the next one too."""
    return not any("did not answer" in problem for problem in problems)
