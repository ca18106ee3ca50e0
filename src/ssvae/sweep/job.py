"""What runs on a node: one rank of one job, from the scheduler's call to the exit code.

This file is imported before torch is, and before anything can be caught: a signal that arrives while Python is still
importing must not be lost, so heavy imports come inside the functions.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
import traceback
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssvae.core.alive import this_process
from ssvae.core.jobs import JobFile, append_event, history, read_job
from ssvae.sweep.after_job import EARLY_S, run_key

if TYPE_CHECKING:
    from rich.console import Console
    from torch.distributed import Store

    from ssvae.config.tree import Config
    from ssvae.core.ranks import Ranks
    from ssvae.core.stop import Stop
    from ssvae.stages.execute import Outcome
    from ssvae.stages.plan import StagePlan

logger = logging.getLogger(__name__)
_NO_RETRY = ("ValueError", "NonFiniteLoss")
"""Errors that come again: the user's mistakes, and numbers that are functions of the config."""
_OF_THE_SHELL = ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
"""Of the shell that submitted: jobs that took one MASTER_PORT from it would meet each other's ranks there."""
_ROLL_CALL_S = 300.0


class RunJob:
    """The call that submitit pickles: a path and nothing else. What it does is the frozen code's affair."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __call__(self) -> None:
        """Run this rank; ends the process by itself where something went wrong, so that no rank is waited for."""
        early: list[int] = []
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, lambda sent, frame: early.append(sent))
        code = _rank(Path(self.folder), early)
        if code:
            sys.stdout.flush()
            sys.stderr.flush()
            # Threads of a broken process group would keep the process, and with it the whole job, alive.
            os._exit(code)


def _rank(folder: Path, early: list[int]) -> int:
    from submitit.core.job_environment import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    environment = JobEnvironment()
    rank = environment.global_rank
    _log_to(folder / "log", rank)
    begun = time.time()
    run = run_key(environment.job_id)
    attempt = _attempt(folder, environment.job_id, run) if rank == 0 else None
    job = read_job(folder)

    def ended(how: str, reason: str | None, **more: object) -> None:
        append_event(folder, "rank", rank=rank, run=run, host=socket.gethostname(), how=how, reason=reason, **more)

    try:
        for name in _OF_THE_SHELL:
            os.environ.pop(name, None)
        _export(TorchDistributedEnvironment())
        if environment.cluster == "local":
            # Its own name need not resolve, and nothing leaves this machine.
            os.environ["MASTER_ADDR"] = "127.0.0.1"
        from ssvae.core.stop import Interrupted, Stop

        stop = Stop()
        with stop.on_signals():
            for number in early:
                stop.ask(f"signal {signal.Signals(number).name}")
            try:
                _work(folder, job, attempt, stop)
            except Interrupted as error:
                ended("interrupted", str(error), timed_out=_timed_out(job, begun))
                return 0
    except Exception as error:  # noqa: BLE001 - whatever it is: named for who looks, and the whole job fails
        traceback.print_exc()
        kinds = {kind.__name__ for kind in type(error).__mro__}
        ended("failed", f"{type(error).__name__}: {error}", again=not kinds & set(_NO_RETRY))
        return 1
    ended("finished", None)
    return 0


def _work(folder: Path, job: JobFile, attempt: int | None, stop: Stop) -> None:
    from ssvae.build import build_accelerator
    from ssvae.config.compose import load_cell
    from ssvae.config.train import Precision
    from ssvae.core.paths import prepare_environment
    from ssvae.core.progress import Progress, Silent
    from ssvae.core.ranks import Ranks
    from ssvae.preflight.run import meet
    from ssvae.sweep.console import RichProgress, make_console
    from ssvae.sweep.job_tracking import tracked
    from ssvae.sweep.work import Work, assert_world

    prepare_environment()
    root = Path(job.root)
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    cfg = load_cell(root / job.config)
    # A roll call first: opening the group waits for an absent rank for hours, and does not say which it is.
    store = meet(Ranks(int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])), _ROLL_CALL_S) if job.preflight else None
    build_accelerator(Precision.fp32)  # opens the process group
    ranks = Ranks.current()
    try:
        assert_world(ranks.world)
        if ranks.world != job.world:
            raise ValueError(f"{job.job_id}: was submitted for {job.world} ranks, and {ranks.world} came")
        console = make_console()
        with ExitStack() as stack:
            shown: Progress = stack.enter_context(RichProgress(console)) if ranks.first else Silent()
            if job.preflight:
                _preflight(cfg, job, ranks, console, store)
            work = Work(cfg, root, ranks, shown, lambda stage: cfg.launch.jobs.of(stage).world, stop)
            _same_stages(job, work.plans)
            if ranks.first:
                stack.enter_context(tracked(root, job, cfg.track))

            def told(plan: StagePlan, outcome: Outcome) -> None:
                if ranks.first:
                    append_event(folder, "stage", attempt=attempt, stage=plan.name, outcome=outcome)

            work.run(list(job.stages), told)
    finally:
        Ranks.leave()


def _preflight(cfg: Config, job: JobFile, ranks: Ranks, console: Console, store: Store | None) -> None:
    from ssvae.core.progress import Silent
    from ssvae.preflight.base import Needs
    from ssvae.preflight.run import preflight
    from ssvae.sweep.sources import Sources

    root = Path(job.root)
    queue = cfg.launch.jobs.of(next(iter(job.stages)))
    needs = Needs(
        cells=[cfg],
        stages=list(job.stages),
        root=root,
        sources=Sources(root, Silent()),
        world=job.world,
        gpus=queue.gpus_per_node or (queue.gpus_per_task and queue.gpus_per_task * queue.tasks_per_node),
        tracking=cfg.track.uri,
    )
    preflight(needs, ranks, lambda line: console.print(line, markup=False, soft_wrap=True), store)


def _attempt(folder: Path, scheduler_id: str, run: str) -> int:
    attempt = history(folder).attempts + 1
    append_event(folder, "started", attempt=attempt, run=run, scheduler_id=scheduler_id, **this_process())
    return attempt


def _timed_out(job: JobFile, begun: float) -> bool:
    """Did the limit end this attempt, rather than a pre-emption?"""
    if job.timeout_min is None:
        return False
    return time.time() - begun >= 60 * job.timeout_min - job.signal_delay_s - EARLY_S


def _same_stages(job: JobFile, plans: dict[str, StagePlan]) -> None:
    for name, where in job.stages.items():
        if plans[name].folder.name != Path(where).name:
            raise ValueError(
                f"{job.job_id}: {name} is {plans[name].folder.name} by now: its data or weights have changed since it "
                "was submitted; submit the sweep again"
            )


def _export(environment: Any) -> None:
    """Ranks find each other through these. The device is chosen by LOCAL_RANK, so all stay visible."""
    environment.export(set_cuda_visible_devices=False, overwrite=True)


def _log_to(folder: Path, rank: int) -> None:
    """Send all output of this process, of its libraries too, to files of its own that every attempt goes on with."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, ending in ((1, "out"), (2, "err")):
        handle = os.open(folder / f"rank_{rank}_log.{ending}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.dup2(handle, number)
        os.close(handle)
