"""The scheduler with faked work: what it decides, that a death stays one cell's, and how two callers share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ssvae.config.compose import resolve
from ssvae.core.files import exclusive, read_json
from ssvae.core.progress import Silent
from ssvae.stages import execute as executing
from ssvae.stages.execute import Job
from ssvae.stages.plan import COMPUTED, cell_id, plan_cell
from ssvae.sweep import schedule
from ssvae.sweep.planned import PlannedCell, sweep_name
from ssvae.sweep.record import CellRecord
from ssvae.sweep.schedule import Scheduler, decide
from ssvae.sweep.tracking import Tracking
from tiny_runs import TINY

STAGES = ["base", "pretrain", "measure", "latents", "dit", "probe"]


class Grid:
    """Cells of a command line under ``root``, and a scheduler for them."""

    def __init__(self, root: Path, *overrides: str) -> None:
        self.root = root
        self.planned = []
        for cell in resolve((*TINY, *overrides)):
            plans = plan_cell(cell.cfg, root, lambda data: "content")
            self.planned.append(PlannedCell(cell, plans, cell_id(plans)))
        self.records = [CellRecord.open(root, "s", one) for one in self.planned]
        track = self.planned[0].cell.cfg.track
        tracking = Tracking.open(root, "s", track, "command", self.records)

        def no_source(data: object) -> None:
            raise AssertionError("the work is faked")

        self.scheduler = Scheduler(self.planned, self.records, tracking, no_source, root, Silent())  # type: ignore[arg-type]

    def decisions(self) -> list[dict[str, str]]:
        computed = [COMPUTED[one.cell.cfg.stage] for one in self.planned]
        return [dict(row) for row in decide([one.plans for one in self.planned], computed)]

    def states(self) -> list[tuple[str, str | None]]:
        """As they are on disk."""
        found = [read_json(record.path) for record in self.records]
        return [(record["status"], record["reason"]) for record in found]


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """Fake the work: note (stage, regulariser, channels)."""
    done: list[tuple[str, str, int]] = []
    monkeypatch.setattr(
        executing, "_run", lambda job: done.append((job.plan.name, job.cfg.reg.name, job.cfg.vae.channels))
    )
    return done


def break_where(monkeypatch: pytest.MonkeyPatch, broken: Callable[[Job], bool]) -> None:
    def run(job: Job) -> None:
        if broken(job):
            raise RuntimeError(f"{job.plan.name} broke")

    monkeypatch.setattr(executing, "_run", run)


def test_a_shared_base_is_computed_by_the_first_cell_only(tmp_path: Path, worked: list[tuple[str, str, int]]) -> None:
    grid = Grid(tmp_path, "reg=none,lcr", "channels=16,48")
    assert [row["base"] for row in grid.decisions()] == ["compute", "compute", "share", "share"]
    assert {row[name] for row in grid.decisions() for name in STAGES if name != "base"} == {"compute"}
    grid.scheduler.run()
    assert [(name, channels) for name, _, channels in worked if name == "base"] == [("base", 16), ("base", 48)]
    assert len(worked) == 2 + 4 * 5
    assert grid.states() == [("finished", None)] * 4


def test_the_second_call_reuses_all_and_says_so(tmp_path: Path, worked: list[tuple[str, str, int]]) -> None:
    Grid(tmp_path, "reg=none,lcr").scheduler.run()
    worked.clear()
    again = Grid(tmp_path, "reg=none,lcr")
    assert {decision for row in again.decisions() for decision in row.values()} == {"reuse"}
    again.scheduler.run()
    assert worked == []
    assert [record.reused for record in again.records] == [STAGES] * 2


def test_decisions_tell_resume_from_compute(tmp_path: Path) -> None:
    grid = Grid(tmp_path)
    (one,) = grid.planned
    one.plans["pretrain"].folder.mkdir(parents=True)
    (one.plans["pretrain"].folder / "checkpoint.pt").touch()
    assert grid.decisions() == [
        {
            "base": "compute",
            "pretrain": "resume",
            "measure": "compute",
            "latents": "compute",
            "dit": "compute",
            "probe": "compute",
        }
    ]


def test_a_base_that_is_gone_is_not_needed_once_its_child_is_finished(
    tmp_path: Path, worked: list[tuple[str, str, int]]
) -> None:
    grid = Grid(tmp_path)
    folder = grid.planned[0].plans["pretrain"].folder
    folder.mkdir(parents=True)
    (folder / "done.json").write_text('{"seconds": 1.0}')
    assert grid.decisions()[0]["base"] == "reuse"
    grid.scheduler.run()
    assert [name for name, _, _ in worked] == ["measure", "latents", "dit", "probe"]


def test_a_cell_that_dies_does_not_stop_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_where(monkeypatch, lambda job: job.plan.name == "pretrain" and job.cfg.reg.name == "lcr")
    grid = Grid(tmp_path, "reg=none,lcr,lmr")
    grid.scheduler.run()
    assert grid.states() == [
        ("finished", None),
        ("failed", "pretrain: RuntimeError: pretrain broke"),
        ("finished", None),
    ]
    error = (grid.planned[1].plans["pretrain"].folder / "error.txt").read_text()
    assert "Traceback" in error
    assert "pretrain broke" in error
    assert not grid.planned[1].plans["measure"].folder.exists()


def test_a_common_stage_that_dies_fails_its_cells_once_and_only_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []

    def broken(job: Job) -> bool:
        tried.append(job.plan.name)
        return job.plan.name == "base" and job.cfg.vae.channels == 16

    break_where(monkeypatch, broken)
    grid = Grid(tmp_path, "channels=16,48", "reg=none,lcr")
    grid.scheduler.run()
    assert [status for status, _ in grid.states()] == ["failed", "failed", "finished", "finished"]
    assert {reason for _, reason in grid.states()[:2]} == {"base: RuntimeError: base broke"}
    assert tried.count("base") == 2, "the broken base is not tried again by the next cell"


def test_a_failed_cell_is_tried_again_by_the_next_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_where(monkeypatch, lambda job: job.plan.name == "measure")
    Grid(tmp_path).scheduler.run()
    monkeypatch.setattr(executing, "_run", lambda job: None)
    again = Grid(tmp_path)
    assert again.decisions()[0] == {
        "base": "reuse", "pretrain": "reuse", "measure": "compute", "latents": "compute", "dit": "compute",
        "probe": "compute",
    }  # fmt: skip
    again.scheduler.run()
    assert again.states() == [("finished", None)]
    assert again.records[0].reused == ["base", "pretrain"]


def test_what_another_process_computes_is_left_to_it(
    tmp_path: Path, worked: list[tuple[str, str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first cell's base is locked elsewhere: the second cell runs meanwhile, then the first one comes back."""
    grid = Grid(tmp_path, "channels=16,48")
    held = exclusive(grid.planned[0].plans["base"].lock, wait=False)
    held.__enter__()
    waits: list[float] = []

    def release(seconds: float) -> None:
        assert [channels for _, _, channels in worked] == [48] * 6
        waits.append(seconds)
        folder = grid.planned[0].plans["base"].folder
        folder.mkdir(parents=True)
        (folder / "done.json").write_text('{"seconds": 1.0}')
        held.__exit__(None, None, None)

    monkeypatch.setattr(schedule.time, "sleep", release)
    grid.scheduler.run()
    assert len(waits) == 1
    assert grid.states() == [("finished", None)] * 2
    assert grid.records[0].reused == ["base"]
    assert [name for name, _, channels in worked if channels == 16] == [
        "pretrain",
        "measure",
        "latents",
        "dit",
        "probe",
    ]


