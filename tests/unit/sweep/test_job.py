"""One rank of a job: what it takes from its shell, when it is a time-out, and what it refuses."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from job_folders import make_job
from ssvae.core.jobs import JobFile, read_events, read_job
from ssvae.sweep import job as job_module
from ssvae.sweep.job import RunJob, _same_stages, _timed_out
from ssvae.sweep.work import assert_world


@pytest.fixture
def job(tmp_path: Path) -> JobFile:
    return read_job(make_job(tmp_path, "pretrain-1", {"pretrain": "runs/stages/pretrain-1"}, timeout_min=10))


@pytest.mark.parametrize(("ran_s", "told"), [(0, False), (400, False), (430, True), (600, True)])
def test_near_its_limit_an_interruption_is_a_time_out(job: JobFile, ran_s: int, told: bool) -> None:
    job = replace(job, signal_delay_s=120)
    assert _timed_out(job, time.time() - ran_s) is told
    assert not _timed_out(replace(job, timeout_min=None), time.time() - 1e6)


def test_stages_that_have_another_identity_by_now_are_refused(job: JobFile, tmp_path: Path) -> None:
    plans: dict[str, Any] = {"pretrain": SimpleNamespace(folder=tmp_path / "runs" / "stages" / "pretrain-1")}
    _same_stages(job, plans)
    plans["pretrain"].folder = tmp_path / "runs" / "stages" / "pretrain-2"
    with pytest.raises(ValueError, match=r"pretrain is pretrain-2 by now.*submit the sweep again"):
        _same_stages(job, plans)


@pytest.mark.parametrize(
    ("shell", "fine"),
    [
        ({}, True),
        ({"WORLD_SIZE": "2"}, False),
        ({"WORLD_SIZE": "1", "SLURM_NTASKS": "2"}, True),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, True),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0", "SUBMITIT_EXECUTOR": "slurm"}, False),
    ],
    ids=["alone", "torchrun", "a shell in an allocation", "srun of a shell", "a rank"],
)
def test_a_rank_that_does_not_find_the_others_is_refused(
    shell: dict[str, str], fine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WORLD_SIZE", "SLURM_NTASKS", "SLURM_PROCID", "SUBMITIT_EXECUTOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    if fine:
        assert_world(1)
    else:
        with pytest.raises(ValueError, match="but this process sees 1 ranks"):
            assert_world(1)


class Ended(Exception):
    """In place of the end of the process."""


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a local job of one rank; signals, streams and the process stay the test's own."""

    def leave(code: int) -> None:
        raise Ended(code)

    before = dict(os.environ)
    for name, value in {
        "SUBMITIT_EXECUTOR": "local", "SUBMITIT_LOCAL_JOB_ID": "77", "SUBMITIT_LOCAL_NTASKS": "1",
        "SUBMITIT_LOCAL_GLOBALID": "0", "SUBMITIT_LOCAL_LOCALID": "0", "SUBMITIT_LOCAL_NNODES": "1",
        "SUBMITIT_LOCAL_NODEID": "0",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    monkeypatch.setattr(job_module, "_log_to", lambda folder, rank: None)
    monkeypatch.setattr("os._exit", leave)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]


def test_the_shells_meeting_point_is_not_the_jobs(
    alone: None, job: JobFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two jobs that took one MASTER_PORT from the shell that submitted both would meet each other's ranks."""
    ports = []
    for name, value in {"MASTER_PORT": "29511", "MASTER_ADDR": "elsewhere", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    seen: dict[str, str] = {}
    monkeypatch.setattr(job_module, "_work", lambda *given: seen.update(os.environ))
    for number in ("77", "78"):
        monkeypatch.setenv("SUBMITIT_LOCAL_JOB_ID", number)
        RunJob(tmp_path / "runs" / "jobs" / "pretrain-1")()
        assert (seen["MASTER_ADDR"], seen["LOCAL_RANK"], seen["WORLD_SIZE"]) == ("127.0.0.1", "0", "1")
        ports.append(seen["MASTER_PORT"])
    assert ports[0] != ports[1] and "29511" not in ports


@pytest.mark.parametrize(
    ("error", "again"), [(ValueError("no clips"), False), (OSError("disk"), True), (RuntimeError("NCCL"), True)]
)
def test_a_rank_that_fails_says_so_and_whether_it_would_again(
    alone: None, job: JobFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, again: bool
) -> None:
    def work(*given: object) -> None:
        raise error

    monkeypatch.setattr(job_module, "_work", work)
    folder = tmp_path / "runs" / "jobs" / "pretrain-1"
    with pytest.raises(Ended, match="1"):
        RunJob(folder)()
    (told,) = [one for one in read_events(folder) if one["event"] == "rank"]
    assert (told["how"], told["again"], told["reason"]) == ("failed", again, f"{type(error).__name__}: {error}")
