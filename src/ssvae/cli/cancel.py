"""End the jobs of a sweep, on Slurm or on this machine. Their ranks save first; the command that made the sweep goes on
from there. Jobs that another sweep waits for, too, are left to that sweep."""

from __future__ import annotations

import argparse
import sys

HELP = "end the jobs of a sweep; what they have done is kept"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="SWEEP", help="name of a folder under runs/sweeps")


def run(args: argparse.Namespace) -> int:
    """Raises ValueError for a sweep without jobs."""
    from ssvae.core.paths import project_root
    from ssvae.sweep.cancel import cancel

    done = cancel(project_root(), args.sweep)
    lines = [*(f"cancelled: {line}" for line in done.ended), *(f"left alone: {line}" for line in done.spared)]
    for line in lines or ["nothing of it is queued or runs"]:
        sys.stdout.write(f"{line}\n")
    return 0
