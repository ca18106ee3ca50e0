"""GPUs that are missing, shared, held by others or too old, told from numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from preflight_jobs import QUICK, config, crew, job

from ssvae.preflight.base import GIB, Facts, Problem, Verdict
from ssvae.preflight.gpu import judge_gpu, measure_gpu, trains_in_bf16


def seen(uuid: str, visible: tuple[str, ...] = (), **changes: Any) -> Facts:
    own = {"uuid": uuid, "name": "H100", "capability": [9, 0], "free": 79 * GIB, "total": 80 * GIB, "taken": GIB // 2}
    return {"visible": dict.fromkeys(visible or (uuid,), "H100"), "built": "12.8", "own": {**own, **changes}}


def judged(*facts: Facts, asked: int | None = None, bf16: bool = True) -> Verdict:
    hosts = crew(*(f"n{rank // 2}" for rank in range(len(facts))))
    return judge_gpu(dict(enumerate(facts)), hosts, asked, bf16, QUICK)


def only(problems: list[Problem]) -> Problem:
    (problem,) = problems
    return problem


def test_good_ones_pass() -> None:
    verdict = judged(seen("a"), seen("b"), seen("c"), seen("d"), asked=2)
    assert verdict.problems == [] and verdict.warnings == []
    assert verdict.note == "4 x H100, capability 9.0, at least 79.0 of 80.0 GiB free"


def test_ranks_that_see_all_of_a_node_and_ranks_that_see_their_own() -> None:
    both = ("a", "b")
    assert judged(seen("a", both), seen("b", both), asked=2).problems == []
    assert only(judged(seen("a"), asked=2).problems).what == "n0: 1 of the 2 GPUs that the job asked for are there"


def test_a_node_without_gpus() -> None:
    none: Facts = {"visible": {}, "built": "12.8"}
    problem = only(judged(none, none, asked=8).problems)
    assert problem.what.startswith("n0: 0 of the 8 GPUs") and "gpus_per_node" in problem.remedy
    problem = only(judged({"visible": {}, "built": None}, asked=8).problems)
    assert "built for CPUs" in problem.remedy
    assert judged(none, none).note == "no GPU here, and none was asked for: a CPU job"


def test_one_rank_without_a_gpu() -> None:
    found = judged(seen("a"), seen("b"), seen("c"), {"visible": {}, "built": "12.8"})
    assert only(found.problems).what == "no GPU on rank 3 (n1), others have one"


def test_two_ranks_on_one_gpu() -> None:
    problem = only(judged(seen("a"), seen("a")).problems)
    assert problem.what == "one GPU (a) is shared by every rank" and "as many GPUs as tasks" in problem.remedy


def test_a_gpu_too_old_for_bf16() -> None:
    old = seen("b", capability=[7, 0], name="V100")
    problem = only(judged(seen("a"), old).problems)
    assert problem.what == "rank 1 (n0): V100 has compute capability 7.0, and bfloat16 needs 8.0"
    assert "train.precision=fp32" in problem.remedy
    assert judged(seen("a"), old, bf16=False).problems == []
    assert only(judged(seen("a"), old, bf16=False).warnings).what == "different GPUs: H100, V100"


def test_memory_that_others_hold() -> None:
    some, much = seen("a", taken=3 * GIB), seen("b", taken=30 * GIB)
    verdict = judged(some, much)
    assert only(verdict.warnings).what == "rank 0 (n0): 3.0 of 80.0 GiB of its GPU are held by others"
    assert only(verdict.problems).what == "rank 1 (n0): 30.0 of 80.0 GiB of its GPU are held by others"


@pytest.mark.skipif(torch.cuda.is_available(), reason="of machines without a GPU")
def test_bf16_on_a_machine_without_gpu_is_refused_where_it_would_train(tmp_path: Path) -> None:
    cfg = config("train.precision=bf16", "stages.base.train.precision=fp32")
    facts = measure_gpu(job(tmp_path, cfg))
    ((what, remedy),) = facts["problems"]
    assert what.startswith("train.precision = bf16: bfloat16") and remedy == "set train.precision=fp32"
    assert measure_gpu(job(tmp_path, cfg, stages=("measure", "probe")))["problems"] == []
    assert measure_gpu(job(tmp_path))["problems"] == []


def test_which_jobs_train_in_bf16(tmp_path: Path) -> None:
    half = config("train.precision=bf16")
    assert trains_in_bf16(job(tmp_path, half)) and not trains_in_bf16(job(tmp_path))
    assert not trains_in_bf16(job(tmp_path, half, stages=("measure",)))
