"""Where cells stand whose stages are jobs: on Slurm, and local ones."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from job_chain import make_chain
from sweep_folders import make_cell, make_stage

from job_folders import FAILED, PRETRAIN, PROBE, REQUEUED, RETRIED, STARTED, FakeQueue, age, make_job, make_pace
from ssvae.core.alive import this_process
from ssvae.core.files import exclusive
from ssvae.core.jobs import append_event, read_job, write_job
from ssvae.core.queue import GONE, UNKNOWN, QueueState
from ssvae.report.state import CellState, sweep_rows

KILLED = ("ended", {"how": "killed", "reason": "signal 9: out of memory?", "next": "none"})
DEPENDS = QueueState("PENDING", "Dependency", ("7",))
NEVER = QueueState("PENDING", "DependencyNeverSatisfied", ("7",))


def cell(root: Path, queue: FakeQueue | None = None) -> CellState:
    (row,) = sweep_rows(root, "grid", queue or FakeQueue())
    return row


@pytest.mark.parametrize(
    ("state", "detail"),
    [
        (QueueState("PENDING", "Resources"), "pretrain: waits for free resources (Resources), job 7_0"),
        (QueueState("PENDING", "Priority", start="2026-11-21"), "for jobs before it (Priority), start expected 2026"),
        (QueueState("PENDING", "JobHeldUser"), "held: scontrol release 7_0 (JobHeldUser)"),
        (QueueState("PENDING", "QOSMaxJobsPerUserLimit"), "a limit of account or QOS (QOSMaxJobsPerUserLimit)"),
        (QueueState("PENDING", "SomethingNew"), "pretrain: waits (SomethingNew), job 7_0"),
        (QueueState("REQUEUE_HOLD", "launch failed requeued held"), "scontrol release 7_0 (REQUEUE_HOLD)"),
        (QueueState("PENDING"), "pretrain: waits, job 7_0"),
    ],
)  # fmt: skip
def test_what_a_job_waits_for(state: QueueState, detail: str, tmp_path: Path) -> None:
    make_chain(tmp_path)
    row = cell(tmp_path, FakeQueue({"7_0": state, "8_0": DEPENDS}))
    assert row.status == "waiting" and row.active and detail in row.detail
    assert row.jobs == ("pretrain waiting 7_0", "probe waiting 8_0")


def test_a_running_job_says_how_far_it_is(tmp_path: Path) -> None:
    make_chain(tmp_path, STARTED, REQUEUED, STARTED, RETRIED, STARTED, REQUEUED, STARTED)
    make_pace(tmp_path, PRETRAIN, 120, 1000, 2.5)
    row = cell(tmp_path, FakeQueue({"7_0": "RUNNING", "8_0": DEPENDS}))
    assert row.status == "running" and row.active and (row.requeues, row.retries) == (2, 1)
    pace = "pretrain, step 120 of 1000, 2.5 steps/s, 6 min left in this stage"
    assert row.detail == f"{pace}, stage 1 of 2, requeued 2 times, retried once"
    assert (row.stage, row.done, row.total, row.rate, row.left_s) == ("pretrain", 120, 1000, 2.5, 352.0)


def test_the_pace_of_an_attempt_before_is_not_shown(tmp_path: Path) -> None:
    make_chain(tmp_path, STARTED, REQUEUED)
    make_pace(tmp_path, PRETRAIN, 120, 1000, 2.5)
    age(tmp_path, 10)
    append_event(tmp_path / "runs" / "jobs" / "pretrain-1", "started")
    row = cell(tmp_path, FakeQueue({"7_0": "RUNNING", "8_0": DEPENDS}))
    assert row.detail == "pretrain, step 120 of 1000, stage 1 of 2, requeued once" and row.left_s is None
    age(tmp_path, 600)
    row = cell(tmp_path, FakeQueue({"7_0": "RUNNING", "8_0": DEPENDS}))
    assert "last sign of life 10 min ago" in row.detail and row.active


def test_a_dependency_is_named_and_only_unfinished_jobs_are_asked_for(tmp_path: Path) -> None:
    make_chain(tmp_path, STARTED)
    make_cell(tmp_path, "b", 48, {"pretrain": PRETRAIN, "probe": "runs/stages/probe-2"}, status="running", seconds=0.0)
    make_job(tmp_path, "probe-2", {"probe": "runs/stages/probe-2"}, scheduler_id="8_1", needs=["pretrain-1"])
    queue = FakeQueue({"7_0": "RUNNING", "8_0": DEPENDS, "8_1": DEPENDS})
    both = sweep_rows(tmp_path, "grid", queue)
    assert [row.status for row in both] == ["running", "running"], "a shared job shows in each cell that needs it"
    make_stage(tmp_path, "pretrain-1", [])
    make_stage(tmp_path, "probe-1", [])
    first, second = sweep_rows(tmp_path, "grid", queue)
    assert (first.status, second.status) == ("finished", "waiting") and queue.asked[-1] == ["8_1"]
    assert "for jobs that it needs (Dependency)" in second.detail, "of another submission, perhaps"
    assert first.seconds == 2.0, "of the stages that were jobs"


def test_a_job_that_was_written_down_is_about_to_be_submitted(tmp_path: Path) -> None:
    make_cell(tmp_path, "a", 48, {"pretrain": PRETRAIN}, status="waiting", seconds=0.0)
    folder = make_job(tmp_path, "pretrain-1", {"pretrain": PRETRAIN}, launcher="local")
    queue = FakeQueue()
    assert (cell(tmp_path, queue).status, cell(tmp_path, queue).active) == ("waiting", True)
    assert "waits to be submitted" in cell(tmp_path, queue).detail and queue.asked == []
    age(tmp_path, 90)
    row = cell(tmp_path, queue)
    assert (row.status, row.active, row.reason) == ("lost", False, "pretrain: lost: it was never submitted")
    # A job that has failed and is submitted again waits, from the moment at which its file is written anew.
    append_event(folder, "submitted")
    for name, told in (STARTED, FAILED):
        append_event(folder, name, **told)
    assert cell(tmp_path, queue).status == "failed"
    age(tmp_path, 5)
    write_job(folder, replace(read_job(folder), retries=2))
    assert (cell(tmp_path, queue).status, cell(tmp_path, queue).active) == ("waiting", True)


def test_between_two_attempts_a_job_waits(tmp_path: Path) -> None:
    make_chain(tmp_path, STARTED, REQUEUED)
    row = cell(tmp_path, FakeQueue({"7_0": QueueState("PENDING", "BeginTime"), "8_0": DEPENDS}))
    assert row.status == "waiting" and "requeued once" in row.detail and "its start time" in row.detail
    (_, probe) = row.jobs
    assert probe == "probe waiting 8_0"


def test_a_failed_job_fails_its_cell_and_those_behind_it(tmp_path: Path) -> None:
    make_chain(tmp_path, STARTED, FAILED, log="Traceback (most recent call last):\nValueError: no clips\n")
    row = cell(tmp_path, FakeQueue({"7_0": "FAILED", "8_0": NEVER}))
    assert (row.status, row.active, row.reason) == ("failed", False, "pretrain: ValueError: no clips")
    assert row.log == str(tmp_path / "runs" / "jobs" / "pretrain-1" / "log" / "rank_0_log.err")
    assert row.jobs == ("pretrain failed 7_0", "probe failed 8_0")
    # Another cell whose own job only waits for it.
    make_cell(tmp_path, "b", 48, {"probe": "runs/stages/probe-2"}, status="running")
    make_job(tmp_path, "dit-2", {}, needs=["pretrain-1"], scheduler_id="9")
    make_job(tmp_path, "probe-2", {"probe": "runs/stages/probe-2"}, needs=["pretrain-1"], scheduler_id="10")
    second = sweep_rows(tmp_path, "grid", FakeQueue({"7_0": "FAILED", "8_0": NEVER, "10": "CANCELLED"}))[1]
    assert (second.status, second.active) == ("failed", False)
    assert second.reason == "not started: needs pretrain, which is failed (pretrain: ValueError: no clips)"


def test_a_failure_shows_while_another_job_of_the_cell_goes_on(tmp_path: Path) -> None:
    make_cell(tmp_path, "a", 48, {"measure": "runs/stages/measure-1", "probe": PROBE}, status="running")
    make_job(tmp_path, "measure-1", {"measure": "runs/stages/measure-1"}, [STARTED, FAILED], scheduler_id="7")
    make_job(tmp_path, "probe-1", {"probe": PROBE}, [STARTED], scheduler_id="8")
    make_pace(tmp_path, PROBE, 3, 16, None, "video reward")
    row = cell(tmp_path, FakeQueue({"7": "FAILED", "8": "RUNNING"}))
    assert row.status == "failed" and row.active
    assert row.detail == "measure: ValueError: no clips; probe, video reward 3 of 16, stage 2 of 2"


OUT = QueueState("OUT_OF_MEMORY", exit="0:125")
SIGNAL, CODE = QueueState("FAILED", exit="0:9"), QueueState("FAILED", exit="3:0")


@pytest.mark.parametrize(
    ("events", "state", "status", "reason"),
    [
        ([STARTED, KILLED], "FAILED", "killed", "pretrain: killed (signal 9: out of memory?), last lines: b | c"),
        ([STARTED], OUT, "killed", "pretrain: killed (out of memory), last lines: b | c"),
        ([STARTED], "TIMEOUT", "killed", "pretrain: killed (the time limit), last lines: b | c"),
        ([STARTED], "CANCELLED", "killed", "pretrain: cancelled"),
        ([STARTED, ("cancelled", {"reason": "fail_fast"})], "CANCELLED", "killed", "pretrain: cancelled: fail_fast"),
        ([], "CANCELLED", "killed", "pretrain: cancelled before it started"),
        ([STARTED], SIGNAL, "killed", "pretrain: killed (signal 9: out of memory?), last lines: b | c"),
        ([STARTED], CODE, "failed", "pretrain: exit code 3, last lines: b | c"),
        ([STARTED], "COMPLETED", "failed", "pretrain: it ended without being finished, last lines: b | c"),
        ([STARTED], GONE, "lost", "lost: job 7_0 is not in the queue any more, and nobody recorded its end; last"),
        ([], GONE, "lost", "pretrain: lost: job 7_0 is not in the queue any more, and it never started"),
        ([STARTED, REQUEUED], GONE, "lost", "any more; it was to be started again (requeue) after: signal SIGTERM"),
        ([STARTED, REQUEUED], "CANCELLED", "killed", "pretrain: cancelled"),
        ([STARTED, ("ended", {"how": "interrupted", "reason": "SIGTERM", "next": "none"})], "FAILED", "killed",
         "pretrain: interrupted (SIGTERM), and not to be requeued again; what was done is kept"),
        ([STARTED, ("ended", {"how": "finished", "reason": None, "next": "none"})], GONE, "failed",
         "pretrain: its job ended as finished, but the run folder is not"),
    ],
)  # fmt: skip
def test_bad_ends_name_themselves(
    events: list[object], state: str | QueueState, status: str, reason: str, tmp_path: Path
) -> None:
    make_chain(tmp_path, *events, log="a\n" * 9 + "b\n\nc\n")
    (tmp_path / "runs" / "jobs" / "pretrain-1" / "log" / "rank_0_log.err").write_text("b\n\nc\n")
    age(tmp_path, 60)
    row = cell(tmp_path, FakeQueue({"7_0": state, "8_0": DEPENDS}))
    assert (row.status, row.active) == (status, False) and reason in str(row.reason)
    assert row.reason is not None and row.reason in row.detail


def test_the_exception_that_a_stage_left_is_the_reason(tmp_path: Path) -> None:
    end = ("ended", {"how": "failed", "reason": None, "next": "none"})
    make_chain(tmp_path, STARTED, end)
    trace = 'Traceback (most recent call last):\n  File "x.py", line 1, in <module>\n    f()\nValueError: two\nlines\n'
    stage = tmp_path / PRETRAIN
    stage.mkdir(parents=True)
    (stage / "error.txt").write_text(trace)
    queue = FakeQueue({"7_0": "FAILED", "8_0": NEVER})
    assert cell(tmp_path, queue).reason == "pretrain: ValueError: two lines"
    os.utime(stage / "error.txt", (1, 1))
    assert "ValueError" not in str(cell(tmp_path, queue).reason), "of an attempt before"


@pytest.mark.parametrize("state", ["NODE_FAIL", "PREEMPTED", "COMPLETED", "FAILED", GONE])
def test_an_end_that_is_not_judged_yet_is_no_end(state: str, tmp_path: Path) -> None:
    """Slurm starts it again by itself, or our script at the job's end is still at work."""
    make_chain(tmp_path, STARTED)
    queue = FakeQueue({"7_0": state, "8_0": DEPENDS})
    assert (cell(tmp_path, queue).status, cell(tmp_path, queue).active) == ("running", True)
    age(tmp_path, 60)
    assert not cell(tmp_path, queue).active
    (tmp_path / "runs" / "stages").mkdir(parents=True, exist_ok=True)
    with exclusive(tmp_path / "runs" / "stages" / ".pretrain-1.lock", wait=False):
        assert cell(tmp_path, queue).active, "somebody is at work in its folder"


