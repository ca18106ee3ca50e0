"""The local scheduler, with processes that only claim to run: who is started when, and that every end is on record."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from job_folders import make_job
from ssvae.core.alive import this_process
from ssvae.core.jobs import BY_USER, JobFile, append_event, history, job_folder, read_events, write_sweep_jobs
from ssvae.sweep import supervisor
from ssvae.sweep.supervisor import Supervisor

Behaviour = Callable[[JobFile], int | None]


class FakeJob:
    """A process that does what ``behaviour`` says at each look: an exit code, or None while it goes on."""

    def __init__(self, job: JobFile, behaviour: Behaviour) -> None:
        self.job_id = "1"
        self._process = self
        self.pid = -1
        self.told: list[int] = []
        self._poll = lambda: behaviour(job)

    def poll(self) -> int | None:
        return self._poll()

    def send_signal(self, number: int) -> None:
        self.told.append(number)


class Bench:
    """A supervisor of the sweep ``grid`` whose jobs are :class:`FakeJob`; ``log``: starts and ends in their order."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.log, self.most = root, [], 0
        self.does: dict[str, Behaviour] = {}
        self.started: dict[str, FakeJob] = {}
        self._now: set[str] = set()
        monkeypatch.setattr(supervisor, "POLL_S", 0.0)
        monkeypatch.setattr(signal, "signal", lambda number, handler: None)
        monkeypatch.setattr(Supervisor, "_start", lambda boss, job: self._start(job))
        monkeypatch.setattr(Supervisor, "_end_the_rest", lambda boss, one, pid: None)

    def job(self, name: str, *needs: str, **more: Any) -> str:
        make_job(self.root, name, {name: f"runs/stages/{name}"}, launcher="local", needs=list(needs), **more)
        return name

    def run(self, parallel: int = 1) -> Supervisor:
        boss = Supervisor(self.root, "grid", parallel)
        self.boss = boss
        boss.run()
        return boss

    def finish(self, job: JobFile) -> int:
        for where in job.stages.values():
            (self.root / where).mkdir(parents=True, exist_ok=True)
            (self.root / where / "done.json").write_text('{"seconds": 1}')
        return 0

    def fail(self, job: JobFile) -> int:
        reason = "ValueError: no clips"
        append_event(
            job_folder(self.root, job.job_id), "rank", rank=0, run="1.0", how="failed", reason=reason, again=False
        )
        return 1

    def events(self, name: str) -> list[str]:
        return [one["event"] for one in read_events(job_folder(self.root, name))]

    def told(self, name: str) -> tuple[str | None, str | None, str | None]:
        found = history(job_folder(self.root, name))
        return found.how, found.next, found.reason

    def _start(self, job: JobFile) -> Any:
        self.log.append(f"+{job.job_id}")
        self._now.add(job.job_id)
        self.most = max(self.most, len(self._now))
        behaviour = self.does.get(job.job_id, self.finish)

        def looked_at(job: JobFile) -> int | None:
            code = behaviour(job)
            if code is not None:
                self._now.discard(job.job_id)
                self.log.append(f"-{job.job_id}")
            return code

        fake = self.started[job.job_id] = FakeJob(job, looked_at)
        append_event(
            job_folder(self.root, job.job_id), "started", attempt=1, run="1.0", scheduler_id="1", **this_process()
        )
        return SimpleNamespace(job=job, process=fake, slot=0, short_since=None)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


def test_what_is_needed_comes_first_and_no_more_run_at_once_than_may(bench: Bench) -> None:
    for seed in range(3):
        bench.job(f"pretrain-{seed}")
        bench.job(f"probe-{seed}", f"pretrain-{seed}")
    looks = iter(range(1000))
    slow = {name: next(looks) for name in ("pretrain-0",)}
    bench.does["pretrain-0"] = lambda job: bench.finish(job) if next(looks) > slow["pretrain-0"] + 3 else None
    bench.run(parallel=2)
    assert bench.most == 2
    assert all(bench.log.index(f"-pretrain-{n}") < bench.log.index(f"+probe-{n}") for n in range(3))
    assert bench.log.index("+pretrain-1") < bench.log.index("-pretrain-0"), "side by side"
    assert all(bench.told(f"probe-{n}")[:2] == ("finished", "none") for n in range(3))


def test_what_needs_a_failed_job_ends_unstarted_and_the_others_go_on(bench: Bench) -> None:
    bench.job("pretrain-bad")
    bench.job("measure-bad", "pretrain-bad")
    bench.job("probe-bad", "measure-bad")
    bench.job("pretrain-good")
    bench.does["pretrain-bad"] = bench.fail
    bench.run()
    assert bench.told("pretrain-bad") == ("failed", "none", "ValueError: no clips")
    for name in ("measure-bad", "probe-bad"):
        assert bench.told(name) == ("killed", "none", "cancelled: what it needs has failed")
        assert "started" not in bench.events(name)
    assert bench.told("pretrain-good")[0] == "finished"


def test_a_killed_job_is_started_again_within_its_budget(bench: Bench) -> None:
    bench.job("pretrain-1", retries=2)
    bench.does["pretrain-1"] = lambda job: 0  # without a word, and unfinished
    bench.run()
    assert bench.log.count("+pretrain-1") == 3
    how, following, reason = bench.told("pretrain-1")
    assert (how, following) == ("killed", "none")
    assert reason == "rank 0 was killed (without a word: SIGKILL, out of memory?)", "no code that says nothing"


