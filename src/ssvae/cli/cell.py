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
    from ssvae.config.compose import load_cell
    from ssvae.config.train import Precision
    from ssvae.core.paths import project_root
    from ssvae.core.progress import Progress, Silent
    from ssvae.core.ranks import Ranks
    from ssvae.core.stop import Interrupted, Stop
    from ssvae.stages.execute import Outcome
    from ssvae.stages.plan import COMPUTED, StagePlan
    from ssvae.sweep.console import RichProgress, make_console
    from ssvae.sweep.work import Work, assert_world
    from ssvae.train.guard import NonFiniteLoss

    cfg = load_cell(args.config)
    build_accelerator(Precision.fp32)  # opens the process group, where there is one
    ranks = Ranks.current()
    assert_world(ranks.world)
    console = make_console()
    logging.basicConfig(level=logging.INFO if ranks.first else logging.ERROR, format="%(message)s")
    stop = Stop()

    def told(plan: StagePlan, outcome: Outcome) -> None:
        if ranks.first:
            console.print(f"{plan.name}: {outcome}: {plan.folder}", markup=False, soft_wrap=True)

    with RichProgress(console) as shown, stop.on_signals():
        progress: Progress = shown if ranks.first else Silent()
        work = Work(cfg, project_root(), ranks, progress, stop=stop)
        computed = COMPUTED[cfg.stage]
        for name, plan in work.plans.items():
            if name not in computed and not plan.finished:
                raise ValueError(
                    f"stage = {cfg.stage.value}: needs {name}-{plan.id}, which is not there; "
                    "set stage: all in the config, or make that stage first"
                )
        try:
            work.run([name for name in work.plans if name in computed], told)
        except NonFiniteLoss as error:
            console.print(str(error), markup=False, soft_wrap=True)
            return 1
        except Interrupted as error:
            console.print(f"stopped ({error}); the same command goes on from there", markup=False, soft_wrap=True)
            return 130
    return 0
