"""The number of ranks, those that are absent, and the slow one."""

from __future__ import annotations

import pytest
from preflight_jobs import QUICK, crew

from ssvae.preflight.base import Crew
from ssvae.preflight.ranks import absent_problems, judge_speed, judge_world, measure_speed, world_facts

TASK = {"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        ({}, {}),
        ({"WORLD_SIZE": "4"}, {"WORLD_SIZE": 4}),
        ({"SLURM_NTASKS": "8"}, {}),  # a shell inside an allocation
        (TASK, {"SLURM_NTASKS": 8}),
        ({**TASK, "SLURM_STEP_NUM_TASKS": "2"}, {"SLURM_STEP_NUM_TASKS": 2}),  # srun -n 2 inside an allocation of 8
        ({**TASK, "WORLD_SIZE": "16", "TORCHELASTIC_RUN_ID": "none"}, {"WORLD_SIZE": 16}),  # torchrun in each task
    ],
)
def test_what_a_process_is_told_of_the_number_of_ranks(environ: dict[str, str], told: dict[str, int]) -> None:
    assert world_facts(1, environ) == {"world": 1, "told": told}


def test_a_task_that_finds_nobody_is_named() -> None:
    """The silent failure: each of two tasks trains alone."""
    verdict = judge_world({0: world_facts(1, TASK)}, crew("n1"), None)
    assert [str(problem) for problem in verdict.problems] == [
        "SLURM_NTASKS = 8, but 1 rank found each other; start every rank with torchrun or srun, from one launcher; "
        "alone each would train on a part of the batch"
    ]


def test_one_rank_that_was_told_otherwise_is_named_with_its_host() -> None:
    answers = {0: world_facts(2, {"WORLD_SIZE": "2"}), 1: world_facts(2, {"WORLD_SIZE": "3"})}
    (problem,) = judge_world(answers, crew("n1", "n2"), 2).problems
    assert problem.what == "rank 1 (n2): WORLD_SIZE = 3, but 2 ranks found each other"


def test_another_number_than_the_job_asked_for() -> None:
    answers = {rank: world_facts(2, {"WORLD_SIZE": "2"}) for rank in range(2)}
    assert judge_world(answers, crew("n1", "n1"), 2).problems == []
    (problem,) = judge_world(answers, crew("n1", "n1"), 32).problems
    assert problem.what == "the job asked for 32 ranks, but 2 ranks found each other"


def test_absent_ranks_are_listed_with_the_hosts_that_did_come() -> None:
    (problem,) = absent_problems(Crew(4, {0: "n1", 1: "n1"}), 120, "n[1-2]")
    assert problem.what == "ranks 2-3 of 4 did not sign in within 120 s (nodes n[1-2]; signed in: n1)"
    assert "launch.exclude" in problem.remedy
    assert absent_problems(crew("n1", "n1"), 120) == []


def test_a_slow_rank_is_a_warning_that_names_it() -> None:
    def speeds(device: str, *seconds: float) -> dict[int, dict[str, object]]:
        return {rank: {"device": device, "seconds": value} for rank, value in enumerate(seconds)}

    four = crew("n1", "n1", "n2", "n2")
    verdict = judge_speed(speeds("cuda", 1.0, 1.1, 1.0, 1.7), four, QUICK)
    assert verdict.problems == []
    (warning,) = verdict.warnings
    assert warning.what.startswith("rank 3 (n2) takes 1.7 times the median of all")
    assert "launch.exclude" in warning.remedy
    assert judge_speed(speeds("cpu", 1.0, 1.1, 1.0, 1.7), four, QUICK).warnings == [], "a CPU has other users"
    assert len(judge_speed(speeds("cuda", 1.0, 1.6), crew("n1", "n2"), QUICK).warnings) == 1, (
        "of two the fast one counts"
    )


def test_the_product_takes_a_time() -> None:
    facts = measure_speed()
    assert facts["device"] in ("cpu", "cuda") and 0 < facts["seconds"] < 10
