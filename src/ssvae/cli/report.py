"""Rebuild table and figures of a sweep in results/SWEEP from its run folders, and show the table.

Where probes were scored at several checkpoints, convergence.csv, convergence.md and convergence.png say how many
updates each setting needs for the final score of the baseline.
"""

from __future__ import annotations

import argparse

HELP = "rebuild table and figures of a sweep from its run folders"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sweep", metavar="SWEEP", help="name of a folder under runs/sweeps")
    parser.add_argument(
        "--baseline", default="none", metavar="FIELD=VALUE",
        help="whose final score the others are to reach: a regulariser (none, reg=lcr) or a VAE (vae=wan22, across "
        "channels); default: none",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Raises ValueError for an unknown sweep or baseline, naming those that exist, and for rows that cannot share a
    table."""
    from ssvae.core.paths import project_root
    from ssvae.report.collect import collect, sweep_folder

    root = project_root()
    sweep_folder(root, args.sweep)  # before the imports that draw: they are slow, and make caches
    from ssvae.report.convergence import convergence

    rows = collect(root, args.sweep)
    convergence(rows, args.baseline)  # an unknown baseline is refused before anything is written
    from ssvae.sweep import publish
    from ssvae.sweep.console import make_console

    console = make_console()
    folder = publish.report(root, args.sweep, console)
    if args.baseline != "none":
        from ssvae.report.table import TableNotes
        from ssvae.report.write import write_convergence

        command = publish.SweepRecord.load(root, args.sweep).command
        write_convergence(rows, folder, TableNotes(args.sweep, command), args.baseline)
    console.print("written:", markup=False)
    for path in sorted(folder.iterdir()):
        console.print(f"  {path}", markup=False, soft_wrap=True)
    return 0
