"""Trials as Slurm jobs: several chains at once, pruned ones without a probe, and a stop that takes its jobs along."""

from __future__ import annotations

import csv
import signal

from slurm_cluster import Cluster, wait_until
from slurm_runs import PLAIN, Sweeps

SEARCH = (
    "+sweep=lmr_mask",
    "sweep.name=found",
    "search.workers=2",
    "search.sampler=random",
    "search.prune.warmup=1",
    "search.prune.keep=0.5",
)


def test_trials_are_chains_of_jobs(slurm: Cluster, sweeps: Sweeps) -> None:
    said = sweeps.run("-m", *SEARCH, "search.n_trials=3", *PLAIN)
    with (sweeps.root / "results" / "found" / "trials.csv").open() as file:
        trials = list(csv.DictReader(file))
    states = [row["state"] for row in trials]
    assert len(states) == 3 and set(states) <= {"complete", "pruned"} and "complete" in states, said
    kinds = [job.kind for job in sweeps.jobs()]
    # One base for all of them, and a probe for those that were worth one.
    assert sum("base" in job.stages for job in sweeps.jobs()) == 1
    distinct = {job.cell for job in sweeps.jobs() if job.kind == "probe"}
    assert 1 <= len(distinct) <= states.count("complete") and kinds.count("measure") >= len(distinct)
    assert (sweeps.root / "results" / "found" / "pareto.png").exists()


def test_a_stopped_search_takes_its_jobs_along(slurm: Cluster, sweeps: Sweeps) -> None:
    with slurm.closed(), sweeps.attached("-m", *SEARCH, "search.n_trials=2", *PLAIN) as process:
        jobs = wait_until(sweeps.jobs, "a submitted trial")
        wait_until(lambda: all(job.scheduler_id for job in sweeps.jobs()), "their numbers")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130, sweeps.printed
        states = slurm.states(*(str(job.scheduler_id) for job in sweeps.jobs()))
        assert set(states.values()) <= {"CANCELLED"}, (jobs, states)
