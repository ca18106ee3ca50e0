"""The files of a search in ``results/<sweep>/``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ssvae.core.files import write_text
from ssvae.report.collect import CellRow
from ssvae.report.figures import save_figure
from ssvae.report.pareto import Search
from ssvae.report.pareto_figure import search_figure
from ssvae.report.pareto_table import trials_csv, trials_markdown


def write_search(search: Search, rows: Sequence[CellRow], folder: Path) -> list[Path]:
    """Write trials.csv, trials.md and pareto.png (history.png for one objective); returns their paths.

    rows: the sweep's cells, for units. Equal trials give equal bytes.
    """
    figure, stale = ("pareto.png", "history.png") if len(search.goals) > 1 else ("history.png", "pareto.png")
    paths = [folder / name for name in ("trials.csv", "trials.md", figure)]
    write_text(paths[0], trials_csv(search))
    write_text(paths[1], trials_markdown(search))
    save_figure(search_figure(search, rows), paths[2])
    (folder / stale).unlink(missing_ok=True)
    return paths
