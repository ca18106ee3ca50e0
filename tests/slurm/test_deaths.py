"""One cell's death is one cell's: exceptions, kills, cancellations, dead nodes."""

from __future__ import annotations

import signal
from pathlib import Path

from slurm_cluster import Cluster
from slurm_runs import LONG, ONE_JOB, PLAIN, Sweeps, working_copy
from tiny_runs import artefacts, link_data, records, run_apart

RANKS = ("launch.jobs.pretrain.tasks_per_node=2", "launch.jobs.pretrain.cpus_per_task=1")


def test_an_exception_fails_its_cell_and_no_other(sweeps: Sweeps) -> None:
    said = sweeps.run("-m", "train.lr=0.001,1e30", "train.nonfinite_limit=0", *ONE_JOB, code=1)
    states = {row["train.lr"]: (row["status"], "NonFiniteLoss" in row["reason"]) for row in sweeps.table()}
    assert states == {"0.001": ("finished", False), "1e+30": ("failed", True)}
    assert "train.nonfinite_limit is 0" in said, "the reason"
    assert "rank_0_log.err" in said and "guard.py" in said, "the tail of its log, and where it is"
    bad = sweeps.job("1e+30")
    assert len(sweeps.events(bad, "started")) == 1, "numbers come again: it is not tried again"
    assert sweeps.slurm.states(str(bad.scheduler_id)) == {bad.scheduler_id: "FAILED"}, "Slurm knows it too"
    # Those who ask later hear the same.
    assert "NonFiniteLoss" in sweeps.verb("status", bad.sweeps[0])


def test_killed_cancelled_and_left_alone(slurm: Cluster, sweeps: Sweeps, tiny_data: Path) -> None:
    grid = ("-m", "seed=0,1,2", *LONG)
    with sweeps.attached(*grid, *ONE_JOB, "launch.retries=1") as process:
        killed, cancelled, alone = sweeps.submitted(3)
        sweeps.in_the_middle(killed)
        slurm.kill_rank(str(killed.scheduler_id), 0, signal.SIGKILL)
        slurm.run("scancel", str(cancelled.scheduler_id))
        assert process.wait(timeout=120) == 1, sweeps.printed
    assert {record["label"]: record["status"] for record in records(sweeps.root)} == {
        "seed=0": "finished", "seed=1": "killed", "seed=2": "finished",
    }  # fmt: skip
    assert {row["seed"]: row["status"] for row in sweeps.table()} == {"0": "finished", "1": "killed", "2": "finished"}
    (first, second) = sweeps.events(killed, "started")
    assert [one["next"] for one in sweeps.events(killed, "ended")] == ["retry", "none"]
    assert [one["outcome"] for one in sweeps.events(killed, "stage")] == ["resumed"], "not from its beginning"
    assert slurm.job(str(killed.scheduler_id))["Restarts"] == "1", "under the same number"
    state = slurm.job(str(cancelled.scheduler_id))
    assert (state["JobState"], state["Restarts"]) == ("CANCELLED", "0"), "what a user cancels stays cancelled"
    assert "cancelled" in sweeps.printed
    # Undisturbed, on this machine: the same bytes.
    other = link_data(tiny_data, sweeps.root / "undisturbed")
    done = run_apart(other, "seed=0", *LONG, "stage=pretrain", "stages.base=null")
    assert done.returncode == 0, done.stderr
    found = artefacts(sweeps.root)
    assert {name: found[name] for name in artefacts(other)} == dict(artefacts(other))


def test_rank_one_dies_and_the_cell_with_it(slurm: Cluster, sweeps: Sweeps) -> None:
    with sweeps.attached(*LONG, *ONE_JOB, *RANKS, "launch.retries=0") as process:
        (job,) = sweeps.submitted(1)
        sweeps.in_the_middle(job)
        slurm.kill_rank(str(job.scheduler_id), 1, signal.SIGKILL)
        assert process.wait(timeout=90) == 1, sweeps.printed
    (record,) = records(sweeps.root)
    assert record["status"] in ("failed", "killed")
    assert "rank 1 was killed" in record["reason"], record["reason"]
    assert slurm.states(str(job.scheduler_id)) == {job.scheduler_id: "FAILED"}


def test_an_exception_on_rank_one_is_the_one_that_is_told(slurm: Cluster, root: Path, tmp_path: Path) -> None:
    project = working_copy(tmp_path / "project")
    loop = project / "src" / "ssvae" / "train" / "vae_loop.py"
    fault = 'import os\nif os.environ.get("RANK") == "1":\n    raise RuntimeError("a fault of rank one")\n'
    loop.write_text(f"{loop.read_text()}\n{fault}")
    sweeps = Sweeps(slurm, root, project)
    said = sweeps.run(*ONE_JOB, *RANKS, "launch.retries=1", code=1)
    (record,) = records(root)
    assert (record["status"], "RuntimeError: a fault of rank one" in record["reason"]) == ("failed", True), record
    assert "rank_1_log.err" in said, "its log, not that of a rank which only saw the other leave"
    job = sweeps.job()
    assert [one["next"] for one in sweeps.events(job, "ended")] == ["retry", "none"]
    assert {one["rank"] for one in sweeps.events(job, "ended")} == {1}


def test_what_needs_a_failed_job_is_not_waited_for(slurm: Cluster, sweeps: Sweeps) -> None:
    said = sweeps.run("train.lr=1e30", "train.nonfinite_limit=0", "stages.base=null", *PLAIN, code=1)
    states = {job.kind: slurm.states(str(job.scheduler_id))[str(job.scheduler_id)] for job in sweeps.jobs()}
    assert states == {"pretrain": "FAILED", "measure": "CANCELLED", "probe": "CANCELLED"}
    (row,) = sweeps.table()
    assert (row["status"], "NonFiniteLoss" in row["reason"]) == ("failed", True), (
        "the reason of the first, not the last"
    )
    assert "NonFiniteLoss" in said


def test_the_first_failure_ends_the_sweep_where_asked_for(slurm: Cluster, sweeps: Sweeps) -> None:
    # The second element waits at its gate until somebody cancels it.
    gate = 'launch.setup=["if [ $SLURM_ARRAY_TASK_ID = 1 ]; then sleep 300; fi"]'
    grid = ("-m", "train.lr=1e30,0.001", "train.nonfinite_limit=0", *ONE_JOB, gate, "launch.fail_fast=true")
    sweeps.run(*grid, code=1)
    first, second = sweeps.jobs()
    assert slurm.states(str(second.scheduler_id)) == {second.scheduler_id: "CANCELLED"}
    assert {row["train.lr"]: row["status"] for row in sweeps.table()}["1e+30"] == "failed"


def test_a_dead_node_costs_its_jobs_nothing_but_time(slurm: Cluster, sweeps: Sweeps) -> None:
    with sweeps.attached(*LONG, *ONE_JOB, "launch.retries=0", "launch.exclude='n3,n4'") as process:
        (job,) = sweeps.submitted(1)
        sweeps.in_the_middle(job)
        node = slurm.job(str(job.scheduler_id))["NodeList"]
        slurm.kill_node(node)
        try:
            assert process.wait(timeout=120) == 0, sweeps.printed
        finally:
            slurm.repair()
    shown = slurm.job(str(job.scheduler_id))
    assert (shown["JobState"], shown["Restarts"]) == ("COMPLETED", "1")
    assert shown["NodeList"] != node
    assert [one["outcome"] for one in sweeps.events(job, "stage")] == ["resumed"]
