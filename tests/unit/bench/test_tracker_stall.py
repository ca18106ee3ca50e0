"""The cost of tracking: arithmetic with rows that are only pretended, and how a failure is told."""

from __future__ import annotations

import json

import pytest

from ssvae.bench import run as bench_run
from ssvae.bench import tracker_stall
from ssvae.bench.tracker_stall import StallError, StallFigure, measure_stall, run_process
from ssvae.core.progress import Silent


def kind(wall: float, cpu: float, inside: float = 0.0) -> dict[str, float]:
    return {"wall_s": wall, "cpu_s": cpu, "inside_wall_s": inside, "inside_cpu_s": inside / 2, "calls": 4}


ROWS = [
    {"off": kind(1.0, 0.5), "hanging": kind(1.1, 0.5, 0.002), "naive": kind(4.4, 2.0)},
    {"off": kind(2.0, 1.0), "hanging": kind(2.0, 1.0, 0.002), "naive": kind(6.0, 3.0)},
    {"off": kind(1.0, 0.5), "hanging": kind(0.9, 0.5, 0.002), "naive": kind(2.7, 1.5)},
]


def test_shares_and_ratios() -> None:
    row = StallFigure(ROWS, 100).to_json()
    assert row["share_of_thread"]["inside_calls_wall"] == pytest.approx(0.006 / 4.0)
    assert row["share_of_thread"]["inside_calls_cpu"] == pytest.approx(0.003 / 2.0)
    assert row["tracked_over_untracked"] == {"thread_cpu": 1.0, "wall": 1.0}
    assert row["naive_over_untracked"] == {"thread_cpu": 3.0, "wall": 3.0}
    assert (row["ratio_min"], row["ratio"], row["ratio_max"]) == pytest.approx((3.0, 3.0, 4.0))
    assert row["median"] == pytest.approx(0.011)
    assert row["reference"]["median"] == pytest.approx(0.044)
    assert row["within_limit"]


@pytest.mark.parametrize("inside", [0.03, 0.3])
def test_a_tracker_that_holds_the_thread_is_above_the_limit(inside: float) -> None:
    rows = [{**row, "hanging": kind(1.0, 1.0, inside)} for row in ROWS]
    assert not StallFigure(rows, 100).to_json()["within_limit"]


def test_the_figure_is_part_of_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_stall, "measure_stall", lambda: StallFigure(ROWS, 100))
    (row,) = bench_run.run_bench(["tracking"], 0.0, Silent())["figures"]
    assert row["name"] == "tracking_stall"
    assert json.loads(json.dumps(row, allow_nan=False)) == row
    assert {"name", "what", "unit", "median", "reference", "ratio", "pairs", "equal"} <= row.keys()


def test_what_the_process_says_is_read_from_its_last_line() -> None:
    asked: list[tuple[int, int]] = []

    def run(repeats: int, steps: int) -> str:
        asked.append((repeats, steps))
        return f"a warning\n{json.dumps({'rows': ROWS})}\n"

    assert measure_stall(run, 3, 7) == StallFigure(ROWS, 7)
    assert asked == [(3, 7)]


def test_a_process_that_fails_is_told_with_its_last_words() -> None:
    with pytest.raises(StallError, match="invalid literal"):
        run_process("many", 1)  # type: ignore[arg-type]  # the process is to fail
