"""The local scheduler of jobs: a process of its own, which goes on when the terminal that started it is closed.

It starts as many jobs at once as ``launch.parallel`` allows, each through submitit's local executor in processes of its
own, judges how each ended, and starts again what its budget allows. All it knows stands in the jobs' folders.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil
from submitit.local.local import LocalExecutor, LocalJob

from ssvae.core.alive import this_process
from ssvae.core.files import Busy, exclusive, read_json, write_json
from ssvae.core.jobs import JobFile, append_event, history, job_folder, read_job, sweep_jobs
from ssvae.sweep.after_job import Verdict, conclude, finished, run_key
from ssvae.sweep.job import RunJob

POLL_S = 0.3
GRACE_S = 20.0
"""How long the other ranks of a job may live once one is gone."""


@dataclass
class _Running:
    job: JobFile
    process: LocalJob[None]
    slot: int
    short_since: float | None = None


def start_supervisor(root: Path, sweep: str, code: Path, parallel: int) -> None:
    """Start a supervisor for the jobs of a sweep, from the frozen code. It outlives its caller, and waits for one that
    is at work already."""
    log = _folder(root, sweep) / "supervisor.log"
    environment = {
        **os.environ,
        "PYTHONPATH": str(code / "src"),
        "PYTHONSAFEPATH": "1",
        "SSVAE_ROOT": str(root),
    }
    with log.open("a", encoding="utf-8") as file:
        subprocess.Popen(
            [sys.executable, "-m", "ssvae.sweep.supervisor", str(root), sweep, str(parallel)],
            env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip


def stop_supervisor(root: Path, sweep: str) -> bool:
    """Ask the supervisor of a sweep to stop its jobs (they save) and end; False where none is at work."""
    note = _folder(root, sweep) / "supervisor.json"
    if not note.exists() or not at_work(root, sweep):
        return False
    os.kill(int(read_json(note)["pid"]), signal.SIGTERM)
    return True


def at_work(root: Path, sweep: str) -> bool:
    """Is a supervisor of this sweep alive, on any machine that shares the file system?"""
    try:
        with exclusive(_lock(root, sweep), wait=False):
            return False
    except Busy:
        return True


class Supervisor:
    """Runs the jobs of one sweep; see :meth:`run`."""

    def __init__(self, root: Path, sweep: str, parallel: int) -> None:
        self._root, self._sweep, self._parallel = root, sweep, parallel
        self._stopping = False
        self._seen: set[str] = set()
        self._running: list[_Running] = []

    def run(self) -> None:
        """Until every job is finished, failed for good, or waits for one that failed; or until SIGTERM."""
        signal.signal(signal.SIGTERM, self._stop)
        lost: set[str] = set()
        pending = self._news()
        while pending or self._running:
            for one in list(self._running):
                verdict = self._look(one)
                if verdict is None:
                    continue
                self._running.remove(one)
                if verdict.next != "none" and not self._stopping:
                    append_event(self._home(one.job), "submitted", again=True, **this_process())
                    pending.insert(0, one.job)
                elif verdict.how != "finished":
                    lost.add(one.job.job_id)
                    self._stopping |= one.job.fail_fast
                    if one.job.fail_fast:
                        self._tell_running()
            if self._stopping:
                pending = []
            pending += self._news()
            pending = [job for job in pending if not _held_up(job, lost)]
            waiting = {job.job_id for job in pending} | {one.job.job_id for one in self._running}
            ready = [job for job in pending if not waiting & set(job.needs)]
            for job in ready[: self._parallel - len(self._running)]:
                pending.remove(job)
                self._running.append(self._start(job))
            time.sleep(POLL_S)

    def _news(self) -> list[JobFile]:
        """Jobs that were added to the sweep, at its start or since: another call may want more cells of it."""
        found = []
        for job_id in sweep_jobs(self._root, self._sweep):
            if job_id in self._seen:
                continue
            self._seen.add(job_id)
            job = read_job(job_folder(self._root, job_id))
            if not finished(job) and not self._stopping:
                end_orphan(self._home(job))
                append_event(self._home(job), "submitted", **this_process())
                found.append(job)
        return found

    def _home(self, job: JobFile) -> Path:
        return job_folder(self._root, job.job_id)

    def _start(self, job: JobFile) -> _Running:
        taken = {one.slot for one in self._running}
        slot = next(number for number in range(self._parallel) if number not in taken)
        executor = LocalExecutor(self._home(job) / "log" / "%j")
        executor.update_parameters(
            timeout_min=job.timeout_min or 10080,
            signal_delay_s=job.signal_delay_s,
            tasks_per_node=job.world,
            **_gpus(job.world, slot),
        )
        # A call that came later may have brought other code.
        os.environ["PYTHONPATH"] = str(Path(job.code) / "src")
        process = executor.submit(RunJob(self._home(job)))
        assert isinstance(process, LocalJob)
        return _Running(job, process, slot)

    def _look(self, one: _Running) -> Verdict | None:
        """The verdict on a job that has ended, None for one that goes on."""
        process = one.process._process
        assert process is not None
        if (code := process.poll()) is None:
            self._end_the_rest(one, process.pid)
            return None
        if self._stopping:
            # Whatever the verdict: nobody is going to start it again but the user.
            done = history(self._home(one.job))
            if not finished(one.job):
                append_event(
                    self._home(one.job), "ended", attempt=done.attempts, how="interrupted", next="none",
                    reason="cancelled", rank=None, code=code,
                )  # fmt: skip
                return Verdict("interrupted", "cancelled", "none")
        return conclude(self._home(one.job), code, run_key(one.process.job_id))

    def _end_the_rest(self, one: _Running, pid: int) -> None:
        """A job whose rank is gone is over: the other ranks may wait for it for ever."""
        try:
            alive = [child for child in psutil.Process(pid).children() if child.status() != psutil.STATUS_ZOMBIE]
        except psutil.NoSuchProcess:
            return
        if not alive or len(alive) == one.job.world:
            one.short_since = None
            return
        now = time.monotonic()
        one.short_since = one.short_since or now
        # Ranks that end well end together; before all have started there are fewer, too.
        if now - one.short_since > GRACE_S:
            for child in alive:
                child.kill()

    def _tell_running(self) -> None:
        for one in self._running:
            process = one.process._process
            assert process is not None
            process.send_signal(signal.SIGTERM)  # submitit's controller passes it on to the ranks

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True
        self._tell_running()


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


def _gpus(world: int, slot: int) -> dict[str, object]:
    """One GPU a rank where there are enough of them, dealt out to the slots in turn; submitit hides all others."""
    import torch  # late: a supervisor of CPU jobs has to import it too, but its callers need not

    count = torch.cuda.device_count()
    if not count:
        return {"gpus_per_node": 0}
    visible = tuple(sorted({(slot * world + number) % count for number in range(world)}))
    return {"gpus_per_node": len(visible), "visible_gpus": visible}


def _held_up(job: JobFile, lost: set[str]) -> bool:
    """Does it need something that is not going to come? Then whatever needs it is held up, too."""
    if lost & set(job.needs):
        lost.add(job.job_id)
        return True
    return False


def _folder(root: Path, sweep: str) -> Path:
    return root / "runs" / "sweeps" / sweep


def _lock(root: Path, sweep: str) -> Path:
    return _folder(root, sweep) / ".supervisor.lock"


def main(words: Sequence[str]) -> int:
    """``python -m ssvae.sweep.supervisor ROOT SWEEP PARALLEL``: what :func:`start_supervisor` starts."""
    root, sweep, parallel = Path(words[0]), words[1], int(words[2])
    cores = os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // parallel)))
    with exclusive(_lock(root, sweep), wait=True):
        write_json(_folder(root, sweep) / "supervisor.json", this_process())
        Supervisor(root, sweep, parallel).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
