"""A sign of life on disk: how far the running piece of work is, and how fast it goes."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from ssvae.core.progress import Progress

logger = logging.getLogger(__name__)

FILE = "progress.json"
WINDOW_S, POINT_S = 60.0, 1.0
"""The rate is that of the latest minute; counts are remembered a second apart."""


class Heartbeat:
    """A progress that passes on what it is told, and keeps ``path`` up to date for others to read.

    The file holds {"what": str, "done": int, "total": int, "rate": float | null, "time_ms": int}: units a second over
    the latest minute of this process (null until a unit was made; what a resumed piece of work began with is not
    counted), and when it was written. It is written at a start and then at most every ``every_s`` seconds, when the
    work gives a sign of life, by renaming a whole file over it; not flushed to the disk, as nothing is lost with it.
    A file that cannot be written stops nothing: it is logged once and counted in ``failures``.
    """

    def __init__(
        self, progress: Progress, path: Path, every_s: float = 5.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.failures = 0
        self._progress, self._path, self._every_s, self._clock = progress, path, every_s, clock
        self._what, self._total = "", 0
        self._points: deque[tuple[float, int]] = deque()
        self._written = -every_s

    def start(self, what: str, total: int, done: int = 0) -> None:
        self._progress.start(what, total, done)
        self._what, self._total = what, total
        now = self._clock()
        self._points = deque([(now, done)])
        self._write(now, done)

    def advance(self, done: int, note: str = "") -> None:
        self._progress.advance(done, note)
        now = self._clock()
        if self._points and now - self._points[-1][0] >= POINT_S:
            self._points.append((now, done))
        # One point older than the window stays: without it a slow unit would have nothing to be measured from.
        while len(self._points) > 1 and self._points[1][0] <= now - WINDOW_S:
            self._points.popleft()
        if now - self._written >= self._every_s:
            self._write(now, done)

    def _rate(self, now: float, done: int) -> float | None:
        since, before = self._points[0] if self._points else (now, done)
        return (done - before) / (now - since) if done > before and now > since else None

    def _write(self, now: float, done: int) -> None:
        self._written = now
        told = {"what": self._what, "done": done, "total": self._total, "rate": self._rate(now, done)}
        text = json.dumps({**told, "time_ms": int(time.time() * 1000)})
        # A hidden name: whatever a killed process leaves is removed with the folder's other leftovers.
        temporary = self._path.with_name(f".{self._path.name}.tmp")

        def write() -> None:
            temporary.write_text(text + "\n", encoding="utf-8")
            temporary.replace(self._path)

        self._attempt(write)

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except OSError as error:
            self.failures += 1
            if self.failures == 1:
                logger.warning("%s: progress cannot be shown there, the work goes on: %s", self._path, error)
