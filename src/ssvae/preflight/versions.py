"""Does every rank run the same software? Ranks that differ in a version may differ in every number."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import torch

from ssvae.core.identity import git_state
from ssvae.preflight.base import Crew, Facts, Problem, Verdict, differing

PACKAGES = ("torch", "numpy", "accelerate", "av", "mlflow")


def measure_versions(project: Path) -> Facts:
    """Of the interpreter, of packages, of CUDA and its libraries, and of this project."""
    found: dict[str, str] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    # What is imported counts, whatever is installed beside it.
    found["torch"] = str(torch.__version__)
    found["CUDA"] = torch.version.cuda or "none"
    found["cuDNN"] = str(torch.backends.cudnn.version() or "none")
    state = git_state(project)
    found["ssvae"] = metadata.version("ssvae")
    found["commit"] = f"{(state['commit'] or 'none')[:12]}{' (changed)' if state['dirty'] else ''}"
    return {"versions": found}


def judge_versions(answers: Mapping[int, Facts], crew: Crew) -> Verdict:
    """Each version has to be the same on every rank."""
    versions = {rank: facts["versions"] for rank, facts in answers.items()}
    problems = []
    one = next(iter(versions.values()))
    for name in one:
        if (text := differing(crew, {rank: found.get(name) for rank, found in versions.items()})) is not None:
            problems.append(
                Problem(f"{name} differs: {text}", "use one environment on all nodes: the same folder, image or lock")
            )
    note = ", ".join(f"{name} {value}" for name, value in one.items())
    return Verdict(note, problems, [])
