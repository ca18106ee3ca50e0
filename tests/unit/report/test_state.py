"""Where cells stand that a call runs in its own process, and what a watch reads again."""

from __future__ import annotations

from pathlib import Path

import pytest
from job_chain import make_chain
from sweep_folders import list_cells, make_cell, make_grid, make_stage

from job_folders import STARTED, FakeQueue, age, make_pace
from ssvae.core.files import exclusive
from ssvae.core.jobs import append_event
from ssvae.core.queue import QueueState
from ssvae.report.state import CellState, SweepWatch, state_lines, sweep_rows


def cell(root: Path, queue: FakeQueue | None = None) -> CellState:
    (row,) = sweep_rows(root, "grid", queue or FakeQueue())
    return row


def test_every_state_is_told(tmp_path: Path) -> None:
    done = make_stage(tmp_path, "done", [])
    half = make_stage(tmp_path, "half", [], done=False)
    (tmp_path / half / "steps.jsonl").write_text('{"step": 10, "a": 1}\n{"step": 20, "a": 1}\n{"step": 30, "a')
    make_cell(tmp_path, "a", 48, {"pretrain": done, "probe": half}, status="running")
    make_cell(tmp_path, "b", 48, {"pretrain": done}, reused=["pretrain"])
    make_cell(tmp_path, "c", 128, {"pretrain": half}, status="failed", reason="disk full", seconds=4000.0)
    make_cell(tmp_path, "d", 48, {"pretrain": "runs/stages/nowhere"}, status="waiting", seconds=0.0)
    states = sweep_rows(tmp_path, "grid")
    assert [(s.status, s.detail, s.active) for s in states] == [
        ("running", "probe, step 20, stage 2 of 2", True),
        ("finished", "reused pretrain", False),
        ("failed", "disk full (pretrain, step 20, stage 1 of 1)", False),
        ("waiting", "pretrain, not started, stage 1 of 1", True),
    ]
    lines = state_lines(states)
    assert (
        lines[0] == "running   reg=a channels=48 resolution=32 seed=0   a-48-0      1 min  probe, step 20, stage 2 of 2"
    )
    assert "1.1 h  disk full" in lines[2]
    assert lines[-1] == "4 cells: 1 failed, 1 finished, 1 running, 1 waiting"
    assert len({line.index("reg=") for line in lines[:-1]}) == 1


def test_only_the_listed_cells_have_a_state(tmp_path: Path) -> None:
    make_grid(tmp_path)
    assert len(sweep_rows(tmp_path, "grid")) == 8
    list_cells(tmp_path, ["none-48-0", "lmr-128-0"])
    assert [state.cell_id for state in sweep_rows(tmp_path, "grid")] == ["lmr-128-0", "none-48-0"]


def test_a_cell_whose_process_is_gone_has_stopped(tmp_path: Path) -> None:
    half = make_stage(tmp_path, "half-1", [], done=False)
    make_cell(tmp_path, "a", 48, {"pretrain": half}, status="running")
    make_cell(tmp_path, "b", 48, {"pretrain": "runs/stages/other-1"}, status="waiting")
    make_pace(tmp_path, half, 40, 100, 2.0)
    first, second = sweep_rows(tmp_path, "grid")
    assert (first.status, second.status) == ("running", "waiting")
    assert first.detail == "pretrain, step 40 of 100, 2 steps/s, 30 s left in this stage, stage 1 of 1"
    assert (first.stage, first.done, first.total, first.rate, first.left_s) == ("pretrain", 40, 100, 2.0, 30.0)
    age(tmp_path, 600)
    first, second = sweep_rows(tmp_path, "grid")
    assert (first.status, second.status) == ("stopped", "stopped") and not first.active
    assert first.detail.startswith("the process that ran it is gone (pretrain, step 40 of 100")
    with exclusive(tmp_path / "runs" / "stages" / ".half-1.lock", wait=False):
        first, second = sweep_rows(tmp_path, "grid")
        assert (first.status, second.status) == ("running", "waiting"), "a held lock is a live process"
    assert sweep_rows(tmp_path, "grid")[0].status == "stopped", "a lock that nobody holds says nothing"


def test_a_cell_whose_stages_are_all_there_is_finished_whatever_its_record_says(tmp_path: Path) -> None:
    done = make_stage(tmp_path, "done", [])
    make_cell(tmp_path, "a", 48, {"base": "runs/stages/gone", "pretrain": done}, status="failed", reason="once")
    assert (cell(tmp_path).status, cell(tmp_path).reason) == ("finished", None)


def test_a_finished_cell_with_a_removed_folder_stays_finished_and_says_so(tmp_path: Path) -> None:
    make_cell(tmp_path, "a", 48, {"latents": "runs/latents/1"})
    assert (cell(tmp_path).status, cell(tmp_path).detail) == ("finished", "runs/latents/1 is gone")


def test_a_watch_sees_what_changes_and_reads_the_rest_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_chain(tmp_path, STARTED)
    queue = FakeQueue({"7_0": "RUNNING", "8_0": QueueState("PENDING", "Dependency", ("7",))})
    watch = SweepWatch(tmp_path, "grid", queue)
    assert watch.rows()[0].stage == "pretrain"
    make_stage(tmp_path, "pretrain-1", [])
    append_event(tmp_path / "runs" / "jobs" / "probe-1", "started")
    queue.known["8_0"] = QueueState("RUNNING")
    assert watch.rows()[0].stage == "probe"
    make_stage(tmp_path, "probe-1", [])
    assert watch.rows()[0].status == "finished"

    def unread(path: Path, **how: object) -> str:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr("ssvae.report.state.read_json", unread)
    monkeypatch.setattr("ssvae.report.state.read_job", unread)
    monkeypatch.setattr("ssvae.report.state.history", unread)
    assert watch.rows()[0].status == "finished"
