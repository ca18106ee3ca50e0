"""The live table: what its columns say, and what it leaves out where there is no room."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from ssvae.report.cell_state import CellState
from ssvae.report.status_table import advice, live_table


def shown(rows: list[CellState], width: int = 160, most: int | None = None) -> list[str]:
    console = Console(file=StringIO(), width=width, highlight=False)
    console.print(live_table(rows, "sweep grid", most))
    assert isinstance(console.file, StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]


RUNNING = CellState(
    "1", "reg=a channels=48", "running", "pretrain, step 120 of 1000, 2.5 steps/s, ...; dit, step 3, stage 5 of 6", 0.0,
    active=True, stage="pretrain", done=120, total=1000, rate=2.5, left_s=352.0, requeues=2, label="reg=a",
)  # fmt: skip
WAITING = CellState(
    "2", "reg=b", "waiting", "pretrain: waits for free resources (Resources)", 0.0, True, stage="pretrain"
)
FAILED = CellState(
    "3", "reg=[x]", "failed", "pretrain: ValueError: two\nlines", 9.0, reason="two\nlines", log="/a/log.err"
)
DONE = CellState("4", "reg=d", "finished", "reused pretrain", 9.0)


def test_numbers_have_columns_and_reasons_the_rest() -> None:
    lines = shown([RUNNING, WAITING, FAILED, DONE])
    assert lines[0] == "sweep grid"
    assert lines[1].split() == ["cell", "status", "stage", "step", "rate", "left", "in", "stage"]
    first, second, third, last = lines[3:7]
    assert first.split()[:6] == ["reg=a", "running", "pretrain", "120/1000", "2.5/s", "6"]
    assert first.endswith("requeued 2x, dit, step 3, stage 5 of 6"), "what other columns say is not said again"
    assert second.endswith("pretrain: waits for free resources (Resources)")
    assert "reg=[x]" in third and third.endswith("pretrain: ValueError: two lines"), "no markup, one line"
    assert last.endswith("reused pretrain")
    assert lines[7] == "4 cells: 1 failed, 1 finished, 1 running, 1 waiting"


def test_a_small_screen_shows_what_counts() -> None:
    lines = shown([DONE, WAITING, RUNNING, DONE, FAILED], most=2)
    assert [line.split()[0] for line in lines[3:5]] == ["reg=a", "reg=[x]"], "in the order of the cells"
    assert lines[5] == "5 cells: 1 failed, 2 finished, 1 running, 1 waiting; 3 of them are not shown"
    assert len(shown([DONE, WAITING], most=2)) == 6
    assert any("reg=[x]" in line for line in shown([DONE, FAILED], width=60, most=0))


def test_advice_names_logs_and_the_command() -> None:
    assert advice([RUNNING, WAITING, DONE], "python run.py") == []
    assert advice([FAILED, DONE], "python run.py -m reg=a") == [
        "reg=[x]: log: /a/log.err",
        "go on with: python run.py -m reg=a; what is finished or still runs is kept",
    ]
