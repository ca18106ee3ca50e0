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
from PIL import Image

from ssvae.track.base import TrackerError
from ssvae.track.cell import Point
from ssvae.track.limits import KEY_LIMIT, PARAM_LIMIT
from ssvae.track.mlflow import MlflowTracker, sqlite_uri
from ssvae.track.process import process_tags
from ssvae.track.sync import sync_sweep

LOSS = "pretrain~loss+step+700+timestamp+1700000000700+c91db3bb-1f14-57b7-b378-26678520c7dd"
FIELDS = {"reg": "lcr", "channels": 48, "resolution": 32, "seed": 0}


def open_at(root: Path) -> MlflowTracker:
    return MlflowTracker(root, "ssvae")


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
    Image.new("RGB", (40, 20)).save(folder / "figures" / "loss.png")
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
    code = "import sys, ssvae.track.mlflow, ssvae.track.live, ssvae.track.sync; sys.exit('mlflow' in sys.modules)"
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


def test_parameters_are_logged_once_and_changes_are_noted(root: Path, tracker: MlflowTracker) -> None:
    sweep = tracker.open_sweep("params", {}, {})
    many = {f"group.key{i}": str(i) for i in range(250)} | {"odd[key]": "1", "odd(key)": "2", "a//../b": "3"}
    sweep.open_cell("p", FIELDS, many, {})
    sweep.open_cell("p", FIELDS, {**many, "group.key7": "changed", "new": "1"}, {})
    [(run_id, _, _)] = runs_tagged(root, "cell_id", "p")
    stored = dict(rows(root, "SELECT key, value FROM params WHERE run_uuid = ?", run_id))
    assert len(stored) == 250 + 3 + 1 + len(FIELDS)
    assert (stored["odd_key_"], stored["group.key7"], stored["new"], stored["channels"]) == ("1", "7", "1", "48")
    assert "2" in [value for key, value in stored.items() if key.startswith("odd_key__")], "two names, two parameters"
    assert stored["a/_/__/b"] == "3"
    assert tags_of(root, run_id)["params_changed"] == "group.key7"


def test_long_values_are_cut_with_a_mark_and_kept_whole(root: Path, tracker: MlflowTracker) -> None:
    long, key = "x" * 9000, "k" * 400
    fits = "y" * PARAM_LIMIT
    for _ in range(2):  # as after a resume
        params = {"long": long, "fits": fits, key + "1": "one", key + "2": "two"}
        tracker.open_sweep("long", {}, {}).open_cell("l", FIELDS, params, {"note": "z" * 9000})
    [(run_id, _, _)] = runs_tagged(root, "cell_id", "l")
    stored = dict(rows(root, "SELECT key, value FROM params WHERE run_uuid = ?", run_id))
    assert stored["fits"] == fits
    cut, _, file = stored["long"].removesuffix(")").rpartition(" is in ")
    assert len(stored["long"]) == PARAM_LIMIT
    assert cut.strip("x") == "... (cut; the whole"
    folder = root / "runs" / "mlartifacts" / run_id / "artifacts"
    assert (folder / file).read_text() == long
    assert sorted(value for name, value in stored.items() if name.startswith("kkk")) == ["one", "two"]
    assert max(len(name) for name in stored) == KEY_LIMIT
    tags = tags_of(root, run_id)
    assert tags["note"].endswith("zzz...")
    assert "params_changed" not in tags


