"""A process is killed where the plan says, and started again; a program of a few lines stands in for a run."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from ssvae.drill.compare import prove_polite
from ssvae.drill.ledger import DrillError, Ledger
from ssvae.drill.local import disturb_process, run_to_end
from ssvae.drill.plan import Kill
from ssvae.drill.watch import Watch, attempts

# Trains 60 steps of 5 ms, saves every 10 of them and, unless it is rude, on SIGTERM; "anew": never goes on from there.
PROGRAM = """
import json, signal, sys, time
from pathlib import Path
from ssvae.core.files import StepsLog, write_json
from ssvae.train.state import load_checkpoint, save_checkpoint
asked = []
signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
folder = Path(sys.argv[1]); folder.mkdir(exist_ok=True)
record = folder / "run.json"
attempts = json.loads(record.read_text())["attempts"] + 1 if record.exists() else 1
write_json(record, {"attempts": attempts})
done = (load_checkpoint(folder) or {"step": 0})["step"] if sys.argv[2] != "anew" else 0
log = StepsLog(folder / "steps.jsonl", done)
for step in range(done + 1, 61):
    if asked:
        if sys.argv[2] != "rude":
            save_checkpoint(folder, step - 1, {})
        sys.exit(130)
    time.sleep(0.005)
    log.write(step, {"loss": 1 / step})
    if step % 10 == 0:
        save_checkpoint(folder, step, {})
(folder / "done.json").touch()
"""


def disturb(place: Path, manner: str, *kills: Kill) -> Ledger:
    ledger = Ledger(kills, {"base": 60}, 0, print)
    watch = Watch({"base": place / "base"}, {"base": 0.5})
    command = [sys.executable, "-c", PROGRAM, str(place / "base"), manner]
    disturb_process(command, os.environ, place / "log", watch, ledger)
    return ledger


def test_killed_twice_and_started_three_times(tmp_path: Path) -> None:
    ledger = disturb(tmp_path, "polite", Kill("TERM", "base", 13), Kill("KILL", "base", 37))
    polite, hard = ledger.hits
    assert (polite.itself, polite.how, polite.lost) == (True, "exit code 130", 0)
    assert polite.logged is not None and 13 <= polite.logged < 37
    assert polite.resumed is not None and polite.saved == polite.logged <= polite.resumed
    assert (hard.itself, hard.how) == (False, "SIGKILL")
    assert hard.logged is not None and hard.logged >= 37
    assert 0 <= hard.lost <= 10
    assert attempts(tmp_path / "base") == 3
    assert (tmp_path / "base" / "steps.jsonl").read_text().count("\n") == 60


def test_a_process_that_saves_nothing_when_asked_is_found_out(tmp_path: Path) -> None:
    ledger = disturb(tmp_path, "rude", Kill("TERM", "base", 15))
    assert ledger.hits[0].saved == 10
    assert ledger.hits[0].lost >= 5
    assert "saved 10, lost" in prove_polite(ledger.hits).text


def test_a_process_that_begins_anew_is_found_out(tmp_path: Path) -> None:
    """Its numbers are the right ones, and its work was lost."""
    ledger = disturb(tmp_path, "anew", Kill("TERM", "base", 35))
    assert ledger.hits[0].lost == 0
    assert "yet resumed behind step" in prove_polite(ledger.hits).text


def test_a_kill_behind_the_end_is_no_hit(tmp_path: Path) -> None:
    ledger = disturb(tmp_path, "polite", Kill("KILL", "base", 61))
    assert ledger.hits == []
    assert [kill.step for kill in ledger.late] == [61]


def test_a_command_that_fails_by_itself_ends_the_drill_with_its_words(tmp_path: Path) -> None:
    watch = Watch({"base": tmp_path / "base"}, {"base": 0.5})
    ledger = Ledger([Kill("KILL", "base", 3)], {"base": 60}, 0, print)
    command = [sys.executable, "-c", "import sys; sys.exit('no disk')"]
    with pytest.raises(DrillError, match=r"exit code 1; .*log:\n  no disk"):
        disturb_process(command, os.environ, tmp_path / "log", watch, ledger)
    with pytest.raises(DrillError, match="no disk"):
        run_to_end(command, os.environ, tmp_path / "log")
