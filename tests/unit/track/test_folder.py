"""Reading run folders while they are written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssvae.track.folder import StepTail, created_ms, final_metrics, last_step


def line(step: int, **values: object) -> str:
    return json.dumps({"step": step, **values}) + "\n"


def take(tail: StepTail) -> list[int | None]:
    """Steps of the unread lines, all of them committed."""
    steps = []
    for item in tail.unread():
        steps.append(item.step)
        tail.commit(item)
    return steps


def test_every_line_is_handed_out_once_as_the_file_grows(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    tail = StepTail(path)
    assert take(tail) == []
    path.write_text(line(1, a=1.0) + line(2, a=2.0))
    assert take(tail) == [1, 2]
    with path.open("a") as file:
        file.write(line(3, a=3.0))
    assert take(tail) == [3]
    assert take(tail) == []


def test_a_torn_last_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    text = line(1, a=1.0) + line(2, a=2.0)
    path.write_text(text[:-6])
    tail = StepTail(path)
    assert take(tail) == [1]
    path.write_text(text)
    assert take(tail) == [2]


def test_uncommitted_lines_come_again(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text(line(1) + line(2) + line(3))
    tail = StepTail(path)
    lines = list(tail.unread())
    tail.commit(lines[0])
    assert [item.step for item in tail.unread()] == [2, 3]


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_file_cut_back_is_read_from_the_start(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text("".join(line(i, a=0.5) for i in range(1, 4)))
    tail = StepTail(path)
    assert take(tail) == [1, 2, 3]
    path.write_text("".join(line(i, a=0.5) for i in range(1, kept + 1)))
    assert take(tail) == list(range(1, kept + 1))


def test_a_file_cut_back_and_grown_past_the_old_end_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text("".join(line(i, a=0.5) for i in range(1, 4)))
    tail = StepTail(path)
    assert take(tail) == [1, 2, 3]
    # Longer numbers shift every later byte: the old place lies inside a line now.
    path.write_text(line(1, a=0.5) + "".join(line(i, a=0.123456789) for i in range(2, 6)))
    assert take(tail) == [1, 2, 3, 4, 5]


def test_values_that_are_no_finite_numbers_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_text('{"step": 4, "a": 1, "b": NaN, "c": null, "d": Infinity, "e": "text", "f": [1]}\nnot json\n[1]\n')
    first, second, third = StepTail(path).unread()
    assert (first.step, first.values, first.skipped) == (4, {"a": 1.0}, 3)
    assert second.step is None
    assert third.step is None


def test_final_metrics_separate_what_has_no_value(tmp_path: Path) -> None:
    assert final_metrics(tmp_path) == ({}, [])
    rows = '[{"name": "psnr_db", "value": 30.5}, {"name": "fvd", "value": null}, {"name": "fdd", "value": NaN}]'
    (tmp_path / "metrics.json").write_text(rows)
    assert final_metrics(tmp_path) == ({"psnr_db": 30.5}, ["fvd", "fdd"])


def test_created_is_unknown_until_run_json_is_there(tmp_path: Path) -> None:
    assert created_ms(tmp_path) is None
    (tmp_path / "run.json").write_text('{"created_ms": 1700000000123}')
    assert created_ms(tmp_path) == 1_700_000_000_123


def test_the_last_step_is_that_of_the_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    assert last_step(path) is None
    path.write_text("")
    assert last_step(path) is None
    path.write_text(line(7, a=0.5) + "rubbish\n" + line(8)[:-3])
    assert last_step(path) == 7
    path.write_text("".join(line(step, text="x" * 100) for step in range(5000)))
    assert last_step(path) == 4999
