"""Cells as jobs on this machine: several at once, by our own setting and by Hydra's launcher, each dying for itself."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ssvae.core.jobs import history, job_folder, jobs_folder, read_events, read_job
from tiny_runs import artefacts, command, environment, link_data, records, run_apart

pytestmark = pytest.mark.system
ONE_JOB = ("stage=pretrain", "stages.base=null")
LONG = ("train.steps=150", "runtime.checkpoint_every=10")


def _spans(root: Path) -> list[tuple[int, int]]:
    """Start and end of every job's only attempt, in milliseconds."""
    found = [history(folder) for folder in jobs_folder(root).glob("*-*")]
    assert all(one.attempts == 1 for one in found)
    return sorted((one.started_ms or 0, one.ended_ms or 0) for one in found)


def _most_at_once(spans: list[tuple[int, int]]) -> int:
    return max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans)


def test_as_many_at_once_as_asked_for(root: Path) -> None:
    done = run_apart(root, "-m", "seed=0,1,2", *ONE_JOB, "launch.parallel=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert _most_at_once(_spans(root)) == 2
    assert [record["status"] for record in records(root)] == ["finished"] * 3


def test_hydras_local_launcher_makes_the_same(root: Path, tiny_data: Path) -> None:
    done = run_apart(root, "-m", "seed=0,1", *ONE_JOB, "hydra/launcher=submitit_local")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(_spans(root)) == 2, "jobs"
    other = link_data(tiny_data, root / "here")
    done = run_apart(other, "-m", "seed=0,1", *ONE_JOB)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (other / "runs" / "jobs").exists()
    assert artefacts(root) == artefacts(other)


def test_a_killed_job_is_tried_again_and_a_failing_one_told(root: Path) -> None:
    grid = ("-m", "train.lr=0.001,1e30", "train.nonfinite_limit=0", *LONG, *ONE_JOB, "launch.parallel=2")
    with subprocess.Popen(
        command(*grid), env=environment(root), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not list(root.glob("runs/stages/pretrain-*/checkpoint.pt")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
        (folder,) = {path.parent for path in root.glob("runs/stages/pretrain-*/checkpoint.pt")}
        (job,) = [one for one in map(read_job, jobs_folder(root).glob("*-*")) if folder.name in str(one.stages)]
        started = history(job_folder(root, job.job_id)).process
        assert started is not None
        os.kill(started.pid, signal.SIGKILL)
        said, _ = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert {record["label"]: record["status"] for record in records(root)} == {
        "train.lr=0.001": "finished", "train.lr=1e+30": "failed",
    }  # fmt: skip
    ends = [one for one in read_events(job_folder(root, job.job_id)) if one["event"] == "ended"]
    assert [(one["how"], one["next"]) for one in ends] == [("killed", "retry"), ("finished", "none")]
    assert "NonFiniteLoss" in said and "rank_0_log.err" in said