def test_a_thousand_wide_lines_and_awkward_names_are_stored(root: Path, tracker: MlflowTracker, tmp_path: Path) -> None:
    """More values than fit a call, names that MLflow refuses, and numbers that are none."""
    folder = make_stage(tmp_path / "pretrain-ab12", steps=1)
    wide = {f"metric[{i}]": float(i) for i in range(2500)} | {"m" * 300: 1.0, "../up": 2.0, "a//b": 3.0, "é": 4.0}
    (folder / "steps.jsonl").write_text(
        json.dumps({"step": 3, **wide, "nan": float("nan"), "inf": float("inf")}) + "\n"
    )
    (folder / "metrics.json").write_text(json.dumps([{"name": "/abs", "value": 1.5}, {"name": "x", "value": None}]))
    cell = tracker.open_sweep("wide", {}, {}).open_cell("w", FIELDS, {}, {})
    count = cell.mirror("pretrain", folder)
    assert (count.points, count.finals, count.skipped) == (2504, 1, 3)
    [(run_id, _, _)] = runs_tagged(root, "cell_id", "w")
    stored = points_of(root, run_id)
    assert sum(stored.values()) == len(stored) == 2505
    for key in ("pretrain/metric_2499_", "pretrain/__/up", "pretrain/a/_/b", "pretrain/é"):
        assert stored[key, 3] == 1
    assert stored["_/abs", 0] == 1


def test_mirroring_twice_stores_every_point_once(root: Path, tracker: MlflowTracker, tmp_path: Path) -> None:
    folder = make_stage(tmp_path / "pretrain-ab12", metrics={"psnr_db": 30.25, "fvd": None})
    cell = tracker.open_sweep("mirror", {}, {}).open_cell("m", FIELDS, {}, {})
    first = cell.mirror("pretrain", folder)
    assert (first.points, first.finals, first.files, first.skipped) == (2100, 1, 5, 1)
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
        f"images/{LOSS}+compressed.webp",
        f"images/{LOSS}.png",
        "stages/pretrain/config.yaml",
        "stages/pretrain/metrics.json",
        "videos/pretrain/clip/step_00000100.mp4",
    ]
    assert tags_of(root, run_id)["mlflow.loggedImages"] == "True"


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
    # The second batch is in the store and the cell does not know: it asks what is there.
    cell.mirror("pretrain", folder)
    assert calls == [999, 999, 102]
    [(run_id, _, _)] = runs_tagged(root, "cell_id", "k")
    assert points_of(root, run_id) == every_point(700)
    # Where two mirrors ask at once, both send the same rows, and a row is stored once.
    last = tracker.history(run_id, "pretrain/kl")[-1]
    store(run_id, [last, last])
    store(run_id, [last])
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
    counts = [sync_sweep(MlflowTracker(tmp_path, "ssvae"), tmp_path, "grid").mirrored for _ in range(2)]
    assert [(count.points, count.finals, count.files) for count in counts] == [(15, 1, 5), (0, 0, 0)]
    assert [status for _, status, _ in runs_tagged(tmp_path, "role", "cell")] == ["FINISHED", "FAILED"]
    [(run_id, _, _)] = runs_tagged(tmp_path, "cell_id", "a")
    assert tags_of(tmp_path, run_id)["reused"] == "pretrain"
    # Nothing is written beside the database and the artifacts: no mlruns in the working directory.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        ".track", "mlartifacts", "mlflow.db", "stages", "sweeps",
    ]  # fmt: skip
    assert sorted(stage.rglob("*")) == before


_STARTER = """
import sys, time
from pathlib import Path
root, name, start, stage = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
from ssvae.track.mlflow import MlflowTracker, sqlite_uri
import mlflow.tracking, mlflow.store.tracking.sqlalchemy_store  # slow: not while the others race
print("ready", flush=True)
while not start.exists():
    time.sleep(0.005)
tracker = MlflowTracker(root, "ssvae")
sweep = tracker.open_sweep("grid", {}, {})
sweep.open_cell("shared", {"reg": "none"}, {"a": "1"}, {}).mirror("pretrain", stage)
sweep.open_cell(name, {"reg": name}, {}, {}).finish("FINISHED")
"""


