"""Run one cell from its resolved config, with as many ranks as it is started with.

    torchrun --nproc_per_node 8 -m ssvae cell runs/sweeps/SWEEP/cells/CELL.yaml

Every sweep writes the resolved config of each of its cells there. Finished stages are reused, interrupted ones go on.
Ranks share training; the first one measures and writes. Any number of ranks makes the same stages, up to rounding (with
train.rank_statistics=per_rank each number makes its own), so `run.py` finds them and collects them into its table.
"""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "run one cell from its resolved config, on one or several ranks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", metavar="CONFIG", type=Path, help="resolved config of a cell (YAML)")


def run(args: argparse.Namespace) -> int:
    """Raises ValueError, before anything is computed, for a config that is none or has problems."""
    from ssvae.core.ranks import Ranks

    try:
        return _run(args)
    finally:
        Ranks.leave()


def _run(args: argparse.Namespace) -> int:
    import logging

    from ssvae.build import build_accelerator
    from ssvae.config.checks import stages_used
    from ssvae.config.compose import load_cell
    from ssvae.config.train import Precision
    from ssvae.core.paths import project_root
    from ssvae.core.progress import Progress, Silent
    from ssvae.core.ranks import Ranks
    from ssvae.stages.conditions import told_problems
    from ssvae.stages.execute import Job, execute
    from ssvae.stages.foreign import foreign_problems, reward_problems
    from ssvae.stages.plan import COMPUTED, plan_cell
    from ssvae.stages.trained import unsafe_here
    from ssvae.sweep.console import RichProgress, make_console
    from ssvae.sweep.main import Sources
    from ssvae.train.guard import NonFiniteLoss

    cfg = load_cell(args.config)
    if problems := unsafe_here([cfg]) + foreign_problems([cfg]):
        raise ValueError("; ".join(problems))
    root = project_root()
    build_accelerator(Precision.fp32)  # opens the process group, where there is one
    ranks = Ranks.current()
    _assert_world(ranks.world)
    console = make_console()
    logging.basicConfig(level=logging.INFO if ranks.first else logging.ERROR, format="%(message)s")
    with RichProgress(console) as shown:
        progress: Progress = shown if ranks.first else Silent()
        sources = Sources(root, progress)
        if ranks.first:  # renders the embedded data once
            for name in stages_used(cfg):
                sources(getattr(cfg.stages, name).data)
        ranks.wait()
        if "probe" in COMPUTED[cfg.stage]:
            probe = cfg.stages.probe
            if problems := told_problems(probe, sources(probe.data)):
                raise ValueError("; ".join(problems))
        plans = plan_cell(
            cfg, root, lambda data: sources(data).fingerprint, lambda data: sources(data).conditions, ranks.world
        )
        for name, plan in plans.items():
            if name not in COMPUTED[cfg.stage] and not plan.finished:
                raise ValueError(
                    f"stage = {cfg.stage.value}: needs {name}-{plan.id}, which is not there; "
                    "set stage: all in the config, or make that stage first"
                )
        if "probe" in plans and not plans["probe"].finished and (absent := reward_problems([cfg])):
            raise ValueError("; ".join(absent))
        for name in [name for name in plans if name in COMPUTED[cfg.stage]]:
            try:
                outcome = execute(Job(cfg, plans[name], plans, sources, root, progress, ranks), wait=True)
            except NonFiniteLoss as error:
                console.print(f"{name}: {error}", markup=False, soft_wrap=True)
                return 1
            if ranks.first:
                console.print(f"{name}: {outcome}: {plans[name].folder}", markup=False, soft_wrap=True)
    return 0


def _assert_world(world: int) -> None:
    """A rank that does not find the others would train alone, silently, on a fraction of the batch."""
    import os

    told = int(os.environ.get("WORLD_SIZE", "1"))
    if world != told:
        raise ValueError(f"WORLD_SIZE = {told}, but this process sees {world} ranks: start it with torchrun or srun")
