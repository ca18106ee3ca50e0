"""The MLflow mirror against real SQLite stores: exactly once, whatever is killed, repeated or started together."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from ssvae.track.base import TrackerError
from ssvae.track.cell import Point
from ssvae.track.guard import open_tracker
from ssvae.track.mlflow import PARAM_LIMIT, MlflowTracker, sqlite_uri
from ssvae.track.process import process_tags
from ssvae.track.rebuild import mirror_sweep

FIELDS = {"reg": "lcr", "channels": 48, "resolution": 32, "seed": 0}


def open_at(root: Path) -> MlflowTracker:
    return MlflowTracker(sqlite_uri(root / "runs" / "mlflow.db"), root / "runs" / "mlartifacts", "ssvae")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder (with a blank in its name) that the tests of this file share; each has its own sweep."""
    return tmp_path_factory.mktemp("project") / "my bench"


@pytest.fixture(scope="module")
def tracker(root: Path) -> MlflowTracker:
    return open_at(root)


def rows(root: Path, query: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(root / "runs" / "mlflow.db")) as connection:
        return connection.execute(query, values).fetchall()


def runs_tagged(root: Path, key: str, value: str) -> list[tuple[Any, ...]]:
    """(run id, status, name) of the runs with a tag, straight from the database."""
    query = (
        "SELECT r.run_uuid, r.status, r.name FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
        "WHERE t.key = ? AND t.value = ? ORDER BY r.name"
    )
    return rows(root, query, key, value)


def tags_of(root: Path, run_id: str) -> dict[str, str]:
    return dict(rows(root, "SELECT key, value FROM tags WHERE run_uuid = ?", run_id))


def points_of(root: Path, run_id: str) -> Counter[tuple[str, int]]:
    return Counter(rows(root, "SELECT key, step FROM metrics WHERE run_uuid = ?", run_id))


