"""Filling a tracker from the folders, beside processes that still run, and again and again."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ssvae.track.base import TrackerError
from ssvae.track.mlflow import MlflowTracker
from ssvae.track.records import cell_paths, read_cell, sweeps, track_settings
from ssvae.track.sync import SyncCount, sync_sweep


def make_cell(root: Path, cell_id: str, status: str = "finished", **more: Any) -> Path:
    folder = root / "runs" / "stages" / f"pretrain-{cell_id}"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"created_ms": 1700000000000}')
    (folder / "steps.jsonl").write_text("".join(f'{{"step": {step}, "loss": 1.5}}\n' for step in range(1, 6)))
    record = root / "runs" / "sweeps" / "grid" / "cells" / f"{cell_id}.json"
    record.parent.mkdir(parents=True, exist_ok=True)
    values = {"cell_id": cell_id, "fields": {"reg": cell_id}, "overrides": ["reg=lcr"], "reused": [], "seconds": 1.0}
    where = {"pretrain": str(folder.relative_to(root))}
    record.write_text(json.dumps({**values, "status": status, "reason": None, "stages": where, **more}))
    record.with_suffix(".yaml").write_text("exp: cpu\ntrain: {lr: 1.0e-05, betas: [0.5, 0.9]}\n")
    os.utime(record, (1_700_000_600, 1_700_000_600))
    return record


def cells(root: Path) -> dict[str, tuple[Any, ...]]:
    """cell -> (status, start, end, reason), and the sweep's under its name."""
    with closing(sqlite3.connect(root / "runs" / "mlflow.db")) as connection:
        query = (
            "SELECT coalesce(c.value, r.name), r.status, r.start_time, r.end_time, t.value FROM runs r "
            "LEFT JOIN tags c ON c.run_uuid = r.run_uuid AND c.key = 'cell_id' "
            "LEFT JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'reason'"
        )
        return {row[0]: row[1:] for row in connection.execute(query)}


def dump(root: Path) -> str:
    """The whole database as text."""
    with closing(sqlite3.connect(root / "runs" / "mlflow.db")) as connection:
        return "\n".join(connection.iterdump())


def test_status_reason_and_times_are_the_records(tmp_path: Path) -> None:
    make_cell(tmp_path, "good")
    make_cell(tmp_path, "bad", "failed", reason="out of memory")
    make_cell(tmp_path, "stopped", "killed", reason="stopped by the user")
    make_cell(tmp_path, "silent", "running")
    count = sync_sweep(MlflowTracker(tmp_path, "e"), tmp_path, "grid")
    assert count.cells == {"finished": 1, "failed": 1, "killed": 2}
    assert count.mirrored.points == 20
    found = cells(tmp_path)
    begin, end = 1_700_000_000_000, 1_700_000_600_000
    assert found["good"] == ("FINISHED", begin, end, "")
    assert found["bad"] == ("FAILED", begin, end, "out of memory")
    assert found["stopped"] == ("KILLED", begin, end, "stopped by the user")
    assert found["silent"] == ("KILLED", begin, end, "ended without a word")
    assert found["grid"][0] == "FAILED"


def test_twice_is_once(tmp_path: Path) -> None:
    make_cell(tmp_path, "good")
    figure = tmp_path / "runs" / "sweeps" / "grid" / "cells" / "good" / "figures" / "spectrum.png"
    figure.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(figure)
    report = tmp_path / "results" / "grid"
    report.mkdir(parents=True)
    (report / "table.csv").write_text("reg\n")
    first = sync_sweep(MlflowTracker(tmp_path, "e"), tmp_path, "grid")
    before = dump(tmp_path)
    assert (first.mirrored.points, first.mirrored.files, first.reports) == (5, 2, 1)
    again = sync_sweep(MlflowTracker(tmp_path, "e"), tmp_path, "grid")
    assert (again.mirrored.points, again.mirrored.files, again.reports) == (0, 0, 0)
    assert dump(tmp_path) == before
    files = {path.name.partition("+")[0] for path in (tmp_path / "runs" / "mlartifacts").rglob("*") if path.is_file()}
    assert files == {"table.csv", "report~spectrum"}


