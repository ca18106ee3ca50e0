"""Rebuild table and figures of a sweep in results/SWEEP from its run folders, and show the table."""

from __future__ import annotations

import argparse

HELP = "rebuild table and figures of a sweep from its run folders"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="SWEEP", help="name of a folder under runs/sweeps")


def run(args: argparse.Namespace) -> int:
    """Raises ValueError for an unknown sweep, naming those that exist, and for rows that cannot share a table."""
    from ssvae.core.paths import project_root
    from ssvae.report.collect import sweep_folder

    root = project_root()
    sweep_folder(root, args.sweep)  # before the imports that draw: they are slow, and make caches
    from ssvae.sweep import publish
    from ssvae.sweep.console import make_console

    console = make_console()
    folder = publish.report(root, args.sweep, console)
    console.print("written:", markup=False)
    for path in sorted(folder.iterdir()):
        console.print(f"  {path}", markup=False, soft_wrap=True)
    return 0
