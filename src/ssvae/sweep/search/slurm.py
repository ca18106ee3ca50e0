"""Trials as Slurm jobs: each a chain of jobs like any cell, ``search.workers`` chains at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssvae.report.cell_state import BAD
from ssvae.report.state import SweepWatch
from ssvae.sweep.by_jobs import submit
from ssvae.sweep.cancel import cancel_cells
from ssvae.sweep.launcher import Launcher
from ssvae.sweep.search.runner import Order, Outcome


class Jobs:
    """A runner that submits and looks. When the driver is stopped its jobs are cancelled; they save first."""

    def __init__(self, root: Path, name: str, launcher: Launcher, workers: int) -> None:
        self._root, self._name, self._launcher, self._workers = root, name, launcher, workers
        self._orders: dict[str, Order] = {}
        self._watch = SweepWatch(root, name)

    @property
    def capacity(self) -> int:
        return self._workers

    def start(self, order: Order) -> None:
        assert order.key not in self._orders
        # Before: a Ctrl-C while it submits leaves jobs behind, which stop() has to know.
        self._orders[order.key] = order
        submit(self._root, self._name, [order.planned], self._launcher, beside=True)

    def poll(self) -> Sequence[Outcome]:
        rows = {row.cell_id: row for row in self._watch.rows()} if self._orders else {}
        ended: list[Outcome] = []
        for order in self._orders.values():
            if all(plan.finished for plan in order.planned.plans.values()):
                ended.append(Outcome(order.key, "finished"))
                continue
            row = rows.get(order.record.stem)
            if row is not None and row.status in BAD and not row.active:
                # Cancelled, or its node is gone for good: no fault of the trial's own.
                ended.append(Outcome(order.key, "failed" if row.status == "failed" else "interrupted", row.reason))
        for outcome in ended:
            del self._orders[outcome.key]
        return ended

    def stop(self) -> None:
        cells = {order.planned.cell_id for order in self._orders.values()}
        self._orders.clear()
        cancel_cells(self._root, self._name, cells)
