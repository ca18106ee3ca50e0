"""Are all ranks there, as many as were asked for, and none of them slow?"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping

import torch

from ssvae.build import default_device
from ssvae.preflight.base import Crew, Facts, Limits, Problem, Verdict

_REPEATS = 5
_SIDE = {"cuda": 4096, "cpu": 512}
"""Of the square float32 matrices that are multiplied: milliseconds on either."""


def absent_problems(crew: Crew, seconds: float, nodes: str | None = None) -> list[Problem]:
    """Ranks that never signed in. nodes: those of the job, as Slurm spells them."""
    if not crew.absent:
        return []
    signed = ", ".join(dict.fromkeys(crew.hosts.values()))
    where = f" (nodes {nodes}; signed in: {signed})" if nodes else f" (signed in: {signed})"
    return [
        Problem(
            f"{crew.names(crew.absent)} of {crew.world} did not sign in within {seconds:g} s{where}",
            "look at their logs; leave a bad node out with launch.exclude=NODE",
        )
    ]


def world_facts(world: int, environ: Mapping[str, str] | None = None) -> Facts:
    """What this process sees, and what it was told by those who started it."""
    environ = os.environ if environ is None else environ
    told = {"WORLD_SIZE": environ.get("WORLD_SIZE")}
    # torchrun starts several ranks in one Slurm task. A shell inside an allocation has SLURM_NTASKS, and is no task.
    if "TORCHELASTIC_RUN_ID" not in environ and "SLURM_PROCID" in environ:
        step = environ.get("SLURM_STEP_NUM_TASKS")
        told["SLURM_NTASKS" if step is None else "SLURM_STEP_NUM_TASKS"] = step or environ.get("SLURM_NTASKS")
    return {"world": world, "told": {name: int(value) for name, value in told.items() if value is not None}}


def judge_world(answers: Mapping[int, Facts], crew: Crew, asked: int | None) -> Verdict:
    """Does the number of ranks agree with the environment of each, and with what the job asked for?"""
    problems = []
    remedy = "start every rank with torchrun or srun, from one launcher; alone each would train on a part of the batch"
    wrong: dict[str, list[int]] = {}
    for rank, facts in answers.items():
        for name, told in facts["told"].items():
            if told != facts["world"]:
                wrong.setdefault(f"{name} = {told}, but {_ranks(facts['world'])} found each other", []).append(rank)
    problems += [Problem(_of(crew, ranks) + text, remedy) for text, ranks in wrong.items()]
    if asked is not None and asked != crew.world:
        text = f"the job asked for {_ranks(asked)}, but {_ranks(crew.world)} found each other"
        problems.append(Problem(text, remedy))
    hosts = len(set(crew.hosts.values()))
    return Verdict(f"{_ranks(crew.world)} on {hosts} host{'s' if hosts > 1 else ''}, as told", problems, [])


def measure_speed() -> Facts:
    """Seconds of a fixed matrix product, the best of five, on the device of this rank."""
    device = default_device()
    side = _SIDE[device.type]
    values = torch.full((side, side), 0.5, device=device)

    def once() -> float:
        begun = time.perf_counter()
        product = values @ values
        # Reading one value waits for the device.
        assert product[0, 0].item() == side / 4
        return time.perf_counter() - begun

    once()
    return {"device": device.type, "seconds": min(once() for _ in range(_REPEATS))}


def judge_speed(answers: Mapping[int, Facts], crew: Crew, limits: Limits) -> Verdict:
    """A slow rank holds up all others; the job runs all the same."""
    seconds = {rank: facts["seconds"] for rank, facts in answers.items()}
    # The lower one of two: of a fast and a slow rank the fast one is the measure.
    median = statistics.median_low(seconds.values())
    warnings = []
    devices = {facts["device"] for facts in answers.values()}
    for rank, value in seconds.items():
        limit = limits.slow_gpu if answers[rank]["device"] == "cuda" else limits.slow_cpu
        if value > limit * median:
            warnings.append(
                Problem(
                    f"{crew.names([rank])} takes {value / median:.1f} times the median of all for a matrix product "
                    f"({1000 * value:.2f} ms)",
                    "look at clocks, temperature and other users of that node, or leave it out with launch.exclude",
                )
            )
    return Verdict(f"matrix product {1000 * median:.2f} ms on {' and '.join(sorted(devices))}", [], warnings)


def _ranks(count: int) -> str:
    return f"{count} rank{'s' if count != 1 else ''}"


def _of(crew: Crew, ranks: list[int]) -> str:
    return f"{names}: " if (names := crew.names(ranks)) else ""
