"""One cell's tracked run: step metrics, final metrics, system metrics and artifacts, each of them exactly once.

Knows a tracking store only through :class:`Store`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple, Protocol

from ssvae.track.base import MirrorCount, RunStatus
from ssvae.track.folder import StepLine, StepTail, created_ms, final_metrics, fingerprint
from ssvae.track.limits import POINTS_PER_CALL
from ssvae.track.media import Unreadable, Upload, uploads
from ssvae.track.system import SystemTails

logger = logging.getLogger(__name__)
LOGGED_IMAGES = "mlflow.loggedImages"
"""Tag of runs that have pictures for the image grid."""


class Point(NamedTuple):
    """One metric value: ``timestamp`` in milliseconds since the epoch."""

    key: str
    value: float
    timestamp: int
    step: int


class Store(Protocol):
    """What a cell needs of the tracking store. Every method may raise the errors that ``translated`` turns."""

    def translated(self, what: str) -> AbstractContextManager[None]:
        """Turn the store's own errors, and those of reading run folders, into TrackerError."""
        ...

    def exclusive(self, run_id: str) -> AbstractContextManager[object]:
        """Keep other processes from writing the run meanwhile; raises OSError if one of them keeps it for long."""
        ...

    def key(self, name: str) -> str:
        """``name`` in the form the store accepts."""
        ...

    def tags(self, run_id: str) -> Mapping[str, str]:
        """All tags of a run."""
        ...

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set several tags at once; values that are too long are cut."""
        ...

    def latest(self, run_id: str) -> dict[str, Point]:
        """The point with the highest step of every metric."""
        ...

    def history(self, run_id: str, key: str) -> list[Point]:
        """Every point of one metric."""
        ...

    def log_points(self, run_id: str, points: Sequence[Point]) -> None:
        """Store up to ``POINTS_PER_CALL`` points; a point that is there already changes nothing."""
        ...

    def upload(self, run_id: str, file: Path, where: str, name: str) -> None:
        """Copy ``file`` to ``where``/``name`` among the run's artifacts, replacing one that is there."""
        ...

    def close_run(self, run_id: str, status: RunStatus, ended_ms: int | None) -> None:
        """Set the final status."""
        ...


@dataclass
class _Stage:
    """What is known to be in the store already.

    prefix of step metrics; created: milliseconds since the epoch; last: highest step by metric; finals: fingerprint of
    the mirrored ``metrics.json``; files: marks by artifact; uploaded: digest over all of them.
    """

    prefix: str
    created: int
    tail: StepTail
    system: SystemTails
    last: dict[str, int]
    uploaded: str
    finals: str = ""
    files: dict[str, str] = field(default_factory=dict)


