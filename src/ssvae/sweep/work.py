"""The stages of one cell, carried out by all ranks of this process group: for ``ssvae cell`` and for jobs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from ssvae.config.checks import stages_used
from ssvae.config.tree import Config
from ssvae.core.progress import Progress
from ssvae.core.ranks import Ranks
from ssvae.core.stop import NEVER, Stop, Stoppable
from ssvae.stages.conditions import told_problems
from ssvae.stages.execute import Job, Outcome, execute
from ssvae.stages.foreign import foreign_problems, reward_problems
from ssvae.stages.plan import COMPUTED, StagePlan, plan_cell
from ssvae.stages.trained import unsafe_here
from ssvae.sweep.sources import Sources


class Work:
    """A resolved cell, opened on every rank.

    worlds: ranks that train each stage together. Raises ValueError, before anything is computed, for a cell that cannot
    be run here.
    """

    def __init__(
        self,
        cfg: Config,
        root: Path,
        ranks: Ranks,
        progress: Progress,
        worlds: Callable[[str], int] | None = None,
        stop: Stop = NEVER,
    ) -> None:
        if problems := unsafe_here([cfg]) + foreign_problems([cfg]):
            raise ValueError("; ".join(problems))
        self.cfg, self.root, self.ranks, self.progress, self.stop = cfg, root, ranks, progress, stop
        self.sources = Sources(root, Stoppable(progress, stop))
        if ranks.first:  # renders the embedded data once
            for name in stages_used(cfg):
                self.sources(getattr(cfg.stages, name).data)
        ranks.wait()
        if "probe" in COMPUTED[cfg.stage]:
            probe = cfg.stages.probe
            if problems := told_problems(probe, self.sources(probe.data)):
                raise ValueError("; ".join(problems))
        self.plans = plan_cell(
            cfg,
            root,
            lambda data: self.sources(data).fingerprint,
            lambda data: self.sources(data).conditions,
            worlds if worlds is not None else lambda stage: ranks.world,
        )

    def run(self, stages: Sequence[str], told: Callable[[StagePlan, Outcome], None]) -> None:
        """Carry out ``stages`` in order; ``told`` hears of each that is done. Raises what a stage raises."""
        if "probe" in stages and not self.plans["probe"].finished and (absent := reward_problems([self.cfg])):
            raise ValueError("; ".join(absent))
        for name in stages:
            plan = self.plans[name]
            job = Job(self.cfg, plan, self.plans, self.sources, self.root, self.progress, self.ranks, self.stop)
            told(plan, execute(job, wait=True))


def assert_world(world: int) -> None:
    """Raise ValueError where a rank does not find the others: it would train alone, on a fraction of the batch."""
    for name in ("WORLD_SIZE", "SLURM_NTASKS"):
        # A shell inside a Slurm allocation has SLURM_NTASKS too, and is no rank of it.
        if name == "SLURM_NTASKS" and (
            "SLURM_PROCID" not in os.environ or os.environ.get("SUBMITIT_EXECUTOR") != "slurm"
        ):
            continue
        told = int(os.environ.get(name, "1"))
        if world != told:
            raise ValueError(f"{name} = {told}, but this process sees {world} ranks: start it with torchrun or srun")
