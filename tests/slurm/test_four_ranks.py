"""Two nodes with two ranks each make what one process makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from slurm_cluster import Cluster, assert_fields
from slurm_runs import ONE_JOB, Sweeps
from tiny_runs import artefacts, link_data, run_apart

CELL = ("reg=lcr", "train.batch=4", "stage=pretrain", "stages.base=null")
RANKS = ("launch.jobs.pretrain.nodes=2", "launch.jobs.pretrain.tasks_per_node=2")


def test_four_ranks_equal_one(slurm: Cluster, sweeps: Sweeps, tiny_data: Path) -> None:
    sweeps.run(*CELL, *ONE_JOB, *RANKS, "launch.retries=0")
    job = sweeps.job()
    assert slurm.wait_for_state(str(job.scheduler_id)) == "COMPLETED"
    assert_fields(slurm.job(str(job.scheduler_id)), {"NumNodes": "2", "NumTasks": "4"})
    ended = sweeps.events(job, "rank")
    assert sorted((one["rank"], one["how"]) for one in ended) == [(rank, "finished") for rank in range(4)]
    assert len({one["host"] for one in ended}) == 2
    alone = link_data(tiny_data, sweeps.root / "alone")
    done = run_apart(alone, *CELL)
    assert done.returncode == 0, done.stdout + done.stderr
    assert artefacts(sweeps.root).keys() == artefacts(alone).keys(), "the same stage: whoever asks next finds it"
    here, there = (_trained(root) for root in (sweeps.root, alone))
    for name in ("vae/model.safetensors", "parts.safetensors"):
        weights, others = load_file(here / name), load_file(there / name)
        assert weights.keys() == others.keys()
        for key, value in weights.items():
            # Adam's first steps turn the rounding of gradients near zero into steps of either sign: single weights
            # may differ by as much as a step, a tensor as a whole may not.
            assert (value - others[key]).norm() <= 1e-4 * value.norm() + 1e-6, key
    for line, other in zip(_log(here), _log(there), strict=True):
        assert line.keys() == other.keys()
        for name, value in line.items():
            assert other[name] == pytest.approx(value, rel=1e-3, abs=1e-4), f"{name} at step {line['step']}"


def _trained(root: Path) -> Path:
    (folder,) = (root / "runs" / "stages").glob("pretrain-*")
    return folder


def _log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
