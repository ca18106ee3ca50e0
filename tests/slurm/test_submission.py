"""What Slurm is asked for, as ``scontrol show job`` tells it. Nothing runs here: the queue is closed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from slurm_cluster import Cluster, assert_fields
from slurm_runs import Sweeps
from ssvae.core.jobs import JobFile

BATCHES = ("train.batch=32", "stages.base.train.batch=32", "probe.train.batch=32")
"""Divide into the 32 ranks of four nodes."""


@pytest.fixture(autouse=True)
def closed(slurm: Cluster) -> Iterator[None]:
    """Jobs wait."""
    with slurm.closed("main"), slurm.closed("high"):
        yield


def by_kind(jobs: list[JobFile]) -> dict[str, list[JobFile]]:
    """In the order of submission."""
    found: dict[str, list[JobFile]] = {}
    for job in jobs:
        found.setdefault(job.kind, []).append(job)
    return found


def test_presets_and_settings_reach_slurm(slurm: Cluster, sweeps: Sweeps) -> None:
    said = sweeps.run(
        "-m", "reg=none,lcr,lmr", *BATCHES,
        "launch=slurm", "launch.preflight=false", "launch.detach=true", "launch.array_size=2",
        "launch.partition=main", "launch.account=lab", "launch.qos=normal", "launch.constraint=h100",
        "launch.setup=['module load cuda']",
        "launch.jobs.pretrain.array_parallelism=1", "launch.jobs.pretrain.timeout_min=2880",
        "launch.jobs.measure.comment=scores", "+launch.jobs.measure.additional_parameters={nice: 5}",
        "launch.jobs.probe.exclude=n2",
    )  # fmt: skip
    assert "10 jobs submitted" in said
    kinds = by_kind(sweeps.jobs())
    assert {kind: len(jobs) for kind, jobs in kinds.items()} == {"pretrain": 4, "measure": 3, "probe": 3}
    base, *cells = kinds["pretrain"]
    assert list(base.stages) == ["base"], "cells that share a stage share its job"
    everywhere = {"Partition": "main", "Account": "lab", "Features": "h100", "Requeue": "1", "JobState": "PENDING"}
    whole = {**everywhere, "NumNodes": "4", "NumTasks": "32", "CPUs/Task": "12", "NumCPUs": "384"}
    eight = {**everywhere, "NumNodes": "1", "NumTasks": "8", "CPUs/Task": "12", "NumCPUs": "96"}
    one = {**everywhere, "NumNodes": "1", "NumTasks": "1", "CPUs/Task": "12", "NumCPUs": "12"}
    node = {"TresPerNode": "gres:gpu:8", "MinMemoryNode": "960G"}
    shown = {job.job_id: slurm.jobs(str(job.scheduler_id))[0] for job in sweeps.jobs()}
    assert_fields(shown[base.job_id], {**whole, **node, "TimeLimit": "2-00:00:00", "ExcNodeList": "(null)"})
    assert shown[base.job_id]["JobName"] == f"ssvae-{base.job_id}"
    for job in cells:
        behind = f"afterok:{base.scheduler_id}(unfulfilled)"
        assert_fields(shown[job.job_id], {**whole, **node, "Dependency": behind, "KillOInInvalidDependent": "Yes"})
    for job in kinds["measure"]:
        assert_fields(shown[job.job_id], {**one, "Comment": "scores", "Nice": "5", "TresPerNode": "gres:gpu:1"})
        assert_fields(shown[job.job_id], {"MinMemoryNode": "120G", "TimeLimit": "04:00:00"})
    for job in kinds["probe"]:
        assert_fields(shown[job.job_id], {**eight, **node, "ExcNodeList": "n2", "TimeLimit": "1-00:00:00"})
    for job in sweeps.jobs():
        script = slurm.run("scontrol", "write", "batch_script", _array(job), "-")
        assert "module load cuda" in script and "--qos=normal" in script and "--kill-on-bad-exit=1" in script
    # Arrays of at most two, one element of the first kind at a time, and each cell behind its own pre-training alone.
    first, second, alone = cells
    assert _array(first) == _array(second) != _array(alone)
    assert [str(job.scheduler_id).partition("_")[2] for job in cells] == ["0", "1", ""]
    assert {slurm.jobs(_array(first))[0]["ArrayTaskThrottle"]} == {"1"}
    for kind in ("measure", "probe"):
        pair, last = kinds[kind][:2], kinds[kind][2]
        for job in pair:
            assert shown[job.job_id]["Dependency"] == f"aftercorr:{_array(first)}_*(unfulfilled)"
        assert [job.cells for job in pair] == [first.cells, second.cells], "an element waits for its own number"
        assert shown[last.job_id]["Dependency"] == f"afterok:{alone.scheduler_id}(unfulfilled)"


def test_hydras_own_way_of_asking_for_slurm(slurm: Cluster, sweeps: Sweeps) -> None:
    sweeps.run(
        "-m", "reg=none,lcr", "stage=pretrain", "stages.base=null", "train.batch=4", "launch.detach=true",
        "hydra/launcher=submitit_slurm", "hydra.launcher.partition=high", "hydra.launcher.nodes=2",
        "hydra.launcher.tasks_per_node=2", "hydra.launcher.cpus_per_task=3", "hydra.launcher.mem_gb=7",
        "hydra.launcher.timeout_min=90", "hydra.launcher.array_parallelism=1", "hydra.launcher.gres=gpu:2",
        "hydra.launcher.constraint=h100", "hydra.launcher.exclude=n3",
    )  # fmt: skip
    wanted = {
        "Partition": "high",
        "NumNodes": "2",
        "NumTasks": "4",
        "CPUs/Task": "3",
        "MinMemoryNode": "7G",
        "TimeLimit": "01:30:00",
    }
    more = {"TresPerNode": "gres:gpu:2", "Features": "h100", "ExcNodeList": "n3", "ArrayTaskThrottle": "1"}
    first, second = sweeps.jobs()
    assert _array(first) == _array(second)
    assert_fields(slurm.jobs(_array(first))[0], {**wanted, **more, "Requeue": "1"})


def _array(job: JobFile) -> str:
    return str(job.scheduler_id).partition("_")[0]
