"""Jobs of this machine as others see them: which supervisor has them, how to start one, to end it, and to end what one
has left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from ssvae.core.alive import Process
from ssvae.core.files import Busy, exclusive, read_json
from ssvae.core.jobs import JobFile, append_event, history, job_folder

GRACE_S = 20.0
"""How long ranks may live once they were asked to end, or one of them is gone."""
_START_S = 30.0


def start_supervisor(root: Path, sweep: str, code: Path, parallel: int) -> None:
    """Start a supervisor for the jobs of a sweep, from the frozen code, and wait until it is there.

    It outlives its caller, and waits for one that is at work already. Raises RuntimeError, naming its log, for one that
    does not come up.
    """
    note, log = supervisor_note(root, sweep), supervisor_folder(root, sweep) / "supervisor.log"
    environment = {
        **os.environ,
        "PYTHONPATH": with_code(code, os.environ.get("PYTHONPATH")),
        "PYTHONSAFEPATH": "1",
        "SSVAE_ROOT": str(root),
    }
    with log.open("a", encoding="utf-8") as file:
        started = subprocess.Popen(
            [sys.executable, "-m", "ssvae.sweep.supervisor", str(root), sweep, str(parallel)],
            env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        ended = started.poll()
        # It may have ended again already; or another one is at work, and this one waits for it.
        if ended == 0 or at_work(root, sweep) or (note.exists() and read_json(note)["pid"] == started.pid):
            return
        if ended is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"the local supervisor of {sweep} did not start; its log: {log}")


def stop_supervisor(root: Path, sweep: str) -> bool:
    """Ask the supervisor of a sweep to stop its jobs (they save) and end; False where none is at work.

    Raises ValueError where it is at work on another machine.
    """
    path = supervisor_note(root, sweep)
    if not path.exists() or not at_work(root, sweep):
        return False
    note = read_json(path)
    process = Process(note["host"], note["pid"], note["pid_start"])
    alive = process.alive()
    if alive is None:
        raise ValueError(f"the local jobs of {sweep} run on {process.host}: cancel them there")
    if alive:
        os.kill(process.pid, signal.SIGTERM)
    return alive


def at_work(root: Path, sweep: str) -> bool:
    """Is a supervisor of this sweep alive, on any machine that shares the file system?"""
    lock = supervisor_lock(root, sweep)
    if not lock.exists():
        return False
    try:
        with exclusive(lock, wait=False):
            return False
    except Busy:
        return True


def kept(root: Path, job: JobFile) -> bool:
    """Has a supervisor this job in hand, to be started or running?"""
    told = history(job_folder(root, job.job_id))
    if told.keeper is None or (told.next == "none" and not told.running):
        return False
    alive = told.keeper.alive()
    return alive if alive is not None else any(at_work(root, sweep) for sweep in job.sweeps)


def end_orphan(home: Path) -> bool:
    """End the ranks of a local job whose supervisor was killed: they would go on beside a second set. True if there
    were any. They are asked to save first."""
    told = history(home)
    if not told.running or told.process is None or not told.process.alive():
        return False
    rank = psutil.Process(told.process.pid)
    parent = rank.parent()
    ours = parent is not None and "submitit.local._local" in parent.cmdline()
    ranks = parent.children() if parent is not None and ours else [rank]
    for one in ranks:
        one.terminate()
    for one in psutil.wait_procs(ranks, timeout=GRACE_S)[1]:
        one.kill()
    append_event(home, "ended", attempt=told.attempts, how="interrupted", next="none", reason="its supervisor was gone")
    return True


def with_code(code: Path, others: str | None) -> str:
    """``PYTHONPATH`` with the frozen code ahead of what is there."""
    return os.pathsep.join([str(code / "src"), *filter(None, [others])])


def supervisor_folder(root: Path, sweep: str) -> Path:
    """Where a sweep's supervisor keeps its note, its log and its lock."""
    return root / "runs" / "sweeps" / sweep


def supervisor_note(root: Path, sweep: str) -> Path:
    """Which process it is."""
    return supervisor_folder(root, sweep) / "supervisor.json"


def supervisor_lock(root: Path, sweep: str) -> Path:
    """Held as long as it is at work."""
    return supervisor_folder(root, sweep) / ".supervisor.lock"
