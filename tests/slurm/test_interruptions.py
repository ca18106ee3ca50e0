"""Pre-emption and time-outs: saved once, put back under the same number, gone on with in the same folder."""

from __future__ import annotations

from pathlib import Path

from slurm_cluster import Cluster, wait_until
from slurm_runs import LONG, ONE_JOB, Sweeps
from ssvae.core.jobs import JobFile
from tiny_runs import artefacts, link_data, records, run_apart


def assert_as_if_undisturbed(sweeps: Sweeps, tiny_data: Path, job: JobFile, *overrides: str) -> None:
    """The job was interrupted and then finished, and nothing shows in what it made."""
    assert [one["how"] for one in sweeps.events(job, "ended")][-1] == "finished"
    assert [one["outcome"] for one in sweeps.events(job, "stage")] == ["resumed"]
    (record,) = records(sweeps.root)
    assert record["status"] == "finished"
    other = link_data(tiny_data, sweeps.root / "undisturbed")
    done = run_apart(other, *overrides, "stage=pretrain", "stages.base=null")
    assert done.returncode == 0, done.stderr
    assert artefacts(sweeps.root) == artefacts(other)


def test_preempted_by_a_more_important_job(slurm: Cluster, sweeps: Sweeps, tiny_data: Path) -> None:
    with sweeps.attached(*LONG, *ONE_JOB, "launch.retries=0", "launch.jobs.pretrain.signal_delay_s=30") as process:
        (job,) = sweeps.submitted(1)
        number = str(job.scheduler_id)
        sweeps.in_the_middle(job)
        whole = ("--nodes=4", "--exclusive", "--output=/dev/null", "--time=5")
        other = slurm.run("sbatch", "--parsable", "--partition=high", *whole, "--wrap=sleep 2").strip()
        wait_until(lambda: slurm.job(number).get("PreemptTime", "None") != "None", "pre-emption")
        sweeps.thaw(job)
        assert process.wait(timeout=120) == 0, sweeps.printed
    assert slurm.job(number)["Restarts"] == "1", "put back once, not by us and by Slurm"
    assert slurm.states(other)[other] == "COMPLETED"
    first, last = sweeps.events(job, "ended")
    assert (first["how"], first["next"]) == ("interrupted", "requeue")
    assert len(sweeps.events(job, "started")) == 2
    assert_as_if_undisturbed(sweeps, tiny_data, job, *LONG)


def test_a_time_limit_is_reached_and_gone_on_after(slurm: Cluster, sweeps: Sweeps, tiny_data: Path) -> None:
    short = ("launch.jobs.pretrain.timeout_min=1", "launch.jobs.pretrain.signal_delay_s=40")
    with sweeps.attached(*LONG, *ONE_JOB, *short, "launch.retries=0") as process:
        (job,) = sweeps.submitted(1)
        number = str(job.scheduler_id)
        sweeps.in_the_middle(job)
        # Slurm looks at limits every 30 s; its signal comes with SIGCONT, which thaws.
        assert process.wait(timeout=120) == 0, sweeps.printed
    assert slurm.job(number)["JobState"] == "COMPLETED"
    assert int(slurm.job(number)["Restarts"]) >= 1
    first = sweeps.events(job, "ended")[0]
    assert (first["how"], first["next"]) == ("interrupted", "requeue")
    assert "time limit" in first["reason"]
    assert_as_if_undisturbed(sweeps, tiny_data, job, *LONG)


def test_the_budget_of_time_outs_ends(slurm: Cluster, sweeps: Sweeps) -> None:
    short = ("launch.jobs.pretrain.timeout_min=1", "launch.jobs.pretrain.signal_delay_s=50")
    with sweeps.attached(*LONG, *ONE_JOB, *short, "launch.jobs.pretrain.max_num_timeout=0") as process:
        (job,) = sweeps.submitted(1)
        sweeps.in_the_middle(job)
        slurm.run("scancel", "--signal=USR2", str(job.scheduler_id))
        sweeps.thaw(job)
        assert process.wait(timeout=90) == 1, sweeps.printed
    (record,) = records(sweeps.root)
    assert record["status"] == "failed"
    assert "max_num_timeout" in record["reason"]
    assert slurm.job(str(job.scheduler_id))["Restarts"] == "0"
