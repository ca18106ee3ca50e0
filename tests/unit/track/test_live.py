"""The background thread: the caller is never held, order is kept, and what a tracker missed follows when it is back."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ssvae.track import live as live_module
from ssvae.track.base import MirrorCount, Problems, RunStatus, TrackerError
from ssvae.track.live import Live

LONG_S = 30.0
"""Longer than any test takes: only a hang would wait so long."""


@dataclass
class Recorder:
    """A tracker in memory. log: everything that arrived, in order. hook: called before each; may raise or wait."""

    log: list[str] = field(default_factory=list)
    hook: Callable[[str], object] = lambda what: None
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def note(self, what: str) -> None:
        self.hook(what)
        with self.arrived:
            self.log.append(what)
            self.arrived.notify_all()

    def wait_for(self, what: str) -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: what in self.log, LONG_S), (what, self.log)

    def open_sweep(
        self, name: str, params: Mapping[str, str], tags: Mapping[str, str], *, own: bool = True
    ) -> RecorderSweep:
        self.note(f"sweep {name}{'' if own else ', not its own'}")
        return RecorderSweep(self, name)

    def reap(self) -> int:
        self.note("reap")
        return 0


@dataclass
class RecorderSweep:
    tracker: Recorder
    name: str

    def open_cell(
        self,
        cell_id: str,
        fields: Mapping[str, object],
        params: Mapping[str, str],
        tags: Mapping[str, str],
        *,
        own: bool = True,
        started_ms: int | None = None,
    ) -> RecorderCell:
        self.tracker.note(f"cell {cell_id} {fields['reg']} {params.get('train.lr')}")
        return RecorderCell(self.tracker, cell_id)

    def log_artifacts(self, folder: Path) -> int:
        self.tracker.note(f"report {folder.name}")
        return 1

    def finish(self, status: RunStatus) -> None:
        self.tracker.note(f"sweep {self.name} {status}")


@dataclass
class RecorderCell:
    tracker: Recorder
    name: str

    def mirror(self, stage: str, folder: Path) -> MirrorCount:
        self.tracker.note(f"{self.name} {stage}")
        return MirrorCount()

    def mark_reused(self, stages: Sequence[str]) -> None:
        self.tracker.note(f"{self.name} reused {','.join(stages)}")

    def finish(self, status: RunStatus, reason: str | None = None, ended_ms: int | None = None) -> None:
        self.tracker.note(f"{self.name} {status} {reason}")


class Fault:
    """Raises for the first ``count`` calls whose words begin with ``what``."""

    def __init__(self, what: str = "", count: int = 10**9, unreachable: bool = True) -> None:
        self.what, self.left, self.unreachable = what, count, unreachable

    def __call__(self, what: str) -> None:
        if what.startswith(self.what) and self.left > 0:
            self.left -= 1
            raise TrackerError(f"no {what}", unreachable=self.unreachable)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(live_module, "_LONGEST_PAUSE_S", 0.02)


def record(root: Path, cell_id: str, reg: str = "none") -> Path:
    path = root / "runs" / "sweeps" / "grid" / "cells" / f"{cell_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    values = {"cell_id": cell_id, "fields": {"reg": reg}, "overrides": [], "stages": {}, "status": "running"}
    path.write_text(json.dumps({**values, "reason": None, "reused": [], "seconds": 0.0}))
    path.with_suffix(".yaml").write_text("train:\n  lr: 1.0e-05\n")
    return path


def start(root: Path, tracker: Recorder, every_s: float = 0.01, connect: Callable[[], object] | None = None) -> Live:
    def open_it() -> Recorder:
        if connect is not None:
            connect()
        return tracker

    live = Live(root, open_it, Problems(), every_s)
    live.open_sweep("grid", {})
    return live


def run_cell(live: Live, root: Path, cell_id: str, status: RunStatus = "FINISHED") -> None:
    live.open_cell("grid", record(root, cell_id))
    live.watch("grid", cell_id, "pretrain", root / "pretrain")
    live.stage_done("grid", cell_id, "pretrain", root / "pretrain")
    live.close_cell("grid", cell_id, status, None, ["base"])


def test_everything_is_shown_in_order(tmp_path: Path) -> None:
    tracker = Recorder()
    live = start(tmp_path, tracker, every_s=3600)
    run_cell(live, tmp_path, "a")
    live.report("grid", tmp_path / "results")
    live.close_sweep("grid", "FINISHED")
    assert live.close(LONG_S) == []
    assert [line for line in tracker.log if line != "a pretrain"] == [
        "reap", "sweep grid", "cell a none 1e-05", "a reused base", "a FINISHED None", "report results",
        "sweep grid FINISHED",
    ]  # fmt: skip
    assert tracker.log.index("cell a none 1e-05") < tracker.log.index("a pretrain") < tracker.log.index("a reused base")
    assert live._problems.summary(complete=True) is None


def test_running_stages_are_looked_at_again_and_again_and_finished_ones_are_not(tmp_path: Path) -> None:
    tracker = Recorder()
    live = start(tmp_path, tracker)
    live.open_cell("grid", record(tmp_path, "a"))
    live.watch("grid", "a", "pretrain", tmp_path)
    for _ in range(3):
        tracker.log.clear()
        tracker.wait_for("a pretrain")
    live.stage_done("grid", "a", "pretrain", tmp_path)
    live.watch("grid", "a", "measure", tmp_path)
    tracker.wait_for("a measure")
    tracker.log.clear()
    tracker.wait_for("a measure")
    assert "a pretrain" not in tracker.log
    live.close(LONG_S)


def test_a_cell_that_is_opened_again_is_set_running_again(tmp_path: Path) -> None:
    tracker = Recorder()
    live = start(tmp_path, tracker)
    run_cell(live, tmp_path, "a", "FAILED")
    tracker.wait_for("a FAILED None")
    run_cell(live, tmp_path, "a")
    assert live.close(LONG_S) == []
    assert tracker.log.count("cell a none 1e-05") == 2
    assert tracker.log[-1] == "a FINISHED None"


@pytest.mark.parametrize("moment", ["cell a none 1e-05", "a pretrain", "a FAILED"])
def test_a_cell_may_be_opened_again_while_it_is_being_shown(tmp_path: Path, moment: str) -> None:
    """The thread that trains does not wait for the one that shows: whatever that is doing, the new end comes last."""

    def in_between(what: str) -> None:
        if what.startswith(moment) and not again:
            again.append(what)
            run_cell(live, tmp_path, "a")

    again: list[str] = []
    tracker = Recorder(hook=in_between)
    live = start(tmp_path, tracker)
    run_cell(live, tmp_path, "a", "FAILED")
    tracker.wait_for("a FINISHED None")
    assert live.close(LONG_S) == []
    assert tracker.log.count("cell a none 1e-05") == 2 and tracker.log[-1] == "a FINISHED None"


def test_an_end_of_all_that_comes_in_the_middle_of_a_pass_leaves_the_sweeps_end_the_last(tmp_path: Path) -> None:
    def in_between(what: str) -> None:
        if what == "a pretrain" and not closed:
            closed.append(what)
            live.close_cell("grid", "a", "FINISHED", None, [])
            live.close_sweep("grid", "FINISHED")
            live._closing.set()

    closed: list[str] = []
    tracker = Recorder(hook=in_between)
    live = start(tmp_path, tracker, every_s=3600)
    live.open_cell("grid", record(tmp_path, "a"))
    live.watch("grid", "a", "pretrain", tmp_path)
    live.stage_done("grid", "a", "pretrain", tmp_path)
    tracker.wait_for("sweep grid FINISHED")
    assert live.close(LONG_S) == []
    assert tracker.log[-2:] == ["a FINISHED None", "sweep grid FINISHED"]


@pytest.mark.parametrize("hanging", ["connect", "reap", "sweep", "cell", "a pretrain", "a FINISHED"])
def test_a_tracker_that_hangs_holds_nobody(tmp_path: Path, hanging: str) -> None:
    """All calls are made while the tracker hangs in one of its own; the test would time out if one of them waited."""
    release, hung = threading.Event(), threading.Event()

    def hang(what: str) -> None:
        if what.startswith(hanging):
            hung.set()
            release.wait(LONG_S)

    tracker = Recorder(hook=hang)
    live = start(tmp_path, tracker, connect=lambda: hang("connect"))
    if hanging in ("connect", "reap", "sweep"):
        assert hung.wait(LONG_S)
    run_cell(live, tmp_path, "a")
    live.close_sweep("grid", "FINISHED")
    assert hung.wait(LONG_S)
    assert set(live.close(0.01)) >= {"sweep grid"}
    assert "cell a" in live.missing()
    release.set()


@pytest.mark.parametrize("what", ["", "reap", "sweep grid", "cell b", "a pretrain", "a reused", "a FINISHED", "report"])
@pytest.mark.parametrize("unreachable", [False, True])
def test_after_an_outage_everything_is_there_and_in_order(tmp_path: Path, what: str, unreachable: bool) -> None:
    fault = Fault(what, count=7, unreachable=unreachable)
    tracker = Recorder(hook=fault)
    live = start(tmp_path, tracker)
    run_cell(live, tmp_path, "a")
    run_cell(live, tmp_path, "b")
    live.report("grid", tmp_path / "results")
    if what != "reap":  # which is tried once
        for line in ("a FINISHED None", "b FINISHED None", "report results"):
            tracker.wait_for(line)
        assert fault.left == 0
    live.close_sweep("grid", "FINISHED")
    assert live.close(LONG_S) == []
    assert tracker.log[-1] == "sweep grid FINISHED"
    for line in ("sweep grid", "a FINISHED None", "b FINISHED None", "report results"):
        assert tracker.log.count(line) == 1
    summary = live._problems.summary(complete=True)
    assert summary is not None
    assert "filled up afterwards" in summary


def test_an_outage_that_lasts_is_tried_ever_more_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "_LONGEST_PAUSE_S", 3600.0)
    monkeypatch.setattr(live_module, "_FIRST_PAUSE_S", 900.0)
    tries: list[str] = []
    tracker = Recorder(hook=lambda what: tries.append(what) or Fault()(what))
    live = start(tmp_path, tracker)
    for _ in range(50):  # news does not make it try again at once
        run_cell(live, tmp_path, "a")
    live._closing.set()  # what cuts the pause short is the end
    live._thread.join(0.2)
    assert len(tries) <= 4
    live._given_up.set()
    live._thread.join(LONG_S)


def test_a_tracker_that_never_answers_is_given_up_soon_after_the_work(tmp_path: Path) -> None:
    tracker = Recorder()
    live = start(tmp_path, tracker, connect=lambda: Fault()("connect"))
    run_cell(live, tmp_path, "a")
    assert live.close(LONG_S) == ["cell a", "sweep grid"]
    assert not live._thread.is_alive()
    assert tracker.log == []


def test_one_cell_that_cannot_be_shown_keeps_neither_the_others_nor_the_sweep(tmp_path: Path) -> None:
    tracker = Recorder(hook=Fault("a pretrain", unreachable=False))
    live = start(tmp_path, tracker)
    run_cell(live, tmp_path, "a")
    run_cell(live, tmp_path, "b")
    tracker.wait_for("b FINISHED None")
    live.close_sweep("grid", "FAILED")
    assert live.close(LONG_S) == ["cell a"]
    assert not live._thread.is_alive(), "what cannot succeed is not waited for"
    assert tracker.log[-1] == "sweep grid FAILED"


def test_a_cell_whose_data_upset_the_server_does_not_keep_the_others_away(tmp_path: Path) -> None:
    tracker = Recorder(hook=Fault("a pretrain", unreachable=True))
    live = start(tmp_path, tracker)
    for name in ("a", "b", "c"):
        run_cell(live, tmp_path, name)
    tracker.wait_for("b FINISHED None")
    tracker.wait_for("c FINISHED None")
    assert live.close(0.05) == ["cell a"]


def test_a_missing_record_is_a_problem_of_its_cell_alone(tmp_path: Path) -> None:
    tracker = Recorder()
    live = start(tmp_path, tracker)
    live.open_cell("grid", tmp_path / "runs" / "sweeps" / "grid" / "cells" / "gone.json")
    run_cell(live, tmp_path, "b")
    tracker.wait_for("b FINISHED None")
    assert live.close(LONG_S) == ["cell gone"]
    assert "gone.json cannot be read" in str(live._problems.first)


def test_a_sweep_of_others_is_opened_as_theirs(tmp_path: Path) -> None:
    tracker = Recorder()
    live = Live(tmp_path, lambda: tracker, Problems(), 0.01)
    live.open_sweep("grid", {}, own=False)
    assert live.close(LONG_S) == []
    assert tracker.log == ["reap", "sweep grid, not its own"]


def test_only_the_first_problem_is_worth_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    live = start(tmp_path, Recorder(hook=Fault("sweep", count=4)))
    assert live.close(LONG_S) == []
    assert live._problems.count == 4
    assert sum("the tracker failed" in line.message for line in caplog.records) == 1
    assert str(live._problems.summary(complete=False)).startswith("the tracker failed 4 times (results are complete")
