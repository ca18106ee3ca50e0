"""What a tracker is: a mirror of run folders that others may look at, and that training never depends on.

The run folder is the truth (``steps.jsonl``, ``metrics.json``, ``samples/``, ``figures/``). A tracker copies it and
can be filled again from the folders at any time, so losing it loses nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

logger = logging.getLogger(__name__)

RunStatus = Literal["FINISHED", "FAILED", "KILLED"]
Lives = Callable[[str, str | None], bool]
"""(sweep, cell id; None: any of its cells) -> is somebody, somewhere, still at work on it?"""


def nobody(sweep: str, cell_id: str | None) -> bool:
    """For a project where nothing runs beside this process."""
    return False


class TrackerError(RuntimeError):
    """The tracker could not do what was asked; the run folders are untouched.

    unreachable: the tracker as a whole does not answer, or errs; asking it for something else is of no use now.
    """

    def __init__(self, text: str, *, unreachable: bool = False) -> None:
        super().__init__(text)
        self.unreachable = unreachable


@dataclass(frozen=True, slots=True)
class MirrorCount:
    """What one call of ``mirror`` found.

    points: step metrics sent. finals: final metrics sent. files: artifacts uploaded. system: values of system metrics
    sent. skipped: values that are not finite numbers (NaN, infinity, null) and were left out. malformed: lines of
    ``steps.jsonl`` that are no JSON object.
    """

    points: int = 0
    finals: int = 0
    files: int = 0
    skipped: int = 0
    malformed: int = 0
    system: int = 0

    def __add__(self, other: MirrorCount) -> MirrorCount:
        return MirrorCount(
            self.points + other.points,
            self.finals + other.finals,
            self.files + other.files,
            self.skipped + other.skipped,
            self.malformed + other.malformed,
            self.system + other.system,
        )


class CellRun(Protocol):
    """One cell of a sweep."""

    def mirror(self, stage: str, folder: Path) -> MirrorCount:
        """Copy what is new in a stage's run folder; calling it again changes nothing. Raises TrackerError."""
        ...

    def mark_reused(self, stages: Sequence[str]) -> None:
        """Note the stages that an earlier cell or call had already finished."""
        ...

    def finish(self, status: RunStatus, reason: str | None = None, ended_ms: int | None = None) -> None:
        """Close the run with a truthful status; ``reason`` says why a cell did not finish. ended_ms: None for now."""
        ...


class SweepRun(Protocol):
    """One sweep: the parent of its cells."""

    def open_cell(
        self,
        cell_id: str,
        fields: Mapping[str, object],
        params: Mapping[str, str],
        tags: Mapping[str, str],
        *,
        own: bool = True,
        started_ms: int | None = None,
    ) -> CellRun:
        """Open the run of a cell, the same one for the same (sweep, cell) whenever it is opened again.

        own: this process works on it, so it is RUNNING until the process finishes it or dies; otherwise its status
        stays. started_ms: of a run that is made now, None for now.
        """
        ...

    def log_artifacts(self, folder: Path) -> int:
        """Copy the new or changed files of a report folder (table, figures); returns how many were copied."""
        ...

    def finish(self, status: RunStatus) -> None:
        """Close the sweep's run."""
        ...


class Tracker(Protocol):
    """Where sweeps are mirrored to. Everything raises TrackerError."""

    def open_sweep(
        self, name: str, params: Mapping[str, str], tags: Mapping[str, str], *, own: bool = True
    ) -> SweepRun:
        """Open the run of a sweep, the same one for the same name. own: as for a cell."""
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
        logger.warning("the tracker failed, it is tried again (results are in the run folders): %s", error)

    def summary(self, complete: bool) -> str | None:
        """One line for the end of a run, or None when nothing went wrong. complete: was all of it made up for?"""
        if not self.count:
            return None
        times = "once" if self.count == 1 else f"{self.count} times"
        last = f"; last: {self.last}" if self.last != self.first else ""
        end = "and was filled up afterwards" if complete else "(results are complete in the run folders)"
        return f"the tracker failed {times} {end}: {self.first}{last}"
