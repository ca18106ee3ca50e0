"""Cells as jobs on this machine: several at once, by our own setting and by Hydra's launcher, each dying for itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssvae.core.files import read_json
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


def _until(what: str, root: Path, seconds: float = 120.0) -> Path:
    """The first file below ``root`` that fits, once it is there."""
    deadline = time.monotonic() + seconds
    while not (found := sorted(root.glob(what))):
        assert time.monotonic() < deadline, f"no {what} in {seconds} s"
        time.sleep(0.01)
    return found[0]


def test_what_a_killed_supervisor_leaves_behind_is_ended_before_it_is_made_again(root: Path, tiny_data: Path) -> None:
    one = ("seed=0", *LONG, *ONE_JOB, "launch.detach=true")
    done = run_apart(root, *one)
    assert done.returncode == 0 and "go on without this terminal" in done.stdout, done.stdout + done.stderr
    _until("runs/stages/pretrain-*/checkpoint.pt", root)
    os.kill(read_json(_until("runs/sweeps/*/supervisor.json", root))["pid"], signal.SIGKILL)
    (job,) = jobs_folder(root).glob("*-*")
    orphan = history(job).process
    assert orphan is not None and orphan.alive()
    (sweep,) = (root / "runs" / "sweeps").iterdir()
    verb = [sys.executable, "-m", "ssvae", "cancel", sweep.name]
    said = subprocess.run(verb, env=environment(root), capture_output=True, text=True, check=True, timeout=120)
    assert "left behind" in said.stdout and not orphan.alive()
    assert history(job).next == "none"
    # The same command goes on from what the orphan has saved.
    done = run_apart(root, *[text for text in one if "detach" not in text], "launch.parallel=2")
    assert done.returncode == 0, done.stdout + done.stderr
    other = link_data(tiny_data, root / "here")
    assert run_apart(other, "seed=0", *LONG, *ONE_JOB).returncode == 0
    assert artefacts(root) == artefacts(other)


def test_sigterm_leaves_as_ctrl_c_does(root: Path) -> None:
    grid = ("seed=0", "train.steps=400", *ONE_JOB, "launch.parallel=2")
    with subprocess.Popen(command(*grid), env=environment(root), stdout=subprocess.PIPE, text=True) as process:
        _until("runs/stages/pretrain-*/steps.jsonl", root)
        process.terminate()
        said, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and "detached" in said
    (job,) = jobs_folder(root).glob("*-*")
    rank = history(job).process
    assert rank is not None and rank.alive(), "the job goes on"
    (sweep,) = (root / "runs" / "sweeps").iterdir()
    subprocess.run([sys.executable, "-m", "ssvae", "cancel", sweep.name], env=environment(root), check=True, timeout=60)
    deadline = time.monotonic() + 60
    while rank.alive():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_cells_that_are_asked_for_later_join_the_supervisor_at_work(root: Path) -> None:
    one = ("-m", "sweep.name=mine", "launch.detach=true", *LONG, *ONE_JOB)
    assert run_apart(root, *one, "reg=none,lcr").returncode == 0
    _until("runs/stages/pretrain-*/steps.jsonl", root)
    later = run_apart(root, *[text for text in one if "detach" not in text], "launch.parallel=2", "reg=none,lmr")
    assert later.returncode == 0 and "1 job submitted" in later.stdout, later.stdout + later.stderr
    now = {record["label"]: record["status"] for record in records(root)}
    assert (now["reg=none"], now["reg=lmr"]) == ("finished", "finished")
    assert [history(job).attempts for job in jobs_folder(root).glob("*-*")] == [1, 1, 1], "nothing was made twice"
