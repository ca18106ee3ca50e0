"""Show where each cell of a sweep stands: waiting (for what), running (stage, step, rate, time left in this stage),
requeued or retried how often, finished, failed and why.

Run folders are believed first, then the jobs' own records, then Slurm's queue, which is asked once. stopped: the
process that ran the cell is gone; lost: its job is. Both go on with the sweep's own command.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssvae.report.cell_state import CellState
    from ssvae.report.state import SweepWatch

HELP = "state of each cell of a sweep"
WATCH_S = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="SWEEP", help="name of a folder under runs/sweeps")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--watch", action="store_true", help="look again every 2 seconds, until nothing goes on any more")
    how.add_argument("--json", action="store_true", help="one JSON list, a row a cell, for programs")


def run(args: argparse.Namespace) -> int:
    """Exit code 0, whatever the cells' state. Raises ValueError for an unknown sweep, naming those that exist."""
    from ssvae.core.paths import project_root
    from ssvae.report.state import SweepWatch, state_lines

    root = project_root()
    watch = SweepWatch(root, args.sweep)
    rows = watch.rows()
    if args.json:
        from dataclasses import asdict

        sys.stdout.write(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n")
        return 0
    if args.watch:
        rows = _watch(watch, rows, args.sweep)
    elif sys.stdout.isatty():
        _show(rows, args.sweep)
    else:
        for line in state_lines(rows):
            sys.stdout.write(f"{line}\n")
    from ssvae.report.status_table import advice

    for line in advice(rows, watch.command):
        sys.stdout.write(f"{line}\n")
    return 0


def _show(rows: Sequence[CellState], sweep: str) -> None:
    from rich.console import Console

    from ssvae.report.status_table import live_table

    Console(highlight=False).print(live_table(rows, sweep))


def _watch(watch: SweepWatch, rows: list[CellState], sweep: str) -> list[CellState]:
    """Show the table anew until no cell is active; Ctrl-C ends the showing, not the work. Returns the last rows."""
    import time

    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    from ssvae.report.status_table import live_table

    console = Console(highlight=False)
    room = console.height - 6 if console.is_terminal else None

    def table() -> Table:
        return live_table(rows, sweep, room)

    try:
        with Live(table(), console=console, auto_refresh=False) as live:
            while any(row.active for row in rows):
                time.sleep(WATCH_S)
                rows = watch.rows()
                live.update(table(), refresh=True)
    except KeyboardInterrupt:
        sys.stdout.write("the sweep goes on\n")
    return rows
