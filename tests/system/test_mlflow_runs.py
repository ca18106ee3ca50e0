"""The dashboard tells the truth about real runs: nested, one run a cell for ever, right statuses, no point twice."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tiny_runs import command, environment, run_here

pytestmark = pytest.mark.system
TRACKED = ("track=mlflow", "track.every_s=0.05", "track.samples=1", "stage=pretrain")


def rows(root: Path, query: str, *values: object) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(root / "runs" / "mlflow.db")) as connection:
        return connection.execute(query, values).fetchall()


def cells(root: Path) -> dict[str, tuple[str, str, str]]:
    """name -> (run id, status, parent's run id) of the cells."""
    query = (
        "SELECT r.name, r.run_uuid, r.status, p.value FROM runs r "
        "JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'role' AND t.value = 'cell' "
        "JOIN tags p ON p.run_uuid = r.run_uuid AND p.key = 'mlflow.parentRunId'"
    )
    return {name: (run, status, parent) for name, run, status, parent in rows(root, query)}


def sweeps(root: Path) -> dict[str, str]:
    """run id -> status of the sweeps."""
    query = "SELECT r.run_uuid, r.status FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid WHERE t.value = 'sweep'"
    return dict(rows(root, query))


def test_a_killed_and_a_failing_cell_in_the_dashboard(root: Path) -> None:
    grid = ("-m", "train.lr=0.001,1e30", "train.nonfinite_limit=0", "train.steps=12", "stages.base.train.steps=12")
    process = subprocess.Popen(
        command(*grid, *TRACKED), env=environment(root), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    database = root / "runs" / "mlflow.db"
    deadline = time.monotonic() + 120
    points = "SELECT COUNT(*) FROM metrics WHERE key = 'base/loss'"
    while not (database.exists() and rows(root, points)[0][0] >= 3):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    ((name, (killed, status, _)),) = cells(root).items()
    assert "train.lr=0.001" in name
    assert status == "RUNNING", "a dead process cannot say that it is dead"

    assert run_here(*grid, *TRACKED) == 1
    ((sweep, sweep_status),) = sweeps(root).items()
    assert sweep_status == "FAILED"
    found = cells(root)
    assert {name.split("train.lr=")[1]: status for name, (_, status, _) in found.items()} == {
        "0.001": "FINISHED",
        "1e+30": "FAILED",
    }
    assert {parent for _, _, parent in found.values()} == {sweep}
    assert found[name][0] == killed, "the resumed cell goes on in its own run"
    reasons = rows(root, "SELECT run_uuid FROM tags WHERE key = 'reason' AND value LIKE '%NonFiniteLoss%'")
    assert {run for (run,) in reasons} == {run for run, status, _ in found.values() if status == "FAILED"}

    twice = "SELECT run_uuid, key, step, COUNT(*) FROM metrics GROUP BY run_uuid, key, step HAVING COUNT(*) > 1"
    assert rows(root, twice) == []
    steps = rows(root, "SELECT step FROM metrics WHERE key = 'base/loss' AND run_uuid = ? ORDER BY step", killed)
    assert [step for (step,) in steps] == list(range(1, 13))

    # A third call finds everything of the good cell and adds nothing.
    count = "SELECT COUNT(*) FROM metrics WHERE run_uuid = ?"
    before = rows(root, count, killed)
    assert run_here(*grid, *TRACKED) == 1
    assert rows(root, count, killed) == before
    assert cells(root) == found
    assert sweeps(root) == {sweep: "FAILED"}
