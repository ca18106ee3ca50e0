"""One trial at a time, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssvae.core.progress import Progress
from ssvae.core.stop import Stop
from ssvae.sweep.one_cell import run_cell
from ssvae.sweep.record import CellRecord
from ssvae.sweep.search.runner import Order, Outcome


class InProcess:
    """A runner of capacity 1: :meth:`poll` does the work."""

    def __init__(self, root: Path, progress: Progress, stop: Stop) -> None:
        self._root, self._progress, self._stop = root, progress, stop
        self._order: Order | None = None

    @property
    def capacity(self) -> int:
        return 1

    def start(self, order: Order) -> None:
        assert self._order is None
        self._order = order

    def poll(self) -> Sequence[Outcome]:
        """Carry out what was started. Raises Interrupted and KeyboardInterrupt, which end the whole search."""
        if self._order is None:
            return []
        order, self._order = self._order, None
        record = CellRecord.load(order.record)
        run_cell(order.planned, record, self._root, self._progress, self._stop)
        return [Outcome(order.key, "finished" if record.status == "finished" else "failed", record.reason)]

    def stop(self) -> None:
        self._order = None
