"""A run as jobs that come back by themselves: each is killed on its own, and nothing is submitted again.

Signals to Slurm jobs, as seen with Slurm 22.05: ``scancel --signal=TERM ID`` reaches every rank and not the batch
script; ``scancel --signal=KILL ID`` would cancel the whole job, so SIGKILL goes to the step of the ranks, ``ID.0``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ssvae.core.jobs import History, JobFile, history, jobs_folder, read_events, read_job
from ssvae.core.queue import SlurmQueue
from ssvae.drill.ledger import DrillError, Ledger
from ssvae.drill.plan import Kill
from ssvae.drill.watch import Watch

PAUSE_S = 0.01
ASK_S = 10.0
"""Seconds between two questions to Slurm."""
END_S = 900.0
"""How long a job that was told to end may take until its end is noted."""
LOST_S = 90.0
"""How long a job that Slurm calls ended may leave us without its own word."""


class JobLane:
    """One job, over all its attempts."""

    def __init__(self, folder: Path, root: Path, seconds: Mapping[str, float]) -> None:
        self.folder = folder
        self.job: JobFile = read_job(folder)
        self.watch = Watch({name: root / where for name, where in self.job.stages.items()}, seconds)
        self._sent: Kill | None = None
        self._sent_at = 0.0
        self._read = 0

    @property
    def finished(self) -> bool:
        return all(self.watch.finished(stage) for stage in self.watch.folders)

    def advance(self, ledger: Ledger, untouched: Sequence[str]) -> None:
        """Look at the job once; send the next kill if it is there. Raises DrillError for a job that stays dead."""
        self.watch.update()
        ledger.resumed(self.watch)
        for event in self._news():
            if event["event"] == "ended":
                self._ended(event, ledger, untouched)
        if self._sent is not None:
            if time.monotonic() - self._sent_at > END_S:
                raise DrillError(f"{self.job.job_id} did not end within {END_S:g} s of SIG{self._sent.signal}")
            return
        kill = ledger.next_for(list(self.watch.folders))
        if kill is None:
            return
        if self.watch.finished(kill.stage):
            ledger.missed(kill, untouched)
        elif self.watch.reached(kill) and send(history(self.folder), self.job, kill.signal):
            self._sent, self._sent_at = kill, time.monotonic()

    def _news(self) -> list[dict[str, object]]:
        events = read_events(self.folder)
        new, self._read = events[self._read :], len(events)
        return new

    def _ended(self, event: dict[str, object], ledger: Ledger, untouched: Sequence[str]) -> None:
        kill, self._sent = self._sent, None
        how, reason, following = event.get("how"), event.get("reason"), event.get("next")
        if how == "finished":
            if kill is not None:
                ledger.missed(kill, untouched)
            return
        ledger.hit(kill, f"{how}, {following}", how == "interrupted", self.watch)
        self.watch.next_process()
        if following == "none":
            raise DrillError(f"{self.job.job_id} does not come back: {reason}; logs: {self.folder / 'log'}")


def send(past: History, job: JobFile, name: str) -> bool:
    """Send ``name`` to the ranks of a running job; False where none could be reached. Raises DrillError."""
    if job.launcher == "local":
        if past.process is None or not past.process.alive():
            return False
        os.kill(past.process.pid, getattr(signal, f"SIG{name}"))
        return True
    number = past.scheduler_id or job.scheduler_id
    assert number is not None, job
    targets = [number] if name != "KILL" else _steps_of_ranks(number)
    return bool(targets) and all(_slurm("scancel", f"--signal={name}", target) is not None for target in targets)


def _steps_of_ranks(number: str) -> list[str]:
    """Running job steps that ``srun`` has started, ``7_0.0``; the batch script is none of them."""
    shown = _slurm("squeue", "-h", "-s", "-j", number, "-o", "%i") or ""
    return [word for word in shown.split() if word.rpartition(".")[2].isdigit()]


def _slurm(*command: str) -> str | None:
    """Output of a Slurm command; None when the job has just ended. Raises DrillError for any other failure."""
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DrillError(f"{' '.join(command)}: {error}") from error
    if said.returncode == 0:
        return said.stdout
    if any(word in said.stderr for word in ("Invalid job", "already completing", "not active", "already completed")):
        return None
    raise DrillError(f"{' '.join(command)}: {said.stderr.strip()}")


def disturb_jobs(root: Path, order: Mapping[str, Path], seconds: Mapping[str, float], ledger: Ledger) -> None:
    """Kill the submitted jobs of ``root`` where the ledger says, until all are finished. order: all stages' folders."""
    lanes = [JobLane(path.parent, root, seconds) for path in sorted(jobs_folder(root).glob("*/job.json"))]
    known = {stage for lane in lanes for stage in lane.watch.folders}
    if lacking := [stage for stage in order if stage not in known]:
        raise DrillError(f"no job in {jobs_folder(root)} makes {', '.join(lacking)}")
    whole, lost = Watch(order, seconds), _Lost(lanes)
    while not all(lane.finished for lane in lanes):
        for lane in lanes:
            lane.advance(ledger, whole.untouched())
        lost.check()
        time.sleep(PAUSE_S)
    deadline = time.monotonic() + LOST_S
    while time.monotonic() < deadline and any(history(lane.folder).running for lane in lanes):
        time.sleep(0.2)
    for lane in lanes:
        lane.advance(ledger, ())
    for kill in list(ledger.pending):
        ledger.missed(kill, ())


class _Lost:
    """Notices jobs that Slurm has ended without a word of their own."""

    def __init__(self, lanes: Sequence[JobLane]) -> None:
        self._lanes = [lane for lane in lanes if lane.job.launcher == "slurm"]
        self._queue = SlurmQueue(interval_s=ASK_S)
        self._since: dict[str, float] = {}
        self._asked = time.monotonic()

    def check(self) -> None:
        """Raise DrillError for a job that is gone and not finished."""
        if time.monotonic() - self._asked < ASK_S:
            return
        self._asked = time.monotonic()
        numbers = {lane.job.scheduler_id or "": lane for lane in self._lanes if not lane.finished}
        for number, state in self._queue.states(numbers).items():
            if not state.ended:
                self._since.pop(number, None)
            elif time.monotonic() - self._since.setdefault(number, time.monotonic()) > LOST_S:
                lane = numbers[number]
                raise DrillError(
                    f"Slurm job {number} ({lane.job.job_id}) is {state.state}, unfinished: see {lane.folder}"
                )


def cancel_jobs(root: Path) -> int:
    """End the unfinished jobs of ``root``; returns how many."""
    count = 0
    for path in sorted(jobs_folder(root).glob("*/job.json")):
        job, past = read_job(path.parent), history(path.parent)
        if past.how is not None and past.next == "none" and not past.running:
            continue
        count += 1
        number = past.scheduler_id or job.scheduler_id
        if job.launcher == "slurm" and number is not None:
            _slurm("scancel", number)
        # The one that would start the job again goes first.
        for process in (past.keeper, past.process) if job.launcher == "local" else ():
            if process is not None and process.alive():
                os.kill(process.pid, signal.SIGKILL)
    return count