def make_stage(folder: Path, steps: int = 700, metrics: Mapping[str, float | None] | None = None) -> Path:
    for name in ("samples", "figures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"created_ms": 1_700_000_000_000}))
    (folder / "config.yaml").write_text("seed: 0\n")
    (folder / "samples" / "clip_step_000100.mp4").write_bytes(b"mp4")
    (folder / "figures" / "loss.png").write_bytes(b"png")
    write_steps(folder, steps)
    if metrics is not None:
        (folder / "metrics.json").write_text(json.dumps([{"name": k, "value": v} for k, v in metrics.items()]))
    return folder


def write_steps(folder: Path, steps: int) -> None:
    lines = [json.dumps({"step": s, "loss": 1 / s, "kl": float(s), "lr": 1e-4}) for s in range(1, steps + 1)]
    (folder / "steps.jsonl").write_text("\n".join(lines) + "\n")


def every_point(steps: int) -> Counter[tuple[str, int]]:
    return Counter((f"pretrain/{name}", step) for name in ("loss", "kl", "lr") for step in range(1, steps + 1))


def test_importing_the_package_does_not_import_mlflow() -> None:
    code = "import sys, ssvae.track.mlflow, ssvae.track.guard; sys.exit('mlflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_one_parent_and_one_nested_child_a_cell_found_again(root: Path, tracker: MlflowTracker) -> None:
    for again in (tracker, tracker, open_at(root)):
        sweep = again.open_sweep("twice", {"command": "run.py -m"}, {"commit": "abc"})
        sweep.open_cell("c1", FIELDS, {"train.lr": "0.1"}, {}).finish("FINISHED")
        sweep.open_cell("c2", {**FIELDS, "reg": "none"}, {}, {}).finish("FAILED", "non-finite loss")
        sweep.finish("FAILED")
    found = runs_tagged(root, "sweep", "twice")
    assert [(status, name) for _, status, name in found] == [
        ("FINISHED", "reg=lcr channels=48 resolution=32 seed=0"),
        ("FAILED", "reg=none channels=48 resolution=32 seed=0"),
        ("FAILED", "twice"),
    ]
    tags = tags_of(root, found[1][0])
    assert tags["mlflow.parentRunId"] == found[2][0]
    assert (tags["reg"], tags["cell_id"], tags["reason"]) == ("none", "c2", "non-finite loss")
    assert tags_of(root, found[2][0])["commit"] == "abc"


def test_a_cell_opened_again_is_running_and_owned_by_the_caller(root: Path, tracker: MlflowTracker) -> None:
    sweep = tracker.open_sweep("reopened", {}, {})
    sweep.open_cell("again", FIELDS, {}, {}).finish("KILLED", "time-out")
    sweep.open_cell("again", FIELDS, {}, {})
    [(run_id, status, _)] = runs_tagged(root, "cell_id", "again")
    assert status == "RUNNING"
    assert tags_of(root, run_id)["pid"] == str(os.getpid())


def test_parameters_are_logged_once_cut_and_changes_are_noted(root: Path, tracker: MlflowTracker) -> None:
    sweep = tracker.open_sweep("params", {}, {})
    many = {f"group.key{i}": str(i) for i in range(250)} | {"long": "x" * 9000, "odd[key]": "1"}
    sweep.open_cell("p", FIELDS, many, {})
    sweep.open_cell("p", FIELDS, {**many, "group.key7": "changed", "new": "1"}, {})
    [(run_id, _, _)] = runs_tagged(root, "cell_id", "p")
    stored = dict(rows(root, "SELECT key, value FROM params WHERE run_uuid = ?", run_id))
    assert len(stored) == 250 + 2 + 1 + len(FIELDS)
    assert len(stored["long"]) == PARAM_LIMIT
    assert (stored["odd_key_"], stored["group.key7"], stored["new"], stored["channels"]) == ("1", "7", "1", "48")
    assert tags_of(root, run_id)["params_changed"] == "group.key7"


def test_mirroring_twice_stores_every_point_once(root: Path, tracker: MlflowTracker, tmp_path: Path) -> None:
    folder = make_stage(tmp_path / "pretrain-ab12", metrics={"psnr_db": 30.25, "fvd": None})
    cell = tracker.open_sweep("mirror", {}, {}).open_cell("m", FIELDS, {}, {})
    first = cell.mirror("pretrain", folder)
    assert (first.points, first.finals, first.files, first.skipped) == (2100, 1, 4, 1)
    assert cell.mirror("pretrain", folder).points == 0
    other = open_at(root).open_sweep("mirror", {}, {}).open_cell("m", FIELDS, {}, {}).mirror("pretrain", folder)
    assert (other.points, other.finals, other.files) == (0, 0, 0)
    [(run_id, _, _)] = runs_tagged(root, "cell_id", "m")
    assert points_of(root, run_id) == every_point(700) + Counter([("psnr_db", 0)])
    timed = rows(
        root, "SELECT timestamp, value FROM metrics WHERE run_uuid = ? AND key = 'pretrain/kl' AND step = 5", run_id
    )
    assert timed == [(1_700_000_000_005, 5.0)]
    artifacts = root / "runs" / "mlartifacts" / run_id / "artifacts"
    assert sorted(str(path.relative_to(artifacts)) for path in artifacts.rglob("*") if path.is_file()) == [
        "figures/pretrain/loss.png",
        "samples/pretrain/clip_step_000100.mp4",
        "stages/pretrain/config.yaml",
        "stages/pretrain/metrics.json",
    ]


def test_a_kill_after_storing_but_before_noting_adds_no_point(
    root: Path, tracker: MlflowTracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_stage(tmp_path / "pretrain-ab12")
    cell = tracker.open_sweep("killed", {}, {}).open_cell("k", FIELDS, {}, {})
    store = tracker.log_points
    calls = []

    def stored_but_not_answered(run_id: str, points: Sequence[Point]) -> None:
        store(run_id, points)
        calls.append(len(points))
        if len(calls) == 2:
            raise OSError("connection lost")

    monkeypatch.setattr(tracker, "log_points", stored_but_not_answered)
    with pytest.raises(TrackerError, match="connection lost"):
        cell.mirror("pretrain", folder)
    # The second batch is in the store and the cell does not know: it is sent again, identically.
    cell.mirror("pretrain", folder)
    assert calls == [999, 999, 999, 102]
    [(run_id, _, _)] = runs_tagged(root, "cell_id", "k")
    assert points_of(root, run_id) == every_point(700)


def test_a_file_cut_back_and_grown_again_adds_only_new_steps(
    root: Path, tracker: MlflowTracker, tmp_path: Path
) -> None:
    folder = make_stage(tmp_path / "pretrain-ab12", steps=50)
    cell = tracker.open_sweep("regrown", {}, {}).open_cell("g", FIELDS, {}, {})
    cell.mirror("pretrain", folder)
    write_steps(folder, 20)
    resumed = open_at(root).open_sweep("regrown", {}, {}).open_cell("g", FIELDS, {}, {})
    resumed.mirror("pretrain", folder)
    write_steps(folder, 60)
    resumed.mirror("pretrain", folder)
    cell.mirror("pretrain", folder)  # the older process, not quite dead yet
    [(run_id, _, _)] = runs_tagged(root, "cell_id", "g")
    assert points_of(root, run_id) == every_point(60)


def test_reap_closes_runs_of_dead_processes_only(root: Path, tracker: MlflowTracker) -> None:
    sweep = tracker.open_sweep("reap", {}, {})
    for name in ("alive", "dead", "elsewhere"):
        sweep.open_cell(name, FIELDS, {}, {})
    ids = {name: runs_tagged(root, "cell_id", name)[0][0] for name in ("alive", "dead", "elsewhere")}
    gone = {**process_tags(), "pid_start": "1.00"}
    tracker.set_tags(ids["dead"], gone)
    tracker.set_tags(ids["elsewhere"], {**gone, "host": "another-machine"})
    assert tracker.reap() == 1
    assert tracker.reap() == 0
    statuses = {name: rows(root, "SELECT status FROM runs WHERE run_uuid = ?", ids[name])[0][0] for name in ids}
    assert statuses == {"alive": "RUNNING", "dead": "KILLED", "elsewhere": "RUNNING"}


def test_report_files_hang_on_the_parent(root: Path, tracker: MlflowTracker, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("reg\n")
    (tmp_path / "dct_spectrum.png").write_bytes(b"png")
    (tmp_path / "sub").mkdir()
    sweep = tracker.open_sweep("report", {}, {})
    assert sweep.log_artifacts(tmp_path) == 2
    [(run_id, _, _)] = runs_tagged(root, "sweep", "report")
    assert (root / "runs" / "mlartifacts" / run_id / "artifacts" / "report" / "table.csv").read_text() == "reg\n"


def test_a_lost_database_is_filled_again_from_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    stage = make_stage(tmp_path / "runs" / "stages" / "pretrain-ab12", steps=5, metrics={"psnr_db": 30.0})
    cells = tmp_path / "runs" / "sweeps" / "grid" / "cells"
    cells.mkdir(parents=True)
    base = {"fields": FIELDS, "overrides": ["reg=lcr"], "stages": {"pretrain": "runs/stages/pretrain-ab12"}}
    done = {**base, "cell_id": "a", "status": "finished", "reason": None, "seconds": 1.0, "reused": ["pretrain"]}
    (cells / "a.json").write_text(json.dumps(done))
    failed = {**done, "cell_id": "b", "fields": {**FIELDS, "seed": 1}, "status": "failed", "reason": "x", "stages": {}}
    (cells / "b.json").write_text(json.dumps(failed))
    before = sorted(stage.rglob("*"))
    tracker = open_tracker(tmp_path, "ssvae")
    counts = [mirror_sweep(tracker, tmp_path, "grid") for _ in range(2)]
    assert [count.points for count in counts] == [15, 0]
    assert tracker.problems.summary() is None
    assert [status for _, status, _ in runs_tagged(tmp_path, "role", "cell")] == ["FINISHED", "FAILED"]
    [(run_id, _, _)] = runs_tagged(tmp_path, "cell_id", "a")
    assert tags_of(tmp_path, run_id)["reused"] == "pretrain"
    # Nothing is written beside the database and the artifacts: no mlruns in the working directory.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "mlartifacts", "mlflow.db", "mlflow.db.lock", "stages", "sweeps",
    ]  # fmt: skip
    assert sorted(stage.rglob("*")) == before
    with pytest.raises(ValueError, match="nosuch"):
        mirror_sweep(tracker, tmp_path, "nosuch")


_STARTER = """
import sys, time
from pathlib import Path
root, name, start = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
from ssvae.track.mlflow import MlflowTracker, sqlite_uri
import mlflow.tracking, mlflow.store.tracking.sqlalchemy_store  # slow: not while the others race
print("ready", flush=True)
while not start.exists():
    time.sleep(0.005)
tracker = MlflowTracker(sqlite_uri(root / "runs" / "mlflow.db"), root / "runs" / "mlartifacts", "ssvae")
sweep = tracker.open_sweep("grid", {}, {})
sweep.open_cell("shared", {"reg": "none"}, {"a": "1"}, {})
sweep.open_cell(name, {"reg": name}, {}, {}).finish("FINISHED")
"""


def test_four_processes_that_start_together_on_a_missing_database_all_succeed(tmp_path: Path) -> None:
    start = tmp_path / "start"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _STARTER, str(tmp_path), f"cell{i}", str(start)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        )
        for i in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    start.touch()
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert len(runs_tagged(tmp_path, "role", "sweep")) == 1
    assert len(runs_tagged(tmp_path, "cell_id", "shared")) == 1
    assert len(runs_tagged(tmp_path, "role", "cell")) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs", "start"]


def test_a_kill_while_the_database_is_made_leaves_nothing_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    # What a process leaves that dies during the migrations: a temporary file, never the database itself.
    (tmp_path / "runs" / ".mlflow.db.new").write_bytes(b"half a database")
    open_at(tmp_path).open_sweep("s", {}, {})
    assert len(runs_tagged(tmp_path, "sweep", "s")) == 1


def test_a_broken_database_never_stops_the_caller(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").write_bytes(b"this is no database" * 100)
    tracker = open_tracker(tmp_path, "ssvae")
    summary = tracker.problems.summary()
    assert summary is not None
    assert "not a database" in summary
    tracker.open_sweep("s", {}, {}).open_cell("c", FIELDS, {}, {}).finish("FINISHED")


def test_a_moved_project_is_told_instead_of_writing_to_the_old_place(root: Path, tracker: MlflowTracker) -> None:
    with pytest.raises(TrackerError, match="was the project moved"):
        MlflowTracker(sqlite_uri(root / "runs" / "mlflow.db"), root / "elsewhere", "ssvae")


def test_relative_locations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"mlflow\.db is relative"):
        MlflowTracker("sqlite:///mlflow.db", tmp_path, "ssvae")
    with pytest.raises(ValueError, match="artifacts is relative"):
        MlflowTracker(sqlite_uri(tmp_path / "m.db"), Path("artifacts"), "ssvae")