def test_a_queue_that_cannot_be_asked_changes_nothing_but_what_is_said(tmp_path: Path) -> None:
    make_chain(tmp_path, STARTED)
    age(tmp_path, 900)
    silent = QueueState(UNKNOWN, "squeue did not answer within 20 s")
    row = cell(tmp_path, FakeQueue({"7_0": silent, "8_0": silent}))
    assert (row.status, row.active) == ("running", True)
    assert "as last recorded, last sign of life 15 min ago: squeue did not answer within 20 s" in row.detail


def local(root: Path, *events: object) -> None:
    make_cell(root, "a", 48, {"pretrain": PRETRAIN}, status="running", seconds=0.0)
    make_job(root, "pretrain-1", {"pretrain": PRETRAIN}, events, launcher="local")


ME = this_process()
NOBODY = {**ME, "pid_start": "1"}
ELSEWHERE = {**ME, "host": "another machine"}


@pytest.mark.parametrize(
    ("events", "status", "said"),
    [
        ([("submitted", ME)], "waiting", "for its turn"),
        ([("submitted", NOBODY)], "lost", "the process that was to start it is gone, and it never started"),
        ([("submitted", ME), ("started", ME)], "running", "pretrain, no step yet"),
        ([("submitted", ME), ("started", NOBODY)], "running", "ended, to be judged"),
        ([("submitted", NOBODY), ("started", ME)], "running", "pretrain, no step yet"),
        ([("submitted", NOBODY), ("started", NOBODY)], "lost", "its process is gone, and nobody recorded its end"),
        ([("submitted", ME), ("started", NOBODY), RETRIED], "waiting", "retried once"),
        ([("submitted", NOBODY), ("started", NOBODY), RETRIED], "lost", "(retry) after: OSError: disk"),
        ([("submitted", ELSEWHERE), ("started", ELSEWHERE)], "running", "sign of life on another machine 15 min ago"),
        ([("submitted", ME), ("started", ME), FAILED], "failed", "ValueError: no clips"),
    ],
)  # fmt: skip
def test_local_jobs(events: list[object], status: str, said: str, tmp_path: Path) -> None:
    local(tmp_path, *events)
    (tmp_path / PRETRAIN).mkdir(parents=True)
    age(tmp_path, 900)
    queue = FakeQueue()
    row = cell(tmp_path, queue)
    assert (row.status, row.active) == (status, status in ("running", "waiting")) and said in row.detail
    assert queue.asked == [], "Slurm has nothing to do with it"


def test_a_local_job_that_died_a_moment_ago_is_not_lost_yet(tmp_path: Path) -> None:
    local(tmp_path, ("submitted", NOBODY), ("started", NOBODY))
    assert cell(tmp_path).active
    age(tmp_path, 60)
    assert cell(tmp_path).status == "lost"


def test_a_job_that_was_cancelled_and_forgotten_is_not_lost(tmp_path: Path) -> None:
    make_chain(tmp_path)
    append_event(tmp_path / "runs" / "jobs" / "pretrain-1", "cancelled", reason="cancelled by the user")
    row = cell(tmp_path, FakeQueue({"7_0": GONE, "8_0": NEVER}))
    assert (row.status, row.active) == ("killed", False) and "cancelled" in str(row.reason)
