"""The thread that keeps a tracker up to date while stages run, without ever stopping or slowing them."""

from __future__ import annotations

import logging
import queue
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from ssvae.track.base import CellRun, Problems, TrackerError

logger = logging.getLogger(__name__)

_SLOWEST_POLL_S = 60.0
_FIRST_RETRY_S = 0.5


@dataclass(eq=False)
class _Watched:
    cell: CellRun
    stage: str
    folder: Path
    done: threading.Event = field(default_factory=threading.Event)
    complete: bool = False


class Mirror:
    """Polls run folders and mirrors what is new, from one background thread for any number of cells.

    problems: where failures are counted. every_s: seconds between two polls (longer while polls fail). retries:
    attempts of the final flush of a stage. patience_s: longest time :meth:`finish` and :meth:`close` keep their caller
    waiting.
    """

    def __init__(self, problems: Problems, every_s: float = 5.0, retries: int = 3, patience_s: float = 60.0) -> None:
        self._problems = problems
        self._every_s = every_s
        self._retries = retries
        self._patience_s = patience_s
        self._watched: list[_Watched] = []
        self._guard = threading.Lock()
        self._jobs: queue.Queue[_Watched | None] = queue.Queue()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="tracker-mirror", daemon=True)
        self._thread.start()

    def watch(self, cell: CellRun, stage: str, folder: Path) -> None:
        """Start mirroring ``folder`` as ``stage`` of ``cell``; it need not exist yet."""
        with self._guard:
            if self._find(cell, stage) is None:
                self._watched.append(_Watched(cell, stage, folder))

    def finish(self, cell: CellRun, stage: str) -> bool:
        """Mirror the rest of a stage and stop watching it; False if the tracker is not complete.

        Returns after ``patience_s`` seconds at the latest.
        """
        with self._guard:
            watched = self._find(cell, stage)
            assert watched is not None, f"stage {stage} was never watched"
            self._watched.remove(watched)
        self._jobs.put(watched)
        if not self._wait(watched.done):
            self._problems.note(TrackerError(f"{watched.folder} was not mirrored within {self._patience_s:g} s"))
        return watched.complete

    def close(self) -> None:
        """Mirror what is still watched and end the thread."""
        if self._stop.is_set():
            return
        with self._guard:
            left, self._watched = self._watched, []
        for watched in left:
            self._jobs.put(watched)
        self._jobs.put(None)
        self._thread.join(self._patience_s)
        self._stop.set()
        if self._thread.is_alive():
            self._problems.note(TrackerError(f"the tracker was still busy after {self._patience_s:g} s"))

    def __enter__(self) -> Mirror:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _find(self, cell: CellRun, stage: str) -> _Watched | None:
        return next((w for w in self._watched if w.cell is cell and w.stage == stage), None)

    def _wait(self, event: threading.Event) -> bool:
        deadline = time.monotonic() + self._patience_s
        while not event.wait(0.1):
            # A thread that died of a bug of ours must not cost the whole patience.
            if time.monotonic() > deadline or not self._thread.is_alive():
                return event.is_set()
        return True

    def _work(self) -> None:
        pause = self._every_s
        while not self._stop.is_set():
            try:
                job = self._jobs.get(timeout=pause)
            except queue.Empty:
                pause = self._every_s if self._poll() else min(2 * pause, _SLOWEST_POLL_S)
                continue
            if job is None:
                return
            self._flush(job)

    def _poll(self) -> bool:
        """Mirror everything once; False if something failed."""
        with self._guard:
            watched = list(self._watched)
        good = True
        for item in watched:
            good = self._once(item) and good
        return good

    def _flush(self, item: _Watched) -> None:
        try:
            for attempt in range(self._retries):
                if attempt:
                    self._stop.wait(_FIRST_RETRY_S * 2 ** (attempt - 1))
                item.complete = self._once(item)
                if item.complete:
                    return
        finally:
            item.done.set()

    def _once(self, item: _Watched) -> bool:
        try:
            count = item.cell.mirror(item.stage, item.folder)
        except TrackerError as error:
            self._problems.note(error)
            return False
        if count.malformed:
            logger.warning("%s: %d malformed lines in steps.jsonl were left out", item.folder, count.malformed)
        return True