class MirroredCell:
    """The run of a cell.

    Step metrics appear as ``<stage>/<name>`` with the time stamp ``created_ms + step``. It depends on nothing but the
    run folder, so a point that is sent twice is one row in the store (MLflow's primary key holds key, time, step and
    value), even when a process was killed between sending and noting. Points at or below the highest step of their
    metric are not sent at all: where a resumed run wrote other values, the first ones stay. Other processes may mirror
    the same cell: one at a time writes, and each looks at what is there before it does.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self._store = store
        self.run_id = run_id
        self._stages: dict[tuple[str, Path], _Stage] = {}
        self._lock = threading.Lock()

    def mirror(self, stage: str, folder: Path) -> MirrorCount:
        """Copy what is new in ``folder``; idempotent, safe from several threads and processes.

        Raises TrackerError; what was sent until then is remembered, the next call sends the rest.
        """
        if not folder.is_dir():
            return MirrorCount()
        with self._store.translated(f"{folder} cannot be mirrored"), self._lock, self._store.exclusive(self.run_id):
            # Points need the creation time; a folder without run.json has only files to offer.
            stamp = created_ms(folder)
            created = stamp or 0
            state = self._stages.get((stage, folder))
            if state is None or state.created != created:
                state = self._stages[stage, folder] = self._open_stage(stage, folder, created)
            points, skipped, malformed = self._mirror_steps(state) if stamp is not None else (0, 0, 0)
            finals, missing = self._mirror_finals(stage, folder, state) if stamp is not None else (0, 0)
            system = self._mirror_system(folder, state)
            files = self._mirror_files(stage, folder, state)
        return MirrorCount(points, finals, files, skipped + missing, malformed, system)

    def _open_stage(self, stage: str, folder: Path, created: int) -> _Stage:
        tags = self._store.tags(self.run_id)
        known = tags.get(f"folder.{stage}")
        if known is None:
            self._store.set_tags(self.run_id, {f"folder.{stage}": folder.name})
        # Another folder means another identity of the stage: its curve must not continue the older one.
        prefix = stage if known in (None, folder.name) else folder.name
        uploaded = tags.get(f"uploaded.{folder.name}", "")
        return _Stage(prefix, created, StepTail(folder / "steps.jsonl"), SystemTails(folder), {}, uploaded)

    def _mirror_steps(self, state: _Stage) -> tuple[int, int, int]:
        """Send new points in batches of whole lines; returns (sent, skipped values, malformed lines)."""
        sent = skipped = malformed = 0
        batch: list[Point] = []
        handled: StepLine | None = None
        reached: dict[str, int] | None = None
        for line in state.tail.unread():
            if reached is None:
                # Asked anew each time: another process may have sent some of it since.
                latest = self._store.latest(self.run_id)
                reached = {**state.last, **{key: point.step for key, point in latest.items()}}
            malformed += line.step is None
            skipped += line.skipped
            fresh = self._fresh(line, state, reached)
            if handled is not None and len(batch) + len(fresh) > POINTS_PER_CALL:
                sent += self._send(batch, state)
                state.tail.commit(handled)
                batch = []
            batch += fresh
            handled = line
        sent += self._send(batch, state)
        if handled is not None:
            state.tail.commit(handled)
        return sent, skipped, malformed

    def _fresh(self, line: StepLine, state: _Stage, reached: dict[str, int]) -> list[Point]:
        """The points of ``line`` past the highest step of their metric, which is raised in ``reached``."""
        fresh: list[Point] = []
        if line.step is None:
            return fresh
        for name, value in line.values.items():
            key = self._store.key(f"{state.prefix}/{name}")
            if line.step > reached.get(key, -1):
                fresh.append(Point(key, value, state.created + line.step, line.step))
                reached[key] = line.step
        return fresh

    def _send(self, points: Sequence[Point], state: _Stage | None = None) -> int:
        for start in range(0, len(points), POINTS_PER_CALL):
            part = points[start : start + POINTS_PER_CALL]
            self._store.log_points(self.run_id, part)
            # Noted after every request: a failure of the next one must not make these points new again.
            if state is not None:
                state.last.update({point.key: point.step for point in part})
        return len(points)

    def _mirror_finals(self, stage: str, folder: Path, state: _Stage) -> tuple[int, int]:
        """Log the final metrics under their plain names; returns (sent, names without a finite value)."""
        path = folder / "metrics.json"
        if not path.exists() or fingerprint(path) == state.finals:
            return 0, 0
        mark = fingerprint(path)
        values, missing = final_metrics(folder)
        latest = self._store.latest(self.run_id)
        points = []
        for name, value in values.items():
            key = self._store.key(name)
            if key not in latest:
                points.append(Point(key, value, state.created, 0))
            elif latest[key].value != value:
                # The same name from two stages, or from a stage that was computed anew: one step each.
                history = self._store.history(self.run_id, key)
                if not any(point.value == value and point.timestamp == state.created for point in history):
                    points.append(Point(key, value, state.created, max(point.step for point in history) + 1))
        sent = self._send(points)
        if missing:
            self._store.set_tags(self.run_id, {f"not_measured.{stage}": ", ".join(missing)})
        state.finals = mark
        return sent, len(missing)

    def _mirror_system(self, folder: Path, state: _Stage) -> int:
        """Send the system metrics of every rank; all stages share their names, so a tag says how far each one is."""
        if not state.system.grown():
            return 0
        tag = f"system.{folder.name}"
        sent = 0
        for rows, mark in state.system.unread(self._store.tags(self.run_id).get(tag, "")):
            sent += self._send([Point(self._store.key(name), value, at, step) for name, value, at, step in rows])
            self._store.set_tags(self.run_id, {tag: mark})
            state.system.commit()
        return sent

    def _mirror_files(self, stage: str, folder: Path, state: _Stage) -> int:
        found = uploads(stage, folder, state.created)
        digest = sha256("\n".join(f"{one.where}/{one.name} {one.mark}" for one in found).encode()).hexdigest()
        if not found or digest == state.uploaded:
            return 0
        count = 0
        for one in found:
            place = f"{one.where}/{one.name}"
            if state.files.get(place) != one.mark:
                count += self._upload(one)
                state.files[place] = one.mark
        # The tag spares a later process from copying everything of a reused stage again.
        pictures = {LOGGED_IMAGES: "True"} if any(one.where == "images" for one in found) else {}
        self._store.set_tags(self.run_id, {f"uploaded.{folder.name}": digest, **pictures})
        state.uploaded = digest
        return count

    def _upload(self, one: Upload) -> bool:
        if one.make is None:
            self._store.upload(self.run_id, one.source, one.where, one.name)
            return True
        with TemporaryDirectory(prefix="ssvae-track-") as folder:
            made = Path(folder) / "made"
            try:
                one.make(one.source, made)
            except Unreadable as error:
                logger.debug("left out of the tracker's pictures: %s", error)
                return False
            self._store.upload(self.run_id, made, one.where, one.name)
        return True

    def mark_reused(self, stages: Sequence[str]) -> None:
        """Set tag ``reused`` to the comma-separated names of ``stages``."""
        with self._store.translated("reused stages cannot be noted"):
            self._store.set_tags(self.run_id, {"reused": ",".join(stages)})

    def finish(self, status: RunStatus, reason: str | None = None, ended_ms: int | None = None) -> None:
        """Close the run; ``reason`` becomes a tag and the run's description, and is emptied when there is none."""
        with self._store.translated("a cell cannot be closed"):
            self._store.set_tags(self.run_id, {"reason": reason or "", "mlflow.note.content": reason or ""})
            self._store.close_run(self.run_id, status, ended_ms)
