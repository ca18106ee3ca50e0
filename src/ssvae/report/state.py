"""Where the cells of a sweep stand: run folders first, then the jobs that make them, then the process that does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ssvae.core.files import Busy, exclusive, read_json
from ssvae.core.jobs import History, JobFile, history, job_folder, read_job, sweep_jobs
from ssvae.core.queue import QueueState, SlurmQueue
from ssvae.report.cell_state import CellState, Stages, by_jobs, by_process
from ssvae.report.collect import cell_paths
from ssvae.report.job_state import JobState, Signs, judge, with_needs
from ssvae.report.pace import STALE_S, last_sign_ms, span

Value = TypeVar("Value")


class Queue(Protocol):
    """Who knows the states of Slurm's jobs."""

    def states(self, ids: Iterable[str]) -> Mapping[str, QueueState]:
        """The state of every id."""
        ...


def sweep_rows(root: Path, sweep: str, queue: Queue | None = None) -> list[CellState]:
    """The cells of a sweep, once; to look again and again, keep a :class:`SweepWatch`."""
    return SweepWatch(root, sweep, queue).rows()


def state_lines(states: Sequence[CellState]) -> list[str]:
    """One aligned line a cell and a last one with the counts."""
    widths = [max(len(getattr(s, key)) for s in states) for key in ("status", "name", "cell_id")] if states else []
    lines = []
    for s in states:
        cells = [text.ljust(width) for text, width in zip((s.status, s.name, s.cell_id), widths, strict=True)]
        lines.append("  ".join([*cells, span(s.seconds).rjust(8), " ".join(s.detail.split())]))
    return [line.rstrip() for line in [*lines, counts(states)]]


def counts(states: Sequence[CellState]) -> str:
    """Such as ``8 cells: 2 finished, 6 running``."""
    each = {status: sum(s.status == status for s in states) for status in sorted({s.status for s in states})}
    return f"{len(states)} cells: " + ", ".join(f"{count} {status}" for status, count in each.items())