def test_four_processes_that_start_together_on_a_missing_database_double_nothing(tmp_path: Path) -> None:
    start = tmp_path / "start"
    stage = make_stage(tmp_path / "pretrain-ab12", metrics={"psnr_db": 30.25})
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _STARTER, str(tmp_path), f"cell{i}", str(start), str(stage)],
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
    [(run_id, _, _)] = runs_tagged(tmp_path, "cell_id", "shared")
    assert points_of(tmp_path, run_id) == every_point(700) + Counter([("psnr_db", 0)]), "all four mirrored it at once"
    assert len(runs_tagged(tmp_path, "role", "cell")) == 5
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pretrain-ab12", "runs", "start"]


def test_a_kill_while_the_database_is_made_leaves_nothing_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    # What a process leaves that dies during the migrations: a temporary file, never the database itself.
    (tmp_path / "runs" / ".mlflow.db.new").write_bytes(b"half a database")
    open_at(tmp_path).open_sweep("s", {}, {})
    assert len(runs_tagged(tmp_path, "sweep", "s")) == 1


def test_a_broken_database_is_told(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "mlflow.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(TrackerError, match="not a database") as caught:
        open_at(tmp_path)
    assert caught.value.unreachable


def test_a_moved_project_is_told_instead_of_writing_to_the_old_place(tmp_path: Path) -> None:
    open_at(tmp_path / "before")
    (tmp_path / "before").rename(tmp_path / "after")
    with pytest.raises(TrackerError, match="was the project moved"):
        open_at(tmp_path / "after")


def test_a_database_elsewhere_keeps_its_files_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri(tmp_path / "shared" / "m.db"))
    for root in ("one", "two"):
        folder = make_stage(tmp_path / f"pretrain-{root}", steps=2)
        cell = MlflowTracker(tmp_path / root, "ssvae").open_sweep(root, {}, {}).open_cell("c", FIELDS, {}, {})
        assert cell.mirror("pretrain", folder).files == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pretrain-one", "pretrain-two", "shared"]
    assert len(list((tmp_path / "shared" / "mlartifacts").glob("*/artifacts/stages/pretrain/config.yaml"))) == 2


def test_a_run_that_jobs_still_work_on_is_not_reaped(tmp_path: Path) -> None:
    tracker = MlflowTracker(tmp_path, "ssvae", lives=lambda sweep, cell: (sweep, cell) in {("s", "live"), ("s", None)})
    sweep = tracker.open_sweep("s", {}, {})
    ids = {}
    for name in ("live", "dead"):
        sweep.open_cell(name, FIELDS, {}, {})
        ids[name] = runs_tagged(tmp_path, "cell_id", name)[0][0]
        tracker.set_tags(ids[name], {"pid_start": "1.00"})
    tracker.set_tags(sweep.run_id, {"pid_start": "1.00"})
    assert tracker.reap() == 1
    assert {name: tracker.run(ids[name]).info.status for name in ids} == {"live": "RUNNING", "dead": "KILLED"}
    assert tracker.run(sweep.run_id).info.status == "RUNNING"


def test_a_run_that_is_only_filled_in_keeps_its_owner_and_status(tmp_path: Path) -> None:
    tracker = open_at(tmp_path)
    sweep = tracker.open_sweep("s", {}, {}, own=False)
    assert "pid" not in tags_of(tmp_path, sweep.run_id)
    mine = sweep.open_cell("c", FIELDS, {}, {}, own=True)
    mine.finish("FAILED", "out of memory")
    [(run_id, _, _)] = runs_tagged(tmp_path, "cell_id", "c")
    end = tracker.run(run_id).info.end_time
    other = open_at(tmp_path).open_sweep("s", {}, {}, own=False).open_cell("c", FIELDS, {}, {}, own=False)
    assert tracker.run(run_id).info.status == "FAILED"
    assert tags_of(tmp_path, run_id)["reason"] == "out of memory"
    other.finish("FAILED", "out of memory", 5)
    assert tracker.run(run_id).info.end_time == end, "closed already"
    sweep.open_cell("c", FIELDS, {}, {}, own=True)
    assert tracker.run(run_id).info.status == "RUNNING"
    assert tags_of(tmp_path, run_id)["reason"] == ""
