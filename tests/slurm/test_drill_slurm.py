"""The drill on a real Slurm: jobs that are killed come back by themselves, and end as if nothing had been."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from slurm_cluster import Cluster
from ssvae.config.compose import PROJECT
from ssvae.core.files import read_json

SMALL = ("stages.base=null", "stages.decoder_finetune=null", "stages.probe_base=null", "score.trained=pretrain")
TWO_RANKS = ("launch.jobs.pretrain.nodes=2",)


@pytest.mark.timeout(900)
def test_jobs_survive_every_signal_on_one_rank_and_on_two(slurm: Cluster, place: Path) -> None:
    out = place / "out"
    words = ["launch=slurm_cpu", "launch.preflight=false", *TWO_RANKS, *SMALL]
    done = subprocess.run(
        [sys.executable, "-m", "ssvae", "drill", "--kills", "3", "--out", str(out), "--keep", *words],
        env={**slurm.env, "OMP_NUM_THREADS": "1"},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    record = read_json(out / "drill.json")
    assert all(proof["passed"] for proof in record["proofs"])
    assert sorted(hit["signal"] for hit in record["hits"]) == ["KILL", "TERM", "USR2"]
    hows = {hit["signal"]: hit["how"] for hit in record["hits"]}
    assert hows == {"KILL": "killed, retry", "TERM": "interrupted, requeue", "USR2": "interrupted, requeue"}
    jobs = {path.parent.name.split("-")[0]: read_json(path) for path in out.glob("disturbed/runs/jobs/*/job.json")}
    assert (jobs["pretrain"]["world"], jobs["measure"]["world"], jobs["probe"]["world"]) == (2, 1, 1)
    # Killed, put back, tried again: each job keeps its number, so that those that wait for it find it.
    for name, job in jobs.items():
        records = [read_json(out / "disturbed" / where / "run.json") for where in job["stages"].values()]
        restarts = int(slurm.job(job["scheduler_id"])["Restarts"])
        assert restarts == sum(record["attempts"] - 1 for record in records), name
    assert [path.name for path in place.iterdir()] == ["out"]
