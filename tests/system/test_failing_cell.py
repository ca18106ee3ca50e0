"""A cell that dies while running: the others finish, the table says why, the exit code is 1, a retry can mend it."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tiny_runs import plans_of, records, run_here

pytestmark = pytest.mark.system


def table(root: Path) -> list[dict[str, str]]:
    (path,) = root.glob("results/*/table.csv")
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_diverging_cell(root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_here("-m", "train.lr=0.001,1e30", "train.nonfinite_limit=0", "stage=pretrain") == 1
    good, bad = sorted(records(root), key=lambda record: record["status"] == "failed")
    assert (good["status"], good["reason"]) == ("finished", None)
    assert (bad["status"], bad["label"]) == ("failed", "train.lr=1e+30")
    assert "NonFiniteLoss" in bad["reason"]
    assert "train.nonfinite_limit is 0" in bad["reason"]
    states = {row["train.lr"]: (row["status"], "NonFiniteLoss" in row["reason"]) for row in table(root)}
    assert states == {"0.001": ("finished", False), "1e+30": ("failed", True)}
    shown = capfd.readouterr()
    assert "failed: train.lr=1e+30: pretrain: NonFiniteLoss" in shown.out
    assert "Traceback" not in shown.out + shown.err
    trace = next(root.glob("runs/stages/pretrain-*/error.txt")).read_text()
    assert "Traceback" in trace


def test_a_damaged_checkpoint_fails_its_cells_only_until_it_is_removed(root: Path) -> None:
    grid = ("-m", "channels=16,48", "stage=pretrain", "sweep.name=damaged")
    damaged = plans_of(root, "channels=48", "stage=pretrain")[0]["base"].folder
    damaged.mkdir(parents=True)
    (damaged / "checkpoint.pt").write_bytes(b"not a checkpoint")
    assert run_here(*grid) == 1
    states = {record["fields"]["channels"]: record for record in records(root)}
    assert states[16]["status"] == "finished"
    assert states[48]["status"] == "failed"
    assert "remove it" in states[48]["reason"]
    assert str(damaged) in states[48]["reason"]
    (damaged / "checkpoint.pt").unlink()
    assert run_here(*grid) == 0
    assert {record["status"] for record in records(root)} == {"finished"}
    assert {row["status"] for row in table(root)} == {"finished"}
    assert not (damaged / "error.txt").exists()
