"""Submit and leave; come back, look, and collect."""

from __future__ import annotations

import json
import signal

from slurm_cluster import Cluster, wait_until
from slurm_runs import LONG, ONE_JOB, Sweeps


def _statuses(sweeps: Sweeps, name: str) -> dict[str, str]:
    rows = json.loads(sweeps.verb("status", name, "--json"))
    return {row["label"]: row["status"] for row in rows}


def test_submit_leave_look_and_collect(slurm: Cluster, sweeps: Sweeps) -> None:
    grid = ("-m", "seed=0,1", *LONG, *ONE_JOB, "launch.jobs.pretrain.array_parallelism=1", "sweep.name=left")
    said = sweeps.run(*grid, "launch.detach=true")
    for words in ("2 jobs submitted", "python -m ssvae status left", "python -m ssvae collect left"):
        assert words in said
    first, second = sweeps.jobs()
    sweeps.in_the_middle(first)
    assert _statuses(sweeps, "left") == {"seed=0": "running", "seed=1": "waiting"}
    shown = sweeps.verb("status", "left")
    assert "pretrain, step" in shown and "of 150" in shown, shown
    # Whoever asks for the same again gets the same jobs, not others beside them.
    assert "0 jobs submitted" in sweeps.run(*grid, "launch.detach=true")
    sweeps.thaw(first)
    for job in (first, second):
        assert slurm.wait_for_state(str(job.scheduler_id)) == "COMPLETED"
    assert len(slurm.states(*(str(job.scheduler_id) for job in (first, second)))) == 2
    assert _statuses(sweeps, "left") == {"seed=0": "finished", "seed=1": "finished"}
    sweeps.verb("collect", "left")
    assert [row["status"] for row in sweeps.table()] == ["finished", "finished"]


def test_ctrl_c_detaches_and_the_same_command_comes_back(slurm: Cluster, sweeps: Sweeps) -> None:
    cell = (*LONG, *ONE_JOB, "sweep.name=watched")
    with sweeps.attached(*cell) as process:
        (job,) = sweeps.submitted(1)
        sweeps.in_the_middle(job)
        wait_until(lambda: "running" in sweeps.printed, "the live table")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    assert "detached" in sweeps.printed and "python -m ssvae status watched" in sweeps.printed
    assert "Traceback" not in sweeps.printed
    assert slurm.states(str(job.scheduler_id)) == {job.scheduler_id: "RUNNING"}
    with sweeps.attached(*cell) as process:
        wait_until(lambda: "0 jobs submitted" in sweeps.printed, "the second call")
        sweeps.thaw(job)
        assert process.wait(timeout=60) == 0, sweeps.printed
    assert len(sweeps.events(job, "started")) == 1
    assert [row["status"] for row in sweeps.table()] == ["finished"]


def test_cancel_ends_what_is_left(slurm: Cluster, sweeps: Sweeps) -> None:
    with slurm.closed():
        sweeps.run("-m", "seed=0,1", *ONE_JOB, "sweep.name=unwanted", "launch.detach=true")
        sweeps.verb("cancel", "unwanted")
        wait_until(lambda: not slurm.unfinished(), "an empty queue")
    # Of elements that waited Slurm keeps no record of their own.
    wait_until(lambda: set(_statuses(sweeps, "unwanted").values()) == {"killed"}, "two killed cells")
    assert "by the user" in sweeps.verb("status", "unwanted")
