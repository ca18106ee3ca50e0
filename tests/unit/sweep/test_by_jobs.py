"""A sweep of jobs is followed until nothing goes on, or until one leaves; and what its call says and returns."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from job_grids import planned
from rich.console import Console
from submitit.core.utils import FailedJobError

from job_folders import FAILED, STARTED, make_job
from ssvae.core.alive import this_process
from ssvae.core.jobs import append_event, job_folder, read_job
from ssvae.core.stop import Stop
from ssvae.report.cell_state import CellState
from ssvae.sweep import by_jobs, run_jobs
from ssvae.sweep.by_jobs import Submitted, follow
from ssvae.sweep.launcher import Launcher, choose_launcher
from ssvae.sweep.publish import SweepRecord
from ssvae.sweep.record import CellRecord
from tiny_runs import records


class Sweep:
    """One cell of the sweep ``grid`` whose only job is at work."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (self.cell,) = planned(root, "stage=pretrain", "stages.base=null", "launch.parallel=2", "track=none")
        self.record = CellRecord.open(root, "grid", self.cell)
        self.record.save()
        SweepRecord("python run.py", {}, [self.cell.cell_id]).save(root, "grid")
        self.launcher = choose_launcher(self.cell.cell.cfg.launch)
        self.plan = self.cell.plans["pretrain"]
        where = {"pretrain": str(self.plan.folder.relative_to(root))}
        events = [("submitted", this_process()), (STARTED[0], {**STARTED[1], **this_process()})]
        self.home = make_job(root, "pretrain-1", where, events, launcher="local", cells=[self.cell.cell_id])
        self.screen = io.StringIO()
        self.console = Console(file=self.screen, width=160)

    def follow(self, seen: Any = lambda rows: None, stop: Stop | None = None) -> list[CellState] | None:
        return follow(self.root, "grid", [self.record], self.console, seen, stop or Stop())

    def run(self, launcher: Launcher | None = None) -> int:
        return run_jobs.run_jobs(
            self.root, "grid", [self.cell], [self.record], launcher or self.launcher, "python run.py", self.console,
            Stop(),
        )  # fmt: skip

    def end(self, how: tuple[str, dict[str, Any]] = FAILED) -> None:
        append_event(self.home, how[0], **how[1])

    @property
    def said(self) -> str:
        return self.screen.getvalue()


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sweep:
    monkeypatch.setattr(by_jobs, "LOOK_S", 0.0)
    one = Sweep(tmp_path)
    monkeypatch.setattr(run_jobs, "submit", lambda *given: Submitted(["pretrain-1"], [], [], []))
    return one


def test_it_is_followed_until_nothing_goes_on(sweep: Sweep) -> None:
    looks: list[str] = []

    def seen(rows: Sequence[CellState]) -> None:
        looks.append(rows[0].status)
        if len(looks) == 3:
            sweep.end()

    rows = sweep.follow(seen)
    assert rows is not None and looks == ["running"] * 3 + ["failed"]
    assert sweep.record.status == "failed" and str(sweep.record.reason).endswith("ValueError: no clips")
    # Without a terminal: what has changed, and nothing twice.
    assert sweep.said.count("1 cells: 1 running") == 1 and sweep.said.count("1 cells: 1 failed") == 1


def test_one_leaves_on_request_and_by_ctrl_c(sweep: Sweep) -> None:
    stop = Stop()
    stop.ask("signal SIGTERM")
    assert sweep.follow(stop=stop) is None

    def ctrl_c(rows: Sequence[CellState]) -> None:
        raise KeyboardInterrupt

    assert sweep.follow(ctrl_c) is None
    assert records(sweep.root)[0]["status"] == "waiting", "who leaves judges nothing"


def test_a_failed_cell_is_a_failed_call_with_the_end_of_its_log(sweep: Sweep) -> None:
    log = sweep.home / "log" / "rank_0_log.err"
    log.parent.mkdir()
    log.write_text("one\n[/__w/pytorch/pair.cc:537] connection closed\n")
    sweep.end(("ended", {"how": "failed", "reason": "RuntimeError: [/__w/pytorch/pair.cc:537]", "next": "none"}))
    assert sweep.run() == 1
    # Reasons quote others; "[/...]" is no markup of ours.
    assert "1 job submitted on this machine, 2 at once" in sweep.said
    assert "  [/__w/pytorch/pair.cc:537] connection closed" in sweep.said
    assert "failed: " in sweep.said.splitlines()[-1] and "[/__w/pytorch/pair.cc:537]" in sweep.said.splitlines()[-1]


def test_a_detached_call_returns_at_once(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    (cell,) = planned(sweep.root, "stage=pretrain", "stages.base=null", "launch.detach=true", "track=none")
    monkeypatch.setattr(run_jobs, "follow", lambda *given: pytest.fail("it waits"))
    assert sweep.run(choose_launcher(cell.cell.cfg.launch)) == 0
    assert "python -m ssvae status grid" in sweep.said and "python -m ssvae collect grid" in sweep.said


def test_who_leaves_is_told_how_to_come_back(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_jobs, "follow", lambda *given: None)
    assert sweep.run() == 130
    assert "detached: jobs go on" in sweep.said and "python -m ssvae cancel grid" in sweep.said


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (ValueError("Slurm cannot be asked"), 2, "nothing was submitted:"),
        (FailedJobError("sbatch: error: invalid partition"), 1, "not all was submitted"),
        (KeyboardInterrupt(), 130, "the same command submits the rest"),
    ],
)
def test_a_submission_that_fails_says_what_became_of_it(
    sweep: Sweep,
    error: BaseException,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*given: object) -> Submitted:
        raise error

    monkeypatch.setattr(run_jobs, "submit", refuse)
    assert sweep.run() == code
    assert words in sweep.said + capsys.readouterr().err


def test_a_local_submission_goes_to_a_supervisor_also_when_another_sweeps_has_all_of_it(
    sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other supervisor lets go of has to have somebody who takes it over."""
    started: list[str] = []
    monkeypatch.setattr(by_jobs, "start_supervisor", lambda root, name, code, parallel: started.append(name))
    monkeypatch.setattr("ssvae.sweep.live_jobs.at_work", lambda root, name: name == "grid")
    where = {"pretrain": str(sweep.plan.folder.relative_to(sweep.root))}
    make_job(sweep.root, "pretrain-1", where, launcher="local", cells=[sweep.cell.cell_id])
    CellRecord.open(sweep.root, "second", sweep.cell)
    done = by_jobs.submit(sweep.root, "second", [sweep.cell], sweep.launcher)
    assert (done.new, done.waiting, started) == ([], ["pretrain-1"], ["second"])
    assert read_job(job_folder(sweep.root, "pretrain-1")).sweeps == ["grid", "second"]
    # One whose supervisor is gone is nobody's.
    monkeypatch.setattr("ssvae.sweep.live_jobs.at_work", lambda root, name: False)
    done = by_jobs.submit(sweep.root, "second", [sweep.cell], sweep.launcher)
    assert len(done.new) == 1 and done.waiting == []
