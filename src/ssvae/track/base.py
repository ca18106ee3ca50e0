"""What a tracker is: a mirror of run folders that others may look at, and that training never depends on.

The run folder is the truth (``steps.jsonl``, ``metrics.json``, ``samples/``, ``figures/``). A tracker copies it and
can be filled again from the folders at any time, so losing it loses nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

logger = logging.getLogger(__name__)

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]


class TrackerError(RuntimeError):
    """The tracker could not do what was asked; the run folders are untouched."""


@dataclass(frozen=True, slots=True)
class MirrorCount:
    """What one call of ``mirror`` found.

    points: step metrics sent. finals: final metrics sent. files: artifacts uploaded. skipped: values that are not
    finite numbers (NaN, infinity, null) and were left out. malformed: lines of ``steps.jsonl`` that are no JSON object.
    """

    points: int = 0
    finals: int = 0
    files: int = 0
    skipped: int = 0
    malformed: int = 0


class CellRun(Protocol):
    """One cell of a sweep."""

    def mirror(self, stage: str, folder: Path) -> MirrorCount:
        """Copy what is new in a stage's run folder; calling it again changes nothing. Raises TrackerError."""
        ...

    def mark_reused(self, stages: Sequence[str]) -> None:
        """Note the stages that an earlier cell or call had already finished."""
        ...

    def finish(self, status: RunStatus, reason: str | None = None) -> None:
        """Close the run with a truthful status; ``reason`` says why a cell did not finish."""
        ...


class SweepRun(Protocol):
    """One sweep: the parent of its cells."""

    def open_cell(
        self, cell_id: str, fields: Mapping[str, object], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> CellRun:
        """Open the run of a cell, the same one for the same (sweep, cell) whenever it is opened again."""
        ...

    def log_artifacts(self, folder: Path) -> int:
        """Copy the files of a report folder (table, figures); returns how many were copied."""
        ...

    def finish(self, status: RunStatus) -> None:
        """Close the sweep's run."""
        ...


class Tracker(Protocol):
    """Where sweeps are mirrored to."""

    def open_sweep(self, name: str, params: Mapping[str, str], tags: Mapping[str, str]) -> SweepRun:
        """Open the run of a sweep, the same one for the same name."""
        ...

    def reap(self) -> int:
        """Close the runs that dead processes of this machine left open, as KILLED; returns how many."""
        ...


class Problems:
    """Counts what went wrong with a tracker, warns once, and keeps the first and last message for the summary."""

    def __init__(self) -> None:
        self.count = 0
        self.first: str | None = None
        self.last: str | None = None
        self._lock = threading.Lock()

    def note(self, error: TrackerError) -> None:
        """Count ``error``; only the first one is worth a warning in the middle of training."""
        with self._lock:
            self.count += 1
            self.last = str(error)
            if self.first is not None:
                logger.debug("tracker problem %d: %s", self.count, error)
                return
            self.first = self.last
        logger.warning("the tracker failed, the run goes on without it (results are in the run folders): %s", error)

    def summary(self) -> str | None:
        """One line for the end of a run, or None when nothing went wrong."""
        if not self.count:
            return None
        times = "once" if self.count == 1 else f"{self.count} times"
        last = f"; last: {self.last}" if self.last != self.first else ""
        return f"the tracker failed {times} (results are complete in the run folders): {self.first}{last}"


class NullCell:
    """Tracks nothing."""

    def mirror(self, stage: str, folder: Path) -> MirrorCount:
        return MirrorCount()

    def mark_reused(self, stages: Sequence[str]) -> None:
        return None

    def finish(self, status: RunStatus, reason: str | None = None) -> None:
        return None


class NullSweep:
    """Tracks nothing."""

    def open_cell(
        self, cell_id: str, fields: Mapping[str, object], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> CellRun:
        return NullCell()

    def log_artifacts(self, folder: Path) -> int:
        return 0

    def finish(self, status: RunStatus) -> None:
        return None


class NullTracker:
    """Tracks nothing: ``track=none``, or the stand-in for a tracker that could not be opened."""

    def open_sweep(self, name: str, params: Mapping[str, str], tags: Mapping[str, str]) -> SweepRun:
        return NullSweep()

    def reap(self) -> int:
        return 0
