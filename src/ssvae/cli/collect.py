"""Write the table of what is there: look at what the jobs of a sweep did, bring the records of its cells up to date,
and rebuild table and figures in results/SWEEP, whatever still runs.

`report` rebuilds from the records as they are; `collect` looks first. It may be run at any time, also beside the jobs.
Exit code: 0 all cells are finished; 3 some are still waited for; 1 some failed, were killed, or are lost.
"""

from __future__ import annotations

import argparse
import sys

HELP = "table of what is there, after a look at what the jobs did"
NOT_YET = 3
"""Exit code: nothing failed, and something is still to come."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="SWEEP", help="name of a folder under runs/sweeps")


def run(args: argparse.Namespace) -> int:
    """Raises ValueError for an unknown sweep, naming those that exist, and for rows that cannot share a table."""
    from ssvae.core.paths import project_root
    from ssvae.report.cell_state import BAD
    from ssvae.report.refresh import refresh_records
    from ssvae.report.state import SweepWatch, counts
    from ssvae.report.status_table import advice

    root = project_root()
    watch = SweepWatch(root, args.sweep)
    rows = watch.rows()
    refresh_records(root, args.sweep, rows)
    # Late: these import what draws, which is slow and makes caches.
    from ssvae.sweep import publish
    from ssvae.sweep.console import make_console

    folder = publish.report(root, args.sweep, make_console())
    sys.stdout.write(f"{counts(rows)}; written: {folder}\n")
    for line in advice(rows, watch.command):
        sys.stdout.write(f"{line}\n")
    if any(row.status in BAD for row in rows):
        return 1
    return 0 if all(row.status == "finished" for row in rows) else NOT_YET
