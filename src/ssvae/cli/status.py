"""Show where each cell of a sweep stands: running (which stage, which step), finished, failed and why."""

from __future__ import annotations

import argparse
import sys

HELP = "state of each cell of a sweep"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="SWEEP", help="name of a folder under runs/sweeps")


def run(args: argparse.Namespace) -> int:
    """Raises ValueError for an unknown sweep, naming those that exist."""
    from ssvae.core.paths import project_root
    from ssvae.report.state import state_lines, sweep_state

    for line in state_lines(sweep_state(project_root(), args.sweep)):
        sys.stdout.write(f"{line}\n")
    return 0
