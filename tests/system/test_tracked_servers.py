"""Whole runs beside a tracker that is away: same numbers, same exit code, and everything there afterwards."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mlflow_server import refused_uri, silent_server
from ssvae.cli.main import main as verb
from tiny_runs import artefacts, environment, link_data, run_apart, run_here

pytestmark = pytest.mark.system
GRID = ("-m", "seed=0,1", "stage=pretrain")


def test_a_server_that_is_away_changes_no_number_and_is_filled_later(
    root: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    untracked = link_data(tiny_data, tmp_path_factory.mktemp("untracked"))
    done = run_apart(untracked, *GRID)
    assert done.returncode == 0, done.stderr[-2000:]
    with silent_server() as hanging:
        for uri in (hanging, refused_uri()):
            away = link_data(tiny_data, tmp_path_factory.mktemp("away"))
            # A process of its own: it has to end although a request still hangs.
            done = run_apart(away, *GRID, "track=mlflow", f"track.uri={uri}", "track.patience_s=0.5")
            assert done.returncode == 0, done.stderr[-2000:]
            assert "not complete in MLflow" in done.stdout
            assert artefacts(away) == artefacts(untracked)
    # A login node with a network: the folders have everything.
    monkeypatch.setenv("SSVAE_ROOT", str(away))
    database = away / "elsewhere" / "m.db"
    assert verb(["track", "sync", "--uri", f"sqlite:///{database}"]) == 0
    with closing(sqlite3.connect(database)) as connection:
        assert connection.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)] * 3
        steps = connection.execute("SELECT step FROM metrics WHERE key = 'pretrain/loss' ORDER BY step").fetchall()
    assert steps == [(step,) for step in range(1, 5) for _ in range(2)]


def test_a_failing_cell_fails_with_the_same_code_beside_a_hanging_server(root: Path) -> None:
    bad = ("stage=pretrain", "train.lr=1e30", "train.nonfinite_limit=0", "stages.base=null", "train.steps=12")
    with silent_server() as uri:
        assert run_here(*bad, "track=mlflow", f"track.uri={uri}", "track.patience_s=0.1") == 1


def test_a_password_reaches_no_file_and_no_output(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = refused_uri().replace("http://", "http://me:pa55word@")
    done = run_apart(root, "stage=pretrain", f"track.uri={uri}")
    assert done.returncode == 2
    assert "pa55word" not in done.stdout + done.stderr
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert "MLFLOW_TRACKING_URI" in environment(root)
    done = run_apart(root, "stage=pretrain", "track=mlflow", "track.patience_s=0.5")
    assert done.returncode == 0
    assert "me:***@" in done.stdout + done.stderr
    assert "pa55word" not in done.stdout + done.stderr
    for path in (root / "runs").rglob("*"):
        assert not path.is_file() or b"pa55word" not in path.read_bytes(), path


@pytest.mark.parametrize(("every_s", "samples"), [("1", True), ("null", False)])
def test_a_stage_leaves_samples_of_its_machine_as_often_as_the_config_says(
    root: Path, every_s: str, samples: bool
) -> None:
    assert run_here("stage=pretrain", "stages.base=null", f"track.system_every_s={every_s}") == 0
    files = list((root / "runs" / "stages").glob("*/system/rank_000.jsonl"))
    assert bool(files) == samples
    for file in files:
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        assert rows[0]["process_memory_usage_megabytes"] > 0
