"""What a run folder tells of the process that is at work in it, told apart from the one before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssvae.core.files import StepsLog
from ssvae.drill.ledger import Ledger
from ssvae.drill.plan import Kill
from ssvae.drill.watch import Watch
from ssvae.train.state import save_checkpoint

SECONDS = {"base": 1.0, "measure": 0.0}


def begin(folder: Path, attempt: int) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "run.json").write_text(json.dumps({"attempts": attempt}))


def train(folder: Path, attempt: int, done: int, until: int) -> None:
    """What a process leaves that goes on behind step ``done`` and is killed behind step ``until``."""
    begin(folder, attempt)
    log = StepsLog(folder / "steps.jsonl", done)
    for step in range(done + 1, until + 1):
        log.write(step, {"loss": 1.0})
    log.close()


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    return Watch({"base": tmp_path / "base-1", "measure": tmp_path / "measure-2"}, SECONDS)


def test_a_step_counts_once_the_current_process_has_made_it(watch: Watch) -> None:
    kill, folder = Kill("KILL", "base", 5), watch.folders["base"]
    assert not watch.reached(kill)
    train(folder, 1, 0, 4)
    assert not watch.reached(kill)
    train(folder, 1, 4, 7)
    assert watch.reached(kill)
    watch.next_process()
    assert not watch.reached(kill), "seven lines are there, but of the process before"
    begin(folder, 2)
    assert not watch.reached(kill), "the stage was begun, its log is still the old one"
    train(folder, 2, 4, 4)
    assert not watch.reached(kill)
    assert watch.resumed == {"base": 4}
    train(folder, 2, 4, 5)
    assert watch.reached(kill)
    assert watch.resumed == {"base": 4}, "where it was first seen"


def test_a_stage_without_steps_counts_from_its_beginning(watch: Watch) -> None:
    kill = Kill("TERM", "measure", None, 0.5)
    assert not watch.reached(kill)
    begin(watch.folders["measure"], 1)
    assert watch.reached(kill)
    watch.next_process()
    assert not watch.reached(kill)
    begin(watch.folders["measure"], 2)
    assert watch.reached(kill)


def test_what_runs_and_what_nobody_has_begun(watch: Watch) -> None:
    assert (watch.running(), watch.untouched()) == (None, ["base", "measure"])
    begin(watch.folders["base"], 1)
    assert (watch.running(), watch.untouched()) == ("base", ["measure"])
    (watch.folders["base"] / "done.json").touch()
    assert (watch.running(), watch.finished("base")) == (None, True)


def test_the_ledger_notes_what_a_kill_cost_and_where_the_next_process_went_on(watch: Watch) -> None:
    said: list[str] = []
    kills = [Kill("KILL", "base", 6), Kill("TERM", "measure", None, 0.1)]
    ledger = Ledger(kills, {"base": 10, "measure": None}, 0, said.append)
    folder = watch.folders["base"]
    train(folder, 1, 0, 6)
    save_checkpoint(folder, 4, {})
    ledger.hit(kills[0], "SIGKILL", False, watch)
    watch.next_process()
    train(folder, 2, 4, 4)
    watch.update()
    ledger.resumed(watch)
    (hit,) = ledger.hits
    assert (hit.stage, hit.logged, hit.saved, hit.lost, hit.resumed) == ("base", 6, 4, 2, 4)
    assert said == ["KILL (base 6): ended (SIGKILL) in base behind step 6, saved 4, lost 2"]
    (folder / "done.json").touch()
    begin(watch.folders["measure"], 1)
    ledger.hit(kills[1], "exit code 130", True, watch)
    assert (ledger.hits[1].stage, ledger.hits[1].logged, ledger.hits[1].lost) == ("measure", None, 0)
    assert ledger.pending == []


def test_a_kill_that_came_too_late_goes_elsewhere_as_long_as_something_is_left() -> None:
    said: list[str] = []
    first, second = Kill("KILL", "base", 3), Kill("TERM", "dit", 4)
    ledger = Ledger([first, second], {"base": 4, "measure": None, "dit": 8}, 0, said.append)
    ledger.missed(first, ["measure", "dit"])
    assert [kill.signal for kill in ledger.pending if kill.stage == "dit"] in (["KILL", "TERM"], ["TERM", "KILL"])
    assert ledger.next_for(["dit"]) == min(ledger.pending, key=lambda kill: kill.step or 0)
    ledger.missed(second, [])
    assert [kill.signal for kill in ledger.pending] == ["KILL"]
    assert said[1] == "TERM (dit 4): came too late; nowhere is left for it"
