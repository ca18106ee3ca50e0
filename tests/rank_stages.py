"""Stages of a tiny cell on one or several ranks, without the command line: ``python rank_stages.py REQUEST.json``.

The request says what is run and what goes wrong; every rank writes what it met to ``ROOT/met_RANK.json``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ssvae.build import build_accelerator
from ssvae.config.compose import resolve
from ssvae.config.train import Precision
from ssvae.core.progress import Silent
from ssvae.core.ranks import Ranks
from ssvae.core.stop import Interrupted, Stop
from ssvae.data.mix import Batch, BatchPlan
from ssvae.stages.execute import Job, execute
from ssvae.stages.plan import plan_cell
from ssvae.stages.source import Source, WindowBatch, open_source
from tiny_runs import TINY, environment


@dataclass
class Request:
    """stages: run in this order. asks: (stage, step, rank) of each attempt: behind that step, that rank is asked to
    stop; after the last one the process ends. fails: (what, rank): that rank cannot read the third batch ("batches") or
    the first window ("windows")."""

    root: str
    overrides: Sequence[str]
    stages: Sequence[str]
    asks: Sequence[tuple[str, int, int]] = field(default_factory=list)
    fails: tuple[str, int] | None = None


def run_stages(request: Request, ranks: int, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run the request on ``ranks`` processes, to their end."""
    root = Path(request.root)
    root.mkdir(parents=True, exist_ok=True)
    path = root / "request.json"
    path.write_text(json.dumps(asdict(request)))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
    return subprocess.run(
        [sys.executable, *launcher, __file__, str(path)],
        env={**environment(root), "TORCHELASTIC_ERROR_FILE": os.devnull},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class AskAt(Silent):
    """Asks behind ``step``, as a signal in the middle of it would."""

    def __init__(self, stop: Stop, step: int) -> None:
        self.stop, self.step = stop, step

    def advance(self, done: int, note: str = "") -> None:
        if done == self.step:
            self.stop.ask("signal SIGTERM")


def break_reading(what: str) -> None:
    """Let this process meet data that it cannot use."""
    message = "data: this rank cannot read its clips"
    if what == "batches":
        real = BatchPlan.__getitem__

        def item(plan: BatchPlan, step: int) -> Batch:
            if step == 2:
                raise ValueError(message)
            return real(plan, step)

        BatchPlan.__getitem__ = item  # type: ignore[method-assign]
        return

    def windows(source: Source, *given: Any, **named: Any) -> Iterator[WindowBatch]:
        raise ValueError(message)
        yield

    Source.windows = windows  # type: ignore[assignment, method-assign]


def main(request: Request) -> None:
    build_accelerator(Precision.fp32)
    ranks, root = Ranks.current(), Path(request.root)
    (cell,) = resolve((*TINY, *request.overrides))
    opened: dict[str, Source] = {}

    def sources(data: Any) -> Source:
        return opened.setdefault(repr(data), open_source(data, root, Silent()))

    plans = plan_cell(cell.cfg, root, lambda data: sources(data).fingerprint)
    if request.fails is not None and request.fails[1] == ranks.rank:
        break_reading(request.fails[0])
    met: list[str] = []

    def attempt(asked: tuple[str, int, int] | None) -> None:
        for name in request.stages:
            stop = Stop()
            here = asked is not None and asked[0] == name and asked[2] == ranks.rank
            progress = AskAt(stop, asked[1]) if here and asked is not None else Silent()
            outcome = execute(Job(cell.cfg, plans[name], plans, sources, root, progress, ranks, stop), wait=True)
            met.append(f"{name}: {outcome}")

    try:
        asks: list[tuple[str, int, int] | None] = [*request.asks]
        for asked in asks or [None]:
            _noting(met, partial(attempt, asked))
    finally:
        (root / f"met_{ranks.rank}.json").write_text(json.dumps(met))
        Ranks.leave()


def _noting(met: list[str], work: Callable[[], None]) -> None:
    """An interruption is written down, and the next attempt begins; an error is written down and ends the rank."""
    try:
        work()
    except Interrupted as error:
        met.append(f"Interrupted: {error}")
    except Exception as error:
        met.append(f"{type(error).__name__}: {error}")
        raise


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Request(**json.loads(Path(sys.argv[1]).read_text())))
