"""Ranks with different software are named."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from preflight_jobs import crew

from ssvae.core.identity import FROZEN
from ssvae.core.paths import PROJECT
from ssvae.preflight.versions import PACKAGES, judge_versions, measure_versions


def test_this_machine_agrees_with_itself() -> None:
    facts = measure_versions(PROJECT)
    assert {*PACKAGES, "CUDA", "cuDNN", "ssvae", "commit", "python"} <= facts["versions"].keys()
    assert facts["versions"]["torch"] == torch.__version__
    verdict = judge_versions({0: facts, 1: json.loads(json.dumps(facts))}, crew("n1", "n2"))
    assert verdict.problems == [] and f"torch {torch.__version__}" in verdict.note


def test_each_version_that_differs_is_named_with_ranks_and_hosts() -> None:
    facts = measure_versions(PROJECT)["versions"]
    answers = {rank: {"versions": dict(facts)} for rank in range(4)}
    answers[3]["versions"].update({"torch": "2.9.0", "cuDNN": "91002"})
    problems = judge_versions(answers, crew("n1", "n1", "n2", "n2")).problems
    assert [problem.what for problem in problems] == [
        f"torch differs: {torch.__version__} on ranks 0-1 (n1), 2 (n2), 2.9.0 on rank 3 (n2)",
        f"cuDNN differs: {facts['cuDNN']} on ranks 0-1 (n1), 2 (n2), 91002 on rank 3 (n2)",
    ]
    assert all("one environment on all nodes" in problem.remedy for problem in problems)


def test_a_frozen_copy_of_the_code_speaks_of_its_commit(tmp_path: Path) -> None:
    (tmp_path / FROZEN).write_text(json.dumps({"commit": "0123456789abcdef", "dirty": True}))
    assert measure_versions(tmp_path)["versions"]["commit"] == "0123456789ab (changed)"
