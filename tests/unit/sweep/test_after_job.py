"""The verdict on an attempt: every way to end, every budget, and what Slurm says while it happens."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssvae.core.jobs import JobFile, append_event, history, job_folder, read_events, write_job, write_sweep_jobs
from ssvae.sweep import after_job
from ssvae.sweep.after_job import Verdict, conclude, judge, main, numbered, run_key


def job(root: Path, **more: Any) -> JobFile:
    values: dict[str, Any] = {
        "job_id": "pretrain-1", "kind": "pretrain", "stages": {"pretrain": "runs/stages/pretrain-1"}, "cell": "c",
        "cells": ["c"], "config": "x", "sweeps": ["s"], "label": "reg=lcr", "root": str(root), "code": "x",
        "launcher": "slurm", "world": 2, "retries": 1, "max_requeues": 2, "timeout_min": 60,
    }  # fmt: skip
    return JobFile(**{**values, **more})


def rank(number: int, how: str, reason: str | None = None, **more: Any) -> dict[str, Any]:
    return {"event": "rank", "rank": number, "how": how, "reason": reason, **more}


START: dict[str, Any] = {"event": "started", "attempt": 1}
TERM = "signal SIGTERM"


def ended(next_: str, **more: Any) -> dict[str, Any]:
    return {"event": "ended", "how": "x", "next": next_, **more}


def test_the_run_folders_decide_that_a_job_is_finished(tmp_path: Path) -> None:
    ranks = [START, rank(0, "finished"), rank(1, "finished")]
    assert judge(job(tmp_path), ranks, 0).how == "killed"
    done = tmp_path / "runs" / "stages" / "pretrain-1" / "done.json"
    done.parent.mkdir(parents=True)
    done.touch()
    # Whatever the code: a rank that dies while it leaves has done its work.
    assert judge(job(tmp_path), [START, rank(0, "finished")], 1) == Verdict("finished", None, "none")


@pytest.mark.parametrize("culprit", [0, 1])
def test_the_first_rank_to_fail_is_named_whichever_it_is(tmp_path: Path, culprit: int) -> None:
    told = [
        START,
        rank(culprit, "failed", "RuntimeError: the cause", again=True),
        rank(1 - culprit, "failed", "RuntimeError: Connection closed by peer [127.0.0.1]", again=True),
    ]
    assert judge(job(tmp_path), told, 1) == Verdict("failed", "RuntimeError: the cause", "retry", culprit)


def test_a_rank_without_a_word_was_killed_and_the_others_are_its_echo(tmp_path: Path) -> None:
    told = [START, rank(0, "failed", "RuntimeError: Connection closed by peer [127.0.0.1]", again=True)]
    verdict = judge(job(tmp_path), told, 137)
    assert verdict.how == "killed" and verdict.next == "retry"
    assert verdict.reason == "rank 1 was killed (code 137, SIGKILL: out of memory?)"


def test_a_real_failure_beside_a_silent_rank_is_the_cause(tmp_path: Path) -> None:
    # The scheduler kills the others of a rank that failed before they can say anything.
    told = [START, rank(1, "failed", "ValueError: bad clip", again=False)]
    assert judge(job(tmp_path), told, 143) == Verdict("failed", "ValueError: bad clip", "none", 1)


def test_retries_are_spent_once_for_each_submission(tmp_path: Path) -> None:
    dies: list[dict[str, Any]] = [START, rank(0, "failed", "OSError: x", again=True), rank(1, "finished")]
    submitted: dict[str, Any] = {"event": "submitted"}
    events = [submitted, *dies]
    assert judge(job(tmp_path), events, 1).next == "retry"
    events = [*events, ended("retry"), *dies]
    assert judge(job(tmp_path), events, 1).next == "none"
    # The local supervisor notes that it carries a retry out: that is no new submission.
    again = [submitted, *dies, ended("retry"), {"event": "submitted", "again": True}, *dies]
    assert judge(job(tmp_path), again, 1).next == "none"
    # The user's next call is one.
    assert judge(job(tmp_path), [*events, ended("none"), submitted, *dies], 1).next == "retry"
    # Also where a retry was under way that never came to be: cancelled in the queue.
    assert judge(job(tmp_path), [submitted, *dies, ended("retry"), submitted, *dies], 1).next == "retry"


def test_a_pre_emption_is_never_counted_and_a_time_out_is(tmp_path: Path) -> None:
    polite = [START, rank(0, "interrupted", TERM, timed_out=False), rank(1, "interrupted", TERM, timed_out=False)]
    assert judge(job(tmp_path, max_requeues=0), polite, 0) == Verdict("interrupted", TERM, "requeue")
    late = [START, *(rank(number, "interrupted", "signal SIGUSR2", timed_out=True) for number in (0, 1))]
    first = judge(job(tmp_path), late, 0)
    assert (first.how, first.next, first.timed_out) == ("interrupted", "requeue", True)
    assert "60 minutes" in str(first.reason)
    spent = [*late, ended("requeue", timed_out=True), *late, ended("requeue", timed_out=True), *late]
    over = judge(job(tmp_path), spent, 0)
    assert (over.how, over.next) == ("failed", "none") and "max_num_timeout" in str(over.reason)
    # What the scheduler itself calls a pre-emption is none of the job's time-outs.
    assert judge(job(tmp_path), spent, 0, preempted=True).next == "requeue"


def test_a_rank_that_was_killed_does_not_make_the_others_stop_an_interruption(tmp_path: Path) -> None:
    # srun asks the rest to stop, and the first rank, in a pass of its own, does.
    told = [START, rank(0, "interrupted", TERM, timed_out=False)]
    assert judge(job(tmp_path), told, 143).how == "killed"
    # Where the scheduler itself ends the job, the silent rank had no time to speak.
    assert judge(job(tmp_path), told, 143, ending=True).next == "requeue"


def test_a_rank_that_dies_of_the_first_ones_stop_is_no_failure(tmp_path: Path) -> None:
    told = [
        START,
        rank(0, "interrupted", TERM, timed_out=False),
        rank(1, "failed", "RuntimeError: Connection closed by peer", again=True),
    ]
    assert judge(job(tmp_path), told, 1).next == "requeue"


def test_a_job_that_never_began_says_so(tmp_path: Path) -> None:
    assert "before its first rank began" in str(judge(job(tmp_path), [{"event": "submitted"}], 127).reason)


def test_the_verdict_is_noted_where_status_reads_it(tmp_path: Path) -> None:
    folder = job_folder(tmp_path, "pretrain-1")
    write_job(folder, job(tmp_path))
    append_event(folder, "started", attempt=1, run="4.0")
    append_event(folder, "rank", run="4.0", rank=1, how="failed", reason="KeyError: 'x'", again=True)
    append_event(folder, "rank", run="4.0", rank=0, how="finished", reason=None)
    conclude(folder, 1, "4.0")
    told = history(folder)
    assert (told.how, told.reason, told.next, told.rank) == ("failed", "KeyError: 'x'", "retry", 1)


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No pauses, and a scontrol that says what ``says`` holds and writes its calls to ``calls``; scancel likewise."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("scontrol", "scancel"):
        path = tools / name
        path.write_text(
            f'#!/bin/sh\necho "{name} $*" >> {tools}/calls\n[ "$1" = show ] && cat {tools}/says\n'
            f'[ -e "{tools}/no_$1" ] && exit 1\nexit 0\n'
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)
    monkeypatch.setattr(after_job, "_WAIT_S", 0.01)
    monkeypatch.setattr(after_job, "_PAUSES_S", (0.0, 0.0))
    return tools


def end(tmp_path: Path, tools: Path, says: str, code: int = 1, **more: Any) -> tuple[int, str, Path]:
    folder = job_folder(tmp_path, "pretrain-1")
    write_job(folder, job(tmp_path, scheduler_id="7_1", **more))
    numbered(tmp_path, "7_1").parent.mkdir(parents=True, exist_ok=True)
    numbered(tmp_path, "7_1").write_text("pretrain-1")
    run = run_key("7_1")
    append_event(folder, "started", attempt=1, run=run)
    for number in (0, 1):
        append_event(folder, "rank", run=run, rank=number, how="interrupted", reason=TERM, timed_out=False)
    (tools / "says").write_text(f"JobId=8 {says} Requeue=1")
    result = main(tmp_path, "7_1", code)
    return result, (tools / "calls").read_text(), folder


def test_a_job_that_nobody_ends_is_put_back_under_its_own_number(tmp_path: Path, slurm: Path) -> None:
    result, calls, folder = end(tmp_path, slurm, "JobState=RUNNING Reason=None Restarts=0 PreemptTime=None")
    # Slurm ends the script; should it not, whoever waits for the job must not take it for finished.
    assert result == 1 and "scontrol requeue 7_1\n" in calls
    assert history(folder).next == "requeue"


def test_a_cancelled_job_is_not_revived(tmp_path: Path, slurm: Path) -> None:
    result, calls, folder = end(tmp_path, slurm, "JobState=COMPLETING Reason=None Restarts=0 PreemptTime=None")
    assert result == 1 and "requeue" not in calls
    assert (history(folder).how, history(folder).next) == ("killed", "none")


def test_what_slurm_starts_again_itself_is_left_to_it(tmp_path: Path, slurm: Path) -> None:
    result, calls, folder = end(tmp_path, slurm, "JobState=COMPLETING Reason=None Restarts=1 PreemptTime=None")
    assert result == 1 and "requeue" not in calls
    assert not any(one["event"] == "ended" for one in read_events(folder))


def test_a_controller_that_does_not_answer_has_not_cancelled(tmp_path: Path, slurm: Path) -> None:
    (slurm / "no_show").touch()
    result, calls, folder = end(tmp_path, slurm, "")
    assert result == 1 and calls.count("scontrol show") == 2 and "scontrol requeue 7_1\n" in calls
    assert history(folder).next == "requeue"


def test_a_finished_job_is_finished_whatever_the_controller_says(tmp_path: Path, slurm: Path) -> None:
    done = tmp_path / "runs" / "stages" / "pretrain-1" / "done.json"
    done.parent.mkdir(parents=True)
    done.touch()
    for says in ("", "JobState=COMPLETING Reason=None Restarts=0"):
        result, calls, folder = end(tmp_path, slurm, says, code=1)
        assert result == 0 and "requeue" not in calls and history(folder).how == "finished"


def test_a_job_that_cannot_be_put_back_is_not_taken_for_finished(tmp_path: Path, slurm: Path) -> None:
    (slurm / "no_requeue").touch()
    result, calls, folder = end(tmp_path, slurm, "JobState=RUNNING Reason=None Restarts=0 PreemptTime=None", code=0)
    assert result == 1 and calls.count("requeue") == 2
    assert history(folder).next == "none" and "could not be put back" in str(history(folder).reason)


def test_an_attempt_that_dies_before_its_first_rank_is_not_judged_by_the_one_before(tmp_path: Path) -> None:
    before = [{**one, "run": "7.0"} for one in (START, rank(0, "interrupted", TERM), rank(1, "interrupted", TERM))]
    assert judge(job(tmp_path), before, 0, "7.0").next == "requeue"
    broken = judge(job(tmp_path), [*before, ended("requeue")], 1, "7.1")
    assert (broken.how, broken.next) == ("killed", "retry") and "before its first rank" in str(broken.reason)


def test_a_rank_that_fails_before_the_first_one_has_begun_is_heard(tmp_path: Path) -> None:
    told = [{**one, "run": "7.0"} for one in (rank(1, "failed", "ValueError: x", again=False), START)]
    assert judge(job(tmp_path), told, 1, "7.0") == Verdict("failed", "ValueError: x", "none", 1)


def test_a_time_limit_that_slurm_carries_out_is_gone_on_from(tmp_path: Path, slurm: Path) -> None:
    _, calls, _ = end(tmp_path, slurm, "JobState=COMPLETING Reason=TimeLimit Restarts=0 PreemptTime=None")
    assert "scontrol requeue 7_1\n" in calls


@pytest.mark.parametrize(("minutes_left", "spent"), [(30, False), (1, True)])
def test_how_near_the_limit_is_slurm_says(tmp_path: Path, slurm: Path, minutes_left: int, spent: bool) -> None:
    """The ranks' own clocks know nothing of an administrator who has moved it."""
    limit = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(time.time() + 60 * minutes_left))
    says = f"JobState=RUNNING Reason=None Restarts=0 PreemptTime=None EndTime={limit}"
    _, _, folder = end(tmp_path, slurm, says, timeout_min=600, signal_delay_s=30, max_requeues=1)
    assert history(folder).next == "requeue"
    (told,) = [one for one in read_events(folder) if one["event"] == "ended"]
    assert told["timed_out"] is spent


