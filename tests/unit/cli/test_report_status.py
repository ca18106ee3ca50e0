"""``report`` rebuilds results from run folders; ``status`` says where cells stand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from job_folders import age, make_pace
from ssvae.cli.main import main


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One finished cell and one that is at step 7 of its training."""
    monkeypatch.setenv("SSVAE_ROOT", str(tmp_path))
    stages = tmp_path / "runs" / "stages"
    (stages / "measure-1").mkdir(parents=True)
    row = {"name": "psnr_db", "value": 20.5, "unit": "dB", "direction": "up", "n": 4, "ci95": None, "protocol": "p/1"}
    (stages / "measure-1" / "metrics.json").write_text(json.dumps([row]))
    (stages / "measure-1" / "done.json").write_text('{"seconds": 2.5}')
    (stages / "pretrain-2").mkdir()
    (stages / "pretrain-2" / "steps.jsonl").write_text('{"step": 7, "loss": 1.0}\n')
    cells = tmp_path / "runs" / "sweeps" / "grid" / "cells"
    cells.mkdir(parents=True)
    sweep = {"command": "python run.py -m reg=none,lcr", "notes": ["a note"]}
    (cells.parent / "sweep.json").write_text(json.dumps(sweep))
    stages_of = {"none": ("finished", "measure", "measure-1"), "lcr": ("running", "pretrain", "pretrain-2")}
    for reg, (status, stage, folder) in stages_of.items():
        record: dict[str, Any] = {
            "cell_id": f"id-{reg}",
            "label": reg,
            "fields": {"reg": reg, "channels": 48, "resolution": "32", "seed": 0},
            "overrides": [],
            "status": status,
            "reason": None,
            "stages": {stage: f"runs/stages/{folder}"},
            "seconds": 3.0,
            "reused": [],
        }
        (cells / f"{reg}.json").write_text(json.dumps(record))
    return tmp_path


def test_report(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "grid"]) == 0
    folder = root / "results" / "grid"
    assert "20.5" in (folder / "table.csv").read_text()
    assert "a note" in (folder / "table.md").read_text()
    said = capsys.readouterr().out
    for name in ("table.csv", "table.md", "dct_spectrum.png", "explained_variance.png"):
        assert str(folder / name) in said
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "table.csv").write_text("spoilt")
    assert main(["report", "grid"]) == 0
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_status(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "grid"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    running = next(line for line in lines if line.startswith("running"))
    assert "id-lcr" in running and "pretrain, step 7" in running
    assert lines[-1] == "2 cells: 1 finished, 1 running"
    assert not (root / "results").exists()


def test_status_for_programs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_pace(root, "runs/stages/pretrain-2", 7, 10, 0.5)
    assert main(["status", "grid", "--json"]) == 0
    first, second = json.loads(capsys.readouterr().out)
    assert (first["cell_id"], first["status"], first["active"]) == ("id-lcr", "running", True)
    assert (first["stage"], first["done"], first["total"], first["rate"], first["left_s"]) == (
        "pretrain",
        7,
        10,
        0.5,
        6,
    )
    assert (second["status"], second["active"], second["left_s"]) == ("finished", False, None)


def test_status_says_how_to_go_on(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    age(root, 600)
    assert main(["status", "grid"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("stopped") and "the process that ran it is gone (pretrain, step 7" in lines[0]
    assert lines[-1] == "go on with: python run.py -m reg=none,lcr; what is finished or still runs is kept"


def test_watching_ends_with_the_last_cell(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    naps = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            (root / "runs" / "stages" / "pretrain-2" / "done.json").write_text('{"seconds": 1.0}')

    monkeypatch.setattr("time.sleep", sleep)
    assert main(["status", "grid", "--watch"]) == 0
    said = capsys.readouterr().out
    assert naps == [2.0] * 3 and "2 cells: 2 finished" in said


def test_leaving_a_watch_ends_nothing(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def sleep(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", sleep)
    assert main(["status", "grid", "--watch"]) == 0
    assert "the sweep goes on" in capsys.readouterr().out


def test_damaged_record_is_one_clear_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "runs" / "sweeps" / "grid" / "cells" / "none.json").write_text('{"cell_id": ')
    assert main(["report", "grid"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "none.json" in said
