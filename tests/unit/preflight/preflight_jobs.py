"""Jobs to be checked, and several ranks in one process: a thread each, meeting at a store in memory."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed as dist

from ssvae.config.compose import resolve
from ssvae.config.tree import Config
from ssvae.core.progress import Silent
from ssvae.core.ranks import Ranks
from ssvae.preflight.base import Crew, Limits, Needs, PreflightError
from ssvae.preflight.board import Board
from ssvae.stages.plan import NAMES
from ssvae.sweep.sources import Sources
from tiny_runs import TINY

QUICK = Limits(roll_call_s=5, patience_s=5, reading_s=5, all_reduce_s=5, visible_s=1, tracker_s=0.5)


def config(*overrides: str) -> Config:
    """A tiny cell, free to be changed."""
    (cell,) = resolve((*TINY, *overrides))
    return copy.deepcopy(cell.cfg)


def job(root: Path, cfg: Config | None = None, **changes: Any) -> Needs:
    """A job that does all stages of one tiny cell under ``root``."""
    needs = Needs(
        cells=[config() if cfg is None else cfg],
        stages=NAMES,
        root=root,
        sources=Sources(root, Silent()),
        disk_bytes=1,
        limits=QUICK,
    )
    return replace(needs, **changes)


def crew(*hosts: str) -> Crew:
    """Ranks 0, 1, ... on these hosts."""
    return Crew(len(hosts), dict(enumerate(hosts)))


def together(world: int, work: Callable[[Board], Any], present: range | None = None) -> dict[int, Any]:
    """What ``work`` returns (or the PreflightError it raises) on each rank's board, all at the same time.

    present: the ranks that come; the others never do.
    """
    store = dist.HashStore()
    found: dict[int, Any] = {}

    def one(rank: int) -> None:
        try:
            found[rank] = work(Board(store, Ranks(rank, world), {}))
        except PreflightError as error:
            found[rank] = error

    threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in present or range(world)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    return found
