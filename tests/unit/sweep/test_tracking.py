"""The scheduler's and the job's door to the tracker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ssvae.config.run import TrackConfig
from ssvae.core.files import exclusive
from ssvae.core.jobs import JobFile
from ssvae.sweep import job_tracking, tracking
from ssvae.sweep.job_tracking import tracked
from ssvae.sweep.liveness import Liveness
from ssvae.sweep.record import CellRecord
from ssvae.sweep.tracking import Tracking, told
from ssvae.track.base import Problems, TrackerError


class Told:
    """In place of the background thread: notes what it is told. missing: what it says is missing at the end."""

    def __init__(self, missing: list[str] | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.missing = missing or []

    def __getattr__(self, name: str) -> Any:
        def note(*given: Any, **named: Any) -> list[str]:
            self.calls.append((name, *given, *named.values()))
            return self.missing

        return note

    def names(self) -> list[str]:
        return [call[0] for call in self.calls]


def config(enabled: bool = True, uri: str | None = None) -> TrackConfig:
    return TrackConfig(enabled, uri, "mine", 3.5, 7.0, None, 1)


def cell_record(root: Path, cell_id: str = "c", stages: dict[str, str] | None = None, status: str = "running") -> Path:
    path = root / "runs" / "sweeps" / "grid" / "cells" / f"{cell_id}.json"
    record = CellRecord(path, cell_id, cell_id, {"reg": "none"}, [], stages or {}, reused=["base"])
    record.status = status  # type: ignore[assignment]  # a plain text is enough here
    record.save()
    return path


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[Told]:
    known = Told()
    monkeypatch.setattr(tracking, "start_live", lambda root, config, problems: known if config.enabled else None)
    monkeypatch.setattr(job_tracking, "start_live", lambda root, config, problems: known)
    yield known


def test_a_cell_of_the_scheduler_reaches_the_tracker(tmp_path: Path, live: Told) -> None:
    record = CellRecord.load(cell_record(tmp_path))
    one = Tracking.open(tmp_path, "grid", config(), "python run.py", [record])
    one.open_cell(0)
    one.watch(0, "pretrain", tmp_path)
    one.stage_done(0, "pretrain", tmp_path)
    one.close_cell(0, "failed", "out of memory")
    one.artifacts(0, tmp_path / "figures")
    one.report(tmp_path / "results")
    one.finish("FAILED")
    assert live.calls == [
        ("open_sweep", "grid", {"command": "python run.py", "cells": "1"}),
        ("open_cell", "grid", record.path),
        ("watch", "grid", "c", "pretrain", tmp_path),
        ("stage_done", "grid", "c", "pretrain", tmp_path),
        ("close_cell", "grid", "c", "FAILED", "out of memory", ["base"]),
        ("stage_done", "grid", "c", "report", tmp_path / "figures"),
        ("report", "grid", tmp_path / "results"),
        ("close_sweep", "grid", "FAILED"),
        ("close", 7.0),
    ]
    assert one.problems() == []


def test_who_detaches_leaves_the_runs_open(tmp_path: Path, live: Told) -> None:
    one = Tracking.open(tmp_path, "grid", config(), "command", [CellRecord.load(cell_record(tmp_path))])
    one.open_cell(0)
    one.detach()
    assert live.names() == ["open_sweep", "open_cell", "close"]


def test_a_cell_that_was_never_opened_is_not_closed(tmp_path: Path, live: Told) -> None:
    one = Tracking.open(tmp_path, "grid", config(), "command", [CellRecord.load(cell_record(tmp_path))])
    one.close_cell(0, "killed", "stopped by the user")
    assert live.names() == ["open_sweep"]


def test_switched_off_nothing_is_started(tmp_path: Path, live: Told) -> None:
    one = Tracking.open(tmp_path, "grid", config(enabled=False), "c", [CellRecord.load(cell_record(tmp_path))])
    one.open_cell(0)
    one.watch(0, "pretrain", tmp_path)
    one.close_cell(0, "finished", None)
    one.report(tmp_path)
    one.finish("FINISHED")
    one.detach()
    assert live.calls == []
    assert one.problems() == []


def test_what_is_missing_is_named_with_the_command_that_sends_it() -> None:
    problems = Problems()
    assert told(problems, [], ["grid"]) == []
    problems.note(TrackerError("no answer"))
    assert told(problems, [], ["grid"]) == ["the tracker failed once and was filled up afterwards: no answer"]
    first, second = told(problems, [f"cell {i}" for i in range(10)], ["grid"])
    assert "results are complete in the run folders" in first
    assert "cell 7 and 2 more; it is all in the run folders" in second
    assert second.endswith("to send it: python -m ssvae track sync grid")


def test_without_mlflow_the_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(root: Path, uri: str | None) -> None:
        raise TrackerError("MLflow cannot be imported")

    monkeypatch.setattr(tracking, "prepare", absent)
    one = Tracking.open(tmp_path, "grid", config(), "command", [])
    one.finish("FINISHED")
    assert "cannot be imported" in one.problems()[0]


# -------- jobs


def job(root: Path, stages: dict[str, str], cells: list[str]) -> JobFile:
    return JobFile("measure-x", "measure", stages, cells[0], cells, "c.yaml", ["grid"], "l", str(root), "", "slurm")


def test_a_job_shows_its_stages_for_all_cells_that_need_it(tmp_path: Path, live: Told) -> None:
    """And closes those of which nothing is left to do, stages that other jobs made included."""
    base, pre, one, two = (f"runs/stages/{name}" for name in ("base-a", "pretrain-b", "measure-c", "probe-d"))
    last = cell_record(tmp_path, "last", {"base": base, "pretrain": pre, "measure": one})
    more = cell_record(tmp_path, "more", {"pretrain": pre, "measure": one, "probe": two})
    other = cell_record(tmp_path, "other", {"pretrain": pre, "measure": "runs/stages/measure-zz"})
    for where in (pre, one):
        (tmp_path / where).mkdir(parents=True)
    (tmp_path / pre / "done.json").write_text("{}")
    with tracked(
        tmp_path, job(tmp_path, {"measure": one}, ["last", "more", "other", "gone"]), config(uri="http://host")
    ):
        assert live.calls == [
            ("open_sweep", "grid", {}, False),
            ("open_cell", "grid", last), ("watch", "grid", "last", "measure", tmp_path / one),
            ("open_cell", "grid", more), ("watch", "grid", "more", "measure", tmp_path / one),
            ("open_cell", "grid", other),
        ]  # fmt: skip
        live.calls.clear()
        (tmp_path / one / "done.json").write_text("{}")
    assert live.calls == [
        ("stage_done", "grid", "last", "pretrain", tmp_path / pre),
        ("stage_done", "grid", "last", "measure", tmp_path / one),
        ("close_cell", "grid", "last", "FINISHED", None, ["base"]),
        ("stage_done", "grid", "more", "pretrain", tmp_path / pre),
        ("stage_done", "grid", "more", "measure", tmp_path / one),
        ("stage_done", "grid", "other", "pretrain", tmp_path / pre),
        ("close", 7.0),
    ]


def test_an_interrupted_job_leaves_its_cells_running_and_hurries(tmp_path: Path, live: Told) -> None:
    cell_record(tmp_path, "c", {"measure": "runs/stages/measure-c"})
    with (
        pytest.raises(KeyboardInterrupt),
        tracked(tmp_path, job(tmp_path, {"measure": "runs/stages/measure-c"}, ["c"]), config(uri="http://host")),
    ):
        raise KeyboardInterrupt
    assert live.calls[-1] == ("close", 5.0)
    assert "close_cell" not in live.names()


def test_a_job_leaves_a_database_in_a_file_alone(tmp_path: Path, live: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for uri in (None, "sqlite:////a/m.db"):
        with tracked(tmp_path, job(tmp_path, {}, ["c"]), config(uri=uri)):
            pass
    assert live.calls == []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host")
    with tracked(tmp_path, job(tmp_path, {}, ["c"]), config()):
        pass
    assert live.names() == ["open_sweep", "close"]


def test_a_job_says_in_its_log_what_the_tracker_lacks(
    tmp_path: Path, live: Told, caplog: pytest.LogCaptureFixture
) -> None:
    live.missing = ["cell c"]
    with tracked(tmp_path, job(tmp_path, {}, ["c"]), config(uri="http://host")):
        pass
    assert "not complete in MLflow: cell c" in caplog.text


# -------- who is alive


def test_a_cell_lives_as_long_as_somebody_holds_a_stage_of_it(tmp_path: Path) -> None:
    stage = tmp_path / "runs" / "stages" / "pretrain-a"
    stage.mkdir(parents=True)
    path = cell_record(tmp_path, "c", {"pretrain": "runs/stages/pretrain-a"})
    (path.parents[1] / "sweep.json").write_text(json.dumps({"command": "x", "notes": [], "cells": ["c"]}))
    with exclusive(stage.parent / f".{stage.name}.lock", wait=False):
        lives = Liveness(tmp_path)
        assert lives("grid", "c")
        assert lives("grid", None)
        assert not lives("grid", "other")
        assert not lives("nosuch", "c")
        assert not lives("", None)
    assert lives("grid", "c"), "not looked at again at once"


def test_a_damaged_sweep_is_left_alone(tmp_path: Path) -> None:
    cell_record(tmp_path).write_text("{")
    assert Liveness(tmp_path)("grid", "c")
