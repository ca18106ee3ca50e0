"""Are the GPUs there, one a rank, free, and able to do what the job wants of them?"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from ssvae.config.train import Precision
from ssvae.preflight.base import GIB, Crew, Facts, Limits, Needs, Problem, Verdict
from ssvae.stages.plan import TRAINING
from ssvae.stages.trained import unsafe_here

BF16_CAPABILITY = (8, 0)
"""Compute capability from which on tensor cores know bfloat16 (Ampere)."""
_ASK = "ask for them (launch.jobs.KIND.gpus_per_node), and see nvidia-smi on that node"


def trains_in_bf16(needs: Needs) -> bool:
    """Does any stage of the job train a VAE in bfloat16?"""
    stages = [
        getattr(cfg.stages, name)
        for cfg in needs.cells
        if cfg.vae.weights is None
        for name in needs.stages_of(cfg)
        if name in TRAINING
    ]
    return any(stage is not None and stage.train.precision is Precision.bf16 for stage in stages)


def measure_gpu(needs: Needs) -> Facts:
    """What this rank sees: all GPUs by their lasting names, and the one that it uses."""
    facts: Facts = {"visible": {}, "built": torch.version.cuda}
    if not torch.cuda.is_available():
        cells = [cfg for cfg in needs.cells if any(name in TRAINING for name in needs.stages_of(cfg))]
        facts["problems"] = [list(text.rpartition("; ")[::2]) for text in unsafe_here(cells)]
        return facts
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        facts["visible"][str(properties.uuid)] = properties.name
    own = torch.cuda.current_device()
    properties = torch.cuda.get_device_properties(own)
    free, total = torch.cuda.mem_get_info(own)
    facts["own"] = {
        "uuid": str(properties.uuid),
        "name": properties.name,
        "capability": [properties.major, properties.minor],
        "free": free,
        "total": total,
        "taken": total - free - torch.cuda.memory_reserved(own),
    }
    return facts


def judge_gpu(answers: Mapping[int, Facts], crew: Crew, asked: int | None, bf16: bool, limits: Limits) -> Verdict:
    """asked: GPUs a node; bf16: is it trained in? GPUs that ranks share, that others hold, that are too old or fewer
    than asked for stop the job; different products are a warning."""
    having = {rank: facts for rank, facts in answers.items() if "own" in facts}
    problems = _counts(answers, crew, asked)
    warnings: list[Problem] = []
    if having and len(having) < len(answers):
        without = [rank for rank in answers if rank not in having]
        problems.append(Problem(f"no GPU on {crew.names(without)}, others have one", _ASK))
    problems += _shared(having, crew)
    for rank, facts in having.items():
        own, who = facts["own"], _who(crew, rank)
        if bf16 and tuple(own["capability"]) < BF16_CAPABILITY:
            problems.append(
                Problem(
                    f"{who}{own['name']} has compute capability {'.'.join(map(str, own['capability']))}, and bfloat16 "
                    f"needs {'.'.join(map(str, BF16_CAPABILITY))}",
                    "set train.precision=fp32, or use another GPU",
                )
            )
        if own["taken"] > limits.taken_warning:
            taken = Problem(
                f"{who}{own['taken'] / GIB:.1f} of {own['total'] / GIB:.1f} GiB of its GPU are held by others",
                "end what is left there (nvidia-smi), or ask for the node alone (additional_parameters.exclusive)",
            )
            (problems if own["taken"] > limits.taken_share * own["total"] else warnings).append(taken)
    products = {facts["own"]["name"] for facts in having.values()}
    if len(products) > 1:
        text = f"different GPUs: {', '.join(sorted(products))}"
        warnings.append(Problem(text, "the slowest sets the pace: launch.constraint picks one kind"))
    return Verdict(_note(having, crew, asked), problems, warnings)


def _counts(answers: Mapping[int, Facts], crew: Crew, asked: int | None) -> list[Problem]:
    """Hosts with fewer GPUs than the job asked for, over all that its ranks see."""
    problems = []
    for host in dict.fromkeys(crew.hosts[rank] for rank in answers):
        ranks = [rank for rank in answers if crew.hosts[rank] == host]
        seen = {uuid for rank in ranks for uuid in answers[rank]["visible"]}
        if asked is None or len(seen) >= asked:
            continue
        if not seen and answers[ranks[0]]["built"] is None:
            remedy = "this torch is built for CPUs: install one that is built for CUDA"
        else:
            remedy = _ASK
        problems.append(Problem(f"{host}: {len(seen)} of the {asked} GPUs that the job asked for are there", remedy))
    return problems


def _shared(having: Mapping[int, Facts], crew: Crew) -> list[Problem]:
    users: dict[str, list[int]] = {}
    for rank, facts in having.items():
        users.setdefault(facts["own"]["uuid"], []).append(rank)
    return [
        Problem(f"one GPU ({uuid}) is shared by {crew.names(ranks)}", "ask for as many GPUs as tasks on a node")
        for uuid, ranks in users.items()
        if len(ranks) > 1
    ]


def _note(having: Mapping[int, Facts], crew: Crew, asked: int | None) -> str:
    if not having:
        return "no GPU here, and none was asked for: a CPU job" if not asked else "no GPU"
    owns = [facts["own"] for facts in having.values()]
    least = min(owns, key=lambda own: int(own["free"]))
    return (
        f"{len(owns)} x {owns[0]['name']}, capability {'.'.join(map(str, owns[0]['capability']))}, "
        f"at least {least['free'] / GIB:.1f} of {least['total'] / GIB:.1f} GiB free"
    )


def _who(crew: Crew, rank: int) -> str:
    return f"{names}: " if (names := crew.names([rank])) else ""