def test_beside_its_process_a_cell_is_filled_up_and_left_running(tmp_path: Path) -> None:
    live = make_cell(tmp_path, "live", "running")
    make_cell(tmp_path, "good")
    tracker = MlflowTracker(tmp_path, "e")
    sweep = tracker.open_sweep("grid", {}, {})  # as the process that runs it has done
    sweep.open_cell("live", {"reg": "live"}, {}, {})
    owner = dump(tmp_path).count("'pid'")
    count = sync_sweep(MlflowTracker(tmp_path, "e"), tmp_path, "grid", lambda sweep, cell: cell == "live")
    assert count.cells == {"live": 1, "finished": 1}
    assert count.line() == (
        "grid: 2 cells (1 finished, 1 live); sent 10 points, 0 final metrics, 0 system values, 0 files"
    )
    found = cells(tmp_path)
    assert {name: row[0] for name, row in found.items()} == {"live": "RUNNING", "good": "FINISHED", "grid": "RUNNING"}
    assert dump(tmp_path).count("'pid'") == owner, "it belongs to whom it belonged to"
    live.write_text(live.read_text().replace('"running"', '"finished"'))
    sync_sweep(MlflowTracker(tmp_path, "e"), tmp_path, "grid")
    assert {row[0] for row in cells(tmp_path).values()} == {"FINISHED"}


def test_what_is_sent_live_and_what_is_filled_in_are_the_same(tmp_path: Path) -> None:
    path = make_cell(tmp_path, "good")
    cell = read_cell(tmp_path, path)
    assert cell.params == {"exp": "cpu", "train.lr": "1e-05", "train.betas": "[0.5, 0.9]"}
    assert cell.tags == {"overrides": "reg=lcr", "exp": "cpu"}
    assert cell.figures == path.with_suffix("")
    assert cell.started_ms == 1_700_000_000_000


def test_a_damaged_cell_is_named_and_the_others_are_sent(tmp_path: Path) -> None:
    make_cell(tmp_path, "a").write_text("{")
    broken = make_cell(tmp_path, "b")
    (tmp_path / "runs" / "stages" / "pretrain-b" / "metrics.json").write_text("[1]")
    make_cell(tmp_path, "c")
    count = sync_sweep(MlflowTracker(tmp_path, "e"), tmp_path, "grid")
    assert broken.exists()
    assert count.cells == {"finished": 1}
    assert [problem.split(":")[1] for problem in count.problems] == [" cell a", " cell b"]
    assert cells(tmp_path)["grid"][0] == "RUNNING", "not to be closed before it is whole"


class Unreachable:
    """Answers from the ``good``-th call on."""

    def __init__(self, inner: MlflowTracker, good: int) -> None:
        self.inner, self.good, self.calls = inner, good, 0

    def open_sweep(self, *given: Any, **named: Any) -> Any:
        self.calls += 1
        if self.calls < self.good:
            raise TrackerError("no answer", unreachable=True)
        return self.inner.open_sweep(*given, **named)

    def reap(self) -> int:
        raise AssertionError


def test_a_hiccup_is_tried_again_and_an_outage_is_told(tmp_path: Path) -> None:
    make_cell(tmp_path, "good")
    inner, pauses = MlflowTracker(tmp_path, "e"), list[float]()
    assert sync_sweep(Unreachable(inner, 3), tmp_path, "grid", pause=pauses.append).cells == {"finished": 1}
    assert pauses == [2.0, 4.0]
    with pytest.raises(TrackerError, match="no answer"):
        sync_sweep(Unreachable(inner, 4), tmp_path, "grid", pause=pauses.append)


def test_unknown_sweeps_are_named(tmp_path: Path) -> None:
    assert sweeps(tmp_path) == []
    make_cell(tmp_path, "good")
    assert sweeps(tmp_path) == ["grid"]
    with pytest.raises(ValueError, match=r"sweep 'other' has no cells .* grid"):
        cell_paths(tmp_path, "other")


def test_where_a_sweep_was_tracked_is_in_its_configs(tmp_path: Path) -> None:
    record = make_cell(tmp_path, "good")
    assert track_settings(tmp_path, "grid") == (None, None)
    record.with_suffix(".yaml").write_text("track: {experiment: mine, uri: http://host:5000}\n")
    assert track_settings(tmp_path, "grid") == ("mine", "http://host:5000")
    assert track_settings(tmp_path, "other") == (None, None)


def test_passwords_in_old_configs_do_not_become_parameters(tmp_path: Path) -> None:
    record = make_cell(tmp_path, "good", overrides=["track.uri=http://me:pa55@h"])
    record.with_suffix(".yaml").write_text("track: {uri: http://me:pa55@h}\n")
    cell = read_cell(tmp_path, record)
    assert cell.params == {"track.uri": "http://me:***@h"}
    assert cell.tags["overrides"] == "track.uri=http://me:***@h"


def test_a_count_reads_well() -> None:
    assert SyncCount("s", {"finished": 1}).line().startswith("s: 1 cell (1 finished); sent 0 points")
