"""Records of cells after a look at the truth."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from job_chain import make_chain
from sweep_folders import make_cell, make_stage

from job_folders import FAILED, STARTED, FakeQueue, age
from ssvae.core.queue import QueueState
from ssvae.report.collect import collect
from ssvae.report.refresh import refresh_records
from ssvae.report.state import SweepWatch


def refresh(root: Path, queue: FakeQueue) -> list[str]:
    return refresh_records(root, "grid", SweepWatch(root, "grid", queue).rows())


def status(root: Path) -> list[tuple[str, str | None]]:
    return [(row.status, row.reason) for row in collect(root, "grid")]


def test_records_follow_the_jobs(tmp_path: Path) -> None:
    make_chain(tmp_path, STARTED)
    queue = FakeQueue({"7_0": "RUNNING", "8_0": "PENDING"})
    assert refresh(tmp_path, queue) == [] and status(tmp_path) == [("running", None)]
    queue.known["7_0"] = QueueState("PENDING", "BeginTime")
    assert refresh(tmp_path, queue) == ["a-48-0"] and status(tmp_path) == [("waiting", None)]
    queue.known["7_0"] = QueueState("CANCELLED")
    refresh(tmp_path, queue)
    assert status(tmp_path) == [("killed", "pretrain: cancelled")]
    make_stage(tmp_path, "pretrain-1", [])
    make_stage(tmp_path, "probe-1", [])
    path = tmp_path / "runs" / "sweeps" / "grid" / "cells" / "a-48-0.json"
    before = json.loads(path.read_text())
    refresh(tmp_path, queue)
    assert status(tmp_path) == [("finished", None)]
    after = json.loads(path.read_text())
    assert after.pop("seconds") == 2.0 and {**after, "seconds": 0.0} == {**before, "status": "finished", "reason": None}


def test_what_is_lost_or_stopped_was_ended_from_outside(tmp_path: Path) -> None:
    make_chain(tmp_path, STARTED)
    make_cell(tmp_path, "b", 48, {"pretrain": "runs/stages/b"}, status="running")
    make_cell(tmp_path, "c", 48, {"pretrain": "runs/stages/c"}, status="waiting")
    age(tmp_path, 600)
    refresh(tmp_path, FakeQueue())
    found = status(tmp_path)
    assert [one for one, _ in found] == ["killed"] * 3
    assert str(found[0][1]).startswith("pretrain: lost: job 7_0 is not in the queue any more")
    assert found[1][1] == "stopped: the process that ran it is gone"


def test_a_cell_of_a_live_process_is_left_to_it(tmp_path: Path) -> None:
    path = make_cell(tmp_path, "b", 48, {"pretrain": "runs/stages/b"}, status="running")
    before = path.stat().st_mtime_ns
    assert refresh(tmp_path, FakeQueue()) == [] and path.stat().st_mtime_ns == before


def test_several_at_once_leave_whole_records(tmp_path: Path) -> None:
    make_chain(tmp_path, STARTED, FAILED)
    queue = FakeQueue({"7_0": "FAILED", "8_0": "CANCELLED"})
    rows = SweepWatch(tmp_path, "grid", queue).rows()
    with ThreadPoolExecutor(4) as pool:
        changed = list(pool.map(lambda _: refresh_records(tmp_path, "grid", rows), range(8)))
    assert sorted(map(len, changed)) == [0] * 7 + [1], "one of them found something to do"
    assert status(tmp_path) == [("failed", "pretrain: ValueError: no clips")]
    (tmp_path / "runs" / "sweeps" / "grid" / "cells" / "a-48-0.json").unlink()
    assert refresh_records(tmp_path, "grid", rows) == [], "the sweep has other cells by now"
