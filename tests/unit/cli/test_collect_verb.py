"""``collect`` looks at what the jobs did, and writes the table of what is there."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from job_folders import FakeQueue, age, make_job
from ssvae.cli.main import main

ROW = {"name": "psnr_db", "value": 20.5, "unit": "dB", "direction": "up", "n": 4, "ci95": None, "protocol": "p/1"}
SUBMITTED, STARTED = ("submitted", {"scheduler_id": "7"}), ("started", {"host": "n1"})
FAILED = ("ended", {"how": "failed", "reason": "ValueError: no clips", "next": "none", "rank": 0})


def finish(root: Path, name: str) -> None:
    folder = root / "runs" / "stages" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps([ROW] if name.startswith("measure") else []))
    (folder / "done.json").write_text('{"seconds": 2.5}')


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two cells, submitted and left: nothing but jobs has happened since."""
    monkeypatch.setenv("SSVAE_ROOT", str(tmp_path))
    cells = tmp_path / "runs" / "sweeps" / "grid" / "cells"
    cells.mkdir(parents=True)
    sweep = {"command": "python run.py -m reg=none,lcr launch=slurm", "notes": [], "cells": ["id-none", "id-lcr"]}
    (cells.parent / "sweep.json").write_text(json.dumps(sweep))
    for reg in ("none", "lcr"):
        record: dict[str, Any] = {
            "cell_id": f"id-{reg}", "label": f"reg={reg}", "overrides": [], "status": "waiting", "reason": None,
            "fields": {"reg": reg, "channels": 48, "resolution": "32", "seed": 0}, "seconds": 0.0, "reused": [],
            "stages": {"pretrain": f"runs/stages/pretrain-{reg}", "measure": f"runs/stages/measure-{reg}"},
        }  # fmt: skip
        (cells / f"id-{reg}.json").write_text(json.dumps(record))
    return tmp_path


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch) -> FakeQueue:
    fake = FakeQueue()
    monkeypatch.setattr("ssvae.report.state.SlurmQueue", lambda: fake)
    return fake


def table(root: Path) -> dict[str, dict[str, str]]:
    with (root / "results" / "grid" / "table.csv").open() as file:
        return {row["reg"]: row for row in csv.DictReader(file)}


def submit(root: Path, reg: str, *events: Any, **more: Any) -> None:
    name = f"pretrain-{reg}"
    make_job(root, name, {"pretrain": f"runs/stages/{name}"}, [SUBMITTED, *events], **more)
    name = f"measure-{reg}"
    make_job(root, name, {"measure": f"runs/stages/{name}"}, needs=[f"pretrain-{reg}"], scheduler_id="9")


def test_collect_while_jobs_run_and_after(root: Path, queue: FakeQueue, capsys: pytest.CaptureFixture[str]) -> None:
    submit(root, "none", STARTED)
    submit(root, "lcr")
    queue.known = {"7": "RUNNING", "9": "PENDING"}
    finish(root, "pretrain-none")
    finish(root, "measure-none")
    assert main(["collect", "grid"]) == 3, "nothing failed, and one is still to come"
    assert {reg: (row["status"], row["psnr_db"]) for reg, row in table(root).items()} == {
        "none": ("finished", "20.5"), "lcr": ("running", ""),
    }  # fmt: skip
    assert "2 cells: 1 finished, 1 running; written: " in capsys.readouterr().out
    finish(root, "pretrain-lcr")
    finish(root, "measure-lcr")
    assert main(["collect", "grid"]) == 0
    assert table(root)["lcr"]["status"] == "finished" and table(root)["lcr"]["psnr_db"] == "20.5"
    before = {path.name: path.read_bytes() for path in (root / "results" / "grid").iterdir()}
    assert main(["collect", "grid"]) == 0
    assert {path.name: path.read_bytes() for path in (root / "results" / "grid").iterdir()} == before


def test_collect_tells_of_the_dead(root: Path, queue: FakeQueue, capsys: pytest.CaptureFixture[str]) -> None:
    submit(root, "none", STARTED, FAILED, log="Traceback (most recent call last):\nValueError: no clips\n")
    submit(root, "lcr", STARTED)
    queue.known = {"7": "RUNNING", "9": "PENDING"}
    assert main(["collect", "grid"]) == 1
    said = capsys.readouterr().out
    assert "reg=none channels=48 resolution=32 seed=0: log: " in said and "rank_0_log.err" in said
    assert "go on with: python run.py -m reg=none,lcr launch=slurm" in said
    assert table(root)["none"]["status"] == "failed"
    assert "pretrain: ValueError: no clips" in (root / "results" / "grid" / "table.md").read_text()
    age(root, 600)
    queue.known = {}
    assert main(["collect", "grid"]) == 1
    assert {row["status"] for row in table(root).values()} == {"failed", "killed"}
    assert "lost: job 7 is not in the queue any more" in (root / "results" / "grid" / "table.md").read_text()


def test_report_shows_the_records_as_they_are(root: Path, queue: FakeQueue) -> None:
    submit(root, "none", STARTED, FAILED)
    assert main(["report", "grid"]) == 0
    assert table(root)["none"]["status"] == "waiting" and queue.asked == []


def test_collect_of_an_unknown_sweep(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["collect", "gird"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "'gird'" in said and "grid" in said
    assert not (root / "results").exists()
