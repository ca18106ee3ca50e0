"""The local scheduler of jobs: a process of its own, which goes on when the terminal that started it is closed.

It starts as many jobs at once as ``launch.parallel`` allows, each through submitit's local executor in processes of its
own, judges how each ended, and starts again what its budget allows. All it knows stands in the jobs' folders, where
every end is noted: also of a job that was never started.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import psutil
from submitit.local.local import LocalExecutor, LocalJob

from ssvae.core.alive import this_process
from ssvae.core.files import exclusive, write_json
from ssvae.core.jobs import BY_USER, JobFile, append_event, history, job_folder, jobs_folder, read_job, sweep_jobs
from ssvae.sweep.after_job import Verdict, conclude, finished, run_key
from ssvae.sweep.job import RunJob
from ssvae.sweep.local_jobs import GRACE_S, end_orphan, kept, supervisor_lock, supervisor_note, with_code

POLL_S = 0.3


@dataclass
class _Running:
    job: JobFile
    process: LocalJob[None]
    slot: int
    short_since: float | None = None


class Supervisor:
    """Runs the jobs of one sweep; see :meth:`run`."""

    def __init__(self, root: Path, sweep: str, parallel: int) -> None:
        self._root, self._sweep, self._parallel = root, sweep, parallel
        self._ending: str | None = None  # why nothing is started any more
        self._seen: dict[str, int] = {}  # job -> when its file was last written, as far as it was taken in
        self._pending: list[JobFile] = []
        self._running: list[_Running] = []
        self._elsewhere: list[JobFile] = []
        self._lost: set[str] = set()
        # A call that comes later may bring other code, the rest of the path is this sweep's.
        self._beside = os.environ.get("PYTHONPATH", "").partition(os.pathsep)[2]

    def run(self) -> None:
        """Until every job is finished, failed for good, or waits for one that failed; or until SIGTERM."""
        signal.signal(signal.SIGTERM, self._stop)
        self._take_in()
        while self._pending or self._running or self._elsewhere:
            self._look_at_running()
            if self._ending is None:
                self._take_in()
                self._look_elsewhere()
                self._hold_up()
                self._start_ready()
            else:
                self._give_up()
            time.sleep(POLL_S)

    def _take_in(self) -> None:
        """Jobs that were added to the sweep, or submitted anew, at its start or since."""
        busy = {job.job_id for job in (*self._pending, *self._elsewhere, *(one.job for one in self._running))}
        for job_id in sweep_jobs(self._root, self._sweep):
            home = job_folder(self._root, job_id)
            written = (home / "job.json").stat().st_mtime_ns
            if job_id in busy or self._seen.get(job_id) == written:
                continue
            self._seen[job_id] = written
            job = read_job(home)
            if job.launcher == "local" and not finished(job):
                self._lost.discard(job_id)
                self._take(job)

    def _take(self, job: JobFile) -> None:
        """Into our hands, unless another sweep's supervisor has it."""
        with exclusive(jobs_folder(self._root) / ".local.lock", wait=True):
            if kept(self._root, job):
                self._elsewhere.append(job)
                return
            end_orphan(self._home(job))
            append_event(self._home(job), "submitted", **this_process())
        self._pending.append(job)

    def _look_elsewhere(self) -> None:
        """What another supervisor has finished is there; what it has let go of is ours; what failed there is lost."""
        for job in list(self._elsewhere):
            if not finished(job) and kept(self._root, job):
                continue
            self._elsewhere.remove(job)
            told = history(self._home(job))
            if finished(job):
                self._done_with(job)
            elif told.next == "none" and not told.running and told.cancelled is None:
                self._lost.add(job.job_id)
                self._done_with(job)
            else:
                self._take(job)

    def _look_at_running(self) -> None:
        for one in list(self._running):
            verdict = self._look(one)
            if verdict is None:
                continue
            self._running.remove(one)
            if verdict.next != "none" and self._ending is None:
                append_event(self._home(one.job), "submitted", again=True, **this_process())
                self._pending.insert(0, one.job)
                continue
            self._done_with(one.job)
            if verdict.how != "finished":
                self._lost.add(one.job.job_id)
                if one.job.fail_fast and self._ending is None:
                    self._ending = f"{one.job.label} failed (fail_fast)"
                    self._tell_running()

    def _hold_up(self) -> None:
        """What needs something that is not going to come ends without a start; and what needs that, in turn."""
        while held := [job for job in self._pending if self._lost & set(job.needs)]:
            for job in held:
                self._pending.remove(job)
                self._lost.add(job.job_id)
                self._end(job, "killed", "cancelled: what it needs has failed")

    def _start_ready(self) -> None:
        busy = (*self._pending, *self._elsewhere, *(one.job for one in self._running))
        waiting = {job.job_id for job in busy}
        ready = [job for job in self._pending if not waiting & set(job.needs)]
        for job in ready[: self._parallel - len(self._running)]:
            self._pending.remove(job)
            self._running.append(self._start(job))

    def _give_up(self) -> None:
        """Note of what was not started why it is not going to be."""
        assert self._ending is not None
        for job in self._pending:
            append_event(self._home(job), "cancelled", reason=self._ending)
            self._end(job, "killed", f"cancelled: {self._ending}")
        self._pending, self._elsewhere = [], []

    def _end(self, job: JobFile, how: str, reason: str, code: int | None = None) -> None:
        attempts = history(self._home(job)).attempts
        append_event(
            self._home(job), "ended", attempt=attempts, how=how, next="none", reason=reason, rank=None, code=code
        )
        self._done_with(job)

    def _done_with(self, job: JobFile) -> None:
        """Only a submission that comes after this is a new one."""
        self._seen[job.job_id] = (self._home(job) / "job.json").stat().st_mtime_ns

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
        os.environ["PYTHONPATH"] = with_code(Path(job.code), self._beside)
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
        if self._ending is not None and not finished(one.job):
            # Whatever the verdict: nobody is going to start it again but the user.
            append_event(self._home(one.job), "cancelled", reason=self._ending)
            self._end(one.job, "interrupted", f"cancelled: {self._ending}", code)
            return Verdict("interrupted", self._ending, "none")
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
        self._ending = self._ending or BY_USER
        self._tell_running()


def _gpus(world: int, slot: int) -> dict[str, object]:
    """One GPU a rank where there are enough of them, dealt out to the slots in turn; submitit hides all others."""
    import torch  # late: a supervisor of CPU jobs has to import it too, but its callers need not

    count = torch.cuda.device_count()
    if not count:
        return {"gpus_per_node": 0}
    visible = tuple(sorted({(slot * world + number) % count for number in range(world)}))
    return {"gpus_per_node": len(visible), "visible_gpus": visible}


def main(words: Sequence[str]) -> int:
    """``python -m ssvae.sweep.supervisor ROOT SWEEP PARALLEL``: what start_supervisor (local_jobs.py) starts."""
    root, sweep, parallel = Path(words[0]), words[1], int(words[2])
    cores = os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // parallel)))
    with exclusive(supervisor_lock(root, sweep), wait=True):
        write_json(supervisor_note(root, sweep), this_process())
        Supervisor(root, sweep, parallel).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
