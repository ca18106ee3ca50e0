"""Several trials at once on this machine, each a process of its own with its share of cores and GPUs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssvae.sweep.record import CellRecord
from ssvae.sweep.search.runner import Order, Outcome

PATIENCE_S = 30.0
"""How long a process may take to end after it was asked to."""
INTERRUPTED = 130
_TAIL = 300  # characters of a log


@dataclass
class _Child:
    order: Order
    slot: int
    process: subprocess.Popen[bytes]
    log: Path


class Processes:
    """A runner whose orders are ``python -m ssvae.sweep.search.child RECORD``; logs: ``KEY.log`` in ``logs``, appended.

    Each process has its session, so that Ctrl-C in the terminal reaches the driver alone.
    """

    def __init__(self, root: Path, workers: int, logs: Path) -> None:
        self._root, self._workers, self._logs = root, workers, logs
        self._children: dict[str, _Child] = {}

    @property
    def capacity(self) -> int:
        return self._workers

    def start(self, order: Order) -> None:
        assert order.key not in self._children
        slot = min(set(range(self._workers)) - {child.slot for child in self._children.values()})
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{order.key}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "ssvae.sweep.search.child", str(order.record)],
                env=share_of_machine(os.environ, slot, self._workers, self._root),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children[order.key] = _Child(order, slot, process, log)

    def poll(self) -> Sequence[Outcome]:
        ended = [child for child in self._children.values() if child.process.poll() is not None]
        for child in ended:
            del self._children[child.order.key]
        return [_outcome(child) for child in ended]

    def stop(self) -> None:
        """Ask every process to end; kill what has not after :data:`PATIENCE_S`."""
        children = [child.process for child in self._children.values()]
        self._children.clear()
        for process in children:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE_S
        for process in children:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(process, signal.SIGKILL)
                process.wait()


def share_of_machine(environment: Mapping[str, str], slot: int, workers: int, root: Path) -> dict[str, str]:
    """Environment of the process in ``slot``: its share of the cores, and of the GPUs where these are named.

    Threads that the user has set stay. GPUs come from ``CUDA_VISIBLE_DEVICES``, else from PyTorch; with more workers
    than GPUs several share one.
    """
    found = {**environment, "SSVAE_ROOT": str(root)}
    found.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))
    gpus = _gpus(environment)
    if gpus:
        per = max(1, len(gpus) // workers)
        mine = [gpus[(slot * per + k) % len(gpus)] for k in range(per)]
        found["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
    return found


def _gpus(environment: Mapping[str, str]) -> list[str]:
    named = environment.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """To the whole session: loader processes end with it."""
    if process.poll() is None:
        os.killpg(process.pid, number)


def _outcome(child: _Child) -> Outcome:
    code, key = child.process.returncode, child.order.key
    if code == 0:
        return Outcome(key, "finished")
    if code == INTERRUPTED:
        return Outcome(key, "interrupted", "it was asked to stop")
    record = CellRecord.load(child.order.record)
    if code == 1 and record.status == "failed" and record.reason:
        return Outcome(key, "failed", record.reason)
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    tail = " ".join(child.log.read_text(encoding="utf-8", errors="replace")[-_TAIL:].split())
    return Outcome(key, "failed", f"{how}; the end of {child.log}: {tail}")
