"""A tracker that cannot hurt: whatever its inner tracker fails at is counted, and training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ssvae.track.base import (
    CellRun,
    MirrorCount,
    NullCell,
    NullSweep,
    NullTracker,
    Problems,
    RunStatus,
    SweepRun,
    Tracker,
    TrackerError,
)


class GuardedTracker:
    """Passes everything on to ``inner``; a TrackerError becomes a problem noted and a stand-in that does nothing.

    ``mirror`` of a cell still raises TrackerError, because :class:`ssvae.track.mirror.Mirror` retries it.
    """

    def __init__(self, inner: Tracker, problems: Problems) -> None:
        self._inner = inner
        self.problems = problems

    def open_sweep(self, name: str, params: Mapping[str, str], tags: Mapping[str, str]) -> SweepRun:
        """The run of sweep ``name``, or one that does nothing."""
        try:
            return _GuardedSweep(self._inner.open_sweep(name, params, tags), self.problems)
        except TrackerError as error:
            self.problems.note(error)
            return NullSweep()

    def reap(self) -> int:
        """Close orphaned runs; 0 where that failed."""
        try:
            return self._inner.reap()
        except TrackerError as error:
            self.problems.note(error)
            return 0


class _GuardedSweep:
    def __init__(self, inner: SweepRun, problems: Problems) -> None:
        self._inner = inner
        self._problems = problems

    def open_cell(
        self, cell_id: str, fields: Mapping[str, object], params: Mapping[str, str], tags: Mapping[str, str]
    ) -> CellRun:
        try:
            return _GuardedCell(self._inner.open_cell(cell_id, fields, params, tags), self._problems)
        except TrackerError as error:
            self._problems.note(error)
            return NullCell()

    def log_artifacts(self, folder: Path) -> int:
        try:
            return self._inner.log_artifacts(folder)
        except TrackerError as error:
            self._problems.note(error)
            return 0

    def finish(self, status: RunStatus) -> None:
        try:
            self._inner.finish(status)
        except TrackerError as error:
            self._problems.note(error)


class _GuardedCell:
    def __init__(self, inner: CellRun, problems: Problems) -> None:
        self._inner = inner
        self._problems = problems

    def mirror(self, stage: str, folder: Path) -> MirrorCount:
        return self._inner.mirror(stage, folder)

    def mark_reused(self, stages: Sequence[str]) -> None:
        try:
            self._inner.mark_reused(stages)
        except TrackerError as error:
            self._problems.note(error)

    def finish(self, status: RunStatus, reason: str | None = None) -> None:
        try:
            self._inner.finish(status, reason)
        except TrackerError as error:
            self._problems.note(error)


def open_tracker(root: Path, experiment: str, *, enabled: bool = True, uri: str | None = None) -> GuardedTracker:
    """The tracker of the project at ``root``: MLflow in ``<root>/runs/mlflow.db``, or at ``uri``.

    Never raises for a tracker that is down, locked or broken: the problem is noted and nothing is tracked. Artifacts
    lie in ``<root>/runs/mlartifacts``; nothing is written outside ``root``.
    """
    problems = Problems()
    if not enabled:
        return GuardedTracker(NullTracker(), problems)
    # Imported here: the module is cheap, but whoever tracks nothing need not have MLflow's helpers at all.
    from ssvae.track.mlflow import MlflowTracker, sqlite_uri

    runs = root.absolute() / "runs"
    try:
        return GuardedTracker(
            MlflowTracker(uri or sqlite_uri(runs / "mlflow.db"), runs / "mlartifacts", experiment), problems
        )
    except TrackerError as error:
        problems.note(error)
        return GuardedTracker(NullTracker(), problems)