def test_a_stopped_call_says_which_cells_it_did_not_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(job: Job) -> None:
        if job.cfg.reg.name == "lcr":
            raise KeyboardInterrupt

    monkeypatch.setattr(executing, "_run", interrupt)
    grid = Grid(tmp_path, "reg=none,lcr,lmr")
    with pytest.raises(KeyboardInterrupt):
        grid.scheduler.run()
    grid.scheduler.killed()
    assert grid.states() == [("finished", None), ("killed", "stopped by the user"), ("killed", "stopped by the user")]


def test_a_sweeps_name_follows_axes_and_cells_never_the_time(tmp_path: Path) -> None:
    def name(*overrides: str) -> str:
        return sweep_name(Grid(tmp_path, *overrides).planned)

    grid = name("reg=none,lcr", "channels=16,48")
    assert grid == name("reg=none,lcr", "channels=16,48")
    assert grid.startswith("reg2-channels2-")
    assert len({grid, name("reg=none,lmr", "channels=16,48"), name("reg=none"), name("reg=lcr")}) == 4
    assert name("sweep.name=mine", "reg=none,lcr") == "mine"
    assert name("runtime.workers=2", "reg=none,lcr", "channels=16,48") == grid


def test_a_record_holds_what_a_report_needs(tmp_path: Path, worked: list[tuple[str, str, int]]) -> None:
    grid = Grid(tmp_path, "reg=lcr", "channels=16,48", "seed=3")
    grid.scheduler.run()
    first = read_json(grid.records[0].path)
    assert first["fields"] == {"reg": "lcr", "channels": 16, "resolution": "32", "seed": 3, "weights": "pretrain raw"}
    assert first["label"] == "channels=16"
    assert list(first["stages"]) == STAGES
    assert all((tmp_path / folder).is_dir() for folder in first["stages"].values())
    assert grid.records[0].path.with_suffix(".yaml").exists()
