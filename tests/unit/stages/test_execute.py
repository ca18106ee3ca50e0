"""One stage, once, whoever asks: lock, provenance, attempts, and what a death at any place leaves behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ssvae.config.compose import resolve
from ssvae.core.files import Busy, exclusive, read_json
from ssvae.core.heartbeat import FILE
from ssvae.core.progress import Progress, Silent
from ssvae.core.stop import Interrupted, Stop
from ssvae.stages import execute as executing
from ssvae.stages.execute import Job, execute
from ssvae.stages.plan import plan_cell
from tiny_runs import TINY

Work = Callable[[Job], None]


def make_job(root: Path, name: str = "pretrain", *overrides: str) -> Job:
    (cell,) = resolve((*TINY, *overrides))
    plans = plan_cell(cell.cfg, root, lambda data: "content")

    def no_source(data: object) -> None:
        raise AssertionError("the work is faked")

    return Job(cell.cfg, plans[name], plans, no_source, root, Silent())  # type: ignore[arg-type]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """Replace the work by a note of it."""
    made: list[Job] = []
    monkeypatch.setattr(executing, "_run", made.append)
    return made


def fail(job: Job) -> None:
    (job.plan.folder / "checkpoint.pt").write_text("state")
    (job.plan.folder / ".model.safetensors.1.tmp").write_text("half")
    raise RuntimeError("the work broke")


def test_a_stage_is_computed_once_and_then_reused(tmp_path: Path, calls: list[Job]) -> None:
    job = make_job(tmp_path)
    assert [execute(job, wait=False) for _ in range(3)] == ["computed", "reused", "reused"]
    assert calls == [job]
    record = read_json(job.plan.folder / "run.json")
    assert (record["stage"], record["id"], record["attempts"], record["seed"]) == ("pretrain", job.plan.id, 1, 0)
    assert record["parents"] == {"base": job.plans["base"].id}
    assert set(record) >= {"commit", "dirty", "versions", "machine", "created_ms"}
    assert yaml.safe_load((job.plan.folder / "config.yaml").read_text()) == dict(job.plan.science)
    assert read_json(job.plan.folder / "done.json")["id"] == job.plan.id


def test_an_error_leaves_the_checkpoint_and_the_next_call_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path)
    monkeypatch.setattr(executing, "_run", fail)
    with pytest.raises(RuntimeError, match="the work broke"):
        execute(job, wait=False)
    assert not job.plan.finished
    assert job.plan.started
    spent = read_json(job.plan.folder / "spent.json")["seconds"]
    found: list[list[str]] = []
    monkeypatch.setattr(
        executing, "_run", lambda job: found.append(sorted(path.name for path in job.plan.folder.iterdir()))
    )
    assert execute(job, wait=False) == "resumed"
    assert found == [["checkpoint.pt", "config.yaml", "run.json", "spent.json"]], "leftovers go, the state stays"
    assert read_json(job.plan.folder / "run.json")["attempts"] == 2
    assert read_json(job.plan.folder / "done.json")["seconds"] >= spent
    assert not job.plan.started, "a finished stage keeps no checkpoint"


def test_a_death_before_the_checkpoint_is_dropped_costs_nothing(
    tmp_path: Path, calls: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path)

    def die(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(executing, "drop_checkpoint", die)
    with pytest.raises(KeyboardInterrupt):
        execute(job, wait=False)
    assert execute(job, wait=False) == "reused"
    assert len(calls) == 1


def test_a_stage_in_another_hand_is_busy_and_its_folder_is_not_touched(tmp_path: Path, calls: list[Job]) -> None:
    job = make_job(tmp_path)
    with exclusive(job.plan.lock, wait=False), pytest.raises(Busy):
        execute(job, wait=False)
    assert calls == []
    assert not job.plan.folder.exists()


def test_who_waited_for_the_lock_finds_the_work_done(
    tmp_path: Path, calls: list[Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first look and the lock another process finished the stage."""
    job = make_job(tmp_path)
    real = executing.exclusive

    def finished_meanwhile(path: Path, *, wait: bool) -> object:
        job.plan.folder.mkdir(parents=True)
        (job.plan.folder / "done.json").write_text("{}")
        return real(path, wait=wait)

    monkeypatch.setattr(executing, "exclusive", finished_meanwhile)
    assert execute(job, wait=True) == "reused"
    assert calls == []


def test_a_retry_that_works_takes_the_error_note_away(tmp_path: Path, calls: list[Job]) -> None:
    job = make_job(tmp_path)
    job.plan.folder.mkdir(parents=True)
    (job.plan.folder / "error.txt").write_text("trace")
    execute(job, wait=False)
    assert not (job.plan.folder / "error.txt").exists()