def test_fail_fast_cancels_the_sweeps_other_jobs_and_no_other_sweeps(tmp_path: Path, slurm: Path) -> None:
    for name, sweeps in (("a", ["s"]), ("b", ["s", "other"])):
        other = replace(job(tmp_path), job_id=name, sweeps=sweeps, scheduler_id={"a": "8", "b": "9"}[name])
        write_job(job_folder(tmp_path, name), other)
    write_sweep_jobs(tmp_path, "s", ["pretrain-1", "a", "b"])
    append_event(job_folder(tmp_path, "pretrain-1"), "submitted")
    folder = job_folder(tmp_path, "pretrain-1")
    write_job(folder, job(tmp_path, fail_fast=True, scheduler_id="7_1"))
    numbered(tmp_path, "7_1").parent.mkdir(parents=True, exist_ok=True)
    numbered(tmp_path, "7_1").write_text("pretrain-1")
    append_event(folder, "started", attempt=1, run="7_1.0")
    append_event(folder, "rank", run="7_1.0", rank=0, how="failed", reason="ValueError: x", again=False)
    (slurm / "says").write_text("JobState=RUNNING Reason=None Restarts=0 PreemptTime=None")
    assert main(tmp_path, "7_1", 3) == 3
    calls = (slurm / "calls").read_text()
    assert "scancel 8\n" in calls and "scancel 9" not in calls and "scancel 7" not in calls
