"""``python -m ssvae track sync``: where it sends, what it says, how it ends."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mlflow_server import refused_uri
from ssvae.cli.main import main
from ssvae.core.files import exclusive
from ssvae.track import sync
from ssvae.track.mlflow import sqlite_uri


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSVAE_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(sync, "PAUSE_S", 0.0)
    for name in ("MPLCONFIGDIR", "HF_HOME"):  # set by the verb to places under its root
        monkeypatch.setenv(name, str(tmp_path))
    return tmp_path


def make_sweep(root: Path, sweep: str, status: str = "finished", uri: str | None = None) -> Path:
    """One cell; returns the folder of its stage."""
    folder = root / "runs" / "stages" / f"pretrain-{sweep}"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"created_ms": 1700000000000}')
    (folder / "steps.jsonl").write_text('{"step": 1, "loss": 1.5}\n')
    if status == "finished":
        (folder / "done.json").write_text('{"seconds": 1.0, "id": "x"}')
    record = root / "runs" / "sweeps" / sweep / "cells" / "c.json"
    record.parent.mkdir(parents=True)
    values = {"cell_id": "c", "fields": {"reg": "none"}, "overrides": [], "reused": [], "seconds": 1.0, "reason": None}
    record.write_text(json.dumps({**values, "status": status, "stages": {"pretrain": str(folder.relative_to(root))}}))
    (root / "runs" / "sweeps" / sweep / "sweep.json").write_text(
        json.dumps({"command": "x", "notes": [], "cells": ["c"]})
    )
    record.with_suffix(".yaml").write_text(json.dumps({"track": {"experiment": f"of {sweep}", "uri": uri}}))
    return folder


def runs(database: Path) -> set[tuple[str, str, str]]:
    """(experiment, run, status)."""
    with closing(sqlite3.connect(database)) as connection:
        query = "SELECT e.name, r.name, r.status FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id"
        return set(connection.execute(query))


def test_every_sweep_goes_to_where_it_was_tracked(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_sweep(root, "one")
    make_sweep(root, "two", uri=sqlite_uri(root / "other" / "m.db"))
    assert main(["track", "sync"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(";")[0] for line in said] == ["one: 1 cell (1 finished)", "two: 1 cell (1 finished)"]
    assert runs(root / "runs" / "mlflow.db") == {("of one", "one", "FINISHED"), ("of one", "reg=none", "FINISHED")}
    assert runs(root / "other" / "m.db") == {("of two", "two", "FINISHED"), ("of two", "reg=none", "FINISHED")}
    assert main(["track", "sync", "two"]) == 0
    assert "sent 0 points" in capsys.readouterr().out


def test_the_command_line_names_another_place(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_sweep(root, "one")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", sqlite_uri(root / "env" / "m.db"))
    assert main(["track", "sync", "one", "--experiment", "mine"]) == 0
    assert main(["track", "sync", "one", "--uri", sqlite_uri(root / "flag" / "m.db")]) == 0
    assert {name for name, _, _ in runs(root / "env" / "m.db")} == {"mine"}
    assert {name for name, _, _ in runs(root / "flag" / "m.db")} == {"of one"}
    assert not (root / "runs" / "mlflow.db").exists()


def test_a_cell_whose_stage_is_being_computed_stays_running(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_sweep(root, "one", "running")
    with exclusive(folder.parent / f".{folder.name}.lock", wait=False):
        assert main(["track", "sync"]) == 0
    assert "1 cell (1 live); sent 1 points" in capsys.readouterr().out
    assert {status for _, _, status in runs(root / "runs" / "mlflow.db")} == {"RUNNING"}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nosuch"], "sweep 'nosuch' has no cells"),
        (["one", "--uri", "./mlruns"], "migrate-filestore"),
        (["one", "--uri", "htp://me:pa55@host"], "--uri htp://me:***@host: no address that MLflow knows"),
    ],
)
def test_mistakes_are_refused_before_anything_is_sent(
    root: Path, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    make_sweep(root, "one")
    assert main(["track", "sync", *words]) == 2
    errors = capsys.readouterr().err
    assert said in errors
    assert "pa55" not in errors
    assert not (root / "runs" / "mlflow.db").exists()


def test_nothing_to_send_is_a_mistake(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["track", "sync"]) == 2
    assert "has no sweep yet" in capsys.readouterr().err


def test_a_server_that_is_away_is_told_in_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_sweep(root, "one")
    assert main(["track", "sync", "--uri", refused_uri().replace("http://", "http://me:pa55@")]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("one: MLflow at http://me:***@127.0.0.1:")
    assert len(errors.splitlines()) == 1
    assert "pa55" not in errors


def test_the_verb_needs_an_action() -> None:
    with pytest.raises(SystemExit) as end:
        main(["track"])
    assert end.value.code == 2