@pytest.mark.parametrize("name", ["base", "pretrain", "decoder_finetune", "measure", "latents", "dit", "probe"])
def test_every_stage_is_handed_its_own_values(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
    for module in ("pretrain", "decoder_finetune", "measure", "latents", "dit", "probe"):
        monkeypatch.setattr(
            getattr(executing, module),
            "run",
            lambda *values, module=module, **named: given.update({module: (values, named)}),
        )
    job = make_job(tmp_path, name, "exp=cpu_finetune")
    execute(job, wait=False)
    ((module, (values, named)),) = given.items()
    assert module == ("pretrain" if name == "base" else name)
    stages = job.cfg.stages
    folders = {other: plan.folder for other, plan in job.plans.items()}
    if name in ("base", "pretrain", "decoder_finetune"):
        training = values[0]
        assert training.stage is getattr(stages, name)
        assert (training.folder, training.seed) == (job.plan.folder, job.cfg.seed)
        start = {"base": None, "pretrain": folders["base"], "decoder_finetune": folders["pretrain"]}[name]
        assert values[-1] == start
        return
    assert named["stage"] is (stages.measure if name == "measure" else stages.probe)
    assert named["folder"] == job.plan.folder
    # The decoder that is measured is the fine-tuned one; the encoder is the first stage's.
    if name != "dit":
        assert named["vae"] == folders["pretrain" if name == "latents" else "decoder_finetune"] / "vae"
    if name in ("dit", "probe"):
        assert named["latents"] == folders["latents"]
    if name == "probe":
        assert named["trained"] == folders["dit"]


def stage_that_tells(monkeypatch: pytest.MonkeyPatch, name: str, work: Callable[[Progress], None]) -> None:
    """Replace the work of a stage by ``work`` with the progress that the stage is given."""

    def run(*given: Any, **named: Any) -> None:
        work(named["progress"] if "progress" in named else given[0].progress)

    monkeypatch.setattr(getattr(executing, name), "run", run)


@pytest.mark.parametrize("name", ["pretrain", "measure", "latents", "dit", "probe"])
def test_a_running_stage_gives_a_sign_of_life_and_a_finished_one_none(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, seen = make_job(tmp_path, name), []

    def work(progress: Progress) -> None:
        progress.start("the work", 7, 2)
        seen.append(read_json(job.plan.folder / FILE))

    stage_that_tells(monkeypatch, name, work)
    execute(job, wait=False)
    assert [(one["what"], one["done"], one["total"], one["rate"]) for one in seen] == [("the work", 2, 7, None)]
    assert not (job.plan.folder / FILE).exists()


@pytest.mark.parametrize("name", ["measure", "latents", "probe"])
def test_a_pass_stops_at_its_next_sign_of_life_and_is_no_error(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, reached = Stop(), []
    job = replace(make_job(tmp_path, name), stop=stop)

    def work(progress: Progress) -> None:
        progress.start("the work", 7)
        for done in range(1, 8):
            if done == 3:
                stop.ask("signal SIGTERM")
            reached.append(done)
            progress.advance(done)

    stage_that_tells(monkeypatch, name, work)
    with pytest.raises(Interrupted, match="signal SIGTERM"):
        execute(job, wait=False)
    assert reached == [1, 2, 3]
    left = {path.name for path in job.plan.folder.iterdir()}
    assert left == {"config.yaml", "run.json", "spent.json", FILE}
    assert execute(replace(job, stop=Stop()), wait=False) == "computed"
    assert not (job.plan.folder / FILE).exists()


@pytest.mark.parametrize("name", ["pretrain", "dit"])
def test_a_training_is_left_to_its_step_boundaries(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped by a sign of life it would lose the update that it has just made."""
    stop = Stop()

    def work(progress: Progress) -> None:
        progress.start("train", 7)
        stop.ask("signal SIGTERM")
        progress.advance(1)

    stage_that_tells(monkeypatch, name, work)
    assert execute(replace(make_job(tmp_path, name), stop=stop), wait=False) == "computed"


def test_who_was_asked_to_stop_begins_nothing_and_waits_for_nobody(tmp_path: Path, calls: list[Job]) -> None:
    stop = Stop()
    stop.ask("signal SIGUSR2")
    job = replace(make_job(tmp_path), stop=stop)
    with pytest.raises(Interrupted, match="SIGUSR2"):
        execute(job, wait=True)
    with exclusive(job.plan.lock, wait=False), pytest.raises(Interrupted):
        execute(job, wait=True)
    assert calls == [] and not job.plan.folder.exists()
    execute(replace(job, stop=Stop()), wait=True)
    assert execute(job, wait=True) == "reused", "what is there costs nothing"
