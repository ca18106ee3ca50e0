"""The end of a call: table, figures, the tracker's last word, and an exit code that tells the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from ssvae.sweep import publish
from ssvae.sweep.console import print_problems
from ssvae.sweep.record import CellRecord
from ssvae.sweep.tracking import Tracking


def finish(root: Path, name: str, records: Sequence[CellRecord], tracking: Tracking, console: Console) -> int:
    """Report what is there; returns 0 where every cell is finished, else 1."""
    for index, record in enumerate(records):
        if (figures := publish.cell_figures(root, name, record)) is not None:
            tracking.artifacts(index, figures)
    try:
        folder = publish.report(root, name, console)
    except ValueError as error:
        print_problems([str(error)], "the cells are done, their table could not be written:")
        tracking.finish("FAILED")
        return 1
    bad = [record for record in records if record.status != "finished"]
    tracking.report(folder)
    tracking.finish("FAILED" if bad else "FINISHED")
    for line in tracking.problems():
        console.print(line, style="yellow", markup=False, soft_wrap=True)
    places = f"results: {folder}\nrun folders: {root / 'runs'}\nMLflow: {tracking.place}"
    console.print(places, markup=False, highlight=False, soft_wrap=True)
    for record in bad:
        # Reasons quote others: a library's "[/path/to/pair.cc:537]" is no markup.
        console.print(f"[red]{record.status}:[/] {escape(f'{record.label}: {record.reason}')}", soft_wrap=True)
    return 1 if bad else 0
