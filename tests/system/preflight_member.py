"""One rank of a preflight with a fault built in: ``preflight_member.py FAULT`` under torchrun, or one by one.

The last line that a rank writes says how it ended: ``RANK passed`` or ``RANK failed: ...``.
"""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from ssvae.build import build_accelerator
from ssvae.config.compose import resolve
from ssvae.config.train import Precision
from ssvae.core.paths import project_root
from ssvae.core.progress import Silent
from ssvae.core.ranks import Ranks
from ssvae.preflight import run
from ssvae.preflight.base import Facts, Limits, Needs, PreflightError
from ssvae.stages.plan import NAMES
from ssvae.sweep.sources import Sources
from tiny_runs import TINY

LIMITS = Limits(roll_call_s=30, patience_s=20, reading_s=20, all_reduce_s=10, visible_s=1)


def other_content(needs: Needs, rank: int) -> Facts:
    facts = REAL_DATA(needs, rank)
    for told in facts["sets"].values():
        told["content"] = "f" * 32
    return facts


def hang(needs: Needs, rank: int) -> Facts:
    time.sleep(600)
    raise AssertionError


def die(needs: Needs, rank: int) -> Facts:
    os._exit(3)


def wrong_sum(values: torch.Tensor, **named: Any) -> Any:
    if len(values) == 1024 and values[1] == 2:
        values[1] = 5  # this rank puts a wrong value in
    return REAL_SUM(values, **named)


def no_sum(values: torch.Tensor, **named: Any) -> Any:
    time.sleep(600)


REAL_DATA, REAL_SUM = run.measure_data, dist.all_reduce


def main(fault: str) -> None:
    told = Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"]))
    limits, root = LIMITS, project_root()
    if told.rank == 1:
        if fault == "content":
            run.measure_data = other_content
        elif fault in ("hang", "die"):
            run.measure_data = hang if fault == "hang" else die
        elif fault == "sum":
            dist.all_reduce = wrong_sum
        elif fault == "late":
            dist.all_reduce = no_sum
        elif fault == "folder":
            root = root / "another"
        elif fault == "told":
            os.environ["WORLD_SIZE"] = "3"
    if fault in ("hang", "die"):
        limits = replace(limits, reading_s=3, patience_s=5)
    if fault == "late":
        limits = replace(limits, all_reduce_s=1, patience_s=3)
    store = None if fault == "told" else run.meet(told, 30)
    if fault != "told":
        build_accelerator(Precision.fp32)
    else:
        dist.init_process_group("gloo", rank=told.rank, world_size=told.world)
    (cell,) = resolve(TINY)
    needs = Needs([cell.cfg], NAMES, root, Sources(project_root(), Silent()), limits=limits)

    def say(line: str) -> None:
        sys.stdout.write(f"{line}\n")

    try:
        run.preflight(needs, Ranks.current(), say, store)
        say(f"{told.rank} passed")
    except PreflightError as error:
        say(f"{told.rank} failed: {', '.join(error.failed)}: {str(error).splitlines()[0]}")
    sys.stdout.flush()
    Path(os.environ["SSVAE_ROOT"], f"ended-{told.rank}").write_text("")
    # A rank that hangs in a sum on purpose would keep the group from closing.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