class SweepWatch:
    """Looks at a sweep as often as is wanted, on a shared file system too: what cannot change is read once, what did
    not change is not parsed again.

    queue: who is asked for Slurm's jobs, those that are not finished; None: ``squeue``.
    """

    def __init__(self, root: Path, sweep: str, queue: Queue | None = None) -> None:
        self._root = root
        self._sweep = sweep
        self._queue: Queue = queue if queue is not None else SlurmQueue()
        self._seconds: dict[str, float] = {}
        """Of finished stages, by folder: a stage that is finished stays so."""
        self._files: dict[str, JobFile] = {}
        self._parsed: dict[Path, tuple[tuple[int, int, int], Any]] = {}

    @property
    def command(self) -> str:
        """The command that makes the sweep, and goes on with it."""
        path = self._root / "runs" / "sweeps" / self._sweep / "sweep.json"
        return str(_read(path).get("command", "the sweep's command")) if path.exists() else "the sweep's command"

    def rows(self) -> list[CellState]:
        """One state a cell (:func:`~ssvae.report.collect.cell_paths`), in the order of the files' names.

        Raises ValueError for an unknown sweep, a damaged file, or a listed cell that is not there.
        """
        records = {path: self._file(path, _read) for path in cell_paths(self._root, self._sweep)}
        done = self._finished({where for record in records.values() for where in record["stages"].values()})
        jobs = self._jobs(done)
        makers: dict[str, JobState] = {}
        for job in jobs.values():
            for where in job.job.stages.values():
                makers.setdefault(where, job)
        left = {path: _left(record["stages"], done) for path, record in records.items()}
        held = {
            path: self._held(record["stages"][name] for name in left[path])
            for path, record in records.items()
            if not any(record["stages"][name] in makers for name in left[path])
            and record["status"] in ("running", "waiting")
        }
        return [
            self._row(path, record, left[path], makers, held.get(path, False), any(held.values()))
            for path, record in records.items()
        ]

    def _row(
        self,
        path: Path,
        record: Mapping[str, Any],
        left: Sequence[str],
        makers: Mapping[str, JobState],
        held: bool,
        someone: bool,
    ) -> CellState:
        where = record["stages"]
        name = " ".join(f"{key}={value}" for key, value in record["fields"].items())
        seconds = float(record["seconds"] or 0.0) or sum(
            self._seconds[folder] for folder in where.values() if folder in self._seconds and folder in makers
        )
        mine = [makers[where[stage]] for stage in left if where[stage] in makers]
        jobs = list({job.job.job_id: job for job in mine}.values())
        row = CellState(record["cell_id"], name, record["status"], "", seconds, label=record.get("label") or name)
        if not left or (record["status"] == "finished" and not jobs):
            reused = f"reused {', '.join(record['reused'])}" if record["reused"] else ""
            gone = ", ".join(f"{where[stage]} is gone" for stage in left)
            return replace(row, status="finished", detail=gone or reused)
        stages = Stages(self._root, where, tuple(left))
        row = replace(row, reason=record["reason"])
        if jobs:
            return by_jobs(row, stages, jobs)
        fresh = self._age_s(path, stages.folder(left[0])) < STALE_S
        return by_process(row, stages, held=held, someone=someone, fresh=fresh)

    def _jobs(self, done: Mapping[str, bool]) -> dict[str, JobState]:
        """The states of the sweep's jobs and of those that they need."""
        files: dict[str, JobFile] = {}
        wanted = list(sweep_jobs(self._root, self._sweep))
        while wanted:
            job_id = wanted.pop(0)
            if job_id in files or (job := self._job(job_id)) is None:
                continue
            files[job_id] = job
            wanted += job.needs
        done = {**done, **self._finished({where for job in files.values() for where in job.stages.values()})}
        open_ = {job_id for job_id, job in files.items() if not all(done[where] for where in job.stages.values())}
        histories = {job_id: self._history(job_id) if job_id in open_ else History() for job_id in files}
        numbers = {
            job_id: histories[job_id].scheduler_id or job.scheduler_id
            for job_id, job in files.items()
            if job_id in open_ and job.launcher == "slurm"
        }
        asked = [number for number in numbers.values() if number is not None]
        queue = self._queue.states(asked) if asked else {}
        states: dict[str, JobState] = {}
        for job_id, job in files.items():
            number = numbers.get(job_id)
            told = queue[number] if number is not None else None
            folder = job_folder(self._root, job_id)
            states[job_id] = judge(job, folder, histories[job_id], told, self._signs(job, done))
        seen: dict[str, JobState] = {}
        for job_id in states:
            _settle(job_id, states, seen)
        return seen

    def _job(self, job_id: str) -> JobFile | None:
        """A job's file, None where there is none; that of a job that is finished does not change any more."""
        known = self._files.get(job_id)
        if known is not None and all(where in self._seconds for where in known.stages.values()):
            return known
        path = job_folder(self._root, job_id) / "job.json"
        if not path.exists():
            return None
        self._files[job_id] = self._file(path, lambda path: read_job(path.parent))
        return self._files[job_id]

    def _history(self, job_id: str) -> History:
        events = job_folder(self._root, job_id) / "events.jsonl"
        return self._file(events, lambda path: history(path.parent)) if events.exists() else History()

    def _signs(self, job: JobFile, done: Mapping[str, bool]) -> Signs:
        left = [(name, self._root / where) for name, where in job.stages.items() if not done[where]]
        now = int(time.time() * 1000)
        if not left:
            return Signs(None, None, lambda: None, lambda: False, now)
        stage, folder = left[0]
        return Signs(stage, folder, lambda: last_sign_ms(folder), lambda: self._held(job.stages.values()), now)

    def _finished(self, folders: Iterable[str]) -> dict[str, bool]:
        found = {}
        for where in folders:
            done = self._root / where / "done.json"
            if where not in self._seconds and done.exists():
                self._seconds[where] = float(read_json(done)["seconds"])
            found[where] = where in self._seconds
        return found

    def _held(self, folders: Iterable[str]) -> bool:
        """Is somebody at work in one of the folders? Then its lock is taken."""
        for where in folders:
            folder = self._root / where
            lock = folder.parent / f".{folder.name}.lock"
            if not lock.exists():
                continue
            try:
                with exclusive(lock, wait=False):
                    pass
            except Busy:
                return True
        return False

    def _age_s(self, path: Path, folder: Path) -> float:
        """Seconds since the cell's record or its stage was last written."""
        last = max(int(path.stat().st_mtime * 1000), last_sign_ms(folder) or 0)
        return time.time() - last / 1000

    def _file(self, path: Path, parse: Callable[[Path], Value]) -> Value:
        """What ``parse`` makes of the file, from memory as long as the file is the same."""
        stat = path.stat()
        key = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if path not in self._parsed or self._parsed[path][0] != key:
            self._parsed[path] = (key, parse(path))
        found: Value = self._parsed[path][1]
        return found


def _settle(job_id: str, states: Mapping[str, JobState], seen: dict[str, JobState]) -> JobState:
    """The state of a job, those of the jobs that it needs considered; into ``seen``, each once."""
    if job_id not in seen:
        seen[job_id] = states[job_id]  # a circle, which nobody writes, would end here
        needed = [_settle(one, states, seen) for one in states[job_id].job.needs if one in states]
        seen[job_id] = with_needs(states[job_id], needed)
    return seen[job_id]


def _left(stages: Mapping[str, str], done: Mapping[str, bool]) -> list[str]:
    """The stages that are still to be made: a base has done its work once what continues it is finished."""
    missing = [name for name, where in stages.items() if not done[where]]
    return [name for name in missing if not (name == "base" and "pretrain" in stages and "pretrain" not in missing)]


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON ({error}): remove it and run the sweep's command again") from error
    return found