def test_fail_fast_names_the_culprit_on_all_that_it_ends(bench: Bench) -> None:
    bench.job("pretrain-bad", fail_fast=True, label="reg=lcr")
    bench.job("pretrain-long")
    bench.job("pretrain-next")
    bench.does["pretrain-bad"] = bench.fail
    bench.does["pretrain-long"] = lambda job: 0 if bench.started["pretrain-long"].told else None
    bench.run(parallel=2)
    why = "reg=lcr failed (fail_fast)"
    assert bench.started["pretrain-long"].told == [signal.SIGTERM]
    assert bench.told("pretrain-long") == ("interrupted", "none", f"cancelled: {why}")
    assert bench.told("pretrain-next") == ("killed", "none", f"cancelled: {why}")
    assert history(job_folder(bench.root, "pretrain-next")).cancelled == why


def test_sigterm_ends_everything_by_the_user(bench: Bench) -> None:
    bench.job("pretrain-1")
    bench.job("probe-1", "pretrain-1")

    def until_told(job: JobFile) -> int | None:
        if bench.started[job.job_id].told:
            return 0
        bench.boss._stop(signal.SIGTERM, None)
        return None

    bench.does["pretrain-1"] = until_told
    bench.run()
    assert bench.told("pretrain-1") == ("interrupted", "none", f"cancelled: {BY_USER}")
    assert bench.told("probe-1") == ("killed", "none", f"cancelled: {BY_USER}")
    assert bench.log == ["+pretrain-1", "-pretrain-1"]


def test_jobs_that_wait_on_slurm_are_not_its_own(bench: Bench) -> None:
    make_job(bench.root, "pretrain-far", {"pretrain": "runs/stages/far"}, scheduler_id="7")
    bench.job("pretrain-near")
    bench.run()
    assert bench.log == ["+pretrain-near", "-pretrain-near"] and bench.events("pretrain-far") == []


def test_a_failed_job_that_is_submitted_anew_meanwhile_is_tried_again(bench: Bench) -> None:
    bench.job("pretrain-bad")
    bench.job("pretrain-long")
    tries: list[str] = []

    def better(job: JobFile) -> int:
        tries.append(job.label)
        return bench.fail(job) if len(tries) == 1 else bench.finish(job)

    def submits_again(job: JobFile) -> int | None:
        if bench.told("pretrain-bad")[0] == "failed":
            bench.job("pretrain-bad", label="second")
        return bench.finish(job) if bench.told("pretrain-bad")[0] == "finished" else None

    bench.does = {"pretrain-bad": better, "pretrain-long": submits_again}
    bench.run(parallel=2)
    assert tries == ["c", "second"]


def foreign(bench: Bench, name: str, process: dict[str, object]) -> Path:
    """A job that the supervisor of another sweep has, which is ``process`` (this test's own is alive)."""
    bench.job(name, sweeps=["other", "grid"])
    home = job_folder(bench.root, name)
    append_event(home, "submitted", **process)
    append_event(home, "started", attempt=1, **process)
    return home


def test_a_job_of_another_sweeps_supervisor_is_waited_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    home = foreign(bench, "pretrain-shared", this_process())
    bench.job("probe-1", "pretrain-shared")
    looks: list[int] = []
    really = supervisor.kept

    def kept(root: Path, job: JobFile) -> bool:
        looks.append(1)
        if job.job_id == "pretrain-shared" and len(looks) == 5:
            assert bench.log == []
            bench.finish(job)
            append_event(home, "ended", attempt=1, how="finished", next="none")
        return really(root, job)

    monkeypatch.setattr(supervisor, "kept", kept)
    bench.run()
    assert bench.log == ["+probe-1", "-probe-1"]


@pytest.mark.parametrize("cancelled", [True, False])
def test_what_another_supervisor_lets_go_of_is_taken_over_but_a_failure_is_one(
    bench: Bench, cancelled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = foreign(bench, "pretrain-shared", this_process())
    bench.job("probe-1", "pretrain-shared")
    really, looks = supervisor.kept, iter(range(100))

    def kept(root: Path, job: JobFile) -> bool:
        if job.job_id == "pretrain-shared" and next(looks) == 3:
            if cancelled:
                append_event(home, "cancelled", reason=BY_USER)
            append_event(home, "ended", attempt=1, how="interrupted" if cancelled else "failed", next="none")
        return really(root, job)

    monkeypatch.setattr(supervisor, "kept", kept)
    bench.run()
    if cancelled:
        assert bench.log == ["+pretrain-shared", "-pretrain-shared", "+probe-1", "-probe-1"]
    else:
        assert bench.log == [] and bench.told("probe-1")[2] == "cancelled: what it needs has failed"


def test_a_job_whose_supervisor_is_gone_is_taken_over(bench: Bench) -> None:
    foreign(bench, "pretrain-shared", {**this_process(), "pid_start": "long ago"})
    bench.run()
    assert bench.log == ["+pretrain-shared", "-pretrain-shared"]


def test_a_finished_sweep_has_nothing_to_do(bench: Bench) -> None:
    write_sweep_jobs(bench.root, "grid", [])
    bench.run()
    assert bench.log == []
