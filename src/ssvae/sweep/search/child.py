"""The process of one trial: the stages that a cell's record lists, from its frozen config.

    python -m ssvae.sweep.search.child runs/sweeps/NAME/cells/ID.json

Exit codes: 0 done, 1 failed (the record says why), 130 asked to stop; what was done so far is kept either way.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from rich.console import Console

from ssvae.config.compose import Cell, load_cell
from ssvae.core.paths import prepare_environment, project_root
from ssvae.core.stop import Interrupted, Stop
from ssvae.sweep.console import RichProgress
from ssvae.sweep.one_cell import plan, run_cell
from ssvae.sweep.planned import PlannedCell
from ssvae.sweep.record import CellRecord
from ssvae.sweep.search.processes import INTERRUPTED
from ssvae.sweep.sources import Sources


def main(path: Path) -> int:
    """Carry out the cell whose record is at ``path``; returns the exit code."""
    prepare_environment()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    root, record, stop = project_root(), CellRecord.load(path), Stop()
    cell = Cell(tuple(record.overrides), (record.label,), load_cell(path.with_suffix(".yaml")))
    with RichProgress(Console(highlight=False, width=160)) as progress, stop.on_signals():
        plans = plan(cell.cfg, Sources(root, progress), root)
        wanted = {name: plans[name] for name in record.stages}
        try:
            run_cell(PlannedCell(cell, wanted, record.cell_id), record, root, progress, stop)
        except Interrupted:
            return INTERRUPTED
    return 0 if record.status == "finished" else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
