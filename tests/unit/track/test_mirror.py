"""The background thread: complete at the end of a stage, harmless when the tracker fails or hangs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from ssvae.track.base import MirrorCount, NullCell, NullTracker, Problems, RunStatus, TrackerError
from ssvae.track.guard import GuardedTracker, open_tracker
from ssvae.track.mirror import Mirror


class FakeCell:
    """Counts calls; the first ``failures`` of them raise; ``hook`` runs inside each."""

    def __init__(self, failures: int = 0, hook: Callable[[], object] = lambda: None) -> None:
        self.calls: list[str] = []
        self.failures = failures
        self.hook = hook
        self.seen = threading.Event()

    def mirror(self, stage: str, folder: Path) -> MirrorCount:
        self.calls.append(stage)
        self.seen.set()
        self.hook()
        if len(self.calls) <= self.failures:
            raise TrackerError(f"failure {len(self.calls)}")
        return MirrorCount()

    def mark_reused(self, stages: Sequence[str]) -> None:
        raise TrackerError("reused")

    def finish(self, status: RunStatus, reason: str | None = None) -> None:
        raise TrackerError("finish")


HERE = Path("folder")


def test_watched_stages_are_polled_and_flushed_at_the_end() -> None:
    problems, cell = Problems(), FakeCell()
    with Mirror(problems, every_s=0.01) as mirror:
        mirror.watch(cell, "pretrain", HERE)
        assert cell.seen.wait(5.0)
        assert mirror.finish(cell, "pretrain")
        count = len(cell.calls)
    assert len(cell.calls) == count  # no longer watched
    assert problems.summary() is None


def test_finish_flushes_even_if_no_poll_is_due() -> None:
    cell = FakeCell()
    with Mirror(Problems(), every_s=3600) as mirror:
        mirror.watch(cell, "pretrain", HERE)
        assert mirror.finish(cell, "pretrain")
    assert cell.calls == ["pretrain"]


def test_close_flushes_what_is_still_watched() -> None:
    one, two = FakeCell(), FakeCell()
    mirror = Mirror(Problems(), every_s=3600)
    mirror.watch(one, "pretrain", HERE)
    mirror.watch(two, "probe", HERE)
    mirror.close()
    mirror.close()
    assert (one.calls, two.calls) == (["pretrain"], ["probe"])


def test_the_last_flush_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    problems, cell = Problems(), FakeCell(failures=1)
    with Mirror(problems, every_s=3600, retries=2) as mirror:
        mirror.watch(cell, "pretrain", HERE)
        assert mirror.finish(cell, "pretrain")
    assert len(cell.calls) == 2
    assert problems.count == 1


def test_a_tracker_that_stays_down_is_reported_once_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    problems, cell = Problems(), FakeCell(failures=99)
    with Mirror(problems, every_s=3600, retries=2) as mirror:
        mirror.watch(cell, "pretrain", HERE)
        assert not mirror.finish(cell, "pretrain")
    assert problems.count == 2
    summary = problems.summary()
    assert summary is not None
    assert "2 times" in summary
    assert "failure 1; last: failure 2" in summary
    assert sum("the tracker failed" in record.message for record in caplog.records) == 1


def test_a_tracker_that_hangs_does_not_hold_the_caller() -> None:
    release = threading.Event()
    problems, cell = Problems(), FakeCell(hook=lambda: release.wait(30.0))
    mirror = Mirror(problems, every_s=3600, patience_s=0.2)
    mirror.watch(cell, "pretrain", HERE)
    assert not mirror.finish(cell, "pretrain")
    mirror.close()
    assert problems.count == 2
    assert problems.first is not None
    assert "0.2 s" in problems.first
    release.set()


def test_one_failing_cell_does_not_starve_the_other() -> None:
    problems, bad, good = Problems(), FakeCell(failures=10**6), FakeCell()
    with Mirror(problems, every_s=0.01, retries=1) as mirror:
        mirror.watch(bad, "pretrain", HERE)
        mirror.watch(good, "pretrain", HERE)
        assert good.seen.wait(5.0)
        assert mirror.finish(good, "pretrain")


class BrokenTracker:
    """Opens a sweep, then fails at everything."""

    def open_sweep(self, name: str, params: object, tags: object) -> BrokenTracker:
        if name == "never":
            raise TrackerError("no sweep")
        return self

    def open_cell(self, cell_id: str, fields: object, params: object, tags: object) -> FakeCell:
        if cell_id == "never":
            raise TrackerError("no cell")
        return FakeCell(failures=1)

    def log_artifacts(self, folder: Path) -> int:
        raise TrackerError("artifacts")

    def finish(self, status: RunStatus) -> None:
        raise TrackerError("sweep finish")

    def reap(self) -> int:
        raise TrackerError("reap")


def test_a_guarded_tracker_raises_nowhere_but_in_mirror() -> None:
    problems = Problems()
    tracker = GuardedTracker(BrokenTracker(), problems)
    assert tracker.reap() == 0
    tracker.open_sweep("never", {}, {}).open_cell("c", {}, {}, {}).finish("FINISHED")
    sweep = tracker.open_sweep("s", {}, {})
    assert isinstance(sweep.open_cell("never", {}, {}, {}), NullCell)
    cell = sweep.open_cell("c", {}, {}, {})
    cell.mark_reused(["pretrain"])
    cell.finish("FAILED", "x")
    assert sweep.log_artifacts(HERE) == 0
    sweep.finish("FINISHED")
    assert problems.count == 7
    with pytest.raises(TrackerError):
        cell.mirror("pretrain", HERE)


def test_tracking_switched_off_leaves_no_file(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path, "ssvae", enabled=False)
    assert tracker.problems.summary() is None
    cell = tracker.open_sweep("s", {}, {}).open_cell("c", {}, {}, {})
    assert cell.mirror("pretrain", tmp_path) == MirrorCount()
    assert NullTracker().reap() == 0
    assert list(tmp_path.iterdir()) == []
