"""What a check is made of: what a job needs, where numbers become a fault, what each rank found, what that means.

A check has two halves. ``measure`` runs on every rank and returns plain values; ``judge`` runs on the first rank and
turns the values of all into a verdict. Judging is arithmetic, so that it can be tried on numbers of broken machines.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ssvae.config.data import DataConfig
from ssvae.config.tree import Config
from ssvae.stages.plan import COMPUTED
from ssvae.stages.source import Source

GIB = 2**30
Facts = dict[str, Any]
"""What one rank found: plain values for JSON. ``problems`` and ``warnings``: [[what, remedy], ...] of that rank alone;
``skipped``: why nothing was measured."""


class PreflightError(RuntimeError):
    """This machine, or one of its ranks, is not fit for the job. The text names every failed check with its remedy.

    failed: names of the checks. said: has the first rank already shown them, a line each?
    """

    def __init__(self, text: str, failed: Sequence[str] = ("ranks",), said: bool = False) -> None:
        super().__init__(text)
        self.failed = tuple(failed)
        self.said = said


class Problem(NamedTuple):
    """Something that is wrong, and what to do about it."""

    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}; {self.remedy}"


@dataclass(frozen=True)
class Limits:
    """Where a number becomes a fault. Times in seconds; ratios without unit.

    roll_call_s, patience_s: how long ranks are waited for, before the first check and in each of the others;
    reading_s: likewise where files and weights are read; all_reduce_s: of one sum over the ranks. visible_s: until a
    file of one rank is seen by all. conv_time, conv_memory: of a bfloat16 3-D convolution over float32's; conv_error:
    of its relative difference. slow_gpu, slow_cpu: a rank's time over the median of all. slow_bus: of the largest sum
    between GPUs, in GB/s. taken_warning: bytes of a GPU that others may hold; taken_share: likewise before the job
    stops. inodes: files that must be left.
    """

    roll_call_s: float = 120.0
    patience_s: float = 60.0
    reading_s: float = 900.0
    all_reduce_s: float = 60.0
    visible_s: float = 30.0
    tracker_s: float = 3.0
    conv_time: float = 1.5
    conv_memory: float = 1.5
    conv_error: float = 0.02
    slow_gpu: float = 1.5
    slow_cpu: float = 3.0
    slow_bus: float = 5.0
    taken_warning: int = 2 * GIB
    taken_share: float = 0.25
    inodes: int = 10_000


@dataclass(frozen=True)
class Needs:
    """What a job is going to do.

    cells: configs of its work; stages: names of the stages it will carry out (stages/plan.py NAMES). root: where
    ``runs/`` is; sources: a data config -> its clips. world: ranks, gpus: GPUs on each node, both as the job asked for
    them, None: whatever there is. tracking: MLflow's URI, None:
    $MLFLOW_TRACKING_URI or the database under ``runs/``. disk_bytes: free space
    that is needed, None: estimated.
    """

    cells: Sequence[Config]
    stages: Collection[str]
    root: Path
    sources: Callable[[DataConfig], Source]
    world: int | None = None
    gpus: int | None = None
    tracking: str | None = None
    disk_bytes: int | None = None
    limits: Limits = field(default_factory=Limits)

    @property
    def runs(self) -> Path:
        """The folder of results."""
        return self.root / "runs"

    def stages_of(self, cfg: Config) -> list[str]:
        """Those of the job's stages that ``cfg`` computes, in order."""
        return [name for name in COMPUTED[cfg.stage] if name in self.stages]


class Verdict(NamedTuple):
    """What the values of all ranks mean. note: for a check without problems."""

    note: str
    problems: list[Problem]
    warnings: list[Problem]


@dataclass(frozen=True)
class Check:
    """One check. measure: on every rank; judge: on the first, from the values by rank (never empty); patience_s: how
    long the values of the others are waited for."""

    name: str
    measure: Callable[[], Facts]
    judge: Callable[[Mapping[int, Facts]], Verdict]
    patience_s: float


@dataclass(frozen=True)
class Crew:
    """Who is there. hosts: of the ranks that signed in."""

    world: int
    hosts: Mapping[int, str]

    @property
    def absent(self) -> list[int]:
        """Ranks that did not sign in."""
        return [rank for rank in range(self.world) if rank not in self.hosts]

    def names(self, ranks: Collection[int]) -> str:
        """``rank 3 (node7)``, ``ranks 0-2 (node1), 5 (node2)``; empty for the only process of its run."""
        if self.world == 1:
            return ""
        if len(ranks) == self.world:
            return "every rank"
        by_host: dict[str, list[int]] = {}
        for rank in sorted(ranks):
            by_host.setdefault(self.hosts.get(rank, ""), []).append(rank)
        parts = [f"{_runs(found)} ({host})" if host else _runs(found) for host, found in by_host.items()]
        return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(parts)}"

    def on_host(self, rank: int) -> list[int]:
        """All ranks on the host of ``rank``, ascending."""
        return sorted(other for other, host in self.hosts.items() if host == self.hosts[rank])


def _runs(numbers: Sequence[int]) -> str:
    """``0-3, 7`` for ascending numbers."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and parts[-1][-1] == number - 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(one[0]) if len(one) == 1 else f"{one[0]}-{one[-1]}" for one in parts)


def differing(crew: Crew, values: Mapping[int, object]) -> str | None:
    """``A on ranks 0-2 (n1), B on rank 3 (n2)`` where ranks differ in a value; None where all agree."""
    by_value: dict[str, list[int]] = {}
    for rank, value in sorted(values.items()):
        by_value.setdefault(str(value), []).append(rank)
    if len(by_value) == 1:
        return None
    return ", ".join(f"{value} on {crew.names(ranks)}" for value, ranks in by_value.items())
