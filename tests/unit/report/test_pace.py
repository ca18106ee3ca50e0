"""How far a stage is, in numbers and words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssvae.core.heartbeat import FILE, Heartbeat
from ssvae.core.progress import Silent
from ssvae.report.pace import Pace, last_sign_ms, last_step, number, position, read_pace, span


def test_the_last_step_is_the_last_whole_one_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    assert last_step(path) is None
    path.write_text('{"st')
    assert last_step(path) is None
    path.write_text("".join(f'{{"step": {i}, "loss": {i / 7}}}\n' for i in range(5000)) + '{"step": 5000, "lo')
    assert path.stat().st_size > 1 << 16
    assert last_step(path) == 4999


def test_what_the_heartbeat_writes_is_what_is_read(tmp_path: Path) -> None:
    clock = iter([0.0, 10.0])
    beating = Heartbeat(Silent(), tmp_path / FILE, clock=lambda: next(clock))
    beating.start("train VAE", 100, 20)
    first = read_pace(tmp_path)
    assert first is not None and (first.done, first.total, first.rate, first.left_s) == (20, 100, None, None)
    assert first.text() == "step 20 of 100"
    beating.advance(60)
    second = read_pace(tmp_path)
    assert second is not None and (second.done, second.rate, second.left_s) == (60, 4.0, 10.0)
    assert second.text() == position(tmp_path) == "step 60 of 100, 4 steps/s, 10 s left in this stage"
    assert last_sign_ms(tmp_path) == second.time_ms


def test_other_work_has_its_name_and_its_own_end() -> None:
    pace = Pace("latent statistics", 8, 32, 0.0125, 0)
    assert pace.text() == "latent statistics 8 of 32, 0.0125/s, 32 min left in this part"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"what": "x"}', '{"what": "x", "done": "a", "total": 1, "rate": 1}'])
def test_an_unreadable_heartbeat_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(text)
    assert read_pace(tmp_path) is None
    (tmp_path / "steps.jsonl").write_text(json.dumps({"step": 3}) + "\n")
    assert position(tmp_path) == "step 3"


def test_nothing_is_not_started(tmp_path: Path) -> None:
    assert position(tmp_path / "x") == "not started" and last_sign_ms(tmp_path / "x") is None
    assert position(tmp_path) == "no step yet"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (90, "2 min"), (7200, "2.0 h"), (86400 * 3, "3.0 days")]
)
def test_spans(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_numbers_keep_three_digits() -> None:
    assert [number(value) for value in (1234.5, 12.345, 0.012345)] == ["1234", "12.3", "0.0123"]
