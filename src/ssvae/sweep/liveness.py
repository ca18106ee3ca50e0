"""Is somebody, somewhere, still at work on a cell? What the jobs, locks and signs of life of its sweep say."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from ssvae.report.state import sweep_rows

logger = logging.getLogger(__name__)
_FRESH_S = 20.0


class Liveness:
    """Answers for any (sweep, cell) of a root; a sweep is looked at again after a while only."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._seen: dict[str, tuple[float, dict[str, bool]]] = {}

    def __call__(self, sweep: str, cell_id: str | None) -> bool:
        """Does the cell, or with None any of the sweep's, go on by itself? False for what this root does not know, True
        where a damaged file leaves it open."""
        try:
            cells = self._cells(sweep)
        except ValueError as error:
            logger.warning("%s", error)
            return True
        return any(cells.values()) if cell_id is None else cells.get(cell_id, False)

    def _cells(self, sweep: str) -> dict[str, bool]:
        looked, cells = self._seen.get(sweep, (-_FRESH_S, {}))
        if time.monotonic() - looked > _FRESH_S:
            there = list((self._root / "runs" / "sweeps" / sweep / "cells").glob("*.json")) if sweep else []
            cells = {row.cell_id: row.active for row in sweep_rows(self._root, sweep)} if there else {}
            self._seen[sweep] = (time.monotonic(), cells)
        return cells
